"""What the parts of ``nightwarden warehouse copy`` tell: what was there, and what arrived."""

from dataclasses import dataclass

from warehouse.errors import WarehouseError


@dataclass(frozen=True)
class Copied:
    """One table, or all versions of the registered model.

    Attributes:
        part: lake, queue or models.
        name: The table's name, or the model's.
        there: Rows, or versions, in the folder that is copied.
        arrived: How many of them are at the target, counted there.
        is_same: Whether the contents were compared, too, and are the same.
    """

    part: str
    name: str
    there: int
    arrived: int
    is_same: bool = True

    @property
    def is_whole(self) -> bool:
        """Whether nothing is missing, and nothing was changed on the way."""
        return self.arrived == self.there and self.is_same


def refuse(part: str, where: str, found: str) -> WarehouseError:
    """Make the error for a target that holds something else.

    Args:
        part: lake, queue or models.
        where: The target, without a password.
        found: What it holds.
    """
    return WarehouseError(
        f"the {part} at {where} must be empty, or a copy of this folder, and it holds {found}; "
        "nothing was changed there: name an empty one in the settings"
    )
