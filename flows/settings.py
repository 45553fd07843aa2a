"""The settings: ``nightwarden.toml`` read once into frozen models, unknown keys refused.

``NIGHTWARDEN_SECTION__KEY`` in the environment overrides a key (``NIGHTWARDEN_QUEUE__CAPACITY=50``);
the connection of a PostgreSQL source, the pseudonym key and the secret that signs webhooks have
names of their own: ``NIGHTWARDEN_SOURCE_DSN``, ``NIGHTWARDEN_PSEUDONYM_KEY``,
``NIGHTWARDEN_WEBHOOK_SECRET``. Passwords come from the environment alone: an address that holds one
is refused in the file.
"""

import glob
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from desk.settings import DeskSettings
from tasks.context import Context
from tasks.registry_settings import MlflowSettings
from tasks.review_settings import (
    EvaluateSettings,
    LabelSettings,
    PromotionSettings,
    QueueSettings,
)
from tasks.train_settings import TrainSettings
from warehouse.connection import WarehouseSettings
from warehouse.errors import SettingsError
from warehouse.privacy import PseudonymKey
from warehouse.rules import ValidationSettings
from warehouse.source import SourceSettings

PREFIX = "NIGHTWARDEN_"
DIRECT = {
    "NIGHTWARDEN_CONFIG",
    "NIGHTWARDEN_PSEUDONYM_KEY",
    "NIGHTWARDEN_SOURCE_DSN",
    "NIGHTWARDEN_WEBHOOK_SECRET",
}
ADDRESSES = {
    ("source", "dsn"): "NIGHTWARDEN_SOURCE_DSN",
    ("warehouse", "catalog"): "NIGHTWARDEN_WAREHOUSE__CATALOG",
    ("queue", "database"): "NIGHTWARDEN_QUEUE__DATABASE",
    ("mlflow", "tracking_uri"): "NIGHTWARDEN_MLFLOW__TRACKING_URI",
}
"""Settings whose value may hold a password, and the variable that may bring one."""
SECRET = {*ADDRESSES, ("desk", "webhook_secret")}
PASSWORD = re.compile(r"://[^/@]*:[^/@]+@|\bpassword\s*=", re.IGNORECASE)


class RunSettings(BaseModel):
    """Where and on what the flows run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: Literal["auto", "cpu", "cuda"] = "auto"
    deterministic: bool = Field(
        False, description="On a GPU, whether a seed gives the same weights each time; slower."
    )
    threads: int = Field(
        1, ge=1, description="Threads of a network; more are slower while other work runs."
    )
    workers: int = Field(
        2, ge=1, le=64, description="Days of a backfill, or members in training, at a time."
    )
    catch_up_days: int = Field(
        14, ge=1, le=366, description="How far back a scheduled night looks for missed ones."
    )


class Settings(BaseModel):
    """Everything in ``nightwarden.toml``; paths are relative to its folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: SourceSettings
    warehouse: WarehouseSettings = WarehouseSettings()
    validation: ValidationSettings = ValidationSettings()
    train: TrainSettings = TrainSettings()
    labels: LabelSettings = LabelSettings()
    queue: QueueSettings = QueueSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    promotion: PromotionSettings = PromotionSettings()
    mlflow: MlflowSettings = MlflowSettings()
    desk: DeskSettings = DeskSettings()
    run: RunSettings = RunSettings()
    folder: Path = Field(exclude=True)
    pseudonym_key: PseudonymKey | None = Field(None, exclude=True)

    @model_validator(mode="after")
    def _require_labels_to_arrive_first(self) -> Self:
        delay = self.source.label.delay_days if self.source.label else 0
        mature = self.labels.mature_after_days
        if mature is not None and mature < delay:
            message = (
                f"labels.mature_after_days must not be less than source.label.delay_days, {delay}: "
                f"frauds of days that count as judged would not be known yet; got {mature}"
            )
            raise ValueError(message)
        return self

    @property
    def queue_address(self) -> str | Path:
        """URL of the shared review queue, or the file of the warehouse's own."""
        return self.queue.address(self.warehouse)

    def context(self) -> Context:
        """Give what the steps need, as plain values."""
        return Context(
            warehouse=self.warehouse,
            source=self.source,
            validation=self.validation,
            train=self.train,
            labels=self.labels,
            queue=self.queue,
            evaluate=self.evaluate,
            promotion=self.promotion,
            device=self.run.device,
            threads=self.run.threads,
            workers=self.run.workers,
            deterministic=self.run.deterministic,
            mlflow=self.mlflow,
            key=self.pseudonym_key,
        )

    @classmethod
    def read(cls, file: Path, environment: Mapping[str, str] | None = None) -> Self:
        """Read the file, then the environment over it.

        Raises:
            SettingsError: if the file is missing, is no TOML, or a key or value is wrong.
        """
        environment = os.environ if environment is None else environment
        raw = _read_toml(file)
        inner = sorted({"folder", "pseudonym_key"} & set(raw))
        if inner:
            message = f"{file}: unknown key {inner[0]}; remove it or correct its spelling"
            raise SettingsError(message)
        _refuse_passwords(raw, file)
        _override(raw, environment)
        folder = file.resolve().parent
        _resolve_paths(raw, folder)
        key = PseudonymKey.read(
            folder / "nightwarden.key", environment.get("NIGHTWARDEN_PSEUDONYM_KEY")
        )
        try:
            return cls.model_validate(raw | {"folder": folder, "pseudonym_key": key})
        except ValidationError as error:
            reason = _explain(error)
        # pydantic's own text holds what was given, and a flow's record the whole chain: none is left
        raise SettingsError(f"{file}: {reason}")


