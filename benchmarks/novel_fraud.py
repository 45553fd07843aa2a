"""Is fraud of a kind that nobody has labelled still caught? The handbook's three kinds in turn.

    python benchmarks/novel_fraud.py --data FOLDER_OF_DAILY_PARQUET_FILES
        [--weeks 2018-07-11,2018-07-18,2018-07-25] [--hidden 0,1,2,3] [--settings with,without]
        [--members a,b] [--weights a=1.5,b=0.5] [--features-know] [--seed 0] [--threads 2]
        [--json]

For each week one scenario's frauds are called genuine for all that learns: the members, the
trees, the rule that joins them, and the labels that features are derived from (these last know
them with ``--features-know``). 0 hides nothing and shows what the rule costs. Weeks and the
accounts left out are those of ``handbook.py``, by the true labels. Settings: the label-free members
see ``with`` or ``without`` features derived from labels; the trees see all in both.

Recall: the share of the hidden scenario's frauds of the week whose account is among the 100 with
the highest score of its day. Card recall: the share of the accounts with such frauds that are so on
some day with one. AP: of the week without the hidden scenario's rows.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from itertools import product

import numpy as np
import polars as pl
import torch
from handbook_data import (
    CAPACITY,
    DELAY_DAYS,
    WEEKS,
    Handbook,
    add_data_arguments,
    label_statements,
    leave_out_known_accounts,
    read_scenarios,
)
from handbook_label_informed import BOOSTED, LABEL_FREE, OURS, Span, learn, score
from torch import Tensor

from models.metrics import average_precision
from tasks.feature_catalog import feature_names
from tasks.train_settings import EnsembleSettings, TrainSettings


@dataclass(frozen=True)
class Trial:
    """A week to judge, the scenario (0: none) whose labels are hidden, and what members see."""

    week: date
    hidden: int
    setting: str


@dataclass(frozen=True)
class Line:
    """One score in one trial; recalls are None where nothing is hidden."""

    trial: Trial
    name: str
    recall: float | None
    card_recall: float | None
    ap: float
    reserved_share: float


def hide(handbook: Handbook, scenarios: pl.DataFrame, hidden: int, *, know: bool) -> Handbook:
    """Call a scenario's frauds genuine; with ``know`` the statements for features still tell."""
    kind = handbook.transactions.join(
        scenarios, on="transaction_id", how="left", maintain_order="left"
    )
    is_hidden = (pl.col("scenario") == hidden) & (hidden > 0)
    transactions = kind.with_columns(pl.col("is_fraud") & ~is_hidden).drop("scenario")
    return Handbook(transactions, handbook.labels if know else label_statements(transactions))


def train_settings(options: argparse.Namespace, setting: str) -> TrainSettings:
    """Choose what learns: trees beside the members."""
    settings = TrainSettings(
        members=tuple(options.members.split(",")),
        weights=options.weights,
        seed=options.seed,
        ensemble=EnsembleSettings(mode="stacked"),
    )
    labelled = set(feature_names(uses_labels=True)) if setting == "without" else set()
    lean = tuple(name for name in settings.features if name not in labelled)
    return settings.model_copy(update={"features": lean})


def choose_test(
    shown: Handbook, true: Handbook, scenarios: pl.DataFrame, start: date
) -> pl.DataFrame:
    """Describe the week's rows by the labels shown, and join what they truly are."""
    features = shown.features(start, start + timedelta(days=6)).drop("is_fraud")
    known_from = start - timedelta(days=2 * DELAY_DAYS)
    test = leave_out_known_accounts(features, true.transactions, known_from)
    truth = true.transactions.select("transaction_id", "is_fraud")
    for table in (truth, scenarios):
        test = test.join(table, on="transaction_id", how="left", maintain_order="left")
    return test


def review(test: pl.DataFrame, scores: Tensor, hidden: int) -> tuple[float, float]:
    """Give the recall of the hidden scenario's frauds, and of their accounts (see above)."""
    accounts = (
        test.select("event_date", "account_id", is_hidden=pl.col("scenario") == hidden)
        .with_columns(score=pl.Series(scores.numpy()))
        .group_by("event_date", "account_id")
        .agg(pl.col("score").max(), frauds=pl.col("is_hidden").sum())
        .sort("event_date", "score", "account_id", descending=[False, True, False])
        .with_columns(is_seen=pl.int_range(pl.len()).over("event_date") < CAPACITY)
        .filter(pl.col("frauds") > 0)
    )
    caught = accounts.filter("is_seen")
    frauds, seen_frauds = (int(part["frauds"].sum()) for part in (accounts, caught))
    cards, seen_cards = (part["account_id"].n_unique() for part in (accounts, caught))
    return seen_frauds / max(1, frauds), seen_cards / max(1, cards)


