"""Guess what a source column means: from its name, and from what a sample of it holds.

The sample is a table ``sample``; CSV columns are texts there, as in the nightly run. A guess is an
expression as nightwarden.toml writes it: a column's name, or ``sql:`` and an expression.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import duckdb

from warehouse.connection import quote_name, quote_text
from warehouse.source import SQL_PREFIX

READABLE_SHARE = 0.98  # of a column's values; the rest goes to quarantine
INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT")
NUMBERS = (*INTEGERS, "UINTEGER", "UBIGINT", "UHUGEINT", "FLOAT", "DOUBLE", "DECIMAL")
PLAUSIBLE_YEARS = "BETWEEN 1970 AND 2100"

# Names without case and marks; tx stands for tx, txn, trx, trans and transaction.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "transaction_id": (
        *("txid", "txnum", "txno", "txnr", "txnumber", "txref", "txreference", "txuuid", "txkey"),
        *("paymentid", "referenceid", "reference", "eventid", "uuid", "guid", "id"),
        *("vorgangsnummer", "buchungsnummer", "umsatzid", "txhash"),
    ),
    "occurred_at": (
        *("occurredat", "txdatetime", "txdatetxtime", "txtimestamp", "txts", "timestamp"),
        *("datetime", "eventtime", "eventtimestamp", "eventts", "bookedat", "createdat", "ts"),
        *("txtime", "txdate", "txdt", "eventdate", "bookingdate", "date", "time", "buchungsdatum"),
        *("zeitstempel", "zeitpunkt", "datum", "created", "postedat", "txat", "unixtime", "epoch"),
    ),
    "account_id": (
        *("accountid", "customerid", "ccnum", "cardid", "cardnumber", "cardnum", "cardno", "pan"),
        *("account", "accountnumber", "accountno", "acctid", "acctnum", "acct", "nameorig"),
        *("userid", "clientid", "custid", "customer", "customernumber", "user", "client", "card"),
        *("payerid", "payer", "senderid", "sender", "iban", "debtor", "konto", "kontonummer"),
        *("kundennummer", "kunde", "kartennummer", "card1", "cardtoken", "accountfrom"),
    ),
    "merchant_id": (
        *("merchantid", "terminalid", "merchant", "merchantname", "namedest", "terminal"),
        *("payeeid", "payee", "merchantnumber", "merchantno", "mid", "tid", "shopid", "shop"),
        *("storeid", "store", "vendorid", "vendor", "beneficiaryid", "beneficiary", "receiverid"),
        *("receiver", "recipientid", "recipient", "creditor", "acceptorid", "haendler"),
        *("händler", "empfänger", "empfaenger", "counterparty", "counterpartyid", "accountto"),
    ),
    "amount": (
        *("txamount", "txamt", "amount", "amt", "txvalue", "value", "betrag", "umsatz", "sum"),
        *("amounteur", "amountusd", "amountgbp", "price", "total", "montant", "importe"),
        *("amountcents", "amountminor", "txamountcents", "txamountminor"),
    ),
    "label": (
        *("txfraud", "isfraud", "fraud", "fraudlabel", "fraudflag", "fraudind", "fraudindicator"),
        *("fraudbool", "fraudulent", "isfraudulent", "ischargeback", "chargeback", "betrug"),
        *("class", "label", "target"),
    ),
    "currency_code": ("currencycode", "currency", "txcurrency", "ccy", "curr", "waehrung"),
    "category": (
        *("category", "merchantcategory", "merchantcategorycode", "mcc", "mcccode", "txcategory"),
        *("categorycode", "merchanttype", "kategorie"),
    ),
    "latitude": ("latitude", "lat", "customerlatitude", "customerlat", "userlat", "txlat"),
    "longitude": (
        *("longitude", "long", "lon", "lng", "customerlongitude", "customerlong", "userlong"),
        *("customerlon", "userlon", "txlong", "txlon"),
    ),
    "merchant_latitude": ("merchantlatitude", "merchlat", "merchantlat", "terminallatitude"),
    "merchant_longitude": (
        *("merchantlongitude", "merchlong", "merchantlong", "merchlon", "merchantlon"),
        *("merchlng", "terminallongitude"),
    ),
}
REQUIRED = ("transaction_id", "occurred_at", "account_id", "merchant_id", "amount")
TIME_OF_DAY = ("time", "txtime", "timeofday", "zeit", "uhrzeit", "eventtime", "heure", "hora")
TX_WORDS = {"tx", "txn", "trx", "trans", "transaction"}
ID_WORDS = {"id", "no", "nr", "num", "number", "ref", "key", "code", "token", "hash"}
# Where no name fits as a whole: one of the first words and, if given, one of the second.
WORDS: dict[str, tuple[set[str], set[str]]] = {
    "transaction_id": ({"tx", "payment"}, ID_WORDS | {"reference", "uuid"}),
    "occurred_at": ({"timestamp", "datetime", "date", "time"}, {"tx", "event", "utc", "created"}),
    "account_id": ({"account", "customer", "card", "client", "user", "acct", "payer"}, ID_WORDS),
    "merchant_id": ({"merchant", "terminal", "payee", "vendor"}, ID_WORDS | {"name"}),
    "amount": ({"amount", "amt", "betrag"}, set()),
}
LEAK_WORDS = ("fraud", "scenario", "chargeback", "betrug")
PRIVATE_NAMES = {
    *("first", "last", "middle", "name", "firstname", "lastname", "fullname", "surname"),
    *("givenname", "familyname", "middlename", "customername", "username", "accountname"),
    *("vorname", "nachname", "street", "streetaddress", "strasse", "address", "homeaddress"),
    *("addressline1", "addressline2", "address1", "address2", "billingaddress", "adresse"),
    *("dateofbirth", "birthdate", "birthday", "geburtsdatum", "socialsecuritynumber", "mail"),
    *("phonenumber", "mobile", "mobilenumber", "telephone", "telefon", "tel", "fax", "taxid"),
    *("ip", "ipaddress", "ipaddr", "clientip", "customerip", "userip", "cardholdername"),
}
PRIVATE_WORDS = {
    *("email", "phone", "dob", "ssn", "passport", "surname", "street", "iban", "cvv", "cvc"),
    *("cardholder", "ip"),
}

NUMBER_TEXTS = (  # pattern of the texts, and how to read them
    (r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?|[+-]?\.\d+", ""),
    (r"[+-]?\d{1,3}(\.\d{3})*(,\d+)?|[+-]?\d+(,\d+)?", "replace(replace({}, '.', ''), ',', '.')"),
    (r"[+-]?\d{1,3}(,\d{3})*(\.\d+)?", "replace({}, ',', '')"),
    (
        r"[^\d,.+-]*[+-]?[^\d,.+-]*\d+(,\d{3})*(\.\d+)?[^\d,.]*",
        "regexp_replace({}, '[^0-9.+-]', '', 'g')",
    ),
    (
        r"[^\d,.+-]*[+-]?[^\d,.+-]*\d+(\.\d{3})*(,\d+)?[^\d,.]*",
        "replace(regexp_replace({}, '[^0-9,+-]', '', 'g'), ',', '.')",
    ),
)
DAY_FORMATS = (
    *("%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y%m%d", "%Y.%m.%d"),
    *("%d.%m.%y", "%d/%m/%y", "%m/%d/%y", "%d-%m-%y", "%d-%b-%Y", "%d %b %Y", "%d-%b-%y"),
    *("%b %d %Y", "%b %d, %Y", "%Y-%m-%d"),
)
CLOCK_FORMATS = (
    *("", " %H:%M:%S", " %H:%M", " %H:%M:%S.%f", " %I:%M:%S %p", " %I:%M %p", "T%H:%M:%S"),
    *("T%H:%M:%S.%f", ", %H:%M:%S", ", %H:%M", " %H.%M.%S", " %H.%M", " %H%M%S", "%H%M%S"),
)
CLOCK_TEXT = r"\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?( ?[AaPp][Mm])?"
EPOCHS = ((9.4e8, 4.2e9, ""), (9.4e11, 4.2e12, " / 1e3"), (9.4e14, 4.2e15, " / 1e6"))


@dataclass(frozen=True)
class Moment:
    """How to read when a transaction happened, and whether that tells more than the day."""

    expression: str
    has_clock: bool
    note: str | None = None


def words_of(name: str) -> list[str]:
    """Cut a column's name into lower-case words.

    Example:
        >>> words_of("transDate_UTC"), words_of("TX_AMOUNT")
        (['tx', 'date', 'utc'], ['tx', 'amount'])
    """
    cut = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    words = [word.lower() for word in re.findall(r"[^\W_]+", cut)]
    return ["tx" if word in TX_WORDS else word for word in words]


def name_rank(meaning: str, name: str) -> int | None:
    """Say how well a name fits a meaning: 0 is best, None is not at all."""
    words = words_of(name)
    joined = "".join(words)
    names = SYNONYMS[meaning]
    if joined in names:
        return names.index(joined)
    first, second = WORDS.get(meaning, (set(), set()))
    if first & set(words) and (not second or second & set(words)):
        return len(names) + len(words)
    return None


def is_personal(name: str) -> bool:
    """Say whether a column's name promises personal data."""
    words = words_of(name)
    return "".join(words) in PRIVATE_NAMES or bool(PRIVATE_WORDS & set(words))


