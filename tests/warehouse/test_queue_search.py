"""What the desk's lists promise: the right cases, in order, page by page, and found by indexes."""

import base64
import json
from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import event

from tests.alerts import DAY, NOON, new_alert
from warehouse.errors import UserError
from warehouse.queue import Queue
from warehouse.queue_claims import claim_case, snooze_case
from warehouse.queue_decisions import Verdict, decide_alerts
from warehouse.queue_search import (
    RANKS,
    STATES,
    CaseCounts,
    CaseFilter,
    count_cases,
    list_lanes_models,
    search_cases,
)


def accounts(page):
    return [case.account_id for case in page.cases]


def find(queue, **wanted):
    return sorted(accounts(search_cases(queue, CaseFilter(**wanted))))


def read_through(queue, wanted, rank, limit):
    """Follow the cursors to the end; give the cases and the lengths of the pages."""
    found, lengths, cursor = [], [], None
    while True:
        page = search_cases(queue, wanted, rank=rank, cursor=cursor, limit=limit)
        found += page.cases
        lengths.append(len(page.cases))
        cursor = page.next_cursor
        if cursor is None:
            return found, lengths


@pytest.fixture
def ranked(queue, clock):
    """Three cases, each the first in other orders; b has no expected loss, c was opened last."""
    queue.enqueue(DAY, "nightly", [new_alert("t1", account="a", score=9.0, probability=0.1)])
    queue.enqueue(DAY, "nightly", [new_alert("t2", account="b", amount=900.0, score=2.0)])
    clock.advance(days=1)
    late = new_alert("t3", account="c", amount=50.0, score=4.0, probability=0.9)
    queue.enqueue(DAY, "nightly", [late])
    return queue


def test_each_rank_has_its_order_and_cases_without_expected_loss_come_last(ranked):
    orders = {rank: accounts(search_cases(ranked, CaseFilter(), rank=rank)) for rank in RANKS}
    assert orders == {
        "priority": ["b", "c", "a"],
        "expected_loss": ["c", "a", "b"],
        "score": ["a", "c", "b"],
        "amount": ["b", "c", "a"],
        "newest": ["c", "b", "a"],
        "oldest": ["a", "b", "c"],
    }
    for rank, expected in orders.items():
        one_by_one, lengths = read_through(ranked, CaseFilter(), rank, 1)
        assert [case.account_id for case in one_by_one] == expected
        assert lengths == [1, 1, 1]


