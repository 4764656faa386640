"""Responses as ready-made bytes: our own data is encoded once and not validated again."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote

import msgspec
from starlette.responses import Response

from app.orders.models import Order, OrderStatus

_encode = msgspec.json.Encoder().encode


class Public(msgspec.Struct):
    """What callers see of an order: its fields in the order of `Order`, all but the last, its owner."""

    id: str
    customer: str
    product: str
    quantity: int
    status: OrderStatus
    version: int
    created_at: datetime
    updated_at: datetime


def public(order: Order) -> Public:
    """Return what callers see of an order."""
    return Public(*order[:-1])


def etag(order: Order) -> str:
    """Return the order's entity tag: the version tells every state of an order from the others."""
    return f'"{order.version}"'


def json_response(
    body: Any,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    media_type: str = "application/json",
) -> Response:
    """Encode `body` as JSON."""
    return Response(_encode(body), status, headers, media_type)


def order_response(order: Order, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Answer with one order. It may be kept by the caller, but only used after asking again."""
    kept = {"etag": etag(order), "cache-control": "private, no-cache"}
    return json_response(public(order), status, kept | dict(headers or {}))


def problem(status: int, title: str, detail: str, path: str, *, kind: str = "", **more: Any) -> Response:
    """Answer a request for `path` with a problem (RFC 9457); `kind` names it for programs."""
    body = {
        "type": f"urn:orders:problem:{kind}" if kind else "about:blank",
        "title": title,
        "status": status,
        "detail": detail,
        "instance": _reference(path),
    } | more
    return json_response(body, status, {"cache-control": "no-store"}, "application/problem+json")


def _reference(path: str) -> str:
    """Return the URI reference of a decoded path.

    Without a dot in front, `//` would begin a host, and what is before a colon would be a scheme.
    https://www.rfc-editor.org/rfc/rfc3986#section-4.2
    """
    if not path.startswith("/"):
        path = f"./{path}"
    elif path.startswith("//"):
        path = f"/.{path}"
    return quote(path, safe="/:@!$&'()*+,;=", errors="replace")