def tells_truth(name: str) -> bool:
    """Say whether a column's name promises to give the fraud away."""
    joined = "".join(words_of(name))
    return any(word in joined for word in LEAK_WORDS)


def share(connection: duckdb.DuckDBPyConnection, condition: str, given: str) -> float:
    """Give the share of the rows with ``given`` that fulfil the condition; 0 without rows."""
    row = connection.execute(
        f"SELECT avg(coalesce({condition}, false)::INT) FROM sample WHERE {given}"
    ).fetchone()
    return float(row[0]) if row and row[0] is not None else 0.0


def is_given(column: str) -> str:
    """Write the condition that a quoted column holds something."""
    return f"nullif(trim(CAST({column} AS VARCHAR)), '') IS NOT NULL"


def read_number(connection: duckdb.DuckDBPyConnection, name: str, kind: str) -> str | None:
    """Find how to read a column as numbers; None if it holds none."""
    column = quote_name(name)
    if kind.startswith(NUMBERS):
        return name
    if kind != "VARCHAR":
        return None
    best, template = 0.0, ""
    for pattern, how in NUMBER_TEXTS:
        match = f"regexp_full_match(trim({column}), {quote_text(pattern)})"
        readable = share(connection, match, is_given(column))
        if readable > best:
            best, template = readable, how
        if best == 1:
            break
    if best < READABLE_SHARE:
        return None
    return f"{SQL_PREFIX} {template.format(column)}::DOUBLE" if template else name


