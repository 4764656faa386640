"""From the table's stream to the event bus: what was written is published, at least once.

A record that fails is reported by its sequence number; Lambda brings it again, with those after it,
and when its retries are used up puts a notice of it into the dead-letter queue. The other records of
the batch are published first: a record that cannot be published blocks no other one for good.
"""

from __future__ import annotations

import time
from typing import Any, Protocol

from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.data_classes.dynamo_db_stream_event import DynamoDBRecord

from app.core import context
from app.core.events.event import Event
from app.core.events.stream import EventReader, MalformedRecord, text
from app.core.telemetry import Telemetry, add_log_fields, add_metric


class NotPublished(Exception):
    """The bus did not take the event, though it was asked several times."""


class EventPublisher(Protocol):
    """The event bus."""

    def publish(self, events: list[Event]) -> list[Event]:
        """Publish; return those that the bus did not take, after retries."""


def relay(
    event: dict[str, Any],
    reader: EventReader,
    publisher: EventPublisher,
    telemetry: Telemetry,
    lambda_context: Any = None,
) -> dict[str, Any]:
    """Translate every record, publish what came out together, then report the result record by record."""
    outcomes = {record["dynamodb"]["SequenceNumber"]: _outcome(reader, record) for record in event["Records"]}
    events = [outcome for outcome in outcomes.values() if isinstance(outcome, Event)]
    rejected = {event.event_id for event in publisher.publish(events)} if events else set()
    request_id = getattr(lambda_context, "aws_request_id", "")
    xray = context.invocation_xray()  # the platform's segments are in this trace, not in the request's

    def report_result(record: DynamoDBRecord) -> None:
        change = record.raw_event["dynamodb"]
        outcome = outcomes[change["SequenceNumber"]]
        if outcome is None:
            return
        trace = _trace(change)
        with telemetry.log_operation(
            "relay", "event", request_id, failures="RelayFailures", xray_trace=xray, **trace
        ):
            add_log_fields(sequence_number=change["SequenceNumber"])
            if isinstance(outcome, MalformedRecord):
                raise outcome
            kind, _, entity_id = change["NewImage"]["pk"]["S"].partition("#")
            add_log_fields(event_id=outcome.event_id, detail_type=outcome.detail_type)
            add_log_fields(**{f"{kind}_id": entity_id})
            if outcome.event_id in rejected:
                raise NotPublished(outcome.event_id)
            add_metric("EventsRelayed")
            written_at = change.get("ApproximateCreationDateTime")
            if written_at:  # in whole seconds, so a lag of less than one may come out as none
                add_metric("RelayLag", max(0.0, round((time.time() - written_at) * 1000)))

    # When all fail that is no other case than when some do: each is reported, and none is lost.
    processor = BatchProcessor(EventType.DynamoDBStreams, raise_on_entire_batch_failure=False)
    return dict(process_partial_response(event, report_result, processor, lambda_context))


def _outcome(reader: EventReader, record: dict[str, Any]) -> Event | MalformedRecord | None:
    try:
        return reader.to_event(record)
    except MalformedRecord as problem:
        return problem


def _trace(change: dict[str, Any]) -> dict[str, str]:
    """Return the trace and correlation id of the write, as far as a record has any."""
    try:
        return {name: text(change["NewImage"], name) for name in ("traceparent", "correlation_id")}
    except (AttributeError, KeyError, TypeError):
        return {}
