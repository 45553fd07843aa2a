import json
import subprocess
import sys
from datetime import date, datetime, timedelta
from importlib import import_module
from pathlib import Path

import numpy as np
import polars as pl
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


DAYS, DAILY = 76, 160
BEGIN = datetime(2031, 1, 1)  # noqa: DTZ001 (the handbook stores no zone)


def make_handbook(folder):
    """Daily files of large amounts (1) and of terminals that turn bad for two weeks (2)."""
    g = np.random.default_rng(0)
    starts = [(day, int(g.integers(0, 100))) for day in range(0, DAYS, 2)]
    compromised = {(terminal, day + d) for day, terminal in starts for d in range(14)}
    for day in range(DAYS):
        seconds = np.sort(g.integers(0, 86_400, DAILY))
        terminals = g.integers(0, 100, DAILY)
        amounts = g.gamma(4, 10, DAILY).round(2)
        amounts[g.random(DAILY) < 0.01] = 400.0
        bad = np.array([(terminal, day) in compromised for terminal in terminals])
        scenario = np.where(bad, 2, np.where(amounts > 300, 1, 0))
        now = BEGIN + timedelta(days=day)
        pl.DataFrame(
            {
                "TRANSACTION_ID": day * DAILY + np.arange(DAILY),
                "TX_DATETIME": [now + timedelta(seconds=int(s)) for s in seconds],
                "CUSTOMER_ID": g.integers(0, 300, DAILY),
                "TERMINAL_ID": terminals,
                "TX_AMOUNT": amounts,
                "TX_FRAUD": (scenario > 0).astype(int),
                "TX_FRAUD_SCENARIO": scenario,
            }
        ).write_parquet(folder / f"{now:%Y-%m-%d}.parquet")
    return folder


@pytest.fixture(scope="module")
def handbook(tmp_path_factory):
    return make_handbook(tmp_path_factory.mktemp("handbook"))


@pytest.fixture
def handbook_modules(monkeypatch):
    """The scripts' modules, which find each other in their own folder."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return import_module("handbook_data"), import_module("handbook_label_informed")


@pytest.mark.slow
def test_handbook_judges_ours_beside_lightgbm_and_the_ceiling(handbook):
    days = ("--train-from", "2031-02-01", "--train-to", "2031-03-04")
    tests = ("--test-from", "2031-03-12", "--test-to", "2031-03-16")
    arguments = ("--data", handbook, "--threads", 1, "--seeds", 0, "--members", "tails")
    arguments += (*days, *tests)
    lines = {line["name"]: line for line in run_json("handbook.py", *arguments)["lines"]}
    assert len(lines) == 9
    assert {line["week"] for line in lines.values()} == {"2031-03-12"}
    assert lines["ceiling, to the letter"]["ap"] < lines["ceiling"]["ap"] <= 1
    assert 0.4 < lines["ours: boosted alone"]["ap"] < lines["ceiling"]["ap"] + 0.1
    assert lines["ours: members alone"]["ap"] < lines["ours"]["ap"]


def test_handbook_compares_with_the_ceiling_and_with_lightgbm(handbook_modules):
    data, informed = handbook_modules
    aps = {"ours": 0.72, "ceiling": 0.75}
    aps |= {f"LightGBM, same features, {peer}": 0.9 for peer in ("careful", "defaults")}
    lines = [
        data.Line("2031-03-12", "labels", name, 0, ap, ap, ap / 2, 1.0, 1.0)
        for name, ap in aps.items()
    ]
    text = informed.ceiling_ratios(lines)
    assert "AP: ours 0.7200, ceiling 0.7500, ratio 0.9600" in text
    assert "2031-03-12: ours AP / LightGBM on the same features (careful) = 0.8000" in text


@pytest.mark.parametrize(
    ("train_to", "test_to", "message"),
    [
        ("2031-03-10", "2031-03-16", "training may end on 2031-03-04 at the latest"),
        ("2031-03-04", "2031-04-16", "no transactions on 2031-04-16"),
        ("2031-03-04", "2031-03-11", "before they begin"),
        ("2031-02-03", "2031-03-16", "training needs at least 15 days"),
    ],
)
def test_handbook_refuses_days_that_peep_or_are_not_there(
    handbook_modules, train_to, test_to, message
):
    data, informed = handbook_modules
    days = [date(2031, 1, 1) + timedelta(days=day) for day in range(DAYS)]
    known = data.Handbook(pl.DataFrame({"event_date": days}), pl.DataFrame())
    to_date = date.fromisoformat
    span = informed.Span(date(2031, 2, 1), to_date(train_to), date(2031, 3, 12), to_date(test_to))
    with pytest.raises(SystemExit, match=message):
        span.check(known)


def test_handbook_says_where_it_found_no_data(handbook_modules, tmp_path):
    with pytest.raises(SystemExit, match=r"no \*\.parquet in"):
        handbook_modules[0].Handbook.read(tmp_path)


@pytest.mark.slow
def test_handbook_judges_what_learns_without_labels(handbook):
    chosen = ("--members", "gaussian,tails", "--peers", "", "--seeds", 0, "--settings", "with")
    arguments = ("--data", handbook, "--label-free", "--weeks", "2031-03-12", *chosen)
    lines = run_json("handbook.py", *arguments, "--threads", 1)["lines"]
    names = [
        "gaussian",
        "tails",
        "ensemble",
        "ensemble without gaussian",
        "ensemble without tails",
    ]
    assert [line["name"] for line in lines] == names
    assert all(line["auc"] > 0.6 for line in lines), lines
