"""What a verdict does, what a second analyst confirms, what can be taken back."""

import threading
from collections import Counter
from datetime import date, timedelta

import pytest
from sqlalchemy import event, select

from tests.alerts import DAY, NOON, changes, last_change, new_alert
from warehouse.errors import UserError
from warehouse.queue_claims import claim_case, snooze_case
from warehouse.queue_decisions import (
    Verdict,
    confirm_proposal,
    decide_alerts,
    open_proposals,
    record_verdicts,
    refuse_proposal,
    retract_decision,
)
from warehouse.queue_records import ConflictError, NotInQueueError
from warehouse.queue_retractions import retract_decisions
from warehouse.queue_tables import AUDIT_EVENTS, DECISIONS


@pytest.fixture
def queue(queue):
    """Account a1 with alerts 1 (10.0) and 2 (900.0) in case 1, account a2 with alert 3."""
    queue.enqueue(DAY, "nightly", [new_alert(0), new_alert(1, amount=900.0)])
    queue.enqueue(DAY, "nightly", [new_alert(2, account="a2")])
    return queue


def kinds(queue, after):
    return [(c.kind, c.case_id, c.alert_id) for c in changes(queue, after)]


def events(queue, action):
    statement = select(AUDIT_EVENTS.c.subject, AUDIT_EVENTS.c.actor, AUDIT_EVENTS.c.details)
    statement = statement.where(AUDIT_EVENTS.c.action == action)
    with queue.database.read() as connection:
        return [tuple(row) for row in connection.execute(statement)]


def propose(queue, alert, verdict, analyst):
    """Say what needs a second analyst, and give the proposal's number."""
    standing = {d.alert_id: d.id for d in queue.case(1).decisions if not d.is_retracted}
    said = [Verdict(alert, verdict, seen=standing.get(alert))]
    (number,) = decide_alerts(queue, said, analyst, second_above=500.0).proposed
    return number


def verdicts_of(queue):
    return {alert.id: alert.verdict for alert in queue.alerts_of_day(DAY)}


def test_all_verdicts_of_a_case_close_it_and_each_leaves_its_trace(queue):
    before = last_change(queue)
    said = [Verdict(2, "genuine", "rent"), Verdict(1, "fraud")]
    outcome = decide_alerts(queue, said, "ana")
    assert (len(outcome.decided), outcome.proposed, outcome.closed_cases) == (2, (), (1,))
    assert verdicts_of(queue) == {1: "fraud", 2: "genuine", 3: None}
    made = changes(queue, before)
    assert [(c.kind, c.alert_id) for c in made] == [
        ("decision_made", 2),
        ("decision_made", 1),
        ("case_closed", None),
    ]
    assert {c.actor for c in made} == {"ana"}
    assert made[0].details == {
        "decision_id": outcome.decided[0],
        "verdict": "genuine",
        "note": "rent",
        "proposed_by": None,
        "transaction_id": "t1",
        "event_date": "2026-03-02",
    }
    found = {d.id: (d.alert_id, d.verdict) for d in queue.case(1).decisions}
    assert [found[n] for n in outcome.decided] == [(2, "genuine"), (1, "fraud")]
    said = {"case_id": 1, "verdict": "fraud", "note": "", "closes_case": True}
    assert ("alert 1", "ana", said) in events(queue, "decide")
    assert queue.verify_audit() is None


def test_one_refused_verdict_refuses_all(queue):
    before = last_change(queue)
    for wrong, error in (
        (Verdict(99, "fraud"), NotInQueueError),
        (Verdict(2**70, "fraud"), NotInQueueError),
    ):
        with pytest.raises(error):
            decide_alerts(queue, [Verdict(1, "fraud"), wrong], "ana")
    claim_case(queue, 2, "ben", minutes=15)
    with pytest.raises(ConflictError, match="case 2 is claimed by ben until 12:15 UTC"):
        decide_alerts(queue, [Verdict(1, "fraud"), Verdict(3, "fraud")], "ana")
    assert set(verdicts_of(queue).values()) == {None}
    assert [kind for kind, *_ in kinds(queue, before)] == ["case_claimed"]


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ([], UserError),
        ([Verdict(1, "fraud"), Verdict(1, "genuine")], UserError),
        ([Verdict(n, "fraud") for n in range(501)], UserError),
        ([Verdict(1, "guilty")], ValueError),
        ([Verdict(1, "fraud", "zero \0")], UserError),
    ],
)
def test_verdicts_that_cannot_be_are_refused(queue, said, error):
    with pytest.raises(error):
        decide_alerts(queue, said, "ana")


def test_verdict_of_nobody_is_refused(queue):
    with pytest.raises(ValueError, match="analyst"):
        decide_alerts(queue, [Verdict(1, "fraud")], " ")


