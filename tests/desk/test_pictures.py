from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from desk.pictures import bar_chart, line_chart, nice_ticks
from desk.rendering import ENVIRONMENT
from desk.story_pictures import draw_hours, draw_members, draw_timeline
from warehouse.queue_story import StoryTransaction

NOON = datetime(2026, 3, 20, 12, tzinfo=UTC)


@dataclass(frozen=True)
class FlaggedAlert:
    """The fields of an alert that pictures use."""

    id: int
    occurred_at: datetime
    verdict: str | None = None
    members: dict | None = None


@dataclass(frozen=True)
class Story:
    """The fields of a story that pictures use."""

    transactions: tuple
    alerts: tuple = ()
    usual_hours: tuple = (0,) * 24
    usual_amount: float | None = None


def transaction(amount, days_back=0, alert_id=None, case_id=None, **changes):
    moment = NOON - timedelta(days=days_back)
    made = StoryTransaction(
        "t", date(2026, 3, 20), moment, 12, "shop", amount, False, alert_id, case_id
    )
    return replace(made, **changes)


@given(st.floats(min_value=1e-6, max_value=1e12))
def test_ticks_reach_the_highest_value_in_few_even_steps(highest):
    ticks = nice_ticks(highest)
    assert ticks[0] == 0
    assert len(ticks) <= 6
    assert ticks[-1] >= highest * (1 - 1e-6) or ticks[-1] == pytest.approx(highest, abs=1e-9)


@given(
    st.lists(st.tuples(st.floats(0, 1e9), st.floats(0, 1e9)), min_size=1, max_size=60),
)
def test_bars_stay_inside_their_picture_and_stack_without_gaps(pairs):
    chart = bar_chart(
        [str(n) for n in range(len(pairs))], dict(zip("ab", zip(*pairs, strict=True), strict=True))
    )
    for bar in chart.bars:
        assert chart.frame.left <= bar.x
        assert bar.x + bar.width <= chart.frame.right + 0.1
        for part in bar.parts:
            assert chart.frame.top - 2 * 1.6 <= part.y
            assert part.y + part.height <= chart.frame.bottom + 0.1


def test_bar_is_as_high_as_its_value():
    chart = bar_chart(["a", "b"], {"alerts": [50, 100]})
    half, whole = (bar.parts[0].height for bar in chart.bars)
    assert half * 2 == pytest.approx(whole, abs=0.1)
    assert chart.rows == (("a", "50"), ("b", "100"))
    assert chart.bars[0].title == "a: 50 alerts"


def test_line_breaks_where_a_value_is_missing():
    chart = line_chart(list("abcde"), [0.1, 0.2, None, 0.4, 0.5], highest=1)
    assert len(chart.paths) == 2
    assert len(chart.dots) == 4
    assert chart.rows[2] == ("c", "none")


def test_charts_of_nothing_can_be_drawn():
    macros = ENVIRONMENT.get_template("_pictures.html").module
    assert "<svg" in macros.bars(bar_chart([], {"alerts": []}), "Nothing")
    assert "<svg" in macros.line(line_chart([], []), "Nothing")
    assert "<svg" in macros.timeline(draw_timeline(Story(())), "Nothing")
    assert "No usual transactions" in macros.hours(draw_hours(Story(())))


def test_timeline_marks_what_became_of_each_transaction():
    story = Story(
        (
            transaction(20, 40),
            transaction(25, 30, alert_id=9, case_id=5),
            transaction(900, 2, alert_id=1, case_id=7),
            transaction(400, 1, alert_id=2, case_id=7),
        ),
        (FlaggedAlert(1, NOON, "fraud"), FlaggedAlert(2, NOON)),
        usual_amount=20.0,
    )
    timeline = draw_timeline(story)
    assert [mark.kind for mark in timeline.marks] == ["ordinary", "earlier", "fraud", "waiting"]
    assert [mark.alert_id for mark in timeline.marks] == [None, None, 1, 2]
    ordinary, _, fraud, waiting = timeline.marks
    assert fraud.y < waiting.y < ordinary.y
    assert fraud.x < waiting.x
    assert timeline.usual_y == ordinary.y


@given(st.lists(st.floats(-1e3, 1e12), min_size=1, max_size=40))
def test_marks_and_labels_stay_inside_the_picture(amounts):
    timeline = draw_timeline(Story(tuple(transaction(a, n) for n, a in enumerate(amounts))))
    frame = timeline.frame
    for mark in timeline.marks:
        assert frame.left <= mark.x <= frame.right
        assert frame.top <= mark.y <= frame.bottom
    positions = [tick.position for tick in timeline.y_ticks]
    assert positions == sorted(positions)
    assert all(frame.top <= position <= frame.bottom for position in positions)


def test_hours_say_how_usual_the_flagged_hour_is():
    counts = tuple(4 if hour >= 8 else 0 for hour in range(24))
    night = FlaggedAlert(1, datetime(2026, 3, 20, 3, tzinfo=UTC))
    hours = draw_hours(Story((), (night,), counts))
    assert "0 of 64" in hours.summary
    assert len(hours.flagged) == 1
    assert sum(bool(bar.parts) for bar in hours.bars) == 16


def test_members_are_ranked_and_rare_ones_stand_out():
    alert = FlaggedAlert(1, NOON, members={"vae": 1.5, "nearest_neighbours": 6.0, "odd": -1.0})
    chart = draw_members(alert)
    assert [bar.name for bar in chart.bars] == ["nearest neighbours", "vae", "odd"]
    assert [bar.width for bar in chart.bars] == [100.0, 25.0, 0.0]
    assert [bar.is_rare for bar in chart.bars] == [True, False, False]
    assert chart.rare_x == 50.0


def test_text_in_a_picture_is_escaped():
    story = Story((transaction(5, merchant_id="<script>alert(1)</script>"),))
    macros = ENVIRONMENT.get_template("_pictures.html").module
    drawn = macros.timeline(draw_timeline(story), "<b>")
    assert "<script>" not in drawn
    assert "&lt;script&gt;" in drawn
    assert "<b>" not in drawn
