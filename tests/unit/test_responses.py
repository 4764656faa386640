"""What callers see of an order."""

from __future__ import annotations

import msgspec
from tests.support import an_order

from app.core.http.responses import Public, public
from app.orders.models import Order


def test_callers_see_every_field_of_an_order_but_its_owner() -> None:
    assert Public.__struct_fields__ == Order._fields[:-1]
    assert Order._fields[-1] == "owner"
    seen = msgspec.to_builtins(public(an_order(owner="alice")))
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
