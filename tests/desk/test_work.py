import re
from datetime import timedelta
from urllib.parse import urlsplit

import pytest

from desk.app import create_app
from tests.desk.conftest import DAY, PAGE, begin_session, new_alert, seed
from warehouse.queue_claims import claim_case
from warehouse.queue_decisions import Verdict, decide_alerts
from warehouse.queue_retractions import retract_decision

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


def shown_fields(client, *case_ids, address="/queue"):
    """Give what the list tells of cases, as its form sends it."""
    found = dict(
        re.findall(r'name="(shown-\d+)" value="(\w+)"', client.get(address, headers=PAGE).text)
    )
    return {f"shown-{number}": found[f"shown-{number}"] for number in case_ids}


def hidden_fields(text):
    """Give the hidden fields of the form that a page asks with."""
    form = re.search(r'<form method="post" action="/cases/decide.*?</form>', text, re.S).group()
    fields = {}
    for name, value in re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"', form):
        fields.setdefault(name, []).append(value)
    return fields


def join_case(queue, case_id, amount):
    """Let a later night add an alert to a case."""
    account = queue.case(case_id).summary.account_id
    number = 1000 + len(alerts_of(queue, case_id))
    alert = new_alert(number, account=account, day=DAY + timedelta(days=1), amount=amount)
    queue.enqueue(DAY + timedelta(days=1), "nightly", [alert])


def undo_bar(text):
    """Give what the bar says that can be taken back, and the decision; None: there is no bar."""
    found = re.search(
        r'class="message undo".*?<span>(.*?)</span>.*?/decisions/(\d+)/retract', text, re.S
    )
    return found and (found[1], int(found[2]))


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
    form = {"from": "queue", "verdict": "unsure", f"shown-{first}": "0123456789"}
    assert post(ada, f"/cases/{first}/decide", **form).status_code == 409
    form |= shown_fields(ada, first)
    response = ada.post(f"/cases/{first}/decide?lane=nightly", data=form, headers=HTMX)
    assert response.status_code == 200
    assert f'id="case-{second}"' in response.text
    assert f'id="case-{first}"' not in response.text
    assert f"Case {first} closed: unsure." in response.text
    assert 'name="back" value="/queue?lane=nightly"' in response.text


def test_list_decides_no_alert_that_joined_meanwhile(queue, ada):
    (case_id,) = seed(queue, 1, alerts_each=1, amount=20.0)
    form = {"from": "queue", "verdict": "genuine", **shown_fields(ada, case_id)}
    join_case(queue, case_id, 900.0)
    response = ada.post(f"/cases/{case_id}/decide", data=form, headers=HTMX)
    assert response.status_code == 409
    assert "now 2 alerts over 920.00 in all can be decided" in response.text
    assert verdicts_of(queue, case_id) == [None, None]


def test_list_decides_no_other_alerts_though_as_many_wait(queue, ada):
    (case_id,) = seed(queue, 1, amount=50.0, score=2.0)
    first, second = alerts_of(queue, case_id)
    said = decide_alerts(queue, [Verdict(first.id, "fraud")], "ben").decided
    form = {"from": "queue", "verdict": "genuine", **shown_fields(ada, case_id)}
    decide_alerts(queue, [Verdict(second.id, "fraud")], "ben")
    retract_decision(queue, said[0], "ben")
    assert post(ada, f"/cases/{case_id}/decide", **form).status_code == 409
    assert verdicts_of(queue, case_id) == [None, "fraud"]


def test_case_page_decides_all_only_if_all_still_waits(queue, ada):
    (case_id,) = seed(queue, 1, alerts_each=3)
    form = {"verdict": "genuine", **seen_fields(queue, case_id)}
    decide_alerts(queue, [Verdict(alerts_of(queue, case_id)[0].id, "fraud")], "ben")
    assert post(ada, f"/cases/{case_id}/decide", **form).status_code == 409
    assert verdicts_of(queue, case_id) == ["fraud", None, None]


def test_several_cases_are_decided_after_saying_how_much(queue, ada):
    cases = seed(queue, 3)
    form = {"case": cases[:2], "verdict": "genuine", "note": "payday"}
    form |= shown_fields(ada, *cases)
    asked = post(ada, "/cases/decide", **form)
    amount = sum(alert.amount for n in cases[:2] for alert in alerts_of(queue, n))
    assert asked.status_code == 200
    assert "4 alerts in 2 cases: genuine?" in asked.text
    assert "have changed" not in asked.text
    assert f"{amount:,.2f}" in asked.text
    assert verdicts_of(queue, cases[0]) == [None, None]
    assert post(ada, "/cases/decide", **hidden_fields(asked.text)).status_code == 303
    assert [verdicts_of(queue, n) for n in cases] == [["genuine"] * 2, ["genuine"] * 2, [None] * 2]
    assert {said.note for said in queue.case(cases[0]).decisions} == {"payday"}


