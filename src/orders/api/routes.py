"""The orders endpoints: HTTP to use case and back, no rules."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request
from starlette.responses import Response

from orders.api.auth import READ, WRITE, AuthenticatedRoute, caller_with
from orders.api.responses import etag, json_response, order_response, public
from orders.api.schemas import (
    AttachmentList,
    ChangeStatus,
    NewAttachment,
    OrderList,
    OrderOut,
    PlaceOrder,
    Problem,
    UploadOut,
)
from orders.domain import Caller, OrderStatus
from orders.errors import VersionConflict
from orders.service import OrderService

router = APIRouter(prefix="/orders", tags=["orders"], route_class=AuthenticatedRoute)

Reader = Annotated[Caller, Depends(caller_with(READ))]
Writer = Annotated[Caller, Depends(caller_with(WRITE))]


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Document the problems an endpoint answers with, beside those of every endpoint."""
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"model": Problem, "content": content} for status in (*statuses, 401, 403, 422, 503)}


def service_of(request: Request) -> OrderService:
    """Return the use cases that the application was built with."""
    service: OrderService = request.app.state.service
    return service


@router.post(
    "",
    status_code=201,
    response_model=OrderOut,
    responses=problems(400, 413),
    summary="Place an order",
    response_description="The order. `Idempotent-Replayed: true` when an earlier request placed it.",
)
async def place_order(
    request: Request,
    caller: Writer,
    body: PlaceOrder,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
) -> Response:
    """Place an order; with an `Idempotency-Key`, once however often this is sent."""
    placed = await service_of(request).place_order(
        caller, body.customer, body.product, body.quantity, idempotency_key
    )
    headers = {"location": f"{request.scope.get('root_path', '')}/orders/{placed.order.id}"}
    if placed.replayed:
        headers["idempotent-replayed"] = "true"
    return order_response(placed.order, 201, headers)


@router.get("", response_model=OrderList, responses=problems(400), summary="List orders, newest first")
async def list_orders(
    request: Request,
    caller: Reader,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[
        str | None, Query(max_length=512, description="`next_cursor` of the page before")
    ] = None,
    customer: Annotated[str | None, Query(min_length=1, max_length=200)] = None,
    status: Annotated[OrderStatus | None, Query()] = None,
) -> Response:
    """List orders. A page may be short, even empty: the list ends where `next_cursor` is null."""
    listed = await service_of(request).list_orders(caller, limit, cursor, customer, status)
    body = {"items": [public(order) for order in listed.orders], "next_cursor": listed.next_cursor}
    return json_response(body, headers={"cache-control": "no-store"})


@router.get(
    "/{order_id}",
    response_model=OrderOut,
    responses=problems(404) | {304: {"description": "The order is still as `If-None-Match` says"}},
    summary="Get an order",
)
async def get_order(
    request: Request, caller: Reader, order_id: str, if_none_match: Annotated[str | None, Header()] = None
) -> Response:
    """Get an order, or 304 when `If-None-Match` names its present state."""
    order = await service_of(request).get_order(caller, order_id)
    if if_none_match is not None and _matches(if_none_match, etag(order), weak=True):
        return Response(status_code=304, headers={"etag": etag(order), "cache-control": "private, no-cache"})
    return order_response(order)


@router.put(
    "/{order_id}/status",
    response_model=OrderOut,
    responses=problems(400, 404, 409, 412, 413),
    summary="Change an order's status",
)
async def change_status(
    request: Request,
    caller: Writer,
    order_id: str,
    body: ChangeStatus,
    if_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Move the order along; with `If-Match`, only if it is still in the state you read."""
    service = service_of(request)
    if if_match is None or if_match.strip() == "*":
        return order_response(await service.change_status(caller, order_id, body.status))
    version = _version(if_match)
    if version is None:  # a tag that no order can have
        raise VersionConflict(await service.get_order(caller, order_id))
    return order_response(await service.change_status(caller, order_id, body.status, version))


@router.post(
    "/{order_id}/attachments",
    response_model=UploadOut,
    responses=problems(400, 404, 413),
    summary="Get an upload for an attachment",
)
async def offer_upload(request: Request, caller: Writer, order_id: str, body: NewAttachment) -> Response:
    """Get a form that uploads one attachment straight to the storage, which refuses what does not match it.

    Send the fields and then the file as `multipart/form-data`. An attachment of the same name is replaced.
    """
    upload = await service_of(request).offer_upload(caller, order_id, body.name, body.content_type)
    return json_response(upload, headers={"cache-control": "no-store"})


@router.get(
    "/{order_id}/attachments",
    response_model=AttachmentList,
    responses=problems(404),
    summary="List an order's attachments",
)
async def list_attachments(request: Request, caller: Reader, order_id: str) -> Response:
    """List the attachments, each with a link that downloads it for a while."""
    listed = await service_of(request).list_attachments(caller, order_id)
    return json_response({"items": listed}, headers={"cache-control": "no-store"})


@router.get(
    "/{order_id}/receipt",
    status_code=303,
    response_class=Response,
    responses=problems(404) | {303: {"description": "`Location` shows the receipt, for a while"}},
    summary="Get an order's receipt",
)
async def get_receipt(request: Request, caller: Reader, order_id: str) -> Response:
    """Go to the receipt. It is written moments after the order is placed; until then this is 404."""
    url = await service_of(request).receipt_url(caller, order_id)
    return Response(status_code=303, headers={"location": url, "cache-control": "no-store"})


def _matches(header: str, tag: str, *, weak: bool) -> bool:
    """Compare as RFC 9110, section 13.1.2 does: `*`, or any tag of a list."""
    tags = {each.strip() for each in header.split(",")}
    return "*" in tags or tag in tags or (weak and f"W/{tag}" in tags)


def _version(header: str) -> int | None:
    """Return the version that an If-Match header names, or None when it names none."""
    text = header.strip()
    if len(text) > 2 and text[0] == text[-1] == '"' and text[1:-1].isascii() and text[1:-1].isdigit():
        return int(text[1:-1])
    return None
