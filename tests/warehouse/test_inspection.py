"""The proposed mapping, and that the settings written from it work unchanged."""

import random
import re
from datetime import date, datetime, timedelta

import duckdb
import pytest

from flows.settings import Settings
from warehouse.connection import Lake, WarehouseSettings
from warehouse.errors import SettingsError, SourceError
from warehouse.inspection import inspect_source, write_config
from warehouse.proposal import extra_name
from warehouse.rules import ValidationSettings
from warehouse.source import ColumnMapping, read_day
from warehouse.source_files import dated_path, dates_in_path
from warehouse.staging import stage_day

KEY = {
    "NIGHTWARDEN_PSEUDONYM_KEY": "0123456789abcdef",
    "NIGHTWARDEN_WEBHOOK_SECRET": "fedcba9876543210",
}
SPARKOV = (
    "trans_date_trans_time,cc_num,merchant,category,amt,first,last,gender,street,city,zip,lat,"
    "long,city_pop,job,dob,trans_num,unix_time,merch_lat,merch_long,is_fraud"
)


def card_number(seed):
    digits = [4, *random.Random(seed).choices(range(10), k=14)]  # noqa: S311 - test data
    doubled = [2 * d if i % 2 == 0 else d for i, d in enumerate(digits)]
    total = sum(d // 10 + d % 10 for d in doubled)
    return "".join(map(str, digits)) + str(-total % 10)


def write_sparkov(file, n_rows=300, start=datetime(2019, 1, 1)):  # noqa: DTZ001 - as in the file
    lines = [SPARKOV]
    for i in range(n_rows):
        when = start + timedelta(minutes=31 * i)
        place = f"{40 + i % 9}.5,{-80 - i % 9}.25"
        lines.append(
            f'{when},{card_number(i % 20)},"fraud_Kirlin, Ltd {i % 30}",grocery,{i % 90 + 1}.07,'
            f"Ann,Lee,F,1 Main St,Rome,{10000 + i % 20},{place},4000,Nurse,1988-03-09,"
            f"{i:032x},{1325376018 + 1860 * i},{place},{int(i % 50 == 0)}"
        )
    file.write_text("\n".join(lines) + "\n")


def write_handbook(folder, n_days=3, name="{:%Y-%m-%d}.parquet"):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(n_days):
        day = date(2018, 4, 1) + timedelta(days=number)
        file = folder / name.format(day)
        file.parent.mkdir(parents=True, exist_ok=True)
        rows = duckdb.sql(
            "SELECT $number * 1000 + i AS TRANSACTION_ID, "
            "$day::TIMESTAMP + to_minutes(i::INT) AS TX_DATETIME, i % 50 AS CUSTOMER_ID, "
            "i % 70 AS TERMINAL_ID, i / 7 + 1.5 AS TX_AMOUNT, i * 60 AS TX_TIME_SECONDS, "
            "(i % 40 = 0)::INT AS TX_FRAUD, i % 4 AS TX_FRAUD_SCENARIO FROM range(400) r(i)",
            params={"number": number, "day": day},
        )
        rows.write_parquet(str(file))


def write_german(folder, n_days=1, encoding="utf-8"):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(n_days):
        day = date(2018, 4, 30) + timedelta(days=number)
        lines = ["Vorgangsnummer;Datum;Uhrzeit;Konto;Händler;Betrag;Kanal"]
        lines += [
            f"{number}-{i};{day:%d.%m.%Y};{i % 24:02}:07:31;K{i % 9};Café {i % 7};"
            f"{i % 3}.{i % 900 + 100},{i % 90 + 10};{'web' if i % 2 else 'pos'}"
            for i in range(120)
        ]
        file = folder / f"umsatz_{day:%Y%m%d}.csv"
        file.write_bytes(("\n".join(lines) + "\n").encode(encoding))


def written(proposal, folder):
    file = folder / "nightwarden.toml"
    file.write_text(write_config(proposal, folder=folder), encoding="utf-8")
    return Settings.read(file, KEY)


def staged(settings, day, tmp_path):
    """Read and stage a day as the nightly run does: the number of rows, and the broken rules."""
    with Lake.open(WarehouseSettings(path=tmp_path / "lake-of-test")) as lake:
        read_day(lake.connection, settings.source, day, settings.pseudonym_key)
        stage_day(lake.connection, settings.source, ValidationSettings(), day)
        return lake.connection.execute(
            "SELECT count(*), list(DISTINCT rule) FILTER (rule IS NOT NULL), "
            "min(amount), any_value(event_date) FROM checked"
        ).fetchone()


def assert_day_is_whole(settings, day, tmp_path, n_rows):
    count, broken, low, found = staged(settings, day, tmp_path)
    assert (count, broken, found) == (n_rows, None, day)
    assert low > 0


def test_handbook_parquet_needs_no_help(tmp_path):
    write_handbook(tmp_path / "in")
    proposal = inspect_source(str(tmp_path / "in" / "*.parquet"))
    assert proposal.columns == {
        "transaction_id": "TRANSACTION_ID",
        "occurred_at": "TX_DATETIME",
        "account_id": "CUSTOMER_ID",
        "merchant_id": "TERMINAL_ID",
        "amount": "TX_AMOUNT",
    }
    assert proposal.label == ("TX_FRAUD", 7)
    assert proposal.drop == ("TX_FRAUD_SCENARIO",)
    assert (proposal.first_day, proposal.last_day) == (date(2018, 4, 1), date(2018, 4, 3))
    assert any("delay_days" in note for note in proposal.notes)
    settings = written(proposal, tmp_path)
    assert 'path = "in/{date}.parquet"' in (tmp_path / "nightwarden.toml").read_text()
    assert_day_is_whole(settings, date(2018, 4, 2), tmp_path, 400)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("tx_{0:%Y%m%d}.parquet", "tx_{date:%Y%m%d}.parquet"),
        ("date={0:%Y-%m-%d}/part-0.parquet", "date={date}/part-0.parquet"),
        ("{0:%Y/%m/%d}/tx.parquet", "{date:%Y/%m/%d}/tx.parquet"),
        ("{0:%Y_%m_%d}/tx-{0:%Y-%m-%d}.parquet", "{date:%Y_%m_%d}/tx-{date}.parquet"),
        ("tx_{0:%Y%m%d}_{0:%j}.parquet", "tx_{date:%Y%m%d}_*.parquet"),
        ("{{eu}}_{0:%Y-%m-%d}.parquet", "{{eu}}_{date}.parquet"),
    ],
    ids=["compact", "hive", "folders", "twice", "counter", "braces"],
)
def test_date_in_a_path_becomes_a_placeholder(tmp_path, name, path):
    write_handbook(tmp_path / "in", name=name)
    proposal = inspect_source(str(tmp_path / "in"))
    assert proposal.path == f"{tmp_path}/in/{path}"
    assert proposal.date_column is None
    assert_day_is_whole(written(proposal, tmp_path), date(2018, 4, 3), tmp_path, 400)


