"""Look at the user's files and propose the mapping to the canonical columns."""

import difflib
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict
from datetime import date

import duckdb

from warehouse import guesses
from warehouse.connection import quote_name
from warehouse.errors import SettingsError, SourceError
from warehouse.guesses import REQUIRED, SYNONYMS, Moment
from warehouse.proposal import (
    DELAY_DAYS,
    MAX_CATEGORIES,
    ExtraType,
    Proposal,
    describe_columns,
    extra_name,
    write_config,
)
from warehouse.source import (
    RESERVED,
    SQL_PREFIX,
    ColumnMapping,
    bound_type,
    column_expression,
    text_to_instant,
)
from warehouse.source_files import dated_path, dates_in_path, escape_path, find_source_files
from warehouse.source_sample import Sample, bind_expression, read_sample, seen_columns

__all__ = ["Proposal", "inspect_source", "write_config"]

NUMERIC = ("amount", "latitude", "longitude", "merchant_latitude", "merchant_longitude")
MANY_FILES = 100
EXTRA_NAME = re.compile(r"extra\.([a-z][a-z0-9_]{0,59})")
CANONICAL = (*ColumnMapping.model_fields, "is_fraud")
RESERVED_NAMES = {*CANONICAL, *(f"{name}_text" for name in CANONICAL), *RESERVED}
MINOR_UNITS = {"cents", "minor"}


def inspect_source(pattern: str, overrides: Mapping[str, str] | None = None) -> Proposal:
    """Look at the files and propose the mapping.

    Args:
        pattern: A glob, a file or a folder.
        overrides: What the user knows better: canonical column, ``label`` or ``extra.NAME`` to a
            source column or ``sql: expression``.

    Raises:
        SourceError: if no file matches, the files cannot be read, or a column that Nightwarden
            needs cannot be guessed.
        SettingsError: if an override names an unknown column, or one that cannot be read as meant.
    """
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        sample = read_sample(connection, find_source_files(connection, pattern))
        chosen = _check_overrides(sample, overrides or {})
        columns, moment = _guess_columns(sample, chosen)
        label = _guess_label(sample, chosen, columns)
        missing = [name for name in REQUIRED if name not in columns]
        if missing or moment is None:
            raise SourceError(_say_missing(sample, missing))
        return _propose(sample, chosen, columns, moment, label)


def _check_overrides(sample: Sample, overrides: Mapping[str, str]) -> dict[str, str]:
    """Give the overrides with the source columns spelt as in the files."""
    known = {name.lower(): name for name in sample.types if name != "_file"}
    chosen = {}
    for name, text in overrides.items():
        if name not in SYNONYMS and not _is_free_extra(name):
            valid = [*ColumnMapping.model_fields, "label"]
            hint = _nearest(name, {each: each for each in valid})
            message = f"--map {name}: expected one of {', '.join(valid)} or extra.your_name{hint}"
            raise SettingsError(message)
        if text.startswith(SQL_PREFIX):
            bind_expression(sample, name, text)
        elif text.lower() not in known:
            hint = _nearest(text, known)
            message = f"--map {name}={text}: the files have no such column; they have "
            raise SettingsError(message + ", ".join(known.values()) + hint)
        chosen[name] = known.get(text.lower(), text)
    return chosen


def _is_free_extra(name: str) -> bool:
    found = EXTRA_NAME.fullmatch(name)
    return found is not None and found[1] not in RESERVED_NAMES


def _nearest(name: str, known: Mapping[str, str]) -> str:
    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    return f"; did you mean {known[close[0]]}?" if close else ""


