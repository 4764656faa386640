"""From a record of the table's stream to the event it stands for. Pure: no I/O, no clock.

Record (what matters of it; images have the shape that `core/dynamodb/repository.py` describes):

    {"eventName": "INSERT" | "MODIFY" | "REMOVE",
     "dynamodb": {"SequenceNumber": "...", "NewImage": {...}, "OldImage": {...}}}
"""

from __future__ import annotations

from typing import Any

from app.core.dynamodb.repository import Item, order_of
from app.orders.events import order_placed, order_status_changed
from app.orders.models import OrderStatus
from app.orders.ports import Event


class MalformedRecord(ValueError):
    """The record is not a change of an order as we store them; no retry will change that."""


def event_of(record: dict[str, Any]) -> Event | None:
    """Return the event, or None when nothing happened to an order. Raises `MalformedRecord`."""
    if record.get("eventName") == "REMOVE":
        return None
    try:
        images = record["dynamodb"]
        new: Item = images["NewImage"]
        if not new["pk"]["S"].startswith("order#"):
            return None
        order = order_of(new)
        trace = {name: text(new, name) for name in ("traceparent", "correlation_id")}
        if record["eventName"] == "INSERT":
            # At a later version it was put back by a restore: its events went out in its first life.
            return order_placed(order, **trace) if order.version == 1 else None
        old: Item = images["OldImage"]
        if old["version"] == new["version"]:  # an attribute of ours moved, not the order
            return None
        return order_status_changed(order, OrderStatus(old["status"]["S"]), **trace)
    except (AttributeError, KeyError, TypeError, ValueError) as broken:
        raise MalformedRecord(f"{type(broken).__name__}: {broken}") from broken


def text(item: Item, name: str) -> str:
    """Return a text attribute, or "" when the item has none."""
    return str(item.get(name, {}).get("S", ""))