def test_verdict_on_what_looks_different_by_now_is_refused(queue):
    (first,) = decide_alerts(queue, [Verdict(1, "fraud")], "ben").decided
    with pytest.raises(ConflictError, match="decided by ben as fraud at 12:00 UTC"):
        decide_alerts(queue, [Verdict(1, "genuine")], "ana")
    (second,) = decide_alerts(queue, [Verdict(1, "genuine", seen=first)], "ana").decided
    assert verdicts_of(queue)[1] == "genuine"
    retract_decision(queue, second, "ana")
    with pytest.raises(ConflictError, match="decided by ben as fraud"):
        decide_alerts(queue, [Verdict(1, "unsure", seen=second)], "ana")
    retract_decision(queue, first, "ben")
    with pytest.raises(ConflictError, match="was taken back meanwhile"):
        decide_alerts(queue, [Verdict(1, "unsure", seen=first)], "ana")


def test_a_decision_wakes_a_sleeping_case(queue):
    snooze_case(queue, 1, "ana", date(2026, 3, 9))
    before = last_change(queue)
    decide_alerts(queue, [Verdict(1, "fraud")], "ben")
    assert queue.case(1).summary.snoozed_until is None
    assert [kind for kind, *_ in kinds(queue, before)] == ["decision_made", "case_snoozed"]
    assert events(queue, "snooze") == [
        ("case 1", "ana", {"until": "2026-03-09", "note": ""}),
        ("case 1", "ben", {"until": None, "note": ""}),
    ]


def test_large_amount_waits_for_a_second_analyst(queue):
    claim_case(queue, 1, "ana", minutes=15)
    before = last_change(queue)
    said = [Verdict(1, "fraud"), Verdict(2, "fraud", "look")]
    outcome = decide_alerts(queue, said, "ana", second_above=500.0)
    assert (len(outcome.decided), len(outcome.proposed), outcome.closed_cases) == (1, 1, ())
    proposal = open_proposals(queue, 1)[2]
    assert (proposal.id, proposal.verdict, proposal.analyst) == (*outcome.proposed, "fraud", "ana")
    summary = queue.case(1).summary
    assert (summary.awaits_second, summary.waiting_count, summary.claimed_by) == (True, 1, None)
    assert [kind for kind, *_ in kinds(queue, before)] == [
        "decision_proposed",
        "decision_made",
        "case_released",
    ]
    assert events(queue, "release") == [("case 1", "ana", {"claimed_by": "ana"})]
    with pytest.raises(ConflictError, match="called fraud by ana and waits for a second"):
        decide_alerts(queue, [Verdict(2, "genuine")], "ben", second_above=500.0)
    for name in ("ana", "ANA"):
        with pytest.raises(ConflictError, match="by you"):
            confirm_proposal(queue, proposal.id, name)
    decided = confirm_proposal(queue, proposal.id, "ben")
    found = {d.id: d for d in queue.case(1).decisions}[decided]
    assert (found.analyst, found.proposed_by, found.note) == ("ben", "ana", "look")
    summary = queue.case(1).summary
    assert (summary.state, summary.awaits_second) == ("closed", False)
    assert changes(queue)[-2].details["proposed_by"] == "ana"
    details = {"case_id": 1, "verdict": "fraud", "note": "look", "closes_case": True}
    details |= {"proposed_by": "ana", "proposal_id": proposal.id}
    assert ("alert 2", "ben", details) in events(queue, "decide")
    with pytest.raises(ConflictError, match="called alert 2 fraud was taken back or answered"):
        confirm_proposal(queue, proposal.id, "eve")
    assert queue.verify_audit() is None


def test_unsure_and_small_amounts_need_no_second_analyst(queue):
    said = [Verdict(1, "fraud"), Verdict(2, "unsure")]
    assert decide_alerts(queue, said, "ana", second_above=500.0).proposed == ()
    assert decide_alerts(queue, [Verdict(3, "fraud")], "ana", second_above=10.0).proposed == ()


@pytest.mark.parametrize(("who", "outcome"), [("Ana", "withdrawn"), ("ben", "refused")])
def test_refused_proposal_leaves_the_alert_waiting(queue, who, outcome):
    number = propose(queue, 2, "fraud", "ana")
    refuse_proposal(queue, number, who, "no")
    assert open_proposals(queue, 1) == {}
    summary = queue.case(1).summary
    assert (summary.awaits_second, summary.waiting_count) == (False, 2)
    newest = changes(queue)[-1]
    assert (newest.kind, newest.actor, newest.details["outcome"]) == (
        "decision_refused",
        who,
        outcome,
    )
    action = {"withdrawn": "withdraw", "refused": "refuse"}[outcome]
    assert events(queue, action) == [("alert 2", who, newest.details)]
    assert propose(queue, 2, "genuine", "eve")


