"""Scaling, missing values and categories as numbers, fitted on training rows only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.category_embedding import embed_codes
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
        embedding_dim: Columns at most, beside its rarity, that say what a category's rows are
            usually like; 0 for none.
        prior_rows: Rows at which a category's own mean and the overall mean count alike.
    """

    linear_range: float = 30.0
    least_quartile_share: float = 0.1
    embedding_dim: int = 2
    prior_rows: float = 20.0

    def __post_init__(self) -> None:
        """Refuse settings without meaning.

        Raises:
            ValueError: if a setting is not positive, or ``embedding_dim`` is negative.
        """
        if self.linear_range <= 0 or self.least_quartile_share <= 0:
            raise ValueError(
                "expected linear_range > 0 and least_quartile_share > 0, "
                f"got {self.linear_range} and {self.least_quartile_share}"
            )
        if self.embedding_dim < 0 or self.prior_rows <= 0:
            raise ValueError(
                "expected embedding_dim >= 0 and prior_rows > 0, "
                f"got {self.embedding_dim} and {self.prior_rows}"
            )


class Preprocessor(nn.Module):
    """Turn a matrix of raw features into what detectors want; remember the feature names.

    Numeric columns: (x - median) / scale, tails tamed; NaN becomes the median, and a column that
    had NaN in training gets an indicator column. Categorical columns hold integer codes >= 0, 0
    meaning unknown (as NaN does), and become the standardised negative log-frequency of their
    code; further columns embed the code by what its rows' numeric columns are usually like (see
    :mod:`models.category_embedding`), zero for an unknown one. The outputs are the features in
    order, then the indicators, then the embeddings, both in the features' order. Every value
    depends on its own row alone.

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
    embeddings: Tensor
    is_embedded: Tensor
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
        self.categorical_columns = tuple(
            column for column, name in enumerate(self.feature_names) if name in self.cardinalities
        )
        n_features = len(self.feature_names)
        n_categorical, dim = len(self.categorical_columns), config.embedding_dim
        most_codes = max(self.cardinalities.values(), default=1)
        self.register_buffer("center", torch.zeros(n_features, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(n_features, dtype=torch.float64))
        self.register_buffer("rarity", torch.zeros(n_features, most_codes, dtype=torch.float64))
        self.register_buffer("is_indicated", torch.zeros(n_features, dtype=torch.bool))
        embeddings = torch.zeros(n_categorical, most_codes, dim, dtype=torch.float64)
        self.register_buffer("embeddings", embeddings)
        self.register_buffer("is_embedded", torch.zeros(n_categorical, dim, dtype=torch.bool))
        self.register_buffer("is_fitted", torch.tensor(False))

    @property
    def n_outputs(self) -> int:
        """Columns that ``transform`` gives: features, then indicators, then embeddings."""
        n_added = int(self.is_indicated.sum()) + int(self.is_embedded.sum())
        return len(self.feature_names) + n_added

    def columns_of(self, names: Sequence[str]) -> Tensor:
        """Tell where in ``transform``'s output some features are.

        That is a feature's own column, its indicator and its embedding, if it has them.

        Shape:
            Returns: (places,), int64, ascending, each once, on the preprocessor's device.

        Raises:
            NotFittedError: if ``fit`` was not called.
            ValueError: naming the features that are not known.
        """
        self._check_fitted()
        unknown = [name for name in names if name not in self.feature_names]
        if unknown:
            raise ValueError(
                f"expected features among {list(self.feature_names)}, got also {unknown}"
            )
        is_wanted = [name in names for name in self.feature_names]
        wanted = torch.tensor(is_wanted, device=self.center.device)  # (features,)
        embedded, _ = torch.where(self.is_embedded)  # the categorical column of each embedding one
        is_chosen = torch.cat(
            [wanted, wanted[self.is_indicated], wanted[list(self.categorical_columns)][embedded]]
        )  # (n_outputs,)
        return torch.where(is_chosen)[0]

    def fit(self, x: Tensor) -> "Preprocessor":
        """Learn medians, scales, rarities, embeddings and which columns can be missing.

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
        self._fit_embeddings(x)
        self.is_fitted.fill_(True)
        return self

    def _fit_categorical(self, column: int, values: Tensor, cardinality: int) -> None:
        codes = to_codes(values)
        counts = torch.bincount(codes, minlength=cardinality).double()
        # one more than was seen: a code without a training row is rare, not impossible
        share = (counts + 1) / (codes.shape[0] + cardinality)  # (cardinality,)
        rarity = -share.log()
        mean = (share * rarity).sum()
        deviation = (share * (rarity - mean).square()).sum().sqrt()
        self.rarity[column, :cardinality] = rarity
        self.center[column] = mean
        self.scale[column] = deviation if deviation > 1e-6 else 1.0

    def _fit_embeddings(self, x: Tensor) -> None:
        if self.embeddings.numel() == 0:
            return
        is_numeric = [name not in self.cardinalities for name in self.feature_names]
        values = self._scale(x.double())[:, is_numeric]
        for place, column in enumerate(self.categorical_columns):
            codes = to_codes(x[:, column])
            n_codes = self.cardinalities[self.feature_names[column]]
            self.embeddings[place, :n_codes] = embed_codes(
                codes,
                values,
                n_codes,
                embedding_dim=self.config.embedding_dim,
                prior_rows=self.config.prior_rows,
            )
        self.is_embedded.copy_(self.embeddings.any(dim=1))

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
        self._check_fitted()
        self._check(x, feature_names)

    def _check_fitted(self) -> None:
        if not self.is_fitted:
            raise NotFittedError("Preprocessor was not fitted; call fit first")

    def transform(self, x: Tensor, feature_names: Sequence[str] | None = None) -> Tensor:
        """Scale, tame, fill in, add indicators and embeddings; ``x`` itself is left as it is.

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
        missing = values.isnan()[:, self.is_indicated]  # (batch, indicated features)
        parts = [self._scale(values), missing.double()]
        for place, column in enumerate(self.categorical_columns):
            embedding = self.embeddings[place][to_codes(values[:, column])]  # (batch, dim)
            parts.append(embedding[:, self.is_embedded[place]])
        return torch.cat(parts, dim=1)

    def _scale(self, values: Tensor) -> Tensor:
        filled = torch.where(values.isnan(), self.center, values)  # (batch, features)
        for column in self.categorical_columns:
            filled[:, column] = self.rarity[column][to_codes(values[:, column])]
        return tame_tails((filled - self.center) / self.scale, self.config.linear_range)


def to_codes(values: Tensor) -> Tensor:
    """Give a categorical column as int64; missing is unknown, 0.

    Shape:
        values: (rows,). Returns: (rows,).
    """
    return values.nan_to_num(nan=0.0).long()


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
