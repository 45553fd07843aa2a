from sqlalchemy import event

from tests.alerts import DAY, NOON, new_alert
from warehouse.queue import Queue
from warehouse.queue_batches import fingerprint, read_batch, read_last_batch, read_waiting
from warehouse.queue_decisions import Verdict, decide_alerts, refuse_proposal
from warehouse.queue_retractions import retract_decision, retract_decisions


def seed(queue, amounts):
    """Queue alerts of the amounts, three to a case."""
    alerts = [new_alert(n, account=f"a{n // 3}", amount=a) for n, a in enumerate(amounts)]
    queue.enqueue(DAY, "nightly", alerts)
    return [alert.id for alert in queue.alerts_of_day(DAY)]


def test_waiting_alerts_leave_out_what_is_decided_and_say_what_is_proposed(queue):
    first, second, third, other = seed(queue, [10, 20, 500, 30])
    decide_alerts(
        queue, [Verdict(first, "fraud"), Verdict(third, "fraud")], "ada", second_above=99
    )
    case_ids = sorted({alert.case_id for alert in queue.alerts_of_day(DAY)})
    found = read_waiting(queue, case_ids)
    assert [[(each.alert_id, each.is_proposed) for each in found[n]] for n in case_ids] == [
        [(second, False), (third, True)],
        [(other, False)],
    ]
    assert {(each.alert_count, each.amount_at_risk) for each in found[case_ids[0]]} == {(3, 520.0)}
    assert read_waiting(queue, []) == {}


def test_fingerprint_changes_with_the_alerts_though_the_figures_stay(queue):
    first, second, _ = seed(queue, [20, 20, 20])
    (case_id,) = {alert.case_id for alert in queue.alerts_of_day(DAY)}

    def prints():
        alerts = read_waiting(queue, [case_id])[case_id]
        return fingerprint(queue.case(case_id).summary, alerts), fingerprint(alerts[0], alerts)

    assert len(set(prints())) == 1
    (number,) = decide_alerts(queue, [Verdict(first, "genuine")], "ada").decided
    without_first = prints()
    decide_alerts(queue, [Verdict(second, "genuine")], "ben")
    retract_decision(queue, number, "ada")
    assert queue.case(case_id).summary.waiting_count == 2
    assert not set(prints()) & set(without_first)


def test_fingerprint_fits_no_figures_of_an_earlier_moment(queue):
    first, *_ = seed(queue, [20, 30, 40])
    (case_id,) = {alert.case_id for alert in queue.alerts_of_day(DAY)}
    shown = queue.case(case_id).summary
    decide_alerts(queue, [Verdict(first, "genuine")], "ben")
    alerts = read_waiting(queue, [case_id])[case_id]
    assert fingerprint(shown, alerts) != fingerprint(alerts[0], alerts)


def test_last_batch_is_what_was_decided_in_one_go(queue, clock):
    first, second, third, _ = seed(queue, [10, 20, 30, 40])
    decide_alerts(queue, [Verdict(first, "genuine")], "ada")
    clock.advance(seconds=1)
    decide_alerts(queue, [Verdict(second, "fraud"), Verdict(third, "fraud")], "ada")
    batch = read_last_batch(queue, "ada")
    assert {each.alert_id for each in batch} == {second, third}
    assert {each.case_state for each in batch} == {"closed"}
    assert read_last_batch(queue, "ben") == ()
    for each in batch:
        retract_decision(queue, each.id, "ada")
    assert [each.alert_id for each in read_last_batch(queue, "ada")] == [first]


def test_batch_ends_with_the_time_to_take_it_back(queue, clock):
    first, *_ = seed(queue, [10])
    decide_alerts(queue, [Verdict(first, "fraud")], "ada")
    clock.advance(minutes=5)
    assert read_last_batch(queue, "ada") == ()


def test_batch_is_that_of_a_decision_though_a_later_one_was_made(queue, clock):
    first, second, third, _ = seed(queue, [10, 20, 30, 40])
    outcome = decide_alerts(queue, [Verdict(first, "fraud"), Verdict(second, "fraud")], "ada")
    clock.advance(seconds=1)
    decide_alerts(queue, [Verdict(third, "genuine")], "ada")
    for number in outcome.decided:
        assert {each.alert_id for each in read_batch(queue, number, "ada")} == {first, second}
        assert read_batch(queue, number, "ben") == ()
    retract_decision(queue, outcome.decided[0], "ada")
    assert [each.alert_id for each in read_batch(queue, outcome.decided[1], "ada")] == [second]
    clock.advance(minutes=5)
    assert read_batch(queue, outcome.decided[1], "ada") == ()


def test_batch_is_without_what_others_have_decided_anew_while_that_stands(queue, clock):
    older, first, second, _ = seed(queue, [10, 20, 30, 40])
    decide_alerts(queue, [Verdict(older, "genuine")], "ada")
    clock.advance(seconds=1)
    verdicts = [Verdict(first, "fraud"), Verdict(second, "fraud")]
    decided = decide_alerts(queue, verdicts, "ada").decided

    def offered():
        batches = [read_batch(queue, number, "ada") for number in decided]
        batches.append(read_last_batch(queue, "ada"))
        (alerts,) = {tuple(sorted(each.alert_id for each in batch)) for batch in batches}
        return alerts

    def change(alert, seen):
        return decide_alerts(queue, [Verdict(alert, "genuine", seen=seen)], "bob").decided[0]

    changed = [change(first, decided[0])]
    assert offered() == (second,)
    changed.append(change(second, decided[1]))
    assert offered() == (), "and not what ada decided before"
    for number in changed:
        retract_decision(queue, number, "bob")
    assert offered() == (first, second)
    change(first, decided[0])
    batch = read_last_batch(queue, "ada")
    assert len(retract_decisions(queue, [each.id for each in batch], "ada")) == 1


def test_batch_is_found_without_a_scan(tmp_path):
    plans = []

    def explain(connection, _cursor, statement, parameters, _context, _many):
        if statement.startswith("SELECT"):
            rows = connection.connection.execute("EXPLAIN QUERY PLAN " + statement, parameters)
            plans.extend(row[3] for row in rows)

    with Queue.open(tmp_path / "queue.sqlite", create=True, clock=lambda: NOON) as queue:
        event.listen(queue.database.engine, "before_cursor_execute", explain)
        read_last_batch(queue, "ada")
        read_batch(queue, 1, "ada")
    assert any("SEARCH later" in step and "ix_decisions_alert_id_id" in step for step in plans)
    tables = ("cases", "alerts", "decisions", "later", "retractions")
    assert not [step for step in plans if step.startswith(tuple(f"SCAN {t}" for t in tables))]


def test_no_batch_is_the_last_act_once_something_was_proposed_after_it(queue, clock):
    first, second, *_ = seed(queue, [10, 500, 500])
    decide_alerts(queue, [Verdict(first, "fraud")], "ada")
    clock.advance(seconds=1)
    decide_alerts(queue, [Verdict(second, "fraud")], "ada", second_above=99)
    assert read_last_batch(queue, "ada") == ()
    refuse_proposal(queue, 1, "ada", "")
    assert [each.alert_id for each in read_last_batch(queue, "ada")] == [first]


def test_batch_that_was_decided_and_proposed_in_one_go_can_be_taken_back(queue):
    first, second, *_ = seed(queue, [10, 500])
    verdicts = [Verdict(first, "fraud"), Verdict(second, "fraud")]
    decide_alerts(queue, verdicts, "ada", second_above=99)
    assert [each.alert_id for each in read_last_batch(queue, "ada")] == [first]
