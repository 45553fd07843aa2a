"""Private columns: replaced or gone before anything is written, and never forgotten."""

import hashlib
import hmac
import os
import random

import duckdb
import pytest

from tests.services import on_both_back_ends
from warehouse.errors import SettingsError, SourceError
from warehouse.privacy import PseudonymKey, card_number_columns, record_key, require_same_key

SECRET = b"0123456789abcdef0123456789abcdef"


def card_number(seed, digits=16):
    """Make a number with Luhn's check digit."""
    draw = random.Random(seed)  # noqa: S311 (test data)
    body = "4" + "".join(draw.choice("0123456789") for _ in range(digits - 2))
    doubled = [int(d) * (2 - i % 2) for i, d in enumerate(reversed(body))]
    total = sum(d // 10 + d % 10 for d in doubled)
    return body + str(-total % 10)


def contents(file):
    """Give a file's bytes, and what a Parquet file holds, which may be compressed."""
    if file.suffix != ".parquet":
        return file.read_bytes()
    with duckdb.connect() as connection:
        rows = connection.execute("SELECT t::VARCHAR FROM read_parquet(?) AS t", [str(file)])
        return file.read_bytes() + "\n".join(row[0] for row in rows.fetchall()).encode()


def with_cards(rows):
    return [row | {"card": card_number(n % 40)} for n, row in enumerate(rows)]


@pytest.mark.parametrize(
    "text", ["4111111111111111", "Müller 🙂", "a" * 200, "it's", "x\ny"], ids=range(5)
)
@pytest.mark.parametrize("secret", [SECRET, b"k" * 16, b"k" * 64], ids=["32", "16", "64"])
def test_pseudonym_equals_hmac_sha256(text, secret):
    with duckdb.connect() as connection:
        expression = PseudonymKey(secret).expression(connection, '"card"')
        found = connection.execute(f"SELECT {expression} FROM (SELECT ? AS card)", [text])
        assert found.fetchone() == (hmac.new(secret, text.encode(), hashlib.sha256).hexdigest(),)


def test_pseudonym_of_nothing_is_nothing():
    with duckdb.connect() as connection:
        expression = PseudonymKey(SECRET).expression(connection, '"card"')
        found = connection.execute(f"SELECT {expression} FROM (SELECT NULL::VARCHAR AS card)")
        assert found.fetchone() == (None,)


def test_key_never_shows():
    key = PseudonymKey(SECRET)
    with duckdb.connect() as connection:
        expression = key.expression(connection, '"card"')
    assert SECRET.decode() not in repr(key) + expression


@pytest.mark.parametrize("secret", ["short", "x" * 65])
def test_key_of_a_wrong_length_is_refused(tmp_path, secret):
    with pytest.raises(SettingsError, match=rf"must have 16 to 64 bytes, got {len(secret)}; make"):
        PseudonymKey.read(tmp_path / "none", secret)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_key_file_that_others_may_read_is_refused(tmp_path, mode):
    file = tmp_path / "nightwarden.key"
    PseudonymKey.make(file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert PseudonymKey.read(file, None) is not None
    file.chmod(mode)
    with pytest.raises(SettingsError, match=r"run chmod 600 .*nightwarden.key"):
        PseudonymKey.read(file, None)


def test_key_comes_from_the_environment_first(tmp_path):
    file = tmp_path / "nightwarden.key"
    PseudonymKey.make(file)
    assert PseudonymKey.read(file, SECRET.decode() + "\n") == PseudonymKey(SECRET)
    assert PseudonymKey.read(tmp_path / "none", None) is None


def test_card_number_is_in_no_file_of_the_warehouse(landing):
    """Published rows, quarantine, rejected lines, pages: the plain number is nowhere."""
    rows = with_cards(landing.rows())
    rows[5]["amount"] = "-1"
    rows[6]["time"] = ""
    rows[7]["id"] = rows[8]["id"]
    file = landing.write(rows)
    file.write_text(file.read_text() + f"{card_number(99)},too,few\n")
    landing.key = PseudonymKey(SECRET)
    columns = landing.columns | {"account_id": "card"}
    report = landing.land(pseudonymise=["card"], columns=columns)
    assert report.rows_quarantined == 4
    landing.close()
    del landing.lake
    numbers = {card_number(n).encode() for n in [*range(40), 99]}
    files = [path for path in landing.folder.rglob("*") if path.is_file() and path != file]
    assert len(files) >= 4  # catalog, page, transactions, quarantine
    assert not [path for path in files if any(number in contents(path) for number in numbers)]
    expected = {hmac.new(SECRET, n, hashlib.sha256).hexdigest() for n in numbers}
    found = {row[0] for row in landing.fetch("SELECT account_id FROM lake.transactions")}
    assert found < expected
    raw = landing.fetch("SELECT raw->>'card' FROM lake.quarantine WHERE rule <> 'line_unreadable'")
    assert {row[0] for row in raw} < expected


def test_dropped_column_is_nowhere(landing):
    rows = [row | {"Name": f"Ada {n} Lovelace"} for n, row in enumerate(landing.rows())]
    rows[5]["amount"] = "-1"
    file = landing.write(rows)
    landing.land(drop=["name"])  # source columns are found whatever their case
    landing.close()
    del landing.lake
    files = [path for path in landing.folder.rglob("*") if path.is_file() and path != file]
    assert not [path for path in files if b"Lovelace" in contents(path)]
    assert landing.quarantined() == 1
    assert "Lovelace" not in landing.fetch("SELECT raw FROM lake.quarantine")[0][0]


def test_pseudonymise_finds_a_column_whatever_its_case(landing):
    landing.write(with_cards(landing.rows()))
    landing.key = PseudonymKey(SECRET)
    connection, batch = landing.read(pseudonymise=["CARD"])
    assert list(batch.types)[-1] == "card"
    assert len(connection.execute("SELECT card FROM raw").fetchone()[0]) == 64


@pytest.mark.parametrize("setting", ["pseudonymise", "drop"])
def test_private_column_that_does_not_exist_is_refused(landing, setting):
    landing.write(with_cards(landing.rows()))
    landing.key = PseudonymKey(SECRET)
    with pytest.raises(SourceError, match=r"has no column 'cart'.*did it become 'card'"):
        landing.read(**{setting: ["cart"]})


def test_pseudonymise_without_a_key_is_refused(landing):
    landing.write(with_cards(landing.rows()))
    with pytest.raises(SettingsError, match="needs a key: set NIGHTWARDEN_PSEUDONYM_KEY"):
        landing.read(pseudonymise=["card"])


@pytest.mark.parametrize("mark", ["", " ", "-"], ids=["plain", "spaces", "hyphens"])
@pytest.mark.parametrize("digits", [13, 16, 19])
def test_card_numbers_in_the_clear_are_refused(landing, mark, digits):
    rows = landing.rows()
    for n, row in enumerate(rows):
        number = card_number(n, digits)
        row["card"] = mark.join(number[i : i + 4] for i in range(0, digits, 4))
    landing.write(rows)
    landing.key = PseudonymKey(SECRET)
    line = r'column card holds card numbers in the clear; add .*pseudonymise = \["card"\]'
    with pytest.raises(SourceError, match=line):
        landing.read()
    assert landing.read(pseudonymise=["card"])[1].n_rows == 200
    assert landing.read(drop=["card"])[1].n_rows == 200


@pytest.mark.parametrize("kind", ["BIGINT", "VARCHAR", "DOUBLE", "DECIMAL(18,0)"])
def test_card_numbers_in_parquet_are_refused(landing, kind):
    numbers = ", ".join(f"('{card_number(n)}'::{kind})" for n in range(100))
    landing.write_parquet(
        "SELECT number AS card, 't' || number::VARCHAR AS id, DATE '2026-01-15' AS time, "
        f"'a' AS account, 's' AS shop, 1 AS amount FROM (VALUES {numbers}) AS t(number)"
    )
    with pytest.raises(SourceError, match="column card holds card numbers"):
        landing.read()


@pytest.mark.parametrize(
    "value",
    ["i", "1000000000000000 + i", "4000000000000 + 7 * i", "uuid()", "'4111-' || i", "i / 7"],
)
def test_ordinary_ids_are_no_card_numbers(value):
    with duckdb.connect() as connection:
        connection.execute(
            f"CREATE TABLE raw AS SELECT {value} AS id, i AS _row FROM range(20000) r(i)"
        )
        assert card_number_columns(connection, "raw", ["id"]) == []


def test_a_few_card_numbers_among_empty_values_are_found():
    numbers = ", ".join(f"('{card_number(n)}', {n})" for n in range(10))
    with duckdb.connect() as connection:
        connection.execute(
            f"CREATE TABLE raw AS SELECT * FROM (VALUES {numbers}) AS t(card, _row) "
            "UNION ALL SELECT NULL, i FROM range(10, 500) r(i)"
        )
        assert card_number_columns(connection, "raw", ["card"]) == ["card"]
        assert card_number_columns(connection, "raw", []) == []


def test_key_file_exists_already(tmp_path):
    file = tmp_path / "nightwarden.key"
    PseudonymKey.make(file)
    text = file.read_text()
    with pytest.raises(FileExistsError):
        PseudonymKey.make(file)
    assert file.read_text() == text
    assert os.stat(file).st_mode & 0o077 == 0  # noqa: PTH116 (the mode alone)


@on_both_back_ends
def test_another_key_is_refused_once_anything_was_published(landing):
    """A wrong first key, with which nothing was published, keeps the right one out of nothing."""
    landing.write([{"other": 1}])
    landing.key = PseudonymKey(b"a" * 32)
    with pytest.raises(SourceError):
        landing.land(pseudonymise=["card"])
    landing.write(with_cards(landing.rows()))
    landing.key = PseudonymKey(SECRET)
    landing.land(pseudonymise=["card"])
    before = landing.fetch("SELECT * FROM lake.pseudonym_keys")
    assert [row[0] for row in before] == [landing.key.fingerprint()]
    landing.land(pseudonymise=["card"], force=True)
    landing.key = PseudonymKey(b"b" * 32)
    with pytest.raises(SettingsError, match="restore the old key"):
        landing.land(pseudonymise=["card"], force=True)
    assert landing.fetch("SELECT * FROM lake.pseudonym_keys") == before


@on_both_back_ends
def test_of_two_hosts_with_different_keys_one_publishes(landing):
    """Both read before either had published: the later one is refused as it commits."""
    first, second = PseudonymKey(b"a" * 32), PseudonymKey(b"b" * 32)
    require_same_key(landing.lake, second)
    with landing.lake.commit():
        record_key(landing.lake, first)
    with pytest.raises(SettingsError, match="restore the old key"), landing.lake.commit():
        record_key(landing.lake, second)
    found = landing.fetch("SELECT fingerprint FROM lake.pseudonym_keys")
    assert found == [(first.fingerprint(),)]


def test_key_that_an_earlier_version_noted_in_a_file_still_holds(landing):
    landing.lake.close()
    del landing.lake
    file = landing.warehouse.lake_folder / "pseudonym-key.fingerprint"
    file.write_text(PseudonymKey(b"a" * 32).fingerprint())
    landing.write(with_cards(landing.rows()))
    landing.key = PseudonymKey(SECRET)
    with pytest.raises(SettingsError, match="restore the old key"):
        landing.land(pseudonymise=["card"])
    landing.key = PseudonymKey(b"a" * 32)
    assert landing.land(pseudonymise=["card"]).rows_published == 200
    assert not file.exists()


def test_blank_and_padded_ids_get_no_pseudonym_of_their_own():
    with duckdb.connect() as connection:
        expression = PseudonymKey(b"a" * 32).expression(connection, "x")
        rows = connection.execute(
            f"SELECT {expression} FROM (VALUES ('12'), (' 12 '), (' '), (NULL)) t(x)"
        ).fetchall()
    assert rows[0] == rows[1] != (None,)
    assert rows[2] == rows[3] == (None,)
