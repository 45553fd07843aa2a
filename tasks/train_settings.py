"""What ``[train]`` in nightwarden.toml may say; apart from ``fit``, which takes seconds to import."""

from pydantic import BaseModel, ConfigDict, Field

from tasks.feature_catalog import LEAN_FEATURES


class TrainSettings(BaseModel):
    """What the detectors are trained on and how."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    history_days: int = Field(70, ge=2, description="Days of transactions to train on.")
    held_out_days: int = Field(14, ge=1, description="Last known days: calibration and threshold.")
    members: tuple[str, ...] = Field(("gaussian", "autoencoder", "vae"), min_length=1)
    weights: dict[str, float] = Field({}, description="Ensemble weights, where not the default.")
    features: tuple[str, ...] = Field(LEAN_FEATURES, min_length=1)
    max_rows: int = Field(300_000, ge=100, description="Training rows; more are sampled down.")
    seed: int = 0