def read_flag(connection: duckdb.DuckDBPyConnection, name: str, kind: str) -> str | None:
    """Find how to read a column as 0/1 or true/false; None if it holds anything else."""
    column = quote_name(name)
    given = is_given(column)
    if kind == "VARCHAR":
        if share(connection, f"TRY_CAST(trim({column}) AS BOOLEAN) IS NULL", given) == 0:
            return name
        flag = f"coalesce(TRY_CAST({column} AS DOUBLE) NOT IN (0, 1), true)"
        return None if share(connection, flag, given) else f"{SQL_PREFIX} {column}::DOUBLE"
    if kind == "BOOLEAN":
        return name
    if not kind.startswith(NUMBERS):
        return None
    return None if share(connection, f"{column} NOT IN (0, 1)", given) else name


def read_moment(
    connection: duckdb.DuckDBPyConnection, name: str, kind: str, near: Collection[date] = ()
) -> Moment | None:
    """Find how to read a column as times; None if it holds none."""
    column = quote_name(name)
    if kind == "DATE" or kind.startswith("TIMESTAMP"):
        midnight = f"CAST({column} AS TIMESTAMP) = date_trunc('day', CAST({column} AS TIMESTAMP))"
        return Moment(name, share(connection, midnight, f"{column} IS NOT NULL") < 1)
    if kind.startswith(NUMBERS):
        epoch = _read_epoch(connection, column)
        whole = kind.startswith(INTEGERS)
        return epoch or (
            read_moment_text(connection, f"{column}::VARCHAR", near) if whole else None
        )
    if kind != "VARCHAR":
        return None
    return _read_epoch(connection, column) or read_moment_text(connection, column, near)


def _read_epoch(connection: duckdb.DuckDBPyConnection, column: str) -> Moment | None:
    number = f"TRY_CAST({column} AS DOUBLE)"
    for low, high, divide in EPOCHS:
        within = share(connection, f"{number} BETWEEN {low} AND {high}", is_given(column))
        if within >= READABLE_SHARE:
            instant = f"to_timestamp({column}::DOUBLE{divide})"
            return Moment(f"{SQL_PREFIX} {instant}", has_clock=True)
    return None


