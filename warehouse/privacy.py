"""Personal data at the door: keyed pseudonyms, and card numbers that nobody declared."""

import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import duckdb

from warehouse.connection import Lake, quote_name
from warehouse.errors import SettingsError

BLOCK_BYTES = 64  # of SHA-256, as HMAC pads the key (RFC 2104)
MIN_KEY_BYTES = 16
CHECKED_ROWS = 10_000
CARD_SHARE = 0.5


@dataclass(frozen=True, repr=False)
class PseudonymKey:
    """A secret that turns ids into pseudonyms with HMAC-SHA256, inside SQL.

    Source: Krawczyk et al., 1997, RFC 2104: ``H(key ^ opad, H(key ^ ipad, text))``.
    """

    secret: bytes

    def __post_init__(self) -> None:
        """Refuse a short key."""
        if not MIN_KEY_BYTES <= len(self.secret) <= BLOCK_BYTES:
            message = (
                f"the pseudonym key must have {MIN_KEY_BYTES} to {BLOCK_BYTES} bytes, "
                f"got {len(self.secret)}; make one: python -c "
                "'import secrets; print(secrets.token_hex(16))'"
            )
            raise SettingsError(message)

    @classmethod
    def read(cls, file: Path, environment: str | None) -> Self | None:
        """Take the key from the environment's value, else from the file; None if there is neither.

        Raises:
            SettingsError: if others than the owner may read the file.
        """
        if environment is not None:
            return cls(environment.strip().encode())
        if not file.exists():
            return None
        mode = stat.S_IMODE(file.stat().st_mode)
        if mode & 0o077:
            message = f"only its owner may read the key file: run chmod 600 {file}"
            raise SettingsError(message)
        try:
            return cls(file.read_text().strip().encode())
        except (OSError, UnicodeError) as error:
            message = f"the key file {file} cannot be read; restore it from your backup"
            raise SettingsError(message) from error

    def fingerprint(self) -> str:
        """Give what tells this key from others without telling the key."""
        return hmac.new(self.secret, b"nightwarden", hashlib.sha256).hexdigest()

    @classmethod
    def make(cls, file: Path) -> Self:
        """Write a new random key to a file that only its owner may read, and give it."""
        text = secrets.token_hex(32)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(text + "\n")
        return cls(text.encode())

    def expression(self, connection: duckdb.DuckDBPyConnection, column: str) -> str:
        """Write the SQL that gives a quoted column's pseudonym: 64 hexadecimal digits.

        The padded keys travel as variables of the connection, so that no statement, and so no
        error message, ever holds them.
        """
        padded = self.secret.ljust(BLOCK_BYTES, b"\0")
        inner, outer = (bytes(byte ^ mask for byte in padded) for mask in (0x36, 0x5C))
        connection.execute("SET VARIABLE pseudonym_inner = ?", [inner])
        connection.execute("SET VARIABLE pseudonym_outer = ?", [outer])
        text = f"encode(nullif(trim(CAST({column} AS VARCHAR)), ''))"
        inside = f"unhex(sha256(getvariable('pseudonym_inner') || {text}))"
        return f"sha256(getvariable('pseudonym_outer') || {inside})"


def require_same_key(lake: Lake, key: PseudonymKey) -> None:
    """Refuse another key than the one that the lake's pseudonyms were made with.

    Raises:
        SettingsError: if the lake holds another key's fingerprint.
    """
    row = lake.connection.execute("SELECT fingerprint FROM lake.pseudonym_keys").fetchone()
    if row and row[0] != key.fingerprint():
        message = (
            "the pseudonym key is not the one that this warehouse was begun with: every account "
            "would get another name and lose its history; restore the old key "
            "(NIGHTWARDEN_PSEUDONYM_KEY, else nightwarden.key)"
        )
        raise SettingsError(message)


def record_key(lake: Lake, key: PseudonymKey) -> None:
    """Record the key with the first pseudonyms; inside the commit that publishes them.

    Raises:
        SettingsError: if another key's pseudonyms were published meanwhile.
    """
    require_same_key(lake, key)
    lake.connection.execute(
        "INSERT INTO lake.pseudonym_keys SELECT ?, ? "
        "WHERE NOT EXISTS (SELECT 1 FROM lake.pseudonym_keys)",
        [key.fingerprint(), datetime.now(UTC)],
    )


def card_number_columns(
    connection: duckdb.DuckDBPyConnection, table: str, columns: Sequence[str]
) -> list[str]:
    """Find the columns of which most values are card numbers: 13 to 19 digits, Luhn-valid.

    Looks at every n-th row, about ten thousand of them, in one pass.

    Source: ISO/IEC 7812-1, annex B (Luhn's check digit).
    """
    if not columns:
        return []
    row = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    step = max(1, (int(row[0]) if row else 0) // CHECKED_ROWS)
    shares = ", ".join(f"avg({_is_card_number(quote_name(name))}::INT)" for name in columns)
    found = connection.execute(f"SELECT {shares} FROM {table} WHERE _row % {step} = 0").fetchone()
    return [
        name
        for name, share in zip(columns, found or (), strict=True)
        if share is not None and share > CARD_SHARE
    ]


def _is_card_number(column: str) -> str:
    # Whole numbers that were stored with decimals end in .0 or .00.
    digits = f"regexp_replace(CAST({column} AS VARCHAR), '[ -]|\\.0+$', '', 'g')"
    # Digits are counted from the right; every second one is doubled, its own digits summed.
    checksum = (
        "list_sum([CASE WHEN i % 2 = 1 THEN d ELSE 2 * d // 10 + 2 * d % 10 END "
        "for d, i in [CAST(c AS INT) for c in string_split(reverse(t), '')]])"
    )
    luhn = checksum.replace("(t)", f"({digits})")
    return (
        f"CASE WHEN {column} IS NULL THEN NULL "
        f"WHEN regexp_full_match({digits}, '[0-9]{{13,19}}') THEN {luhn} % 10 = 0 ELSE false END"
    )
