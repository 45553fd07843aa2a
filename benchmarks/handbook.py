"""Detection quality on the Fraud Detection Handbook's transactions, beside LightGBM and PyOD.

    python benchmarks/handbook.py --data FOLDER_OF_DAILY_PARQUET_FILES
        [--weeks 2018-07-11,2018-07-18,2018-07-25] [--seeds 0,1,2] [--threads 2] [--json]
        [--train-from DAY --train-to DAY --test-from DAY --test-to DAY]
        [--label-free] [--members a,b] [--peers A,B] [--peer-features same|book|all]
        [--settings with,without]

For each week everything is fitted as of its first day: on days whose labels were known then, which
end eight days before. The week is then scored and judged by the book's protocol: accounts whose
fraud became known in the two weeks before (and, from day to day, during the week) are left out.
``--train-from`` to ``--test-to`` name the days in place of weeks. The folder may hold any days.

By default: what learns from labels. Ours; LightGBM on the book's 15 features and on the features
and rows of ours; and the ceiling: what a perfect score of every fraud that somebody could have
known reaches. Nobody could know a fraud of a compromised terminal (TX_FRAUD_SCENARIO 2) at which
no fraud had become known in the last 28 days. ``ceiling, to the letter`` shuts out the frauds of
other kinds at such terminals, too.

``--label-free``: the detectors that learn without labels; every member, the ensemble with its
fixed weights, the ensemble without each member (the ablation), and PyOD's detectors. Two settings:
``with`` the features that are derived from known labels (shares of frauds at the merchant) and
``without`` them. Ours learn from genuine rows and hold out the last 14 days of them to stop and
calibrate; peers get a sample of all of these rows, standardised, and the same features
(``--peer-features book``: the book's 15; ``all``: every declared feature that the data allow).
"""

import argparse
import json
import resource
import sys
from dataclasses import asdict
from datetime import date

import numpy as np
import torch
from handbook_data import WEEKS, Handbook, Line, add_data_arguments, read_scenarios
from handbook_label_free import PEERS, own_lines, peer_lines, prepare_week
from handbook_label_informed import SETTING, Span, ceiling_ratios, label_informed_lines

from tasks.train_settings import TrainSettings


def tabulate(lines: list[Line], setting: str) -> str:
    """Average over the seeds, and write one line a detector, the best mean AP first."""
    titles = {
        "with": "with label-derived features",
        "without": "without label-derived features",
        "labels": "learning from labels",
    }
    weeks = sorted({line.week for line in lines})
    names = dict.fromkeys(line.name for line in lines if line.setting == setting)
    head = "".join(f"  AUC {w[5:]}   AP     ±    CP" for w in weeks)
    text = f"{titles[setting]:34}{head}  mean AP   fit s      rows/s\n"
    rows = []
    for name in names:
        mine = [line for line in lines if line.setting == setting and line.name == name]
        cells, means = "", []
        for week in weeks:
            here = [line for line in mine if line.week == week]
            ap = [line.ap for line in here]
            auc, card = (
                np.mean([getattr(li, k) for li in here]) for k in ("auc", "card_precision")
            )
            cells += f"  {auc:9.3f} {np.mean(ap):.3f} {np.std(ap):.3f} {card:.3f}"
            means.append(float(np.mean(ap)))
        seconds, speed = (
            np.mean([getattr(li, k) for li in mine]) for k in ("fit_seconds", "rows_per_second")
        )
        line = f"{name:34}{cells} {np.mean(means):8.3f} {seconds:7.1f} {speed:11,.0f}\n"
        rows.append((float(np.mean(means)), line))
    return text + "".join(line for _, line in sorted(rows, reverse=True)) + "\n"


def ratios(lines: list[Line], setting: str) -> str:
    """Compare the ensemble with the best peer of each week, and with the best on average."""
    text = ""
    for week in sorted({line.week for line in lines}):
        here = [line for line in lines if (line.week, line.setting) == (week, setting)]
        means = {
            n: np.mean([li.ap for li in here if li.name == n]) for n in {li.name for li in here}
        }
        peers = {name: ap for name, ap in means.items() if name.startswith("PyOD")}
        if peers:
            best = max(peers, key=lambda name: peers[name])
            ratio = means["ensemble"] / peers[best]
            text += f"{week} {setting}: ensemble AP / best peer AP ({best}) = {ratio:.2f}\n"
    return text


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_data_arguments(parser)
    parser.add_argument("--label-free", action="store_true")
    parser.add_argument("--weeks", default=WEEKS, help="first days, with commas")
    for name in ("--train-from", "--train-to", "--test-from", "--test-to"):
        parser.add_argument(name, type=date.fromisoformat, help="in place of --weeks")
    parser.add_argument("--settings", default="with,without", help="with, without or both")
    parser.add_argument("--seeds", default="0,1,2", help="with commas")
    parser.add_argument("--members", default=",".join(TrainSettings().members))
    parser.add_argument("--peers", default=PEERS, help="PyOD's, with commas; may be ''")
    parser.add_argument("--peer-features", choices=("same", "book", "all"), default="same")
    options = parser.parse_args()
    named = [options.train_from, options.train_to, options.test_from, options.test_to]
    if any(named) and (options.label_free or not all(named)):
        parser.error(
            "give all of --train-from, --train-to, --test-from, --test-to, or none; "
            "--label-free goes by --weeks"
        )
    return options


def run_label_free(handbook: Handbook, options: argparse.Namespace) -> list[Line]:
    """Judge the detectors that learn without labels."""
    members = [name for name in options.members.split(",") if name]
    peers = [name for name in options.peers.split(",") if name]
    lines: list[Line] = []
    for start in map(date.fromisoformat, options.weeks.split(",")):
        for setting in options.settings.split(","):
            week = prepare_week(handbook, start, setting, members)
            for seed in map(int, options.seeds.split(",")):
                lines += own_lines(week, seed)
                lines += peer_lines(week, seed, peers, options.peer_features) if peers else []
                sys.stderr.write(f"{start} {setting} seed {seed} done\n")
    return lines


def run_label_informed(handbook: Handbook, options: argparse.Namespace) -> list[Line]:
    """Judge what learns from labels."""
    scenarios = read_scenarios(options.data)
    if options.train_from:
        days = (options.train_from, options.train_to, options.test_from, options.test_to)
        spans = [Span(*days)]
    else:
        weeks = map(date.fromisoformat, options.weeks.split(","))
        spans = [Span.of_week(handbook, start) for start in weeks]
    seeds = [int(seed) for seed in options.seeds.split(",")]
    members = [name for name in options.members.split(",") if name]
    lines: list[Line] = []
    for span in spans:
        span.check(handbook)
        lines += label_informed_lines(handbook, scenarios, span, members, seeds)
        sys.stderr.write(f"{span.test_from} done\n")
    return lines


def main() -> None:
    """Run the benchmark and print the tables."""
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    handbook = Handbook.read(options.data)
    run = run_label_free if options.label_free else run_label_informed
    lines = run(handbook, options)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if options.json:
        content = {"lines": [asdict(line) for line in lines], "peak_gib": peak}
        sys.stdout.write(json.dumps(content, indent=1) + "\n")
        return
    if options.label_free:
        for setting in options.settings.split(","):
            sys.stdout.write(tabulate(lines, setting) + ratios(lines, setting) + "\n")
    else:
        sys.stdout.write(tabulate(lines, SETTING) + ceiling_ratios(lines) + "\n")
    sys.stdout.write(f"Peak memory {peak:.2f} GiB; {options.threads} threads.\n")


if __name__ == "__main__":
    main()
