"""The outermost ASGI middleware: limits, security headers, the log entry, responses to unhandled errors."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from hmac import compare_digest
from socket import AF_INET6, inet_pton
from typing import Any, NoReturn

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core import telemetry
from app.core.http import access_log
from app.core.http.responses import UNEXPECTED_ERROR, problem
from app.core.telemetry import Telemetry

# A route may have its own limit: FastAPI's `max_body_size`, which Starlette puts into the scope by this name.
MAX_BODY_BYTES = 64 * 1024
_OWN_MAX_BODY_BYTES = "starlette.max_body_size"
# The HTTP API's own bound (request line and headers), so that both runtimes reject the same.
# https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-quotas.html
MAX_HEADER_BYTES = 10_240
_REST_OF_REQUEST_LINE = len(" ? HTTP/1.1")  # beside method, path and query

# The database's connection pool holds as many (`core.aws.http1`): more requests would wait, and take memory.
# A whole vCPU has some 60 in flight at its best (3,000 a second, 20 ms each). A load balancer finds another
# task; Lambda sends one request at a time.
MAX_IN_FLIGHT = 256
# Requests whose body has not arrived wait for their client, not for the database. They are counted apart, or
# slow clients would take the places of all others. 64 KB each: 16 MB at worst.
MAX_ARRIVING = 256
# A quarter of the places, and as many as a whole vCPU has in flight at its best. The caller is the token's
# subject; before the token is validated, and in an API without tokens, the client's address.
MAX_OF_ONE_CALLER = 64
_OVERLOADED = "Server overloaded. Retry later."
_TOO_SLOW = "The request took too long. It may have been processed."
_STOPPED = "The server stopped during the request. It may have been processed."
_TOO_MANY = "You have too many requests in progress. Wait for a response to one of them."

# 64 KB at 50 kbit/s, which is a poor mobile connection.
BODY_SECONDS = 10
# From the headers to the response. Shorter than the 29 s after which the HTTP API times out, and the 30 s
# after which the load balancer forgets a task that stops.
RESPONSE_SECONDS = 25
# Deadlines are checked this often: one timer for all requests, because a timer a request takes 2 us of CPU.
WATCH_SECONDS = 1.0

# As nginx logs a request whose client went away.
CLIENT_CLOSED_REQUEST = 499

# https://cheatsheetseries.owasp.org/cheatsheets/REST_Security_Cheat_Sheet.html#security-headers
SECURITY_HEADERS = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "strict-transport-security": "max-age=31536000; includeSubDomains",
    "referrer-policy": "no-referrer",
}
_SECURITY_HEADERS = [(name.encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]

# CloudFront sends this header (edge/template.yaml).
ORIGIN_SECRET_HEADER = b"x-origin-secret"
_DIRECT_ACCESS = "Direct access is not allowed; use the public URL."

# Also within an IPv6 address (::ffff:192.0.2.1), and before a port.
_ipv4 = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}", re.ASCII).search

_log = logging.getLogger(__name__)


class Rejected(BaseException):
    """Ends a request that is rejected here, or whose client went away.

    Not an `Exception`: FastAPI would turn one that is raised while it reads the body into its own error.
    """


class RequestMiddleware:
    """Limits size and concurrency, adds headers, logs the request, turns unhandled exceptions into a 500."""

    def __init__(
        self, app: ASGIApp, root_path: str, telemetry: Telemetry, origin_secrets: tuple[str, ...] = ()
    ) -> None:
        self.arriving = 0
        self._app = app
        self._root_path = root_path
        self._telemetry = telemetry
        self._liveness = ("/health", f"{root_path}/health")
        self._origin_secrets = [secret.encode() for secret in origin_secrets]
        self._exchanges: set[Exchange] = set()
        self._watching: asyncio.AbstractEventLoop | None = None
        self._of_callers: dict[str, int] = {}
        self._counting = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers, header_bytes = _read_headers(scope)
        if self._root_path:  # routes are found, and links made, under the prefix
            scope["root_path"] = self._root_path
        loop = asyncio.get_running_loop()
        if self._watching is not loop:
            self._watch(loop)
        log_context = access_log.begin(self._telemetry, scope, headers)
        task = asyncio.current_task(loop)
        exchange = Exchange(self, scope, headers, receive, send, log_context, task)  # type: ignore[arg-type]
        scope["app.exchange"] = exchange
        self._exchanges.add(exchange)
        try:
            self._admit(exchange, scope, headers, header_bytes)
            await self._app(scope, exchange.receive, exchange.send)
        except (Exception, asyncio.CancelledError, Rejected, BaseExceptionGroup) as error:
            if not await exchange.fail(error):
                raise
        finally:
            self._exchanges.discard(exchange)
            if exchange.counted_for is not None:
                self._leave(exchange)
            del scope["app.exchange"]
            access_log.end(self._telemetry, exchange)

    @property
    def in_flight(self) -> int:
        """How many requests are being served."""
        return len(self._exchanges) - self.arriving

    def _admit(
        self, exchange: Exchange, scope: Scope, headers: dict[bytes, bytes], header_bytes: int
    ) -> None:
        """Return if the request is admitted. Raises `Rejected`.

        Liveness checks are never rejected for load or a missing secret: the load balancer sends them without
        the secret, and replaces a task that fails them.
        """
        if "app.rejection" in scope:  # `http_protocol` or `lambda_adapter` could not read the request
            exchange.reject(scope["app.rejection"])
        path: str = scope["path"]
        line_bytes = len(scope["method"]) + len(scope.get("raw_path") or path) + len(scope["query_string"])
        line_bytes += _REST_OF_REQUEST_LINE
        if header_bytes + line_bytes > MAX_HEADER_BYTES:
            if line_bytes > MAX_HEADER_BYTES:
                exchange.reject(problem(414, "Path and query are too long.", path))
            exchange.reject(problem(431, "The headers are too large.", path))
        if path in self._liveness:
            return
        if self.in_flight > MAX_IN_FLIGHT:
            exchange.reject_for_now(503, "overloaded", _OVERLOADED)
        if self._origin_secrets and not self._has_origin_secret(headers):
            exchange.reject(problem(403, _DIRECT_ACCESS, path, "direct-access-forbidden"))
        if self._counting or len(self._exchanges) > MAX_OF_ONE_CALLER:
            self.count(exchange)

    def _has_origin_secret(self, headers: dict[bytes, bytes]) -> bool:
        """Whether the request carries the origin secret, which CloudFront adds."""
        given = headers.get(ORIGIN_SECRET_HEADER, b"")
        return any(compare_digest(given, secret) for secret in self._origin_secrets)

    def count(self, exchange: Exchange) -> None:
        """Count the request for its caller. Raises `Rejected` if that is one too many.

        Counting starts once there are more requests at a time than one caller may have.
        """
        if not self._counting:
            self._counting = True
            for other in self._exchanges:
                if other is not exchange:
                    self._enter(other, other.caller(bool(self._origin_secrets)))
        caller = exchange.caller(bool(self._origin_secrets))
        if caller != exchange.counted_for:
            if self._of_callers.get(caller, 0) >= MAX_OF_ONE_CALLER:
                exchange.reject_for_now(429, "too-many-requests", _TOO_MANY)
            self._enter(exchange, caller)

    def _enter(self, exchange: Exchange, caller: str) -> None:
        if exchange.counted_for is not None:
            self._leave(exchange)
        self._of_callers[caller] = self._of_callers.get(caller, 0) + 1
        exchange.counted_for = caller

    def _leave(self, exchange: Exchange) -> None:
        caller, exchange.counted_for = exchange.counted_for, None
        assert caller is not None  # noqa: S101  # every caller of this has checked it
        self._of_callers[caller] -= 1
        if not self._of_callers[caller]:
            del self._of_callers[caller]

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Check the deadlines regularly, while there are requests."""
        self._watching = loop
        loop.call_later(WATCH_SECONDS, self._check_deadlines, loop)

    def _check_deadlines(self, loop: asyncio.AbstractEventLoop) -> None:
        now = time.perf_counter()
        for exchange in self._exchanges:
            exchange.end_if_late(now)
        if self._counting and len(self._exchanges) <= MAX_OF_ONE_CALLER:
            self._counting = False
            for exchange in self._exchanges:
                exchange.counted_for = None
            self._of_callers.clear()
        if self._exchanges:
            self._watch(loop)
        else:
            self._watching = None


