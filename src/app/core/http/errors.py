"""From error to problem (RFC 9457): one table, one handler for each kind of error."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route

from app.core import errors, telemetry
from app.core.http.responses import etag, problem, public

STATUS: dict[type[errors.OrderError], int] = {
    errors.OrderNotFound: 404,
    errors.ReceiptNotReady: 404,
    errors.AttachmentTooLarge: 422,
    errors.TooManyAttachments: 409,
    errors.UploadQuotaExceeded: 429,
    errors.IllegalTransition: 409,
    errors.VersionConflict: 412,
    errors.IdempotencyKeyReused: 422,
    errors.InvalidCursor: 400,
    errors.NotAuthenticated: 401,
    errors.NotPermitted: 403,
    errors.Overloaded: 503,
    errors.DependencyUnavailable: 503,
}
# Seconds until a retry makes sense: longer than a throttled partition or a failed-over node needs.
_RETRY_AFTER = "2"
# A body may be wrong in thousands of places.
_MAX_ERRORS_SHOWN = 20


async def order_error(request: Request, error: Exception) -> Response:
    """Answer an `OrderError`."""
    kind = type(error)
    telemetry.note(error=kind.__name__)
    status = STATUS[kind]  # type: ignore[index]  # Starlette calls us for OrderErrors only
    more: dict[str, Any] = {}
    current = getattr(error, "current", None)
    if current is not None:
        more["current"] = public(current)
    response = problem(
        status,
        _words(kind.__name__),
        str(error),
        request.scope["path"],
        kind="-".join(_words(kind.__name__).lower().split()),
        **more,
    )
    if current is not None:
        response.headers["etag"] = etag(current)
    if status == 503:
        response.headers["retry-after"] = _RETRY_AFTER
    if isinstance(error, errors.UploadQuotaExceeded):
        response.headers["retry-after"] = str(error.retry_after_seconds)
    if isinstance(error, errors.DependencyUnavailable):
        telemetry.note(dependency=error.dependency, cause=telemetry.redact(repr(error.__cause__)))
    if isinstance(error, errors.NotAuthenticated):
        # RFC 6750, section 3: no error code when no token was sent
        response.headers["www-authenticate"] = 'Bearer error="invalid_token"' if error.reason else "Bearer"
    if isinstance(error, errors.NotPermitted):
        response.headers["www-authenticate"] = f'Bearer error="insufficient_scope", scope="{error.scope}"'
    return response


async def invalid_request(request: Request, error: Any) -> Response:
    """Answer FastAPI's `RequestValidationError`."""
    telemetry.note(error="RequestValidationError")
    path = request.scope["path"]
    found = [
        {"at": _shown("/".join(map(str, each["loc"]))), "problem": _shown(each["msg"])}
        for each in error.errors()[:_MAX_ERRORS_SHOWN]
    ]
    if any(each["type"] == "json_invalid" for each in error.errors()):
        why = [{"at": "body", "problem": each["ctx"]["error"]} for each in error.errors()]
        return problem(400, "Not JSON", "The body is not valid JSON.", path, kind="not-json", errors=why)
    detail = "The request does not have the form that is asked for."
    return problem(422, "Invalid request", detail, path, kind="invalid-request", errors=found)


async def http_error(request: Request, error: Exception) -> Response:
    """Answer what the framework refuses."""
    assert isinstance(error, HTTPException)  # noqa: S101  # Starlette calls us for these only
    title = HTTPStatus(error.status_code).phrase
    response = problem(error.status_code, title, f"{error.detail}.".replace("..", "."), request.scope["path"])
    response.headers.update(error.headers or {})
    if error.status_code == 405:  # the router names the methods of one route only
        response.headers["allow"] = ", ".join(sorted(_methods(request, request.app.state.routes)))
    return response


def _methods(request: Request, routes: list[BaseRoute]) -> set[str]:
    found: set[str] = set()
    for route in routes:
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE:
            found |= route.methods or set()
    return found | {"HEAD"} if "GET" in found else found


def _shown(text: str) -> str:
    """Return text of a caller's as JSON can carry it, bounded: it may hold half a surrogate pair."""
    return text[:200].encode("utf-8", "replace").decode()


def _words(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).capitalize()
