"""From error to problem (RFC 9457): one handler for each kind of error."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from starlette._utils import get_route_path
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, compile_path

from app.core import telemetry
from app.core.errors import AppError, DependencyUnavailable
from app.core.http.responses import etag, problem
from app.core.models import public_view

# A body may be wrong in thousands of places.
_MAX_ERRORS_SHOWN = 20


async def app_error(request: Request, error: Exception) -> Response:
    """Respond to an `AppError`."""
    assert isinstance(error, AppError)  # noqa: S101  # Starlette calls us for these only
    telemetry.add_log_fields(error=type(error).__name__)
    if isinstance(error, DependencyUnavailable):
        telemetry.add_log_fields(dependency=error.dependency, cause=telemetry.redact(repr(error.__cause__)))
    current = error.current
    response = problem(
        error.status,
        error.code.replace("-", " ").capitalize(),
        str(error),
        request.scope["path"],
        code=error.code,
        **({"current": public_view(type(current))(current)} if current else {}),
    )
    if current:
        response.headers["etag"] = etag(current)
    response.headers.update(error.headers)
    return response


async def invalid_request(request: Request, error: Any) -> Response:
    """Respond to FastAPI's `RequestValidationError`."""
    telemetry.add_log_fields(error="RequestValidationError")
    path = request.scope["path"]
    found = [
        {"at": _shown("/".join(map(str, each["loc"]))), "problem": _shown(each["msg"])}
        for each in error.errors()[:_MAX_ERRORS_SHOWN]
    ]
    if any(each["type"] == "json_invalid" for each in error.errors()):
        why = [{"at": "body", "problem": each["ctx"]["error"]} for each in error.errors()]
        return problem(400, "Not JSON", "The body is not valid JSON.", path, code="not-json", errors=why)
    detail = "Request validation failed."
    return problem(422, "Invalid request", detail, path, code="invalid-request", errors=found)


async def http_error(request: Request, error: Exception) -> Response:
    """Respond to what the framework rejects."""
    assert isinstance(error, HTTPException)  # noqa: S101  # Starlette calls us for these only
    title = HTTPStatus(error.status_code).phrase
    response = problem(error.status_code, title, f"{error.detail}.".replace("..", "."), request.scope["path"])
    response.headers.update(error.headers or {})
    if error.status_code == 405 and "router" in request.scope:  # which names the methods of one route only
        response.headers["allow"] = ", ".join(sorted(_methods(request)))
    return response


async def response_to(request: Request, error: Exception) -> Response:
    """Respond to any of these. Raises the error if it is none."""
    if isinstance(error, AppError):
        return await app_error(request, error)
    if isinstance(error, HTTPException):
        return await http_error(request, error)
    if type(error).__name__ == "RequestValidationError":  # which cannot be imported here
        return await invalid_request(request, error)
    raise error


def _methods(request: Request) -> set[str]:
    """Return the methods of all routes that serve the path."""
    app, path = request.app, get_route_path(request.scope)
    found: set[str] = set()
    for template, operations in app.openapi()["paths"].items():
        if compile_path(template)[0].match(path):
            found |= {method.upper() for method in operations}
    for route in app.routes:  # those that the document leaves out
        if isinstance(route, Route) and route.path_regex.match(path):
            found |= route.methods or set()
    return found | {"HEAD"} if "GET" in found else found


def _shown(text: str) -> str:
    """Return text of a caller's as JSON can carry it, bounded: it may hold half a surrogate pair."""
    return text[:200].encode("utf-8", "replace").decode()
