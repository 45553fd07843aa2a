"""The page is whole, says what the evaluation found, fetches nothing, and trusts no text."""

import re
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest

from tasks.evaluate import Criteria, evaluate_scores
from tasks.report import newest_model, render_report, summarise, write_report
from tasks.tracking import RegisteredModel
from warehouse.errors import UserError

START = date(2026, 3, 1)
NOW = datetime(2026, 4, 1, 2, 3, tzinfo=UTC)
VOID = {"meta", "br", "path", "use", "rect"}
HOSTILE = '<script>alert("1")</script> & "$x^2$"'


def evaluate(days=8, mature=6, probability=True, members=("tails", "gan", HOSTILE), n=1200):
    random = np.random.default_rng(3)
    fraud = random.random(n) < 0.1
    day = np.arange(n) % days
    score = random.gamma(1.0, 0.5, n) + 1.5 * fraud
    scored = pl.DataFrame(
        {
            "event_date": [START + timedelta(days=int(d)) for d in day],
            "transaction_id": [f"t{i:05}" for i in range(n)],
            "account_id": [f"a{i}" for i in random.integers(0, 300, n)],
            "amount": random.gamma(1.0, 60.0, n) + 0.01,
            "score": score,
            "probability": 1 / (1 + np.exp(4 - 2 * score)) if probability else None,
            "model_version": [("9", "10")[int(d > 3)] for d in day],
            "channel": [HOSTILE if i % 3 else "web" for i in range(n)],
        }
        | {f"member.{name}": score + random.normal(size=n) for name in members},
        schema_overrides={"probability": pl.Float64},
    )
    truth = pl.DataFrame({"transaction_id": scored["transaction_id"], "is_fraud": fraud})
    criteria = Criteria(10, START + timedelta(days=mature - 1), ("channel",), (50.0,), 100)
    return evaluate_scores(scored, truth, criteria)


@pytest.fixture(scope="module")
def evaluation():
    return evaluate()


@pytest.fixture(scope="module")
def page(evaluation):
    return render_report(evaluation, NOW)


class _Parts(HTMLParser):
    """Collects tags, attributes and texts, and checks that every tag is closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.texts, self.open = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def values(self, name):
        return [value for key, value in self.attributes if key == name]


def test_page_is_whole_and_runs_and_fetches_nothing(page):
    parts = _Parts(page)
    assert parts.open == []
    assert not {"script", "link", "iframe", "img", "object", "base", "form"} & set(parts.tags)
    assert not re.search(r"https?:|//[a-z]|@import|javascript:", page)
    assert all(value.startswith("#") for value in parts.values("href"))
    assert not [name for name, _ in parts.attributes if name.startswith("on")]
    assert "src" not in dict(parts.attributes)


def test_ids_are_unique_and_what_points_at_them_finds_them(page):
    parts = _Parts(page)
    ids = parts.values("id")
    assert len(ids) == len(set(ids))
    wanted = {value.removeprefix("#") for value in parts.values("href")}
    wanted |= set(re.findall(r"url\(#([^)]*)\)", page))
    wanted |= set(parts.values("aria-labelledby")) | set(parts.values("aria-describedby"))
    assert wanted
    assert wanted <= set(ids)


def test_every_picture_has_a_name_and_a_description(page):
    parts = _Parts(page)
    names = ["precision-recall", "card-precision", "caught", "reliability", "daily-quality"]
    names.append("scores")
    assert parts.tags.count("svg") == len(names)
    assert parts.values("aria-labelledby") == [f"{name}-title" for name in names]
    assert parts.values("aria-describedby") == [f"{name}-caption" for name in names]
    assert parts.values("role") == ["img"] * len(names)


def test_pictures_take_the_pages_colours(page):
    style, body = page.split("</style>", 1)
    for picture in re.findall(r"<svg.*?</svg>", body, flags=re.DOTALL):
        used = set(re.findall(r"(?:fill|stroke): (#[0-9a-f]+)", picture))
        assert used <= {"#ffffff"}  # under a pattern nothing of which is drawn
        assert "var(--ink)" in picture
    defined = set(re.findall(r"(--[a-z]+):", style))
    assert set(re.findall(r"var\((--[a-z]+)\)", page)) <= defined
    assert "prefers-color-scheme: dark" in style


def test_same_evaluation_gives_the_same_page(page):
    assert render_report(evaluate(), NOW) == page


def test_hostile_texts_stay_texts(page):
    texts = _Parts(page).texts
    assert "<script" not in page
    assert texts.count(HOSTILE) == 2  # a member and a segment's value
    assert [text for text in texts if text.startswith(f"{HOSTILE}, AP")]  # in the picture


def test_page_says_what_was_found(evaluation, page):
    text = re.sub(r"\s+", " ", " ".join(_Parts(page).texts))
    ensemble = evaluation.qualities[0]
    assert f"{ensemble.ap:.3f} {ensemble.ap_interval.low:.3f} to" in text
    for said in (
        "Evaluation from 2026-03-01 to 2026-03-08",
        "Judged by the labels known at 2026-04-01 02:03 UTC",
        "model version 9 (2026-03-01 to 2026-03-04), model version 10",
        "Known frauds " + str(evaluation.frauds),
        "Left out, too young to judge 300 of days after 2026-03-06",
        "too young to judge",
        "By channel",
        "under 50",
        "50 and more",
        "Brier score",
        "1 other member",
        summarise(evaluation),
    ):
        assert said in text


def test_single_day_has_no_intervals_and_the_page_says_why():
    found = evaluate(days=1, mature=1, probability=False, members=())
    page = render_report(found, NOW)
    assert "Evaluation from 2026-03-01 to 2026-03-01" in page
    assert "No intervals" in page
    assert "Brier" not in page
    assert "reliability" not in "".join(_Parts(page).values("id"))


def test_page_is_written_whole_under_the_days_name(evaluation, page, tmp_path):
    file = write_report(evaluation, tmp_path / "reports", NOW)
    assert file == tmp_path / "reports/evaluation_2026-03-01_2026-03-08.html"
    assert file.read_text(encoding="utf-8") == page
    assert list(file.parent.iterdir()) == [file]


def test_page_that_cannot_be_written_is_said(evaluation, tmp_path):
    (tmp_path / "reports").write_text("in the way")
    with pytest.raises(UserError, match=r"the report cannot be written to .*exists"):
        write_report(evaluation, tmp_path / "reports", NOW)


def test_newest_model_that_scored_the_days_is_found_by_number(evaluation):
    models = [RegisteredModel(v, START, (), {}, f"run {v}") for v in ("11", "9", "10", "8")]
    assert newest_model(evaluation, models).version == "10"
    assert newest_model(evaluation, models[:1]) is None
    several = replace(evaluation, days=[replace(evaluation.days[0], model_version="8, 11")])
    assert newest_model(several, models).version == "11"
