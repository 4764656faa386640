"""Reads plainly good requests for the hot endpoints itself; every other goes to FastAPI.

FastAPI is three quarters of a cold start and of a warm request (`docs/decisions/` has the figures), and
nearly all requests do not need it. So it stays what describes the API and explains what is wrong
with a request, and is imported when the first such request comes. Nothing is decided twice: both
ways ask the same authenticator, refuse the same content (`bodies`), call the same `endpoints` and answer
errors with the same handlers.
Only the reading of a good request is here again, and may only ever say "unsure":
`tests/api/test_front.py` sends both ways the same requests and compares every byte.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import parse_qsl

import msgspec
from starlette._utils import get_route_path
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.errors import OrderError
from app.core.http import bodies, errors
from app.core.http.callers import READ, WRITE, caller_of, require
from app.orders import endpoints
from app.orders.models import OrderStatus

_STATUSES = {status.value: status for status in OrderStatus}
_is_limit = re.compile("[1-9][0-9]?|100", re.ASCII).fullmatch

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class PlaceOrder(msgspec.Struct, forbid_unknown_fields=True):
    """`schemas.PlaceOrder`, but for the stripping of white space."""

    customer: Name
    product: Name
    quantity: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]


class ChangeStatus(msgspec.Struct, forbid_unknown_fields=True):
    """`schemas.ChangeStatus`."""

    status: OrderStatus


_decode_order = msgspec.json.Decoder(PlaceOrder).decode
_decode_status = msgspec.json.Decoder(ChangeStatus).decode


class UnsureError(Exception):
    """This request needs FastAPI's eye."""


class Incoming:
    """A request, with looks at it that are unsure of whatever is odd."""

    __slots__ = ("_headers", "body", "order_id", "scope")

    def __init__(self, scope: Scope, order_id: str, body: bytes) -> None:
        self.scope = scope
        self.order_id = order_id
        self.body = body
        self._headers: dict[bytes, bytes] = scope["app.exchange"].headers  # joined by the boundary

    def header(self, name: bytes) -> str | None:
        """Return the header's value, None without it."""
        value = self._headers.get(name)
        if value is None:
            return None
        if not value:
            raise UnsureError
        return value.decode("latin-1")

    def query(self, *names: str) -> list[str | None]:
        """Return the parameters' values, None where there is none."""
        if not self.scope["query_string"]:
            return [None] * len(names)
        pairs = parse_qsl(self.scope["query_string"].decode("latin-1"), keep_blank_values=True)
        found = dict(pairs)
        if len(found) < len(pairs) or not all(found.values()) or not found.keys() <= set(names):
            raise UnsureError
        return [found.get(name) for name in names]

    def json(self, decode: Callable[[bytes], Any], quotes: int) -> Any:
        """Return the body as `decode` reads it.

        The last one counts of names that come twice, so there have to be as many quotes as there are
        around names and values that come once, and none in them.
        """
        if not self._headers.get(b"content-type"):  # any other has been looked at before the body came
            bodies.require_json(self._headers, self.body)
        try:
            found = decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise UnsureError from None
        if self.body.count(b'"') != quotes or b'\\"' in self.body:
            raise UnsureError
        return found


def _read_get(request: Incoming) -> tuple[Any, ...]:
    return request.order_id, request.header(b"if-match"), request.header(b"if-none-match")


def _read_list(request: Incoming) -> tuple[Any, ...]:
    limit, cursor, customer, status = request.query("limit", "cursor", "customer", "status")
    if (
        (limit and not _is_limit(limit))
        or (cursor and len(cursor) > 512)
        or (customer and (len(customer) > 200 or _is_padded(customer)))
        or (status and status not in _STATUSES)
    ):
        raise UnsureError
    return int(limit) if limit else 20, cursor, customer, _STATUSES[status] if status else None


def _read_place(request: Incoming) -> tuple[Any, ...]:
    order: PlaceOrder = request.json(_decode_order, 10)
    if _is_padded(order.customer) or _is_padded(order.product):
        raise UnsureError
    key = request.header(b"idempotency-key")
    if key is not None and len(key) > 255:
        raise UnsureError
    root_path = request.scope.get("root_path", "")
    conditions = request.header(b"if-match"), request.header(b"if-none-match")
    return root_path, order.customer, order.product, order.quantity, key, *conditions


def _read_change(request: Incoming) -> tuple[Any, ...]:
    change: ChangeStatus = request.json(_decode_status, 4)
    conditions = request.header(b"if-match"), request.header(b"if-none-match")
    return request.order_id, change.status, *conditions


def _is_padded(name: str) -> bool:
    return name[0].isspace() or name[-1].isspace()


@dataclass(frozen=True, slots=True)
class Hot:
    """One hot endpoint. `path` is what the documentation, and so the log, calls it."""

    path: str
    matches: Callable[[str], re.Match[str] | None]
    needs: str
    read: Callable[[Incoming], tuple[Any, ...]]
    call: Callable[..., Awaitable[Response]]


def _hot(path: str, *rest: Any) -> Hot:
    return Hot(path, re.compile(path.replace("{order_id}", "([^/]+)")).fullmatch, *rest)


HOT = {
    "GET": (
        _hot("/orders/{order_id}", READ, _read_get, endpoints.get_order),
        _hot("/orders", READ, _read_list, endpoints.list_orders),
    ),
    "POST": (_hot("/orders", WRITE, _read_place, endpoints.place_order),),
    "PUT": (_hot("/orders/{order_id}/status", WRITE, _read_change, endpoints.change_status),),
}
HEALTH: dict[str, Callable[[Any], Awaitable[Response]]] = {
    "/health": lambda _: endpoints.health(),
    "/health/ready": lambda state: endpoints.ready(state.service, state),
}


class Front:
    """Stands before FastAPI."""

    def __init__(self, behind: ASGIApp, state: Any) -> None:
        self._behind = behind
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            path = get_route_path(scope)
            for hot in HOT.get(scope["method"], ()):
                if match := hot.matches(path):
                    await self._serve(hot, match, scope, receive, send)
                    return
            if path in HEALTH and scope["method"] == "GET":
                scope["route"] = Route(path)
                await self._answer(HEALTH[path](self._state), scope, receive, send)
                return
        await self._behind(scope, receive, send)

    async def _serve(
        self, hot: Hot, match: re.Match[str], scope: Scope, receive: Receive, send: Send
    ) -> None:
        message: Message | None = None
        order_id = match[1] if match.lastindex else ""

        async def work() -> Response:
            nonlocal message
            caller = await caller_of(Request(scope), self._state.authenticator)
            require(caller, hot.needs)
            body = b""
            if scope["method"] != "GET":
                bodies.require_json(scope["app.exchange"].headers)
                message = await receive()
                body = message.get("body", b"")
            arguments = hot.read(Incoming(scope, order_id, body))
            return await hot.call(self._state.service, caller, *arguments)

        route = {"route": Route(hot.path), "path_params": {"order_id": order_id} if order_id else {}}
        scope.update(route)
        try:
            await self._answer(work(), scope, receive, send)
        except UnsureError:
            for name in route:
                del scope[name]

            async def again() -> Message:
                nonlocal message
                first, message = message, None
                return first or await receive()

            await self._behind(scope, again, send)

    @staticmethod
    async def _answer(work: Awaitable[Response], scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = await work
        except OrderError as error:
            response = await errors.order_error(Request(scope), error)
        except HTTPException as error:  # what is wrong with the body was found where it was read
            response = await errors.http_error(Request(scope), error)
        await response(scope, receive, send)


@dataclass(frozen=True, slots=True)
class Route:
    """What the request log asks of a route."""

    path: str
