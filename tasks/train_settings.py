"""What ``[train]`` in nightwarden.toml may say; apart from ``fit``, which takes seconds to import."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from tasks.feature_catalog import BOOSTED_FEATURES, LEAN_FEATURES

DEFAULT_MEMBERS = (
    "autoencoder",
    "deep_svdd",
    "flow",
    "gan",
    "gaussian",
    "nearest_neighbours",
    "one_class_svm",
    "recurrent",
    "tails",
    "transformer",
    "vae",
)


class EnsembleSettings(BaseModel):
    """Whether boosted trees that learn from labels join the detectors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Literal["auto", "unsupervised", "stacked"] = Field(
        "auto", description="auto: the trees join where they win on the validation days."
    )
    features: tuple[str, ...] = Field(
        BOOSTED_FEATURES,
        min_length=1,
        description="What the trees see, as far as the data have it.",
    )
    member_scores: bool = Field(
        False, description="Whether the trees also see the members' scores."
    )
    reserved_share: float = Field(
        0.1, ge=0, le=0.9, description="Least share of the capacity for what only members find."
    )


class TrainSettings(BaseModel):
    """What the detectors are trained on and how."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    history_days: int = Field(70, ge=2, description="Days of transactions to train on.")
    held_out_days: int = Field(14, ge=1, description="Last known days: calibration and threshold.")
    members: tuple[str, ...] = Field(DEFAULT_MEMBERS, min_length=1)
    weights: dict[str, float] = Field({}, description="Ensemble weights, where not the default.")
    weighting: Literal["learned", "fixed"] = Field(
        "learned", description="Whether weights are learned once enough frauds are known."
    )
    features: tuple[str, ...] = Field(LEAN_FEATURES, min_length=1)
    member_features: dict[str, tuple[str, ...]] = Field(
        {}, description="Features that a member sees, where not all."
    )
    max_rows: int = Field(
        300_000, ge=100, description="Training rows, about; more are sampled down."
    )
    ensemble: EnsembleSettings = EnsembleSettings()
    seed: int = 0

    def all_features(self) -> tuple[str, ...]:
        """Give every feature that some member sees, each once."""
        own = (name for names in self.member_features.values() for name in names)
        return tuple(dict.fromkeys([*self.features, *own]))
