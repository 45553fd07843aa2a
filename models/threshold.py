"""From a review capacity or a budget of false alerts per day to a score threshold."""

from collections.abc import Sequence

import torch
from torch import Tensor


def split_by_day(scores: Tensor, days: Tensor) -> list[Tensor]:
    """Cut scores into one tensor a day, days ascending.

    Shape:
        scores: (rows,). days: (rows,), whole numbers.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> split_by_day(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([7, 8, 7]))
        [tensor([1., 3.]), tensor([2.])]
    """
    if scores.ndim != 1 or scores.shape != days.shape:
        raise ValueError(
            f"expected scores and days of one shape (rows,), got {tuple(scores.shape)} "
            f"and {tuple(days.shape)}"
        )
    return [scores[days == day] for day in torch.unique(days)]


def threshold_for_capacity(scores_by_day: Sequence[Tensor], capacity: int) -> float:
    """Give the score from which a transaction is reviewed, for a capacity per day.

    For each validation day, take the score at rank ``capacity``; the threshold is the smallest of
    these. So every one of the validation days would have filled the capacity (an ordinary night
    does), while a night quieter than all of them may stay below it: reviewers are not sent rows
    only to keep them busy. On a busy night more rows pass than can be reviewed; the caller takes
    the ``capacity`` highest of them.

    A day with fewer rows than the capacity says nothing about the rank and is left out; if all
    days are that short, everything can be reviewed and the threshold is the least score seen.

    Shape:
        scores_by_day: one tensor (rows of the day,) per validation day.

    Returns:
        The threshold; rows with ``score >= threshold`` are candidates.

    Raises:
        ValueError: if ``capacity`` < 1, there is no row at all, or a score is not finite.

    Example:
        >>> days = [torch.tensor([1.0, 5.0, 3.0]), torch.tensor([4.0, 2.0, 9.0])]
        >>> threshold_for_capacity(days, 2)
        3.0
    """
    if capacity < 1:
        raise ValueError(f"expected a daily capacity >= 1, got {capacity}")
    days = [scores for scores in scores_by_day if scores.shape[0] > 0]
    if not days:
        raise ValueError("expected at least one validation day with rows, got none")
    if not all(bool(scores.isfinite().all()) for scores in days):
        raise ValueError("expected finite validation scores, got NaN or infinity")
    at_rank = [
        float(torch.topk(scores, capacity).values[-1])
        for scores in days
        if scores.shape[0] >= capacity
    ]
    return min(at_rank) if at_rank else min(float(scores.min()) for scores in days)


def threshold_for_false_positives(
    scores: Tensor, days: Tensor, is_fraud: Tensor, budget: float
) -> float:
    """Give the least score at which genuine rows pass at most ``budget`` times a day, on average.

    The mean is over the validation days; a busy one may pass more. If even all rows together stay
    within the budget, the threshold is the least score seen.

    Shape:
        scores: (rows,), floating. days: (rows,), whole numbers. is_fraud: (rows,), boolean.

    Returns:
        The threshold; rows with ``score >= threshold`` are candidates.

    Raises:
        ValueError: if ``budget`` is not positive, the shapes differ, there is no row at all, or a
            score is not finite.

    Example:
        >>> scores, days = torch.tensor([9.0, 5.0, 3.0, 8.0, 2.0]), torch.tensor([1, 1, 1, 2, 2])
        >>> is_fraud = torch.tensor([True, False, False, False, False])
        >>> round(threshold_for_false_positives(scores, days, is_fraud, 1), 4)  # 5 and 8 pass
        3.0
    """
    if not budget > 0:
        raise ValueError(f"expected a budget of genuine alerts a day > 0, got {budget}")
    if scores.ndim != 1 or not scores.shape == days.shape == is_fraud.shape:
        raise ValueError(
            f"expected scores, days and is_fraud of one shape (rows,), got {tuple(scores.shape)}, "
            f"{tuple(days.shape)} and {tuple(is_fraud.shape)}"
        )
    if scores.shape[0] == 0:
        raise ValueError("expected at least one validation day with rows, got none")
    if not bool(scores.isfinite().all()):
        raise ValueError("expected finite validation scores, got NaN or infinity")
    genuine = scores[~is_fraud].sort(descending=True).values  # (genuine rows,)
    allowed = int(budget * torch.unique(days).shape[0])
    if allowed >= genuine.shape[0]:
        return float(scores.min())
    first_too_many = genuine[allowed]  # rows tied with it would all pass: just above it
    return float(torch.nextafter(first_too_many, torch.full_like(first_too_many, torch.inf)))
