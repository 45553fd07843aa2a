"""Boosted trees beside the label-free members: what they see, and how the two make one score."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from models.boosted import Boosted
from models.calibration import Calibration
from models.hybrid import Hybrid

BOOSTED = "boosted"
MEMBER_PREFIX = "member."


@dataclass(frozen=True)
class Stack:
    """Fitted trees, the map from their log-odds to surprise, and the rule that joins both scores.

    The trees see raw columns of a row and, where their features are named so, members' surprises
    (``member.NAME``).
    """

    boosted: Boosted
    calibration: Calibration
    hybrid: Hybrid

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Names of the raw columns that the trees see."""
        return tuple(n for n in self.boosted.feature_names if not n.startswith(MEMBER_PREFIX))

    def surprises(
        self, x: Tensor, feature_names: Sequence[str], members: Tensor, member_names: Sequence[str]
    ) -> Tensor:
        """Give the trees' surprise, on the same scale as the members'.

        Shape:
            x: (batch, features), raw. members: (batch, members), surprises. Returns: (batch,),
                float32, on x's device.
        """
        seen = stacked_rows(self.boosted.feature_names, x, feature_names, members, member_names)
        scores = self.boosted.score(seen)
        surprises = self.calibration.forward(scores.to(self.calibration.knots.device))
        return surprises.float().to(x.device)


def stacked_rows(
    wanted: Sequence[str],
    x: Tensor,
    feature_names: Sequence[str],
    members: Tensor,
    member_names: Sequence[str],
) -> Tensor:
    """Choose what the trees see of raw columns and members' surprises, in their order.

    Shape:
        x: (batch, features), raw. members: (batch, members). Returns: (batch, wanted).

    Raises:
        ValueError: if a column is not there.
    """
    names = [*feature_names, *(MEMBER_PREFIX + name for name in member_names)]
    missing = sorted(set(wanted) - set(names))
    if missing:
        raise ValueError(f"expected the columns {missing} for the boosted trees, got {names}")
    places = torch.tensor([names.index(name) for name in wanted], device=x.device)
    return torch.cat([x, members.to(x)], dim=1)[:, places]
