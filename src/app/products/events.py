"""The event of a product."""

from __future__ import annotations

from app.core.events.event import Event
from app.core.events.stream import Source
from app.products.models import Product


class ProductCreated(Event):
    """A product was added."""

    product: Product


def changed(old: Product | None, new: Product) -> Event | None:
    """Return the event of a change; None when nothing happened that others should know."""
    return ProductCreated(product=new) if old is None else None


source = Source("product", Product, changed)