def test_date_of_delivery_in_the_name_is_not_the_day(tmp_path):
    write_handbook(tmp_path / "in", n_days=1, name="export_2019-01-05.parquet")
    proposal = inspect_source(str(tmp_path / "in" / "*.parquet"))
    assert proposal.date_column == "TX_DATETIME"
    assert "{date" not in proposal.path
    assert any("not the day" in note for note in proposal.notes)
    assert_day_is_whole(written(proposal, tmp_path), date(2018, 4, 1), tmp_path, 400)


def test_dates_of_file_and_folder_may_differ():
    files = ["/run_2018-04-02/tx_2018-04-01.csv", "/run_2018-04-03/tx_2018-04-02.csv"]
    days = {file: dates_in_path(file)[1][2] for file in files}
    path, first, last = dated_path(files, days)
    assert path == "/run_2018-04-*/tx_{date}.csv"
    assert (first, last) == (date(2018, 4, 1), date(2018, 4, 2))


def test_sparkov_csv_hides_people_and_takes_text_times(tmp_path):
    write_sparkov(tmp_path / "fraudTrain.csv")
    proposal = inspect_source(str(tmp_path / "fraudTrain.csv"))
    assert proposal.columns == {
        "transaction_id": "trans_num",
        "occurred_at": "trans_date_trans_time",
        "account_id": "cc_num",
        "merchant_id": "merchant",
        "amount": "amt",
        "category": "category",
        "latitude": "lat",
        "longitude": "long",
        "merchant_latitude": "merch_lat",
        "merchant_longitude": "merch_long",
    }
    assert proposal.label == ("is_fraud", 7)
    assert proposal.pseudonymise == ("cc_num",)
    assert set(proposal.drop) == {"first", "last", "street", "dob"}
    assert proposal.date_column == "trans_date_trans_time"
    assert (proposal.first_day, proposal.last_day) == (date(2019, 1, 1), date(2019, 1, 7))
    text = write_config(proposal, folder=tmp_path)
    assert card_number(0) not in text
    assert "1988-03-09" not in text
    settings = written(proposal, tmp_path)
    assert_day_is_whole(settings, date(2019, 1, 1), tmp_path, 47)
    assert_day_is_whole(settings, date(2019, 1, 7), tmp_path, 21)


