"""What a request leaves in the log: one line with its metrics, the same from both runtimes."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from tests.builders import AN_ORDER, a_settings, an_app
from tests.transports import LambdaTransport, ServerTransport

from app.core.errors import DependencyUnavailable
from app.core.memory import FixedCursorKey
from app.core.settings import Settings
from app.orders.memory import MemoryDocumentStore, MemoryOrderRepository
from app.orders.service import OrderService

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
HEADERS = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01", "x-correlation-id": "mine-1"}


class Log:
    """Reads the lines written since it was last asked."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._capsys.readouterr().out.splitlines()]

    def line(self) -> dict[str, Any]:
        (line,) = self.lines()
        return line


@pytest.fixture
def log(capsys: pytest.CaptureFixture[str]) -> Log:
    return Log(capsys)


@pytest.fixture
def settings() -> Settings:
    return a_settings(service_name="orders-test", stage="test")


class TestLine:
    def test_tells_who_what_and_how_long(self, client: httpx.Client, log: Log) -> None:
        placed = client.post("/orders", json=AN_ORDER, headers=HEADERS)
        line = log.line()
        assert (
            line.items()
            >= {
                "level": "INFO",
                "message": "request",
                "service": "orders-test",
                "stage": "test",
                "runtime": "local",
                "cold_start": True,
                "correlation_id": "mine-1",
                "trace_id": TRACE,
                "method": "POST",
                "route": "/orders",
                "status": 201,
                "order_id": placed.json()["id"],
                "Requests": 1,
                "ServerErrors": 0,
                "OrdersPlaced": 1,
                "ColdStarts": 1,
            }.items()
        )
        assert line["Latency"] == line["latency_ms"] > 0
        client.get(placed.headers["location"])
        line = log.line()
        assert (line["route"], line["order_id"]) == ("/orders/{order_id}", placed.json()["id"])
        assert not line["cold_start"]
        assert "ColdStarts" not in line

    @pytest.mark.parametrize(
        ("method", "path"), [("POST", "/orders"), ("GET", "/orders"), ("GET", "/nowhere")]
    )
    def test_no_part_takes_longer_than_all_of_it(
        self, client: httpx.Client, log: Log, method: str, path: str
    ) -> None:
        begun = time.perf_counter()
        client.request(method, path, json=AN_ORDER if method == "POST" else None)
        took_ms = (time.perf_counter() - begun) * 1000
        line = log.line()
        assert 0 < line["latency_ms"] + line.get("receive_ms", 0) < took_ms

    def test_the_caller_gets_the_ids(self, client: httpx.Client, log: Log) -> None:
        answer = client.get("/", headers=HEADERS)
        assert answer.headers["x-correlation-id"] == "mine-1"
        assert answer.headers["x-request-id"] == log.line()["request_id"]

    @pytest.mark.parametrize("theirs", ["", "no spaces", "x" * 129, "é", '{"a":1}', "a\tb"])
    def test_an_id_that_could_harm_is_replaced(self, client: httpx.Client, log: Log, theirs: str) -> None:
        answer = client.get("/", headers=[(b"x-correlation-id", theirs.encode())])
        line = log.line()
        assert answer.headers["x-correlation-id"] == line["correlation_id"] == line["request_id"]

    def test_a_request_id_serves_as_correlation_id(self, client: httpx.Client, log: Log) -> None:
        answer = client.get("/", headers={"x-request-id": "theirs"})
        assert answer.headers["x-correlation-id"] == "theirs"
        assert answer.headers["x-request-id"] == log.line()["request_id"] != "theirs"

    def test_takes_the_trace_of_the_front_door(self, client: httpx.Client, log: Log) -> None:
        header = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"
        client.get("/", headers={"x-amzn-trace-id": header})
        assert log.line()["trace_id"] == "5759e988bd862e3fe1be46a994272793"
        client.get("/", headers=HEADERS | {"x-amzn-trace-id": header})
        line = log.line()
        assert (line["trace_id"], line["xray_trace_id"]) == (TRACE, "1-5759e988-bd862e3fe1be46a994272793")


class TestMetrics:
    def test_replays_conflicts_and_mistakes_are_counted(self, client: httpx.Client, log: Log) -> None:
        keyed = {"idempotency-key": "k"}
        order = client.post("/orders", json=AN_ORDER, headers=keyed).json()
        log.lines()
        client.post("/orders", json=AN_ORDER, headers=keyed)
        line = log.line()
        assert (line["IdempotentReplays"], line["order_id"]) == (1, order["id"])
        assert "OrdersPlaced" not in line
        client.put(f"/orders/{order['id']}/status", json={"status": "delivered"})
        line = log.line()
        assert (line["Conflicts"], line["ClientErrors"], line["error"]) == (1, 1, "IllegalTransition")
        client.post("/orders", json={})
        assert log.line().items() >= {"status": 422, "error": "RequestValidationError"}.items()

    @pytest.mark.parametrize(
        ("method", "path"), [("GET", "/nowhere/1"), ("DELETE", "/orders"), ("GET", "/a%00b")]
    )
    def test_what_callers_make_up_becomes_no_dimension(
        self, client: httpx.Client, log: Log, method: str, path: str
    ) -> None:
        client.request(method, path)
        line = log.line()
        assert line["ClientErrors"] == 1
        assert "Latency" not in line
        assert path not in str(line) or path == "/orders"

    def test_health_checks_count_nothing_and_stay_out_of_the_log(
        self, client: httpx.Client, log: Log
    ) -> None:
        client.get("/health")
        client.get("/health/ready")
        assert log.lines() == []

    def test_every_counted_name_has_its_directive_and_dimensions(
        self, client: httpx.Client, log: Log
    ) -> None:
        client.post("/orders", json=AN_ORDER)
        line = log.line()
        for directive in line["_aws"]["CloudWatchMetrics"]:
            for metric in directive["Metrics"]:
                assert isinstance(line[metric["Name"]], int | float)
            for dimension in {name for names in directive["Dimensions"] for name in names}:
                assert isinstance(line[dimension], str)
        assert line["_aws"]["Timestamp"] > 1_700_000_000_000