def test_pages_give_each_case_once_though_many_are_equal(queue, clock):
    for number in range(23):
        clock.now = NOON + timedelta(minutes=number // 8)
        probability = None if number % 3 else 0.5
        alert = new_alert(
            f"t{number}", account=f"a{number:02}", amount=number % 2, probability=probability
        )
        queue.enqueue(DAY, "nightly", [alert])
    for rank in RANKS:
        whole = search_cases(queue, CaseFilter(), rank=rank)
        found, lengths = read_through(queue, CaseFilter(), rank, 4)
        assert whole.next_cursor is None
        assert [case.id for case in found] == [case.id for case in whole.cases]
        assert len({case.id for case in found}) == 23
        assert lengths == [4, 4, 4, 4, 4, 3]


def test_cases_that_come_between_two_pages_shift_nothing(ranked):
    first = search_cases(ranked, CaseFilter(), limit=2)
    ranked.enqueue(DAY, "nightly", [new_alert("t9", account="z", amount=9_000.0)])
    second = search_cases(ranked, CaseFilter(), limit=2, cursor=first.next_cursor)
    assert accounts(first) + accounts(second) == ["b", "c", "a"]


@pytest.fixture
def states(queue):
    """One case in each state: snoozed, for a second analyst, closed, claimed, and simply open."""
    names = ("sleeping", "second", "done", "mine", "plain")
    queue.enqueue(DAY, "nightly", [new_alert(f"t-{name}", account=name) for name in names])
    ids = {case.account_id: case.id for case in queue.cases()}
    snooze_case(queue, ids["sleeping"], "ana", NOON.date() + timedelta(days=2))
    alerts = {name: queue.case(ids[name]).alerts[0].id for name in names}
    decide_alerts(queue, [Verdict(alerts["second"], "fraud")], "ana", second_above=1.0)
    decide_alerts(queue, [Verdict(alerts["done"], "genuine")], "ana")
    claim_case(queue, ids["mine"], "ana", minutes=15)
    return queue


def test_states_tell_cases_apart(states):
    found = {state: find(states, state=state) for state in STATES}
    assert found == {
        "open": ["mine", "plain", "second"],
        "snoozed": ["sleeping"],
        "second": ["second"],
        "closed": ["done"],
        "all": ["done", "mine", "plain", "second", "sleeping"],
    }


def test_counts_say_how_many_cases_each_state_has(states):
    states.enqueue(DAY, "backfill", [new_alert("t-other", account="other")])
    counts = count_cases(states, "ana")
    assert counts == CaseCounts(open=4, mine=1, snoozed=1, second=1)
    assert count_cases(states, "ben").mine == 0


def test_claims_that_ran_out_and_sleeps_that_are_over_are_none(states, clock):
    assert find(states, claimed_by="ana") == ["mine"]
    clock.advance(minutes=16)
    assert find(states, claimed_by="ana") == []
    assert count_cases(states, "ana").mine == 0
    clock.advance(days=2)
    page = search_cases(states, CaseFilter())
    assert "sleeping" in accounts(page)
    assert {(c.claimed_by, c.claimed_until, c.snoozed_until) for c in page.cases} == {
        (None, None, None)
    }
    assert count_cases(states, "ana") == CaseCounts(open=4, mine=0, snoozed=0, second=1)


@pytest.fixture
def filled(queue):
    """Cases that differ in everything that a filter knows."""
    second = DAY + timedelta(days=1)
    queue.enqueue(DAY, "nightly", [new_alert("t100", account="acc-1", merchant="baker")])
    queue.enqueue(second, "nightly", [new_alert("t200", account="acc-1", amount=70.0, day=second)])
    other = new_alert("x300", account="acc-2", merchant="butcher", model_version="8")
    queue.enqueue(second, "backfill", [other])
    return queue


def test_filters_find_the_cases_that_meet_all_of_them(filled):
    searches = [
        ({"lane": "backfill"}, ["acc-2"]),
        ({"lane": "audit"}, []),
        ({"day": DAY}, ["acc-1"]),
        ({"day": DAY + timedelta(days=1)}, ["acc-1", "acc-2"]),
        ({"day": DAY + timedelta(days=2)}, []),
        ({"merchant": "butcher"}, ["acc-2"]),
        ({"merchant": "but"}, []),
        ({"account": "acc-1"}, ["acc-1"]),
        ({"model_version": "8"}, ["acc-2"]),
        ({"least_amount": 80.0}, ["acc-1"]),
        ({"least_amount": 80.01}, []),
        ({"lane": "nightly", "merchant": "butcher"}, []),
        ({"lane": "nightly", "merchant": "baker", "day": DAY, "text": "acc"}, ["acc-1"]),
        ({"lane": "", "merchant": "", "account": "", "text": " "}, ["acc-1", "acc-2"]),
    ]
    found = [(wanted, find(filled, **wanted)) for wanted, _ in searches]
    assert found == searches


def test_text_finds_whole_names_and_beginnings_and_knows_no_wildcards(filled):
    searches = [
        ("acc-1", ["acc-1"]),
        ("acc-", ["acc-1", "acc-2"]),
        ("x300", ["acc-2"]),
        ("t20", ["acc-1"]),
        (" butcher ", ["acc-2"]),
        ("b", []),  # one letter is no prefix
        ("ba", []),
        ("bak", ["acc-1"]),
        ("BAK", []),
        ("%%%", []),
        ("b%r", []),
        ("___", []),
        ("ba[kt]", []),
        ("' OR 1=1 --", []),
        ("\U0010ffff" * 3, []),
    ]
    assert [(text, find(filled, text=text)) for text, _ in searches] == searches


def test_short_names_are_found_whole(queue):
    queue.enqueue(DAY, "nightly", [new_alert("t1", account="a"), new_alert("t2", account="ab")])
    assert find(queue, text="a") == ["a"]


def test_beginnings_are_compared_letter_by_letter(queue):
    names = ["aaa%x", "aaa_x", "aaaéx", "aaa\U0010fffe", "aab", "AAA", "aa"]
    alerts = [new_alert(f"t{n}", account=name) for n, name in enumerate(names)]
    queue.enqueue(DAY, "nightly", alerts)
    assert find(queue, text="aaa") == sorted(names[:4])
    assert find(queue, text="aaa%") == ["aaa%x"]
    assert find(queue, text="aaaé") == ["aaaéx"]


@pytest.fixture(scope="module")
def empty_queue(tmp_path_factory):
    """A queue in a file that only looks are taken at."""
    path = tmp_path_factory.mktemp("empty") / "queue.sqlite"
    with Queue.open(path, create=True, clock=lambda: NOON) as opened:
        yield opened


def cursor_of(content):
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode()


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "nonsense",
        "ü",
        "e30=",
        cursor_of({}),
        cursor_of(["priority", 1.0]),
        cursor_of(["score", 1.0, 1]),
        cursor_of(["priority", "1.0", 1]),
        cursor_of(["priority", None, 1]),
        cursor_of(["priority", True, 1]),
        cursor_of(["priority", float("nan"), 1]),
        cursor_of(["priority", float("inf"), 1]),
        cursor_of(["priority", 1.0, 0]),
        cursor_of(["priority", 1.0, True]),
        cursor_of(["priority", 1.0, 2**63]),
        cursor_of(["priority", 1.0, "1; DROP TABLE cases"]),
        cursor_of(["priority", 1.0, 1]) + "!",
        base64.urlsafe_b64encode(b"[" * 50_000).decode(),
    ],
)
def test_cursors_that_no_page_gave_are_refused(empty_queue, cursor):
    with pytest.raises(UserError, match="begin again without a cursor"):
        search_cases(empty_queue, CaseFilter(), cursor=cursor)


