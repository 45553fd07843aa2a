"""Detection quality on ADBench's tables, beside PyOD's detectors on the same rows.

    python benchmarks/adbench.py --data FOLDER_OF_NPZ_FILES [--seeds 5] [--threads 2]
        [--members a,b] [--peers A,B] [--json]

Every file holds X and y (1: anomaly). Half of the normal rows, drawn with the seed, train; the
other half and all anomalies test. Every registered detector that needs no window of earlier
transactions runs with its default settings, and the ensemble of those that have a default weight.
Ours get the raw columns, and a fifth of the training rows for early stopping and calibration;
peers get all training rows, standardised, and PyOD's settings as benchmarks/peers.py has them.
Nothing is tuned on these tables by this script.

A rank is that of the mean AUC (or AP) over the seeds on one table, 1 the best; the spread is the
standard deviation, over seeds, of the mean over tables. A member that failed shows as nan.
"""

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import rankdata
from sklearn.preprocessing import StandardScaler

from models.ensemble import window_of
from models.ensemble_fit import EnsembleConfig, TrainingRows, default_weights, fit_ensemble
from models.metrics import average_precision, roc_auc
from models.registry import REGISTRY

PEERS = ("KNN", "IForest", "OCSVM", "VAE", "DeepSVDD")
HELD_OUT_SHARE = 0.2
LEAST_HELD_OUT = 40  # fewer leave too few rows to calibrate on
Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Split:
    """One table cut with one seed; ``y_test`` is 1 for an anomaly."""

    table: str
    seed: int
    x_train: Matrix
    x_test: Matrix
    y_test: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Line:
    """One detector on one split; AUC and AP are nan if it failed."""

    table: str
    seed: int
    name: str
    auc: float
    ap: float
    fit_seconds: float


def read_splits(folder: Path, seeds: int) -> Iterator[Split]:
    """Cut every table of the folder with every seed.

    Raises:
        ValueError: if the folder holds no table.
    """
    files = sorted(folder.glob("*.npz"))
    if not files:
        raise ValueError(f"expected *.npz files in {folder}, found none")
    for file in files:
        with np.load(file) as content:
            x, y = content["X"].astype(np.float64), content["y"].astype(bool)
        for seed in range(seeds):
            normal = np.random.default_rng(seed).permutation(np.flatnonzero(~y))
            half = len(normal) // 2
            test = np.concatenate([normal[half:], np.flatnonzero(y)])
            yield Split(file.stem, seed, x[normal[:half]], x[test], y[test])


def judge(split: Split, name: str, scores: Matrix, fit_seconds: float) -> Line:
    """Measure one detector's scores."""
    if not np.isfinite(scores).all():
        return Line(split.table, split.seed, name, math.nan, math.nan, fit_seconds)
    auc, ap = (measure(scores, split.y_test) for measure in (roc_auc, average_precision))
    return Line(split.table, split.seed, name, auc, ap, fit_seconds)


def own_lines(split: Split, names: list[str]) -> list[Line]:
    """Fit and judge our detectors and the ensemble of those with a default weight."""
    defaults = default_weights()
    config = EnsembleConfig(
        members={name: REGISTRY[name].config() for name in names},
        weights={name: defaults.get(name, 1.0) for name in names},
    )
    x = torch.from_numpy(split.x_train)  # in random order
    n_held_out = max(LEAST_HELD_OUT, round(HELD_OUT_SHARE * x.shape[0]))
    columns = [f"column_{place}" for place in range(x.shape[1])]
    ensemble, reports = fit_ensemble(
        TrainingRows(x[n_held_out:]),
        TrainingRows(x[:n_held_out]),
        columns,
        config,
        seed=split.seed,
    )
    scores = ensemble.member_scores(torch.from_numpy(split.x_test))  # (rows, members)
    lines = [
        judge(split, name, scores[:, column].double().numpy(), reports[name].seconds)
        for column, name in enumerate(ensemble.member_names)
    ]
    lines += [Line(split.table, split.seed, n, math.nan, math.nan, 0.0) for n in reports.failures]
    weighed = [name for name in ensemble.member_names if name in defaults]
    if len(weighed) > 1:
        ensemble.weights = {name: defaults.get(name, 0.0) for name in ensemble.member_names}
        together = ensemble.combine(scores).double().numpy()
        seconds = sum(reports[name].seconds for name in weighed)
        lines.append(judge(split, "ensemble", together, seconds))
    return lines


