"""The only list of detectors: name to detector class and config class."""

from collections.abc import Callable
from typing import Any, NamedTuple

from models.autoencoder import Autoencoder, AutoencoderConfig
from models.detector import Detector
from models.gaussian import Gaussian, GaussianConfig
from models.vae import VAE, VAEConfig


class DetectorEntry(NamedTuple):
    """One row of the registry; ``detector(config, n_features)`` makes an unfitted detector."""

    detector: Callable[[Any, int], Detector]
    config: type[Any]


REGISTRY: dict[str, DetectorEntry] = {
    "autoencoder": DetectorEntry(Autoencoder, AutoencoderConfig),
    "gaussian": DetectorEntry(Gaussian, GaussianConfig),
    "vae": DetectorEntry(VAE, VAEConfig),
}


def get_entry(name: str) -> DetectorEntry:
    """Look a detector up by name.

    Raises:
        ValueError: if there is none of that name.
    """
    if name not in REGISTRY:
        raise ValueError(f"expected a detector among {sorted(REGISTRY)}, got {name!r}")
    return REGISTRY[name]
