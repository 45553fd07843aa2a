"""Judge the stored scores of a range of days."""

from datetime import UTC, date, datetime
from pathlib import Path

from flows.days import days_between
from flows.settings import Settings
from tasks.evaluate import Quality, evaluate_scores
from warehouse.errors import UserError
from warehouse.reads import read_scores, read_truth


def evaluate(config: Path, start: date, end: date) -> list[Quality]:
    """Judge the ensemble and each member by the labels known now.

    Raises:
        UserError: if nothing is scored in the range, or too little is known of it.
    """
    days_between(start, end)  # refuses a range the wrong way round
    with Settings.read(config).context().closing() as context:
        scored = read_scores(context.lake(), start, end)
        if scored.is_empty():
            message = f"no scores from {start} to {end}: run nightwarden backfill over them first"
            raise UserError(message)
        truth = read_truth(context.lake(), start, end, datetime.now(UTC))
        return evaluate_scores(scored, truth, context.capacity)
