"""One order is one trace: from the request through the table, the relay and the bus to the consumer."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx
import pytest
from tests.builders import AN_ORDER, a_message, a_settings, an_envelope

from app.core.dynamodb.repository import Table
from app.core.events.relay import relay
from app.core.memory import FixedCursorKey, MemoryEventPublisher
from app.core.telemetry import Telemetry
from app.entrypoints.lambda_relay import event_reader
from app.orders.memory import MemoryDocumentStore
from app.orders.receipts import write_receipt
from app.orders.repository import DynamoOrderRepository
from app.orders.service import OrderService

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
XRAY = f"Root=1-{TRACE[:8]}-{TRACE[8:]};Parent=53995c3f42cd8ad8;Sampled=1"
WRITTEN_AT = 1.7e9


class FakeTable:
    """Takes items as DynamoDB would, and hands them on as its stream would."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    async def call(self, operation: str, request: dict[str, Any], response_type: type[Any] = dict) -> Any:
        assert operation == "PutItem"
        change = {
            "SequenceNumber": "1",
            "NewImage": request["Item"],
            "ApproximateCreationDateTime": WRITTEN_AT,
        }
        self.records = [{"eventName": "INSERT", "eventSource": "aws:dynamodb", "dynamodb": change}]
        return {}


class Invocation:
    """What Lambda tells a function about an invocation, as far as we ask."""

    def __init__(self, aws_request_id: str) -> None:
        self.aws_request_id = aws_request_id


@pytest.fixture
def table() -> FakeTable:
    return FakeTable()


@pytest.fixture
def service(table: FakeTable) -> OrderService:
    return OrderService(
        DynamoOrderRepository(Table(table, "table", 4)), MemoryDocumentStore(), FixedCursorKey()
    )


@pytest.mark.parametrize(
    "header",
    [
        pytest.param({"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}, id="W3C"),
        pytest.param({"x-amzn-trace-id": XRAY}, id="X-Ray"),
    ],
)
def test_a_trace_that_came_in_is_in_every_line(
    client: httpx.Client, table: FakeTable, header: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    told = Telemetry(a_settings())
    bus, documents = MemoryEventPublisher(), MemoryDocumentStore()
    begun = time.time()

    placed = client.post("/orders", json=AN_ORDER, headers=header | {"x-correlation-id": "mine"})
    relay({"Records": table.records}, event_reader(), bus, told, Invocation("relaying"))
    messages = [a_message(an_envelope(event)) for event in bus.published]
    write_receipt.consume({"Records": messages}, told, documents, lambda_context=Invocation("writing"))

    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["location"] for line in lines] == ["api", "relay", "receipts"]
    assert [line["trace_id"] for line in lines] == [TRACE] * 3
    assert [line["correlation_id"] for line in lines] == ["mine"] * 3
    assert [line["order_id"] for line in lines] == [placed.json()["id"]] * 3
    assert [line["request_id"] for line in lines[1:]] == ["relaying", "writing"]
    assert (lines[1]["EventsRelayed"], lines[2]["ConsumedEvents"]) == (1, 1)
    earliest, latest = ((moment - WRITTEN_AT) * 1000 for moment in (begun, time.time()))
    assert earliest - 1 <= lines[1]["RelayLag"] <= latest + 1
    # What every line has, whoever wrote it.
    common = {
        *("level", "location", "message", "timestamp", "service", "stage", "runtime", "cold_start"),
        *("request_id", "correlation_id", "trace_id", "xray_trace_id", "latency_ms", "order_id", "_aws"),
    }
    assert all(common <= line.keys() for line in lines)


def test_functions_name_the_trace_of_their_own_segments(
    client: httpx.Client,
    table: FakeTable,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """X-Ray begins another trace when a stream invokes a function; the order's is in `trace_id`."""
    told = Telemetry(a_settings())
    bus = MemoryEventPublisher()
    client.post("/orders", json=AN_ORDER, headers={"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"})
    monkeypatch.setenv("_X_AMZN_TRACE_ID", f"Root=1-5759e988-{'a' * 24};Parent=53995c3f42cd8ad8;Sampled=1")
    relay({"Records": table.records}, event_reader(), bus, told)
    monkeypatch.setenv("_X_AMZN_TRACE_ID", f"Root=1-5759e989-{'b' * 24};Parent=53995c3f42cd8ad8;Sampled=1")
    write_receipt.consume(
        {"Records": [a_message(an_envelope(bus.published[0]))]}, told, MemoryDocumentStore()
    )
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["trace_id"] for line in lines] == [TRACE] * 3
    found = [line["xray_trace_id"] for line in lines[1:]]
    assert found == [f"1-5759e988-{'a' * 24}", f"1-5759e989-{'b' * 24}"]


def test_failures_are_counted_and_say_why(table: FakeTable, capsys: pytest.CaptureFixture[str]) -> None:
    told = Telemetry(a_settings())
    broken = {"SequenceNumber": "9", "NewImage": {"pk": {"S": "order#1"}}}
    record = {"eventName": "INSERT", "eventSource": "aws:dynamodb", "dynamodb": broken}
    relay({"Records": [record]}, event_reader(), MemoryEventPublisher(), told)
    write_receipt.consume({"Records": [a_message("not an event")]}, told, MemoryDocumentStore())
    relayed, received = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (relayed["RelayFailures"], relayed["error"], relayed["level"]) == (1, "MalformedRecord", "ERROR")
    assert (received["ConsumerFailures"], received["error"], received["level"]) == (
        1,
        "MalformedEvent",
        "ERROR",
    )
    assert relayed["sequence_number"] == "9"
