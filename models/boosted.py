"""Gradient-boosted trees on labelled rows: the one member that learns what fraud looks like.

Belongs here: fitting, scoring and writing down the trees. Does not: which rows are fit to learn
from (``tasks.labelled_rows``).
"""

import hashlib
import json
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Self

import lightgbm as lgb
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.detector import NotFittedError, check_width
from models.metrics import average_precision

LEAST_FRAUDS = 50  # known ones to learn from; fewer teach the trees their noise

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class BoostedConfig:
    """Settings of :class:`Boosted`.

    Args:
        leaves: Leaves of a tree, at most.
        least_rows_a_leaf: Training rows that a leaf must hold.
        learning_rate: Share of each tree's answer that is believed.
        max_rounds: Trees, at most.
        patience: Trees without a better average precision on the validation rows after which the
            fit stops.
        max_bins: Bins of each feature's histogram. Rare shares of frauds need more than the usual
            255, which put them together with zero.
    """

    leaves: int = 15
    least_rows_a_leaf: int = 100
    learning_rate: float = 0.05
    max_rounds: int = 1000
    patience: int = 100
    max_bins: int = 1023

    def __post_init__(self) -> None:
        """Refuse settings without meaning.

        Raises:
            ValueError: if a setting is out of range.
        """
        if self.leaves < 2 or self.max_bins < 2 or not 0 < self.learning_rate <= 1:
            raise ValueError(
                "expected leaves >= 2, max_bins >= 2 and 0 < learning_rate <= 1, "
                f"got {self.leaves}, {self.max_bins} and {self.learning_rate}"
            )
        if min(self.least_rows_a_leaf, self.max_rounds, self.patience) < 1:
            raise ValueError(
                "expected least_rows_a_leaf, max_rounds and patience of at least 1, "
                f"got {self.least_rows_a_leaf}, {self.max_rounds} and {self.patience}"
            )


@dataclass(frozen=True)
class BoostedReport:
    """What one fit did.

    Args:
        rounds: Trees that were grown.
        best_round: The tree (from 1) up to which they were kept.
        seconds: Wall time of the fit.
        validation_ap: Average precision on the validation rows.
    """

    rounds: int
    best_round: int
    seconds: float
    validation_ap: float


class TooFewLabelsError(ValueError):
    """There are too few frauds or genuine rows to learn from, or to judge by."""