def test_pandas_index_without_a_name_is_seen_as_column0(tmp_path):
    file = tmp_path / "tx.csv"
    write_sparkov(file, 60)
    lines = file.read_text().splitlines()
    file.write_text("\n".join(["," + lines[0], *(f"{i},{x}" for i, x in enumerate(lines[1:]))]))
    proposal = inspect_source(str(file))
    assert "column0" in proposal.seen
    assert proposal.columns["transaction_id"] == "trans_num"
    assert_day_is_whole(written(proposal, tmp_path), date(2019, 1, 1), tmp_path, 47)


def test_paysim_has_no_time_and_no_id(tmp_path):
    file = tmp_path / "paysim.csv"
    rows = [f"{i},PAYMENT,{i}.5,C{i % 5},M{i % 3},{i % 2}" for i in range(50)]
    file.write_text("\n".join(["step,type,amount,nameOrig,nameDest,isFraud", *rows]))
    with pytest.raises(SourceError, match="--map transaction_id=YOUR_COLUMN") as caught:
        inspect_source(str(file))
    message = str(caught.value)
    assert "looks like transaction_id, occurred_at;" in message
    assert re.search(r"step  VARCHAR  \d+", message)
    proposal = inspect_source(
        str(file),
        {
            "transaction_id": "sql: step || nameOrig",
            "occurred_at": "sql: TIMESTAMP '2018-01-01' + to_hours(step::INT)",
        },
    )
    assert proposal.columns["account_id"] == "nameOrig"
    assert proposal.last_day == date(2018, 1, 3)
    assert_day_is_whole(written(proposal, tmp_path), date(2018, 1, 1), tmp_path, 24)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "utf-16"])
def test_german_csv_is_read_with_expressions(tmp_path, encoding):
    write_german(tmp_path / "in", 2, encoding)
    proposal = inspect_source(str(tmp_path / "in"))
    assert (proposal.delimiter, proposal.encoding) == (";", encoding)
    text = '"Datum" || \' \' || "Uhrzeit"'
    assert proposal.columns["occurred_at"] == f"sql: strptime({text}, '%d.%m.%Y %H:%M:%S')"
    amount = "sql: replace(replace(\"Betrag\", '.', ''), ',', '.')::DOUBLE"
    assert proposal.columns["amount"] == amount
    assert proposal.columns["merchant_id"] == "Händler"
    assert proposal.path.endswith("/umsatz_{date:%Y%m%d}.csv")
    assert proposal.label is None
    settings = written(proposal, tmp_path)
    assert settings.source.label is None
    assert_day_is_whole(settings, date(2018, 4, 30), tmp_path, 120)


@pytest.mark.parametrize(
    ("times", "format_", "day"),
    [
        (["03/31/2018 23:59", "04/01/2018 00:10"], "%m/%d/%Y %H:%M", date(2018, 4, 1)),
        (["03/04/2018 23:59", "04/04/2018 00:10"], "%d/%m/%Y %H:%M", date(2018, 4, 4)),
        (["1 Apr 2018 11:59:00 PM", "2 Apr 2018 1:10:00 AM"], "%d %b %Y", date(2018, 4, 2)),
        (["20180401235900", "20180402001000"], "%Y%m%d%H%M%S", date(2018, 4, 2)),
        (["1522627140", "1522627800"], "to_timestamp", date(2018, 4, 2)),
        (["1522627140000", "1522627800000"], "/ 1e3", date(2018, 4, 2)),
        (["2018-04-01T23:59:00Z", "2018-04-02T00:10:00Z"], "date_column", date(2018, 4, 2)),
        (["2018-04-01T23:59:00-05:00", "2018-04-01T23:59:00-03:00"], "zone", date(2018, 4, 2)),
    ],
    ids=["us", "by-span", "month-name", "digits", "epoch", "epoch-ms", "zulu", "offset"],
)
def test_times_of_text_files(tmp_path, times, format_, day):
    rows = [f"{i},{time},a{i},m{i},{i + 1}.5" for i, time in enumerate(times)]
    (tmp_path / "tx.csv").write_text("\n".join(["id,timestamp,account,merchant,amount", *rows]))
    proposal = inspect_source(str(tmp_path / "tx.csv"))
    assert format_ in write_config(proposal, folder=tmp_path)
    n_rows = 2 if format_ == "zone" else 1
    assert_day_is_whole(written(proposal, tmp_path), day, tmp_path, n_rows)