def test_answer_decides_nothing_once_another_alert_joined_and_asks_again(queue, ada):
    first, second = seed(queue, 2, alerts_each=1, amount=20.0)
    form = {"case": [first, second], "verdict": "genuine", **shown_fields(ada, first, second)}
    asked = hidden_fields(post(ada, "/cases/decide", **form).text)
    join_case(queue, first, 900.0)
    again = post(ada, "/cases/decide", **asked)
    assert again.status_code == 409
    assert [verdicts_of(queue, n) for n in (first, second)] == [[None] * 2, [None]]
    assert "Nothing was decided, as the cases have changed" in again.text
    assert "3 alerts in 2 cases: genuine?" in again.text
    assert "940.00" in again.text
    assert post(ada, "/cases/decide", **hidden_fields(again.text)).status_code == 303
    assert [verdicts_of(queue, n) for n in (first, second)] == [["genuine"] * 2, ["genuine"]]


def test_question_says_that_a_case_changed_since_the_list_was_loaded(queue, ada):
    first, second = seed(queue, 2, alerts_each=1, amount=20.0)
    form = {"case": [first, second], "verdict": "fraud", **shown_fields(ada, first, second)}
    join_case(queue, first, 900.0)
    asked = ada.post("/cases/decide", data=form, headers=HTMX)
    assert asked.status_code == 200
    assert "The cases have changed since they were shown." in asked.text
    assert "3 alerts in 2 cases: fraud?" in asked.text
    assert ada.post("/cases/decide", data=hidden_fields(asked.text)).status_code == 303
    assert [verdicts_of(queue, n) for n in (first, second)] == [["fraud"] * 2, ["fraud"]]


def test_bulk_refuses_what_changed_between_question_and_answer(queue, ada):
    first, second = seed(queue, 2)
    form = {"case": [first, second], "verdict": "fraud", "confirmed": "yes"}
    form |= shown_fields(ada, first, second)
    decide_alerts(queue, [Verdict(alerts_of(queue, first)[0].id, "genuine")], "ben")
    assert post(ada, "/cases/decide", **form).status_code == 409
    assert verdicts_of(queue, second) == [None, None]
    for case_id in (first, second):
        waiting = [alert.id for alert in alerts_of(queue, case_id) if alert.verdict is None]
        decide_alerts(queue, [Verdict(number, "genuine") for number in waiting], "ben")
    gone = post(ada, "/cases/decide", **form)
    assert gone.status_code == 409
    assert "as all of it was decided meanwhile" in gone.text


def test_undo_takes_back_all_of_the_last_go(queue, ada):
    cases = seed(queue, 2)
    form = {"case": cases, "verdict": "fraud", "confirmed": "yes"}
    post(ada, "/cases/decide", **form, **shown_fields(ada, *cases))
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


def test_undo_bar_is_of_the_decision_just_made_though_another_tab_was_faster(queue, ada, clock):
    here, there = seed(queue, 2, alerts_each=1)
    address = f"/cases/{here}/decide"
    form = {"verdict": "fraud", **seen_fields(queue, here)}
    clock.advance(seconds=9)  # the other tab's verdict will be the newer one
    other = decide_alerts(queue, [Verdict(alerts_of(queue, there)[0].id, "unsure")], "ada")
    clock.advance(seconds=-5)
    text, number = undo_bar(ada.post(address, data=form, headers=HTMX).text)
    assert text == f"Case {here} closed: fraud."
    assert number not in other.decided
    post(ada, f"/decisions/{number}/retract", batch="yes")
    location = post(ada, address, **form).headers["location"]
    assert undo_bar(ada.get(location, headers=PAGE).text)[0] == f"Case {here} closed: fraud."
    assert undo_bar(ada.get("/queue", headers=PAGE).text)[0] == f"Case {there} closed: unsure."
    assert undo_bar(ada.get(f"/queue?done={other.decided[0]}", headers=PAGE).text) is not None


@pytest.mark.parametrize("done", ["x", "-1", "999", "9" * 18, "9" * 40])
def test_address_that_tells_of_no_decision_of_ones_own_offers_no_undo(queue, ada, ben, done):
    (case_id,) = seed(queue, 1)
    decide_alerts(queue, [Verdict(alerts_of(queue, case_id)[0].id, "fraud")], "ada")
    page = ben.get(f"/queue?done={done}", headers=PAGE)
    assert page.status_code == 200
    assert undo_bar(page.text) is None
    assert undo_bar(ben.get("/queue?done=1", headers=PAGE).text) is None
    assert undo_bar(ada.get("/queue?done=1", headers=PAGE).text) is not None


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