class Boosted:
    """Log-odds of fraud from boosted trees, which take raw values and missing ones as they are.

    Not valid for kinds of fraud that no label has shown. A missing value goes the way that was
    better for the training rows; where training saw none missing, it counts as zero.

    Shape:
        x: (batch, features), raw; NaN is missing; a categorical feature holds codes >= 0.
            Returns: (batch,), float64.

    Raises:
        ValueError: if x has another number of features than at fit.
        NotFittedError: if neither ``fit`` nor ``loads`` was called.

    Source: Ke et al., 2017, "LightGBM: A Highly Efficient Gradient Boosting Decision Tree".
    """

    def __init__(
        self,
        config: BoostedConfig,
        feature_names: Sequence[str],
        categorical: Collection[str] = (),
    ) -> None:
        """Make an unfitted model of the features named, some of which are categorical.

        Raises:
            ValueError: if there is no feature, one is named twice, or a categorical one is not
                among them.
        """
        self.config = config
        self.feature_names = tuple(feature_names)
        self.categorical = frozenset(categorical)
        unknown = sorted(self.categorical - set(self.feature_names))
        if unknown:
            raise ValueError(f"expected categorical features among the features, got {unknown}")
        if not self.feature_names or len(set(self.feature_names)) < len(self.feature_names):
            raise ValueError(
                f"expected at least one feature, each named once, got {self.feature_names}"
            )
        self._booster: lgb.Booster | None = None

    def fit(
        self,
        x: Tensor,
        is_fraud: Tensor,
        x_validation: Tensor,
        is_fraud_validation: Tensor,
        *,
        seed: int,
    ) -> BoostedReport:
        """Learn to tell frauds from genuine rows; the validation rows say when to stop.

        The same rows and seed give the same trees, with any number of threads.

        Shape:
            x: (rows, features), x_validation: (validation rows, features), of later days.
                is_fraud: (rows,), is_fraud_validation: (validation rows,), boolean.

        Raises:
            ValueError: if a width is wrong.
            TooFewLabelsError: if there are too few frauds to learn from or judge by.
        """
        started = time.perf_counter()
        train, validation = self._matrix(x), self._matrix(x_validation)
        y, y_validation = _labels(is_fraud, train), _labels(is_fraud_validation, validation)
        _require_both_kinds(y, y_validation)
        parameters = self._parameters(len(train), seed)
        data = self._data(train, y, parameters)
        booster = lgb.train(
            parameters,
            data,
            num_boost_round=self.config.max_rounds,
            valid_sets=[data.create_valid(validation, y_validation)],
            callbacks=[lgb.early_stopping(self.config.patience, verbose=False)],
        )
        best = booster.best_iteration or booster.current_iteration()
        self._booster = _without_parameters(booster.model_to_string(num_iteration=best))
        scores = self._predict(validation)
        return BoostedReport(
            rounds=booster.current_iteration(),
            best_round=best,
            seconds=time.perf_counter() - started,
            validation_ap=average_precision(scores, y_validation),
        )

    def _data(
        self, rows: Matrix, y: npt.NDArray[np.bool_], parameters: dict[str, Any]
    ) -> lgb.Dataset:
        categorical = [self.feature_names.index(name) for name in sorted(self.categorical)]
        return lgb.Dataset(
            rows, y, params=parameters, categorical_feature=categorical, free_raw_data=True
        )

    def _parameters(self, n_rows: int, seed: int) -> dict[str, Any]:
        return {
            "objective": "binary",
            "metric": "average_precision",
            "num_leaves": self.config.leaves,
            "min_data_in_leaf": self.config.least_rows_a_leaf,
            "learning_rate": self.config.learning_rate,
            "max_bin": self.config.max_bins,
            "min_data_in_bin": 1,
            "bin_construct_sample_cnt": n_rows,  # bins from all rows: rare values are the point
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": torch.get_num_threads(),
            "seed": seed,
            "verbosity": -1,
        }

    def score(self, x: Tensor) -> Tensor:
        """Give the log-odds of fraud, each independent of the other rows.

        Shape:
            x: (batch, features), raw. Returns: (batch,), float64, on x's device.

        Raises:
            ValueError: if the width is not that of the fit.
            NotFittedError: if neither ``fit`` nor ``loads`` was called.
        """
        return torch.from_numpy(self._predict(self._matrix(x))).to(x.device)

    def _predict(self, rows: Matrix) -> Matrix:
        booster = self._fitted()
        if not len(rows):  # LightGBM refuses a matrix without rows
            return np.empty(0)
        threads = torch.get_num_threads()
        return np.asarray(booster.predict(rows, raw_score=True, num_threads=threads), np.float64)

    def _fitted(self) -> lgb.Booster:
        if self._booster is None:
            raise NotFittedError("Boosted was not fitted; call fit or loads first")
        return self._booster

    def _matrix(self, x: Tensor) -> Matrix:
        try:
            check_width(x, len(self.feature_names))
        except ValueError as error:
            raise ValueError(f"{error}; the features are {list(self.feature_names)}") from None
        return np.ascontiguousarray(x.detach().cpu().double().numpy())

    def dumps(self) -> str:
        """Write the trees in LightGBM's text format, after a line that describes them.

        Raises:
            NotFittedError: if neither ``fit`` nor ``loads`` was called.
        """
        trees = self._fitted().model_to_string()
        return json.dumps(self._head(trees), sort_keys=True) + "\n" + trees

    def _head(self, trees: str) -> dict[str, object]:
        return {
            "features": list(self.feature_names),
            "categorical": sorted(self.categorical),
            "sha256": hashlib.sha256(trees.encode()).hexdigest(),
        }

    @classmethod
    def loads(
        cls,
        config: BoostedConfig,
        feature_names: Sequence[str],
        categorical: Collection[str],
        text: str,
    ) -> Self:
        """Read what ``dumps`` wrote; scores are the same bit for bit.

        Raises:
            ValueError: if the text is damaged, or of a model of other features.
        """
        model = cls(config, feature_names, categorical)
        first, _, trees = text.partition("\n")
        try:
            head = json.loads(first)
        except json.JSONDecodeError:
            raise ValueError("expected boosted trees, got a text without their head") from None
        expected = model._head(trees)
        if not isinstance(head, dict) or head.get("sha256") != expected["sha256"]:
            raise ValueError("expected boosted trees as they were written, got a damaged text")
        if head != expected:
            raise ValueError(
                f"expected boosted trees on {expected['features']}, categorical "
                f"{expected['categorical']}, got {head.get('features')}, categorical "
                f"{head.get('categorical')}"
            )
        model._booster = lgb.Booster(model_str=trees)
        return model


def _without_parameters(text: str) -> lgb.Booster:
    """Make the trees from their text, without the fit's settings, which name its threads."""
    return lgb.Booster(model_str=text.partition("\nparameters:")[0])


def _labels(is_fraud: Tensor, rows: Matrix) -> npt.NDArray[np.bool_]:
    if tuple(is_fraud.shape) != (len(rows),):
        raise ValueError(f"expected {len(rows)} labels, got shape {tuple(is_fraud.shape)}")
    return is_fraud.cpu().numpy().astype(bool)


def _require_both_kinds(y: npt.NDArray[np.bool_], y_validation: npt.NDArray[np.bool_]) -> None:
    if y.sum() < LEAST_FRAUDS or y.all():
        raise TooFewLabelsError(
            f"expected at least {LEAST_FRAUDS} known frauds and a genuine row to learn from, "
            f"got {y.sum()} frauds in {len(y)} rows; wait for more labels"
        )
    if not y_validation.any() or y_validation.all():
        raise TooFewLabelsError(
            "expected frauds and genuine rows to validate on, "
            f"got {y_validation.sum()} frauds in {len(y_validation)} rows"
        )
