"""PyOD's detectors behind one small interface, for the benchmarks; only this file imports PyOD.

    peer = make_peer("KNN", seed=0)
    peer.fit(x_train)
    scores = peer.score(x_test)

Give every peer standardised features. PyOD's own defaults are kept unless a comment beside the
setting says otherwise. Scores are higher for more anomalous rows.

PyOD's networks draw from the global generators of numpy and torch whatever ``random_state`` they
are given, so ``fit`` seeds those; a VAE's scores are random (one latent draw a row), so ``score``
does, too. ALAD never leaves training mode: its dropout stays on while it scores.
"""

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pyod.models.alad import ALAD
from pyod.models.auto_encoder import AutoEncoder
from pyod.models.deep_svdd import DeepSVDD
from pyod.models.iforest import IForest
from pyod.models.inne import INNE
from pyod.models.knn import KNN
from pyod.models.loda import LODA
from pyod.models.ocsvm import OCSVM
from pyod.models.pca import PCA
from pyod.models.vae import VAE

MAX_TRAINING_ROWS = 60_000
KNN_ROWS = 20_000  # every query searches all of them: 60,000 rows would take minutes
OCSVM_ROWS = 6_000  # half of the rows become support vectors, which each query is compared with
ALAD_BATCH_ROWS = 1024

Matrix = npt.NDArray[np.float64]
Build = Callable[[int, int, int | None], Any]
"""Makes a PyOD detector of a number of features, a seed and a number of epochs (None: PyOD's)."""


@dataclass(frozen=True)
class PeerEntry:
    """How to make a peer, and how many training rows it is given at most."""

    build: Build
    max_rows: int = MAX_TRAINING_ROWS


def _epochs(name: str, epochs: int | None) -> dict[str, int]:
    return {} if epochs is None else {name: epochs}


def _isolation_forest(_features: int, seed: int, _epochs_wanted: int | None) -> IForest:
    # 200 trees instead of 100 steady the scores; INNE has 200 by default
    return IForest(n_estimators=200, random_state=seed, n_jobs=torch.get_num_threads())


def _nearest_neighbours(_features: int, _seed: int, _epochs_wanted: int | None) -> KNN:
    # the mean of ten distances instead of the fifth alone: a firmer yardstick
    return KNN(n_neighbors=10, method="mean", n_jobs=torch.get_num_threads())


def _autoencoder(_features: int, seed: int, epochs: int | None) -> AutoEncoder:
    return AutoEncoder(random_state=seed, verbose=0, **_epochs("epoch_num", epochs))


def _vae(_features: int, seed: int, epochs: int | None) -> VAE:
    return VAE(random_state=seed, verbose=0, **_epochs("epoch_num", epochs))


def _deep_svdd(features: int, seed: int, epochs: int | None) -> DeepSVDD:
    return DeepSVDD(features, random_state=seed, verbose=0, **_epochs("epochs", epochs))


def _alad(_features: int, _seed: int, epochs: int | None) -> ALAD:
    # ALAD calls one batch an epoch: 200 batches of 32 rows train nothing. It gets as many rows as
    # 20 passes over 60,000 have; each of its steps shuffles all rows, hence the larger batches.
    steps = (epochs or 20) * MAX_TRAINING_ROWS // ALAD_BATCH_ROWS
    return ALAD(epochs=steps, batch_size=ALAD_BATCH_ROWS)


PEERS: dict[str, PeerEntry] = {
    "ALAD": PeerEntry(_alad),
    "AutoEncoder": PeerEntry(_autoencoder),
    "DeepSVDD": PeerEntry(_deep_svdd),
    "IForest": PeerEntry(_isolation_forest),
    "INNE": PeerEntry(lambda _features, seed, _epochs_wanted: INNE(random_state=seed)),
    "KNN": PeerEntry(_nearest_neighbours, KNN_ROWS),
    "LODA": PeerEntry(lambda _features, seed, _epochs_wanted: LODA(random_state=seed)),
    "OCSVM": PeerEntry(lambda _features, _seed, _epochs_wanted: OCSVM(), OCSVM_ROWS),
    "PCA": PeerEntry(lambda _features, seed, _epochs_wanted: PCA(random_state=seed)),
    "VAE": PeerEntry(_vae),
}


@dataclass(frozen=True)
class NetworkShape:
    """What a network of PyOD's and one of ours are to have in common.

    Args:
        hidden: Widths of the hidden layers.
        last: Width of the bottleneck, the latent space or the output.
        epochs: Epochs, all of which are run.
        batch_rows: Rows per update.
    """

    hidden: tuple[int, ...]
    last: int
    epochs: int
    batch_rows: int


def make_network(name: str, n_features: int, shape: NetworkShape) -> Any:  # noqa: ANN401 (PyOD has no types)
    """Make PyOD's AutoEncoder, VAE or DeepSVDD of a given shape, without dropout or scaling.

    Raises:
        KeyError: if there is no such network.
    """
    hidden, width = list(shape.hidden), shape.last
    common = {"epoch_num": shape.epochs, "batch_norm": True, "random_state": 0}
    common |= {"batch_size": shape.batch_rows, "dropout_rate": 0.0}
    common |= {"preprocessing": False, "verbose": 0}
    return {
        "AutoEncoder": lambda: AutoEncoder(hidden_neuron_list=[*hidden, width], **common),
        "VAE": lambda: VAE(
            encoder_neuron_list=hidden,
            decoder_neuron_list=hidden[::-1],
            latent_dim=width,
            **common,
        ),
        "DeepSVDD": lambda: DeepSVDD(
            n_features,
            hidden_neurons=[*hidden, width],
            epochs=shape.epochs,
            batch_size=shape.batch_rows,
            dropout_rate=0.0,
            preprocessing=False,
            verbose=0,
            random_state=0,
        ),
    }[name]()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what PyOD prints, and its warnings, out of the tables."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def seed_globals(seed: int) -> None:
    """Seed the generators that PyOD's networks draw from."""
    np.random.seed(seed)  # noqa: NPY002 (PyOD shuffles with the global generator)
    torch.manual_seed(seed)


@dataclass
class Peer:
    """One PyOD detector; ``fit`` takes at most ``entry.max_rows`` rows, drawn with the seed."""

    entry: PeerEntry
    seed: int
    epochs: int | None = None
    detector: Any = field(default=None, init=False)

    def fit(self, x: Matrix) -> None:
        """Fit on normal rows.

        Shape:
            x: (rows, features), standardised, finite.
        """
        places = np.random.default_rng(self.seed).permutation(x.shape[0])[: self.entry.max_rows]
        with quiet():
            self.detector = self.entry.build(x.shape[1], self.seed, self.epochs)
            seed_globals(self.seed)
            self.detector.fit(x[places])

    def score(self, x: Matrix) -> Matrix:
        """Give anomaly scores.

        Shape:
            x: (batch, features). Returns: (batch,), higher is more anomalous.
        """
        with quiet():
            seed_globals(self.seed)
            return np.asarray(self.detector.decision_function(x), dtype=np.float64)


def make_peer(name: str, seed: int, epochs: int | None = None) -> Peer:
    """Make an unfitted peer; ``epochs`` replaces the networks' own number of epochs.

    Raises:
        ValueError: if there is none of that name.
    """
    if name not in PEERS:
        raise ValueError(f"expected a peer among {sorted(PEERS)}, got {name!r}")
    return Peer(PEERS[name], seed, epochs)
