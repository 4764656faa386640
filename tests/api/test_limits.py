"""How much one request, one caller and all of them may take, and for how long.

Lambda hands over whole bodies, one request at a time, so most of this is about the server: requests are made
here by hand, as an ASGI server makes them, and their bodies come when the test lets them.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, BackgroundTasks, Depends, Request
from localcloud.issuer import Issuer
from tests.api.wire import answers, received, serving
from tests.builders import AN_ORDER, a_settings, an_app, an_order

from app.core.auth.caller import Caller
from app.core.http import middleware
from app.core.http.app import App
from app.core.http.auth import RequireScope
from app.core.http.json_route import JsonRoute
from app.core.memory import FixedCursorKey
from app.orders.memory import MemoryDocumentStore, MemoryOrderRepository
from app.orders.models import Order
from app.orders.service import OrderService

ISSUER = Issuer("https://issuer.test")
bearer = ISSUER.bearer

Writer = Annotated[Caller, Depends(RequireScope("orders:write"))]
BODY = json.dumps(AN_ORDER).encode()
JSON = {"content-type": "application/json"}
STORED = an_order().id
ORIGIN = "https://console.test"
SECRET = "secret-" * 7


class SlowStore(MemoryOrderRepository):
    """Finds an order when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.let = asyncio.Event()
        self.cancelled = 0

    async def get(self, order_id: str) -> Order | None:
        try:
            await self.let.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return await super().get(order_id)


def a_server(store: MemoryOrderRepository | None = None, *, guarded: bool = False, **settings: Any) -> App:
    service = OrderService(store or MemoryOrderRepository(), MemoryDocumentStore(), FixedCursorKey())
    app = an_app(service, a_settings(**settings), ISSUER.authenticator() if guarded else None)
    app.openapi()  # FastAPI is there already, so that a request which needs it waits for nothing
    return app


class Call:
    """One request to the application, on its way."""

    def __init__(
        self,
        app: App,
        method: str = "GET",
        path: str = f"/orders/{STORED}",
        headers: dict[str, str] | None = None,
        *,
        body: bytes | None = None,
        address: str = "203.0.113.7",
    ) -> None:
        self.asked = 0  # how often the body was asked for
        self.sent: list[dict[str, Any]] = []
        self.reads = asyncio.Event()  # whether the client takes what is sent
        self.reads.set()
        self.breaks_at = ""
        self._messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        path, _, query = path.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "https",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in (headers or {}).items()],
            "client": (address, 1234),
            "server": ("api.test", 443),
        }
        if body is not None:
            self.bring(body, more=False)
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        self.asked += 1
        return await self._messages.get()

    async def _send(self, message: dict[str, Any]) -> None:
        await self.reads.wait()
        if message["type"] == self.breaks_at:
            raise RuntimeError("Invalid HTTP header value.")
        self.sent.append(message)

    def bring(self, body: bytes, more: bool = True) -> None:
        self._messages.put_nowait({"type": "http.request", "body": body, "more_body": more})

    def go_away(self) -> None:
        self._messages.put_nowait({"type": "http.disconnect"})

    async def answer(self) -> Call:
        await asyncio.wait_for(self.task, 20)
        return self

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def problem(self) -> dict[str, Any]:
        assert self.headers["content-type"] == "application/problem+json"
        found: dict[str, Any] = json.loads(b"".join(message["body"] for message in self.sent[1:]))
        return found


async def settled() -> None:
    """Return when everyone waits for something that does not come by itself."""
    for _ in range(30):
        await asyncio.sleep(0)


