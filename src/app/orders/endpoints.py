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
from app.core.http.conditions import IfMatch, IfNoneMatch
from app.core.http.problems import OF_CONTENT, problems
from app.core.http.responses import NOT_KEPT, created_response, json_response, list_response
from app.core.http.routing import APIRouter, Depends, Header, Query
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
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
    if_match: IfMatch = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Place an order; with an `Idempotency-Key`, once however often this is sent.

    The list of orders exists and has no entity tag: with `If-None-Match: *`, or an `If-Match` of anything
    but `*`, this is 412. Use an `Idempotency-Key`.
    """
    if not conditions.allow_untagged(if_match, if_none_match):
        raise conditions.not_met()
    created = await orders.create(caller, body, idempotency_key)
    if not created.replayed:
        telemetry.add_metric("OrdersPlaced")
    telemetry.add_log_fields(order_id=created.entity.id)
    return created_response(f"{request.scope.get('root_path', '')}/orders", created)


@router.get("", response_model=OrderList, responses=problems(400), summary="List orders, newest first")
async def list_orders(
    *,
    orders: Orders,
    caller: CanRead,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[
        str | None, Query(max_length=512, description="`next_cursor` of the page before")
    ] = None,
    filters: Annotated[OrderFilters, Query()],
) -> Response:
    """List orders. A page may be short, even empty: the list ends where `next_cursor` is null."""
    return list_response(await orders.list(caller, limit, cursor, asdict(filters)))


@router.get(
    "/{order_id}",
    response_model=Order,
    responses=problems(404, 412) | {304: {"description": "The order is still as `If-None-Match` says"}},
    summary="Get an order",
)
async def get_order(
    orders: Orders,
    caller: CanRead,
    order_id: str,
    if_match: IfMatch = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Get an order: 304 when `If-None-Match` names its present state, 412 when `If-Match` does not.

    An `If-Match` that is no list of entity tags names none; an `If-None-Match` that is none is ignored.
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
    """Move the order along; with `If-Match`, only if it is still in the state you read.

    Both conditions are about the order's `ETag`. `If-Match` takes one, several separated by commas (any may
    match), or `*`; `If-None-Match` the same, and none may match. One that cannot be read is not met.
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
    """Get a form that uploads one attachment straight to the storage, which refuses what does not match it.

    Send the fields and then the file as `multipart/form-data`. An attachment of the same name is replaced.
    An order has 20 attachments at most. What you may upload in a day is bounded too; of that an upload takes
    its `size_bytes`, or the largest size there is if you do not say.
    """
    if not conditions.allow_untagged(if_match, if_none_match):
        await orders.get(caller, order_id)  # without an order there are no conditions
        raise conditions.not_met()
    return json_response(await orders.offer_upload(caller, order_id, body), headers=NOT_KEPT)


@router.get(
    "/{order_id}/attachments",
    response_model=AttachmentList,
    responses=problems(404),
    summary="List an order's attachments",
)
async def list_attachments(orders: Orders, caller: CanRead, order_id: str) -> Response:
    """List the attachments, each with a link that downloads it for a while."""
    return json_response({"items": await orders.list_attachments(caller, order_id)}, headers=NOT_KEPT)


@router.get(
    "/{order_id}/receipt",
    status_code=303,
    response_class=Response,
    responses=problems(404) | {303: {"description": "`Location` shows the receipt, for a while"}},
    summary="Get an order's receipt",
)
async def get_receipt(orders: Orders, caller: CanRead, order_id: str) -> Response:
    """Go to the receipt. It is written moments after the order is placed; until then this is 404."""
    url = await orders.receipt_url(caller, order_id)
    return Response(status_code=303, headers={"location": url, **NOT_KEPT})
