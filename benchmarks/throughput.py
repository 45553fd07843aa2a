"""Training and scoring speed of our networks beside PyOD's of the same shape, and peak memory.

    python benchmarks/throughput.py [--rows N] [--features N] [--epochs N] [--batch-rows N]
        [--repeats N] [--threads N] [--json]

Equal in each pair: the rows (standardised, so neither side scales them), the widths of all layers
(our defaults), batch normalisation of hidden layers, batch size, epochs (nobody stops early),
threads, no dropout. Every measurement has a process of its own, warmed up by a small fit; the two
sides alternate, and the best of the repeats counts. A second line of each pair has PyOD's own batch
size, 32. CPU seconds are given beside the clock's, because other jobs on the machine stretch the
clock's; compare them with one thread only, since waiting threads spend CPU time.

Not equal, since neither side can be told otherwise:

- Ours clips gradients, follows a learning rate schedule, keeps the best epoch's weights and reads
  a tenth more rows after every epoch to choose it; all of that is in our time.
- PyOD's fit ends by scoring the training rows, which is not in its time.
- PyOD normalises the autoencoder's bottleneck, too, and its DeepSVDD ends in a ReLU.
- Ours scores in float64, in blocks of one shape, so that a row's score never depends on the others;
  PyOD's networks score in float32, and its DeepSVDD all rows in one piece.
- Our VAE averages four latent draws a row, PyOD's takes one, at random.

The detectors of sequences have no peer in PyOD: their line is rows scored a second at a window of
32 transactions.
"""

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.ensemble import window_of
from models.registry import REGISTRY

PYOD_BATCH_ROWS = 32
WINDOW = 32
WINDOWED_ROWS = 8192
PAIRS = {"autoencoder": "AutoEncoder", "vae": "VAE", "deep_svdd": "DeepSVDD"}
Report = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """One measurement: ``name`` is a registry name, ``side`` "ours" or "pyod"."""

    name: str
    side: str
    rows: int
    features: int
    epochs: int
    batch_rows: int
    threads: int


@dataclass(frozen=True)
class Speed:
    """What one process measured; memory is the peak over what was resident before the fit."""

    train_seconds: float
    train_cpu_seconds: float
    score_seconds: float
    score_cpu_seconds: float
    peak_mib: float


@dataclass(frozen=True)
class Times:
    """Seconds by the clock and of CPU."""

    clock: float
    cpu: float

    @classmethod
    def now(cls) -> "Times":
        """Read both clocks."""
        return cls(time.perf_counter(), time.process_time())

    def __sub__(self, other: "Times") -> "Times":
        """Give the seconds between two readings, or what is left of a span."""
        return Times(self.clock - other.clock, self.cpu - other.cpu)


Fit = Callable[[Tensor, int], Times]
"""Fits rows for a number of epochs and gives the time it took."""


def make_rows(n_rows: int, n_features: int, seed: int) -> Tensor:
    """Draw correlated, standardised rows.

    Shape:
        Returns: (n_rows, n_features), float32.
    """
    g = torch.Generator().manual_seed(seed)
    mixing = torch.randn(n_features, n_features, generator=torch.Generator().manual_seed(0))
    x = torch.randn(n_rows, n_features, generator=g) @ mixing
    return x / x.std(dim=0)


def output_width(name: str, n_features: int) -> int:
    """Give the width of the bottleneck, the latent space or the output of our network."""
    config = REGISTRY[name].config()
    if name == "deep_svdd":
        return int(config.output_features)
    share = config.bottleneck_share if name == "autoencoder" else config.latent_share
    return max(1, round(share * n_features))