def _read_toml(file: Path) -> dict[str, Any]:
    if not file.exists():
        message = f"no settings file {file}: make one with nightwarden init --source GLOB"
        raise SettingsError(message)
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        message = f"the settings file {file} cannot be read: {error.strerror}"
        raise SettingsError(message) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        message = f"{file} is no valid TOML: {error}"
        raise SettingsError(message) from error


def _refuse_passwords(raw: dict[str, Any], file: Path) -> None:
    """Refuse an address in the file that holds a password; its value is not shown."""
    for (section, key), variable in ADDRESSES.items():
        table = raw.get(section)
        value = table.get(key) if isinstance(table, dict) else None
        if isinstance(value, str) and PASSWORD.search(value):
            message = (
                f"{file}: {section}.{key} must not hold a password, as files are copied and read; "
                f"set {variable} in the environment to the whole address"
            )
            raise SettingsError(message)


def _override(raw: dict[str, Any], environment: Mapping[str, str]) -> None:
    """Lay ``NIGHTWARDEN_SECTION__KEY`` values over the file's; values are TOML, else text."""
    if dsn := environment.get("NIGHTWARDEN_SOURCE_DSN"):
        _section(raw, "source")["dsn"] = dsn
    if secret := environment.get("NIGHTWARDEN_WEBHOOK_SECRET"):
        _section(raw, "desk")["webhook_secret"] = secret
    for name, text in environment.items():
        if not name.startswith(PREFIX) or name in DIRECT:
            continue
        *sections, key = name.removeprefix(PREFIX).lower().split("__")
        table = raw
        for section in sections:
            table = _section(table, section)
        table[key] = _toml_value(text)


def _section(table: dict[str, Any], name: str) -> dict[str, Any]:
    found = table.setdefault(name, {})
    if not isinstance(found, dict):
        message = f"{name} must be a section, [{name}], and a single value is given for it"
        raise SettingsError(message)
    return found


def _toml_value(text: str) -> Any:  # noqa: ANN401 (any TOML value)
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _resolve_paths(raw: dict[str, Any], folder: Path) -> None:
    """Make the warehouse folder and the source path absolute: flows may run from anywhere."""
    warehouse = _section(raw, "warehouse")
    path = warehouse.get("path", "warehouse-data")
    if not isinstance(path, str):
        message = f"warehouse.path must be a text, the name of a folder; got {path!r}"
        raise SettingsError(message)
    warehouse["path"] = folder / path
    data = warehouse.get("data")
    if isinstance(data, str) and "://" not in data:
        warehouse["data"] = str(folder / data)
    source = _section(raw, "source")
    path = source.get("path")
    if isinstance(path, str) and not Path(path).is_absolute():
        # the folder's own name is neither a pattern nor a placeholder
        literal = glob.escape(str(folder)).replace("{", "{{").replace("}", "}}")
        source["path"] = f"{literal}/{path}"


def _explain(error: ValidationError) -> str:
    """Say in a line what is wrong with which keys."""
    reasons = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"]) or "file"
        if problem["type"] == "extra_forbidden":
            reasons.append(f"unknown key {key}; remove it or correct its spelling")
        elif problem["type"] == "missing":
            reasons.append(f"{key} is missing")
        else:
            # of what may hold a password, a whole section too, only what is wrong is told
            given = problem["input"]
            hidden = isinstance(given, dict) or problem["loc"] in SECRET or len(problem["loc"]) < 2
            got = "" if hidden or "://" in str(given) else f" (got {given!r})"
            reasons.append(f"{key}: {problem['msg']}{got}")
    return "; ".join(reasons)
