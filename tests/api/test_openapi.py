"""Whatever the OpenAPI document allows is answered as it says (Schemathesis)."""

from __future__ import annotations

import schemathesis
from hypothesis import HealthCheck, settings
from localcloud.issuer import Issuer
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance
from tests.builders import a_settings, an_app

from app.core.memory import FixedCursorKey
from app.orders.memory import MemoryDocumentStore, MemoryOrderRepository
from app.orders.service import OrderService

ISSUER = Issuer("https://issuer.test")
bearer = ISSUER.bearer

_service = OrderService(MemoryOrderRepository(), MemoryDocumentStore(), FixedCursorKey())
_guarded = an_app(_service, a_settings(), ISSUER.authenticator())
schema = schemathesis.openapi.from_asgi("/openapi.json", an_app(_service, a_settings()))
guarded = schemathesis.openapi.from_asgi("/openapi.json", _guarded)


@schema.parametrize()
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_every_answer_is_a_documented_one(case: schemathesis.Case) -> None:
    # A cursor is valid if it decrypts, which no schema can say: valid data may be refused.
    case.call_and_validate(excluded_checks=[positive_data_acceptance])


@guarded.auth()
class Alice:
    """Gives every call a token; the check takes it away again, and spoils it, to see it refused."""

    def get(self, case: schemathesis.Case, context: schemathesis.AuthContext) -> dict[str, str]:
        return bearer("alice")

    def set(self, case: schemathesis.Case, data: dict[str, str], context: schemathesis.AuthContext) -> None:
        case.headers.update(data)


@guarded.parametrize()
@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_every_operation_that_documents_a_token_asks_for_it(case: schemathesis.Case) -> None:
    case.call_and_validate(checks=[ignored_auth])


def test_what_any_request_may_be_answered_with_is_documented() -> None:
    """The bounds answer before a route does, so no call of the tests above meets them."""
    for path, operations in _guarded.openapi()["paths"].items():
        for method, operation in operations.items():
            if path.startswith("/orders"):
                expected = {"401", "403", "414", "422", "429", "431", "503"}
                expected |= {"400", "408", "413", "415"} if "requestBody" in operation else set()
                assert operation["responses"].keys() >= expected, (method, path)
