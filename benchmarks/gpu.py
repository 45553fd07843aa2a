"""Training and scoring of every registered detector on a CUDA device, and agreement with the CPU.

    python benchmarks/gpu.py [--rows 20000000] [--device cuda] [--members a,b] [--json]

Simulates feature rows on the device (a mixture of correlated clusters; one row in two hundred is a
planted anomaly), with a history of earlier rows for the detectors of sequences. Each detector is
fitted by ``fit_ensemble`` with its default settings, on the normal rows of the first half, and
scores all rows. Without a CUDA device it says so and exits with 2; ``--device cpu --rows 20000``
runs the whole script for a check.

Per detector: fit seconds; rows x epochs a second, where rows are those it was trained on (at most
its config's ``max_rows``); scoring rows a second, calibration and scaling included; AUC ROC, as a
sign of life; peak device memory of fit and scoring; mean utilisation of the device as nvidia-smi
tells it. Agreement: Spearman's rank correlation of the two devices' scores on the same rows (goal:
at least 0.999), and the share of rows on different sides of the threshold, the quantile 0.999 of
the device's scores (goal: at most 0.1 %). Only the scoring is compared: both devices score with
the weights that the first one trained.
"""

import argparse
import gc
import json
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from scipy.stats import spearmanr
from torch import Tensor

from models.ensemble import Ensemble, window_of
from models.ensemble_fit import EnsembleConfig, TrainingRows, fit_ensemble
from models.history import History
from models.metrics import roc_auc
from models.registry import REGISTRY

FEATURES = 16
CLUSTERS = 8
CHANNELS = 4  # the first columns are also what is remembered of a row
ROWS_PER_ACCOUNT = 50
ANOMALY_SHARE = 0.005
HELD_OUT_ROWS = 200_000
COMPARED_ROWS = 200_000
CHUNK_ROWS = 2_000_000  # scored at a time: bounds memory, not the result
QUANTILE = 0.999
SAMPLE_SECONDS = 0.5


@dataclass(frozen=True)
class Population:
    """Simulated rows; an account's rows are adjacent, oldest first.

    Shape:
        x: (rows, FEATURES), float32. is_anomaly: (rows,).
    """

    x: Tensor
    is_anomaly: Tensor

    def history(self, start: int, end: int) -> History:
        """Give each row's history, its account's earlier rows; ``start`` begins an account."""
        place = torch.arange(end - start, device=self.x.device)
        return History(self.x[start:end, :CHANNELS], place, place % ROWS_PER_ACCOUNT)


@dataclass(frozen=True)
class Line:
    """What was measured of one detector."""

    name: str
    fit_seconds: float
    epochs: int
    train_rows_per_second: float
    score_rows_per_second: float
    auc: float
    peak_gib: float
    utilisation: float | None
    spearman: float
    crossings: float


class Utilisation:
    """Sample the device's utilisation in a thread, for as long as the ``with`` block lasts."""

    def __init__(self) -> None:
        """Start without samples."""
        self.samples: list[float] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def _sample(self) -> None:
        program = shutil.which("nvidia-smi")
        query = ["--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--id=0"]
        while program and not self._done.wait(SAMPLE_SECONDS):
            found = subprocess.run([program, *query], capture_output=True, text=True, check=False)  # noqa: S603 (constants only)
            if found.stdout.strip().isdigit():
                self.samples.append(float(found.stdout))

    def __enter__(self) -> Self:
        """Start sampling."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop sampling."""
        self._done.set()
        self._thread.join()

    @property
    def mean(self) -> float | None:
        """Mean utilisation in per cent; None where nothing could be sampled."""
        return sum(self.samples) / len(self.samples) if self.samples else None


