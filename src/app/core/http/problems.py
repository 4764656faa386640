"""How problems are documented: their form, and which status means what."""

from __future__ import annotations

from typing import Any

from app.core.models import Model


class Problem(Model, omit_defaults=True):
    """A problem (RFC 9457). `current` is the present state, where that explains the error."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    current: dict[str, Any] | None = None
    errors: list[dict[str, Any]] | None = None


_DESCRIPTIONS = {
    400: "The request cannot be read: in JSON no name comes twice in an object, and `NaN` is no number",
    401: "No token, or not a valid one",
    403: "The token lacks the scope",
    404: "Nothing is there, or nothing for this caller",
    408: "The body took too long to arrive",
    409: "The present state does not allow it",
    412: "The present state does not meet `If-Match` or `If-None-Match`",
    413: "The body is too large",
    414: "Path and query are too long",
    415: "The body is not `application/json` in UTF-8, or has a content coding",
    422: "Request validation failed",
    429: "You have too many requests in progress, or have used what a day allows: `Retry-After` says when",
    431: "The headers are too large",
    503: "Overloaded, or something that this needs does not answer: try again",
}
# Of every endpoint that takes content, and of every endpoint at all.
OF_CONTENT = (400, 408, 412, 413, 415)
_OF_ALL = (401, 403, 414, 422, 429, 431, 503)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Document the problems that an endpoint responds with, beside those of every endpoint."""
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        status: {"model": Problem, "description": _DESCRIPTIONS[status], "content": content}
        for status in sorted({*statuses, *_OF_ALL})
    }