@pytest.fixture
def bounds(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets limits of the middleware."""

    def change(**bounds: float) -> None:
        for name, value in bounds.items():
            monkeypatch.setattr(middleware, name, value)

    return change


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Callable[[], list[dict[str, Any]]]:
    """Returns the lines in the log since it was last asked."""
    return lambda: [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Shows the time that a test lets pass."""
    shown = [1000.0]  # at 0 a sum is a difference
    monkeypatch.setattr(time, "perf_counter", lambda: shown[0])
    return shown


# One that the front reads, and two that FastAPI does.
WITH_BODY = [
    ("POST", "/orders"),
    ("PUT", f"/orders/{STORED}/status"),
    ("POST", f"/orders/{STORED}/attachments"),
]


class TestBody:
    async def test_may_come_in_pieces(self) -> None:
        call = Call(a_server(), "POST", "/orders", JSON)
        for byte in BODY:
            call.bring(bytes([byte]))
            await asyncio.sleep(0)
        call.bring(b"", more=False)
        assert (await call.answer()).status == 201

    @pytest.mark.parametrize(("method", "path"), WITH_BODY)
    @pytest.mark.parametrize("announced", [{}, {"content-length": "60"}])
    async def test_that_does_not_come_is_not_waited_for(
        self, method: str, path: str, announced: dict[str, str], bounds: Any, lines: Any
    ) -> None:
        bounds(BODY_SECONDS=0.02, WATCH_SECONDS=0.01)
        call = Call(a_server(), method, path, JSON | announced)
        call.bring(BODY[:1])
        await call.answer()
        assert (call.status, call.headers["connection"]) == (408, "close")
        assert call.problem["detail"] == "The body took too long to arrive."
        (line,) = lines()
        assert line.items() >= {"status": 408, "ClientErrors": 1, "ServerErrors": 0}.items()
        assert line["receive_ms"] > 10
        assert "Latency" not in line

    async def test_that_is_too_large_is_not_read_to_its_end(self) -> None:
        announced = Call(a_server(), "POST", "/orders", JSON | {"content-length": "65537"})
        assert ((await announced.answer()).status, announced.asked) == (413, 0)
        call = Call(a_server(), "POST", "/orders", JSON)
        for _ in range(3):
            call.bring(b"x" * 30_000)
        assert ((await call.answer()).status, call.asked) == (413, 3)
        assert call.problem["detail"] == "The body is larger than 65536 bytes."

    @pytest.mark.parametrize("length", ["abc", "9" * 5000, "-1", ""])
    async def test_of_no_known_length_is_measured(self, length: str) -> None:
        call = Call(a_server(), "POST", "/orders", JSON | {"content-length": length}, body=BODY)
        assert (await call.answer()).status == 201

    @pytest.mark.parametrize(("size", "status"), [(100_000, 200), (100_001, 413)])
    async def test_has_the_bound_of_its_route(self, size: int, status: int) -> None:
        app = a_server()

        @app.fastapi.post("/import", max_body_size=100_000)
        async def take(request: Request) -> int:
            return len(await request.body())

        assert (await Call(app, "POST", "/import", body=b"x" * size).answer()).status == status

    async def test_is_whole_after_someone_asked_whether_the_client_is_there(self) -> None:
        app = a_server()

        @app.fastapi.post("/import")
        async def take(request: Request) -> int:
            for _ in range(3):
                assert not await request.is_disconnected()
                await asyncio.sleep(0)
            return len(await request.body())

        call = Call(app, "POST", "/import")
        call.bring(b"12345")
        await settled()
        call.bring(b"67", more=False)
        await call.answer()
        assert call.sent[1]["body"] == b"7"

    @pytest.mark.parametrize(("method", "path"), WITH_BODY)
    async def test_that_breaks_off_leaves_one_line_and_no_latency(
        self, method: str, path: str, lines: Any
    ) -> None:
        call = Call(a_server(), method, path, JSON)
        call.bring(BODY)  # however whole it looks
        call.go_away()
        await call.answer()
        assert call.sent == []
        (line,) = lines()
        assert (line["status"], line["Requests"], line["ServerErrors"]) == (499, 1, 0)
        assert not line.keys() & {"Latency", "ClientErrors", "error"}

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("POST", "/nowhere", 404),
            ("DELETE", "/orders", 405),
            ("OPTIONS", "/orders", 405),
            ("GET", "/orders", 200),
            ("GET", f"/orders/{STORED}", 404),
            ("GET", "/orders?limit=0", 422),
            ("GET", "/", 200),
            ("GET", "/docs", 200),
            ("GET", "/docs/start.js", 200),
            ("GET", "/health", 200),
            ("GET", "/health/ready", 200),
        ],
    )
    async def test_that_nobody_needs_is_not_waited_for(self, method: str, path: str, status: int) -> None:
        call = Call(a_server(), method, path, {"content-length": "60"})
        assert ((await call.answer()).status, call.asked) == (status, 0)

    async def test_that_waits_for_the_answer_may_come_no_more(self) -> None:
        """Who gets a final answer to `Expect: 100-continue` sends the body or the next request."""
        expecting = JSON | {"expect": "100-continue"}
        rejected = await Call(a_server(), "POST", "/nowhere", expecting).answer()
        assert rejected.headers["connection"] == "close"
        served = await Call(a_server(), "POST", "/orders", expecting, body=BODY).answer()
        assert "connection" not in served.headers

    async def test_of_a_preflight_is_not_waited_for(self) -> None:
        asked = {"origin": ORIGIN, "access-control-request-method": "POST"}
        call = Call(a_server(cors_origins=(ORIGIN,)), "OPTIONS", "/orders", asked | {"content-length": "60"})
        assert ((await call.answer()).status, call.asked) == (200, 0)


