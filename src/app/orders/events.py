"""The events of an order, as `docs/events/` describes them: facts, in the past tense.

An event's id is `<order id>:<version>`. The relay may publish one event twice, never two
different ones with the same id, so a consumer can tell what it has already seen.
"""

from __future__ import annotations

from typing import Any

from app.core.context import known_parent
from app.orders.models import Order, OrderStatus, timestamp
from app.orders.ports import Event

ORDER_PLACED = "OrderPlaced"
ORDER_STATUS_CHANGED = "OrderStatusChanged"

# Grows when a field goes or changes its meaning; a new field alone is no new version.
SCHEMA_VERSION = 1


def order_placed(order: Order, *, traceparent: str = "", correlation_id: str = "") -> Event:
    """Say that `order` was placed."""
    return Event(ORDER_PLACED, _detail(order, traceparent, correlation_id))


def order_status_changed(
    order: Order, previous: OrderStatus, *, traceparent: str = "", correlation_id: str = ""
) -> Event:
    """Say that `order` has left the status `previous` for the one it now has."""
    detail = _detail(order, traceparent, correlation_id) | {"previous_status": str(previous)}
    return Event(ORDER_STATUS_CHANGED, detail)


def _detail(order: Order, traceparent: str, correlation_id: str) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "event_id": f"{order.id}:{order.version}",
        "occurred_at": timestamp(order.updated_at),
        "correlation_id": correlation_id,
        # What a caller sent may be anything; consumers get a trace or none.
        "traceparent": known_parent(traceparent),
        "order": {
            "id": order.id,
            "customer": order.customer,
            "product": order.product,
            "quantity": order.quantity,
            "status": str(order.status),
            "version": order.version,
            "created_at": timestamp(order.created_at),
            "updated_at": timestamp(order.updated_at),
            "owner": order.owner,
        },
    }
