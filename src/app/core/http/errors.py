"""Exception handlers: each turns one type of error into a problem (RFC 9457)."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from starlette._utils import get_route_path
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, compile_path

from app.core import telemetry
from app.core.errors import AppError, DependencyUnavailable
from app.core.http.problems import ProblemDetail
from app.core.http.responses import etag, problem
from app.core.models import public_view

# A body can have thousands of errors.
_MAX_ERRORS_SHOWN = 20


async def app_error(request: Request, error: Exception) -> Response:
    """Respond to an `AppError`."""
    assert isinstance(error, AppError)  # noqa: S101  # Starlette calls this for no other
    telemetry.add_log_fields(error=type(error).__name__)
    if isinstance(error, DependencyUnavailable):
        telemetry.add_log_fields(dependency=error.dependency, cause=telemetry.redact(repr(error.__cause__)))
    current = error.current
    response = problem(
        error.status,
        str(error),
        request.scope["path"],
        error.code,
        **({"current": public_view(type(current))(current)} if current else {}),
    )
    if current:
        response.headers["etag"] = etag(current)
    response.headers.update(error.headers)
    return response


async def invalid_request(request: Request, error: Any) -> Response:
    """Respond to FastAPI's `RequestValidationError`."""
    telemetry.add_log_fields(error="RequestValidationError")
    path, items = request.scope["path"], error.errors()
    if any(item["type"] == "json_invalid" for item in items):
        details = [ProblemDetail(detail=item["ctx"]["error"], pointer="#") for item in items]
        return problem(400, "The body is not valid JSON.", path, "not-json", title="Not JSON", errors=details)
    details = [_problem_detail(item["msg"], *item["loc"]) for item in items[:_MAX_ERRORS_SHOWN]]
    return problem(422, "Request validation failed.", path, "invalid-request", errors=details)


async def http_error(request: Request, error: Exception) -> Response:
    """Respond to an `HTTPException`, also one of the framework's own."""
    assert isinstance(error, HTTPException)  # noqa: S101  # Starlette calls this for no other
    response = problem(error.status_code, f"{error.detail}.".replace("..", "."), request.scope["path"])
    response.headers.update(error.headers or {})
    # Starlette names the methods of one route only.
    if error.status_code == 405 and "router" in request.scope:
        response.headers["allow"] = ", ".join(sorted(_methods(request)))
    return response


async def response_to(request: Request, error: Exception) -> Response:
    """Respond to any of these errors. Raises every other error again."""
    if isinstance(error, AppError):
        return await app_error(request, error)
    if isinstance(error, HTTPException):
        return await http_error(request, error)
    if type(error).__name__ == "RequestValidationError":  # importing it would import FastAPI
        return await invalid_request(request, error)
    raise error


def _methods(request: Request) -> set[str]:
    """Return the methods of all routes that serve the path."""
    app, path = request.app, get_route_path(request.scope)
    found: set[str] = set()
    for template, operations in app.openapi()["paths"].items():
        if compile_path(template)[0].match(path):
            found |= {method.upper() for method in operations}
    for route in app.routes:  # with those that the OpenAPI document leaves out
        if isinstance(route, Route) and route.path_regex.match(path):
            found |= route.methods or set()
    return found | {"HEAD"} if "GET" in found else found


def _problem_detail(message: str, source: str = "body", *names: str | int) -> ProblemDetail:
    """Return the error with where it is: `source` and `names` are pydantic's `loc`.

    https://www.rfc-editor.org/rfc/rfc6901.html#section-6, https://jsonapi.org/format/#error-objects
    """
    detail, parts = _printable(message), [_printable(str(name)) for name in names]
    if source == "header":
        return ProblemDetail(detail=detail, header="/".join(parts))
    if source != "body":
        return ProblemDetail(detail=detail, parameter="/".join(parts))
    steps = [f"/{part.replace('~', '~0').replace('/', '~1')}" for part in parts]
    return ProblemDetail(detail=detail, pointer="#" + quote("".join(steps), safe="/?:@!$&'()*+,;="))


def _printable(text: str) -> str:
    """Return a caller's text as JSON can encode it, bounded: it may hold half a surrogate pair."""
    return text[:200].encode("utf-8", "replace").decode()
