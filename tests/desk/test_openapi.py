"""The API keeps to its own description, whatever it is sent: schemathesis over a real server."""

from urllib.parse import parse_qsl, urlsplit

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.parameters import ParameterLocation
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from desk.api import describe_api, router
from tests.desk.conftest import seed
from warehouse.analysts import add_analyst
from warehouse.api_tokens import SCOPES, add_token

EXAMPLES = 15
OPERATIONS = [
    (method, path) for path, methods in describe_api()["paths"].items() for method in methods
]


def refuses_bad_data(context, response, case):
    """Bad data is refused, if it was sent: the token always is, and what has no value never."""
    sent = {name for name, _ in parse_qsl(urlsplit(response.request.url).query, True)}
    bad = {place for place, part in case.meta.components.items() if part.mode.is_negative}
    if bad <= {ParameterLocation.HEADER} or set(case.query or {}) - sent:
        return None
    return negative_data_rejection(context, response, case)


# Not that good data is taken: that a range ends before it begins, or a cursor was never given, no
# schema can say.
KEPT = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    refuses_bad_data,
)


@pytest.fixture
def token(queue):
    add_analyst(queue, "program", "lead", None, "test")
    return add_token(queue, "program", "program", list(SCOPES), days=None, actor="test")


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_no_request_breaks_the_server_or_its_description(
    queue, app, serve, token, method, path, mode
):
    seed(queue, 4)
    headers = {"Authorization": f"Bearer {token}"}
    with serve(app) as url:
        schema = schemathesis.openapi.from_url(f"{url}/api/v1/openapi.json", headers=headers)
        operation = schema[path][method]

        @settings(
            max_examples=EXAMPLES,
            derandomize=True,
            deadline=None,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def send(case):
            case.call_and_validate(headers=headers, checks=KEPT)

        send()


def test_every_operation_is_described_for_people():
    description = describe_api()
    names = []
    for methods in description["paths"].values():
        for operation in methods.values():
            names.append(operation["operationId"])
            assert operation["summary"]
            assert operation["description"]
            assert operation["tags"]
            assert {"401", "403", "422", "503"} <= set(operation["responses"])
    assert len(names) == len(set(names)) == len(router.routes)
    assert description["security"] == [{"token": []}]
    assert description["components"]["securitySchemes"]["token"]["scheme"] == "bearer"


def test_the_description_is_given_to_those_who_may_read(client, signed_in):
    assert client.get("/api/v1/openapi.json").status_code == 401
    given_out = signed_in("viewer").get("/api/v1/openapi.json")
    assert given_out.json() == describe_api()
