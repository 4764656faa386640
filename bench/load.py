"""Load over plain connections: as fast as answers come, or at a fixed rate. Never waits without bound."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

import httptools

from bench.child import OPERATIONS


def request_bytes(operation: str, host: str) -> bytes:
    """Return one request as it goes over the wire."""
    method, path, query, body = OPERATIONS[operation]
    target = f"{path}?{query}" if query else path
    lines = [f"{method} {target} HTTP/1.1", f"host: {host}", "accept: */*", "user-agent: bench"]
    if body:
        lines += ["content-type: application/json", f"content-length: {len(body)}"]
    return "\r\n".join([*lines, "", body or ""]).encode()


class Connection(asyncio.Protocol):
    """One connection with one request on its way at most."""

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.waiting: asyncio.Future[int] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.waiting and not self.waiting.done():
            self.waiting.set_exception(ConnectionResetError())

    def on_message_complete(self) -> None:
        if self.waiting and not self.waiting.done():
            self.waiting.set_result(self.parser.get_status_code())

    async def send(self, request: bytes) -> int:
        self.waiting = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self.waiting


async def connect(url: str, count: int) -> list[Connection]:
    """Open `count` connections."""
    loop, parts = asyncio.get_running_loop(), urlsplit(url)
    return [(await loop.create_connection(Connection, parts.hostname, parts.port))[1] for _ in range(count)]


async def closed_loop(url: str, operation: str, connections: int, seconds: float) -> int:
    """Keep every connection busy for a while; return how many requests were answered well."""
    wires = await connect(url, connections)
    request = request_bytes(operation, urlsplit(url).netloc)
    end = time.monotonic() + seconds
    done = 0

    async def drive(wire: Connection) -> None:
        nonlocal done
        while time.monotonic() < end:
            assert await wire.send(request) in (200, 201)
            done += 1

    async with asyncio.timeout(seconds + 20):
        await asyncio.gather(*(drive(wire) for wire in wires))
    for wire in wires:
        wire.transport.close()
    return done


@dataclass
class Outcome:
    """What a fixed rate did. Latencies count from when a request was due, so a queue shows."""

    offered: int = 0
    failed: int = 0
    late: int = 0
    latencies_ms: list[float] = field(default_factory=list)

    def percentile(self, share: float) -> float:
        """Return the latency that `share` of the offered requests stayed below; infinite if they failed."""
        ordered = sorted(self.latencies_ms) + [float("inf")] * (self.offered - len(self.latencies_ms))
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def fixed_rate(  # noqa: C901 - one closure
    url: str,
    operation: str,
    rate: float,
    seconds: float,
    late_ms: float = float("inf"),
    connections: int = 64,
) -> Outcome:
    """Offer `rate` requests a second whatever the answers do; wait 2 s at most for the last.

    Ends early once p99 cannot stay below `late_ms` any more: a heap of unanswered requests would tell no more.
    """
    idle = deque(await connect(url, connections))
    wires = list(idle)
    due: deque[float] = deque()
    request = request_bytes(operation, urlsplit(url).netloc)
    outcome = Outcome()
    running: set[asyncio.Task[None]] = set()

    async def serve(wire: Connection) -> None:
        while due:
            since = due.popleft()
            try:
                good = await wire.send(request) in (200, 201)
            except ConnectionError:
                outcome.failed += 1
                return
            if good:
                outcome.latencies_ms.append((time.monotonic() - since) * 1e3)
                outcome.late += outcome.latencies_ms[-1] >= late_ms
            else:
                outcome.failed += 1
        idle.append(wire)

    began = time.monotonic()
    for number in range(total := int(rate * seconds)):
        if outcome.late + outcome.failed > total / 100:
            due.clear()
            break
        at = began + number / rate
        if (wait := at - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        outcome.offered += 1
        due.append(at)
        if idle:
            task = asyncio.create_task(serve(idle.pop()))
            running.add(task)
            task.add_done_callback(running.discard)
    if running:
        await asyncio.wait(running, timeout=2)
    for task in running:
        task.cancel()
    for wire in wires:
        wire.transport.abort()
    return outcome
