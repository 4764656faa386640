"""HTTP/1.1 connections: uvicorn's httptools protocol with limits, and without ambiguous requests.

`docs/decisions/0018-http-protocol.md` says what it adds to uvicorn's, and why.
A request that it rejects goes through the application: `middleware` logs it and sends the response.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import re
import urllib.parse
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import httptools
from starlette.exceptions import HTTPException
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.core.http.middleware import MAX_HEADER_BYTES
from app.core.http.responses import UNEXPECTED_ERROR, problem

if TYPE_CHECKING:
    from uvicorn._types import ASGIReceiveEvent, HTTPScope

# From the first byte of a request to the end of its headers. A load balancer sends them at once.
HEAD_SECONDS = 10
# With more requests whose headers are incomplete, the oldest is rejected. Each holds up to 400 KB.
MAX_PARTIAL_HEADS = 100
# A rejected request keeps this many headers until its client is gone: the log entry needs the trace's.
_KEPT_HEADERS = 50
# The connection is closed if the client reads nothing of its response for so long.
WRITE_SECONDS = 30
# After an early response, the rest of the request is read and discarded, up to these bounds: closing at once
# would reset the connection, and the client could lose the response (RFC 9112, 9.6).
DISCARD_SECONDS = 5
MAX_DISCARDED_BYTES = 1 << 20
# Pipelined requests that wait. The connection closes after the last of them; the client sends any further
# ones again (RFC 9112, 9.3.2).
MAX_PIPELINED = 16

_IDLE, _HEAD, _BODY, _UPGRADE = range(4)
_ASGI = {"version": "3.0", "spec_version": "2.3"}
_DROPPED: Any = deque(maxlen=0)
_NOT_HTTP = "The request is not valid HTTP."
_TOO_SLOW = "The headers took too long to arrive."

# A name or an address, and a port (RFC 9110, 7.2). No comma: that would be two of them, joined.
_is_authority = re.compile(
    rb"(?:[\w.~!$&'()*+;=-]|%[0-9A-Fa-f]{2})+(?::\d{0,5})?|\[[0-9A-Fa-f:.]+\](?::\d{0,5})?", re.ASCII
).fullmatch
_absolute_form = re.compile(rb"(?i:https?)://([^/?#]*)(.*)", re.DOTALL).fullmatch

_log = logging.getLogger(__name__)


@functools.lru_cache(256)
def _is_host(value: bytes) -> bool:
    return _is_authority(value.strip()) is not None


class _Cycle(RequestResponseCycle):
    """One request and its response."""

    fault: tuple[int, str] | None = None

    async def receive(self) -> ASGIReceiveEvent:
        """Return what has arrived of the body. Raises `HTTPException` when the body is invalid.

        A copy of uvicorn's that also raises `fault`: to call uvicorn's would cost one more coroutine a body.
        """
        if self.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.waiting_for_100_continue = False
        if not self.disconnected and not self.response_complete:
            self.flow.resume_reading()
            await self.message_event.wait()
            self.message_event.clear()
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        if self.fault:
            raise HTTPException(*self.fault)
        body, self.body = bytes(self.body), bytearray()
        return {"type": "http.request", "body": body, "more_body": self.more_body}


class HttpProtocol(HttpToolsProtocol):
    """One connection. It is the transport of its cycles, so that it decides how the connection closes."""

    write: Callable[[bytes], None]
    is_closing: Callable[[], bool]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=False)
        self._phase = _IDLE
        self._ended = False  # bytes that arrive now are discarded
        self._moved = False  # while parsing: the bytes completed headers, a body part or a request
        self._unmoved_bytes = 0  # parsed since `_moved` was set
        self._discarded_bytes = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._write_deadline: asyncio.TimerHandle | None = None
        self._partial_heads: dict[HttpProtocol, None] = vars(self.server_state).setdefault(
            "partial_heads", {}
        )

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn
        """Begin a connection; it is idle until the first byte arrives."""
        super().connection_made(transport)
        self.write, self.is_closing = transport.write, transport.is_closing
        self._idle_since = self.loop.time()
        self._set_keepalive(self.timeout_keep_alive)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel its timers."""
        self._unset_deadline()
        if self._write_deadline:
            self._write_deadline.cancel()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Give the client `WRITE_SECONDS` to read the response."""
        super().pause_writing()
        self._write_deadline = self.loop.call_later(WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Continue writing."""
        if self._write_deadline:
            self._write_deadline.cancel()
        super().resume_writing()

    def _set_keepalive(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that was idle too long; one timer serves all of its requests."""
        busy = self._phase != _IDLE or (self.cycle is not None and not self.cycle.response_complete)
        idle_seconds = 0 if busy else self.loop.time() - self._idle_since
        if idle_seconds < self.timeout_keep_alive:
            self._set_keepalive(self.timeout_keep_alive - idle_seconds)
        else:
            self.close()

    def shutdown(self) -> None:
        """Close the connection once the requests that have arrived have their response."""
        if self._phase == _HEAD and not self._ended:
            self._reject(503, "The server is stopping. Retry later.")
        else:
            super().shutdown()

    def close(self) -> None:
        """Close once the response is written and the request is read; drop requests that wait."""
        self.pipeline.clear()
        if self._ended or self._phase != _IDLE:
            self._ended = True
            if self.transport.is_closing():
                return
            with contextlib.suppress(OSError):  # the client may be gone before asyncio knows it
                self.transport.write_eof()
            self.flow.resume_reading()
            self._set_deadline(DISCARD_SECONDS, self.transport.abort)
        else:
            self.transport.close()
            if self.transport.get_write_buffer_size():
                self._set_deadline(WRITE_SECONDS, self.transport.abort)

    def _set_deadline(self, seconds: float, then: Callable[..., object], *args: object) -> None:
        self._unset_deadline()
        self._deadline = self.loop.call_later(seconds, then, *args)

    def _unset_deadline(self) -> None:
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None
            self._partial_heads.pop(self, None)

    # Incoming bytes

    def data_received(self, data: bytes) -> None:
        """Parse the bytes, or discard them after the last request."""
        if self._ended:
            self._discard(len(data))
        elif self._unmoved_bytes + len(data) <= MAX_HEADER_BYTES:
            self._parse(data)
        else:  # in parts: no more than the limit is parsed before it is rejected
            rest = memoryview(data)
            while rest and not self._ended:
                room = MAX_HEADER_BYTES - self._unmoved_bytes
                self._parse(rest[:room])
                rest = rest[room:]

    def _parse(self, data: bytes | memoryview) -> None:
        self._moved = False
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as pause:
            self._ignore_upgrade(data[pause.args[0] :])
            return
        except httptools.HttpParserCallbackError:
            _log.exception("unhandled error")
            self._fail(500, UNEXPECTED_ERROR)
        except httptools.HttpParserError:
            self._fail(400, _NOT_HTTP)
        if self._ended:
            return
        if self._moved:
            self._unmoved_bytes = 0
            if self._phase == _HEAD:
                self._await_head()
        else:
            self._unmoved_bytes += len(data)
            if self._unmoved_bytes >= MAX_HEADER_BYTES:
                if self._phase == _HEAD and not self.headers and len(self.url) > MAX_HEADER_BYTES - 16:
                    self._fail(414, "The request target is too long.")
                else:
                    self._fail(431, "The headers are too large.")
            elif self._phase == _HEAD:  # empty lines begin no request (RFC 9112, 2.2)
                self._await_head()

    def _await_head(self) -> None:
        if self._deadline is None:
            self._set_deadline(HEAD_SECONDS, self._reject, 408, _TOO_SLOW)
            self._partial_heads[self] = None
            if len(self._partial_heads) > MAX_PARTIAL_HEADS:
                next(iter(self._partial_heads))._reject(408, _TOO_SLOW)

    def _discard(self, count: int) -> None:
        self._discarded_bytes += count
        if self._discarded_bytes > MAX_DISCARDED_BYTES:
            self.transport.abort()

    def _ignore_upgrade(self, rest: bytes | memoryview) -> None:
        """Parse the request again without its `Upgrade` header (RFC 9110, 7.8).

        The parser stops at such a request and does not parse its body.
        https://github.com/MagicStack/httptools/issues/124
        """
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._phase = _HEAD
            self._reject(400, "CONNECT is not supported.")
            return
        version = self.parser.get_http_version().encode()
        head = [method, b" ", self.url, b" HTTP/", version, b"\r\n"]
        for name, value in self.headers:
            if name != b"upgrade":  # without it, `Connection: upgrade` asks for nothing
                head += [name, b": ", value, b"\r\n"]
        self.parser = httptools.HttpRequestParser(self)
        self._phase = _IDLE
        self._parse(b"".join([*head, b"\r\n"]))
        if rest and not self._ended:
            self._parse(rest)

    # Callbacks of the parser

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._phase = _HEAD
        self.url = b""
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header."""
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Serve the request, or reject it."""
        if self._ended:
            return
        if self.parser.should_upgrade():
            self._phase = _UPGRADE
            return
        self._moved = True
        if self._deadline:
            self._unset_deadline()
        url = self.url if self.url[:1] == b"/" else self._origin_form()
        fields = dict(self.headers)
        version = self.parser.get_http_version()
        if fault := self._fault(version, url, fields):
            self._reject(400, fault)
            return
        raw_path, _, query = url.partition(b"?")
        path = raw_path.decode("ascii")
        scope = self._scope(urllib.parse.unquote(path) if "%" in path else path, raw_path, query)
        scope["http_version"] = version
        keep_alive = version == "1.1" and self.parser.should_keep_alive()
        expects = b"expect" in fields and fields[b"expect"].lower() == b"100-continue" and version == "1.1"
        self._phase = _BODY
        self.headers = _DROPPED  # trailers are no headers (RFC 9110, 6.5.1)
        # A client that gets a response instead of 100 Continue may or may not send the body.
        self._begin(scope, keep_alive and not expects, expects)

    def _scope(self, path: str = "", raw_path: bytes = b"", query: bytes = b"") -> dict[str, Any]:
        return {
            "type": "http",
            "asgi": _ASGI,
            "http_version": "1.1",
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "root_path": "",
            "state": self.app_state.copy(),
            "headers": self.headers,
            "method": self.parser.get_method().decode("ascii"),
            "path": path,
            "raw_path": raw_path,
            "query_string": query,
        }

    def _origin_form(self) -> bytes:
        """Return the target as a path, and take its authority for the host (RFC 9112, 3.2.2)."""
        found = _absolute_form(self.url)
        if not found:
            return b""
        authority, path = found.groups()
        self.headers[:] = [field for field in self.headers if field[0] != b"host"] + [(b"host", authority)]
        return path if path[:1] == b"/" else b"/" + path

    def _fault(self, version: str, url: bytes, fields: dict[bytes, bytes]) -> str:
        """Return the fault of a request that the parser accepts; empty if it has none."""
        names = [name for name, _ in self.headers] if len(fields) < len(self.headers) else []
        host = fields.get(b"host")
        if version != "1.1" and (version != "1.0" or b"transfer-encoding" in fields):
            return _NOT_HTTP  # no other version; no chunks in HTTP/1.0 (RFC 9112, 6.1)
        if not url or b"#" in url:
            return "The request target is not a path."
        if host is None and version == "1.1":
            return "The request has no Host header."
        if names.count(b"host") > 1 or (host is not None and not _is_host(host)):
            return "The Host header is invalid."  # RFC 9112, 3.2
        encoding = fields.get(b"transfer-encoding")
        if encoding is not None and (
            encoding.strip().lower() != b"chunked" or names.count(b"transfer-encoding") > 1
        ):
            return "The transfer coding is not supported."  # RFC 9112, 6.1
        return ""

    def _begin(self, scope: dict[str, Any], keep_alive: bool, expects: bool = False) -> None:
        """Run the application, after the requests before this one."""
        before = self.cycle
        if len(self.pipeline) >= MAX_PIPELINED:
            before.keep_alive = False
            self._ended = True
            return
        self.cycle = cycle = _Cycle(
            scope=cast("HTTPScope", scope),
            transport=cast(asyncio.Transport, self),
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=expects,
            keep_alive=keep_alive,
            on_response=self.on_response_complete,
        )
        if before is None or before.response_complete:
            self._start_asgi_task(cycle, self.app)
            return
        self.flow.pause_reading()
        self.pipeline.appendleft((cycle, self.app))

    def on_body(self, body: bytes) -> None:
        """Add a part to the body."""
        self._moved = True
        if self._ended or self.cycle.response_complete:
            self._discard(len(body))
            return
        self.cycle.body += body
        if len(self.cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        self.cycle.message_event.set()

    def on_message_complete(self) -> None:
        """End the request."""
        if self._phase == _UPGRADE or self._ended:
            return
        self._phase = _IDLE
        self._moved = True
        self._discarded_bytes = 0
        if self.cycle.response_complete:  # the response was early; the connection is idle now
            self._unset_deadline()
            self._idle_since = self.loop.time()
        else:
            self.cycle.more_body = False
            self.cycle.message_event.set()

    def on_response_complete(self) -> None:
        """Start the next request, or wait for one."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.pipeline:
            self.flow.resume_reading()
            self._start_asgi_task(*self.pipeline.pop())
        elif not self._ended:
            self.flow.resume_reading()
            self._idle_since = self.loop.time()
            if self._phase == _BODY:
                self._set_deadline(DISCARD_SECONDS, self.close)

    # Rejections

    def _fail(self, status: int, detail: str) -> None:
        """Reject a request whose headers or body cannot be parsed further."""
        if self._ended:
            return
        if self._phase == _HEAD or self.cycle is None:
            self._reject(status, detail)
            return
        # In a body, or after a request that closes the connection: that request is the last.
        self._ended = True
        cycle = cast(_Cycle, self.cycle)
        cycle.keep_alive = False
        if cycle.response_complete:
            self.close()
        elif self._phase == _BODY:
            cycle.fault = status, detail
            cycle.message_event.set()

    def _reject(self, status: int, detail: str) -> None:
        """Reject the request whose headers, or a part of them, have arrived; read nothing more."""
        if self._ended:
            return
        if self._phase == _IDLE:
            self.on_message_begin()
        self._ended = True
        self._unset_deadline()
        self.headers = self.headers[:_KEPT_HEADERS]
        scope = self._scope()
        self.headers = _DROPPED
        if not self.url:
            scope["method"] = "-"  # the parser has none
        rejection = problem(status, detail, scope["path"])
        if status == 503:
            rejection.headers["retry-after"] = "1"
        scope["app.rejection"] = rejection
        self._begin(scope, keep_alive=False)
