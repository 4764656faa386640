"""The outermost layer of every request, as plain ASGI: limits, safe headers, the log, the last catch."""

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
from app.core.http.responses import problem
from app.core.telemetry import Telemetry

# Far above any order, far below what would hurt. A route may have its own bound: FastAPI's `max_body_size`,
# which Starlette puts into the scope under this name.
MAX_BODY_BYTES = 64 * 1024
_OWN_MAX_BODY_BYTES = "starlette.max_body_size"
# The HTTP API's own bound (request line and headers), so that both runtimes reject the same.
# https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-quotas.html
MAX_HEADER_BYTES = 10_240
_REST_OF_REQUEST_LINE = len(" ? HTTP/1.1")  # beside method, path and query

# More would only wait for each other: the database pool holds as many (adapters.http1), and every one takes
# memory. A whole vCPU has some 60 in flight at its best (3,000 a second, answered in 20 ms); a load balancer
# finds another task, and Lambda sends one at a time.
MAX_IN_FLIGHT = 256
# Requests whose body is still on its way wait for their client, not for the database. They are counted apart,
# or slow clients would take the places of all others. 64 KB each: 16 MB at worst.
MAX_ARRIVING = 256
# A quarter of the places, and as many as a whole vCPU has in flight at its best. A caller is a token's
# subject; before the token is known, and in an API without tokens, an address.
MAX_OF_ONE_CALLER = 64
_OVERLOADED = "This server has all the requests it can take; try again shortly."
_TOO_SLOW = "This took too long. It may have been done all the same."
_STOPPED = "This server stopped before this was done. It may have been done all the same."
_TOO_MANY = "You have as many requests in progress as one caller may have; wait for an answer to one of them."

# 64 KB at 50 kbit/s, which is a poor mobile connection.
BODY_SECONDS = 10
# From the headers to the answer. Shorter than the 29 s after which the HTTP API gives up, and the 30 s after
# which the load balancer forgets a task that stops.
ANSWER_SECONDS = 25
# Deadlines are looked at this often: one timer for all requests, because one for each is 2 us of CPU.
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

# The edge says who it is by this header; edge/template.yaml sends it.
ORIGIN_SECRET_HEADER = b"x-origin-secret"
_DIRECT_ACCESS = "Direct access is not allowed; use the public URL."

# Also within an IPv6 address (::ffff:192.0.2.1), and before a port.
_ipv4 = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}", re.ASCII).search

_log = logging.getLogger("orders")


class Rejected(BaseException):
    """Ends a request that has got its answer here, or needs none because its client went away.

    No `Exception`: FastAPI takes those that come of reading a body for its own.
    """


