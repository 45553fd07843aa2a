"""Reads what addresses and forms bring; what makes no sense is refused in words."""

from typing import Annotated

from fastapi import Path
from starlette.datastructures import FormData

from desk.rendering import VERDICTS
from warehouse.errors import UserError
from warehouse.queue_work import LARGEST_NUMBER

LONGEST_NOTE = 2000

RowNumber = Annotated[int, Path(ge=1, le=LARGEST_NUMBER)]
"""The number of a row, in an address."""


def read_verdict(form: FormData) -> str:
    """Give the verdict.

    Raises:
        UserError: if it is none.
    """
    verdict = read_text(form, "verdict")
    if verdict not in VERDICTS:
        raise UserError(
            f"expected a verdict of {', '.join(VERDICTS)}, got {verdict!r}; press one of them"
        )
    return verdict


def read_note(form: FormData) -> str:
    """Give the note, which may be empty.

    Raises:
        UserError: if it is too long.
    """
    note = read_text(form, "note")
    if len(note) > LONGEST_NOTE:
        raise UserError(
            f"expected a note of at most {LONGEST_NOTE} letters, got {len(note)}; shorten it"
        )
    return note


def read_proposal(form: FormData) -> int:
    """Give the number of the proposal that a form is about.

    Raises:
        UserError: if there is none.
    """
    number = read_number(form, "proposal")
    if number is None:
        raise UserError("expected the number of a proposal, got none; load the page again")
    return number


def read_number(form: FormData, name: str) -> int | None:
    """Give a number, or None where the field is empty or missing."""
    text = read_text(form, name)
    return to_number(text) if text else None


def read_numbers(form: FormData, name: str) -> list[int]:
    """Give the numbers of a field that may come several times, each once."""
    return list(dict.fromkeys(to_number(str(text)) for text in form.getlist(name)))


def to_number(text: str) -> int:
    """Read the number of a row.

    Raises:
        UserError: if it is none.
    """
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0
    if not 0 < number <= LARGEST_NUMBER:
        raise UserError(f"expected a number, got {text[:40]!r}; load the page again")
    return number


def read_text(form: FormData, name: str) -> str:
    """Give a text without blanks around it; empty where it is missing or a file."""
    value = form.get(name)
    return value.strip() if isinstance(value, str) else ""
