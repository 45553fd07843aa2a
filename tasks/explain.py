"""Why a transaction stands out: the features whose unusual values raise its score most.

The same method for every detector. A feature's weight is its Shapley value over the two extreme
coalitions: how far the score falls when it alone is put back to its usual value (the median of the
training rows; none where most have none), and how far the score of a wholly usual row rises when it
alone takes the alert's value; the mean of the two. Either alone misleads where features move
together: putting one of five amount ratios back to usual makes a row stranger, not less strange.

Source: Shapley 1953; Robnik-Šikonja & Kononenko 2008, "Explaining Classifications For Individual
Instances"; departure: two coalitions in place of a sample of all, so that it stays exact and cheap.
"""

import math

import polars as pl
import torch

from models.history import History
from tasks.feature_catalog import FEATURES, USUALLY
from tasks.tensors import Encoding, history_of
from tasks.tracking import Bundle
from warehouse.queue_records import Reason

REASONS_AN_ALERT = 3
ALERTS_AT_ONCE = 500  # each is scored twice for every feature
PHRASES = {feature.name: feature.phrase for feature in FEATURES}
MISSING = {feature.name: feature.missing for feature in FEATURES}


def explain_alerts(
    rows: pl.DataFrame, bundle: Bundle, events: pl.DataFrame | None = None
) -> list[tuple[Reason, ...]]:
    """Give each row's strongest reasons, at most three, strongest first, in plain words.

    Args:
        rows: Feature rows; with ``history_end`` and ``history_count`` where there are events.
        bundle: The model.
        events: What these point into.
    """
    if rows.is_empty():
        return []
    x = bundle.encoding.matrix(rows)
    weights = feature_weights(x, bundle, history_of(rows, events))  # (alerts, features)
    is_unusual = differs(x, usual_row(bundle))
    ranked = weights.masked_fill(~is_unusual, -math.inf)
    order = ranked.sort(dim=1, descending=True, stable=True).indices.tolist()
    return [
        _reasons(row, [place for place in places if unusual[place]], bundle)
        for row, places, unusual in zip(rows.to_dicts(), order, is_unusual.tolist(), strict=True)
    ]


def usual_row(bundle: Bundle) -> torch.Tensor:
    """Give the usual value of every feature, NaN where a feature usually has none.

    Shape:
        Returns: (features,), float32.
    """
    values = [bundle.usual[name] for name in bundle.encoding.feature_names]
    return torch.tensor([math.nan if value is None else value for value in values])


def differs(x: torch.Tensor, usual: torch.Tensor) -> torch.Tensor:
    """Tell which values are not the usual ones; missing is like missing.

    Shape:
        x: (rows, features). usual: (features,). Returns: (rows, features), bool.
    """
    return x.nan_to_num(nan=math.inf) != usual.nan_to_num(nan=math.inf)


def feature_weights(
    x: torch.Tensor, bundle: Bundle, history: History | None = None
) -> torch.Tensor:
    """Measure how much each feature's value contributes to each row's score.

    The account's history stays as it is: what is asked is why this transaction stands out from it.

    Shape:
        x: (alerts, features). history: of as many rows. Returns: (alerts, features), in units of
            the score.
    """
    parts = []
    for begin in range(0, x.shape[0], ALERTS_AT_ONCE):
        some = slice(begin, begin + ALERTS_AT_ONCE)
        past = None if history is None else history.take(some)
        parts.append(_weights_of_some(x[some], bundle, past))
    return torch.cat(parts)


def _weights_of_some(x: torch.Tensor, bundle: Bundle, history: History | None) -> torch.Tensor:
    alerts, features = x.shape
    usual, places = usual_row(bundle), torch.arange(features)
    one_usual = x.unsqueeze(1).repeat(1, features, 1)  # (alerts, features, features)
    one_usual[:, places, places] = usual
    one_unusual = usual.repeat(alerts, features, 1)
    one_unusual[:, places, places] = x
    ends = torch.stack([x, usual.repeat(alerts, 1)], dim=1)  # (alerts, 2, features)
    variants = torch.cat([one_usual, one_unusual, ends], dim=1)
    scores = _score_variants(variants, bundle, history)  # (alerts, 2 * features + 2)
    without, alone = scores[:, :features], scores[:, features : 2 * features]
    score, floor = scores[:, -2:-1], scores[:, -1:]
    return ((score - floor) + (alone - without)) / 2


