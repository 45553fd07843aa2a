"""Laws of the analysts' work that hold whatever they do, in any order, with any clock."""

from collections import Counter
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from tests.alerts import DAY, Clock, changes, last_change, new_alert
from warehouse.errors import UserError
from warehouse.queue import Queue
from warehouse.queue_claims import claim_case, snooze_case
from warehouse.queue_decisions import (
    Verdict,
    confirm_proposal,
    decide_alerts,
    refuse_proposal,
    retract_decision,
)
from warehouse.queue_records import ConflictError, NotInQueueError
from warehouse.queue_tables import ALERTS, AUDIT_EVENTS, CASES, DECISIONS, PROPOSALS, RETRACTIONS

ACTIONS = (
    *("claim", "decide", "decide", "redecide", "propose", "confirm", "refuse"),
    *("retract", "retract", "snooze", "enqueue", "wait", "say"),
)
STEPS = st.tuples(
    st.sampled_from(ACTIONS), st.sampled_from(["ana", "ben", "ANA"]), st.integers(0, 40)
)
ALLOWED = {
    "claim": {"case_claimed"},
    "decide": {"decision_made", "case_closed", "case_snoozed", "case_released"},
    "propose": {"decision_proposed", "case_snoozed", "case_released"},
    "confirm": {"decision_made", "case_closed", "case_snoozed", "case_released"},
    "refuse": {"decision_refused"},
    "say": {"decision_refused", "decision_made", "case_closed", "case_snoozed", "case_released"},
    "retract": {"decision_retracted", "case_reopened", "alert_moved", "case_snoozed"},
    "snooze": {"case_snoozed", "case_released"},
}
FIRST = {
    "claim": "case_claimed",
    "decide": "decision_made",
    "propose": "decision_proposed",
    "confirm": "decision_made",
    "refuse": "decision_refused",
    "say": "decision_made",
    "retract": "decision_retracted",
    "snooze": "case_snoozed",
}


AUDITED = {
    "alert_moved": "move",
    "case_claimed": "claim",
    "case_released": "release",
    "case_reopened": "reopen",
    "case_snoozed": "snooze",
    "decision_made": "decide",
    "decision_proposed": "propose",
    "decision_refused": "refuse",
    "decision_retracted": "retract",
}