def _guess_columns(
    sample: Sample, chosen: Mapping[str, str]
) -> tuple[dict[str, str], Moment | None]:
    """Map the canonical columns: the user's choices first, then guesses from names and content."""
    columns: dict[str, str] = {}
    moment: Moment | None = None
    # A column that the user named is taken; those inside an expression of theirs may serve again.
    used = {text for text in chosen.values() if not text.startswith(SQL_PREFIX)}
    for name in ColumnMapping.model_fields:
        candidates = [chosen[name]] if name in chosen else _candidates(sample, name, used)
        for text in candidates:
            found = _read_as(sample, name, text)
            if found is None:
                continue
            columns[name] = found.expression if isinstance(found, Moment) else found
            moment = found if isinstance(found, Moment) else moment
            used |= set() if name in chosen else sample.columns_of(columns[name])
            break
        if name in chosen and name not in columns:
            raise SettingsError(_say_unreadable(sample, name, chosen[name]))
    return columns, moment


def _candidates(sample: Sample, meaning: str, used: Collection[str]) -> list[str]:
    free = [name for name in sample.simple() if name not in used]
    ranks = {name: guesses.name_rank(meaning, name) for name in free}
    named = sorted((rank, name) for name, rank in ranks.items() if rank is not None)
    found = [name for _, name in named]
    if meaning == "occurred_at" and not found:
        return [n for n in free if sample.types[n].startswith("TIMESTAMP")]
    return found


def _read_as(sample: Sample, meaning: str, text: str) -> str | Moment | None:
    """Find how to read a column as what it is said to mean; None if its content does not fit."""
    if meaning == "occurred_at":
        return _read_moment(sample, text)
    if text.startswith(SQL_PREFIX):
        return text
    if meaning in NUMERIC:
        return _read_number(sample, meaning, text)
    column = quote_name(text)
    given = guesses.is_given(column)
    if meaning == "transaction_id":
        row = sample.connection.execute(
            f"SELECT count(DISTINCT {column}) / count(*) FROM sample WHERE {given}"
        ).fetchone()
        return text if row and row[0] and row[0] >= guesses.READABLE_SHARE else None
    if meaning == "currency_code":
        code = f"regexp_full_match(trim(CAST({column} AS VARCHAR)), '[A-Za-z]{{3}}')"
        return text if guesses.share(sample.connection, code, given) > 0.9 else None
    return text


def _read_number(sample: Sample, meaning: str, name: str) -> str | None:
    found = guesses.read_number(sample.connection, name, sample.types[name])
    if found is None:
        return None
    expression = column_expression(found)
    if meaning != "amount":
        limit = 90 if meaning.endswith("latitude") else 180
        inside = f"abs(TRY_CAST({expression} AS DOUBLE)) <= {limit}"
        fits = guesses.share(sample.connection, inside, guesses.is_given(quote_name(name)))
        return found if fits >= guesses.READABLE_SHARE else None
    bare = found.removeprefix(SQL_PREFIX).strip() if SQL_PREFIX in found else quote_name(found)
    number = bare if SQL_PREFIX in found else f"{bare}::DOUBLE"
    if MINOR_UNITS & set(guesses.words_of(name)):
        sample.notes.append(f"amount: {name} is divided by 100, as hundredths of a currency unit")
        return f"{SQL_PREFIX} {number} / 100"
    below = guesses.share(
        sample.connection, f"TRY({number}) <= 0", f"{quote_name(name)} IS NOT NULL"
    )
    if below > 0.5:
        sample.notes.append(
            f"amount: most of {name} is below 0, so its sign is turned; what comes in is set aside"
        )
        return f"{SQL_PREFIX} -({number})"
    if below:
        sample.notes.append(f"amount: {below:.1%} of {name} is not above 0: to quarantine")
    return found


def _read_moment(sample: Sample, text: str) -> Moment | None:
    connection = sample.connection
    if text.startswith(SQL_PREFIX):
        return _moment_of_expression(sample, text)
    moment = guesses.read_moment(connection, text, sample.types[text], sample.near)
    if moment is None or moment.has_clock:
        return moment
    return guesses.join_clock(connection, text, sample.simple(), sample.near) or moment