class TestScope:
    """Whoever may not do it, is told so before a byte of the body is read."""

    def app(self) -> App:
        app = a_server(guarded=True)
        router = APIRouter(route_class=JsonRoute)

        @router.post("/notes")
        async def by_parameter(
            caller: Annotated[Caller, Depends(RequireScope("orders:write"))], body: dict[str, str]
        ) -> None: ...

        @router.post("/notes/of-route", dependencies=[Depends(RequireScope("orders:write"))])
        async def by_route(body: dict[str, str]) -> None: ...

        async def nested(caller: Writer) -> None: ...

        @router.post("/notes/nested", dependencies=[Depends(nested)])
        async def by_dependency(body: dict[str, str]) -> None: ...

        app.fastapi.include_router(router)
        return app

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            *WITH_BODY,
            ("POST", "/orders?unsure=1"),
            ("POST", "/notes"),
            ("POST", "/notes/of-route"),
            ("POST", "/notes/nested"),
        ],
    )
    async def test_is_asked_for_first(self, method: str, path: str) -> None:
        app = self.app()
        for headers, status in (({}, 401), (bearer("alice", "orders:read"), 403)):
            call = Call(app, method, path, JSON | headers | {"content-length": "60"})
            assert ((await call.answer()).status, call.asked) == (status, 0)
        call = Call(app, method, path, JSON | bearer("alice"), body=b"{}")
        assert (await call.answer()).status not in {401, 403}
        assert call.asked > 0

    async def test_of_an_included_router_is_asked_for_too(self) -> None:
        app = a_server(guarded=True)
        router = APIRouter(route_class=JsonRoute)

        @router.get("/notes")
        async def notes() -> None: ...

        app.fastapi.include_router(router, dependencies=[Depends(RequireScope("orders:write"))])
        assert (await Call(app, path="/notes", headers=bearer("a", "orders:read")).answer()).status == 403
        assert (await Call(app, path="/notes", headers=bearer("a")).answer()).status == 200


