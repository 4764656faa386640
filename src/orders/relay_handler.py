"""From the table's stream to the event bus: what was written is published, at least once.

A record that fails is reported by its sequence number; Lambda brings it again, with those after it,
and when its retries are used up sends word of it to the dead-letter queue. Meanwhile the others of
the batch have gone out already: a record that cannot be published holds back no other for good.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.data_classes.dynamo_db_stream_event import DynamoDBRecord

from orders import context
from orders.adapters.eventbridge import EventBridgePublisher
from orders.adapters.stream import MalformedRecord, event_of, text
from orders.ports import Event, EventPublisher
from orders.settings import Settings

_log = logging.getLogger("orders")


class NotPublished(Exception):
    """The bus did not take the event, though it was asked several times."""


def handler(event: dict[str, Any], lambda_context: Any) -> dict[str, Any]:
    """Publish the events of a batch of stream records; report the records that failed."""
    return relay(event, _publisher(), lambda_context)


def relay(event: dict[str, Any], publisher: EventPublisher, lambda_context: Any = None) -> dict[str, Any]:
    """Translate every record, publish what came out together, then settle record by record."""
    outcomes = {record["dynamodb"]["SequenceNumber"]: _translated(record) for record in event["Records"]}
    events = [outcome for outcome in outcomes.values() if isinstance(outcome, Event)]
    refused = {event.id for event in publisher.publish(events)} if events else set()

    def settle(record: DynamoDBRecord) -> None:
        outcome = outcomes[record.raw_event["dynamodb"]["SequenceNumber"]]
        _follow(record.raw_event)
        if isinstance(outcome, MalformedRecord):
            _log.error("unreadable stream record", extra={"problem": str(outcome)})
            raise outcome
        if outcome is None:
            return
        facts = {"event_id": outcome.id, "detail_type": outcome.detail_type}
        if outcome.id in refused:
            _log.error("event not published", extra=facts)
            raise NotPublished(outcome.id)
        _log.info("event published", extra=facts)

    # When all fail that is no other case than when some do: each is reported, and none is lost.
    processor = BatchProcessor(EventType.DynamoDBStreams, raise_on_entire_batch_failure=False)
    return dict(process_partial_response(event, settle, processor, lambda_context))


def _translated(record: dict[str, Any]) -> Event | MalformedRecord | None:
    try:
        return event_of(record)
    except MalformedRecord as problem:
        return problem


def _follow(record: dict[str, Any]) -> None:
    """Let what is logged of this record carry the trace and correlation id of the write."""
    image = record["dynamodb"].get("NewImage", {})
    context.traceparent.set(text(image, "traceparent"))
    context.correlation_id.set(text(image, "correlation_id"))


@functools.cache
def _publisher() -> EventPublisher:
    return EventBridgePublisher(Settings.from_env().event_bus_name)
