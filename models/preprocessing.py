"""Scaling, missing values and categorical rarity, fitted on training rows only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.detector import NotFittedError, check_names

NORMAL_QUARTILE_RANGE = 1.349  # interquartile range of a standard normal variable
TRIM = 0.001  # share cut from each end before a standard deviation is taken


@dataclass(frozen=True)
class PreprocessingConfig:
    """Settings of :class:`Preprocessor`.

    Args:
        linear_range: Scaled values within +-linear_range stay as they are; beyond, they grow like
            a logarithm. Wide on purpose: bending everything (asinh) hides the very values that
            fraud has.
        least_quartile_share: The quartile range gives the scale only if it is at least this share
            of the standard deviation; else (a column that is mostly one value) the deviation does.
    """

    linear_range: float = 30.0
    least_quartile_share: float = 0.1

    def __post_init__(self) -> None:
        """Refuse settings without meaning.

        Raises:
            ValueError: if a setting is not positive.
        """
        if self.linear_range <= 0 or self.least_quartile_share <= 0:
            raise ValueError(
                "expected linear_range > 0 and least_quartile_share > 0, "
                f"got {self.linear_range} and {self.least_quartile_share}"
            )


class Preprocessor(nn.Module):
    """Turn a matrix of raw features into what detectors want; remember the feature names.

    Numeric columns: (x - median) / scale, tails tamed; NaN becomes the median, and a column that
    had NaN in training gets an indicator column (at the end). Categorical columns hold integer
    codes >= 0, 0 meaning unknown (as NaN does), and become the standardised negative
    log-frequency of their code. Every value depends on its own row alone.

    Shape:
        x: (batch, features), float32 or float64. transform gives (batch, n_outputs), float64,
            finite.

    Raises:
        ValueError: if the columns are not those of the fit, or a value is infinite or no code.
        NotFittedError: if fit was not called.
    """

    center: Tensor
    scale: Tensor
    rarity: Tensor
    is_indicated: Tensor
    is_fitted: Tensor

    def __init__(
        self,
        config: PreprocessingConfig,
        feature_names: Sequence[str],
        cardinalities: Mapping[str, int] | None = None,
    ) -> None:
        """Declare the columns; ``cardinalities`` has the categorical ones' number of codes.

        Raises:
            ValueError: if a name is repeated, or a categorical column is not a feature or has no
                codes.
        """
        super().__init__()
        self.config = config
        self.feature_names = tuple(feature_names)
        self.cardinalities = dict(cardinalities or {})
        if len(set(self.feature_names)) != len(self.feature_names) or not self.feature_names:
            raise ValueError(f"expected distinct feature names, got {list(feature_names)}")
        for name, cardinality in self.cardinalities.items():
            if name not in self.feature_names or cardinality < 1:
                raise ValueError(
                    f"expected a feature name with a cardinality >= 1, got {name!r}: {cardinality}"
                )
        n_features = len(self.feature_names)
        most_codes = max(self.cardinalities.values(), default=1)
        self.register_buffer("center", torch.zeros(n_features, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(n_features, dtype=torch.float64))
        self.register_buffer("rarity", torch.zeros(n_features, most_codes, dtype=torch.float64))
        self.register_buffer("is_indicated", torch.zeros(n_features, dtype=torch.bool))
        self.register_buffer("is_fitted", torch.tensor(False))

    @property
    def n_outputs(self) -> int:
        """Columns that ``transform`` gives: the features, then one per indicated column."""
        return len(self.feature_names) + int(self.is_indicated.sum())

    def fit(self, x: Tensor) -> "Preprocessor":
        """Learn medians, scales, rarities and which columns can be missing.

        Shape:
            x: (rows, features).

        Raises:
            ValueError: if there are no rows, the width is wrong, or a value is infinite or no
                code.
        """
        self._check(x, None)
        if x.shape[0] == 0:
            raise ValueError("expected at least 1 training row, got 0")
        self.to(x.device)
        for column, name in enumerate(self.feature_names):
            values = x[:, column].double()
            if name in self.cardinalities:
                self._fit_categorical(column, values, self.cardinalities[name])
            else:
                present = values[~values.isnan()]
                center, scale = robust_scale(present, self.config.least_quartile_share)
                self.center[column], self.scale[column] = center, scale
                self.is_indicated[column] = present.shape[0] < values.shape[0]
        self.is_fitted.fill_(True)
        return self

    def _fit_categorical(self, column: int, values: Tensor, cardinality: int) -> None:
        codes = values.nan_to_num(nan=0.0).long()
        counts = torch.bincount(codes, minlength=cardinality).double()
        # one more than was seen: a code without a training row is rare, not impossible
        share = (counts + 1) / (codes.shape[0] + cardinality)  # (cardinality,)
        rarity = -share.log()
        mean = (share * rarity).sum()
        deviation = (share * (rarity - mean).square()).sum().sqrt()
        self.rarity[column, :cardinality] = rarity
        self.center[column] = mean
        self.scale[column] = deviation if deviation > 1e-6 else 1.0

    def _check(self, x: Tensor, feature_names: Sequence[str] | None) -> None:
        check_names(x, self.feature_names, feature_names)
        infinite = x.isinf().sum(dim=0)
        if infinite.any():
            column = int(infinite.argmax())
            name = self.feature_names[column]
            raise ValueError(
                f"expected finite values, or NaN for missing; feature {name!r} has "
                f"{int(infinite[column])} infinite of {x.shape[0]}"
            )
        for name, cardinality in self.cardinalities.items():
            codes = x[:, self.feature_names.index(name)].nan_to_num(nan=0.0)
            wrong = (codes < 0) | (codes >= cardinality) | (codes != codes.floor())
            if wrong.any():
                raise ValueError(
                    f"expected whole codes from 0 to {cardinality - 1} in feature {name!r}, "
                    f"got {float(codes[wrong][0])}; use 0 for unknown"
                )

    def check(self, x: Tensor, feature_names: Sequence[str] | None = None) -> None:
        """Refuse rows that ``transform`` cannot take.

        Shape:
            x: (batch, features).

        Raises:
            NotFittedError: if ``fit`` was not called.
            ValueError: if the columns are not those of the fit, or a value is infinite or no code.
        """
        if not self.is_fitted:
            raise NotFittedError("Preprocessor was not fitted; call fit first")
        self._check(x, feature_names)

    def transform(self, x: Tensor, feature_names: Sequence[str] | None = None) -> Tensor:
        """Scale, tame, fill in and add indicators; ``x`` itself is left as it is.

        Shape:
            x: (batch, features). Returns: (batch, n_outputs), float64, finite.

        Raises:
            NotFittedError: if ``fit`` was not called.
            ValueError: if the columns are not those of the fit, or a value is infinite or no code.
        """
        self.check(x, feature_names)
        return self.forward(x)

    def forward(self, x: Tensor) -> Tensor:
        """Transform rows that ``check`` has passed.

        Shape:
            x: (batch, features). Returns: (batch, n_outputs), float64.
        """
        values = x.double()
        missing = values.isnan()  # (batch, features)
        filled = torch.where(missing, self.center, values)
        for name in self.cardinalities:
            column = self.feature_names.index(name)
            codes = values[:, column].nan_to_num(nan=0.0).long()
            filled[:, column] = self.rarity[column][codes]
        scaled = (filled - self.center) / self.scale
        tamed = tame_tails(scaled, self.config.linear_range)
        return torch.cat([tamed, missing[:, self.is_indicated].double()], dim=1)


def robust_scale(values: Tensor, least_quartile_share: float) -> tuple[float, float]:
    """Give the median and a scale > 0.

    The scale is the quartile range, else the trimmed deviation, else the deviation, else 1.

    Shape:
        values: (rows,), float64, finite; may be empty.
    """
    if values.shape[0] == 0:
        return 0.0, 1.0
    ordered = values.sort().values
    last = ordered.shape[0] - 1
    first_quartile, median, third_quartile = (
        float(ordered[round(last * share)]) for share in (0.25, 0.5, 0.75)
    )
    quartile_scale = (third_quartile - first_quartile) / NORMAL_QUARTILE_RANGE
    low, high = ordered[round(last * TRIM)], ordered[round(last * (1 - TRIM))]
    deviation = float(ordered.clamp(low, high).std(correction=0))
    if deviation == 0.0:
        deviation = float(ordered.std(correction=0))
    if quartile_scale > least_quartile_share * deviation:
        return median, quartile_scale
    return median, deviation if deviation > 1e-9 * max(1.0, abs(median)) else 1.0


def tame_tails(scaled: Tensor, linear_range: float) -> Tensor:
    """Leave values within +-linear_range, let those beyond grow like a logarithm.

    Example:
        >>> tame_tails(torch.tensor([-3.0, 10.0, 10.0 + 1.718281828]), 10.0)
        tensor([-3., 10., 11.])
    """
    excess = (scaled.abs() - linear_range).clamp(min=0.0)
    return scaled.clamp(-linear_range, linear_range) + scaled.sign() * excess.log1p()