def test_confirmation_is_of_the_proposal_that_was_seen_and_of_no_other(queue):
    seen = propose(queue, 2, "fraud", "ana")
    refuse_proposal(queue, seen, "ana", "the wrong key")
    opposite = propose(queue, 2, "genuine", "ana")
    before = last_change(queue)
    for act in (
        lambda: confirm_proposal(queue, seen, "ben"),
        lambda: refuse_proposal(queue, seen, "ben", ""),
    ):
        with pytest.raises(ConflictError, match="called alert 2 fraud was taken back or answered"):
            act()
    assert kinds(queue, before) == []
    assert open_proposals(queue, 1)[2].id == opposite
    for number in (99, 2**70):
        with pytest.raises(NotInQueueError, match=f"number of a proposal.*{number}"):
            confirm_proposal(queue, number, "ben")
        with pytest.raises(NotInQueueError):
            refuse_proposal(queue, number, "ben", "")
    confirm_proposal(queue, opposite, "ben")
    assert verdicts_of(queue)[2] == "genuine"


def test_unsure_cannot_end_alone_what_two_analysts_agreed_on(queue):
    confirmed = confirm_proposal(queue, propose(queue, 2, "fraud", "ana"), "ben")
    before = last_change(queue)
    said = [Verdict(1, "fraud"), Verdict(2, "unsure", seen=confirmed)]
    with pytest.raises(UserError, match="say fraud or genuine, and a second analyst must"):
        decide_alerts(queue, said, "eve", second_above=500.0)
    assert kinds(queue, before) == []
    outcome = decide_alerts(
        queue, [Verdict(2, "genuine", seen=confirmed)], "eve", second_above=500.0
    )
    assert (outcome.decided, len(outcome.proposed)) == ((), 1)
    assert verdicts_of(queue)[2] == "fraud"


def test_unsure_may_follow_what_needed_no_second_analyst(queue):
    (small,) = decide_alerts(queue, [Verdict(1, "fraud")], "ana", second_above=500.0).decided
    (unsure,) = decide_alerts(queue, [Verdict(2, "unsure")], "ana", second_above=500.0).decided
    said = [Verdict(1, "unsure", seen=small), Verdict(2, "unsure", seen=unsure)]
    assert len(decide_alerts(queue, said, "ben", second_above=500.0).decided) == 2


def test_proposer_s_claim_is_no_obstacle_to_the_second_and_a_third_s_is(queue):
    number = propose(queue, 2, "fraud", "ana")
    claim_case(queue, 1, "eve", minutes=15)
    for act in (
        lambda: confirm_proposal(queue, number, "ben"),
        lambda: refuse_proposal(queue, number, "ben", ""),
    ):
        with pytest.raises(ConflictError, match="claimed by eve"):
            act()
    refuse_proposal(queue, number, "eve", "")
    number = propose(queue, 2, "fraud", "eve")
    assert queue.case(1).summary.claimed_by == "eve"
    confirm_proposal(queue, number, "ben")


def test_claim_of_who_confirms_one_of_two_is_kept(queue):
    said = [Verdict(1, "fraud"), Verdict(2, "fraud")]
    first, second = decide_alerts(queue, said, "ana", second_above=5.0).proposed
    claim_case(queue, 1, "ben", minutes=15)
    confirm_proposal(queue, first, "ben")
    assert queue.case(1).summary.claimed_by == "ben"
    confirm_proposal(queue, second, "ben")
    assert queue.case(1).summary.state == "closed"


def test_verdict_without_a_look_withdraws_what_was_proposed(queue):
    number = propose(queue, 2, "fraud", "ana")
    before = last_change(queue)
    with queue.database.write() as connection:
        record_verdicts(connection, NOON, [Verdict(2, "genuine")], "ben")
    assert open_proposals(queue, 1) == {}
    assert verdicts_of(queue)[2] == "genuine"
    assert not queue.case(1).summary.awaits_second
    refused, made = changes(queue, before)
    assert (refused.kind, made.kind) == ("decision_refused", "decision_made")
    ((subject, actor, details),) = events(queue, "withdraw")
    assert (subject, actor, details) == ("alert 2", "ben", refused.details)
    assert (details["proposal_id"], details["proposed_by"]) == (number, "ana")


def test_retraction_opens_the_case_again(queue, clock):
    (decided,) = decide_alerts(queue, [Verdict(3, "fraud")], "ana").decided
    before = last_change(queue)
    clock.now += timedelta(minutes=5) - timedelta(seconds=1)
    assert retract_decision(queue, decided, "Ana") == 2
    summary = queue.case(2).summary
    assert (summary.state, summary.waiting_count) == ("open", 1)
    assert kinds(queue, before) == [("decision_retracted", 2, 3), ("case_reopened", 2, None)]
    with pytest.raises(ConflictError, match="taken back already"):
        retract_decision(queue, decided, "ana")
    assert queue.verify_audit() is None


