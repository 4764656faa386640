"""What callers see of an order."""

from __future__ import annotations

import msgspec
from tests.builders import an_order

from app.core.models import public_view
from app.orders.models import Order


def test_callers_see_every_field_of_an_order_but_its_owner() -> None:
    order = an_order(owner="alice")
    assert order.__struct_fields__[-1] == "owner"
    seen = msgspec.to_builtins(public_view(Order)(order))
    assert seen == {
        "id": "0199a6f5-1c00-7000-8000-000000000001",
        "customer": "John Doe",
        "product": "Widget",
        "quantity": 5,
        "status": "pending",
        "version": 1,
        "created_at": "2026-01-02T03:04:05.678901Z",
        "updated_at": "2026-01-02T03:04:05.678901Z",
    }
    assert set(seen) == {*order.__struct_fields__} - {"owner"}
