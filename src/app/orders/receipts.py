"""The receipt of an order: a consumer of `OrderPlaced` that writes a small HTML document."""

from __future__ import annotations

from datetime import datetime
from html import escape
from typing import Annotated

import msgspec
from msgspec import Meta

from app.core import telemetry
from app.core.events.consumer import consumer
from app.core.settings import Settings
from app.orders.documents import S3DocumentStore
from app.orders.service import DocumentStore

# As docs/events/ has them: JSON may write a whole number as 5.0. The id becomes part of the document's key.
OrderId = Annotated[str, Meta(pattern=r"\A[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")]
Text = Annotated[str, Meta(min_length=1)]
Quantity = Annotated[int, Meta(ge=1)] | Annotated[float, Meta(ge=1, multiple_of=1)]
Moment = Annotated[str, Meta(pattern=r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z\Z")]


# What a receipt needs of an event. Other fields may come and go (docs/events.md).
class ReceiptOrder(msgspec.Struct, frozen=True):
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

    schema_version: Annotated[float, Meta(ge=1, le=1)]
    event_id: str
    order: ReceiptOrder
    correlation_id: str = ""
    traceparent: str = ""


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


def receipt_html(order: ReceiptOrder) -> bytes:
    """Write the receipt. The same order gives the same bytes."""
    return _PAGE.format(
        id=_escape(order.id),
        customer=_escape(order.customer),
        product=_escape(order.product),
        quantity=int(order.quantity),
        iso=order.placed_at.isoformat(),
        placed=order.placed_at.strftime("%d %B %Y, %H:%M UTC"),
    ).encode()


# HTML allows no control characters, not even escaped. https://html.spec.whatwg.org/#preprocessing-the-input-stream
_CONTROL_CHARS = dict.fromkeys((*range(32), *range(127, 160)), "�")


def _escape(text: str) -> str:
    return escape(text.translate(_CONTROL_CHARS))


def _documents(settings: Settings) -> DocumentStore:
    return S3DocumentStore(settings.bucket_name, settings.kms_key_arn, settings.attachment_max_bytes)


@consumer("receipts", "OrderPlaced", _documents)
async def write_receipt(event: PlacedDetail, documents: DocumentStore) -> None:
    """Store the receipt. The first one stays, so an event that comes twice changes nothing."""
    telemetry.add_log_fields(order_id=event.order.id)
    written = await documents.put_receipt(event.order.id, receipt_html(event.order))
    telemetry.add_log_fields(written=written)  # False: it was there already


handler = write_receipt.handler
