"""The endpoints of orders."""

from __future__ import annotations

from typing import Annotated

from msgspec.structs import asdict
from starlette.requests import Request
from starlette.responses import Response

from app.core import telemetry
from app.core.auth.caller import Caller
from app.core.http import conditions
from app.core.http.auth import RequireScope
from app.core.http.parameters import Cursor, IdempotencyKey, IfMatch, IfNoneMatch, Limit
from app.core.http.problems import NOT_MODIFIED, OF_CONTENT, problems
from app.core.http.responses import NOT_KEPT, created_response, json_response, list_response
from app.core.http.routing import APIRouter, Depends, Query
from app.orders.models import (
    AttachmentList,
    NewAttachment,
    Order,
    OrderCreate,
    OrderFilters,
    OrderList,
    StatusUpdate,
    Upload,
)
from app.orders.service import OrderService

router = APIRouter(prefix="/orders", tags=["orders"])


async def get_service(request: Request) -> OrderService:
    """Return the use cases that the application was built with."""
    service: OrderService = request.app.state.orders
    return service


Orders = Annotated[OrderService, Depends(get_service)]
CanRead = Annotated[Caller, Depends(RequireScope("orders:read"))]
CanWrite = Annotated[Caller, Depends(RequireScope("orders:write"))]
Filters = Annotated[OrderFilters, Query()]


@router.post(
    "",
    status_code=201,
    response_model=Order,
    responses=problems(*OF_CONTENT),
    summary="Place an order",
    response_description="The order. `Idempotent-Replayed: true` when an earlier request placed it.",
)
async def create_order(
    request: Request,
    orders: Orders,
    caller: CanWrite,
    body: OrderCreate,
    idempotency_key: IdempotencyKey = None,
    if_match: IfMatch = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Place an order; requests with the same `Idempotency-Key` place it once.

    The list of orders exists and has no entity tag: `If-None-Match: *`, and any `If-Match` but `*`, are 412.
    """
    conditions.require_untagged(if_match, if_none_match)
    created = await orders.create(caller, body, idempotency_key)
    if not created.replayed:
        telemetry.add_metric("OrdersPlaced")
    return created_response(request, created)


@router.get("", response_model=OrderList, responses=problems(400), summary="List orders, newest first")
async def list_orders(
    orders: Orders, caller: CanRead, filters: Filters, limit: Limit = 20, cursor: Cursor = None
) -> Response:
    """List orders. A page may be short, even empty: the list ends where `next_cursor` is null."""
    return list_response(await orders.list(caller, limit, cursor, asdict(filters)))


@router.get(
    "/{order_id}",
    response_model=Order,
    responses=problems(404, 412) | NOT_MODIFIED,
    summary="Get an order",
)
async def get_order(
    orders: Orders,
    caller: CanRead,
    order_id: str,
    if_match: IfMatch = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Get an order: 304 when `If-None-Match` names its current state, 412 when `If-Match` does not.

    An `If-Match` that is not a list of entity tags is not met; such an `If-None-Match` is ignored.
    """
    return conditions.get_response(await orders.get(caller, order_id), if_match, if_none_match)


@router.put(
    "/{order_id}/status",
    response_model=Order,
    responses=problems(404, 409, *OF_CONTENT),
    summary="Change an order's status",
)
async def change_status(
    orders: Orders,
    caller: CanWrite,
    order_id: str,
    body: StatusUpdate,
    if_match: IfMatch = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Change the status; with `If-Match`, only if the order is still in the state you read.

    Both headers take `*` or a list of entity tags. One of those in `If-Match` must be the order's `ETag`, and
    none of those in `If-None-Match` may be. A header that is not such a list is not met: 412.
    """
    return await conditions.update_if_met(
        lambda: orders.get(caller, order_id),
        lambda version: orders.change_status(caller, order_id, body.status, version),
        if_match,
        if_none_match,
    )


@router.post(
    "/{order_id}/attachments",
    response_model=Upload,
    responses=problems(404, 409, *OF_CONTENT),
    summary="Get an upload for an attachment",
)
async def offer_upload(
    orders: Orders,
    caller: CanWrite,
    order_id: str,
    body: NewAttachment,
    if_match: IfMatch = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Get a form that uploads one attachment to the storage, which rejects any other file.

    Send the fields and then the file as `multipart/form-data`. It replaces an attachment of the same name.
    An order can have 20 attachments. An upload counts towards your daily quota with its `size_bytes`, or
    without them with the maximum size.
    """
    if if_match is not None or if_none_match is not None:
        await orders.get(caller, order_id)  # 404 comes before 412
        conditions.require_untagged(if_match, if_none_match)
    return json_response(await orders.offer_upload(caller, order_id, body), headers=NOT_KEPT)


@router.get(
    "/{order_id}/attachments",
    response_model=AttachmentList,
    responses=problems(404),
    summary="List an order's attachments",
)
async def list_attachments(orders: Orders, caller: CanRead, order_id: str) -> Response:
    """List the attachments, each with a temporary download link."""
    return json_response({"items": await orders.list_attachments(caller, order_id)}, headers=NOT_KEPT)


@router.get(
    "/{order_id}/receipt",
    status_code=303,
    response_class=Response,
    responses=problems(404) | {303: {"description": "`Location` is a temporary link to the receipt"}},
    summary="Get an order's receipt",
)
async def get_receipt(orders: Orders, caller: CanRead, order_id: str) -> Response:
    """Redirect to the receipt. It is written moments after the order is placed; until then this is 404."""
    url = await orders.receipt_url(caller, order_id)
    return Response(status_code=303, headers={"location": url, **NOT_KEPT})
