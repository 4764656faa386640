"""From the table's stream to the event bus: what was written is published, at least once.

A record that fails is reported by its sequence number; Lambda brings it again, with those after it,
and when its retries are used up sends word of it to the dead-letter queue. Meanwhile the others of
the batch have gone out already: a record that cannot be published holds back no other for good.
"""

from __future__ import annotations

import functools
import time
from typing import Any

from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.data_classes.dynamo_db_stream_event import DynamoDBRecord

from app.core import context, telemetry
from app.core.events.publisher import EventBridgePublisher
from app.core.events.stream import MalformedRecord, event_of, text
from app.core.settings import Settings
from app.core.telemetry import Telemetry
from app.orders.ports import Event, EventPublisher


class NotPublished(Exception):
    """The bus did not take the event, though it was asked several times."""


def handler(event: dict[str, Any], lambda_context: Any) -> dict[str, Any]:
    """Publish the events of a batch of stream records; report the records that failed."""
    return relay(event, _publisher(), _telemetry(), lambda_context)


def relay(
    event: dict[str, Any], publisher: EventPublisher, told: Telemetry, lambda_context: Any = None
) -> dict[str, Any]:
    """Translate every record, publish what came out together, then settle record by record."""
    outcomes = {record["dynamodb"]["SequenceNumber"]: _translated(record) for record in event["Records"]}
    events = [outcome for outcome in outcomes.values() if isinstance(outcome, Event)]
    refused = {event.id for event in publisher.publish(events)} if events else set()
    request_id = getattr(lambda_context, "aws_request_id", "")
    xray = context.invocation_xray()  # the platform's segments are in this trace, not in the order's

    def settle(record: DynamoDBRecord) -> None:
        change = record.raw_event["dynamodb"]
        outcome = outcomes[change["SequenceNumber"]]
        if outcome is None:
            return
        trace = _trace(change)
        with told.record("relay", "event", request_id, failures="RelayFailures", xray_trace=xray, **trace):
            telemetry.note(sequence_number=change["SequenceNumber"])
            if isinstance(outcome, MalformedRecord):
                raise outcome
            order_id = outcome.detail["order"]["id"]
            telemetry.note(event_id=outcome.id, detail_type=outcome.detail_type, order_id=order_id)
            if outcome.id in refused:
                raise NotPublished(outcome.id)
            telemetry.count("EventsRelayed")
            written_at = change.get("ApproximateCreationDateTime")
            if written_at:  # in whole seconds, so a lag of less than one may come out as none
                telemetry.count("RelayLag", max(0.0, round((time.time() - written_at) * 1000)))

    # When all fail that is no other case than when some do: each is reported, and none is lost.
    processor = BatchProcessor(EventType.DynamoDBStreams, raise_on_entire_batch_failure=False)
    return dict(process_partial_response(event, settle, processor, lambda_context))


def _translated(record: dict[str, Any]) -> Event | MalformedRecord | None:
    try:
        return event_of(record)
    except MalformedRecord as problem:
        return problem


def _trace(change: dict[str, Any]) -> dict[str, str]:
    """Return the trace and correlation id of the write, as far as a record has any."""
    try:
        return {name: text(change["NewImage"], name) for name in ("traceparent", "correlation_id")}
    except (AttributeError, KeyError, TypeError):
        return {}


@functools.cache
def _publisher() -> EventPublisher:
    return EventBridgePublisher(Settings.from_env().event_bus_name)


@functools.cache
def _telemetry() -> Telemetry:
    told = Telemetry(Settings.from_env())
    told.install()
    return told