class RequestBoundary:
    """Bounds what comes in, adds headers, logs the request; what nobody expected becomes a bare 500."""

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
        work = access_log.begin(self._telemetry, scope, headers)
        task = asyncio.current_task(loop)
        exchange = Exchange(self, scope, headers, receive, send, work, task)  # type: ignore[arg-type]
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
            access_log.end(
                self._telemetry,
                work,
                scope,
                exchange.status or 500,
                (exchange.answered_at or time.perf_counter()) - exchange.begun,
                exchange.receive_seconds,
                exchange.served,
            )

    @property
    def in_flight(self) -> int:
        """How many requests are being served."""
        return len(self._exchanges) - self.arriving

    def _admit(
        self, exchange: Exchange, scope: Scope, headers: dict[bytes, bytes], header_bytes: int
    ) -> None:
        """Return if the request may go on. Raises `Rejected`.

        Liveness always passes: the load balancer asks it, knows no secret, and ends a task that says no.
        """
        if "app.refusal" in scope:  # by the server (api.http_protocol), which could not read the request
            exchange.reject(scope["app.refusal"])
        path: str = scope["path"]
        line_bytes = len(scope["method"]) + len(scope.get("raw_path") or path) + len(scope["query_string"])
        line_bytes += _REST_OF_REQUEST_LINE
        if header_bytes + line_bytes > MAX_HEADER_BYTES:
            if line_bytes > MAX_HEADER_BYTES:
                exchange.reject(problem(414, "URI Too Long", "Path and query are too long.", path))
            detail = "The headers are too large."
            exchange.reject(problem(431, "Request Header Fields Too Large", detail, path))
        if path in self._liveness:
            return
        if self.in_flight > MAX_IN_FLIGHT:
            exchange.reject_for_now(503, "Overloaded", _OVERLOADED)
        if self._origin_secrets and not self._has_origin_secret(headers):
            exchange.reject(problem(403, "Forbidden", _DIRECT_ACCESS, path, code="direct-access-forbidden"))
        if self._counting or len(self._exchanges) > MAX_OF_ONE_CALLER:
            self.count(exchange)

    def _has_origin_secret(self, headers: dict[bytes, bytes]) -> bool:
        """Whether the request carries the origin secret, which CloudFront adds."""
        given = headers.get(ORIGIN_SECRET_HEADER, b"")
        return any(compare_digest(given, secret) for secret in self._origin_secrets)

    def count(self, exchange: Exchange) -> None:
        """Count the request for its caller. Raises `Rejected` if that is one too many.

        Nobody is counted before there are more requests at a time than one caller may have.
        """
        if not self._counting:
            self._counting = True
            for each in self._exchanges:
                if each is not exchange:
                    self._enter(each, each.caller(bool(self._origin_secrets)))
        caller = exchange.caller(bool(self._origin_secrets))
        if caller != exchange.counted_for:
            if self._of_callers.get(caller, 0) >= MAX_OF_ONE_CALLER:
                exchange.reject_for_now(429, "Too many requests", _TOO_MANY)
            self._enter(exchange, caller)

    def _enter(self, exchange: Exchange, caller: str) -> None:
        if exchange.counted_for is not None:
            self._leave(exchange)
        self._of_callers[caller] = self._of_callers.get(caller, 0) + 1
        exchange.counted_for = caller

    def _leave(self, exchange: Exchange) -> None:
        caller, exchange.counted_for = exchange.counted_for, None
        assert caller is not None  # noqa: S101  # as whoever calls us has seen
        self._of_callers[caller] -= 1
        if not self._of_callers[caller]:
            del self._of_callers[caller]

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look at the requests now and then, for as long as there are any."""
        self._watching = loop
        loop.call_later(WATCH_SECONDS, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
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
    """One request and its answer, on their way through the boundary."""

    status = 0
    served = True
    subject: str | None = None
    counted_for: str | None = None
    answered_at = 0.0
    receive_seconds: float | None = None
    _late = 0  # the status that says so
    _received = _complete = False
    _arriving_since: float | None = None
    _body: bytearray | None = None
    _rejection: ASGIApp | None = None

    def __init__(
        self,
        boundary: RequestBoundary,
        scope: Scope,
        headers: dict[bytes, bytes],
        receive: Receive,
        send: Send,
        work: telemetry.LogContext,
        task: asyncio.Task[Any],
    ) -> None:
        self.scope = scope
        self.begun = time.perf_counter()
        self._deadline = self.begun + ANSWER_SECONDS
        self._boundary = boundary
        self.headers = headers
        self._receive = receive
        self._send = send
        self._work = work
        self._task = task

    def caller(self, by_edge: bool) -> str:
        """Return who is to be counted: the token's subject, or the address until that is known.

        The address is the one that our load balancer saw, or our edge: each adds one to X-Forwarded-For. What
        stands before is the client's own claim; uvicorn, told to trust its peer, takes the first.
        https://docs.aws.amazon.com/elasticloadbalancing/latest/application/x-forwarded-headers.html
        """
        if self.subject is not None:
            return f"subject {self.subject}"
        hops = self.headers.get(b"x-forwarded-for")
        if hops is None:
            client = self.scope.get("client")
            return _network(client[0]) if client else ""
        addresses = hops.decode("latin-1").split(",")
        return _network(addresses[-2 if by_edge and len(addresses) > 1 else -1].strip())

    def belongs_to(self, subject: str) -> None:
        """Count the request for this caller from now on. Raises `Rejected`."""
        self.subject = subject
        if self.counted_for is not None:
            self._boundary.count(self)

    def end_if_late(self, now: float) -> None:
        """Cancel the request if one of its deadlines has passed."""
        since = self._arriving_since
        if now > self._deadline or (since is not None and now > since + BODY_SECONDS):
            self._late = 503 if since is None else 408
            self._task.cancel()

    def reject(self, answer: ASGIApp | None) -> NoReturn:
        """End the request with this answer; with none if its client went away."""
        self.served = False
        self._rejection = answer
        raise Rejected

    def reject_for_now(self, status: int, title: str, detail: str) -> NoReturn:
        """End the request: there is no place for it."""
        telemetry.add_metric("RejectedRequests")
        self.reject(self._later(status, title, detail))

    def _reject_for_size(self, limit: int) -> NoReturn:
        detail = f"The body is larger than {limit} bytes."
        self.reject(problem(413, "Request Entity Too Large", detail, self.scope["path"]))

    async def fail(self, error: BaseException) -> bool:
        """Answer in place of the application; return whether that is the end of it.

        Why it ended is known here, and the error may say less: Starlette's middleware makes groups of them.
        """
        answer: ASGIApp | None
        if not self.served:
            ends, status, answer = True, CLIENT_CLOSED_REQUEST, self._rejection
        elif self._late:
            self._task.uncancel()
            self.served = self._late != 408
            ends, status, answer = not self.status, CLIENT_CLOSED_REQUEST, self._answer_late()
        elif isinstance(error, asyncio.CancelledError):
            self._work.fields["error"] = "Stopped"
            ends, status, answer = False, 503, self._later(503, "Stopped", _STOPPED)
        else:  # the caller learns nothing of what went wrong
            _log.exception("unhandled error")
            self._work.fields["error"] = type(error).__name__
            detail = "Something went wrong on our side."
            answer = problem(500, "Internal Server Error", detail, self.scope["path"])
            ends, status = not self.status, 500
        if self.status or answer is None:
            if not self._complete:  # only the end of the connection can tell that the rest is missing
                self.status = status
        else:
            await answer(self.scope, self._receive, self.send)
        return ends

    def _answer_late(self) -> Response:
        if self._late == 408:
            return problem(408, "Request Timeout", "The body took too long to arrive.", self.scope["path"])
        self._work.fields["error"] = "TooSlow"
        return self._later(503, "Too slow", _TOO_SLOW)

    def _later(self, status: int, title: str, detail: str) -> Response:
        code = "-".join(title.lower().split())
        answer = problem(status, title, detail, self.scope["path"], code=code)
        answer.headers["retry-after"] = "1"
        return answer

    async def receive(self) -> Message:
        """Return the whole body in one message; after that, what the server says. Raises `Rejected`.

        Meanwhile the request is arriving. Who stops waiting (`Request.is_disconnected`) can ask
        again: what came is kept.
        """
        if self._received:
            return await self._receive()
        boundary = self._boundary
        limit = self.scope.get(_OWN_MAX_BODY_BYTES, MAX_BODY_BYTES)
        length = self.headers.get(b"content-length", b"")
        if len(length) > 4 and _number(length) > limit:  # what is short is measured below
            self._reject_for_size(limit)
        if boundary.arriving >= MAX_ARRIVING:
            self.reject_for_now(503, "Overloaded", _OVERLOADED)
        boundary.arriving += 1
        self._arriving_since = since = time.perf_counter()
        try:
            message = await self._receive()
            if message.get("more_body") or self._body:
                message = await self._rest(message, limit)
        finally:
            boundary.arriving -= 1
            self._arriving_since = None
            waited = time.perf_counter() - since
            self.receive_seconds = (self.receive_seconds or 0.0) + waited
            self.begun += waited
        if message["type"] == "http.disconnect":
            self.reject(None)
        if len(message.get("body", b"")) > limit:
            self._reject_for_size(limit)
        if boundary.in_flight > MAX_IN_FLIGHT:
            self.reject_for_now(503, "Overloaded", _OVERLOADED)
        self._received = True
        return message

    async def _rest(self, message: Message, limit: int) -> Message:
        """Return one message with all that has come and is to come, or with just too much."""
        if self._body is None:
            self._body = bytearray()
        while True:
            self._body += message.get("body", b"")
            if not message.get("more_body") or len(self._body) > limit:
                return {**message, "body": bytes(self._body), "more_body": False}
            message = await self._receive()

    async def send(self, message: Message) -> None:
        """Add the headers that every answer has."""
        if message["type"] == "http.response.start":
            self.answered_at = time.perf_counter()  # what the client takes to read is not our latency
            self.status = message["status"]
            answered = list(message["headers"])
            present = {name for name, _ in answered}
            answered += [header for header in _SECURITY_HEADERS if header[0] not in present]
            answered += access_log.ids(self._work)
            if (
                self.scope["app"].state.draining  # a client that keeps its connection would meet its end
                or self.status == 408
                # It sends the body now, or another request, and nobody can tell which.
                # https://www.rfc-editor.org/rfc/rfc9110.html#section-10.1.1
                or (b"expect" in self.headers and not self._received)
            ):
                answered.append((b"connection", b"close"))
            message["headers"] = answered
            await self._send(message)
        else:
            await self._send(message)
            self._complete = not message.get("more_body")


def _number(length: bytes) -> int:
    """Return the length that a client announces, or 0 if it is none."""
    try:
        return int(length)
    except ValueError:
        return 0


def _network(address: str) -> str:
    """Return the IPv4 address, or the /64 of an IPv6 one: whoever has one of these has them all. No port."""
    if found := _ipv4(address):
        return found[0]
    try:
        return inet_pton(AF_INET6, address.partition("]")[0].lstrip("["))[:8].hex()
    except (OSError, ValueError):
        return address


def _read_headers(scope: Scope) -> tuple[dict[bytes, bytes], int]:
    """Return the headers, as they then stand in the scope too, and how many bytes were sent for them.

    A header that was sent several times becomes one list, as the HTTP API makes it before Lambda sees it.
    White space around a value is no part of it, and some servers leave it there.
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
