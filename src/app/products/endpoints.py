"""The endpoints of products."""

from __future__ import annotations

from typing import Annotated

from msgspec.structs import asdict
from starlette.requests import Request
from starlette.responses import Response

from app.core import telemetry
from app.core.auth.caller import Caller
from app.core.http import conditions
from app.core.http.auth import RequireScope
from app.core.http.conditions import IfMatch, IfNoneMatch
from app.core.http.problems import OF_CONTENT, problems
from app.core.http.responses import created_response, list_response
from app.core.http.routing import APIRouter, Depends, Header, Query
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
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
    if_match: IfMatch = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Add a product; with an `Idempotency-Key`, once however often this is sent."""
    if not conditions.allow_untagged(if_match, if_none_match):
        raise conditions.not_met()
    created = await products.create(caller, body, idempotency_key)
    telemetry.add_log_fields(product_id=created.entity.id)
    return created_response(f"{request.scope.get('root_path', '')}/products", created)


@router.get("", response_model=ProductList, responses=problems(400), summary="List products, newest first")
async def list_products(
    *,
    products: Products,
    caller: CanRead,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[
        str | None, Query(max_length=512, description="`next_cursor` of the page before")
    ] = None,
    filters: Annotated[ProductFilters, Query()],
) -> Response:
    """List products. A page may be short, even empty: the list ends where `next_cursor` is null."""
    return list_response(await products.list(caller, limit, cursor, asdict(filters)))


@router.get(
    "/{product_id}",
    response_model=Product,
    responses=problems(404, 412) | {304: {"description": "The product is still as `If-None-Match` says"}},
    summary="Get a product",
)
async def get_product(
    products: Products,
    caller: CanRead,
    product_id: str,
    if_match: IfMatch = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Get a product: 304 when `If-None-Match` names its present state, 412 when `If-Match` does not."""
    return conditions.get_response(await products.get(caller, product_id), if_match, if_none_match)
