import re
from datetime import timedelta
from urllib.parse import urlsplit

import pytest

from desk.app import create_app
from tests.desk.conftest import PAGE, begin_session, seed
from warehouse.queue_claims import claim_case
from warehouse.queue_decisions import Verdict, decide_alerts

HTMX = {"HX-Request": "true", "HX-Current-URL": "http://localhost:8050/queue?lane=nightly"}


@pytest.fixture
def ada(signed_in):
    return signed_in("analyst", "ada")


@pytest.fixture
def ben(signed_in):
    return signed_in("analyst", "ben")


def post(client, address, **form):
    return client.post(address, data=form, headers=PAGE)


def alerts_of(queue, case_id):
    return queue.case(case_id).alerts


def verdicts_of(queue, case_id):
    return [alert.verdict for alert in alerts_of(queue, case_id)]


def count_of(queue, case_id):
    case = queue.case(case_id).summary
    return f"{case.alert_count}.{case.waiting_count}"


def seen_fields(queue, case_id):
    return {f"seen-{alert.id}": "" for alert in alerts_of(queue, case_id)}


def test_claim_leads_back_and_refuses_another(queue, ada, ben):
    case_id, *_ = seed(queue, 2)
    response = post(ada, f"/cases/{case_id}/claim?lane=nightly")
    assert response.status_code == 303
    assert response.headers["location"] == f"/cases/{case_id}?lane=nightly"
    refused = post(ben, f"/cases/{case_id}/claim")
    assert refused.status_code == 409
    assert "ada" in refused.text


def test_htmx_gets_the_case_and_messages_instead_of_a_redirect(queue, ada):
    case_id, *_ = seed(queue, 2)
    response = ada.post(f"/cases/{case_id}/claim", headers=HTMX)
    assert response.status_code == 200
    assert '<div id="case"' in response.text
    assert 'hx-swap-oob="innerHTML"' in response.text
    assert "Release" in response.text


def test_lead_ends_anothers_claim_and_analyst_does_not(queue, ada, signed_in):
    case_id, *_ = seed(queue, 1)
    claim_case(queue, case_id, "ben", minutes=15)
    assert post(ada, f"/cases/{case_id}/release").status_code == 409
    assert post(signed_in("lead"), f"/cases/{case_id}/release").status_code == 303
    assert queue.case(case_id).summary.claimed_by is None


def test_next_case_is_claimed_and_given_once(queue, ada, ben):
    seed(queue, 2)
    got = [post(client, "/queue/next").headers["location"] for client in (ada, ben)]
    assert len(set(got)) == 2
    end = post(ada, "/queue/next", lane="nightly").headers["location"]
    assert urlsplit(end).path == "/queue"
    assert "Nothing is waiting in this view." in ada.get(end, headers=PAGE).text


def test_one_alert_is_decided_with_its_note(queue, ada):
    (case_id,) = seed(queue, 1)
    first, second = alerts_of(queue, case_id)
    form = {"alert": first.id, f"seen-{first.id}": "", "verdict": "fraud", "note": " stolen "}
    assert post(ada, f"/cases/{case_id}/decide", **form).status_code == 303
    assert verdicts_of(queue, case_id) == ["fraud", None]
    (decision,) = queue.case(case_id).decisions
    assert (decision.analyst, decision.note, decision.alert_id) == ("ada", "stolen", first.id)
    assert second.verdict is None


def test_all_that_waits_is_decided_at_once(queue, ada):
    (case_id,) = seed(queue, 1)
    form = {"verdict": "genuine", **seen_fields(queue, case_id)}
    assert post(ada, f"/cases/{case_id}/decide", **form).status_code == 303
    assert verdicts_of(queue, case_id) == ["genuine", "genuine"]


def test_decision_made_meanwhile_is_not_overwritten(queue, ada):
    (case_id,) = seed(queue, 1)
    first, _ = alerts_of(queue, case_id)
    decide_alerts(queue, [Verdict(first.id, "genuine")], "ben")
    form = {"alert": first.id, f"seen-{first.id}": "", "verdict": "fraud"}
    response = ada.post(f"/cases/{case_id}/decide", data=form, headers=HTMX)
    assert response.status_code == 409
    assert response.headers["hx-retarget"] == "#messages"
    assert verdicts_of(queue, case_id) == ["genuine", None]


