"""The use cases of products: those that every resource has."""

from __future__ import annotations

from app.core.dynamodb.repository import DynamoRepository
from app.core.service import Service
from app.core.wiring import Core
from app.products.models import Product


def build(core: Core) -> Service[Product]:
    """Return the use cases over the table."""
    return Service("products", DynamoRepository(core.table, Product, "product"), core.cursor_key)