def peer_lines(split: Split, names: list[str]) -> list[Line]:
    """Fit and judge PyOD's detectors."""
    from peers import make_peer  # ours can be judged without PyOD

    scaler = StandardScaler().fit(split.x_train)
    x_train, x_test = scaler.transform(split.x_train), scaler.transform(split.x_test)
    lines = []
    for name in names:
        peer = make_peer(name, split.seed)
        started = time.perf_counter()
        peer.fit(x_train)
        seconds = time.perf_counter() - started
        lines.append(judge(split, f"PyOD {name}", peer.score(x_test), seconds))
    return lines


def tabulate(lines: list[Line], key: str) -> dict[str, Any]:
    """Put one measure into a table: per detector each table's mean, the mean, spread and rank."""
    names = list(dict.fromkeys(line.name for line in lines))
    tables = list(dict.fromkeys(line.table for line in lines))
    seeds = sorted({line.seed for line in lines})
    found = {(line.name, line.table, line.seed): getattr(line, key) for line in lines}
    values = np.array(
        [[[found[name, t, s] for s in seeds] for t in tables] for name in names]
    )  # (detectors, tables, seeds)
    means = values.mean(axis=2)
    ranks = rankdata(-np.nan_to_num(means, nan=-1.0), axis=0)
    return {
        name: {
            "tables": dict(zip(tables, means[row].tolist(), strict=True)),
            "mean": float(means[row].mean()),
            "spread": float(values[row].mean(axis=0).std()),
            "rank": float(ranks[row].mean()),
            "fit_seconds": float(np.mean([li.fit_seconds for li in lines if li.name == name])),
        }
        for row, name in enumerate(names)
    }


def describe(title: str, table: dict[str, Any]) -> str:
    """Write one measure's table, the best mean first."""
    columns = list(next(iter(table.values()))["tables"])
    heads = [*(name[:12] for name in columns), "mean", "±", "rank", "fit s"]
    text = f"{title:22}" + "".join(f"{head:>13}" for head in heads) + "\n"
    for name, row in sorted(table.items(), key=lambda item: item[1]["rank"]):
        cells = [*row["tables"].values(), row["mean"], row["spread"]]
        text += f"{name:22}" + "".join(f"{cell:13.3f}" for cell in cells)
        text += f"{row['rank']:13.1f}{row['fit_seconds']:13.1f}\n"
    return text + "\n"


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    tabular = [name for name, entry in REGISTRY.items() if not window_of(entry.config())]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--members", default=",".join(tabular), help="registry names, with commas")
    parser.add_argument("--peers", default=",".join(PEERS), help="PyOD's, with commas; may be ''")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def main() -> None:
    """Run the benchmark and print the tables."""
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    members = [name for name in options.members.split(",") if name]
    peers = [name for name in options.peers.split(",") if name]
    lines: list[Line] = []
    for split in read_splits(options.data, options.seeds):
        lines += own_lines(split, members) if members else []
        lines += peer_lines(split, peers) if peers else []
        sys.stderr.write(f"{split.table}, seed {split.seed} done\n")
    tables = {"AUC ROC": tabulate(lines, "auc"), "average precision": tabulate(lines, "ap")}
    if options.json:
        content = {"lines": [asdict(line) for line in lines], "tables": tables}
        sys.stdout.write(json.dumps(content, indent=1) + "\n")
        return
    sys.stdout.write(
        f"{options.seeds} seeds, {options.threads} threads, load of the machine at the end "
        f"{os.getloadavg()[0]:.1f}\n\n"
    )
    for title, table in tables.items():
        sys.stdout.write(describe(title, table))


if __name__ == "__main__":
    main()
