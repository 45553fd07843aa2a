"""Join the label-free score with boosted trees', so that fraud that nobody has labelled is seen.

Trees that learned from labels call a new kind of fraud genuine with confidence, so no average of
the two scores finds it; nor does a plain maximum rank the known kinds well, for the oddest rows
are seldom fraud. So a share of each day's review capacity is kept for what is odd by itself.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.metrics import average_precision

RISE = 0.1  # of the score a unit of label-free surprise within the reserve: it seldom overtakes
TIE_SHARE = 1e-3  # of both surprises: orders the many rows of one leaf
SHARE_STEP = 0.05  # between shares that are tried
WIDEST_SHARE = 0.9  # of the capacity; the surest frauds of known kinds keep their places
LEAST_PRECISION = 0.998  # of the trees' average precision: more is not paid for a wider reserve


@dataclass(frozen=True)
class Hybrid:
    """The larger of the trees' surprise b and a lift of the label-free surprise u.

    lift(u) = boosted_from + min(u - label_free_from, RISE * (u - label_free_from)), so rows that
    are odd enough rank where the trees' part of the capacity ends: behind what the trees are sure
    of, ahead of what they doubt. The score max(b, lift(u)) + TIE_SHARE * (b + u) rises in both and
    depends on nothing but the row. It ranks; unlike its parts it is no tail probability.

    Args:
        label_free_from: Label-free surprise from which a row enters by itself.
        boosted_from: The trees' surprise at which it enters.
        reserved_share: Share of the capacity that this keeps, for the record.
    """

    label_free_from: float
    boosted_from: float
    reserved_share: float

    def combine(self, label_free: Tensor, boosted: Tensor) -> Tensor:
        """Join the surprises of each row.

        Shape:
            label_free, boosted: (batch,), finite. Returns: (batch,), float32.

        Raises:
            ValueError: if the shapes differ.
        """
        _require_rows(label_free, boosted)
        u, b = label_free.double(), boosted.double()
        excess = u - self.label_free_from
        lift = self.boosted_from + torch.minimum(excess, RISE * excess)
        return (torch.maximum(b, lift) + TIE_SHARE * (b + u)).float()


def choose_hybrid(
    label_free: Tensor,
    boosted: Tensor,
    days: Tensor,
    *,
    capacity: int,
    reserved_share: float,
    is_fraud: Tensor | None = None,
) -> Hybrid:
    """Choose from held-out days where the label-free score enters.

    On an average one of these days the trees' highest rows fill the capacity up to the reserved
    share, and of the other rows the oddest fill the rest. With the labels as known the reserve is
    the widest, not below ``reserved_share``, that leaves the trees' average precision (all but
    0.2 % of it): where known frauds need few places, the doubtful rest of the trees' ranking is
    worth less than a look at what is odd. Labels of the kind sought are not needed, but labels of
    all rows are: where analysts saw only what the members flagged, every reserve seems free.

    Rows are what is reviewed: transactions or, with the highest surprises of each, account-days.

    Shape:
        label_free, boosted: (rows,), finite. days: (rows,), whole numbers. is_fraud: (rows,),
            boolean.

    Raises:
        ValueError: if the shapes differ, there are no rows, a surprise is not finite,
            ``capacity`` < 1 or ``reserved_share`` is not in [0, 0.9].
    """
    _require_meaning(label_free, boosted, days, capacity, reserved_share)
    places = capacity * torch.unique(days).shape[0]
    least = _reserve(label_free, boosted, places, reserved_share)
    if is_fraud is None or not bool(is_fraud.any()):
        return least
    _require_rows(label_free, is_fraud)
    truth = is_fraud.cpu().numpy()
    enough = LEAST_PRECISION * average_precision(boosted.cpu().numpy(), truth)
    steps = int((WIDEST_SHARE - reserved_share) / SHARE_STEP + 1e-9)
    for step in range(steps, 0, -1):
        wider = _reserve(label_free, boosted, places, reserved_share + step * SHARE_STEP)
        if average_precision(wider.combine(label_free, boosted).cpu().numpy(), truth) >= enough:
            return wider
    return least


def _reserve(label_free: Tensor, boosted: Tensor, places: int, share: float) -> Hybrid:
    """Keep a share of the places; the trees' highest rows get the others."""
    n_kept = round(share * places)
    boosted_from = _value_behind(boosted, places - n_kept)
    label_free_from = _value_behind(label_free[boosted <= boosted_from], n_kept)
    return Hybrid(label_free_from, boosted_from, round(share, 6))


def _value_behind(scores: Tensor, count: int) -> float:
    """Give the highest value that at most ``count`` rows exceed; the lowest, if rows are fewer."""
    ordered = scores.sort(descending=True).values
    return float(ordered[min(count, ordered.shape[0] - 1)])


def _require_rows(first: Tensor, second: Tensor) -> None:
    """Refuse columns of different rows.

    Raises:
        ValueError: if the shapes differ or are not (rows,).
    """
    if first.ndim != 1 or first.shape != second.shape:
        raise ValueError(
            "expected one value a row, (rows,), in every column, got shapes "
            f"{tuple(first.shape)} and {tuple(second.shape)}"
        )


def _require_meaning(
    label_free: Tensor, boosted: Tensor, days: Tensor, capacity: int, reserved_share: float
) -> None:
    _require_rows(label_free, boosted)
    _require_rows(label_free, days)
    if label_free.shape[0] == 0:
        raise ValueError("expected held-out rows to choose the reserve on, got none")
    if not (label_free.isfinite().all() and boosted.isfinite().all()):
        raise ValueError("expected finite surprises on the held-out rows, got NaN or infinity")
    if capacity < 1 or not 0 <= reserved_share <= WIDEST_SHARE:
        raise ValueError(
            f"expected capacity >= 1 and 0 <= reserved_share <= {WIDEST_SHARE}, "
            f"got {capacity} and {reserved_share}"
        )
