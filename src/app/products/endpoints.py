"""The endpoints of products."""

from __future__ import annotations

from typing import Annotated

from msgspec.structs import asdict
from starlette.requests import Request
from starlette.responses import Response

from app.core.auth.caller import Caller
from app.core.http import conditions
from app.core.http.auth import RequireScope
from app.core.http.parameters import Cursor, IdempotencyKey, IfMatch, IfNoneMatch, Limit
from app.core.http.problems import NOT_MODIFIED, OF_CONTENT, problems
from app.core.http.responses import created_response, list_response
from app.core.http.routing import APIRouter, Depends, Query
from app.core.service import Service
from app.products.models import Product, ProductCreate, ProductFilters, ProductList

router = APIRouter(prefix="/products", tags=["products"])


async def get_service(request: Request) -> Service[Product]:
    """Return the use cases that the application was built with."""
    service: Service[Product] = request.app.state.products
    return service


Products = Annotated[Service[Product], Depends(get_service)]
CanRead = Annotated[Caller, Depends(RequireScope("products:read"))]
CanWrite = Annotated[Caller, Depends(RequireScope("products:write"))]
Filters = Annotated[ProductFilters, Query()]


@router.post(
    "",
    status_code=201,
    response_model=Product,
    responses=problems(*OF_CONTENT),
    summary="Add a product",
    response_description="The product. `Idempotent-Replayed: true` when an earlier request added it.",
)
async def create_product(
    request: Request,
    products: Products,
    caller: CanWrite,
    body: ProductCreate,
    idempotency_key: IdempotencyKey = None,
    if_match: IfMatch = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Add a product; requests with the same `Idempotency-Key` add it once."""
    conditions.require_untagged(if_match, if_none_match)
    return created_response(request, await products.create(caller, body, idempotency_key))


@router.get("", response_model=ProductList, responses=problems(400), summary="List products, newest first")
async def list_products(
    products: Products, caller: CanRead, filters: Filters, limit: Limit = 20, cursor: Cursor = None
) -> Response:
    """List products. A page may be short, even empty: the list ends where `next_cursor` is null."""
    return list_response(await products.list(caller, limit, cursor, asdict(filters)))


@router.get(
    "/{product_id}",
    response_model=Product,
    responses=problems(404, 412) | NOT_MODIFIED,
    summary="Get a product",
)
async def get_product(
    products: Products,
    caller: CanRead,
    product_id: str,
    if_match: IfMatch = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Get a product: 304 when `If-None-Match` names its current state, 412 when `If-Match` does not."""
    return conditions.get_response(await products.get(caller, product_id), if_match, if_none_match)