@pytest.mark.parametrize(
    ("amounts", "expected"),
    [
        (["12.50", "3"], [12.5, 3]),
        (['"1,234.50"', "12.50"], [1234.5, 12.5]),
        (['"12,50"', '"1.000,25"'], [12.5, 1000.25]),
        (["$12.50", '"$1,000.25"'], [12.5, 1000.25]),
        (['"12,50 €"', '"1.000,25 €"'], [12.5, 1000.25]),
        (["-12.50", "-3.00"], [12.5, 3]),
    ],
    ids=["plain", "thousands", "comma", "dollar", "euro", "negative"],
)
def test_amounts_of_text_files(tmp_path, amounts, expected):
    rows = [f"{i},2018-04-01 0{i}:10,a{i},m{i},{a}" for i, a in enumerate(amounts)]
    (tmp_path / "tx.csv").write_text("\n".join(["id,ts,account,merchant,amount", *rows]))
    settings = written(inspect_source(str(tmp_path / "tx.csv")), tmp_path)
    with Lake.open(WarehouseSettings(path=tmp_path / "lake-of-test")) as lake:
        read_day(lake.connection, settings.source, date(2018, 4, 1), None)
        stage_day(lake.connection, settings.source, ValidationSettings(), date(2018, 4, 1))
        found = lake.connection.execute("SELECT amount FROM checked ORDER BY _row").fetchall()
    assert [row[0] for row in found] == expected


def test_overrides_win_and_extra_columns_are_kept(tmp_path):
    write_handbook(tmp_path / "in")
    chosen = {
        "merchant_id": "customer_id",
        "account_id": "sql: TERMINAL_ID + 1",
        "extra.seconds": "TX_TIME_SECONDS",
        "extra.scenario": "TX_FRAUD_SCENARIO",
    }
    proposal = inspect_source(str(tmp_path / "in" / "*.parquet"), chosen)
    assert proposal.columns["merchant_id"] == "CUSTOMER_ID"
    assert proposal.columns["account_id"] == "sql: TERMINAL_ID + 1"
    assert proposal.extra["seconds"] == ("TX_TIME_SECONDS", "numeric")
    assert proposal.drop == ()
    settings = written(proposal, tmp_path)
    assert set(settings.source.extra) == {"seconds", "scenario"}
    assert_day_is_whole(settings, date(2018, 4, 1), tmp_path, 400)


@pytest.mark.parametrize(
    ("chosen", "match"),
    [
        ({"amuont": "TX_AMOUNT"}, "did you mean amount"),
        ({"amount": "TX_AMONT"}, "did you mean TX_AMOUNT"),
        ({"extra.Bad Name": "TX_AMOUNT"}, "extra.your_name"),
        ({"extra.amount": "TX_AMOUNT"}, "extra.your_name"),
        ({"extra.event_date": "TX_AMOUNT"}, "extra.your_name"),
        ({"amount": "sql: nothing + 1"}, "columns are TRANSACTION_ID"),
        ({"occurred_at": "CUSTOMER_ID"}, "expected times"),
        ({"label": "TX_FRAUD_SCENARIO"}, "expected 0/1"),
        ({"transaction_id": "CUSTOMER_ID"}, "differ in every row"),
    ],
)
def test_wrong_overrides_are_refused(tmp_path, chosen, match):
    write_handbook(tmp_path / "in", n_days=1)
    with pytest.raises(SettingsError, match=match):
        inspect_source(str(tmp_path / "in"), chosen)


