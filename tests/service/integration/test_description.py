"""What the OpenAPI description says is what the service does, for requests of every shape."""

from __future__ import annotations

from contextlib import suppress

import httpx
import schemathesis
from hypothesis import HealthCheck, given, reject, settings
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import DrawFn, composite
from schemathesis import Case
from schemathesis.generation import GenerationMode
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from tests.service.integration.test_refusals import NO_SHRINKING

#: A value or a file that is refused for its size or its format is refused.
CONFIG = schemathesis.Config.from_dict(
    {"checks": {"negative_data_rejection": {"expected-statuses": ["4xx", 503]}}}
)
#: Requests of each operation that the description allows, and of each that it does not.
EXAMPLES = 25


@composite
def cases(draw: DrawFn, operation: APIOperation, mode: GenerationMode) -> Case:
    """Draw a request. Schemathesis 4.32 fails at some bodies of bytes that it has broken."""
    try:
        return draw(operation.as_strategy(generation_mode=mode))
    except ValueError as exc:
        if "Unsupported type: 'Binary'" not in str(exc):
            raise
        reject()


def test_answers_are_as_described_to_requests_that_are_and_that_are_not(
    service: httpx.Client,
) -> None:
    description = schemathesis.openapi.from_url(f"{service.base_url}/openapi.json", config=CONFIG)
    tried = []
    for result in description.get_all_operations():
        operation = result.ok()
        if "/versions/" in operation.path:
            continue  # the same routes as without
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

            @given(cases(operation, mode))
            @settings(
                max_examples=EXAMPLES, derandomize=True, database=None,
                suppress_health_check=list(HealthCheck), phases=NO_SHRINKING,
            )  # fmt: skip
            def ask(case: Case) -> None:
                if case.path.startswith("/v2/models/"):  # else no body would be read
                    case.path_parameters["name"] = "avdigits"
                # Random bytes are a file as described, and no clip: they may be refused.
                excluded = [positive_data_acceptance]
                if case.path == "/v1/classify/batch":
                    # What is wrong with one clip is this clip's problem, in an answer of 200.
                    excluded.append(negative_data_rejection)
                case.call_and_validate(excluded_checks=excluded, timeout=60)

            with suppress(Unsatisfiable):  # without parameters there is nothing to get wrong
                ask()
        tried.append(f"{operation.method.upper()} {operation.path}")
    assert {
        "POST /v1/classify", "GET /v1/models/{name}", "GET /readyz", "POST /v2/models/{name}/infer",
    } <= set(tried)  # fmt: skip
    assert service.get("/readyz").status_code == 200