@pytest.mark.parametrize(
    "value",
    [
        *("2026-03-03", "2026-03-03T12:00:00", "soon", 1.0, None, "2026-13-01T00:00:00+00:00"),
        *("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"),  # beyond what UTC can say
    ],
)
def test_cursors_of_times_need_a_moment(empty_queue, value):
    with pytest.raises(UserError, match="begin again without a cursor"):
        search_cases(
            empty_queue, CaseFilter(), rank="newest", cursor=cursor_of(["newest", value, 1])
        )


def test_cursors_belong_to_their_rank(ranked):
    cursor = search_cases(ranked, CaseFilter(), rank="score", limit=1).next_cursor
    with pytest.raises(UserError, match="in the order of amount"):
        search_cases(ranked, CaseFilter(), rank="amount", cursor=cursor)


@pytest.mark.parametrize(
    "wanted",
    [
        {"state": "asleep"},
        {"lane": "fast"},
        {"least_amount": float("nan")},
        {"text": "a\0b"},
        {"merchant": "\ud800"},
    ],
)
def test_filters_that_nothing_can_meet_are_refused(wanted):
    with pytest.raises(UserError, match="expected"):
        CaseFilter(**wanted)


@pytest.mark.parametrize("options", [{"rank": "luck"}, {"limit": 0}, {"limit": 501}])
def test_searches_need_a_rank_and_a_limit(empty_queue, options):
    with pytest.raises(UserError, match="expected"):
        search_cases(empty_queue, CaseFilter(), **options)


