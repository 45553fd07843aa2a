"""What the review queue promises to those who fill it and to those who work it off."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from tempfile import TemporaryDirectory
from threading import Barrier

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError

from tests.alerts import DAY, NOON, changes, new_alert
from warehouse.errors import WarehouseError
from warehouse.queue import LANES, NewAlert, NotInQueueError, Queue, Reason
from warehouse.queue_decisions import retract_decision
from warehouse.queue_statements import SETTLED_AFTER, UNDO_WINDOW


def contents(queue):
    cases = [queue.case(c.id) for s in ("open", "closed") for c in queue.cases(state=s)]
    return cases, queue.counts()


def test_enqueue_opens_a_case_per_account_and_appends_to_it(queue):
    first = queue.enqueue(DAY, "nightly", [new_alert(0), new_alert(1), new_alert(2, account="a2")])
    assert (first.added, first.cases_opened, first.cases_appended) == (3, 2, 0)
    later = queue.enqueue(
        DAY + timedelta(1), "nightly", [new_alert(3), new_alert(4, account="a3")]
    )
    assert (later.added, later.cases_opened, later.cases_appended) == (2, 1, 1)
    case = next(c for c in queue.cases() if c.account_id == "a1")
    assert (case.alert_count, case.amount) == (3, 30.0)
    assert (case.first_event_date, case.last_event_date, case.opened_for) == (
        DAY,
        DAY + timedelta(1),
        DAY,
    )


def test_enqueue_again_changes_nothing(queue):
    alerts = [new_alert(n, account=f"a{n % 3}") for n in range(9)]
    queue.enqueue(DAY, "nightly", alerts)
    before = contents(queue)
    again = queue.enqueue(DAY, "nightly", alerts)
    assert (again.added, again.already_there, again.cases_opened) == (0, 9, 0)
    assert contents(queue) == before


def test_enqueue_in_another_lane_leaves_known_transactions_alone(queue):
    queue.enqueue(DAY, "nightly", [new_alert(0)])
    result = queue.enqueue(DAY, "backfill", [new_alert(0, score=9.0), new_alert(1)])
    assert (result.added, result.already_there, result.cases_opened) == (1, 1, 1)
    assert [(a.transaction_id, a.lane, a.score) for a in queue.alerts_of_day(DAY)] == [
        ("t1", "backfill", 3.0),
        ("t0", "nightly", 3.0),
    ]


def sampled(number, probability=0.02, **fields):
    return new_alert(number, inclusion_probability=probability, **fields)


def test_inclusion_probability_comes_back_wherever_the_alert_is_read(queue):
    queue.enqueue(DAY, "nightly", [new_alert(0)])
    queue.enqueue(DAY, "audit", [sampled(1)])
    queue.decide(2, "genuine", "ana")
    assert [(a.lane, a.inclusion_probability) for a in queue.alerts_of_day(DAY)] == [
        ("audit", 0.02),
        ("nightly", 1.0),
    ]
    (row,) = queue.export_rows(lane="audit", state="closed")
    assert row["inclusion_probability"] == 0.02
    assert queue.case(2).summary.lane == "audit"


def test_audit_sample_of_a_day_is_drawn_once(queue):
    assert queue.count_of_day(DAY, "audit") == 0
    queue.enqueue(DAY, "audit", [sampled(0), sampled(1)])
    second = queue.enqueue(DAY, "audit", [sampled(1, 0.5), sampled(2, 0.5)])
    assert (second.added, second.already_there) == (0, 1)
    assert [a.transaction_id for a in queue.alerts_of_day(DAY)] == ["t0", "t1"]
    assert queue.count_of_day(DAY, "audit") == 2
    tomorrow = DAY + timedelta(1)
    assert queue.enqueue(tomorrow, "audit", [sampled(2, day=tomorrow)]).added == 1
    assert queue.enqueue(DAY, "nightly", [new_alert(3)]).added == 1
    assert [queue.count_of_day(DAY, lane) for lane in LANES] == [1, 0, 2]


def test_alerts_between_holds_both_ends(queue):
    days = [DAY + timedelta(n) for n in range(4)]
    for number, day in enumerate(days):
        queue.enqueue(day, "nightly", [new_alert(number, day=day)])
    assert [a.event_date for a in queue.alerts_between(days[1], days[2])] == days[1:3]
    assert queue.alerts_between(days[2], days[1]) == []


@settings(deadline=None, max_examples=25)
@given(
    calls=st.lists(
        st.tuples(
            st.sampled_from(LANES),
            st.integers(0, 1),
            st.lists(st.integers(0, 11), max_size=6, unique=True),
        ),
        max_size=7,
    )
)
def test_queue_holds_each_transaction_once_and_one_audit_draw_a_day(calls):
    with (
        TemporaryDirectory() as folder,
        Queue.open(f"{folder}/queue.sqlite", create=True) as queue,
    ):
        held, audited = {}, set()
        for lane, after, numbers in calls:
            day = DAY + timedelta(after)
            # A transaction belongs to one day: even numbers to the first, odd to the second.
            mine = [sampled(2 * n + after, day=day, account=f"a{n % 3}") for n in numbers]
            result = queue.enqueue(day, lane, mine)
            refused = lane == "audit" and day in audited
            new = [] if refused else [a for a in mine if a.transaction_id not in held]
            assert result.added == len(new)
            held |= {alert.transaction_id: lane for alert in new}
            audited |= {day} if lane == "audit" and new else set()
            assert queue.enqueue(day, lane, mine).added == 0
        found = queue.alerts_between(DAY, DAY + timedelta(1))
        assert {alert.transaction_id: alert.lane for alert in found} == held
        assert len(found) == len(held)


def test_enqueue_of_nothing_leaves_no_trace(queue):
    result = queue.enqueue(DAY, "nightly", [])
    assert (result.added, result.already_there) == (0, 0)
    assert queue.counts() == []


def test_alert_comes_back_as_it_went_in(queue):
    sent = new_alert(0, reasons=[Reason("category", "travel", None, "first travel, café")])
    queue.enqueue(DAY, "nightly", [sent])
    (alert,) = queue.case(1).alerts
    for name in ("occurred_at", "amount", "score", "members", "model_version", "merchant_id"):
        assert getattr(alert, name) == getattr(sent, name)
    assert alert.reasons == tuple(sent.reasons)
    assert alert.created_at == NOON
    assert alert.occurred_at.tzinfo == UTC


def test_occurred_at_in_another_zone_is_the_same_moment(queue):
    moment = datetime(2026, 3, 2, 1, tzinfo=timezone(timedelta(hours=5)))
    queue.enqueue(DAY, "nightly", [new_alert(0, occurred_at=moment)])
    assert queue.case(1).alerts[0].occurred_at == datetime(2026, 3, 1, 20, tzinfo=UTC)


def test_cases_are_ranked_by_score_then_amount_at_risk(queue):
    alerts = [
        new_alert(0, account="low", score=2.0, amount=900.0),
        new_alert(1, account="small", score=5.0, amount=10.0),
        new_alert(2, account="large", score=5.0, amount=80.0),
        new_alert(3, account="large", score=1.0, amount=50.0),
    ]
    queue.enqueue(DAY, "nightly", alerts)
    ranked = queue.cases()
    assert [case.account_id for case in ranked] == ["large", "small", "low"]
    assert ranked[0].reasons[0] == "amount 80.00 is unusual"
    assert ranked[0].amount_at_risk == 130.0
    assert [case.account_id for case in queue.cases(limit=1)] == ["large"]
    assert queue.cases(lane="backfill") == []


def test_decided_alerts_no_longer_lift_their_case(queue):
    alerts = [new_alert(0, score=9.0), new_alert(1, score=2.0), new_alert(2, account="a2")]
    queue.enqueue(DAY, "nightly", alerts)
    assert queue.cases()[0].account_id == "a1"
    queue.decide(1, "genuine", "ana")
    first, second = queue.cases()
    assert (first.account_id, second.account_id) == ("a2", "a1")
    assert (second.score, second.alert_count, second.waiting_count) == (2.0, 2, 1)


def test_case_closes_with_its_last_verdict_and_is_not_reopened(queue):
    queue.enqueue(DAY, "nightly", [new_alert(0), new_alert(1)])
    queue.decide(1, "fraud", "ana", "card stolen")
    assert queue.case(1).summary.state == "open"
    queue.decide(2, "unsure", "bob")
    closed = queue.case(1)
    assert closed.summary.state == "closed"
    assert [(d.verdict, d.analyst, d.note) for d in closed.decisions] == [
        ("fraud", "ana", "card stolen"),
        ("unsure", "bob", ""),
    ]
    result = queue.enqueue(DAY, "nightly", [new_alert(0), new_alert(1), new_alert(2)])
    assert (result.added, result.cases_opened, result.cases_appended) == (1, 1, 0)
    assert queue.case(1) == closed
    assert [(c.id, c.alert_count) for c in queue.cases()] == [(2, 1)]
    assert [(c.lane, c.state, c.cases, c.alerts) for c in queue.counts()] == [
        ("nightly", "closed", 1, 2),
        ("nightly", "open", 1, 1),
    ]


def test_later_decision_counts_and_both_are_kept(queue):
    queue.enqueue(DAY, "nightly", [new_alert(0)])
    queue.decide(1, "genuine", "ana")
    queue.decide(1, "fraud", "bob")
    assert queue.case(1).alerts[0].verdict == "fraud"
    assert [d.verdict for d in queue.decisions()] == ["genuine", "fraud"]
    (newest,) = queue.decisions(after=1)
    assert (newest.transaction_id, newest.event_date, newest.decided_at) == ("t0", DAY, NOON)


def test_decisions_settle_in_their_order_and_those_taken_back_never_do(queue, clock):
    queue.enqueue(DAY, "nightly", [new_alert(n) for n in range(5)])

    def settled(after=0):
        found = queue.decisions(after=after, settled_before=queue.settled_before())
        return [decision.id for decision in found]

    for number, minutes in enumerate([0, 1, 3, 2, 4], start=1):
        clock.now = NOON + timedelta(minutes=minutes)  # the fourth's clock is behind
        queue.decide(number, "fraud", "ana")
    retract_decision(queue, 2, "ana")
    assert settled() == []
    clock.now = NOON + UNDO_WINDOW
    assert settled() == [], "it may still be taken back in this very moment"
    clock.now = NOON + SETTLED_AFTER
    assert settled() == [], "or by who has a clock that is a minute behind"
    clock.advance(minutes=2, seconds=1)
    assert settled() == [1], "the fourth is old enough, but the third before it is not"
    clock.advance(minutes=1)
    assert settled() == [1, 3, 4]
    assert settled(after=3) == [4]
    clock.advance(minutes=1)
    assert settled(after=4) == [5]
    assert [d.id for d in queue.decisions() if d.is_retracted] == [2]


def test_settled_decisions_are_those_that_no_later_one_follows(queue, clock):
    queue.enqueue(DAY, "nightly", [new_alert(n) for n in range(4)])
    for number, verdicts in ((1, ["fraud", "unsure"]), (2, ["fraud", "genuine"])):
        for verdict in verdicts:
            queue.decide(number, verdict, "ana")
    for verdict in ("genuine", "fraud"):
        queue.decide(3, verdict, "ana")
    retract_decision(queue, queue.last_decision(), "ana")
    queue.decide(4, "fraud", "ana")
    clock.advance(minutes=1)
    queue.decide(4, "unsure", "ana")
    clock.now = NOON + SETTLED_AFTER + timedelta(seconds=1)

    def settled(after=0):
        found = queue.decisions(after=after, settled_before=queue.settled_before())
        return [(decision.alert_id, decision.verdict) for decision in found]

    kept = [(1, "unsure"), (2, "genuine"), (3, "genuine")]
    assert settled() == kept, "what stands on the fourth is open: unsure may be taken back"
    assert settled(after=5) == []
    clock.advance(minutes=1)
    assert settled() == [*kept, (4, "unsure")]
    assert settled(after=5) == [(4, "unsure")]
    assert len(queue.decisions()) == 8


def test_settled_moment_waits_for_a_retraction_that_is_being_written(tmp_path):
    with Queue.open(tmp_path / "queue.sqlite", create=True) as queue:
        queue.enqueue(DAY, "nightly", [new_alert(0)])
        queue.decide(1, "fraud", "ana")
        asked = []
        with ThreadPoolExecutor(1) as pool:
            with queue.database.write():
                answer = pool.submit(queue.settled_before)
                time.sleep(0.05)
                asked.append(queue.clock())
                assert not answer.done()
            assert answer.result() >= asked[0] - SETTLED_AFTER


def test_retracted_verdict_counts_nowhere(queue):
    queue.enqueue(DAY, "nightly", [new_alert(0)])
    queue.decide(1, "genuine", "ana")
    queue.decide(1, "fraud", "bob")
    retract_decision(queue, 2, "bob")
    assert queue.case(1).alerts[0].verdict == "genuine"
    assert queue.alerts_of_day(DAY)[0].verdict == "genuine"
    assert queue.export_rows(state="closed")[0]["verdict"] == "genuine"


def test_enqueue_logs_each_change_in_order(queue):
    queue.enqueue(DAY, "nightly", [new_alert(0), new_alert(1, account="a2"), new_alert(2)])
    queue.enqueue(DAY + timedelta(1), "nightly", [new_alert(3)])
    logged = changes(queue)
    cases = {case.account_id: case.id for case in queue.cases()}
    alerts = {a.transaction_id: a.id for a in queue.alerts_between(DAY, DAY + timedelta(1))}
    assert [(c.kind, c.case_id, c.alert_id) for c in logged] == [
        ("case_opened", cases["a1"], None),
        ("case_opened", cases["a2"], None),
        ("alert_queued", cases["a1"], alerts["t0"]),
        ("alert_queued", cases["a2"], alerts["t1"]),
        ("alert_queued", cases["a1"], alerts["t2"]),
        ("alert_queued", cases["a1"], alerts["t3"]),
    ]
    assert [c.id for c in logged] == sorted(c.id for c in logged)
    assert {(c.actor, c.happened_at) for c in logged} == {("nightwarden", NOON)}
    assert logged[-1].details == {
        "transaction_id": "t3",
        "account_id": "a1",
        "merchant_id": "m1",
        "amount": 10.0,
        "score": 3.0,
        "model_version": "7",
        "lane": "nightly",
        "event_date": "2026-03-03",
    }


def test_verdicts_are_logged_as_changes(queue):
    queue.enqueue(DAY, "nightly", [new_alert(0)])
    queue.decide(1, "fraud", "ana", "card stolen")
    made, closed = changes(queue, after=2)
    assert (made.kind, made.alert_id, made.case_id, made.actor) == ("decision_made", 1, 1, "ana")
    assert (made.details["verdict"], made.details["note"]) == ("fraud", "card stolen")
    assert (closed.kind, closed.case_id, closed.actor) == ("case_closed", 1, "ana")


def test_forty_threads_read_and_write_at_once(tmp_path):
    with Queue.open(tmp_path / "queue.sqlite", create=True) as queue:
        queue.enqueue(DAY, "nightly", [new_alert(n, account=f"a{n}") for n in range(40)])
        together = Barrier(40, timeout=20)

        def work(number):
            with queue.database.read() as connection:
                together.wait()  # all hold a connection
                connection.scalar(text("SELECT count(*) FROM cases"))
            queue.decide(number, "fraud", "ana")

        with ThreadPoolExecutor(40) as pool:
            list(pool.map(work, range(1, 41)))
        assert len(queue.decisions()) == 40
        assert queue.cases() == []
        assert queue.verify_audit() is None


def test_export_has_a_row_per_alert_in_the_order_of_the_cases(queue):
    alerts = [new_alert(0, score=1.0), new_alert(1, account="a2", score=8.0), new_alert(2)]
    queue.enqueue(DAY, "nightly", alerts)
    rows = queue.export_rows()
    assert [row["transaction_id"] for row in rows] == ["t1", "t2", "t0"]
    assert rows[0]["reasons"] == "amount 10.00 is unusual"
    assert queue.export_rows(state="closed") == queue.export_rows(lane="backfill") == []


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda q: q.case(99), NotInQueueError, "got 99"),
        (lambda q: q.decide(99, "fraud", "ana"), NotInQueueError, "got 99"),
        (lambda q: q.decide(1, "maybe", "ana"), ValueError, "got 'maybe'"),
        (lambda q: q.decide(1, "fraud", " "), ValueError, "analyst"),
        (lambda q: q.enqueue(DAY, "nigthly", []), ValueError, "got 'nigthly'"),
        (lambda q: q.cases(state="shut"), ValueError, "got 'shut'"),
        (lambda q: q.count_of_day(DAY, "aduit"), ValueError, "got 'aduit'"),
        (lambda q: q.enqueue(DAY, "nightly", [new_alert(1)] * 2), ValueError, "such as t1"),
    ],
)
def test_wrong_use_says_what_was_found(queue, call, error, message):
    with pytest.raises(error, match=message):
        call(queue)
    assert queue.counts() == []
    assert queue.verify_audit() is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"occurred_at": datetime(2026, 3, 2)},  # noqa: DTZ001 - the naive value is the point
        {"score": float("nan")},
        {"amount": float("inf")},
        {"members": {"vae": float("nan")}},
        {"account_id": ""},
        {"inclusion_probability": 0.0},
        {"inclusion_probability": 1.0001},
        {"inclusion_probability": float("nan")},
    ],
    ids=["naive", "score", "amount", "member", "account", "never", "too-likely", "unknown"],
)
def test_new_alert_refuses_what_databases_would_change(wrong):
    with pytest.raises(ValueError, match="expected"):
        NewAlert(**{**vars(new_alert(0)), **wrong})


def raw(queue_url, *statements):
    """Do what a person with a database client could."""
    engine = create_engine(queue_url)
    try:
        with engine.begin() as connection:
            for statement in statements:
                connection.execute(text(statement))
    finally:
        engine.dispose()


@pytest.mark.parametrize("table", ["decisions", "audit_events", "changes"])
def test_append_only_tables_refuse_changes(queue, queue_url, table):
    queue.enqueue(DAY, "nightly", [new_alert(0)])
    queue.decide(1, "fraud", "ana")
    column = "note" if table == "decisions" else "actor"
    statements = [f"UPDATE {table} SET {column} = 'x'", f"DELETE FROM {table}"]
    if queue_url.startswith("sqlite"):
        statements.append(f"INSERT OR REPLACE INTO {table} SELECT * FROM {table}")
    else:
        statements.append(f"TRUNCATE {table} CASCADE")  # others refer to decisions
    for statement in statements:
        with pytest.raises(DBAPIError, match=f"{table} is append-only"):
            raw(queue_url, statement)
    assert len(queue.decisions()) == 1


def test_audit_chain_shows_a_changed_row(queue, queue_url):
    for number in range(4):
        queue.enqueue(DAY, "nightly", [new_alert(number)])
    queue.decide(2, "fraud", "ana")
    assert queue.verify_audit() is None
    if queue_url.startswith("sqlite"):
        drop = ["DROP TRIGGER audit_events_no_update", "DROP TRIGGER audit_events_no_delete"]
    else:
        drop = ["DROP TRIGGER audit_events_append_only ON audit_events"]
    raw(queue_url, *drop, "UPDATE audit_events SET actor = 'eve' WHERE sequence = 3")
    assert queue.verify_audit() == 3
    raw(queue_url, "UPDATE audit_events SET actor = 'nightwarden' WHERE sequence = 3")
    assert queue.verify_audit() is None
    raw(queue_url, "DELETE FROM audit_events WHERE sequence = 2")
    assert queue.verify_audit() == 2


def test_twenty_nights_of_a_hundred_alerts_are_quick_and_linear(queue):
    spent = []
    for number in range(20):
        day = DAY + timedelta(number)
        ids = range(number * 100, number * 100 + 100)
        alerts = [new_alert(n, account=f"a{n % 150}", score=n % 7, day=day) for n in ids]
        start = time.perf_counter()
        queue.enqueue(day, "nightly", alerts)
        spent.append(time.perf_counter() - start)
    assert sum(count.alerts for count in queue.counts()) == 2000
    assert sorted(spent)[10] < 0.2
    assert len(queue.export_rows()) == 2000
    ranked = queue.cases(limit=1000)
    assert len(ranked) == 150
    assert all(a.score >= b.score for a, b in pairwise(ranked))
    assert queue.verify_audit() is None


def test_error_of_a_locked_queue_says_so(queue_url, monkeypatch):
    monkeypatch.setattr("warehouse.queue_database.LOCK_SECONDS", 0.05)
    holder = Queue.open(queue_url, create=True)
    with holder, Queue.open(queue_url, create=False) as other, holder.database.write():
        for queue in (other, holder):
            assert queue.cases() == []
            with pytest.raises(WarehouseError, match="locked"):
                queue.enqueue(DAY, "nightly", [new_alert(0)])