def test_alert_that_came_meanwhile_is_not_decided_unseen(queue, ada):
    (case_id,) = seed(queue, 1)
    (first, _) = alerts_of(queue, case_id)
    form = {"verdict": "fraud", f"seen-{first.id}": ""}
    assert post(ada, f"/cases/{case_id}/decide", **form).status_code == 409
    assert verdicts_of(queue, case_id) == [None, None]


def test_list_decides_a_case_only_as_it_showed_it(queue, ada):
    first, second = seed(queue, 2)
    form = {"from": "queue", "verdict": "unsure", f"count-{first}": "1.1"}
    assert post(ada, f"/cases/{first}/decide", **form).status_code == 409
    form[f"count-{first}"] = count_of(queue, first)
    response = ada.post(f"/cases/{first}/decide?lane=nightly", data=form, headers=HTMX)
    assert response.status_code == 200
    assert f'id="case-{second}"' in response.text
    assert f'id="case-{first}"' not in response.text
    assert f"Case {first} closed: unsure." in response.text
    assert 'name="back" value="/queue?lane=nightly"' in response.text


def test_several_cases_are_decided_after_saying_how_much(queue, ada):
    cases = seed(queue, 3)
    form = {"case": cases[:2], "verdict": "genuine", "note": "payday"}
    form |= {f"count-{n}": count_of(queue, n) for n in cases}
    asked = post(ada, "/cases/decide", **form)
    amount = sum(alert.amount for n in cases[:2] for alert in alerts_of(queue, n))
    assert asked.status_code == 200
    assert "4 alerts in 2 cases: genuine?" in asked.text
    assert f"{amount:,.2f}" in asked.text
    assert verdicts_of(queue, cases[0]) == [None, None]
    assert post(ada, "/cases/decide", **form, confirmed="yes").status_code == 303
    assert [verdicts_of(queue, n) for n in cases] == [["genuine"] * 2, ["genuine"] * 2, [None] * 2]


def test_bulk_refuses_what_changed_between_question_and_answer(queue, ada):
    first, second = seed(queue, 2)
    form = {"case": [first, second], "verdict": "fraud", "confirmed": "yes"}
    form |= {f"count-{n}": count_of(queue, n) for n in (first, second)}
    decide_alerts(queue, [Verdict(alerts_of(queue, first)[0].id, "genuine")], "ben")
    assert post(ada, "/cases/decide", **form).status_code == 409
    assert verdicts_of(queue, second) == [None, None]


def test_undo_takes_back_all_of_the_last_go(queue, ada):
    cases = seed(queue, 2)
    form = {"case": cases, "verdict": "fraud", "confirmed": "yes"}
    post(ada, "/cases/decide", **form, **{f"count-{n}": count_of(queue, n) for n in cases})
    page = ada.get("/queue?lane=audit", headers=PAGE).text
    action = re.search(r'action="(/decisions/\d+/retract)"', page).group(1)
    response = post(ada, action, batch="yes", back="/queue?lane=audit")
    assert response.headers["location"] == "/queue?lane=audit&said=undone"
    assert [verdicts_of(queue, n) for n in cases] == [[None] * 2, [None] * 2]
    assert "Taken back." in ada.get(response.headers["location"], headers=PAGE).text


def test_undo_of_an_old_page_leaves_later_decisions_alone(queue, ada, clock):
    (case_id,) = seed(queue, 1)
    first, second = alerts_of(queue, case_id)
    old = decide_alerts(queue, [Verdict(first.id, "fraud")], "ada").decided[0]
    clock.advance(seconds=20)
    decide_alerts(queue, [Verdict(second.id, "genuine")], "ada")
    assert post(ada, f"/decisions/{old}/retract", batch="yes").status_code == 303
    assert verdicts_of(queue, case_id) == [None, "genuine"]


