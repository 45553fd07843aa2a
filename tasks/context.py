"""What every step of the night needs, handed down by the flows as plain values."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.features import lookback_days
from tasks.history import HISTORY_LOOKBACK_DAYS
from tasks.registry_settings import MlflowSettings
from tasks.review_settings import (
    UNLABELLED_MATURITY_DAYS,
    EvaluateSettings,
    LabelSettings,
    PromotionSettings,
    QueueSettings,
)
from tasks.train_settings import TrainSettings
from warehouse.connection import Lake, WarehouseSettings
from warehouse.ledger import digest
from warehouse.privacy import PseudonymKey
from warehouse.rules import ValidationSettings
from warehouse.source import SourceSettings

if TYPE_CHECKING:
    from tasks.tracking import Registry

UNLABELLED_DELAY_DAYS = 7  # the handbook's week, so that merchant windows mean the same everywhere


@dataclass(frozen=True)
class Context:
    """The warehouse and how to fill it, train on it and score from it."""

    warehouse: WarehouseSettings
    source: SourceSettings
    validation: ValidationSettings
    train: TrainSettings
    labels: LabelSettings
    queue: QueueSettings
    evaluate: EvaluateSettings
    promotion: PromotionSettings
    device: str
    threads: int
    workers: int
    deterministic: bool
    mlflow: MlflowSettings = field(default_factory=MlflowSettings)
    key: PseudonymKey | None = field(default=None, repr=False)
    _lakes: threading.local = field(default_factory=threading.local, repr=False, compare=False)
    _opened: list[Lake] = field(default_factory=list, repr=False, compare=False)

    @property
    def capacity(self) -> int:
        """Alerts a day, at most."""
        return self.queue.capacity

    @property
    def maturity_days(self) -> int:
        """Days until what is not labelled fraud counts as genuine."""
        if self.labels.mature_after_days is not None:
            return self.labels.mature_after_days
        return self.source.label.delay_days if self.source.label else UNLABELLED_MATURITY_DAYS

    @property
    def label_delay_days(self) -> int:
        """Days until a label is known."""
        return self.source.label.delay_days if self.source.label else UNLABELLED_DELAY_DAYS

    @property
    def lookback(self) -> timedelta:
        """How far before a day its features and its accounts' histories look."""
        return timedelta(days=max(lookback_days(self.label_delay_days), HISTORY_LOOKBACK_DAYS))

    @property
    def queue_address(self) -> str | Path:
        """URL of the shared review queue, or the file of the warehouse's own."""
        return self.queue.address(self.warehouse)

    @property
    def pages(self) -> Path:
        """Folder of the Data Docs pages, one a day."""
        return self.warehouse.path / "data-docs"

    def lake(self) -> Lake:
        """Give this thread's connection to the lake; opening one takes a quarter of a second."""
        lake: Lake | None = getattr(self._lakes, "lake", None)
        if lake is None:
            lake = Lake.open(self.warehouse)
            self._lakes.lake = lake
            self._opened.append(lake)
        return lake

    def registry(self) -> "Registry":
        """Give the store of training runs and models."""
        from tasks.tracking import Registry

        return Registry(self.warehouse, self.mlflow)

    @contextmanager
    def closing(self) -> Iterator["Context"]:
        """Close every connection that was opened, at the end of a flow."""
        try:
            yield self
        finally:
            for lake in self._opened:
                lake.close()
            self._opened.clear()
            self._lakes.__dict__.clear()

    def scoring_digest(self) -> str:
        """Give the digest of the settings that a day's scores depend on."""
        rules = self.queue.model_dump(mode="json", exclude={"audit_share", "database"})
        return digest([rules, self.label_delay_days, self.source.time_zone])

    def training_digest(self) -> str:
        """Give the digest of the settings that a trained model depends on."""
        known = [self.train.model_dump(mode="json"), self.maturity_days]
        return digest([*known, self.scoring_digest()])
