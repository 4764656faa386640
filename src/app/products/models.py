"""Products, by category."""

from enum import StrEnum
from typing import Annotated, ClassVar

from msgspec import Meta

from app.core.models import Id, Model, Name, Owner, UtcTime, Version


class Category(StrEnum):
    """What kind of product it is."""

    TOOLS = "tools"
    PARTS = "parts"
    OTHER = "other"


class ProductCreate(Model, forbid_unknown_fields=True):
    """The product to add."""

    json_schema_extra: ClassVar = {"examples": [{"name": "Widget", "price_cents": 1999, "category": "tools"}]}

    name: Name
    price_cents: Annotated[int, Meta(ge=0, le=100_000_000)]
    category: Category = Category.OTHER


class Product(ProductCreate, forbid_unknown_fields=False):
    """A product. Times are UTC."""

    id: Id
    version: Version
    created_at: UtcTime
    updated_at: UtcTime
    owner: Owner = None


class ProductFilters(Model):
    """What a list of products can be filtered by."""

    category: Category | None = None


class ProductList(Model):
    """One page of products, newest first; it may be short and still have a next one."""

    items: list[Product]
    next_cursor: str | None
