"""Callers of an API: keep-alive connections, a bound on all requests, and what each part of the run asks for."""

from __future__ import annotations

import asyncio
import functools
import json
import math
import random
import ssl
import time
import uuid
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httptools
from scripts.cli import CliError

from bench.aws.target import EntryPoint
from bench.load import Connection

_REQUEST_SECONDS = 35.0  # longer than the API's own limit
_CONNECTIONS = 4
_LATE_MS = 100.0  # a step is borne while its p99 is no later than this above an idle task's p50
_BUSY_CLIENT = 0.8  # of one processor: from here on the client is what is measured
_POLL_SECONDS = 0.1
WARM_UP = 8  # requests to each endpoint before those that count
STEPS = (1, 2, 4, 8, 16, 32, 64, 128)

# As docs/openapi.json has them (a test compares): the path, and the answer that is right. Not those of products,
# which are those of orders with other fields.
ENDPOINTS: dict[str, int] = {
    "POST /orders": 201,
    "GET /orders/{order_id}": 200,
    "GET /orders": 200,
    "PUT /orders/{order_id}/status": 200,
    "POST /orders/{order_id}/attachments": 200,
    "GET /orders/{order_id}/attachments": 200,
    "GET /orders/{order_id}/receipt": 303,
    "GET /": 200,
    "GET /health": 200,
    "GET /health/ready": 200,
}
_BODIES: dict[str, dict[str, Any]] = {
    "POST /orders": {"customer": "", "product": "bench-aws", "quantity": 1},
    "PUT /orders/{order_id}/status": {"status": "cancelled"},
    "POST /orders/{order_id}/attachments": {
        "name": "bench.pdf",
        "content_type": "application/pdf",
        "size_bytes": 1000,
    },
}
# The traffic of the cost model: one order placed for each that changes, and a list for each of both.
_MIX = ("POST /orders", "PUT /orders/{order_id}/status", "GET /orders", *["GET /orders/{order_id}"] * 7)


@functools.cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


class Spent(Exception):
    """As many requests were sent as had been announced."""


class Answer(NamedTuple):
    """What came back, and after how long."""

    status: int
    body: bytes
    milliseconds: float


class Budget:
    """The announced number of requests; none is sent beyond it."""

    def __init__(self, requests: int) -> None:
        self.left, self.sent, self.received_bytes = requests, 0, 0

    def take(self) -> None:
        """Count one request. Raises `Spent`."""
        if self.left <= 0:
            raise Spent
        self.left -= 1
        self.sent += 1


