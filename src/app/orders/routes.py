"""The orders endpoints as FastAPI reads and documents them. What is hot is done in `endpoints`."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request
from starlette.responses import Response

from app.core.http import conditions
from app.core.http.auth import AuthenticatedRoute, caller_with
from app.core.http.callers import READ, WRITE
from app.core.http.responses import json_response
from app.orders import endpoints
from app.orders.models import Caller, OrderStatus
from app.orders.schemas import (
    AttachmentList,
    ChangeStatus,
    Name,
    NewAttachment,
    OrderList,
    OrderOut,
    PlaceOrder,
    Problem,
    UploadOut,
)
from app.orders.service import OrderService

router = APIRouter(prefix="/orders", tags=["orders"], route_class=AuthenticatedRoute)

Reader = Annotated[Caller, Depends(caller_with(READ))]
Writer = Annotated[Caller, Depends(caller_with(WRITE))]
# Lists of entity tags, or `*` (RFC 9110, section 13.1).
IfMatch = Annotated[str | None, Header()]
IfNoneMatch = Annotated[str | None, Header()]


_PROBLEMS = {
    400: "The request cannot be read: in JSON no name comes twice in an object, and `NaN` is no number",
    401: "No token, or not a valid one",
    403: "The token lacks the scope",
    404: "Nothing is there, or nothing for this caller",
    408: "The body took too long to arrive",
    409: "The order's present state does not allow it",
    412: "The present state does not meet `If-Match` or `If-None-Match`",
    413: "The body is too large",
    414: "Path and query are too long",
    415: "The body is not `application/json` in UTF-8, or has a content coding",
    422: "The request does not have the form that is asked for",
    429: "You have too many requests in progress, or have used what a day allows: `Retry-After` says when",
    431: "The headers are too large",
    503: "Overloaded, or something that this needs does not answer: try again",
}


# Of every endpoint that takes content, and of every endpoint at all.
_OF_CONTENT = (400, 408, 412, 413, 415)
_OF_ALL = (401, 403, 414, 422, 429, 431, 503)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Document the problems an endpoint answers with, beside those of every endpoint."""
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        status: {"model": Problem, "description": _PROBLEMS[status], "content": content}
        for status in sorted({*statuses, *_OF_ALL})
    }


def service_of(request: Request) -> OrderService:
    """Return the use cases that the application was built with."""
    service: OrderService = request.app.state.service
    return service


@router.post(
    "",
    status_code=201,
    response_model=OrderOut,
    responses=problems(*_OF_CONTENT),
    summary="Place an order",
    response_description="The order. `Idempotent-Replayed: true` when an earlier request placed it.",
)
async def place_order(
    request: Request,
    caller: Writer,
    body: PlaceOrder,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
    if_match: IfMatch = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Place an order; with an `Idempotency-Key`, once however often this is sent.

    The list of orders exists and has no entity tag: with `If-None-Match: *`, or an `If-Match` of anything
    but `*`, this is 412. Use an `Idempotency-Key`.
    """
    return await endpoints.place_order(
        service_of(request),
        caller,
        request.scope.get("root_path", ""),
        body.customer,
        body.product,
        body.quantity,
        idempotency_key,
        if_match,
        if_none_match,
    )


@router.get("", response_model=OrderList, responses=problems(400), summary="List orders, newest first")
async def list_orders(
    request: Request,
    caller: Reader,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[
        str | None, Query(max_length=512, description="`next_cursor` of the page before")
    ] = None,
    customer: Annotated[Name | None, Query()] = None,
    status: Annotated[OrderStatus | None, Query()] = None,
) -> Response:
    """List orders. A page may be short, even empty: the list ends where `next_cursor` is null."""
    return await endpoints.list_orders(service_of(request), caller, limit, cursor, customer, status)


@router.get(
    "/{order_id}",
    response_model=OrderOut,
    responses=problems(404, 412) | {304: {"description": "The order is still as `If-None-Match` says"}},
    summary="Get an order",
)
async def get_order(
    request: Request,
    caller: Reader,
    order_id: str,
    if_match: IfMatch = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Get an order: 304 when `If-None-Match` names its present state, 412 when `If-Match` does not.

    An `If-Match` that is no list of entity tags names none; an `If-None-Match` that is none is ignored.
    """
    return await endpoints.get_order(service_of(request), caller, order_id, if_match, if_none_match)


@router.put(
    "/{order_id}/status",
    response_model=OrderOut,
    responses=problems(404, 409, *_OF_CONTENT),
    summary="Change an order's status",
)
async def change_status(
    request: Request,
    caller: Writer,
    order_id: str,
    body: ChangeStatus,
    if_match: IfMatch = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Move the order along; with `If-Match`, only if it is still in the state you read.

    Both conditions are about the order's `ETag`. `If-Match` takes one, several separated by commas (any may
    match), or `*`; `If-None-Match` the same, and none may match. One that cannot be read is not met.
    """
    return await endpoints.change_status(
        service_of(request), caller, order_id, body.status, if_match, if_none_match
    )


@router.post(
    "/{order_id}/attachments",
    response_model=UploadOut,
    responses=problems(404, 409, *_OF_CONTENT),
    summary="Get an upload for an attachment",
)
async def offer_upload(
    request: Request,
    caller: Writer,
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
        await service_of(request).get_order(caller, order_id)  # without an order there are no conditions
        raise conditions.not_met()
    upload = await service_of(request).offer_upload(
        caller, order_id, body.name, body.content_type, body.size_bytes
    )
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
