"""Several detectors, calibrated to the same scale, combined into one score."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from models.calibration import Calibration
from models.detector import Detector, score_in_blocks
from models.history import History, WindowedRows
from models.preprocessing import Preprocessor
from models.probability import Probability
from models.stacking import BOOSTED, Stack


class Ensemble:
    """Fitted detectors whose calibrated scores are averaged with fixed weights.

    The score is sum(w_m * surprise_m(x)) / sum(w_m), in units of -log10 tail probability: 3 means
    "as rare, on average over the members, as one normal transaction in a thousand".

    Each member sees the columns of its own features (``views``). A detector of sequences also sees
    each row's account history; without one given, every row counts as its account's first.

    With a ``stack``, boosted trees that learned from labels are a further member, and its rule
    joins their surprise with that average; see ``models.hybrid``.
    """

    def __init__(
        self,
        preprocessor: Preprocessor,
        members: Mapping[str, Detector],
        calibrations: Mapping[str, Calibration],
        weights: Mapping[str, float],
        *,
        views: Mapping[str, Sequence[str]] | None = None,
        history_scaler: Preprocessor | None = None,
        stack: Stack | None = None,
    ) -> None:
        """Put fitted parts together; members are kept in alphabetical order.

        Args:
            preprocessor: Scales the features.
            members: Name to detector.
            calibrations: Name to the map from the member's score to its surprise.
            weights: Name to weight >= 0.
            views: Name to the features that the member sees; all, where it is not given.
            history_scaler: Scales the channels of the history; needed by detectors of sequences.
            stack: Boosted trees, where labels were enough to learn from.

        Raises:
            ValueError: if the parts do not fit together.
        """
        if not members or not set(members) == set(calibrations) == set(weights):
            raise ValueError(
                "expected members, calibrations and weights of the same names, got "
                f"{sorted(members)}, {sorted(calibrations)} and {sorted(weights)}"
            )
        self.preprocessor = preprocessor
        self.members = {name: members[name] for name in sorted(members)}
        self.calibrations = {name: calibrations[name] for name in self.members}
        self.weights = {name: float(weights[name]) for name in self.members}
        given = views or {}
        self.views = {name: tuple(given.get(name, self.feature_names)) for name in self.members}
        self.history_scaler = history_scaler
        self.stack = stack
        self.threshold: float | None = None  # least score that is flagged
        self.probability: Probability | None = None  # of fraud, by score
        if self.window and history_scaler is None:
            raise ValueError("expected a history_scaler, since a member reads histories")

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the columns that a row has."""
        return self.preprocessor.feature_names

    @property
    def member_names(self) -> tuple[str, ...]:
        """Names of the columns of ``member_scores``; the boosted trees come last."""
        return (*self.members, BOOSTED) if self.stack else tuple(self.members)

    @property
    def window(self) -> int:
        """Earlier transactions of the account that some member looks at; 0 if none does."""
        return max(window_of(member.config) for member in self.members.values())

    @property
    def device(self) -> torch.device:
        """Where the parts are, and where ``x`` is moved to for scoring."""
        return self.preprocessor.center.device

    def to(self, device: str | torch.device) -> "Ensemble":
        """Move all parts to another device, in place."""
        self.preprocessor.to(device)
        if self.history_scaler is not None:
            self.history_scaler.to(device)
        for name in self.members:
            self.members[name].to(device)
            self.calibrations[name].to(device)
        if self.stack is not None:
            self.stack.calibration.to(device)
        return self

    def member_scores(
        self,
        x: Tensor,
        feature_names: Sequence[str] | None = None,
        *,
        history: History | None = None,
    ) -> Tensor:
        """Give each member's surprise; a row's values do not depend on the other rows.

        Args:
            x: Rows.
            feature_names: Names of their columns, to be checked.
            history: The raw history of each row; only detectors of sequences look at it.

        Shape:
            x: (batch, features), raw, NaN for missing. Returns: (batch, members), float32, on x's
                device.

        Raises:
            ValueError: if the columns are not those of the fit, or a value is infinite or no code.
        """
        rows = x.to(self.device)
        self.preprocessor.check(rows, feature_names)
        # float64 blocks hold float32 input exactly
        gathered = rows if self.window == 0 else self._with_windows(rows, history)
        columns = {name: self.preprocessor.columns_of(view) for name, view in self.views.items()}
        score_block = partial(self._member_scores_of_block, columns)
        surprises = score_in_blocks(score_block, gathered)
        if self.stack is not None:
            boosted = self.stack.surprises(
                rows, self.feature_names, surprises, tuple(self.members)
            )
            surprises = torch.cat([surprises, boosted.unsqueeze(1)], dim=1)
        return surprises.to(x.device)

    def _with_windows(self, rows: Tensor, history: History | None) -> WindowedRows:
        scaler = self.history_scaler
        if scaler is None:  # __init__ has seen to it
            raise ValueError("expected a history_scaler, since a member reads histories")
        raw = history or History.none(rows.shape[0], len(scaler.feature_names))
        return WindowedRows(rows, scale_history(raw.to(self.device), scaler), self.window)

    def _member_scores_of_block(self, columns: Mapping[str, Tensor], block: Tensor) -> Tensor:
        n_features = len(self.feature_names)
        prepared = self.preprocessor.forward(block[:, :n_features])  # (rows, n_outputs)
        surprises = []
        for name, member in self.members.items():
            seen = prepared[:, columns[name]]
            window = window_of(member.config)
            if window:
                newest = window * (member.config.channels + 1)
                seen = torch.cat([seen, block[:, block.shape[1] - newest :]], dim=1)
            # rounded as Detector.score rounds, so that calibration sees what it was fitted on
            surprises.append(self.calibrations[name].forward(member.forward(seen).float()))
        return torch.stack(surprises, dim=1)

    def combine(self, member_scores: Tensor) -> Tensor:
        """Join calibrated scores: the members' weighted average and, with a stack, the trees'.

        Shape:
            member_scores: (batch, members), in the order of ``member_names``. Returns: (batch,),
                float32.
        """
        label_free = self.average(member_scores)
        if self.stack is None:
            return label_free
        return self.stack.hybrid.combine(label_free, member_scores[:, -1])

    def average(self, member_scores: Tensor) -> Tensor:
        """Average the scores of the label-free members with the ensemble's weights.

        Shape:
            member_scores: (batch, members), in the order of ``member_names``. Returns: (batch,),
                float32.
        """
        weights = list(self.weights.values())
        total = torch.zeros_like(member_scores[:, 0], dtype=torch.float64)
        for column, weight in enumerate(weights):
            total = total + weight * member_scores[:, column].double()
        return (total / sum(weights)).to(torch.float32)

    def score(
        self,
        x: Tensor,
        feature_names: Sequence[str] | None = None,
        *,
        history: History | None = None,
    ) -> Tensor:
        """Give the ensemble's anomaly score; higher is more anomalous.

        Args:
            x: Rows.
            feature_names: Names of their columns, to be checked.
            history: The raw history of each row; only detectors of sequences look at it.

        Shape:
            x: (batch, features), raw, NaN for missing. Returns: (batch,), float32, >= 0, on x's
                device.

        Raises:
            ValueError: if the columns are not those of the fit, or a value is infinite or no code.
        """
        return self.combine(self.member_scores(x, feature_names, history=history))


def window_of(config: Any) -> int:  # noqa: ANN401 (one class per detector)
    """Give how many earlier transactions a detector of this config looks at; 0: the row alone."""
    return int(getattr(config, "window", 0))


def scale_history(history: History, scaler: Preprocessor) -> History:
    """Scale the channels of every event, as the detectors of sequences want them.

    Shape:
        history.events: (events, channels), raw. Returns: (events, scaler.n_outputs), float32.
    """
    return History(scaler.transform(history.events).float(), history.end, history.count)