def test_undo_is_refused_after_five_minutes_and_to_others(queue, ada, ben, clock):
    (case_id,) = seed(queue, 1)
    outcome = decide_alerts(queue, [Verdict(alerts_of(queue, case_id)[0].id, "fraud")], "ada")
    address = f"/decisions/{outcome.decided[0]}/retract"
    assert post(ben, address).status_code in (400, 409)
    clock.advance(minutes=6)
    assert post(ada, address).status_code in (400, 409)
    assert verdicts_of(queue, case_id) == ["fraud", None]


def test_undo_leads_to_no_other_site(queue, ada):
    (case_id,) = seed(queue, 1)
    outcome = decide_alerts(queue, [Verdict(alerts_of(queue, case_id)[0].id, "fraud")], "ada")
    response = post(ada, f"/decisions/{outcome.decided[0]}/retract", back="//evil.example/")
    assert response.headers["location"] == "/?said=undone"


def test_large_amounts_wait_for_a_second_analyst(queue, make_context, new_client):
    app = create_app(make_context(second_above=1.0))
    (case_id,) = seed(queue, 1, alerts_each=1)
    (alert,) = alerts_of(queue, case_id)

    def client(name):
        begun, browser = begin_session(queue, name, "analyst"), new_client(app)
        browser.cookies.set("nightwarden", begun.token)
        browser.headers["X-CSRF-Token"] = begun.csrf_token
        return browser

    ada, ben = client("ada"), client("ben")
    form = {"alert": alert.id, f"seen-{alert.id}": "", "verdict": "fraud"}
    location = post(ada, f"/cases/{case_id}/decide", **form).headers["location"]
    assert "waits for a second analyst" in ada.get(location, headers=PAGE).text
    assert "Confirm fraud" in ben.get(f"/cases/{case_id}", headers=PAGE).text
    assert "Confirm fraud" not in ada.get(f"/cases/{case_id}", headers=PAGE).text
    assert post(ada, f"/cases/{case_id}/confirm", alert=alert.id).status_code == 409
    assert post(ben, f"/cases/{case_id}/refuse", alert=alert.id, note="no").status_code == 303
    assert verdicts_of(queue, case_id) == [None]
    post(ada, f"/cases/{case_id}/decide", **form)
    assert post(ben, f"/cases/{case_id}/confirm", alert=alert.id).status_code == 303
    assert verdicts_of(queue, case_id) == ["fraud"]


def test_snoozed_case_comes_back_when_woken(queue, ada, clock):
    (case_id,) = seed(queue, 1)
    day = clock.now.date() + timedelta(days=3)
    assert post(ada, f"/cases/{case_id}/snooze", until=day.isoformat()).status_code == 303
    assert queue.case(case_id).summary.snoozed_until == day
    assert post(ada, f"/cases/{case_id}/snooze", until="").status_code == 303
    assert queue.case(case_id).summary.snoozed_until is None
    assert post(ada, f"/cases/{case_id}/snooze", until="soon").status_code == 400


@pytest.mark.parametrize(
    "form",
    [
        {"verdict": "guilty"},
        {"verdict": "fraud", "alert": "one"},
        {"verdict": "fraud", "alert": "-1"},
        {"verdict": "fraud", "alert": "99999999999999999999"},
        {"verdict": "fraud", "note": "x" * 2001},
        {},
    ],
)
def test_form_that_makes_no_sense_changes_nothing(queue, ada, form):
    (case_id,) = seed(queue, 1)
    assert post(ada, f"/cases/{case_id}/decide", **form).status_code == 400
    assert verdicts_of(queue, case_id) == [None, None]


def test_viewer_may_not_act(queue, signed_in):
    (case_id,) = seed(queue, 1)
    viewer = signed_in("viewer")
    for action in ("claim", "release", "snooze", "decide", "confirm", "refuse"):
        assert post(viewer, f"/cases/{case_id}/{action}", verdict="fraud").status_code == 403
    for address in ("/queue/next", "/cases/decide", "/decisions/1/retract", "/suppressions"):
        assert post(viewer, address).status_code == 403
