"""Both sides of the bus are held to `docs/events/*.json`: what we publish, and what consumers rely on."""

from __future__ import annotations

import copy
import json
from datetime import UTC, datetime
from enum import Enum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, FormatChecker
from scripts import generate
from tests.builders import ROOT, a_record, an_envelope, an_order, sample

from app.core.events.consumer import MalformedEvent
from app.core.events.event import Event
from app.core.models import split, type_hints
from app.core.times import timestamp
from app.entrypoints.lambda_relay import event_reader
from app.orders.models import Order, OrderStatus
from app.orders.receipts import receipt_html, write_receipt
from app.resources import load

SCHEMAS = {path.stem: json.loads(path.read_text()) for path in (ROOT / "docs" / "events").glob("*.json")}
SOURCES = {name: module.source for name, module in load("events").items()}
FORMATS = FormatChecker()


@FORMATS.checks("date-time", raises=ValueError)
def is_moment(value: object) -> bool:
    return not isinstance(value, str) or bool(datetime.fromisoformat(value))


VALIDATORS = {name: Draft202012Validator(schema, format_checker=FORMATS) for name, schema in SCHEMAS.items()}

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=200)
moments = st.datetimes(datetime(2020, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))
traces = st.one_of(
    st.text(max_size=60), st.from_regex(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", fullmatch=True)
)


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Whatever a field of a stored entity may hold."""
    bare, notes, optional = split(hint)
    low, high = (
        next((each for note in notes if (each := getattr(note, end)) is not None), None)
        for end in ("ge", "le")
    )
    if optional:
        return st.none() | names
    if issubclass(bare, Enum):
        return st.sampled_from(bare)
    if any(note.extra_json_schema for note in notes):
        return st.uuids().map(str)
    strategies = {str: names, int: st.integers(low, high or 10**18), datetime: moments, bool: st.booleans()}
    return strategies[bare]


def entities(struct: type[Any], **fields: Any) -> st.SearchStrategy[Any]:
    made = {
        name: values(hint) for name, hint in type_hints(struct).items() if name in struct.__struct_fields__
    }
    return st.builds(struct, **{**made, **{name: st.just(value) for name, value in fields.items()}})


orders = entities(Order, status=OrderStatus.PENDING, version=1)


def assert_documented(event: Event | None) -> None:
    if event is None:  # a change that nobody is told of
        return
    VALIDATORS[event.detail_type].validate(json.loads(an_envelope(event))["detail"])


class TestProducer:
    @pytest.mark.parametrize("resource", SOURCES)
    @given(data=st.data(), trace=traces, correlation_id=st.text(max_size=128))
    def test_every_new_entity_is_as_documented(
        self, resource: str, data: st.DataObject, trace: str, correlation_id: str
    ) -> None:
        entity = data.draw(entities(SOURCES[resource].entity, version=1))
        record = a_record(entity, traceparent=trace, correlation_id=correlation_id)
        event = event_reader().to_event(record)
        assert event is not None
        assert_documented(event)

    @pytest.mark.parametrize("resource", SOURCES)
    @given(data=st.data(), leap=st.sampled_from([1, 1000]), trace=traces)
    def test_every_change_is_as_documented(
        self, resource: str, data: st.DataObject, leap: int, trace: str
    ) -> None:
        """From any state to any, as a restore may do, by one version or by a thousand."""
        before = data.draw(entities(SOURCES[resource].entity))
        after = data.draw(entities(type(before), id=before.id, version=before.version + leap))
        assert_documented(event_reader().to_event(a_record(after, before, traceparent=trace)))

    def test_every_event_has_a_schema_and_every_schema_an_event(self) -> None:
        assert {event.__name__ for event, _ in generate.events()} == SCHEMAS.keys()

    @pytest.mark.parametrize("name", SCHEMAS)
    def test_the_schemas_are_schemas_and_their_examples_follow_them(self, name: str) -> None:
        Draft202012Validator.check_schema(SCHEMAS[name])
        for example in SCHEMAS[name]["examples"]:
            VALIDATORS[name].validate(example)

    @pytest.mark.parametrize("name", SCHEMAS)
    def test_the_schemas_reject_what_lacks_a_required_field(self, name: str) -> None:
        for path in required(SCHEMAS[name]):
            assert not VALIDATORS[name].is_valid(without(SCHEMAS[name]["examples"][0], path)), path

    def test_the_samples_in_queues_are_as_documented(self) -> None:
        record = sample("receipts-order-placed")["Records"][0]
        VALIDATORS["OrderPlaced"].validate(json.loads(record["body"])["detail"])


class TestConsumer:
    """The receipts consumer; one of your own deserves the same four."""

    @given(order=orders, trace=traces)
    def test_understands_whatever_is_published(self, order: Order, trace: str) -> None:
        event = event_reader().to_event(a_record(order, traceparent=trace))
        assert event is not None
        placed = write_receipt.read(an_envelope(event))
        assert placed is not None
        assert (placed.order.id, placed.order.customer) == (order.id, order.customer)
        assert placed.order.placed_at == order.created_at

    def test_understands_the_documented_example(self) -> None:
        assert write_receipt.read(envelope(SCHEMAS["OrderPlaced"]["examples"][0])) is not None

    def test_does_not_mind_fields_that_it_does_not_know(self) -> None:
        detail = copy.deepcopy(SCHEMAS["OrderPlaced"]["examples"][0])
        detail["new"] = detail["order"]["new"] = {"anything": 1}
        assert write_receipt.read(envelope(detail)) is not None

    def test_needs_only_fields_that_the_schema_promises(self) -> None:
        """Without a promised field it may reject the event; without any other it must not."""
        example = SCHEMAS["OrderPlaced"]["examples"][0]
        promised = required(SCHEMAS["OrderPlaced"])
        needed = set()
        for path in [
            ("schema_version",),
            *((name,) for name in example),
            *(("order", n) for n in example["order"]),
        ]:
            try:
                write_receipt.read(envelope(without(example, path)))
            except MalformedEvent:
                needed.add(path)
        assert needed <= set(promised)
        assert ("order", "product") in needed


# What a consumer reads, as JSON text: right, odd and wrong. JSON has one type of number, with many spellings.
TEXTS: dict[tuple[str, ...], st.SearchStrategy[str]] = {
    ("schema_version",): st.sampled_from(
        ["1", "1.0", "1e0", "10e-1", "2", "0", "1.5", "true", '"1"', "null"]
    ),
    ("order", "quantity"): st.one_of(
        st.integers(-1, 10**18).map(str),
        st.floats(0, 1e6).map(str),
        st.sampled_from(["5.0", "5e0", "1e3", "50E-1", "0.5", "0", "-0.0", "true", '"5"', "null", "[5]"]),
    ),
    ("order", "customer"): st.one_of(names.map(json.dumps), st.sampled_from(['""', '" "', "5", "null"])),
    ("order", "product"): st.one_of(names.map(json.dumps), st.sampled_from(['""', "{}", "true"])),
    ("order", "id"): st.one_of(
        st.uuids().map(lambda each: f'"{each}"'),
        st.uuids().map(lambda each: f'"{str(each).upper()}"'),
        st.sampled_from(['""', '"../../etc"', "5", f'"{an_order().id} "', f'"urn:uuid:{an_order().id}"']),
    ),
    ("order", "created_at"): st.one_of(
        moments.map(lambda each: f'"{timestamp(each)}"'),
        st.builds(
            '"{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z"'.format,
            st.integers(0, 9999),
            *(st.integers(0, end) for end in (13, 32, 24, 60, 61)),
            st.integers(0, 999_999),
        ),
        st.sampled_from(['"2026-01-02T03:04:05Z"', '"2026-01-02T03:04:05.678901+00:00"', '"yesterday"', "0"]),
    ),
}
changes = st.lists(st.sampled_from(sorted(TEXTS)), max_size=2, unique=True).flatmap(
    lambda paths: st.fixed_dictionaries({path: TEXTS[path] for path in paths})
)


@settings(max_examples=500, deadline=None)
@given(changed=changes)
def test_an_event_is_read_if_and_only_if_the_schema_allows_it(changed: dict[tuple[str, ...], str]) -> None:
    """As far as the consumer reads it: other fields may come and go."""
    detail = copy.deepcopy(SCHEMAS["OrderPlaced"]["examples"][0])
    for path in changed:
        put(detail, path, str(path))
    message = envelope(detail)
    for path, text in changed.items():
        message = message.replace(json.dumps(str(path)), text)
    if VALIDATORS["OrderPlaced"].is_valid(json.loads(message)["detail"]):
        placed = write_receipt.read(message)
        assert placed is not None
        assert receipt_html(placed.order)
    else:
        with pytest.raises(MalformedEvent):
            write_receipt.read(message)


def put(detail: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for name in path[:-1]:
        detail = detail[name]
    detail[path[-1]] = value


def envelope(detail: dict[str, Any]) -> str:
    return json.dumps({"detail-type": "OrderPlaced", "source": "orders", "detail": detail})


def required(schema: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the paths of what the schema promises, the entity's fields too."""
    found: list[tuple[str, ...]] = []
    for name in schema["required"]:
        found.append((name,))
        definition = schema["properties"][name].get("$ref", "").rpartition("/")[2]
        inner = schema["$defs"].get(definition, {}).get("required", ())
        found += [(name, field) for field in inner]
    return found


def without(detail: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    changed = copy.deepcopy(detail)
    inner = changed
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    return changed
