"""Problems in the OpenAPI document: their schema, and what each status means."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from app.core.models import Model


class ProblemDetail(Model, omit_defaults=True):
    """One error, with the part of the request that it is about."""

    detail: str
    pointer: Annotated[str, Meta(description="JSON Pointer into the body", examples=["#/quantity"])] = ""
    parameter: Annotated[str, Meta(description="Query parameter", examples=["limit"])] = ""
    header: Annotated[str, Meta(description="Header", examples=["idempotency-key"])] = ""


class Problem(Model, omit_defaults=True):
    """A problem (RFC 9457). `current` is the current state, if it explains the error."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    current: dict[str, Any] | None = None
    errors: list[ProblemDetail] | None = None


_DESCRIPTIONS = {
    400: "Malformed request. A duplicate name in a JSON object and `NaN` are malformed too",
    401: "No token, or an invalid one",
    403: "The token lacks the scope",
    404: "Not found, or not visible to this caller",
    408: "The body took too long to arrive",
    409: "The current state does not allow it",
    412: "The current state does not meet `If-Match` or `If-None-Match`",
    413: "The body is too large",
    414: "Path and query are too long",
    415: "The body is not `application/json` in UTF-8, or has a content coding",
    422: "Request validation failed",
    429: "Too many requests in progress, or a daily quota is used up: retry after `Retry-After` seconds",
    431: "The headers are too large",
    503: "Overloaded, or a dependency is unavailable: retry after `Retry-After` seconds",
}
NOT_MODIFIED: dict[int | str, dict[str, Any]] = {
    304: {"description": "The current state is the one that `If-None-Match` names"}
}
# Statuses of every endpoint that takes content, and of every endpoint.
OF_CONTENT = (400, 408, 412, 413, 415)
_OF_ALL = (401, 403, 414, 422, 429, 431, 503)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Document the problems that an endpoint responds with, beside those of every endpoint."""
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        status: {"model": Problem, "description": _DESCRIPTIONS[status], "content": content}
        for status in sorted({*statuses, *_OF_ALL})
    }
