"""Detection quality: of a ranking, with ties handled, and of probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]


def check_labelled(scores: ArrayLike, labels: ArrayLike) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Give scores and labels as arrays.

    Raises:
        ValueError: if the shapes differ, a score is NaN, or a label is neither 0 nor 1.
    """
    score_array = np.asarray(scores, dtype=np.float64)
    label_array = np.asarray(labels)
    if score_array.ndim != 1 or score_array.shape != label_array.shape:
        raise ValueError(
            f"expected scores and labels of one shape (rows,), got {score_array.shape} "
            f"and {label_array.shape}"
        )
    if np.isnan(score_array).any():
        raise ValueError("expected scores without NaN")
    if not np.isin(label_array, (0, 1)).all():
        raise ValueError("expected labels 0 or 1")
    return score_array, label_array.astype(bool)


def roc_auc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Give the chance that a random fraud scores above a random genuine row; ties count half.

    Shape:
        scores, labels: (rows,); label 1 is fraud.

    Raises:
        ValueError: if the shapes differ or only one class is present.

    Example:
        >>> roc_auc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
        0.75
    """
    s, is_fraud = check_labelled(scores, labels)
    n_fraud = int(is_fraud.sum())
    n_genuine = is_fraud.size - n_fraud
    if n_fraud == 0 or n_genuine == 0:
        raise ValueError(f"expected both classes, got {n_fraud} frauds in {is_fraud.size} rows")
    _, place, counts = np.unique(s, return_inverse=True, return_counts=True)
    mid_ranks = np.cumsum(counts) - (counts - 1) / 2  # (distinct scores,), from 1
    rank_sum = float(mid_ranks[place][is_fraud].sum())
    return (rank_sum - n_fraud * (n_fraud + 1) / 2) / (n_fraud * n_genuine)


def average_precision(scores: ArrayLike, labels: ArrayLike) -> float:
    """Give the mean precision over the recall steps: sum of (R_n - R_(n-1)) P_n.

    n runs over the distinct scores. The same definition as scikit-learn's
    ``average_precision_score``: no interpolation, tied rows enter together.

    Shape:
        scores, labels: (rows,); label 1 is fraud.

    Raises:
        ValueError: if the shapes differ or there is no fraud.

    Example:
        >>> round(average_precision([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]), 4)
        0.8333
    """
    s, is_fraud = check_labelled(scores, labels)
    if not is_fraud.any():
        raise ValueError(f"expected at least one fraud in {is_fraud.size} rows, got none")
    order = np.argsort(-s, kind="stable")
    is_last_of_tie = np.append(np.diff(s[order]) != 0, True)
    hits = np.cumsum(is_fraud[order])[is_last_of_tie]
    precision = hits / (np.flatnonzero(is_last_of_tie) + 1)
    recall_steps = np.diff(hits, prepend=0) / hits[-1]
    return float((recall_steps * precision).sum())


def card_precision_at_k(
    scores: ArrayLike, labels: ArrayLike, accounts: ArrayLike, days: ArrayLike, k: int = 100
) -> float:
    """Give the share of compromised accounts among each day's k most suspicious, on average.

    Per day, an account's score and label are the highest among its rows; the k accounts with the
    highest scores are reviewed; compromised accounts that were found are removed from all later
    days. The divisor is k even on a day with fewer accounts. Accounts with equal scores are taken
    in ascending order of their id.

    Shape:
        scores, labels, accounts, days: (rows,); label 1 is fraud; days sort in time.

    Raises:
        ValueError: if shapes differ, there are no rows or ``k`` < 1.

    Source: Le Borgne et al., 2022, "Fraud Detection Handbook", chapter 4, card precision top-k.
    """
    return float(daily_card_precision(scores, labels, accounts, days, [k])[0].mean())


def daily_card_precision(
    scores: ArrayLike,
    labels: ArrayLike,
    accounts: ArrayLike,
    days: ArrayLike,
    capacities: Sequence[int],
) -> FloatArray:
    """Give each day's card precision for several numbers of reviewed accounts a day.

    Shape:
        scores, labels, accounts, days: as for ``card_precision_at_k``.
        Returns: (capacities, n_days), the days in ascending order.

    Raises:
        ValueError: if shapes differ, there are no rows or a capacity is below 1.
    """
    s, is_fraud = check_labelled(scores, labels)
    account_array, day_array = np.asarray(accounts), np.asarray(days)
    if not s.shape == account_array.shape == day_array.shape:
        raise ValueError(
            f"expected accounts and days of shape {s.shape}, got {account_array.shape} "
            f"and {day_array.shape}"
        )
    if s.size == 0 or min(capacities) < 1:
        raise ValueError(
            f"expected at least one row and k >= 1, got {s.size} rows and k={min(capacities)}"
        )
    distinct, account_codes = np.unique(account_array, return_inverse=True)
    ranked_days = [
        _rank_accounts(s[rows], is_fraud[rows], account_codes[rows])
        for rows in _rows_of_days(day_array)
    ]
    return np.array([_card_precision(ranked_days, k, distinct.size) for k in capacities])


def _rows_of_days(days: NDArray[Any]) -> list[NDArray[np.int64]]:
    """Give each day's row numbers, days and rows ascending."""
    _, begins = np.unique(np.sort(days), return_index=True)
    return np.split(np.argsort(days, kind="stable"), begins[1:])