def _moment_of_expression(sample: Sample, text: str) -> Moment | None:
    kind = bind_expression(sample, "occurred_at", text)
    if kind == "TIMESTAMP WITH TIME ZONE":
        return Moment(text, has_clock=True)
    readable = f"TRY_CAST({column_expression(text)} AS TIMESTAMP) IS NOT NULL"
    fits = kind in {"VARCHAR", "DATE"} or kind.startswith("TIMESTAMP")
    if fits and guesses.share(sample.connection, readable, "true"):
        return Moment(text, has_clock=True)
    return None


def _guess_label(
    sample: Sample, chosen: Mapping[str, str], columns: Mapping[str, str]
) -> str | None:
    used = set().union(*(sample.columns_of(text) for text in columns.values()))
    if "label" in chosen:
        text = chosen["label"]
        found = text if text.startswith(SQL_PREFIX) else _read_flag(sample, text)
        if found is None:
            raise SettingsError(_say_unreadable(sample, "label", text))
        return found
    for name in _candidates(sample, "label", used):
        found = _read_flag(sample, name)
        if found is not None:
            return found
    return None


def _read_flag(sample: Sample, name: str) -> str | None:
    return guesses.read_flag(sample.connection, name, sample.types[name])


def _propose(
    sample: Sample,
    chosen: Mapping[str, str],
    columns: dict[str, str],
    moment: Moment,
    label: str | None,
) -> Proposal:
    extras = {n.removeprefix("extra."): t for n, t in chosen.items() if n.startswith("extra.")}
    extra = {name: _extra_of(sample, text) for name, text in extras.items()}
    texts = [*columns.values(), *(text for text, _ in extra.values()), *([label] if label else [])]
    used = set().union(*(sample.columns_of(text) for text in texts))
    pseudonymise, drop = _private_columns(sample, used)
    path, first, last = _find_days(sample, moment)
    dated = "{date" in path
    if not dated and first is None:
        first, last = _row_days(sample, moment)
    _add_notes(sample, moment, columns, label)
    hidden = {*pseudonymise, *drop}
    return Proposal(
        **asdict(sample.files.dialect),
        format=sample.files.format,
        path=path,
        columns=columns,
        date_column=None if dated else moment.expression,
        extra=extra,
        label=(label, DELAY_DAYS) if label else None,
        pseudonymise=pseudonymise,
        drop=drop,
        notes=sample.notes,
        seen=seen_columns(sample, hidden),
        suggested=_suggest(sample, used | hidden, extra),
        first_day=first,
        last_day=last,
        n_files=len(sample.files.files),
    )


def _extra_of(sample: Sample, text: str) -> tuple[str, ExtraType]:
    if text.startswith(SQL_PREFIX):
        kind = bind_expression(sample, "extra", text)
        return text, "numeric" if kind.startswith(guesses.NUMBERS) else "categorical"
    number = guesses.read_number(sample.connection, text, sample.types[text])
    return (number, "numeric") if number else (text, "categorical")