@pytest.fixture
def four_eyes(queue, make_context, new_client):
    """Give browsers at a desk where amounts above 100 need two analysts: ``four_eyes("ada")``."""
    app = create_app(make_context(second_above=100.0))

    def sign_in(name):
        begun, browser = begin_session(queue, name, "analyst"), new_client(app)
        browser.cookies.set("nightwarden", begun.token)
        browser.headers["X-CSRF-Token"] = begun.csrf_token
        return browser

    return sign_in


def proposal_of(client, case_id):
    """Give the number of the proposal that a case's page asks about."""
    text = client.get(f"/cases/{case_id}", headers=PAGE).text
    return re.search(r'name="proposal" value="(\d+)"', text).group(1)


def test_large_amounts_wait_for_a_second_analyst(queue, four_eyes):
    (case_id,) = seed(queue, 1, alerts_each=1, amount=900.0)
    (alert,) = alerts_of(queue, case_id)
    ada, ben = four_eyes("ada"), four_eyes("ben")
    form = {"alert": alert.id, f"seen-{alert.id}": "", "verdict": "fraud"}
    location = post(ada, f"/cases/{case_id}/decide", **form).headers["location"]
    assert "waits for a second analyst" in ada.get(location, headers=PAGE).text
    assert "Confirm fraud" in ben.get(f"/cases/{case_id}", headers=PAGE).text
    assert "Confirm fraud" not in ada.get(f"/cases/{case_id}", headers=PAGE).text
    first = proposal_of(ben, case_id)
    assert post(ada, f"/cases/{case_id}/confirm", proposal=first).status_code == 409
    refused = post(ben, f"/cases/{case_id}/refuse", proposal=first, note="no")
    assert refused.status_code == 303
    assert verdicts_of(queue, case_id) == [None]
    post(ada, f"/cases/{case_id}/decide", **form)
    second = proposal_of(ben, case_id)
    location = post(ben, f"/cases/{case_id}/confirm", proposal=second).headers["location"]
    assert verdicts_of(queue, case_id) == ["fraud"]
    assert undo_bar(ben.get(location, headers=PAGE).text)[0] == f"Case {case_id} closed: fraud."


def test_second_analyst_confirms_what_was_shown_and_nothing_later(queue, four_eyes):
    (case_id,) = seed(queue, 1, alerts_each=1, amount=900.0)
    ada, ben = four_eyes("ada"), four_eyes("ben")
    form = {"verdict": "fraud", **seen_fields(queue, case_id)}
    post(ada, f"/cases/{case_id}/decide", **form)
    shown = proposal_of(ben, case_id)
    post(ada, f"/cases/{case_id}/refuse", proposal=shown)
    post(ada, f"/cases/{case_id}/decide", **form | {"verdict": "genuine"})
    for action in ("confirm", "refuse"):
        response = post(ben, f"/cases/{case_id}/{action}", proposal=shown)
        assert response.status_code == 409
    assert "taken back or answered meanwhile" in response.text
    assert verdicts_of(queue, case_id) == [None]
    assert post(ben, f"/cases/{case_id}/confirm", proposal="999").status_code == 404
    assert post(ben, f"/cases/{case_id}/confirm").status_code == 400


def test_proposal_offers_no_undo_of_something_older(queue, four_eyes, clock):
    old, new = seed(queue, 1, alerts_each=1, amount=20.0) + seed(queue, 1, amount=900.0)
    ada = four_eyes("ada")
    decide_alerts(queue, [Verdict(alerts_of(queue, old)[0].id, "fraud")], "ada")
    assert undo_bar(ada.get("/queue", headers=PAGE).text) is not None
    clock.advance(seconds=9)
    form = {"verdict": "fraud", **seen_fields(queue, new)}
    response = ada.post(f"/cases/{new}/decide", data=form, headers=HTMX)
    assert "It waits for a second analyst." in response.text
    assert undo_bar(response.text) is None
    assert undo_bar(ada.get("/queue", headers=PAGE).text) is None
    refused = post(ada, f"/cases/{new}/refuse", proposal=proposal_of(ada, new))
    assert undo_bar(ada.get(refused.headers["location"], headers=PAGE).text) is None