class TestPlaces:
    async def test_slow_bodies_take_none_of_those_that_are_served(self, bounds: Any) -> None:
        bounds(MAX_IN_FLIGHT=3)
        app = a_server()
        slow = [Call(app, "POST", "/orders", JSON) for _ in range(20)]
        await settled()
        for path in ("/orders", "/", "/health", "/health/ready", "/docs"):
            assert (await Call(app, path=path).answer()).status == 200
        assert (await Call(app, "POST", "/orders", JSON, body=BODY).answer()).status == 201
        for call in slow:
            call.bring(BODY, more=False)
        assert {(await call.answer()).status for call in slow} == {201}

    async def test_slow_bodies_have_a_bound_of_their_own(self, bounds: Any, lines: Any) -> None:
        bounds(MAX_ARRIVING=2)
        app = a_server()
        slow = [Call(app, "POST", "/orders", JSON) for _ in range(2)]
        await settled()
        more = await Call(app, "POST", "/orders", JSON).answer()
        assert (more.status, more.problem["type"]) == (503, "urn:orders:problem:overloaded")
        assert int(more.headers["retry-after"]) > 0
        (line,) = lines()
        assert (line["status"], line["RejectedRequests"]) == (503, 1)
        assert "Latency" not in line
        assert (await Call(app, path="/orders").answer()).status == 200
        slow[0].go_away()
        await slow[0].answer()
        assert (await Call(app, "POST", "/orders", JSON, body=BODY).answer()).status == 201
        slow[1].bring(BODY, more=False)
        assert (await slow[1].answer()).status == 201

    async def test_a_body_that_has_come_needs_one(self, bounds: Any) -> None:
        bounds(MAX_IN_FLIGHT=2)
        store = SlowStore()
        app = a_server(store)
        posts = [Call(app, "POST", "/orders", JSON) for _ in range(2)]
        await settled()
        gets = [Call(app) for _ in range(2)]
        await settled()
        posts[0].bring(BODY, more=False)
        assert (await posts[0].answer()).status == 503
        store.let.set()
        assert {(await call.answer()).status for call in gets} == {404}
        posts[1].bring(BODY, more=False)
        assert (await posts[1].answer()).status == 201


