"""Business days: ranges of them, and the last one that was over when a run was to begin."""

from datetime import date, timedelta

from warehouse.arrival import day_at
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


def last_finished_day(time_zone: str) -> date:
    """Give the last day that was over, in the source's zone, when this run was scheduled to begin.

    A run that begins late, such as after an outage, still takes the day that it was meant for.
    """
    from prefect.runtime import flow_run  # slow to import, and commands without a run need none

    return day_at(time_zone, flow_run.scheduled_start_time) - timedelta(days=1)
