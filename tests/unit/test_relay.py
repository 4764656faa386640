"""The relay: from stream records to published events, and which records it reports as failed."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from tests.builders import a_record, a_settings, an_order, sample

from app.core.events.event import Event
from app.core.events.relay import relay
from app.core.events.stream import MalformedRecord
from app.core.memory import MemoryEventPublisher
from app.core.telemetry import Telemetry
from app.entrypoints.lambda_relay import event_reader
from app.orders.models import OrderStatus

TOLD = Telemetry(a_settings())


class RejectingPublisher:
    """A bus that takes some events and rejects others for good."""

    def __init__(self, *rejected: str) -> None:
        self.rejected = rejected
        self.published: list[str] = []

    def publish(self, events: list[Event]) -> list[Event]:
        self.published += [event.event_id for event in events if event.event_id not in self.rejected]
        return [event for event in events if event.event_id in self.rejected]


def shipped(**changes: Any) -> Any:
    return an_order(status=OrderStatus.SHIPPED, version=2, **changes)


def failures(answer: dict[str, Any]) -> list[str]:
    return [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]


class TestTranslation:
    def test_an_insert_says_that_an_order_was_placed(self) -> None:
        event = event_reader().to_event(
            a_record(an_order(owner="ann"), traceparent="nonsense", correlation_id="c-1")
        )
        assert event is not None
        assert (event.detail_type, event.event_id) == ("OrderPlaced", f"{an_order().id}:1")
        assert event.detail["order"]["owner"] == "ann"
        assert event.detail["correlation_id"] == "c-1"
        assert event.detail["traceparent"] == ""
        assert "previous_status" not in event.detail

    def test_a_new_version_says_from_where_to_where(self) -> None:
        trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        event = event_reader().to_event(a_record(shipped(), an_order(), traceparent=trace))
        assert event is not None
        assert (event.detail_type, event.event_id) == ("OrderStatusChanged", f"{an_order().id}:2")
        assert (event.detail["previous_status"], event.detail["order"]["status"]) == ("pending", "shipped")
        assert event.detail["traceparent"] == trace

    def test_the_same_record_makes_the_same_event(self) -> None:
        record = a_record(an_order())
        assert event_reader().to_event(record) == event_reader().to_event(copy.deepcopy(record))

    @pytest.mark.parametrize(
        "change",
        [
            pytest.param({"eventName": "REMOVE"}, id="removed"),
            pytest.param({"pk": {"S": "other#1"}}, id="not an order"),
        ],
    )
    def test_what_happens_to_no_order_is_no_event(self, change: dict[str, Any]) -> None:
        record = a_record(an_order())
        if "pk" in change:
            record["dynamodb"]["NewImage"] |= change
        else:
            record |= change
        assert event_reader().to_event(record) is None

    def test_a_write_that_keeps_the_version_is_no_event(self) -> None:
        assert event_reader().to_event(a_record(an_order(), an_order())) is None

    @pytest.mark.parametrize(
        "attribute",
        ["id", "customer", "product", "quantity", "status", "version", "created_at", "updated_at"],
    )
    def test_a_record_without_what_an_order_has_is_malformed(self, attribute: str) -> None:
        record = a_record(an_order())
        del record["dynamodb"]["NewImage"][attribute]
        with pytest.raises(MalformedRecord):
            event_reader().to_event(record)

    @pytest.mark.parametrize(
        "image",
        [{}, {"pk": "text"}, {"pk": {"S": None}}, None, [], {"pk": {"S": "order#1"}, "id": {"N": "1"}}],
    )
    def test_a_misshapen_image_is_malformed(self, image: Any) -> None:
        record = a_record(an_order())
        record["dynamodb"]["NewImage"] = image
        with pytest.raises(MalformedRecord):
            event_reader().to_event(record)


class TestRelay:
    def test_publishes_the_batch_and_reports_nothing(self) -> None:
        bus = MemoryEventPublisher()
        records = [a_record(an_order(), sequence="1"), a_record(shipped(), an_order(), sequence="2")]
        assert relay({"Records": records}, event_reader(), bus, TOLD) == {"batchItemFailures": []}
        assert [event.detail_type for event in bus.published] == ["OrderPlaced", "OrderStatusChanged"]

    def test_reports_just_the_record_that_the_bus_rejected(self) -> None:
        ids = [f"0199a6f5-1c00-7000-8000-00000000000{n}" for n in range(3)]
        bus = RejectingPublisher(f"{ids[1]}:1")
        records = [a_record(an_order(id=each), sequence=str(n)) for n, each in enumerate(ids)]
        assert failures(relay({"Records": records}, event_reader(), bus, TOLD)) == ["1"]
        assert bus.published == [f"{ids[0]}:1", f"{ids[2]}:1"]

    def test_a_malformed_record_holds_nobody_up(self) -> None:
        bus = MemoryEventPublisher()
        poison = a_record(an_order(), sequence="1")
        del poison["dynamodb"]["NewImage"]["quantity"]
        records = [poison, a_record(an_order(), sequence="2")]
        assert failures(relay({"Records": records}, event_reader(), bus, TOLD)) == ["1"]
        assert [event.event_id for event in bus.published] == [f"{an_order().id}:1"]

    def test_a_record_without_an_image_is_counted_too(self, capsys: pytest.CaptureFixture[str]) -> None:
        record = a_record(an_order(), sequence="1")
        record["dynamodb"]["NewImage"] = None
        assert failures(relay({"Records": [record]}, event_reader(), MemoryEventPublisher(), TOLD)) == ["1"]
        assert json.loads(capsys.readouterr().out)["RelayFailures"] == 1

    def test_when_all_fail_all_are_reported(self) -> None:
        bus = RejectingPublisher(f"{an_order().id}:1")
        assert failures(
            relay({"Records": [a_record(an_order(), sequence="7")]}, event_reader(), bus, TOLD)
        ) == ["7"]

    def test_logs_each_record_under_its_own_correlation_id(self, capsys: pytest.CaptureFixture[str]) -> None:
        other = an_order(id="0199a6f5-1c00-7000-8000-000000000002")
        records = [
            a_record(an_order(), correlation_id="one", sequence="1"),
            a_record(other, correlation_id="two", sequence="2"),
        ]
        relay({"Records": records}, event_reader(), MemoryEventPublisher(), TOLD)
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [line["correlation_id"] for line in lines] == ["one", "two"]
        assert [line["event_id"] for line in lines] == [f"{an_order().id}:1", f"{other.id}:1"]


@pytest.mark.parametrize("path", sorted(Path("events").glob("relay-*.json")), ids=lambda path: path.stem)
def test_sample_events_do_what_their_names_say(path: Path) -> None:
    bus = MemoryEventPublisher()
    event = sample(path.stem)
    expected = [event["Records"][1]["dynamodb"]["SequenceNumber"]] if "unreadable" in path.stem else []
    assert failures(relay(event, event_reader(), bus, TOLD)) == expected
    assert len(bus.published) == 1