class TestCaller:
    """One caller has some of the places, whatever it sends; the others notice nothing."""

    async def fill(self, app: App, count: int, headers: dict[str, str], **more: Any) -> list[Call]:
        calls = [Call(app, headers=headers, **more) for _ in range(count)]
        await settled()
        return calls

    async def test_has_a_bound_of_its_own(self, bounds: Any, lines: Any) -> None:
        bounds(MAX_OF_ONE_CALLER=3)
        store = SlowStore()
        app = a_server(store, guarded=True)
        served = await self.fill(app, 2, bearer("alice"))
        arriving = [Call(app, "POST", "/orders", JSON | bearer("alice"))]
        await settled()
        for method, path in (("GET", "/orders"), ("GET", f"/orders/{STORED}"), ("POST", "/orders")):
            more = Call(app, method, path, JSON | bearer("alice", "orders:read orders:write orders:admin"))
            assert ((await more.answer()).status, more.asked) == (429, 0)
            assert more.problem["type"] == "urn:orders:problem:too-many-requests"
            assert int(more.headers["retry-after"]) > 0
            (line,) = lines()
            assert (line["status"], line["RejectedRequests"]) == (429, 1)
            assert "Latency" not in line
        assert (await Call(app, path="/orders", headers=bearer("bob")).answer()).status == 200
        assert (await Call(app, path="/health").answer()).status == 200
        store.let.set()
        arriving[0].bring(BODY, more=False)
        assert [(await call.answer()).status for call in served + arriving] == [404, 404, 201]
        assert (await Call(app, path="/orders", headers=bearer("alice")).answer()).status == 200

    async def test_is_known_by_its_token_and_not_by_an_address_that_many_share(self, bounds: Any) -> None:
        bounds(MAX_OF_ONE_CALLER=2)
        store = SlowStore()
        app = a_server(store, guarded=True)
        calls = [call for name in ("alice", "bob", "carol") for call in await self.fill(app, 2, bearer(name))]
        assert not any(call.sent for call in calls)
        store.let.set()
        assert {(await call.answer()).status for call in calls} == {404}

    @pytest.mark.parametrize(
        ("settings", "first", "same", "other"),
        [
            # The load balancer adds the last, the client makes up those before.
            ({}, "203.0.113.7", "198.51.100.1, 203.0.113.7", "203.0.113.7, 198.51.100.1"),
            ({}, "203.0.113.7", "198.51.100.1,203.0.113.7", "203.0.113.8"),
            # Behind the edge the last is the edge's.
            (
                {"origin_secrets": (SECRET,)},
                "203.0.113.7, 192.0.2.1",
                "198.51.100.1, 203.0.113.7, 192.0.2.2",
                "203.0.113.7, 198.51.100.1, 192.0.2.1",
            ),
            ({"origin_secrets": (SECRET,)}, "203.0.113.7", "203.0.113.7", "203.0.113.8"),
            # Whoever has an IPv6 address has the /64 around it.
            ({}, "2001:db8:1:2::3", "2001:db8:1:2:ffff::4", "2001:db8:1:3::3"),
            ({}, "[2001:db8:1:2::3]:443", "2001:db8:1:2::4", "[2001:db8:1:3::3]:443"),
            # An IPv4 address by itself, with a port, and in the spelling of an IPv6 one.
            ({}, "203.0.113.7:51234", "203.0.113.7:40000", "203.0.113.8:51234"),
            ({}, "::ffff:203.0.113.7", "203.0.113.7", "::ffff:203.0.113.8"),
            ({}, "odd:address", "odd:address", "odder:address"),
        ],
    )
    async def test_is_an_address_without_a_token(
        self, settings: dict[str, Any], first: str, same: str, other: str, bounds: Any
    ) -> None:
        bounds(MAX_OF_ONE_CALLER=2)
        app = a_server(SlowStore(), **settings)
        known = {"x-origin-secret": SECRET}
        calls = await self.fill(app, 2, known | {"x-forwarded-for": first}, address="10.0.0.1")
        rejected = Call(app, headers=known | {"x-forwarded-for": same}, address="10.0.0.2")
        assert (await rejected.answer()).status == 429
        (served,) = await self.fill(app, 1, known | {"x-forwarded-for": other}, address="10.0.0.1")
        assert served.sent == []
        for call in [*calls, served]:
            call.task.cancel()

    async def test_is_forgotten_when_all_is_answered(self, bounds: Any) -> None:
        """However it ended, and however often: a place that is not given back is lost for good."""
        bounds(MAX_OF_ONE_CALLER=2, WATCH_SECONDS=0.01)
        for _ in range(3):
            store = SlowStore()
            app = a_server(store, guarded=True)
            for _ in range(3):
                calls = [
                    *await self.fill(app, 2, bearer("alice")),
                    *await self.fill(app, 2, bearer("bob")),
                    Call(app, headers=bearer("alice")),
                    Call(app, headers=bearer("alice", "none")),
                    Call(app, headers={"authorization": "Bearer x"}),
                    Call(app, "POST", "/orders", JSON | bearer("carol")),
                    Call(app, "POST", "/orders", JSON | bearer("carol")),
                ]
                await settled()
                calls[0].task.cancel()
                calls[-1].go_away()
                calls[-2].bring(b"{}", more=False)
                store.let.set()
                for call in calls:
                    await asyncio.wait({call.task}, timeout=20)
                store.let.clear()
                await asyncio.sleep(0.05)
            middleware: Any = app._outermost
            assert (middleware.in_flight, middleware.arriving, middleware._of_callers) == (0, 0, {})
            assert not middleware._counting

    async def test_keeps_its_bound_while_others_come_and_go(self, bounds: Any) -> None:
        bounds(MAX_OF_ONE_CALLER=2)
        app = a_server(guarded=True)

        async def post(name: str) -> Call:
            call = Call(app, "POST", "/orders", JSON | bearer(name))
            await settled()
            return call

        first = [await post(name) for name in ("alice", "bob", "carol")]
        for call in first[1:]:
            call.go_away()
            await call.answer()
        calls = [first[0], await post("alice"), await post("bob")]
        assert (await (await post("alice")).answer()).status == 429
        for call in calls:
            call.bring(BODY, more=False)
            assert (await call.answer()).status == 201


