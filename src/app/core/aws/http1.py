"""A small pool of HTTP/1.1 connections to one host, for request and response of a known, bounded size."""

from __future__ import annotations

import asyncio
import os
import select
import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import cast
from urllib.parse import SplitResult, urlsplit
from zlib import crc32

import httptools
import msgspec

from app.core.errors import Overloaded

CONNECT_SECONDS = 1.0  # for a free place, then for a connection: either takes milliseconds in a region
MAX_IDLE_SECONDS = 50.0  # below the 60 s after which load balancers drop silent connections
# More than the requests that may wait for one service (core.aws.client.PLACES), so that a request that
# makes one call at a time never waits for a connection. A list takes one for each shard, and lists may wait
# for each other. With some 0.1 MB each for TLS: 25 MB at worst.
MAX_CONNECTIONS = 256
# All that a response takes on the wire: with chunk extensions and trailers, which are read and ignored.
MAX_ANSWER_BYTES = 8_000_000  # DynamoDB's largest page is 1 MB, some 2 MB once escaped
MAX_HEAD_BYTES = 16_384  # DynamoDB sends some 300


class Response(msgspec.Struct, frozen=True, gc=False):
    """A complete response: its length (or chunks) and its checksum, when it has one, were right."""

    status: int
    body: bytes


