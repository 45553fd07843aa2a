"""Ranges of business days."""

from datetime import date, timedelta

from warehouse.errors import UserError


def days_between(start: date, end: date) -> list[date]:
    """List the days from ``start`` to ``end``, both included.

    Raises:
        UserError: if ``end`` is before ``start``.

    Example:
        >>> [day.day for day in days_between(date(2018, 4, 30), date(2018, 5, 2))]
        [30, 1, 2]
    """
    if end < start:
        message = f"the last day must not be before the first; got --from {start} --to {end}"
        raise UserError(message)
    return [start + timedelta(days=n) for n in range((end - start).days + 1)]
