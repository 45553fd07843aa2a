"""Detection quality: ROC area, average precision, card precision at k; ties are handled."""

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
    s, is_fraud = check_labelled(scores, labels)
    account_array, day_array = np.asarray(accounts), np.asarray(days)
    if not s.shape == account_array.shape == day_array.shape:
        raise ValueError(
            f"expected accounts and days of shape {s.shape}, got {account_array.shape} "
            f"and {day_array.shape}"
        )
    if s.size == 0 or k < 1:
        raise ValueError(f"expected at least one row and k >= 1, got {s.size} rows and k={k}")
    _, account_codes = np.unique(account_array, return_inverse=True)
    is_found = np.zeros(int(account_codes.max()) + 1, dtype=bool)
    precisions = []
    for day in np.unique(day_array):
        rows = (day_array == day) & ~is_found[account_codes]
        found = _compromised_in_top_k(s[rows], is_fraud[rows], account_codes[rows], k)
        is_found[found] = True
        precisions.append(found.size / k)
    return float(np.mean(precisions))


def _compromised_in_top_k(
    scores: FloatArray, is_fraud: NDArray[np.bool_], accounts: NDArray[Any], k: int
) -> NDArray[Any]:
    unique_accounts, place = np.unique(accounts, return_inverse=True)
    highest = np.full(unique_accounts.size, -np.inf)
    np.maximum.at(highest, place, scores)
    is_compromised = np.zeros(unique_accounts.size, dtype=bool)
    np.logical_or.at(is_compromised, place, is_fraud)
    top = np.argsort(-highest, kind="stable")[:k]
    return unique_accounts[top][is_compromised[top]]