class _Wire(Connection):
    """A connection that keeps the body of the answer, and knows when it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.body = bytearray()
        self.received = 0
        self.open = True

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        super().data_received(data)

    def on_message_begin(self) -> None:
        self.body.clear()

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.open = self.parser.should_keep_alive()
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        super().connection_lost(exc)


class Caller:
    """One caller of an entry point: one connection, one request at a time."""

    def __init__(self, entry_point: EntryPoint, token: str, budget: Budget, customer: str) -> None:
        self._entry_point, self._budget, self.customer = entry_point, budget, customer
        self._parts = urlsplit(entry_point.url)
        self._headers = {
            "host": self._parts.netloc,
            "accept": "application/json",
            "user-agent": "bench-aws",
            **entry_point.headers,
        }
        if token:
            self._headers["authorization"] = f"Bearer {token}"
        self._wire: _Wire | None = None

    async def ask(self, endpoint: str, order_id: str = "") -> Answer:
        """Send one request of the kind; reopen a connection that was closed, untimed."""
        self._budget.take()
        wire = await self.connect()
        request, before = self._request(endpoint, order_id), wire.received
        started = time.perf_counter()
        try:
            async with asyncio.timeout(_REQUEST_SECONDS):
                status = await wire.send(request)
        except BaseException:
            self.close()  # the answer that may still come is no other request's
            raise
        milliseconds = (time.perf_counter() - started) * 1e3
        self._budget.received_bytes += wire.received - before
        if status == 401:
            raise CliError(
                f"{self._entry_point.url} asks for a token: TOKEN=... (of one who may place orders)"
            )
        return Answer(status, bytes(wire.body), milliseconds)

    def close(self) -> None:
        """Close the connection, whatever is on its way."""
        if self._wire:
            self._wire.transport.abort()

    async def connect(self) -> _Wire:
        """Return the open connection, a new one if need be. Raises `OSError`."""
        if self._wire and self._wire.open and not self._wire.transport.is_closing():
            return self._wire
        self.close()
        host = self._parts.hostname or ""
        encrypted = self._parts.scheme == "https"
        async with asyncio.timeout(_REQUEST_SECONDS):
            _, self._wire = await asyncio.get_running_loop().create_connection(
                _Wire,
                host,
                self._parts.port or (443 if encrypted else 80),
                ssl=_tls() if encrypted else None,
                server_hostname=(self._entry_point.server_name or host) if encrypted else None,
            )
        return self._wire

    def _request(self, endpoint: str, order_id: str) -> bytes:
        method, _, path = endpoint.partition(" ")
        target = self._parts.path.rstrip("/") + path.replace("{order_id}", order_id)
        headers, body = dict(self._headers), b""
        if endpoint == "GET /orders":
            target += "?limit=20"
        if endpoint in _BODIES:
            fields = _BODIES[endpoint]
            if "customer" in fields:
                fields = fields | {"customer": self.customer}
                headers["idempotency-key"] = str(uuid.uuid4())
            body = json.dumps(fields).encode()
            headers |= {"content-type": "application/json", "content-length": str(len(body))}
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode() + body


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` of them do not exceed (nearest rank)."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


@dataclass
class Sample:
    """How one kind of request was answered."""

    milliseconds: list[float] = field(default_factory=list)
    failed: int = 0

    def add(self, answer: Answer, expected: int) -> bool:
        """Note an answer; return whether it was the right one."""
        if answer.status != expected:
            self.failed += 1
            return False
        self.milliseconds.append(answer.milliseconds)
        return True

    def figures(self) -> dict[str, float]:
        """Return count, failures and percentiles."""
        found = {"count": float(len(self.milliseconds)), "failed": float(self.failed)}
        if self.milliseconds:
            found |= {f"p{n}_ms": percentile(self.milliseconds, n / 100) for n in (50, 99)}
            found["min_ms"] = min(self.milliseconds)
        return found


class Callers:
    """The callers of one entry point, the orders they placed, and what they are to do."""

    def __init__(self, entry_point: EntryPoint, token: str, budget: Budget, customer: str) -> None:
        self.entry_point, self._budget = entry_point, budget
        self._token, self._customer = token, customer
        self._pool: list[Caller] = []
        self.placed: list[str] = []  # and not asked to be cancelled
        self._open: set[str] = set()  # placed, and not known to be cancelled
        self.orders = 0
        self._trouble = ""
        self.busy_client, self.late_ms = _BUSY_CLIENT, _LATE_MS

    def _make(self) -> Caller:
        return Caller(self.entry_point, self._token, self._budget, self._customer)

    async def __aenter__(self) -> Callers:
        self._pool = [self._make() for _ in range(_CONNECTIONS)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for caller in self._pool:
            caller.close()

    async def _one(self, caller: Caller, endpoint: str, sample: Sample, order_id: str = "") -> Answer | None:
        """Ask once and note the outcome; None when the answer was not the right one, or none came.

        An order that is being placed is waited for, also when all is to end: it is to be cancelled.
        """
        if endpoint != "POST /orders":
            return await self._asked(caller, endpoint, sample, order_id)
        asked = asyncio.ensure_future(self._asked(caller, endpoint, sample, order_id))
        try:
            return await asyncio.shield(asked)
        finally:
            if not asked.done():
                await asyncio.wait([asked])

    async def _asked(self, caller: Caller, endpoint: str, sample: Sample, order_id: str) -> Answer | None:
        try:
            answer = await caller.ask(endpoint, order_id)
        except (OSError, httptools.HttpParserError) as error:  # no connection, none any more, or a time-out
            sample.failed += 1
            self._trouble = str(error) or "time-out"
            return None
        if not sample.add(answer, ENDPOINTS[endpoint]):
            self._trouble = f"{answer.status} {answer.body[:200].decode(errors='replace')}"
            return None
        if endpoint == "POST /orders":
            self.orders += 1
            self.placed.append(json.loads(answer.body)["id"])
            self._open.add(self.placed[-1])
        elif endpoint.startswith("PUT "):
            self._open.discard(order_id)
        return answer

    async def _side_by_side(self, endpoint: str, order_ids: Sequence[str]) -> Sample:
        """Ask once for each order id (or the empty one), on all connections."""
        sample, left = Sample(), iter(order_ids)

        async def drive(caller: Caller) -> None:
            for order_id in left:
                await self._one(caller, endpoint, sample, order_id)

        await _together(drive(caller) for caller in self._pool)
        return sample

    async def begin(self) -> None:
        """Place one order. Raises CliError when that is not possible."""
        if not (await self._side_by_side("POST /orders", [""])).milliseconds:
            raise CliError(f"POST {self.entry_point.url}/orders places no order: {self._trouble}")

    async def endpoints(self, requests: int, receipt_seconds: float, polls: int) -> dict[str, Any]:
        """Ask for each endpoint `requests` times, after `WARM_UP` that do not count, and cancel what was placed."""
        found: dict[str, Any] = {}

        async def ask(endpoint: str, order_ids: Sequence[str]) -> None:
            await self._side_by_side(endpoint, order_ids[:WARM_UP])
            found[endpoint] = (await self._side_by_side(endpoint, order_ids[WARM_UP:])).figures()

        nobody = [""] * (WARM_UP + requests)
        for endpoint in ("GET /", "GET /health", "GET /health/ready", "POST /orders", "GET /orders"):
            await ask(endpoint, nobody)
        if not self.placed:
            raise CliError(f"{self.entry_point.url} takes no orders any more: {self._trouble}")
        mine = list(self.placed)
        each = (mine * len(nobody))[: len(nobody)]
        for endpoint in (
            "GET /orders/{order_id}",
            "POST /orders/{order_id}/attachments",
            "GET /orders/{order_id}/attachments",
        ):
            await ask(endpoint, each)
        if await self._receipt_of(mine[-1], receipt_seconds, polls) is not None:
            await ask("GET /orders/{order_id}/receipt", each)
        self.placed, mine = mine[: -len(nobody)], mine[-len(nobody) :]
        await ask("PUT /orders/{order_id}/status", mine)
        return {endpoint: found[endpoint] for endpoint in ENDPOINTS if endpoint in found}

    async def stock(self, orders: int) -> None:
        """Place orders for what follows."""
        await self._side_by_side("POST /orders", [""] * orders)

    async def cancel(self) -> Sample:
        """Cancel every order that was placed from here and stands."""
        self.placed = []
        return await self._side_by_side("PUT /orders/{order_id}/status", sorted(self._open))

    async def _receipt_of(self, order_id: str, seconds: float, polls: int) -> float | None:
        """Ask for a receipt until it is there; return the seconds that took, or None when they are over."""
        started, caller = time.monotonic(), self._pool[0]
        for _ in range(polls):
            past = time.monotonic() - started
            if past > seconds:
                break
            if await self._one(caller, "GET /orders/{order_id}/receipt", Sample(), order_id):
                return time.monotonic() - started
            await asyncio.sleep(max(_POLL_SECONDS, past / 10))
        return None

    async def events(self, orders: int, seconds: float, polls: int) -> dict[str, Any]:
        """Place orders one after the other; return how long after its 201 each one's receipt was there."""
        took: list[float] = []
        for _ in range(orders):
            answer = await self._one(self._pool[0], "POST /orders", Sample())
            if answer is None:
                continue
            waited = await self._receipt_of(json.loads(answer.body)["id"], seconds, polls)
            if waited is not None:
                took.append(waited * 1e3)
        await self.cancel()
        found: dict[str, Any] = {"count": len(took), "missing": orders - len(took)}
        if took:
            found |= {"p50_ms": percentile(took, 0.5), "p99_ms": percentile(took, 0.99), "max_ms": max(took)}
        return found

    async def mix(self, rate: float, seconds: float) -> dict[str, int]:
        """Offer the cost model's traffic at a fixed rate; a request that finds no free connection waits."""
        kinds = _kinds(int(rate * seconds))
        sample, free, broken = Sample(), asyncio.Queue[Caller](), list[Exception]()
        callers = [self._make() for _ in range(max(_CONNECTIONS, int(rate)))]
        for caller in callers:
            free.put_nowait(caller)
        received, running = self._budget.received_bytes, set[asyncio.Task[None]]()

        async def serve(endpoint: str) -> None:
            caller = await free.get()
            try:
                await self._one(caller, endpoint, sample, self._order_for(endpoint))
            except (CliError, Spent) as why:
                broken.append(why)
            finally:
                free.put_nowait(caller)

        began = time.monotonic()
        try:
            for number, endpoint in enumerate(kinds):
                await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
                if broken:
                    raise broken[0]
                task = asyncio.create_task(serve(endpoint))
                running.add(task)
                task.add_done_callback(running.discard)
            await _together(running)
        finally:
            await _ended(running)
            for caller in callers:
                caller.close()
        return {
            "sent": len(kinds),
            "failed": sample.failed,
            "placed": kinds.count("POST /orders"),
            "changed": kinds.count("PUT /orders/{order_id}/status"),
            "received_bytes": self._budget.received_bytes - received,
        }

    def _order_for(self, endpoint: str) -> str:
        if "{order_id}" not in endpoint:
            return ""
        if not self.placed:
            raise CliError(f"{self.entry_point.url} takes no orders any more")
        if endpoint.startswith("PUT"):
            return self.placed.pop(0)
        return random.choice(self.placed)  # noqa: S311

    async def steps(self, seconds: float, requests: int) -> list[dict[str, float]]:
        """Read one order on ever more connections, until it comes late, fails, or the client is busy.

        At most `requests` in all. The last step is the first one that was not borne.
        """
        if not self.placed:
            raise CliError(f"{self.entry_point.url} takes no orders any more: {self._trouble}")
        order_id, allowed = self.placed[0], requests
        found: list[dict[str, float]] = []
        for connections in STEPS:
            callers, sample = [self._make() for _ in range(connections)], Sample()

            async def drive(caller: Caller, sample: Sample, until: float) -> None:
                nonlocal allowed
                while time.monotonic() < until and allowed > 0:
                    allowed -= 1
                    await self._one(caller, "GET /orders/{order_id}", sample, order_id)

            began, busy = time.monotonic(), time.process_time()
            try:
                await _together(caller.connect() for caller in callers)
                began, busy = time.monotonic(), time.process_time()
                await _together(drive(caller, sample, began + seconds) for caller in callers)
            except OSError:
                sample.failed += 1
            finally:
                for caller in callers:
                    caller.close()
            took = time.monotonic() - began
            step = sample.figures() | {
                "connections": float(connections),
                "rate": len(sample.milliseconds) / took,
                "client_busy": (time.process_time() - busy) / took,
            }
            found.append(step)
            idle = found[0].get("p50_ms", 0.0)
            step["borne"] = float(not sample.failed and step.get("p99_ms", math.inf) <= idle + self.late_ms)
            if not step["borne"] or step["client_busy"] > self.busy_client or allowed <= 0:
                break
        return found


async def _together(work: Iterable[Coroutine[Any, Any, Any] | asyncio.Task[Any]]) -> None:
    """Do all at once; the first error ends the others, and is raised as it is."""
    tasks: list[asyncio.Task[Any]] = [asyncio.ensure_future(each) for each in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        await _ended(tasks)


async def _ended(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel what still runs, once, and wait until it has ended."""
    running = [task for task in tasks if not task.done()]
    for task in running:
        if not task.cancelling():  # a second time would end its wait for an order that is being placed
            task.cancel()
    if running:
        await asyncio.wait(running)


def _kinds(count: int) -> list[str]:
    """Return what is asked for, in turn: in each ten the shares of the mix, shuffled."""

    def tens() -> Iterator[str]:
        shuffled = random.Random(0)  # noqa: S311 - the same in every run
        while True:
            ten = list(_MIX)
            shuffled.shuffle(ten)
            yield from ten

    return [kind for kind, _ in zip(tens(), range(count), strict=False)]
