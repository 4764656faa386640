"""Whatever the OpenAPI document allows is answered as it says (Schemathesis)."""

from __future__ import annotations

import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance
from tests.support import a_settings

from orders.adapters.memory import FixedCursorKey, MemoryDocumentStore, MemoryOrderStore
from orders.api.app import create_app
from orders.service import OrderService

_service = OrderService(MemoryOrderStore(), MemoryDocumentStore(), FixedCursorKey())
schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(_service, a_settings()))


@schema.parametrize()
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_every_answer_is_a_documented_one(case: schemathesis.Case) -> None:
    # A cursor is well-formed or not by its seal, which no schema can say: valid data may be refused.
    case.call_and_validate(excluded_checks=[positive_data_acceptance])
