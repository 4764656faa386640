"""Responses: msgspec encodes our own data once, without validating it again."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import msgspec
from starlette._utils import get_route_path
from starlette.requests import Request
from starlette.responses import Response

from app.core import telemetry
from app.core.models import E, Entity, public_view
from app.core.service import Created, Listed

NOT_KEPT = {"cache-control": "no-store"}
UNEXPECTED_ERROR = "An unexpected error occurred."
_encode = msgspec.json.Encoder().encode


def etag(entity: Entity) -> str:
    """Return the entity tag: the version tells every state of an entity from the others."""
    return f'"{entity.version}"'


def json_response(
    body: Any,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    media_type: str = "application/json",
) -> Response:
    """Encode `body` as JSON."""
    return Response(_encode(body), status, headers, media_type)


def entity_response(entity: Entity, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Send the public fields of an entity. Clients may cache it, and revalidate it before each use."""
    kept = {"etag": etag(entity), "cache-control": "private, no-cache"}
    return json_response(public_view(type(entity))(entity), status, kept | dict(headers or {}))


def created_response(request: Request, created: Created[E]) -> Response:
    """Send an entity that was created by a POST to its list; log its id."""
    entity, scope = created.entity, request.scope
    telemetry.add_log_fields(**{f"{type(entity).__name__.lower()}_id": entity.id})
    headers = {"location": f"{scope.get('root_path', '')}{get_route_path(scope)}/{entity.id}"}
    if created.replayed:
        headers["idempotent-replayed"] = "true"
        telemetry.add_metric("IdempotentReplays")
    return entity_response(entity, 201, headers)


def list_response(listed: Listed[E]) -> Response:
    """Send one page of entities."""
    items = listed.items
    view = public_view(type(items[0])) if items else None
    body = {"items": [*map(view, items)] if view else [], "next_cursor": listed.next_cursor}
    return json_response(body, headers=NOT_KEPT)


def problem(status: int, detail: str, path: str, code: str = "", **more: Any) -> Response:
    """Return a problem (RFC 9457) for a request to `path`. Its type and title follow from `code`."""
    body = {
        "type": f"urn:orders:problem:{code}" if code else "about:blank",
        "title": code.replace("-", " ").capitalize() or HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": _reference(path),
    } | more
    return json_response(body, status, NOT_KEPT, "application/problem+json")


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
