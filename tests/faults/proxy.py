"""A proxy in front of the local AWS emulator that breaks calls as a network and an overloaded service do."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

_THROTTLED = {
    "dynamodb": b'{"__type":"com.amazonaws.dynamodb.v20120810#ThrottlingException","message":""}',
    "events": b'{"__type":"ThrottlingException","message":"Rate exceeded"}',
    "s3": b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>",
}
_BROKEN = {
    "dynamodb": b'{"__type":"com.amazonaws.dynamodb.v20120810#InternalServerError","message":""}',
    "events": b'{"__type":"InternalException","message":""}',
    "s3": b"<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>",
}
SERVICES = tuple(_THROTTLED)
FAULTS = ("throttle", "error", "reset", "lost answer", "slow", "half an answer")


@dataclass
class Call:
    """One HTTP request, as bytes, the service it is for, and where its caller would be heard leaving."""

    raw: bytes
    service: str
    reader: asyncio.StreamReader


class Gate:
    """Where a call waits while something is done to its caller."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()


class FaultProxy:
    """Passes calls on, and breaks the share `rate` of them; a service in `down` gets no answer at all.

    Faults are dealt like cards: none comes again before each has come. `calls` counts what came, by
    service, `under_way` what has no answer yet; `happened` what was done to it, by service and fault.
    """

    def __init__(self, seed: int) -> None:
        self.upstream: tuple[str, int] = ("127.0.0.1", 0)
        self.rate = 0.0
        self.down: set[str] = set()
        self.calls: Counter[str] = Counter()
        self.under_way: Counter[str] = Counter()
        self.happened: Counter[str] = Counter()
        self._random = random.Random(seed)  # noqa: S311
        self._dealt: dict[str, list[str]] = defaultdict(list)
        self._gates: dict[tuple[str, str], Gate] = {}
        # The loop itself holds no task, and nothing else does once its client has hung up.
        self._serving: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self.port = 0

    @contextlib.contextmanager
    def running(self) -> Iterator[str]:
        """Serve in a thread; yields the proxy's URL."""
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]
        thread = threading.Thread(target=self._loop.run_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{self.port}"
        finally:
            asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join()
            self._loop.close()

    @contextlib.contextmanager
    def holding(self, service: str, moment: str) -> Iterator[None]:
        """Hold the service's next call "before" it gets there or "after", before its answer; it gets none."""
        gate = self._gates[service, moment] = Gate()
        assert gate.reached.wait(60), f"no call to {service} came"
        try:
            yield
        finally:
            gate.opened.set()

    async def _held(self, call: Call, moment: str) -> bool:
        if call.reader.at_eof():  # its caller is gone already
            return False
        gate = self._gates.pop((call.service, moment), None)
        if gate is None:
            return False
        gate.reached.set()
        await asyncio.to_thread(gate.opened.wait)
        return True

    async def _stop(self) -> None:
        assert self._server is not None
        self._server.close()
        while True:
            await asyncio.sleep(0.05)  # what was accepted becomes a task, and what was closed ends
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            if not tasks:
                return
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self._exchange(reader, writer):
                pass
        writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Handle one request; return whether the connection goes on."""
        call = Call(*await _read_request(reader), reader)
        self.calls[call.service] += 1
        self.under_way[call.service] += 1
        try:
            return await self._pass_on(call, writer)
        finally:
            self.under_way[call.service] -= 1

    async def _pass_on(self, call: Call, writer: asyncio.StreamWriter) -> bool:
        if await self._held(call, "before"):
            _reset(writer)
            return False
        fault = self._fault(call.service)
        if fault:
            self.happened[f"{call.service}: {fault}"] += 1
        if fault in ("reset", "down"):
            _reset(writer)
            return False
        if fault in ("throttle", "error"):
            status = b"400 Bad Request" if fault == "throttle" and call.service != "s3" else b"503 Slow Down"
            body = _THROTTLED[call.service]
            if fault == "error":
                status, body = b"500 Internal Server Error", _BROKEN[call.service]
            head = b"HTTP/1.1 " + status + b"\r\nContent-Length: " + str(len(body)).encode() + b"\r\n\r\n"
            writer.write(head + body)
            await writer.drain()
            return True
        if fault == "slow":
            await asyncio.sleep(self._random.uniform(0.2, 3))
        answer = await self._forward(call.raw)
        if await self._held(call, "after") or fault == "lost answer":
            _reset(writer)
            return False
        if fault == "half an answer":
            writer.write(answer[: len(answer) // 2])
            await writer.drain()
            return False
        writer.write(answer)
        await writer.drain()
        return True

    def _fault(self, service: str) -> str | None:
        if service in self.down:
            return "down"
        if service == "other" or self._random.random() >= self.rate:
            return None
        deck = self._dealt[service] = self._dealt[service] or self._random.sample(FAULTS, len(FAULTS))
        return deck.pop()

    async def _forward(self, raw: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(*self.upstream)
        try:
            writer.write(raw)
            await writer.drain()
            head = await reader.readuntil(b"\r\n\r\n")
            if b"transfer-encoding: chunked" in head.lower():
                body = b""
                while not body.endswith(b"0\r\n\r\n"):
                    body += await reader.read(65536)
                return head + body
            if head.split(b" ", 2)[1] in (b"204", b"304") or raw.startswith(b"HEAD "):
                return head
            return head + await reader.readexactly(_length(head))
        finally:
            writer.close()


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


async def _read_request(reader: asyncio.StreamReader) -> tuple[bytes, str]:
    head = await reader.readuntil(b"\r\n\r\n")
    lowered = head.lower()
    body = b""
    if b"expect: 100-continue" in lowered:
        head = b"\r\n".join(line for line in head.split(b"\r\n") if not line.lower().startswith(b"expect:"))
    if b"transfer-encoding: chunked" in lowered:
        while not body.endswith(b"0\r\n\r\n"):
            body += await reader.read(65536)
    else:
        body = await reader.readexactly(_length(head))
    if b"x-amz-target: dynamodb" in lowered:
        service = "dynamodb"
    elif b"x-amz-target: awsevents" in lowered:
        service = "events"
    elif lowered.startswith(b"put /") and b"/receipts/" in lowered.split(b"\r\n", 1)[0]:
        service = "s3"
    else:
        service = "other"
    return head + body, service


def _reset(writer: asyncio.StreamWriter) -> None:
    """End the connection with RST, as a crashed peer does."""
    raw: socket.socket | None = writer.get_extra_info("socket")
    if raw is not None:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