def test_retraction_moves_the_alert_where_the_account_has_another_open_case(queue):
    decided = decide_alerts(queue, [Verdict(1, "fraud"), Verdict(2, "fraud")], "ana").decided
    later = DAY - timedelta(1)
    queue.enqueue(later, "nightly", [new_alert(9)])
    third = next(c.id for c in queue.cases() if c.account_id == "a1")
    before = last_change(queue)
    assert retract_decision(queue, decided[0], "ana") == third
    assert kinds(queue, before) == [("decision_retracted", 1, 1), ("alert_moved", third, 1)]
    there, here = queue.case(third).summary, queue.case(1).summary
    assert (there.alert_count, there.waiting_count, there.last_event_date) == (2, 2, DAY)
    assert (here.state, here.alert_count, here.amount) == ("closed", 1, 900.0)
    snooze_case(queue, third, "ana", date(2026, 3, 9))
    retract_decision(queue, decided[1], "ana")
    assert queue.case(third).summary.snoozed_until is None, "what waits again is not put off"
    emptied = queue.case(1)
    assert (emptied.summary.state, emptied.summary.alert_count, emptied.alerts) == (
        "closed",
        0,
        (),
    )
    assert emptied.summary.amount_at_risk == 0.0
    assert queue.verify_audit() is None


def test_retraction_of_a_later_decision_lets_the_earlier_count_again(queue):
    (first,) = decide_alerts(queue, [Verdict(3, "fraud")], "ana").decided
    (second,) = decide_alerts(queue, [Verdict(3, "genuine", seen=first)], "ana").decided
    with pytest.raises(ConflictError, match=f"followed by decision {second} of ana"):
        retract_decision(queue, first, "ana")
    retract_decision(queue, second, "ana")
    assert (verdicts_of(queue)[3], queue.case(2).summary.state) == ("fraud", "closed")


def test_retraction_by_another_needs_a_lead_and_none_may_after_the_window(queue, clock):
    first, second = decide_alerts(queue, [Verdict(1, "fraud"), Verdict(3, "fraud")], "ana").decided
    with pytest.raises(UserError, match="ana, who made"):
        retract_decision(queue, first, "ben")
    retract_decision(queue, first, "ben", is_lead=True)
    clock.advance(minutes=5)
    with pytest.raises(ConflictError, match="older than 5 minutes"):
        retract_decision(queue, second, "ana", is_lead=True)
    for number in (99, 2**70):
        with pytest.raises(NotInQueueError):
            retract_decision(queue, number, "ana")


@pytest.mark.parametrize("numbers", [[], [1, 1]])
def test_retraction_of_nothing_or_of_one_twice_is_refused(queue, numbers):
    decide_alerts(queue, [Verdict(3, "fraud")], "ana")
    with pytest.raises(UserError, match="expected decisions, each once"):
        retract_decisions(queue, numbers, "ana")
    assert verdicts_of(queue)[3] == "fraud"


def test_two_analysts_at_the_same_moment_one_decides(queue):
    for alert in (1, 2, 3):
        results, gate = [], threading.Barrier(2)

        def decide(analyst, alert=alert, gate=gate, results=results):
            gate.wait()
            try:
                decide_alerts(queue, [Verdict(alert, "fraud")], analyst)
                results.append("decided")
            except ConflictError:
                results.append("conflict")

        workers = [threading.Thread(target=decide, args=(name,)) for name in ("ana", "ben")]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert sorted(results) == ["conflict", "decided"]
    assert Counter(d.alert_id for d in queue.case(1).decisions) == {1: 1, 2: 1}


def test_many_verdicts_cost_no_statement_each(queue):
    alerts = [new_alert(100 + n, account=f"b{n % 50}") for n in range(500)]
    queue.enqueue(DAY, "nightly", alerts)
    numbers = [a.id for a in queue.alerts_of_day(DAY) if a.account_id.startswith("b")]
    statements = []
    engine = queue.database.engine
    event.listen(engine, "before_cursor_execute", lambda *a: statements.append(a[2]))
    said = [Verdict(n, "fraud" if n % 2 else "genuine") for n in reversed(numbers)]
    outcome = decide_alerts(queue, said, "ana", second_above=5000.0)
    assert len(statements) < 25
    assert len(outcome.closed_cases) == 50
    with queue.database.read() as connection:
        found = dict(connection.execute(select(DECISIONS.c.id, DECISIONS.c.alert_id)).all())
    assert [found[number] for number in outcome.decided] == [v.alert_id for v in said]
    assert queue.verify_audit() is None
