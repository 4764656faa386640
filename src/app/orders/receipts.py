"""The receipt of an order: read from its `OrderPlaced` event, written as a small HTML document."""

from __future__ import annotations

from datetime import datetime
from html import escape
from typing import Annotated

import msgspec
from msgspec import Meta

from app.orders.events import ORDER_PLACED, SCHEMA_VERSION


class MalformedEvent(ValueError):
    """The message is not an event that we understand; no retry will change that."""


# As docs/events/ has them: JSON may write a whole number as 5.0. The id becomes part of the document's key.
OrderId = Annotated[str, Meta(pattern=r"\A[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")]
Text = Annotated[str, Meta(min_length=1)]
Quantity = Annotated[int, Meta(ge=1)] | Annotated[float, Meta(ge=1, multiple_of=1)]
Moment = Annotated[str, Meta(pattern=r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z\Z")]


# What a receipt needs of an event. Other fields may come and go (docs/events.md).
class OrderFacts(msgspec.Struct, frozen=True):
    """The order, as far as a receipt shows it."""

    id: OrderId
    customer: Text
    product: Text
    quantity: Quantity
    created_at: Moment

    def __post_init__(self) -> None:
        """Reject what looks like a time and is none."""
        _ = self.placed_at

    @property
    def placed_at(self) -> datetime:
        """When the order was placed."""
        return datetime.fromisoformat(self.created_at)


class PlacedDetail(msgspec.Struct, frozen=True):
    """The detail of an `OrderPlaced` event."""

    schema_version: Annotated[float, Meta(ge=SCHEMA_VERSION, le=SCHEMA_VERSION)]
    event_id: str
    order: OrderFacts
    correlation_id: str = ""
    traceparent: str = ""


class _Envelope(msgspec.Struct, rename="kebab"):
    detail_type: str
    detail: msgspec.Raw


_envelope = msgspec.json.Decoder(_Envelope)
_placed = msgspec.json.Decoder(PlacedDetail)


def placed_order(message: str) -> PlacedDetail | None:
    """Read an event as EventBridge hands it over; None when it needs no receipt.

    Raises `MalformedEvent`.
    """
    try:
        envelope = _envelope.decode(message)
        if envelope.detail_type != ORDER_PLACED:
            return None
        return _placed.decode(envelope.detail)
    except (msgspec.DecodeError, UnicodeError) as unreadable:
        raise MalformedEvent(str(unreadable)) from unreadable


# It loads and runs nothing, whatever an order's fields may hold.
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Receipt for order {id}</title>
<style>
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 40rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; width: 100%; }}
caption {{ text-align: left; }}
th, td {{ text-align: left; padding: .5rem; border-bottom: 1px solid #767676; overflow-wrap: anywhere; }}
</style>
</head>
<body>
<main>
<h1>Receipt</h1>
<table>
<caption>Order {id}</caption>
<tbody>
<tr><th scope="row">Customer</th><td>{customer}</td></tr>
<tr><th scope="row">Product</th><td>{product}</td></tr>
<tr><th scope="row">Quantity</th><td>{quantity}</td></tr>
<tr><th scope="row">Placed</th><td><time datetime="{iso}">{placed}</time></td></tr>
</tbody>
</table>
</main>
</body>
</html>
"""


def receipt_html(order: OrderFacts) -> bytes:
    """Write the receipt. The same order gives the same bytes."""
    return _PAGE.format(
        id=_shown(order.id),
        customer=_shown(order.customer),
        product=_shown(order.product),
        quantity=int(order.quantity),
        iso=order.placed_at.isoformat(),
        placed=order.placed_at.strftime("%d %B %Y, %H:%M UTC"),
    ).encode()


# HTML allows no control characters, not even escaped. https://html.spec.whatwg.org/#preprocessing-the-input-stream
_CONTROLS = dict.fromkeys((*range(32), *range(127, 160)), "�")


def _shown(text: str) -> str:
    return escape(text.translate(_CONTROLS))