class TestDeadline:
    async def test_ends_what_takes_too_long(self, bounds: Any, lines: Any) -> None:
        bounds(RESPONSE_SECONDS=0.02, WATCH_SECONDS=0.01, MAX_IN_FLIGHT=1)
        store = SlowStore()
        app = a_server(store)
        call = await Call(app).answer()
        assert (call.status, call.problem["type"]) == (503, "urn:orders:problem:too-slow")
        assert int(call.headers["retry-after"]) > 0
        assert store.cancelled == 1
        assert not call.task.cancelling()
        (line,) = lines()
        assert line.items() >= {"level": "ERROR", "status": 503, "ServerErrors": 1}.items()
        assert line["Latency"] > 10
        bounds(RESPONSE_SECONDS=25)
        store.let.set()
        assert (await Call(app).answer()).status == 404

    async def test_ends_an_answer_that_nobody_reads(self, bounds: Any, lines: Any) -> None:
        bounds(RESPONSE_SECONDS=0.02, WATCH_SECONDS=0.01)
        call = Call(a_server(), path="/orders")
        call.reads.clear()
        with pytest.raises(asyncio.CancelledError):  # the server closes the connection
            await call.answer()
        (line,) = lines()
        assert (line["status"], line["ServerErrors"]) == (499, 0)

    def test_holds_in_both_runtimes(
        self, client: httpx.Client, service: OrderService, bounds: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def get(order_id: str) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(service._repository, "get", get)
        bounds(RESPONSE_SECONDS=0.02, WATCH_SECONDS=0.01)
        for _ in range(2):
            answer = client.get(f"/orders/{STORED}")
            assert (answer.status_code, answer.json()["title"]) == (503, "Too slow")

    def test_holds_in_every_loop(self, bounds: Any) -> None:
        """Lambda's handler and tests run one after the other."""
        bounds(RESPONSE_SECONDS=0.02, WATCH_SECONDS=0.01)
        app = a_server(store := SlowStore())

        async def case() -> int:
            store.let = asyncio.Event()
            return (await Call(app).answer()).status

        assert [asyncio.run(case()) for _ in range(3)] == [503] * 3


class TestLatency:
    """What the client takes, to send or to read, is not ours."""

    async def test_is_counted_from_the_body_to_the_answer(self, clock: list[float], lines: Any) -> None:
        call = Call(a_server(), "POST", "/orders", JSON)
        call.reads.clear()
        await settled()
        clock[0] += 7
        call.bring(BODY, more=False)
        await settled()
        clock[0] += 5
        call.reads.set()
        await call.answer()
        (line,) = lines()
        assert (line["status"], line["receive_ms"], line["latency_ms"], line["Latency"]) == (201, 7000, 0, 0)

    async def test_is_ours_while_we_work(self, clock: list[float], lines: Any) -> None:
        store = SlowStore()
        call = Call(a_server(store))
        await settled()
        clock[0] += 3
        store.let.set()
        await call.answer()
        (line,) = lines()
        assert line["Latency"] == line["latency_ms"] == 3000
        assert "receive_ms" not in line


class TestFigures:
    """The bounds that docs/reliability.md tells, each with one that is just within and one just beyond."""

    async def test_256_are_served_at_a_time(self) -> None:
        app = a_server(SlowStore())
        calls = [Call(app, address=f"203.0.113.{number}") for number in range(256)]
        await settled()
        assert not any(call.sent for call in calls)
        more = await Call(app, address="198.51.100.1").answer()
        assert (more.status, more.problem["type"]) == (503, "urn:orders:problem:overloaded")
        assert int(more.headers["retry-after"]) > 0
        for path in ("/orders/health", "/x/health", "/health/ready"):  # no liveness, whatever they end in
            assert (await Call(app, path=path).answer()).status == 503
        assert (await Call(app, path="/health").answer()).status == 200
        for call in calls:
            call.task.cancel()

    async def test_the_bodies_of_256_are_waited_for_at_a_time(self) -> None:
        app = a_server()
        calls = [Call(app, "POST", "/orders", JSON, address=f"203.0.113.{n}") for n in range(256)]
        await settled()
        assert {call.asked for call in calls} == {1}
        assert (await Call(app, "POST", "/orders", JSON, address="198.51.100.1").answer()).status == 503
        for call in calls:
            call.go_away()
            await call.answer()

    async def test_64_of_one_caller_are_served_at_a_time(self) -> None:
        app = a_server(SlowStore())
        calls = [Call(app) for _ in range(64)]
        await settled()
        assert not any(call.sent for call in calls)
        assert (await Call(app).answer()).status == 429
        for call in calls:
            call.task.cancel()

    @pytest.mark.parametrize(("seconds", "is_late"), [(9.99, False), (10.01, True)])
    async def test_a_body_has_10_seconds(
        self, seconds: float, is_late: bool, clock: list[float], bounds: Any
    ) -> None:
        bounds(WATCH_SECONDS=0.001)
        call = Call(a_server(), "POST", "/orders", JSON)
        await settled()
        clock[0] += seconds
        await asyncio.sleep(0.05)  # it is looked at several times
        call.bring(BODY, more=False)
        assert (await call.answer()).status == (408 if is_late else 201)

    @pytest.mark.parametrize(("seconds", "is_late"), [(24.99, False), (25.01, True)])
    async def test_an_answer_has_25_seconds(
        self, seconds: float, is_late: bool, clock: list[float], bounds: Any
    ) -> None:
        bounds(WATCH_SECONDS=0.001)
        store = SlowStore()
        call = Call(a_server(store))
        await settled()
        clock[0] += seconds
        await asyncio.sleep(0.05)
        store.let.set()
        assert (await call.answer()).status == (503 if is_late else 404)


class TestEnd:
    """Whatever ends a request, one line tells the truth of it."""

    @pytest.mark.parametrize(("method", "headers"), [("GET", {}), ("POST", JSON)])
    async def test_by_the_server_that_stops(self, method: str, headers: Any, lines: Any) -> None:
        call = Call(
            a_server(SlowStore()), method, f"/orders/{STORED}" if method == "GET" else "/orders", headers
        )
        await settled()
        call.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call.answer()
        assert (call.status, call.problem["type"]) == (503, "urn:orders:problem:stopped")
        (line,) = lines()
        assert (line["status"], line["ServerErrors"]) == (503, 1)

    @pytest.mark.parametrize("part", ["http.response.start", "http.response.body"])
    async def test_by_a_connection_that_takes_no_answer(self, part: str, lines: Any) -> None:
        call = Call(a_server(), path="/orders")
        call.breaks_at = part
        with pytest.raises(RuntimeError):
            await call.answer()
        requests = [line for line in lines() if line["message"] == "request"]
        assert [(line["status"], line["ServerErrors"]) for line in requests] == [(500, 1)]

    @pytest.mark.parametrize("status", [408, 413, 422, 429, 499, 503])
    async def test_is_the_same_within_a_middleware(self, status: int, bounds: Any, lines: Any) -> None:
        """Starlette's own runs the application as a task of a group, and gets groups of errors."""
        app = a_server(SlowStore(), guarded=True)

        @app.fastapi.middleware("http")
        async def pass_on(request: Request, call_next: Any) -> Any:
            return await call_next(request)

        others = []
        if status == 429:
            bounds(MAX_OF_ONE_CALLER=1)
            others = [Call(app, headers=bearer("alice"))]
            await settled()
        upload = f"/orders/{STORED}/attachments"
        call = Call(app, "POST", upload, JSON | bearer("alice"), address="203.0.113.8")
        match status:
            case 408:
                bounds(BODY_SECONDS=0.02, WATCH_SECONDS=0.01)
            case 413:
                call.bring(b"x" * 70_000)
            case 422:
                call.bring(b"{}", more=False)
            case 499:
                call.go_away()
            case 503:
                bounds(RESPONSE_SECONDS=0.02, WATCH_SECONDS=0.01)
                call.bring(b'{"name": "a.txt", "content_type": "text/plain"}', more=False)
        await call.answer()
        (line,) = (line for line in lines() if line["message"] == "request")
        assert line["status"] == status
        assert 0 <= line["latency_ms"] < 60_000
        assert [message["status"] for message in call.sent[:1]] == [status] * (status != 499)
        for other in others:
            other.task.cancel()

    @pytest.mark.parametrize("fault", ["it fails", "it takes too long"])
    async def test_by_what_was_to_follow_the_answer(self, fault: str, bounds: Any, lines: Any) -> None:
        """The caller has got it, whole."""
        bounds(RESPONSE_SECONDS=0.02, WATCH_SECONDS=0.01)
        app = a_server()

        async def follow() -> None:
            if fault == "it fails":
                raise RuntimeError
            await asyncio.Event().wait()

        @app.fastapi.get("/import")
        async def take(tasks: BackgroundTasks) -> None:
            tasks.add_task(follow)

        call = Call(app, path="/import")
        await asyncio.wait({call.task}, timeout=20)
        assert isinstance(call.task.cancelled() or call.task.exception(), bool | RuntimeError)
        (line,) = (line for line in lines() if line["message"] == "request")
        assert (line["status"], line["ServerErrors"]) == (200, 0)
        assert line["error"] in {"RuntimeError", "TooSlow"}


@pytest.mark.parametrize("status", [408, 413, 414, 429, 431, 503])
async def test_a_listed_page_can_read_why(status: int, bounds: Any) -> None:
    app = a_server(SlowStore(), cors_origins=(ORIGIN,))
    headers, path = JSON | {"origin": ORIGIN}, "/orders"
    match status:
        case 408:
            bounds(BODY_SECONDS=0.02, WATCH_SECONDS=0.01)
        case 413:
            headers["content-length"] = "65537"
        case 414:
            path += "?" + "q" * 12_000
        case 429:
            bounds(MAX_OF_ONE_CALLER=0)
        case 431:
            headers["x-filler"] = "x" * 12_000
        case 503:
            bounds(MAX_ARRIVING=0)
    call = await Call(app, "POST", path, headers).answer()
    assert (call.status, call.headers["access-control-allow-origin"]) == (status, ORIGIN)


def begin(port: int, headers: dict[str, str]) -> socket.socket:
    """Send the headers of an order, and one byte of its body."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    lines = [f"{name}: {value}" for name, value in (JSON | headers | {"content-length": "60"}).items()]
    connection.sendall("\r\n".join(["POST /orders HTTP/1.1", "host: a", *lines, "", "{"]).encode())
    return connection


class TestOverASocket:
    @pytest.mark.parametrize(
        ("callers", "scopes", "answers"),
        [
            (1, "orders:read", {b"403"}),
            (1, "orders:write", {b"429", b""}),
            (5, "orders:write", {b"503", b""}),
        ],
    )
    def test_many_bodies_of_one_byte_leave_everything_usable(
        self, callers: int, scopes: str, answers: set[bytes]
    ) -> None:
        tokens = [bearer(f"slow-{number}", scopes) for number in range(callers)]
        with serving(a_server(guarded=True)) as port:
            slow = [begin(port, tokens[number % callers]) for number in range(260)]
            try:
                with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
                    for path in ("/orders", "/", "/docs", "/health", "/health/ready"):
                        assert client.get(path, headers=bearer("bob")).status_code == 200
                    if callers == 1:
                        placed = client.post("/orders", json=AN_ORDER, headers=bearer("bob"))
                        assert placed.status_code == 201
                patience = 0 if b"" in answers else 20
                assert {self.status_within(patience, connection) for connection in slow} == answers
            finally:
                for connection in slow:
                    connection.close()

    def status_within(self, seconds: float, connection: socket.socket) -> bytes:
        """Return the status of the answer, or nothing if there is none."""
        connection.settimeout(seconds)
        try:
            return connection.recv(65536)[9:12]
        except (BlockingIOError, TimeoutError):
            return b""

    def test_a_body_that_does_not_come_closes_the_connection(self, bounds: Any) -> None:
        bounds(BODY_SECONDS=0.1, WATCH_SECONDS=0.05)
        with serving(a_server()) as port, begin(port, {}) as connection:
            answer = b""
            while received := connection.recv(65536):
                answer += received
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert answer.count(b"HTTP/1.1") == 1

    def test_what_follows_a_body_that_nobody_read_is_answered(self) -> None:
        with serving(a_server()) as port, socket.create_connection(("127.0.0.1", port), timeout=20) as wire:
            wire.sendall(b"POST /nowhere HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nab")
            begun = wire.recv(65536)  # maybe not all of it
            wire.sendall(b"cdeGET /health HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            assert [each.status for each in answers(begun + received(wire))] == [404, 200]
