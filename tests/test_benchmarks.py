import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]


def run(script, *arguments):
    command = [sys.executable, f"benchmarks/{script}", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 (our own scripts)


def run_json(script, *arguments):
    done = run(script, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def folder(tmp_path):
    g = np.random.default_rng(0)
    normal = g.normal(size=(270, 4)) @ g.normal(size=(4, 4))
    x = np.concatenate([normal, g.normal(size=(30, 4)) + 8])
    np.savez(tmp_path / "1_tiny.npz", X=x, y=np.repeat([0, 1], [270, 30]))
    return tmp_path


@pytest.mark.slow
def test_adbench_judges_members_beside_peers(folder):
    pytest.importorskip("pyod")
    chosen = ("--members", "gaussian", "--peers", "KNN,DeepSVDD", "--seeds", 2)
    content = run_json("adbench.py", "--data", folder, "--threads", 1, *chosen)
    names = ["gaussian", "PyOD KNN", "PyOD DeepSVDD"]
    assert [line["name"] for line in content["lines"]] == names * 2
    table = content["tables"]["AUC ROC"]
    assert table["gaussian"]["tables"]["1_tiny"] > 0.95
    assert table["PyOD KNN"]["mean"] > 0.95  # also shows that higher means more anomalous
    assert sum(row["rank"] for row in table.values()) == 6


def test_adbench_needs_no_peers(folder):
    chosen = ("--members", "gaussian", "--peers", "", "--seeds", 1)
    (line,) = run_json("adbench.py", "--data", folder, *chosen)["lines"]
    assert line["name"] == "gaussian"
    assert {"table", "seed", "name", "auc", "ap", "fit_seconds"} == set(line)


@pytest.mark.slow
def test_throughput_compares_a_pair():
    pytest.importorskip("pyod")
    small = ("--rows", 400, "--epochs", 1, "--repeats", 1, "--threads", 1, "--batch-rows", 32)
    content = run_json("throughput.py", *small, "--members", "autoencoder", "--no-windowed")
    (pair,) = content["pairs"]
    assert pair["name"] == "autoencoder"
    ratio = pair["pyod"]["train_seconds"] / pair["ours"]["train_seconds"]
    assert pair["train_ratio"] == pytest.approx(ratio)
    assert pair["ours"]["score_rows_per_second"] > 0
    assert pair["pyod"]["peak_mib"] >= 0
    assert content["own_batches"] == {"autoencoder": pytest.approx(ratio)}
    assert content["sequences"] == []


def test_gpu_script_runs_whole_on_the_cpu():
    small = ("--device", "cpu", "--rows", 5000, "--members", "gaussian")
    content = run_json("gpu.py", *small)
    (line,) = content["lines"]
    assert line["name"] == "gaussian"
    assert line["auc"] > 0.9
    assert line["spearman"] > 0.999
    assert line["crossings"] <= 0.001
    assert line["utilisation"] is None


def test_gpu_script_says_so_without_a_device():
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    done = run("gpu.py")
    assert done.returncode == 2
    assert "no CUDA device" in done.stderr
    assert done.stdout == ""