def simulate(n_rows: int, device: torch.device, seed: int) -> Population:
    """Draw a mixture of correlated clusters and plant anomalies."""
    g = torch.Generator(device=device).manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, device=device)

    centers = 2 * normal(CLUSTERS, FEATURES)
    mixing = normal(FEATURES // 2, FEATURES)
    account = torch.arange(n_rows, device=device) // ROWS_PER_ACCOUNT
    cluster = torch.randint(CLUSTERS, (int(account[-1]) + 1,), generator=g, device=device)
    x = normal(n_rows, FEATURES // 2) @ mixing  # (rows, features): half as many causes as columns
    x += 0.3 * normal(n_rows, FEATURES)
    x += centers[cluster[account]]
    is_anomaly = torch.rand(n_rows, generator=g, device=device) < ANOMALY_SHARE
    places = is_anomaly.nonzero().squeeze(1)
    x[places] += 3 * normal(places.shape[0], FEATURES)  # breaks the correlations
    return Population(x, is_anomaly)


def training_rows(population: Population, start: int, end: int) -> TrainingRows:
    """Take the normal rows of a span of whole accounts, with their history."""
    is_normal = (~population.is_anomaly[start:end]).nonzero().squeeze(1)
    history = population.history(start, end).take(is_normal)
    return TrainingRows(population.x[start:end][is_normal], history)


def score_all(ensemble: Ensemble, population: Population) -> Tensor:
    """Score every row with the ensemble's only member.

    Shape:
        Returns: (rows,), float32, on the device.
    """
    parts = []
    for start in range(0, population.x.shape[0], CHUNK_ROWS):
        end = min(start + CHUNK_ROWS, population.x.shape[0])
        history = population.history(start, end)
        parts.append(ensemble.member_scores(population.x[start:end], history=history)[:, 0])
    return torch.cat(parts)


def agreement(ensemble: Ensemble, population: Population, scores: Tensor) -> tuple[float, float]:
    """Score some rows on the CPU, too; give Spearman's correlation and the share of crossings."""
    n_rows = min(COMPARED_ROWS, scores.shape[0])
    threshold = float(scores.double().sort().values[int(QUANTILE * (scores.shape[0] - 1))])
    there = scores[:n_rows].cpu()
    few = Population(population.x[:n_rows].cpu(), population.is_anomaly[:n_rows].cpu())
    here = score_all(ensemble.to("cpu"), few)
    crossings = ((here > threshold) != (there > threshold)).double().mean()
    return float(spearmanr(here.numpy(), there.numpy()).statistic), float(crossings)


def synchronise(device: torch.device) -> float:
    """Wait for the device and give the time."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def measure(name: str, population: Population, device: torch.device) -> Line:
    """Fit, score and compare one detector."""
    config = REGISTRY[name].config()
    n_rows = population.x.shape[0]
    half = n_rows // 2 // ROWS_PER_ACCOUNT * ROWS_PER_ACCOUNT
    held_out = min(HELD_OUT_ROWS, half // 4) // ROWS_PER_ACCOUNT * ROWS_PER_ACCOUNT
    channels = [f"channel_{place}" for place in range(CHANNELS)] if window_of(config) else []
    settings = EnsembleConfig({name: config}, {name: 1.0}, history_channels=channels)
    train = training_rows(population, 0, half - held_out)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with Utilisation() as utilisation:
        ensemble, reports = fit_ensemble(
            train,
            training_rows(population, half - held_out, half),
            [f"column_{place}" for place in range(FEATURES)],
            settings,
            seed=0,
            device=device,
        )
        started = synchronise(device)
        scores = score_all(ensemble, population)
        score_seconds = synchronise(device) - started
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    report = reports[name]
    trained = min(train.x.shape[0], getattr(config, "max_rows", train.x.shape[0]))
    return Line(
        name,
        report.seconds,
        report.epochs,
        trained * report.epochs / report.seconds,
        n_rows / score_seconds,
        roc_auc(scores.cpu().numpy(), population.is_anomaly.cpu().numpy()),
        peak / 2**30,
        utilisation.mean,
        *agreement(ensemble, population, scores),
    )


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--device", default="cuda")
    parser.add_argument(
        "--members", default=",".join(REGISTRY), help="registry names, with commas"
    )
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def main() -> None:
    """Measure every detector and print the table."""
    options = parse_arguments()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.stderr.write("There is no CUDA device here; use --device cpu for a check.\n")
        sys.exit(2)
    started = synchronise(device)
    population = simulate(options.rows, device, seed=0)
    simulated = synchronise(device) - started
    lines = []
    for name in options.members.split(","):
        lines.append(measure(name, population, device))
        gc.collect()
        sys.stderr.write(f"{name} done\n")
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    if options.json:
        content: dict[str, Any] = {
            "device": hardware,
            "rows": options.rows,
            "simulation_seconds": simulated,
            "lines": [asdict(line) for line in lines],
        }
        sys.stdout.write(json.dumps(content, indent=1) + "\n")
        return
    sys.stdout.write(
        f"{options.rows:,} rows x {FEATURES} features on {hardware}, simulated in "
        f"{simulated:.1f} s\n\n"
    )
    sys.stdout.write("".join(map(describe, lines)))


def describe(line: Line) -> str:
    """Write one detector's figures as two lines."""
    busy = "not known" if line.utilisation is None else f"{line.utilisation:.0f} %"
    return (
        f"{line.name}: fit {line.fit_seconds:.1f} s ({line.epochs} epochs, "
        f"{line.train_rows_per_second:,.0f} rows x epochs/s), scores "
        f"{line.score_rows_per_second:,.0f} rows/s, AUC {line.auc:.3f}\n"
        f"    peak {line.peak_gib:.2f} GiB, utilisation {busy}; against the CPU: Spearman "
        f"{line.spearman:.6f}, {100 * line.crossings:.3f} % cross the threshold\n"
    )


if __name__ == "__main__":
    main()