def _rank_accounts(
    scores: FloatArray, is_fraud: NDArray[np.bool_], accounts: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Give a day's accounts, most suspicious first, and whether each is compromised."""
    unique_accounts, place = np.unique(accounts, return_inverse=True)
    highest = np.full(unique_accounts.size, -np.inf)
    np.maximum.at(highest, place, scores)
    is_compromised = np.zeros(unique_accounts.size, dtype=bool)
    np.logical_or.at(is_compromised, place, is_fraud)
    ranked = np.argsort(-highest, kind="stable")
    return unique_accounts[ranked], is_compromised[ranked]


def _card_precision(
    ranked_days: list[tuple[NDArray[np.int64], NDArray[np.bool_]]], k: int, n_accounts: int
) -> list[float]:
    is_found = np.zeros(n_accounts, dtype=bool)
    precisions = []
    for accounts, is_compromised in ranked_days:
        reviewed = np.flatnonzero(~is_found[accounts])[:k]
        caught = accounts[reviewed[is_compromised[reviewed]]]
        is_found[caught] = True
        precisions.append(caught.size / k)
    return precisions


def rank_within_day(scores: ArrayLike, days: ArrayLike) -> NDArray[np.int64]:
    """Rank rows within their day: 1 is the highest score; equal scores rank in row order.

    Shape:
        scores, days: (rows,). Returns: (rows,).

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> rank_within_day([0.2, 0.9, 0.5, 0.1], [1, 1, 2, 2]).tolist()
        [2, 1, 1, 2]
    """
    s, day = np.asarray(scores, dtype=np.float64), np.asarray(days)
    if s.shape != day.shape:
        raise ValueError(f"expected days of shape {s.shape}, got {day.shape}")
    ranks = np.empty(s.size, dtype=np.int64)
    for rows in _rows_of_days(day):
        ranks[rows[np.argsort(-s[rows], kind="stable")]] = np.arange(1, rows.size + 1)
    return ranks


def daily_caught(
    ranks: ArrayLike,
    labels: ArrayLike,
    days: ArrayLike,
    values: ArrayLike,
    capacities: Sequence[int],
) -> FloatArray:
    """Sum the value of the frauds among each day's k highest rows, for several capacities k.

    With amounts as values, and divided by all frauds' amounts, it is the share of the money at
    risk that k alerts a day would catch; with ones, the recall.

    Shape:
        ranks: (rows,), see ``rank_within_day``. labels, days, values: (rows,).
        Returns: (capacities, n_days), the days in ascending order.

    Raises:
        ValueError: if the shapes differ.
    """
    rank, is_fraud = check_labelled(ranks, labels)
    day, value = np.asarray(days), np.asarray(values, dtype=np.float64)
    if not rank.shape == day.shape == value.shape:
        raise ValueError(
            f"expected days and values of shape {rank.shape}, got {day.shape} and {value.shape}"
        )
    distinct, place = np.unique(day, return_inverse=True)
    rank, place, value = rank[is_fraud], place[is_fraud], value[is_fraud]
    return np.array(
        [np.bincount(place, value * (rank <= k), minlength=distinct.size) for k in capacities]
    )


def precision_recall(scores: ArrayLike, labels: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Give precision and recall at each distinct score of a fraud, from the highest score down.

    Shape:
        scores, labels: (rows,). Returns: two of (steps,); recall ascends to 1.

    Raises:
        ValueError: if the shapes differ or there is no fraud.
    """
    s, is_fraud = check_labelled(scores, labels)
    if not is_fraud.any():
        raise ValueError(f"expected at least one fraud in {is_fraud.size} rows, got none")
    fraud_scores = np.sort(s[is_fraud])
    at = np.unique(fraud_scores)[::-1]
    frauds = fraud_scores.size - np.searchsorted(fraud_scores, at)
    rows = s.size - np.searchsorted(np.sort(s), at)
    return frauds / rows, frauds / fraud_scores.size


def brier_score(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Give the mean squared distance of probability and label; 0 is perfect.

    To be read against ``p (1 - p)``, what always saying the share p of frauds would score.

    Shape:
        probabilities: (rows,), from 0 to 1. labels: (rows,).

    Raises:
        ValueError: if shapes differ, there are no rows or a probability is out of range.

    Source: Brier, 1950, "Verification of Forecasts Expressed in Terms of Probability". Departure:
        of the two classes only fraud is counted, which halves it.
    """
    p, is_fraud = _check_probabilities(probabilities, labels)
    return float(((p - is_fraud) ** 2).mean())


@dataclass(frozen=True)
class Reliability:
    """What was said of rows with like probabilities, and how many of them were fraud."""

    rows: int
    frauds: int
    mean_probability: float

    @property
    def fraud_share(self) -> float:
        """Share of frauds; in a calibrated bin about the mean probability."""
        return self.frauds / self.rows


def probability_bins(probabilities: ArrayLike, bins: int, *, by_frauds: bool) -> NDArray[np.int64]:
    """Put rows of like probability into bins; rows of equal probability go into one.

    A bin that ties have left with less than half of its due is joined to the one below.

    Args:
        probabilities: (rows,), from 0 to 1.
        bins: How many, at most.
        by_frauds: Whether each bin is to expect as many frauds as the others, which shows the
            rare high probabilities; otherwise each has as many rows.

    Shape:
        Returns: (rows,), from 0, ascending with the probability.

    Raises:
        ValueError: if ``bins`` is below 1.
    """
    if bins < 1:
        raise ValueError(f"expected at least one bin, got {bins}")
    distinct, place, counts = np.unique(
        np.asarray(probabilities, dtype=np.float64), return_inverse=True, return_counts=True
    )
    mass = counts * distinct if by_frauds else counts.astype(np.float64)
    middle = np.cumsum(mass) - mass / 2
    due = max(float(mass.sum()), np.finfo(float).tiny) / bins
    _, numbers = np.unique(np.floor(middle / due), return_inverse=True)
    is_full = np.bincount(numbers, weights=mass) >= due / 2
    is_full[0] = True
    joined: NDArray[np.int64] = np.cumsum(is_full) - 1
    return joined[numbers][place]


def reliability(
    probabilities: ArrayLike, labels: ArrayLike, bins: int = 10, *, by_frauds: bool = False
) -> list[Reliability]:
    """Compare what was said with what was found, bin by bin, see ``probability_bins``.

    Raises:
        ValueError: if shapes differ, there are no rows, a probability is out of range, or
            ``bins`` is below 1.
    """
    p, is_fraud = _check_probabilities(probabilities, labels)
    numbers = probability_bins(p, bins, by_frauds=by_frauds)
    rows, frauds = np.bincount(numbers), np.bincount(numbers, weights=is_fraud)
    means = np.bincount(numbers, weights=p) / rows
    return [
        Reliability(int(n), int(y), float(mean))
        for n, y, mean in zip(rows, frauds, means, strict=True)
    ]


def expected_calibration_error(
    probabilities: ArrayLike, labels: ArrayLike, bins: int = 10
) -> float:
    """Give the mean distance of what was said from what was found, over bins of as many rows each.

    To be read against the share of frauds: with 1 in 100, an error of 0.01 is as large as saying 0
    of every row.

    Raises:
        ValueError: as ``reliability``.

    Source: Nixon et al., 2019, "Measuring Calibration in Deep Learning" (bins of equal counts).
    """
    found = reliability(probabilities, labels, bins)
    total = sum(one.rows for one in found)
    return sum(one.rows / total * abs(one.fraud_share - one.mean_probability) for one in found)


def _check_probabilities(
    probabilities: ArrayLike, labels: ArrayLike
) -> tuple[FloatArray, NDArray[np.bool_]]:
    p, is_fraud = check_labelled(probabilities, labels)
    if p.size == 0 or p.min() < 0 or p.max() > 1:
        raise ValueError(f"expected probabilities from 0 to 1, at least one, got {p.size} rows")
    return p, is_fraud
