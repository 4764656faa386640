"""The outermost layer of every request, as plain ASGI: limits, safe headers, the log, the last catch."""

from __future__ import annotations

import asyncio
import logging
import time
from hmac import compare_digest
from itertools import chain

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orders.api import request_log
from orders.api.responses import problem
from orders.telemetry import Telemetry

# Far above any order, far below what would hurt.
MAX_BODY_BYTES = 64 * 1024
# The HTTP API's own bound (request line and headers), so that both runtimes refuse the same.
# https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-quotas.html
MAX_HEADER_BYTES = 10_240

# More would only wait for each other: the database pool holds as many (adapters.http1), and every one takes
# memory. A whole vCPU has some 60 in flight at its best (3,000 a second, answered in 20 ms); a load balancer
# finds another task, and Lambda sends one at a time.
MAX_IN_FLIGHT = 256
_OVERLOADED = "This server has all the requests it can take; try again shortly."
_CUT = "This server stopped before the request was done; look whether it was done all the same."

# https://cheatsheetseries.owasp.org/cheatsheets/REST_Security_Cheat_Sheet.html#security-headers
SECURITY_HEADERS = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "strict-transport-security": "max-age=31536000; includeSubDomains",
    "referrer-policy": "no-referrer",
}
_SECURITY_HEADERS = [(name.encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]

# The edge says who it is by this header; edge/template.yaml sends it.
ORIGIN_SECRET_HEADER = b"x-origin-secret"
_NOT_BY_THE_EDGE = "This address answers the edge only; call the API by its public name."

_log = logging.getLogger("orders")


class RequestBoundary:
    """Bounds what comes in, adds headers, logs the request; what nobody expected becomes a bare 500."""

    def __init__(
        self, app: ASGIApp, root_path: str, telemetry: Telemetry, origin_secrets: tuple[str, ...] = ()
    ) -> None:
        self._app = app
        self._root_path = root_path
        self._telemetry = telemetry
        self._liveness = ("/health", f"{root_path}/health")
        self._origin_secrets = [secret.encode() for secret in origin_secrets]
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        header_bytes = sum(map(len, chain.from_iterable(scope["headers"])))
        scope = _with_joined_headers(scope)
        if self._root_path:  # routes are found, and links made, under the prefix
            scope["root_path"] = self._root_path
        begun = time.perf_counter()
        work = request_log.begin(self._telemetry, scope)
        status = 0
        answered: request_log.Headers = []
        size = 0

        async def bounded_receive() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > MAX_BODY_BYTES:
                raise HTTPException(413, f"The body is larger than {MAX_BODY_BYTES} bytes")
            return message

        async def send_with_headers(message: Message) -> None:
            nonlocal status, answered
            if message["type"] == "http.response.start":
                status = message["status"]
                answered = list(message["headers"])
                present = {name for name, _ in answered}
                answered += [header for header in _SECURITY_HEADERS if header[0] not in present]
                answered += request_log.ids(work)
                if scope["app"].state.draining:  # a client that keeps its connection would meet its end
                    answered.append((b"connection", b"close"))
                message["headers"] = answered
            await send(message)

        self._in_flight += 1
        try:
            await self._within_bounds(scope, header_bytes)(scope, bounded_receive, send_with_headers)
        except (Exception, asyncio.CancelledError) as error:  # the outermost handler
            work.fields["error"] = type(error).__name__
            answer = _failure(error, scope["path"])
            if status:
                raise
            await answer(scope, receive, send_with_headers)
        finally:
            self._in_flight -= 1
            request_log.end(self._telemetry, work, scope, status or 500, answered, begun)

    def _within_bounds(self, scope: Scope, header_bytes: int) -> ASGIApp:
        """Return what answers: the application, or a refusal of what is too large or too much.

        Liveness always passes: the load balancer asks it, knows no secret, and ends a task that says no.
        """
        if "orders.refusal" in scope:  # by the server (api.http_protocol), which could not read the request
            refused: ASGIApp = scope["orders.refusal"]
            return refused
        if header_bytes > MAX_HEADER_BYTES:
            detail = "The headers are too large."
            return problem(431, "Request Header Fields Too Large", detail, scope["path"])
        if self._in_flight > MAX_IN_FLIGHT and scope["path"] not in self._liveness:
            refusal = problem(503, "Overloaded", _OVERLOADED, scope["path"], kind="overloaded")
            refusal.headers["retry-after"] = "1"
            return refusal
        if self._origin_secrets and scope["path"] not in self._liveness and not self._came_by_the_edge(scope):
            return problem(403, "Forbidden", _NOT_BY_THE_EDGE, scope["path"], kind="not-by-the-edge")
        return self._app

    def _came_by_the_edge(self, scope: Scope) -> bool:
        """Whether the caller knows a secret of the edge's."""
        given = [value for name, value in scope["headers"] if name == ORIGIN_SECRET_HEADER]
        return len(given) == 1 and any(compare_digest(given[0], secret) for secret in self._origin_secrets)


def _failure(error: BaseException, path: str) -> Response:
    """Answer what nobody expected; the caller learns nothing of what went wrong."""
    if isinstance(error, asyncio.CancelledError):  # the server has no more time to stop
        answer = problem(503, "Service Unavailable", _CUT, path)
        answer.headers["retry-after"] = "1"
        return answer
    _log.exception("unhandled error")
    return problem(500, "Internal Server Error", "Something went wrong on our side.", path)


def _with_joined_headers(scope: Scope) -> Scope:
    """Make one list of a header that was sent several times, as the HTTP API does before Lambda sees it.

    White space around a value is no part of it, and some servers leave it there.
    https://www.rfc-editor.org/rfc/rfc9110.html#section-5.3, #section-5.5
    """
    joined: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        stripped = value.strip(b" \t")
        joined[name] = joined[name] + b"," + stripped if name in joined else stripped
    scope["headers"] = list(joined.items())
    return scope