class TestFailures:
    def test_an_unexpected_error_is_an_error_once(self, client: httpx.Client, log: Log, app: FastAPI) -> None:
        @app.fastapi.get("/boom")
        async def boom() -> None:
            raise RuntimeError("Bearer abc.def")

        answer = client.get("/boom")
        line = log.line()
        assert (
            line.items()
            >= {"level": "ERROR", "status": 500, "ServerErrors": 1, "error": "RuntimeError"}.items()
        )
        assert answer.headers["x-request-id"] == line["request_id"]
        assert "abc.def" not in str(line)

    def test_an_unavailable_dependency_is_named(
        self, client: httpx.Client, log: Log, service: OrderService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def get(order_id: str) -> None:
            raise DependencyUnavailable("dynamodb") from TimeoutError("slow")

        monkeypatch.setattr(service._repository, "get", get)
        client.get("/orders/0199a6f5-1c00-7000-8000-000000000001")
        line = log.line()
        assert (line["status"], line["dependency"]) == (503, "dynamodb")
        assert line["cause"] == "TimeoutError('slow')"

    def test_a_failing_health_check_is_told(
        self, client: httpx.Client, log: Log, service: OrderService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def check_health() -> None:
            raise DependencyUnavailable("dynamodb")

        monkeypatch.setattr(service._repository, "check_health", check_health)
        client.get("/health/ready")
        line = log.line()
        assert (line["level"], line["route"]) == ("WARNING", "/health/ready")
        assert "Requests" not in line


class TestSecrets:
    SECRETS = {
        "authorization": "Bearer SECRET",
        "cookie": "session=SECRET",
        "idempotency-key": "SECRET",
        "x-api-key": "SECRET",
    }

    @pytest.fixture
    def settings(self) -> Settings:
        return a_settings(log_level="DEBUG")

    def test_not_even_a_debug_line_shows_any(self, client: httpx.Client, log: Log) -> None:
        client.post(
            "/orders?customer=SECRET&token=SECRET",
            json=AN_ORDER | {"customer": "SECRET"},
            headers=self.SECRETS | {"accept": "shown"},
        )
        line = log.line()
        assert line["headers"]["accept"] == "shown"
        assert line["query"] == ["customer", "token"]
        assert line["headers"].keys() >= self.SECRETS.keys()
        assert "SECRET" not in json.dumps(line)


REQUESTS = [
    pytest.param("POST", "/orders", {"json": AN_ORDER}, id="place"),
    pytest.param("POST", "/orders", {"json": {}}, id="invalid"),
    pytest.param("GET", "/orders?limit=5", {}, id="list"),
    pytest.param("GET", "/orders/0199a6f5-1c00-7000-8000-000000000001", {}, id="unknown"),
    pytest.param(
        "PUT",
        "/orders/0199a6f5-1c00-7000-8000-000000000001/status",
        {"json": {"status": "shipped"}},
        id="change",
    ),
    pytest.param("GET", "/nowhere", {}, id="nowhere"),
    pytest.param("GET", "/", {"headers": HEADERS}, id="about"),
    pytest.param("OPTIONS", "/orders", {}, id="options"),
]


@pytest.mark.parametrize(("method", "path", "more"), REQUESTS)
def test_both_runtimes_leave_the_same_line(
    method: str, path: str, more: dict[str, Any], log: Log, loop: Any
) -> None:
    found = {}
    for runtime in ("lambda", "fargate"):
        service = OrderService(MemoryOrderRepository(), MemoryDocumentStore(), FixedCursorKey())
        app = an_app(service, a_settings(runtime=runtime))
        transport = LambdaTransport(app) if runtime == "lambda" else ServerTransport(app, loop)
        with httpx.Client(transport=transport, base_url="http://api.test") as client:
            client.request(method, path, **more)
        found[runtime] = log.line()
    ours, theirs = found["lambda"], found["fargate"]
    assert list(ours) == list(theirs)
    assert ours["_aws"]["CloudWatchMetrics"] == theirs["_aws"]["CloudWatchMetrics"]
    # What may differ is named here; all else is equal to the letter.
    own = {"runtime", "timestamp", "request_id", "latency_ms", "receive_ms", "Latency", "_aws", "order_id"}
    own |= set() if "headers" in more else {"correlation_id", "trace_id", "xray_trace_id"}
    assert {name: ours[name] for name in ours.keys() - own} == {
        name: theirs[name] for name in ours.keys() - own
    }
    assert (ours["runtime"], theirs["runtime"]) == ("lambda", "fargate")
