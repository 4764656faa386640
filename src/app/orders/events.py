"""The events of an order."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from app.core.events.event import Event
from app.core.events.stream import Source
from app.orders.models import Order, OrderStatus
from app.orders.repository import PREFIX


class OrderPlaced(Event):
    """An order was placed."""

    order: Order


class OrderStatusChanged(Event):
    """An order moved on, or was put back by a restore; `order` is as it was right after."""

    order: Order
    previous_status: Annotated[
        OrderStatus, Meta(description="After a restore any status may follow any, itself included.")
    ]


def changed(old: Order | None, new: Order) -> Event | None:
    """Return the event of a change; None when nothing happened that others should know."""
    if old is None:
        return OrderPlaced(order=new)
    return OrderStatusChanged(order=new, previous_status=old.status)


source = Source(PREFIX, Order, changed)
