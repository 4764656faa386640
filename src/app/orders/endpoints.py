"""What the endpoints that matter for speed do: use case in, response out. No rules, and no FastAPI.

Each is reached in two ways: through `routes`, where FastAPI reads the request, and through `front`,
which reads plainly good requests without it.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

from starlette.responses import Response

from app.core.errors import DependencyUnavailable, Overloaded, VersionConflict
from app.core.http import conditions
from app.core.http.responses import etag, json_response, order_response, public
from app.orders.models import Caller, OrderStatus
from app.orders.service import OrderService

# Shorter than the 5 s after which a load balancer's health check gives up.
READY_TIMEOUT_SECONDS = 2.0

# Compared strongly, so no weak tag. DynamoDB refuses numbers of more than 38 digits.
_is_tag = re.compile('"([1-9][0-9]{0,17})"', re.ASCII).fullmatch
# How often the order may change between our reading and our writing it, before the caller has to look again.
_MAX_TRIES = 3


async def place_order(
    service: OrderService,
    caller: Caller,
    root_path: str,
    customer: str,
    product: str,
    quantity: int,
    idempotency_key: str | None,
    if_match: str | None,
    if_none_match: str | None,
) -> Response:
    """Place an order; with an idempotency key, once however often this is called."""
    if not conditions.allow_untagged(if_match, if_none_match):
        raise conditions.not_met()
    placed = await service.place_order(caller, customer, product, quantity, idempotency_key)
    headers = {"location": f"{root_path}/orders/{placed.order.id}"}
    if placed.replayed:
        headers["idempotent-replayed"] = "true"
    return order_response(placed.order, 201, headers)


async def list_orders(
    service: OrderService,
    caller: Caller,
    limit: int,
    cursor: str | None,
    customer: str | None,
    status: OrderStatus | None,
) -> Response:
    """List orders, newest first."""
    listed = await service.list_orders(caller, limit, cursor, customer, status)
    body = {"items": [public(order) for order in listed.orders], "next_cursor": listed.next_cursor}
    return json_response(body, headers={"cache-control": "no-store"})


async def get_order(
    service: OrderService, caller: Caller, order_id: str, if_match: str | None, if_none_match: str | None
) -> Response:
    """Get an order: 412 unless `if_match` names its present state, 304 when `if_none_match` does."""
    order = await service.get_order(caller, order_id)
    if if_match is not None and not conditions.matches(if_match, etag(order)):
        raise VersionConflict(order)
    if if_none_match is not None and conditions.matches_weakly(if_none_match, etag(order)):
        return Response(status_code=304, headers={"etag": etag(order), "cache-control": "private, no-cache"})
    return order_response(order)


async def change_status(
    service: OrderService,
    caller: Caller,
    order_id: str,
    status: OrderStatus,
    if_match: str | None,
    if_none_match: str | None,
) -> Response:
    """Move the order along, if its present state meets the conditions. The store compares once more."""
    if if_none_match is None:
        if if_match in (None, "*"):
            return order_response(await service.change_status(caller, order_id, status))
        if found := _is_tag(if_match or ""):
            return order_response(await service.change_status(caller, order_id, status, int(found[1])))
    order = await service.get_order(caller, order_id)
    for _ in range(_MAX_TRIES):
        if not conditions.allow_change(etag(order), if_match, if_none_match):
            break
        try:
            return order_response(await service.change_status(caller, order_id, status, order.version))
        except VersionConflict as moved:  # another request was faster; the new state may be allowed too
            order = moved.current
    raise VersionConflict(order)


async def health() -> Response:
    """Answer without touching anything."""
    return json_response({"status": "ok"}, headers={"cache-control": "no-store"})


async def ready(service: OrderService, state: Any) -> Response:
    """Ask the dependencies, briefly; say no while the server drains."""
    if state.draining:
        raise Overloaded
    try:
        async with asyncio.timeout(READY_TIMEOUT_SECONDS):
            await service.check_dependencies()
    except TimeoutError as late:
        raise DependencyUnavailable("database") from late
    return json_response({"status": "ready"}, headers={"cache-control": "no-store"})