def judge(
    trial: Trial, test: pl.DataFrame, scores: Mapping[str, Tensor], reserved_share: float
) -> Iterator[Line]:
    """Measure each score on the week."""
    is_hidden = (test["scenario"].to_numpy() == trial.hidden) & (trial.hidden > 0)
    is_fraud = test["is_fraud"].to_numpy()[~is_hidden]
    for name, values in scores.items():
        recall, cards = review(test, values, trial.hidden) if trial.hidden else (None, None)
        ap = average_precision(values.numpy()[~is_hidden], is_fraud)
        yield Line(trial, name, recall, cards, ap, reserved_share)


def run(trial: Trial, handbook: Handbook, options: argparse.Namespace) -> Iterator[Line]:
    """Hide, fit, score and judge."""
    scenarios = read_scenarios(options.data)
    shown = hide(handbook, scenarios, trial.hidden, know=options.features_know)
    test = choose_test(shown, handbook, scenarios, trial.week)
    span = Span.of_week(handbook, trial.week)
    bundle = learn(shown, span, train_settings(options, trial.setting))
    scores = score(bundle, handbook, test)
    scores["larger of the two"] = torch.maximum(scores[LABEL_FREE], scores[BOOSTED])
    stack = bundle.ensemble.stack
    yield from judge(trial, test, scores, stack.hybrid.reserved_share if stack else 0.0)
    sys.stderr.write(f"{trial.week} hidden {trial.hidden} {trial.setting} done\n")


def mean_of(lines: Sequence[Line], field: str) -> float:
    """Average over the weeks."""
    return float(np.mean([getattr(line, field) for line in lines]))


def tabulate(lines: Sequence[Line]) -> str:
    """Average over the weeks: one line a score, then how the hybrid stands to the goals."""
    groups: dict[tuple[int, str, str], list[Line]] = {}
    for line in lines:
        key = (line.trial.hidden, line.trial.setting, line.name)
        groups.setdefault(key, []).append(line)
    text = "hidden  members'  score                   recall  card recall     AP  reserve\n"
    for (hidden, setting, name), mine in groups.items():
        recalls = " " * 21
        if hidden:
            recalls = f"{mean_of(mine, 'recall'):8.3f}{mean_of(mine, 'card_recall'):13.3f}"
        share = f"{mean_of(mine, 'reserved_share'):9.2f}" if name == OURS else ""
        text += f"{hidden:<8}{setting:10}{name:22}{recalls}{mean_of(mine, 'ap'):7.3f}{share}\n"
    verdicts = [verdict(groups, *key[:2]) for key in groups if key[2] == OURS]
    return text + "\n" + "".join(verdicts)


def verdict(
    groups: Mapping[tuple[int, str, str], Sequence[Line]], hidden: int, setting: str
) -> str:
    """Compare the hybrid's AP with the trees', its recall with the best label-free's."""
    hybrid, boosted = (groups[hidden, setting, name] for name in (OURS, BOOSTED))
    ratio = mean_of(hybrid, "ap") / mean_of(boosted, "ap")
    text = f"hidden {hidden}, {setting}: AP {ratio:.3f} of boosted alone"
    if hidden:
        free = [mine for key, mine in groups.items() if (key[0], key[2]) == (hidden, LABEL_FREE)]
        best = max(mean_of(mine, "recall") for mine in free)
        caught = mean_of(hybrid, "recall") / max(best, 1e-9)
        text += f"; recall {caught:.2f} of the best label-free's"
    return text + "\n"


def parse_weights(text: str) -> dict[str, float]:
    """Read ``name=weight`` pairs with commas."""
    pairs = (pair.split("=") for pair in text.split(",") if pair)
    return {name: float(weight) for name, weight in pairs}


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_data_arguments(parser)
    parser.add_argument("--weeks", default=WEEKS, help="first days, with commas")
    parser.add_argument("--hidden", default="0,1,2,3", help="scenarios; 0: none")
    parser.add_argument("--settings", default="with,without", help="with, without or both")
    parser.add_argument("--members", default=",".join(TrainSettings().members))
    parser.add_argument("--weights", type=parse_weights, default={}, help="name=weight,...")
    parser.add_argument("--features-know", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Run the benchmark and print the table."""
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    handbook = Handbook.read(options.data)
    weeks = map(date.fromisoformat, options.weeks.split(","))
    hidden = map(int, options.hidden.split(","))
    trials = product(weeks, hidden, options.settings.split(","))
    lines = [line for trial in trials for line in run(Trial(*trial), handbook, options)]
    if options.json:
        content = {"lines": [asdict(line) for line in lines]}
        sys.stdout.write(json.dumps(content, indent=1, default=str) + "\n")
        return
    sys.stdout.write(tabulate(lines))


if __name__ == "__main__":
    main()