def test_choices_are_the_lanes_and_the_newest_models_and_days(queue):
    assert list_lanes_models(queue).days == ()
    for number, version in enumerate(("9", "10", "2")):
        day = DAY + timedelta(days=number)
        alert = new_alert(f"t{number}", account="a", day=day, model_version=version)
        queue.enqueue(day, "nightly", [alert, new_alert(f"u{number}", account="b", day=day)])
    choices = list_lanes_models(queue)
    assert choices.lanes == ("nightly", "backfill", "audit")
    assert choices.model_versions == ("10", "9", "7", "2")
    assert choices.days == tuple(DAY + timedelta(days=number) for number in (2, 1, 0))


@settings(max_examples=12, deadline=None)
@given(
    amounts=st.lists(st.sampled_from([0.1, 0.1 + 0.2, 1e-300, 5.0, 1e17]), max_size=12),
    limit=st.integers(1, 5),
)
def test_pages_are_the_whole_cut_in_pieces(tmp_path_factory, amounts, limit):
    path = tmp_path_factory.mktemp("law") / "queue.sqlite"
    with Queue.open(path, create=True, clock=lambda: NOON) as queue:
        alerts = [new_alert(f"t{n}", account=f"a{n}", amount=a) for n, a in enumerate(amounts)]
        queue.enqueue(DAY, "nightly", alerts)
        found, _ = read_through(queue, CaseFilter(), "amount", limit)
    assert len({case.id for case in found}) == len(amounts)
    places = [(case.amount_at_risk, case.id) for case in found]
    assert all(earlier > later for earlier, later in pairwise(places))


SEARCHES = [
    *({"rank": rank} for rank in RANKS),
    *({"state": state} for state in STATES if state not in ("all", "second")),
    {"lane": "audit"},
    {"day": DAY},
    {"merchant": "m"},
    {"account": "a"},
    {"model_version": "1"},
    {"claimed_by": "ana"},
    {"text": "abc"},
    {"text": "a"},
]


def plan_of(queue, search):
    """Give the database's plan of a search."""
    plans = []

    def explain(connection, _cursor, statement, parameters, _context, _many):
        if statement.startswith("SELECT cases."):
            rows = connection.connection.execute("EXPLAIN QUERY PLAN " + statement, parameters)
            plans.append([row[3] for row in rows])

    wanted = {name: value for name, value in search.items() if name != "rank"}
    event.listen(queue.database.engine, "before_cursor_execute", explain)
    try:
        search_cases(queue, CaseFilter(**wanted), rank=search.get("rank", "priority"))
    finally:
        event.remove(queue.database.engine, "before_cursor_execute", explain)
    (plan,) = plans
    return plan


@pytest.mark.parametrize("search", SEARCHES)
def test_no_search_reads_every_alert_or_sorts_every_case(empty_queue, search):
    plan = plan_of(empty_queue, search)
    assert plan[0].startswith("SEARCH cases USING INDEX ix_cases_state_")
    assert not any("SCAN alerts" in step or "FOR ORDER BY" in step for step in plan), plan


def test_second_looks_are_few_and_found_by_an_index_of_their_own(empty_queue):
    plan = plan_of(empty_queue, {"state": "second"})
    assert plan[0].startswith("SEARCH cases USING INTEGER PRIMARY KEY"), plan
    assert any("ix_cases_awaits_second" in step for step in plan), plan


def test_snoozed_cases_are_found_by_the_day_on_which_they_wake(empty_queue):
    plan = plan_of(empty_queue, {"state": "snoozed"})
    assert any("ix_cases_snoozed_until" in step for step in plan), plan


def test_a_changed_verdict_on_a_closed_case_is_among_the_second_looks(queue):
    alert = new_alert("t1", account="a", amount=5_000.0)
    queue.enqueue(DAY, "nightly", [alert])
    (made,) = decide_alerts(queue, [Verdict(1, "fraud")], "ana").decided
    decide_alerts(queue, [Verdict(1, "genuine", seen=made)], "ana", second_above=1_000.0)
    (case,) = search_cases(queue, CaseFilter(state="second")).cases
    assert (case.state, case.awaits_second) == ("closed", True)
    assert count_cases(queue, "ana").second == 1