def _score_variants(
    variants: torch.Tensor, bundle: Bundle, history: History | None
) -> torch.Tensor:
    """Score variants of alerts; the members, which cost most, score what looks alike to them once.

    Variants that differ in what only the boosted trees see are all one to the members.

    Shape:
        variants: (alerts, variants, features). history: of each alert. Returns: (alerts, variants).
    """
    ensemble, names = bundle.ensemble, bundle.encoding.feature_names
    alerts, each, features = variants.shape
    rows = variants.reshape(-1, features)
    alert_of_row = torch.arange(alerts).repeat_interleave(each)
    in_view = set().union(*ensemble.views.values())
    seen = [place for place, name in enumerate(names) if name in in_view]
    looks = torch.cat([alert_of_row.unsqueeze(1), rows[:, seen].nan_to_num(nan=math.inf)], dim=1)
    _, look_of_row = torch.unique(looks, dim=0, return_inverse=True)
    row_of_look = torch.empty(int(look_of_row.max()) + 1, dtype=torch.int64)
    row_of_look[look_of_row] = torch.arange(len(rows))  # any of those that look alike
    past = None if history is None else history.take(alert_of_row[row_of_look])
    members = ensemble.member_scores(rows[row_of_look], history=past)[look_of_row]
    if ensemble.stack is not None:
        label_free = members[:, :-1]
        trees = ensemble.stack.surprises(rows, names, label_free, tuple(ensemble.members))
        members = torch.cat([label_free, trees.unsqueeze(1)], dim=1)
    return ensemble.combine(members).reshape(alerts, each).cpu()


def _reasons(row: dict[str, object], places: list[int], bundle: Bundle) -> tuple[Reason, ...]:
    """Word the strongest features; a sentence is said once, and not if it reads as usual."""
    names = bundle.encoding.feature_names
    found: dict[str, Reason] = {}
    for place in places:
        reason = _reason(names[place], row, bundle)
        if reason is not None:
            found.setdefault(reason.text, reason)
        if len(found) == REASONS_AN_ALERT:
            break
    return tuple(found.values())


def _reason(name: str, row: dict[str, object], bundle: Bundle) -> Reason | None:
    """Word a feature's value; None if in words it is the usual one, or says nothing against it."""
    value, usual = row[name], bundle.usual[name]
    if name in bundle.encoding.vocabularies:
        return _category_reason(name, value, bundle)
    number = float(value) if isinstance(value, int | float) else math.nan
    if math.isnan(number):
        missing = MISSING.get(name, f"{name} is not given")
        return None if missing is None else Reason(name, None, usual, missing)
    phrase = PHRASES.get(name, f"{name} is {{value:.4g}}{USUALLY}{{usual:.4g}}")
    amount = number if name == "amount" else row["amount"]
    if usual is None:
        text = phrase.partition(USUALLY)[0].format(value=number, amount=amount)
        return Reason(name, number, None, text)
    text = phrase.format(value=number, usual=usual, amount=amount)
    plain = phrase.format(value=usual, usual=usual, amount=usual if name == "amount" else amount)
    return None if text == plain else Reason(name, number, usual, text)


def _category_reason(name: str, value: object, bundle: Bundle) -> Reason:
    values, code = bundle.encoding.vocabularies[name], int(bundle.usual[name] or 0)
    usual = values[code - 1] if code else None
    text = "not given" if value is None else str(value)
    told = f"{name} {text}" + ("" if usual is None else f"{USUALLY}{usual}")
    return Reason(name, text, usual, told)


def usual_values(frame: pl.DataFrame, encoding: Encoding) -> dict[str, float | None]:
    """Find each feature's usual value over the training rows.

    The median, or None where most rows have no value; of a category the code of the most common
    one, the first by name of several.
    """
    numbers = [name for name in encoding.feature_names if name not in encoding.vocabularies]
    columns = (pl.col(name).cast(pl.Float64) for name in numbers)
    medians = frame.select(
        pl.when(column.count() * 2 >= pl.len()).then(column.median()) for column in columns
    ).row(0)
    found: dict[str, float | None] = dict(zip(numbers, medians, strict=True))
    for name, values in encoding.vocabularies.items():
        found[name] = (
            float(values.index(frame[name].drop_nulls().mode().min()) + 1) if values else 0.0
        )
    return {name: found[name] for name in encoding.feature_names}