class Exchange:
    """One request and its response."""

    status = 0
    served = True
    subject: str | None = None
    counted_for: str | None = None
    responded_at = 0.0
    receive_seconds: float | None = None
    _late = 0  # the status of the response to a request that is late
    _received = _complete = False
    _arriving_since: float | None = None
    _body: bytearray | None = None
    _rejection: ASGIApp | None = None

    def __init__(
        self,
        middleware: RequestMiddleware,
        scope: Scope,
        headers: dict[bytes, bytes],
        receive: Receive,
        send: Send,
        log_context: telemetry.LogContext,
        task: asyncio.Task[Any],
    ) -> None:
        self.scope = scope
        self.begun = time.perf_counter()
        self._deadline = self.begun + RESPONSE_SECONDS
        self._middleware = middleware
        self.headers = headers
        self._receive = receive
        self._send = send
        self.log_context = log_context
        self._task = task

    def caller(self, by_cloudfront: bool) -> str:
        """Return the caller to count the request for: the token's subject or, until it is known, the address.

        The address is the one that our load balancer saw, or CloudFront: each appends one to X-Forwarded-For.
        The client can make up those before; uvicorn's `client` is the first of them.
        https://docs.aws.amazon.com/elasticloadbalancing/latest/application/x-forwarded-headers.html
        """
        if self.subject is not None:
            return f"subject {self.subject}"
        hops = self.headers.get(b"x-forwarded-for")
        if hops is None:
            client = self.scope.get("client")
            return _network(client[0]) if client else ""
        addresses = hops.decode("latin-1").split(",")
        return _network(addresses[-2 if by_cloudfront and len(addresses) > 1 else -1].strip())

    def set_subject(self, subject: str) -> None:
        """Count the request for this subject from now on. Raises `Rejected`."""
        self.subject = subject
        if self.counted_for is not None:
            self._middleware.count(self)

    def end_if_late(self, now: float) -> None:
        """Cancel the request if one of its deadlines has passed."""
        since = self._arriving_since
        if now > self._deadline or (since is not None and now > since + BODY_SECONDS):
            self._late = 503 if since is None else 408
            self._task.cancel()

    def reject(self, response: ASGIApp | None) -> NoReturn:
        """End the request with this response; with None if its client went away."""
        self.served = False
        self._rejection = response
        raise Rejected

    def reject_for_now(self, status: int, code: str, detail: str) -> NoReturn:
        """End the request because of load; the caller can retry."""
        telemetry.add_metric("RejectedRequests")
        self.reject(self._retry_later(status, code, detail))

    def _reject_for_size(self, limit: int) -> NoReturn:
        self.reject(problem(413, f"The body is larger than {limit} bytes.", self.scope["path"]))

    async def fail(self, error: BaseException) -> bool:
        """Respond in place of the application; return whether the error ends here.

        The reason is read from our state, not from the error: Starlette's middleware wraps errors in groups.
        """
        response: ASGIApp | None
        if not self.served:
            ends, status, response = True, CLIENT_CLOSED_REQUEST, self._rejection
        elif self._late:
            self._task.uncancel()
            self.served = self._late != 408
            ends, status, response = not self.status, CLIENT_CLOSED_REQUEST, self._late_response()
        elif isinstance(error, asyncio.CancelledError):
            self.log_context.fields["error"] = "Stopped"
            ends, status, response = False, 503, self._retry_later(503, "stopped", _STOPPED)
        else:  # the response must not reveal the error
            _log.exception("unhandled error")
            self.log_context.fields["error"] = type(error).__name__
            response = problem(500, UNEXPECTED_ERROR, self.scope["path"])
            ends, status = not self.status, 500
        if self.status or response is None:
            if not self._complete:  # the connection will close, and the log entry has this status
                self.status = status
        else:
            await response(self.scope, self._receive, self.send)
        return ends

    def _late_response(self) -> Response:
        if self._late == 408:
            return problem(408, "The body took too long to arrive.", self.scope["path"])
        self.log_context.fields["error"] = "TooSlow"
        return self._retry_later(503, "too-slow", _TOO_SLOW)

    def _retry_later(self, status: int, code: str, detail: str) -> Response:
        response = problem(status, detail, self.scope["path"], code)
        response.headers["retry-after"] = "1"
        return response

    async def receive(self) -> Message:
        """Return the whole body in one message; after that, the server's messages. Raises `Rejected`.

        A call that is cancelled (`Request.is_disconnected`) can be repeated: the parts of the body are kept.
        """
        if self._received:
            return await self._receive()
        middleware = self._middleware
        limit = self.scope.get(_OWN_MAX_BODY_BYTES, MAX_BODY_BYTES)
        length = self.headers.get(b"content-length", b"")
        # A length of four digits is not looked at: the body itself is measured below.
        if len(length) > 4 and _number(length) > limit:
            self._reject_for_size(limit)
        if middleware.arriving >= MAX_ARRIVING:
            self.reject_for_now(503, "overloaded", _OVERLOADED)
        middleware.arriving += 1
        self._arriving_since = since = time.perf_counter()
        try:
            message = await self._receive()
            if message.get("more_body") or self._body:
                message = await self._rest(message, limit)
        finally:
            middleware.arriving -= 1
            self._arriving_since = None
            waited = time.perf_counter() - since
            self.receive_seconds = (self.receive_seconds or 0.0) + waited
            self.begun += waited
        if message["type"] == "http.disconnect":
            self.reject(None)
        if len(message.get("body", b"")) > limit:
            self._reject_for_size(limit)
        if middleware.in_flight > MAX_IN_FLIGHT:
            self.reject_for_now(503, "overloaded", _OVERLOADED)
        self._received = True
        return message

    async def _rest(self, message: Message, limit: int) -> Message:
        """Return one message with the whole body, or with a part that is too large."""
        if self._body is None:
            self._body = bytearray()
        while True:
            self._body += message.get("body", b"")
            if not message.get("more_body") or len(self._body) > limit:
                return {**message, "body": bytes(self._body), "more_body": False}
            message = await self._receive()

    async def send(self, message: Message) -> None:
        """Add the headers of every response."""
        if message["type"] == "http.response.start":
            self.responded_at = time.perf_counter()  # latency excludes the time that the client takes to read
            self.status = message["status"]
            headers = list(message["headers"])
            present = {name for name, _ in headers}
            headers += [header for header in _SECURITY_HEADERS if header[0] not in present]
            headers += access_log.ids(self.log_context)
            if (
                self.scope["app"].state.draining  # the server closes its connections soon
                or self.status == 408
                # The client sends the body next, or another request: the server cannot tell which.
                # https://www.rfc-editor.org/rfc/rfc9110.html#section-10.1.1
                or (b"expect" in self.headers and not self._received)
            ):
                headers.append((b"connection", b"close"))
            message["headers"] = headers
            await self._send(message)
        else:
            await self._send(message)
            self._complete = not message.get("more_body")


def _number(length: bytes) -> int:
    """Return the Content-Length, or 0 if it is not a number."""
    try:
        return int(length)
    except ValueError:
        return 0


def _network(address: str) -> str:
    """Return the IPv4 address without its port, or the /64 of an IPv6 one: a client has all of a /64."""
    if found := _ipv4(address):
        return found[0]
    try:
        return inet_pton(AF_INET6, address.partition("]")[0].lstrip("["))[:8].hex()
    except (OSError, ValueError):
        return address


def _read_headers(scope: Scope) -> tuple[dict[bytes, bytes], int]:
    """Normalize the headers of the scope; return them, and the bytes that the client sent for them.

    A header that was sent several times becomes one list, as the HTTP API does before it invokes Lambda.
    White space around a value is removed: some servers leave it there.
    https://www.rfc-editor.org/rfc/rfc9110.html#section-5.3, #section-5.5
    """
    size = 0
    headers: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        size += len(name) + len(value)
        stripped = value.strip(b" \t")
        headers[name] = headers[name] + b"," + stripped if name in headers else stripped
    scope["headers"] = list(headers.items())
    return headers, size