def test_sources_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(SourceError, match="no file matches"):
        inspect_source(str(tmp_path / "*.csv"))
    with pytest.raises(SourceError, match="holds no data"):
        inspect_source(str(tmp_path))
    (tmp_path / "a.parquet").write_text("not parquet")
    with pytest.raises(SourceError, match="PAR1"):
        inspect_source(str(tmp_path))
    (tmp_path / "a.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(SourceError, match="cannot be read as parquet"):
        inspect_source(str(tmp_path))
    (tmp_path / "b.csv").write_text("id,ts,account,merchant,amount\n")
    with pytest.raises(SourceError, match="name one kind"):
        inspect_source(str(tmp_path))
    with pytest.raises(SourceError, match="no rows"):
        inspect_source(str(tmp_path / "b.csv"))
    (tmp_path / "b.csv").write_text("id,Id,amount\n1,2,3\n")
    with pytest.raises(SourceError, match="Duplicate"):
        inspect_source(str(tmp_path / "b.csv"))
    (tmp_path / "c.csv.gz").write_bytes(b"\x1f\x8b\x08\x00")
    with pytest.raises(SourceError, match="unpack it"):
        inspect_source(str(tmp_path / "c.csv.gz"))


def switched_on(text):
    """Take the # from every line that shows a key or a table."""
    return re.sub(r"^#(?=[a-z_\[])", "", text, flags=re.MULTILINE)


def test_config_names_every_key_and_its_defaults_are_the_models(tmp_path):
    write_handbook(tmp_path / "in", n_days=1)
    text = write_config(inspect_source(str(tmp_path / "in")), folder=tmp_path)
    shown = switched_on(text)
    sections = {name: f.annotation for name, f in Settings.model_fields.items() if name in shown}
    models = [m for m in sections.values() if hasattr(m, "model_fields")]
    assert len(models) == 11
    assert len(models[0].model_fields) > 10
    fields = [(key, field) for model in models for key, field in model.model_fields.items()]
    for key in [*ColumnMapping.model_fields, *(key for key, field in fields if not field.exclude)]:
        assert re.search(rf"^(\[(source|train)\.)?{key}( = |\])", shown, flags=re.MULTILINE), key
    (tmp_path / "nightwarden.toml").write_text(shown)
    read = Settings.read(tmp_path / "nightwarden.toml", KEY)
    (tmp_path / "nightwarden.toml").write_text(text)
    default = Settings.read(tmp_path / "nightwarden.toml", KEY)
    for name in ("validation", "evaluate", "promotion", "run"):
        assert getattr(read, name) == getattr(default, name)
    own = {"catalog": None, "data": None}
    assert read.warehouse.model_copy(update=own) == default.warehouse
    assert default.mlflow.tracking_uri is None is not read.mlflow.tracking_uri
    assert read.labels.mature_after_days == 30
    none = dict.fromkeys(("database", "false_positives", "least_score", "review_cost"))
    assert read.queue.model_copy(update=none) == default.queue
    trees = default.train.ensemble.model_copy(update={"features": read.train.ensemble.features})
    same = {"features": read.train.features, "members": read.train.members, "ensemble": trees}
    assert default.train.model_copy(update=same) == read.train


@pytest.mark.parametrize(
    "write", [write_german, lambda f: f.mkdir() or write_sparkov(f / "a.csv")]
)
def test_config_of_csv_is_valid_with_everything_switched_on(tmp_path, write):
    write(tmp_path / "in")
    text = write_config(inspect_source(str(tmp_path / "in")), folder=tmp_path)
    (tmp_path / "nightwarden.toml").write_text(switched_on(text))
    settings = Settings.read(tmp_path / "nightwarden.toml", KEY)
    assert settings.source.label is not None
    assert settings.source.extra


def test_source_outside_the_folder_keeps_its_absolute_path(tmp_path):
    write_handbook(tmp_path / "in [1]", n_days=1)
    proposal = inspect_source(str(tmp_path / "in [1]"))
    project = tmp_path / "project"
    project.mkdir()
    settings = written(proposal, project)
    assert settings.source.path == f"{tmp_path}/in [[]1]/{{date}}.parquet"
    assert_day_is_whole(settings, date(2018, 4, 1), tmp_path, 400)


def test_extra_names_are_free_and_plain():
    assert extra_name("Größe!", {"gr_e"}) == "gr_e_2"
    assert extra_name("3ds", ()) == "column_3ds"