def prepare_ours(task: Task) -> tuple[Fit, Callable[[Tensor], object]]:
    """Give a function that fits (and gives the time) and one that scores."""
    entry = REGISTRY[task.name]
    made: list[Any] = []

    def fit(x: Tensor, epochs: int) -> Times:
        config = entry.config(
            epochs=epochs,
            batch_rows=task.batch_rows,
            max_rows=x.shape[0],
            min_steps=1,
            patience=10**6,
        )
        made[:] = [entry.detector(config, task.features)]
        held_out = x[: max(1, x.shape[0] // 10)]
        started = Times.now()
        made[0].fit(x, held_out, seed=0)
        return Times.now() - started

    return fit, lambda x: made[0].score(x)


def prepare_pyod(task: Task) -> tuple[Fit, Callable[[Tensor], object]]:
    """Give the same two functions for PyOD's network; its last pass over the rows is left out."""
    from peers import NetworkShape, make_network, quiet, seed_globals  # ours do not need PyOD

    made: list[Any] = []
    hidden = REGISTRY[task.name].config().hidden_features
    width = output_width(task.name, task.features)

    def fit(x: Tensor, epochs: int) -> Times:
        shape = NetworkShape(hidden, width, epochs, task.batch_rows)
        detector = make_network(PAIRS[task.name], task.features, shape)
        decide = detector.decision_function
        scoring: list[Times] = []

        def timed(rows: object) -> object:
            started = Times.now()
            scores = decide(rows)
            scoring.append(Times.now() - started)
            return scores

        detector.decision_function = timed
        rows = x.double().numpy()
        seed_globals(0)
        with quiet():
            started = Times.now()
            detector.fit(rows)
            spent = Times.now() - started
        made[:] = [decide]
        return spent - scoring[0]

    return fit, lambda x: made[0](x.double().numpy())


def measure(task: Task) -> Speed:
    """Fit and score in this (fresh) process."""
    torch.set_num_threads(task.threads)
    fit, score = (prepare_ours if task.side == "ours" else prepare_pyod)(task)
    x = make_rows(task.rows, task.features, seed=1)
    small = x[: 4 * task.batch_rows]
    fit(small, 1)
    score(small)
    base = reset_peak()
    training = fit(x, task.epochs)
    scoring = time_scoring(score, x)
    peak_mib = (read_status("VmHWM") - base) / 1024
    return Speed(training.clock, training.cpu, scoring.clock, scoring.cpu, peak_mib)


def time_scoring(score: Callable[[Tensor], object], x: Tensor) -> Times:
    """Score three times; give the least times."""
    times = []
    for _ in range(3):
        started = Times.now()
        score(x)
        times.append(Times.now() - started)
    return Times(min(spent.clock for spent in times), min(spent.cpu for spent in times))


def reset_peak() -> int:
    """Start the peak of memory anew (Linux) and give the KiB resident now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return read_status("VmRSS")


def read_status(key: str) -> int:
    """Read one of this process's memory figures, in KiB (Linux)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def measure_windowed(name: str, features: int, threads: int) -> Report:
    """Score rows with windows with a detector that is hardly trained: speed does not care."""
    torch.set_num_threads(threads)
    entry = REGISTRY[name]
    config = entry.config(window=WINDOW, epochs=1, min_steps=1, max_rows=512)
    width = features + WINDOW * (config.channels + 1)
    x = make_rows(WINDOWED_ROWS, width, seed=1)
    x[:, features + config.channels :: config.channels + 1] = 1.0  # every event is present
    detector = entry.detector(config, width)
    detector.fit(x[:512], x[512:640], seed=0)
    detector.score(x[:1])
    times = time_scoring(detector.score, x)
    return {
        "name": name,
        "window": WINDOW,
        "score_rows_per_second": WINDOWED_ROWS / times.clock,
        "score_rows_per_cpu_second": WINDOWED_ROWS / times.cpu,
    }


def in_child(function: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401 (any result)
    """Call a function in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def compare(name: str, options: argparse.Namespace, batch_rows: int) -> Report:
    """Measure one pair, alternating, and keep each side's best."""
    found: dict[str, list[Speed]] = {"ours": [], "pyod": []}
    for _ in range(options.repeats):
        for side, speeds in found.items():
            shape = (options.rows, options.features, options.epochs, batch_rows, options.threads)
            speeds.append(in_child(measure, Task(name, side, *shape)))
    ours, pyod = (best_of(speeds) for speeds in found.values())
    visits = options.rows * options.epochs
    return {
        "name": name,
        "batch_rows": batch_rows,
        "ours": describe_speed(ours, visits, options.rows),
        "pyod": describe_speed(pyod, visits, options.rows),
        "train_ratio": pyod.train_seconds / ours.train_seconds,
        "train_cpu_ratio": pyod.train_cpu_seconds / ours.train_cpu_seconds,
        "score_ratio": pyod.score_seconds / ours.score_seconds,
        "score_cpu_ratio": pyod.score_cpu_seconds / ours.score_cpu_seconds,
    }


def best_of(speeds: list[Speed]) -> Speed:
    """Take the least time of each kind, and the least memory."""
    figures = [asdict(speed) for speed in speeds]
    return Speed(**{key: min(figure[key] for figure in figures) for key in figures[0]})


def compare_own_batches(pairs: list[Report]) -> dict[str, float]:
    """Give how many times PyOD's training takes ours, ours in the larger batches, PyOD's in its own.

    What a user of both with default settings sees; most of it is the batch size.
    """
    found = {}
    for name in dict.fromkeys(pair["name"] for pair in pairs):
        mine = sorted(
            (pair for pair in pairs if pair["name"] == name), key=lambda pair: pair["batch_rows"]
        )
        seconds = mine[0]["pyod"]["train_seconds"], mine[-1]["ours"]["train_seconds"]
        found[name] = seconds[0] / seconds[1]
    return found


def describe_speed(speed: Speed, visits: int, rows: int) -> Report:
    """Add rows a second to the seconds."""
    return asdict(speed) | {
        "train_rows_per_second": visits / speed.train_seconds,
        "score_rows_per_second": rows / speed.score_seconds,
    }


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--features", type=int, default=9)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-rows", type=int, default=1024)
    parser.add_argument("--members", default=",".join(PAIRS), help="registry names, with commas")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-windowed", action="store_true", help="leave out the sequences")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def main() -> None:
    """Measure every pair and every detector of sequences, and report."""
    options = parse_arguments()
    names = [name for name in options.members.split(",") if name in PAIRS and name in REGISTRY]
    batches = sorted({options.batch_rows, PYOD_BATCH_ROWS}, reverse=True)
    load = os.getloadavg()
    pairs = [compare(name, options, rows) for name in names for rows in batches]
    windowed = [
        in_child(measure_windowed, name, options.features, options.threads)
        for name, entry in REGISTRY.items()
        if window_of(entry.config()) and not options.no_windowed
    ]
    settings = {key: value for key, value in vars(options).items() if key != "json"}
    if options.json:
        content = {
            "settings": settings,
            "load": [load[0], os.getloadavg()[0]],
            "pairs": pairs,
            "own_batches": compare_own_batches(pairs),
            "sequences": windowed,
        }
        sys.stdout.write(json.dumps(content, indent=1) + "\n")
        return
    sys.stdout.write(
        f"{options.rows:,} rows x {options.features} features, {options.epochs} epochs, "
        f"{options.threads} threads, best of {options.repeats}; load of the machine "
        f"{load[0]:.1f} before, {os.getloadavg()[0]:.1f} after.\n\n"
    )
    sys.stdout.write("".join(map(describe_pair, pairs)))
    for name, ratio in compare_own_batches(pairs).items():
        sys.stdout.write(
            f"{name}: training, ours in batches of {options.batch_rows}, PyOD's of "
            f"{PYOD_BATCH_ROWS}: ratio {ratio:.1f}\n"
        )
    for line in windowed:
        speed = line["score_rows_per_second"]
        sys.stdout.write(f"{line['name']}, window of {WINDOW}: scores {speed:,.0f} rows/s\n")


def describe_pair(pair: Report) -> str:
    """Write one pair as three lines."""
    text = f"{pair['name']}, batches of {pair['batch_rows']} rows\n"
    for side in ("ours", "pyod"):
        speed = pair[side]
        text += (
            f"  {side:5} trains {speed['train_rows_per_second']:11,.0f} rows x epochs/s "
            f"({speed['train_seconds']:.2f} s, CPU {speed['train_cpu_seconds']:.2f} s), scores "
            f"{speed['score_rows_per_second']:11,.0f} rows/s "
            f"(CPU {speed['score_cpu_seconds']:.3f} s), +{speed['peak_mib']:,.0f} MiB\n"
        )
    return (
        f"{text}  ratio: training {pair['train_ratio']:.1f} (CPU {pair['train_cpu_ratio']:.1f}), "
        f"scoring {pair['score_ratio']:.1f} (CPU {pair['score_cpu_ratio']:.1f})\n\n"
    )


if __name__ == "__main__":
    main()