def read_moment_text(
    connection: duckdb.DuckDBPyConnection, text: str, near: Collection[date] = ()
) -> Moment | None:
    """Find how to read a text (a quoted column, or SQL that joins two) as times."""
    given = is_given(text)
    cast = f"TRY_CAST({text} AS TIMESTAMP)"
    plain = text.startswith('"') and text.endswith('"') and "||" not in text
    bare = text[1:-1].replace('""', '"')
    if share(connection, f"year({cast}) {PLAUSIBLE_YEARS}", given) >= READABLE_SHARE:
        has_clock = share(connection, f"{cast} <> date_trunc('day', {cast})", given) > 0
        return Moment(bare if plain else f"{SQL_PREFIX} {text}", has_clock)
    found = _find_format(connection, text, near)
    if found is None:
        return None
    form, note = found
    expression = f"{SQL_PREFIX} strptime({text}, {quote_text(form)})"
    return Moment(expression, any(mark in form for mark in ("%H", "%I")), note)


def _find_format(
    connection: duckdb.DuckDBPyConnection, text: str, near: Collection[date]
) -> tuple[str, str | None] | None:
    """Find the strptime format; of two that fit, the one whose days lie closer together."""
    likely = _likely_formats(connection, text)
    whole = f"(SELECT {text} AS t FROM sample WHERE {is_given(text)})"
    tried = [row for row in _try_formats(connection, likely, whole) if row[1] >= READABLE_SHARE]
    if not tried:
        return None

    def order(row: tuple[str, float, date, date]) -> tuple[float, int, int]:
        _, readable, first, last = row
        return (-readable, -len({first, last} & set(near)), (last - first).days)

    tried.sort(key=order)
    form, *_ = tried[0]
    if len(tried) == 1 or order(tried[0])[:2] != order(tried[1])[:2]:
        return form, None
    return form, f"times are read as {form}, but {tried[1][0]} fits as well: check the first days"


def _likely_formats(connection: duckdb.DuckDBPyConnection, text: str) -> list[str]:
    """Give the formats that read some texts, so that few are tried on all rows."""
    rows = connection.execute(
        f"SELECT {text} FROM sample WHERE {is_given(text)} LIMIT 100"
    ).fetchall()
    likely = []
    for form in [day + clock for day in DAY_FORMATS for clock in CLOCK_FORMATS]:
        row = connection.execute(
            f"SELECT count(try_strptime(t, {quote_text(form)})) FROM unnest($1::VARCHAR[]) u(t)",
            [[value for (value,) in rows]],
        ).fetchone()
        if row and row[0] * 2 > len(rows):
            likely.append(form)
    return likely


def _try_formats(
    connection: duckdb.DuckDBPyConnection, forms: Sequence[str], table: str
) -> list[tuple[str, float, date, date]]:
    """Give each format's share of readable texts, and the first and last day it reads."""
    if not forms:
        return []
    parts = []
    for form in forms:
        time = f"try_strptime(t, {quote_text(form)})"
        good = f"CASE WHEN year({time}) {PLAUSIBLE_YEARS} THEN {time}::DATE END"
        parts.append(f"[count({good})::VARCHAR, min({good})::VARCHAR, max({good})::VARCHAR]")
    row = connection.execute(f"SELECT count(*), {', '.join(parts)} FROM {table}").fetchone()
    if row is None or not row[0]:
        return []
    return [
        (form, int(n) / row[0], date.fromisoformat(low), date.fromisoformat(high))
        for form, (n, low, high) in zip(forms, row[1:], strict=True)
        if int(n)
    ]


def join_clock(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    types: Mapping[str, str],
    near: Collection[date] = (),
) -> Moment | None:
    """Find the column with the time of day that belongs to a column of dates; read both as one."""
    by_name = [n for rank in TIME_OF_DAY for n in types if "".join(words_of(n)) == rank]
    clocks = [n for n in types if n != name and _is_clock(connection, n, types[n])]
    ordered = [n for n in by_name if n in clocks] or (clocks if len(clocks) == 1 else by_name)
    kind = "::DATE::VARCHAR" if types[name].startswith("TIMESTAMP") else "::VARCHAR"
    first = quote_name(name) + ("" if types[name] == "VARCHAR" else kind)
    for other in ordered:
        if other == name:
            continue
        second = quote_name(other) + ("" if types[other] == "VARCHAR" else "::VARCHAR")
        moment = read_moment_text(connection, f"{first} || ' ' || {second}", near)
        if moment is not None and moment.has_clock:
            return moment
    return None


def _is_clock(connection: duckdb.DuckDBPyConnection, name: str, kind: str) -> bool:
    if kind == "TIME":
        return True
    column = quote_name(name)
    match = f"regexp_full_match(trim({column}), {quote_text(CLOCK_TEXT)})"
    return kind == "VARCHAR" and share(connection, match, is_given(column)) >= READABLE_SHARE
