"""``nightwarden feed``: what changed in the queue since last time, for other programs."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from flows.options import DEFAULT_CONFIG, Config, open_queue
from warehouse.errors import BusyError, UserError


class FeedFormat(StrEnum):
    """How changes are written."""

    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"


def feed(
    cursor: Annotated[
        int | None,
        typer.Option(min=0, max=2**63 - 1, help="Number of the last change read; 0 at the start."),
    ] = None,
    state: Annotated[
        Path | None, typer.Option(help="File that keeps the cursor from one run to the next.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="File to write, in place of one that is there; {cursor} in its name stands for "
            "the cursor at the start. By default the standard output.",
        ),
    ] = None,
    form: Annotated[FeedFormat, typer.Option("--format")] = FeedFormat.JSONL,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Write each change of the queue since a cursor, once and in order, and say the next cursor.

    With `--state` the cursor is kept: it moves on once the output is whole and on the disk, so
    that a run that was cut short is repeated from where it began. Give every run a file of its
    own with `{cursor}`; a repeated run then replaces what it wrote before.

    Example: `nightwarden feed --state feed.cursor --output 'changes-{cursor}.jsonl'`
    """
    from flows.feed_file import WRITERS, keep_cursor, read_cursor, write_changes

    with alone(state), open_queue(config) as queue:
        kept = read_cursor(state) if state else None
        begin = choose_cursor(cursor, kept, state)
        with opened(output, begin) as file:
            end = write_changes(queue, WRITERS[form](file), begin)
        if state:
            keep_cursor(state, end)
    sys.stderr.write(f"Next cursor: {end}\n")


def choose_cursor(given: int | None, kept: int | None, state: Path | None) -> int:
    """Give the cursor to start from.

    Raises:
        UserError: if one is given and another kept.
    """
    if given is not None and kept is not None and given != kept:
        message = (
            f"--cursor {given} contradicts {state}, which holds {kept}: leave --cursor out, or "
            "delete the file"
        )
        raise UserError(message)
    return given if given is not None else kept or 0


@contextmanager
def alone(state: Path | None) -> Iterator[None]:
    """Keep other runs with the same state out.

    Raises:
        BusyError: if there is one.
    """
    if state is None:
        yield
        return
    from filelock import FileLock, Timeout

    lock = FileLock(f"{state}.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        message = f"another feed with {state} must end first; run this again"
        raise BusyError(message) from error
    except OSError as error:
        message = f"{state} must be a file that can be written: {error.strerror}; name another"
        raise UserError(message) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def opened(output: Path | None, cursor: int) -> Iterator[BinaryIO]:
    """Open the output, or give the standard one."""
    from flows.feed_file import replacing

    if output is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = output.with_name(output.name.replace("{cursor}", str(cursor)))
    if not path.parent.is_dir():
        message = f"the folder of --output {path} must be there; make it, or name another"
        raise UserError(message)
    with replacing(path) as file:
        yield file