def test_question_says_how_many_wait_for_a_second_analyst(queue, four_eyes):
    small, large = seed(queue, 1, amount=20.0) + seed(queue, 1, alerts_each=3, amount=900.0)
    ada = four_eyes("ada")

    def ask(verdict, *case_ids):
        fields = shown_fields(ada, *case_ids)
        return post(ada, "/cases/decide", case=case_ids, verdict=verdict, **fields).text

    mixed = ask("fraud", small, large)
    assert "3 of them, above 100.00 each, wait for a second analyst." in mixed
    assert "Fraud: decide 2 alerts, propose 3<" in mixed
    assert "take back what is decided at once for five minutes" in mixed
    only = ask("fraud", large)
    assert "All are above 100.00, and wait for a second analyst." in only
    assert "Fraud: propose 3 alerts<" in only
    assert "You can withdraw it" in only
    assert "You can take" not in only
    unsure = ask("unsure", small, large)
    assert "second analyst" not in unsure
    assert "Unsure: decide 5 alerts<" in unsure
    done = post(ada, "/cases/decide", **hidden_fields(mixed))
    page = ada.get(done.headers["location"], headers=PAGE).text
    assert "large amounts: those wait for a second analyst" in page
    assert undo_bar(page)[0] == f"Case {small} closed: fraud."
    assert verdicts_of(queue, small) == ["fraud"] * 2
    assert verdicts_of(queue, large) == [None] * 3


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


def test_verdict_is_changed_on_the_case_page_once_it_cannot_be_taken_back(queue, ada, clock):
    (case_id,) = seed(queue, 1, alerts_each=1)
    (alert,) = alerts_of(queue, case_id)
    (number,) = decide_alerts(queue, [Verdict(alert.id, "fraud")], "ben").decided
    clock.advance(minutes=6)
    page = ada.get(f"/cases/{case_id}", headers=PAGE).text
    assert "Change the verdict" in page
    assert f'name="seen-{alert.id}" value="{number}"' in page
    assert "/retract" not in page
    form = {"alert": alert.id, f"seen-{alert.id}": number, "verdict": "genuine"}
    assert post(ada, f"/cases/{case_id}/decide", **form).status_code == 303
    assert verdicts_of(queue, case_id) == ["genuine"]
    late = post(ada, f"/cases/{case_id}/decide", **form)
    assert late.status_code == 409
    assert len(queue.case(case_id).decisions) == 2


def test_change_of_a_large_verdict_waits_for_a_second_analyst(queue, four_eyes, clock):
    (case_id,) = seed(queue, 1, alerts_each=1, amount=900.0)
    (alert,) = alerts_of(queue, case_id)
    (number,) = decide_alerts(queue, [Verdict(alert.id, "fraud")], "ben").decided
    clock.advance(minutes=6)
    ada, ben = four_eyes("ada"), four_eyes("ben")
    form = {"alert": alert.id, f"seen-{alert.id}": number, "verdict": "genuine"}
    post(ada, f"/cases/{case_id}/decide", **form)
    page = ben.get(f"/cases/{case_id}", headers=PAGE).text
    assert "says genuine instead" in page
    assert "Change the verdict" not in page
    post(ben, f"/cases/{case_id}/confirm", proposal=proposal_of(ben, case_id))
    assert verdicts_of(queue, case_id) == ["genuine"]


def test_next_case_by_a_rank_that_is_none_is_refused_in_words(queue, ada):
    seed(queue, 1)
    response = post(ada, "/queue/next", rank="luck")
    assert response.status_code == 400
    assert "expected a rank of priority" in response.text


def test_words_of_an_error_end_before_the_advice_begins(queue, ada):
    (case_id,) = seed(queue, 1)
    claim_case(queue, case_id, "ben", minutes=15)
    response = ada.post(f"/cases/{case_id}/claim", headers=HTMX)
    text = re.sub(r"<[^>]+>", "", response.text).strip()
    assert re.fullmatch(rf"Somebody was faster\. Case {case_id} [^.]+\. Look at what .*\.", text)


@pytest.mark.parametrize("field", ["note", "back", "case"])
@pytest.mark.parametrize("path", ["/cases/1/decide", "/cases/decide", "/cases/1/snooze"])
def test_halves_of_letters_are_refused_in_words(queue, ada, path, field):
    seed(queue, 1)
    values = {"case": "1", "verdict": "fraud", "note": ""} | {field: r"\ud800"}
    parts = [
        f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in values.items()
    ]
    kind = "multipart/form-data; boundary=b; charset=unicode_escape"
    content = "".join([*parts, "--b--\r\n"]).encode()
    answer = ada.post(path, content=content, headers={"Content-Type": kind})
    assert answer.status_code == 400
    assert "readable characters" in answer.text


def test_viewer_may_not_act(queue, signed_in):
    (case_id,) = seed(queue, 1)
    viewer = signed_in("viewer")
    for action in ("claim", "release", "snooze", "decide", "confirm", "refuse"):
        assert post(viewer, f"/cases/{case_id}/{action}", verdict="fraud").status_code == 403
    for address in ("/queue/next", "/cases/decide", "/decisions/1/retract", "/suppressions"):
        assert post(viewer, address).status_code == 403
