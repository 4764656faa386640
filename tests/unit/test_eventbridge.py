"""The publisher: tens, and only what was rejected is sent again."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from tests.builders import an_order, placed

from app.core.events.event import Event
from app.core.events.publisher import EventBridgePublisher, xray_header

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Bus:
    """The client of a bus; `rejects` says, for each entry, whether the bus rejects it."""

    def __init__(self, rejects: Callable[[int, dict[str, Any]], bool] = lambda _n, _entry: False) -> None:
        self.calls: list[list[dict[str, Any]]] = []
        self.taken: list[str] = []
        self._rejects = rejects
        self._seen = 0

    def put_events(self, Entries: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: N803  # boto3's name
        assert 1 <= len(Entries) <= 10
        self.calls.append(Entries)
        answers: list[dict[str, Any]] = []
        for entry in Entries:
            self._seen += 1
            if self._rejects(self._seen, entry):
                answers.append({"ErrorCode": "ThrottlingException", "ErrorMessage": "Rate exceeded"})
            else:
                self.taken.append(json.loads(entry["Detail"])["event_id"])
                answers.append({"EventId": "id"})
        return {"Entries": answers, "FailedEntryCount": len(Entries) - len(self.taken)}


def publisher(bus: Any) -> EventBridgePublisher:
    return EventBridgePublisher("bus", bus, sleep=lambda _: None)


def events(count: int) -> list[Event]:
    return [placed(an_order(id=f"0199a6f5-1c00-7000-8000-{n:012}")) for n in range(count)]


def test_publishes_in_tens_and_in_order() -> None:
    bus, placed = Bus(), events(23)
    assert publisher(bus).publish(placed) == []
    assert [len(call) for call in bus.calls] == [10, 10, 3]
    assert bus.taken == [event.event_id for event in placed]


def test_publishes_nothing_without_a_call() -> None:
    bus = Bus()
    assert publisher(bus).publish([]) == []
    assert bus.calls == []


def test_sends_again_only_what_was_rejected() -> None:
    bus, placed = Bus(lambda n, _: n % 3 == 0), events(10)
    assert publisher(bus).publish(placed) == []
    assert [len(call) for call in bus.calls] == [10, 3, 1]
    assert sorted(bus.taken) == sorted(event.event_id for event in placed)


def test_reports_what_is_rejected_to_the_end_and_nothing_else() -> None:
    placed = events(12)
    bus = Bus(lambda _, entry: placed[4].event_id in entry["Detail"])
    assert publisher(bus).publish(placed) == [placed[4]]
    assert sorted(bus.taken) == sorted(event.event_id for event in placed if event != placed[4])


@pytest.mark.parametrize(
    "error",
    [
        ClientError({"Error": {"Code": "InternalException", "Message": "no"}}, "PutEvents"),
        EndpointConnectionError(endpoint_url="https://events.invalid"),
    ],
)
def test_a_call_that_fails_fails_its_ten_and_no_other(error: Exception) -> None:
    class Failing(Bus):
        def put_events(self, Entries: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: N803
            if not self.calls:
                self.calls.append(Entries)
                raise error
            return super().put_events(Entries)

    placed = events(15)
    assert publisher(Failing()).publish(placed) == placed[:10]


def test_an_entry_says_when_it_happened_and_in_which_trace() -> None:
    bus = Bus()
    publisher(bus).publish([placed(an_order(), traceparent=TRACE)])
    entry = bus.calls[0][0]
    assert (entry["EventBusName"], entry["Source"], entry["DetailType"]) == ("bus", "orders", "OrderPlaced")
    assert entry["Time"] == an_order().updated_at
    assert (
        entry["TraceHeader"] == "Root=1-4bf92f35-77b34da6a3ce929d0e0e4736;Parent=00f067aa0ba902b7;Sampled=1"
    )


@pytest.mark.parametrize("traceparent", ["", "00", TRACE.upper(), TRACE + "-x", "ff-" + TRACE[3:]])
def test_what_is_no_trace_makes_no_header(traceparent: str) -> None:
    assert xray_header(traceparent) == ""
