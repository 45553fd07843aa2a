"""The only list of detectors: name to detector class and config class."""

from collections.abc import Callable
from typing import Any, NamedTuple

from models.autoencoder import Autoencoder, AutoencoderConfig
from models.deep_svdd import DeepSVDD, DeepSVDDConfig
from models.detector import Detector
from models.flow import Flow, FlowConfig
from models.gan import GAN, GANConfig
from models.gaussian import Gaussian, GaussianConfig
from models.nearest_neighbours import NearestNeighbours, NearestNeighboursConfig
from models.one_class_svm import OneClassSVM, OneClassSVMConfig
from models.recurrent import Recurrent, RecurrentConfig
from models.tails import Tails, TailsConfig
from models.transformer import Transformer, TransformerConfig
from models.vae import VAE, VAEConfig


class DetectorEntry(NamedTuple):
    """One row of the registry; ``detector(config, n_features)`` makes an unfitted detector."""

    detector: Callable[[Any, int], Detector]
    config: type[Any]


REGISTRY: dict[str, DetectorEntry] = {
    "autoencoder": DetectorEntry(Autoencoder, AutoencoderConfig),
    "deep_svdd": DetectorEntry(DeepSVDD, DeepSVDDConfig),
    "flow": DetectorEntry(Flow, FlowConfig),
    "gan": DetectorEntry(GAN, GANConfig),
    "gaussian": DetectorEntry(Gaussian, GaussianConfig),
    "nearest_neighbours": DetectorEntry(NearestNeighbours, NearestNeighboursConfig),
    "one_class_svm": DetectorEntry(OneClassSVM, OneClassSVMConfig),
    "recurrent": DetectorEntry(Recurrent, RecurrentConfig),
    "tails": DetectorEntry(Tails, TailsConfig),
    "transformer": DetectorEntry(Transformer, TransformerConfig),
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
