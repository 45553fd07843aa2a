"""What ``[queue]``, ``[labels]``, ``[evaluate]`` and ``[promotion]`` may say in nightwarden.toml."""

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from warehouse.connection import WarehouseSettings

UNLABELLED_MATURITY_DAYS = 30  # where only analysts and chargebacks say what was fraud


class QueueSettings(BaseModel):
    """How much the analysts can review, and from which score on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    database: SecretStr | None = Field(
        None, description="PostgreSQL URL of a queue that several machines share."
    )
    capacity: int = Field(100, ge=1, le=100_000, description="Alerts a day, at most.")
    audit_share: float = Field(
        0.02, ge=0, le=0.5, description="Random transactions below the threshold, of the capacity."
    )
    threshold: Literal["capacity", "false_positives", "score", "cost"] = Field(
        "capacity", description="What the least score that is flagged comes from."
    )
    false_positives: float | None = Field(
        None, gt=0, description="Genuine alerts a day, for threshold false_positives."
    )
    least_score: float | None = Field(None, ge=0, description="For threshold score.")
    review_cost: float | None = Field(
        None, gt=0, description="What reviewing an alert costs, in units of the amount; for cost."
    )

    def address(self, warehouse: WarehouseSettings) -> str | Path:
        """Give the URL of the shared queue, or the file of the warehouse's own."""
        return self.database.get_secret_value() if self.database else warehouse.queue_path

    @model_validator(mode="after")
    def _require_what_the_threshold_needs(self) -> Self:
        needed = {
            "false_positives": "false_positives",
            "score": "least_score",
            "cost": "review_cost",
        }
        name = needed.get(self.threshold)
        if name is not None and getattr(self, name) is None:
            message = f"threshold {self.threshold!r} needs {name}, which is not set"
            raise ValueError(message)
        return self


class LabelSettings(BaseModel):
    """When a day without a fraud label counts as judged."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mature_after_days: int | None = Field(
        None,
        ge=0,
        le=730,
        description="Days until what is not labelled fraud counts as genuine; "
        "the source's label delay, or 30.",
    )


class EvaluateSettings(BaseModel):
    """What an evaluation tells apart."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    segments: tuple[str, ...] = Field((), description="Columns whose values are judged apart.")
    amount_bands: tuple[float, ...] = Field(
        (10.0, 50.0, 100.0, 500.0), description="Where bands of amounts begin, ascending, above 0."
    )
    resamples: int = Field(1000, ge=100, description="Of the days, for intervals.")

    @model_validator(mode="after")
    def _require_ascending_bands(self) -> Self:
        bands = self.amount_bands
        if any(low >= high for low, high in zip((0.0, *bands), bands, strict=False)):
            message = f"amount_bands must ascend above 0, got {list(bands)}"
            raise ValueError(message)
        return self


class PromotionSettings(BaseModel):
    """When a challenger may become champion, and whether it scores in the shadow until then."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    least_gain: float = Field(
        0.0, description="Average precision that the lower end of the gain must exceed."
    )
    shadow: bool = Field(
        False, description="Whether nights also store the challenger's scores, never queued."
    )
