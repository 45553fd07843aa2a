import pytest

from tests.desk.conftest import DAY, PAGE, seed
from warehouse.suppressions import list_suppressions

FORM = {"kind": "merchant", "value": "merchant-1", "until": "2026-04-01", "reason": "refunded"}


@pytest.fixture
def lead(signed_in):
    return signed_in("lead")


def test_lead_suppresses_and_lifts(queue, lead):
    response = lead.post("/suppressions", data=FORM, headers=PAGE)
    assert response.headers["location"] == "/suppressions?said=suppressed"
    text = lead.get("/suppressions", headers=PAGE).text
    assert "merchant-1" in text
    assert "refunded" in text
    (found,) = list_suppressions(queue)
    assert lead.post(f"/suppressions/{found.id}/lift", headers=PAGE).status_code == 303
    assert list_suppressions(queue) == []
    assert "Nothing is suppressed." in lead.get("/suppressions", headers=PAGE).text
    assert "lifted by <bdi>lead</bdi>" in lead.get("/suppressions?all=yes", headers=PAGE).text


def test_what_was_kept_out_is_counted(queue, lead):
    lead.post("/suppressions", data=FORM, headers=PAGE)
    seed(queue, 4, alerts_each=2, day=DAY)
    (found,) = list_suppressions(queue)
    assert found.matches > 0
    text = lead.get("/suppressions", headers=PAGE).text
    assert f'<td class="number">{found.matches}</td>' in text


def test_case_page_suppresses_its_account_and_comes_back(queue, lead):
    (case_id,) = seed(queue, 1)
    form = FORM | {"kind": "account", "value": "account-0", "back": f"/cases/{case_id}"}
    response = lead.post("/suppressions", data=form, headers=PAGE)
    assert response.headers["location"] == f"/cases/{case_id}?said=suppressed"


@pytest.mark.parametrize(
    "change",
    [{"until": "2020-01-01"}, {"until": ""}, {"reason": " "}, {"value": ""}, {"kind": "country"}],
)
def test_suppression_without_end_or_reason_is_refused(queue, lead, change):
    response = lead.post("/suppressions", data=FORM | change, headers=PAGE)
    assert response.status_code == 400
    assert list_suppressions(queue) == []


def test_analyst_sees_but_may_not_suppress(lead, signed_in):
    lead.post("/suppressions", data=FORM, headers=PAGE)
    analyst = signed_in("analyst")
    assert "merchant-1" in analyst.get("/suppressions", headers=PAGE).text
    assert analyst.post("/suppressions", data=FORM, headers=PAGE).status_code == 403
    assert analyst.post("/suppressions/1/lift", headers=PAGE).status_code == 403


def test_nasty_reason_is_shown_as_text(lead):
    nasty = "<script>alert(1)</script>" + "y" * 500
    lead.post("/suppressions", data=FORM | {"reason": nasty, "value": nasty[:300]}, headers=PAGE)
    text = lead.get("/suppressions", headers=PAGE).text
    assert "<script>alert" not in text
    assert "&lt;script&gt;" in text