class Connection(asyncio.Protocol):
    """One connection: one request at a time. Every way to fail ends it, with an `OSError`.

    So does whatever might belong to another request: a second response, an interim one (1xx; we ask for
    none), anything after a response's end. Of two responses it is not known which is ours.
    """

    def __init__(self) -> None:
        self.reusable = True
        self._transport: asyncio.Transport
        self._poll = select.poll()
        self._parser = httptools.HttpResponseParser(self)
        self._waiting: asyncio.Future[Response] | None = None  # for a response that is not complete
        self._idle_since = 0.0
        self._chunks: list[bytes] = []
        self._received_bytes = 0
        self._checksum: int | None = None
        self._violation: ConnectionError | None = None  # about the response that was complete already

    async def exchange(self, request: bytes, deadline: float) -> Response:
        """Send `request`; return its response. Raises `OSError`, of which `TimeoutError` is one."""
        if self._transport.is_closing():
            raise ConnectionResetError("closed before use")
        loop = asyncio.get_running_loop()
        self._received_bytes = 0
        waiting: asyncio.Future[Response] = loop.create_future()
        self._waiting = waiting
        timer = loop.call_at(deadline, self._time_out)  # cheaper than `asyncio.timeout_at`
        try:
            self._transport.write(request)
            response = await waiting
            if self._violation:
                raise self._violation
            return response
        except BaseException:  # a cancelled caller too: the response that is still to come is for no other
            self.close()
            raise
        finally:
            timer.cancel()
            self._waiting = None
            self._idle_since = time.monotonic()

    @property
    def is_usable(self) -> bool:
        """Whether an idle connection is still good.

        A frozen Lambda environment learns of the server's FIN only when its loop runs again, so this
        asks the socket: anything to read on an idle connection is its end, or a response to no request.
        """
        return (
            self.reusable
            and not self._transport.is_closing()
            and time.monotonic() - self._idle_since < MAX_IDLE_SECONDS
            and not self._poll.poll(0)
        )

    def close(self) -> None:
        """Drop the connection at once."""
        self.reusable = False
        self._transport.abort()

    def _time_out(self) -> None:
        self._fail(TimeoutError("no response in time"))

    def _fail(self, reason: Exception) -> None:
        self.close()
        waiting, self._waiting = self._waiting, None
        if waiting and not waiting.done():
            waiting.set_exception(reason)

    def _reject(self, reason: ConnectionError) -> None:
        """Fail, even if the response was complete: its caller has not seen it yet."""
        self._violation = reason
        self._fail(reason)

    # asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one, but not by inheritance
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        if self._waiting is None:
            self._reject(ConnectionError("more than one response"))
            return
        self._received_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._reject(ConnectionError(f"not HTTP: {error}"))
        if (
            self._received_bytes > MAX_HEAD_BYTES
            and self._waiting
            and (self._received_bytes > MAX_ANSWER_BYTES or not self._chunks)
        ):
            self._fail(ConnectionError("the response is too large"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(
            exc if isinstance(exc, OSError) else ConnectionResetError("closed before the response's end")
        )

    # httptools calls these

    def on_message_begin(self) -> None:
        if self._waiting is None:
            self._reject(ConnectionError("more than one response"))
        self._checksum = None

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(name) == 11 and name.lower() == b"x-amz-crc32":
            is_one_number = self._checksum is None and value.isdigit() and len(value) <= 10
            self._checksum = int(value) if is_one_number else -1  # no body has this one

    def on_body(self, chunk: bytes) -> None:
        self._chunks.append(chunk)

    def on_message_complete(self) -> None:
        waiting = self._waiting
        if waiting is None:
            return
        body = b"".join(self._chunks)
        self._chunks.clear()
        status = self._parser.get_status_code()
        if self._received_bytes > MAX_ANSWER_BYTES:
            self._fail(ConnectionError("the response is too large"))
        elif status < 200:
            self._fail(ConnectionError(f"an interim response, {status}"))
        elif self._checksum is not None and crc32(body) != self._checksum:
            self._fail(ConnectionError("the response's checksum is wrong"))
        else:
            self.reusable = self._parser.should_keep_alive()
            self._waiting = None
            if not waiting.done():  # its caller may just have left
                waiting.set_result(Response(status, body))


class Pool:
    """Connections to the host of `url`. Lives on one event loop; on another it starts anew."""

    def __init__(
        self,
        url: SplitResult,
        environ: Mapping[str, str] = os.environ,
        connect_seconds: float | None = None,
    ) -> None:
        self._url = url
        self._environ = environ
        self._connect_seconds = connect_seconds
        self._tls: ssl.SSLContext | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._idle: list[Connection] = []
        self._slots = asyncio.Semaphore(MAX_CONNECTIONS)

    async def exchange(self, request: bytes, deadline: float) -> Response:
        """Send `request` on an idle or new connection; be done by `deadline`, in the loop's time.

        Raises `OSError`: it may or may not have arrived. `Overloaded`: none got free, it was not sent.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._idle, self._slots = loop, [], asyncio.Semaphore(MAX_CONNECTIONS)
        if self._slots.locked():
            try:
                async with asyncio.timeout_at(min(deadline, loop.time() + CONNECT_SECONDS)):
                    await self._slots.acquire()
            except TimeoutError:
                raise Overloaded from None
        else:
            await self._slots.acquire()
        try:
            connection = await self._connection(loop, deadline)
            response = await connection.exchange(request, deadline)
            if connection.reusable:
                self._idle.append(connection)
            else:
                connection.close()
            return response
        finally:
            self._slots.release()

    def close(self) -> None:
        """Drop the idle connections."""
        while self._idle:
            self._idle.pop().close()

    async def _connection(self, loop: asyncio.AbstractEventLoop, deadline: float) -> Connection:
        while self._idle:  # the last used first: the others may age out
            connection = self._idle.pop()
            if connection.is_usable:
                return connection
            connection.close()
        secure = self._url.scheme == "https"
        if secure and self._tls is None:
            self._tls = tls_context(self._environ)
        port = self._url.port or (443 if secure else 80)
        async with asyncio.timeout_at(
            min(deadline, loop.time() + (self._connect_seconds or CONNECT_SECONDS))
        ):
            _, connection = await loop.create_connection(
                Connection, self._url.hostname or "", port, ssl=self._tls
            )
        return connection


async def get(url: str, headers: str, seconds: float, environ: Mapping[str, str] = os.environ) -> Response:
    """Get `url` over a connection of its own, in `seconds` at most. Follows no redirect. Raises `OSError`.

    `headers` are lines that end with a line break.
    """
    parts = urlsplit(url)
    target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
    request = f"GET {target} HTTP/1.1\r\nhost: {parts.netloc}\r\n{headers}connection: close\r\n\r\n"
    pool = Pool(parts, environ, seconds)
    response = await pool.exchange(request.encode("ascii"), asyncio.get_running_loop().time() + seconds)
    pool.close()
    return response


def tls_context(environ: Mapping[str, str] = os.environ) -> ssl.SSLContext:
    """Return a context that verifies certificate and host name.

    Where the system keeps one file per authority (Debian, so the image), only the one that is needed
    is read, at the handshake: reading them all is 10 to 25 ms of CPU in every cold start.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # The first two are botocore's, the last is OpenSSL's.
    names = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
    bundle = next((environ[name] for name in names if environ.get(name)), None)
    directory = ssl.get_default_verify_paths().capath
    if bundle:
        context.load_verify_locations(bundle)
    elif directory and any(Path(directory).glob("*.0")):
        context.load_verify_locations(capath=directory)
    else:
        context.load_default_certs()
    return context