class _Desk:
    """Acts on a queue at random, and knows what must hold whatever was done."""

    def __init__(self, queue, clock):
        self.queue, self.clock, self.next_number = queue, clock, 0
        self.do("enqueue", "ana", 0)

    def do(self, action, analyst, pick):
        if action == "wait":
            self.clock.advance(minutes=pick)
            return
        if action == "enqueue":
            numbers = range(self.next_number, self.next_number + 3)
            self.next_number += 3
            alerts = [
                new_alert(n, account=f"a{(n + pick) % 2}", score=1.0 + n % 3, probability=0.5)
                for n in numbers
            ]
            self.queue.enqueue(DAY, "nightly", alerts)
            return
        after = last_change(self.queue)
        try:
            is_done = self.act(action, analyst, pick)
        except (ConflictError, NotInQueueError, UserError):
            assert changes(self.queue, after) == []
            return
        if is_done:
            self.check_changes("decide" if action == "redecide" else action, after)

    def act(self, action, analyst, pick):
        alert = 1 + pick % self.next_number
        if action == "claim":
            claim_case(self.queue, 1 + pick % 4, analyst, minutes=5)
        elif action == "snooze":
            until = self.clock.now.date() + timedelta(1 + pick % 3)
            snooze_case(self.queue, 1 + pick % 4, analyst, until)
        elif action in ("decide", "redecide", "propose"):
            seen = self.standing().get(alert) if action == "redecide" else None
            above = 1.0 if action == "propose" else None
            said = [Verdict(alert, "fraud", seen=seen)]
            decide_alerts(self.queue, said, analyst, second_above=above)
        elif action == "say":  # without a look at what is there
            self.queue.decide(alert, "genuine", analyst)
        elif action == "confirm":
            confirm_proposal(self.queue, self.proposed(pick), analyst)
        elif action == "refuse":
            refuse_proposal(self.queue, self.proposed(pick), analyst, "")
        else:
            newest = max(self.rows(DECISIONS.c.id), default=(0,))[0]
            retract_decision(self.queue, newest - pick % 3, analyst)
        return True

    def proposed(self, pick):
        made = self.rows(PROPOSALS.c.id, PROPOSALS.c.outcome)
        found = [number for number, outcome in made if outcome is None]
        return found[pick % len(found)] if found else 1

    def rows(self, *columns):
        with self.queue.database.read() as connection:
            return [tuple(row) for row in connection.execute(select(*columns))]

    def standing(self):
        gone = {number for (number,) in self.rows(RETRACTIONS.c.decision_id)}
        made = sorted(self.rows(DECISIONS.c.id, DECISIONS.c.alert_id))
        return {alert: number for number, alert in made if number not in gone}

    def check_changes(self, action, after):
        made = changes(self.queue, after)
        counted = Counter(change.kind for change in made)
        assert counted[FIRST[action]] == 1, (action, counted)
        assert set(counted) <= ALLOWED[action], (action, counted)
        assert [change.id for change in made] == list(range(after + 1, after + 1 + len(made)))

    def check(self):
        with self.queue.database.read() as connection:
            cases = connection.execute(select(CASES)).all()
            alerts = connection.execute(select(ALERTS)).all()
        standing = self.standing()
        proposed = {a for a, o in self.rows(PROPOSALS.c.alert_id, PROPOSALS.c.outcome) if not o}
        is_open = Counter((c.account_id, c.lane) for c in cases if c.state == "open")
        assert set(is_open.values()) <= {1}
        for case in cases:
            mine = [alert for alert in alerts if alert.case_id == case.id]
            waiting = [alert for alert in mine if alert.id not in standing]
            assert case.state == ("open" if waiting else "closed")
            assert (case.alert_count, case.waiting_count) == (len(mine), len(waiting))
            counted = waiting or mine
            assert case.score == max((a.score for a in counted), default=0)
            assert case.amount_at_risk == sum(a.amount for a in counted)
            assert case.priority == sum(a.amount * a.score for a in counted)
            assert case.amount == sum(a.amount for a in mine)
            assert case.awaits_second == any(a.id in proposed for a in mine)
            assert waiting or (case.claimed_by, case.snoozed_until) == (None, None)
        self.check_verdicts(standing)
        self.check_claims(cases)
        self.check_audit()
        assert self.queue.verify_audit() is None

    def check_claims(self, cases):
        """Who follows the changes knows who works on what, though claims run out untold."""
        told = {}
        for change in changes(self.queue):
            if change.kind == "case_claimed":
                told[change.case_id] = change.actor, change.details["until"]
            elif change.kind in ("case_released", "case_closed"):
                told.pop(change.case_id, None)
        now = self.clock.now
        held = {
            case.id: (case.claimed_by, case.claimed_until.isoformat())
            for case in cases
            if case.claimed_until is not None and case.claimed_until > now
        }
        is_held = {id_: claim for id_, claim in told.items() if claim[1] > now.isoformat()}
        assert is_held == held

    def check_audit(self):
        """Each change that is work has its one event, by the same person, on the same thing."""
        told = Counter()
        for change in changes(self.queue):
            if action := AUDITED.get(change.kind):
                is_case = change.alert_id is None
                subject = f"case {change.case_id}" if is_case else f"alert {change.alert_id}"
                told[change.actor, action, subject] += 1
        columns = ("actor", "action", "subject")
        found = Counter(self.rows(*(AUDIT_EVENTS.c[name] for name in columns)))
        own = {"withdraw": "refuse"}
        written = Counter()
        for (actor, action, subject), times in found.items():
            if action != "enqueue":
                written[actor, own.get(action, action), subject] += times
        assert told == written

    def check_verdicts(self, standing):
        said = dict(self.rows(DECISIONS.c.id, DECISIONS.c.verdict))
        for alert in self.queue.alerts_of_day(DAY):
            assert alert.verdict == said.get(standing.get(alert.id))
        for analyst, first in self.rows(DECISIONS.c.analyst, DECISIONS.c.proposed_by):
            assert first is None or analyst.casefold() != first.casefold()


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(steps=st.lists(STEPS, min_size=5, max_size=25))
def test_laws_hold_whatever_analysts_do_in_any_order(steps):
    clock = Clock()
    with (
        TemporaryDirectory() as folder,
        Queue.open(Path(folder) / "queue.sqlite", create=True, clock=clock) as queue,
    ):
        desk = _Desk(queue, clock)
        for step in steps:
            desk.do(*step)
            desk.check()
