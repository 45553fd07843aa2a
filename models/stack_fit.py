"""Fit boosted trees beside a fitted ensemble: on labelled rows of earlier days, held to later ones."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, fields

from torch import Tensor

from models.boosted import Boosted, BoostedConfig, BoostedReport
from models.calibration import Calibration, CalibrationConfig
from models.ensemble import Ensemble
from models.hybrid import choose_hybrid
from models.stacking import MEMBER_PREFIX, Stack, stacked_rows


@dataclass(frozen=True)
class StackConfig:
    """What the boosted trees see and how their score joins the members'.

    Args:
        features: Raw columns that the trees see.
        categorical: Those of them that hold codes.
        member_scores: Whether the trees also see the members' surprises.
        capacity: Alerts a day.
        are_all_labelled: Whether somebody looked for fraud among all rows, not only among alerts; else
            decided rows say how many trees, and labels do not widen the share below.
        reserved_share: Least share of the capacity kept for what only the members find.
        boosted: How the trees are grown.
        calibration: How their log-odds become tail probabilities.
    """

    features: Sequence[str]
    categorical: Collection[str]
    member_scores: bool
    capacity: int
    are_all_labelled: bool
    reserved_share: float
    boosted: BoostedConfig = field(default_factory=BoostedConfig)
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)


@dataclass(frozen=True)
class LabelledRows:
    """Rows of mature days, with the members' surprises.

    Shape:
        x: (rows, features), raw. members: (rows, members). is_fraud: (rows,), boolean.
            is_labelled: (rows,), boolean, whether anybody said so. days: (rows,), whole numbers.
    """

    x: Tensor
    members: Tensor
    is_fraud: Tensor
    is_labelled: Tensor
    days: Tensor

    def where(self, chosen: Tensor) -> "LabelledRows":
        """Choose rows.

        Shape:
            chosen: (rows,), boolean.
        """
        return LabelledRows(*(getattr(self, part.name)[chosen] for part in fields(self)))


def fit_stack(
    ensemble: Ensemble,
    train: LabelledRows,
    tuning: LabelledRows,
    held_out: LabelledRows,
    config: StackConfig,
    *,
    seed: int,
) -> tuple[Stack, BoostedReport]:
    """Fit the trees on ``train``; ``tuning`` rows of later days say how many.

    They also set the rule that joins the scores. All held-out genuine rows calibrate the trees.
    The trees are not fitted anew with the held-out days, so that a gate can judge the very model on
    them. The members' average in that rule has the ensemble's weights as they are: weights learned from
    labels trust what finds known frauds, and the trees find these better.

    Raises:
        TooFewLabelsError: if there are too few frauds among the rows.
        ValueError: if a column is missing.
    """
    members = tuple(MEMBER_PREFIX + name for name in ensemble.members)
    wanted = (*config.features, *(members if config.member_scores else ()))
    boosted = Boosted(config.boosted, wanted, config.categorical)
    stopping = tuning if config.are_all_labelled else tuning.where(tuning.is_labelled)
    report = boosted.fit(
        _seen(boosted, ensemble, train),
        train.is_fraud,
        _seen(boosted, ensemble, stopping),
        stopping.is_fraud,
        seed=seed,
    )
    genuine = held_out.where(~held_out.is_fraud)
    scores = boosted.score(_seen(boosted, ensemble, genuine))
    calibration = Calibration(config.calibration).fit(scores)
    hybrid = choose_hybrid(
        ensemble.average(tuning.members),
        calibration.forward(boosted.score(_seen(boosted, ensemble, tuning))).float(),
        tuning.days,
        capacity=config.capacity,
        reserved_share=config.reserved_share,
        is_fraud=tuning.is_fraud if config.are_all_labelled else None,
    )
    return Stack(boosted, calibration, hybrid), report


def _seen(boosted: Boosted, ensemble: Ensemble, rows: LabelledRows) -> Tensor:
    return stacked_rows(
        boosted.feature_names,
        rows.x,
        ensemble.feature_names,
        rows.members,
        tuple(ensemble.members),
    )