def _private_columns(
    sample: Sample, used: Collection[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Give the columns to pseudonymise, and those to drop; a mapped one is never dropped."""
    pseudonymise, drop = [], []
    for name in sample.types:
        personal = guesses.is_personal(name)
        if name in sample.cards or (personal and name in used):
            pseudonymise.append(name)
        elif name not in used and name != "_file" and (personal or guesses.tells_truth(name)):
            drop.append(name)
    return tuple(pseudonymise), tuple(drop)


def _find_days(sample: Sample, moment: Moment) -> tuple[str, date | None, date | None]:
    """Give the path, with a placeholder if the files' names tell their rows' day, and the days."""
    rows = sample.connection.execute(
        f"SELECT _file, mode({_day_of(sample, moment)}) AS day "
        "FROM sample GROUP BY _file HAVING day IS NOT NULL"
    ).fetchall()
    found = dated_path(sample.files.files, dict(rows))
    if found:
        return found
    if any(dates_in_path(file) for file in sample.files.looked_at()):
        sample.notes.append(
            "the date in the path is not the day of the rows: rows are chosen by time"
        )
    pattern = sample.files.pattern.replace("{", "{{").replace("}", "}}")
    if len(sample.files.files) == 1:
        pattern = escape_path(sample.files.files[0])
    return pattern, None, None


def _day_of(sample: Sample, moment: Moment) -> str:
    """Write the SQL of a row's day in UTC, the proposed time zone."""
    expression = column_expression(moment.expression)
    kind = bound_type(sample.connection, "occurred_at", expression, "sample")
    instant = text_to_instant(expression, "UTC") if kind == "VARCHAR" else expression
    return f"CAST({instant} AS DATE)"


def _row_days(sample: Sample, moment: Moment) -> tuple[date | None, date | None]:
    """Give the first and last day of all rows; nothing where that takes too long to find out."""
    day = _day_of(sample, moment)
    if len(sample.files.files) > MANY_FILES:
        return None, None
    sources = ["sample"] if sample.whole else [sample.files.scan(f) for f in sample.files.files]
    days: list[date] = []
    for source in sources:
        try:
            row = sample.connection.execute(f"SELECT min({day}), max({day}) FROM {source}")
        except duckdb.Error:
            return None, None  # a file that was not looked at is unlike the others
        days += [found for found in row.fetchone() or () if found is not None]
    return (min(days), max(days)) if days else (None, None)


def _add_notes(
    sample: Sample, moment: Moment, columns: Mapping[str, str], label: str | None
) -> None:
    if moment.note:
        sample.notes.append(moment.note)
    if not moment.has_clock:
        sample.notes.append("occurred_at has no time of day: features of hours will be flat")
    if label:
        sample.notes.append(
            f"delay_days = {DELAY_DAYS} is a guess: set after how many days you know a fraud"
        )
    else:
        sample.notes.append("no fraud label was found: nothing can be measured until labels come")
    for name in REQUIRED:
        used = set().union(*(sample.columns_of(text) for text in columns.values()))
        others = [n for n in _candidates(sample, name, used) if not guesses.is_personal(n)]
        if others and name != "occurred_at":
            sample.notes.append(
                f"{name}: {columns[name]} was taken, {', '.join(others)} may be too"
            )


def _suggest(
    sample: Sample, taken: Collection[str], extra: Mapping[str, object]
) -> dict[str, tuple[str, ExtraType]]:
    """List the columns that may be kept besides: numbers, and texts with few values."""
    names = {*RESERVED_NAMES, *extra}
    found: dict[str, tuple[str, ExtraType]] = {}
    for column in sample.simple():
        if column in taken:
            continue
        row = sample.connection.execute(
            f"SELECT count(DISTINCT {quote_name(column)}) FROM sample"
        ).fetchone()
        text, kind = _extra_of(sample, column)
        if row and row[0] > 1 and (kind == "numeric" or row[0] <= MAX_CATEGORIES):
            found[extra_name(column, {*names, *found})] = (text, kind)
    return found


def _all_seen(sample: Sample) -> str:
    hidden = {n for n in sample.types if n in sample.cards or guesses.is_personal(n)}
    return describe_columns(seen_columns(sample, hidden))


def _say_missing(sample: Sample, missing: Collection[str]) -> str:
    maps = " ".join(f"--map {name}=YOUR_COLUMN" for name in missing)
    return (
        f"no column looks like {', '.join(missing)}; say which it is: {maps} "
        f"(or an expression: --map '{next(iter(missing), '')}=sql: ...'). "
        f"{sample.files.files[-1]} has:\n{_all_seen(sample)}"
    )


def _say_unreadable(sample: Sample, name: str, text: str) -> str:
    wanted = {
        "occurred_at": "times",
        "label": "0/1 or true/false",
        "transaction_id": "ids that differ in every row",
        "currency_code": "codes of three letters",
    }.get(name, "numbers (within range)")
    example = ""
    if text in sample.types and text not in sample.cards and not guesses.is_personal(text):
        example = f", found {seen_columns(sample, ())[text][1]!r}"
    return (
        f"--map {name}={text}: expected {wanted}{example}; name another column, or write "
        f"--map '{name}=sql: an expression that gives {wanted}'"
    )
