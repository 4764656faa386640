"""A consumer of events: a queue's messages in, each handled by itself.

    @consumer("receipts", "OrderPlaced", documents)
    async def write_receipt(event: PlacedDetail, documents: DocumentStore) -> None: ...

    handler = write_receipt.handler

What it needs is made of the settings, once, by the functions that the decorator names after the detail type.
It decodes only the fields that it declares, so others may come and go.
An event may come twice, or again in a replay: what a consumer does, it does once.
A message that fails is reported alone, comes again, and ends in the dead-letter queue.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any, Generic, Protocol, TypeVar

import msgspec
from aws_lambda_powertools.utilities.batch import (
    AsyncBatchProcessor,
    EventType,
    async_process_partial_response,
)
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord

from app.core import context
from app.core.models import type_hints
from app.core.settings import Settings
from app.core.telemetry import Telemetry, add_log_fields, add_metric


class MalformedEvent(ValueError):
    """The message is not an event that the consumer understands; no retry will change that."""


class Detail(Protocol):
    """What every consumer reads of an event's detail."""

    event_id: str
    correlation_id: str
    traceparent: str


D = TypeVar("D", bound=Detail)


class _Envelope(msgspec.Struct, rename="kebab"):
    detail_type: str
    detail: msgspec.Raw


_envelope = msgspec.json.Decoder(_Envelope)


class Consumer(Generic[D]):
    """Handles the events of one detail type with one function."""

    def __init__(
        self,
        name: str,
        detail_type: str,
        needs: tuple[Callable[[Settings], Any], ...],
        handle: Callable[..., Awaitable[None]],
    ) -> None:
        detail: type[D] = next(iter(type_hints(handle).values()))
        self.name = name
        self._detail_type = detail_type
        self._needs = needs
        self._handle = handle
        self._decode = msgspec.json.Decoder(detail).decode

    def read(self, message: str) -> D | None:
        """Read an event as EventBridge hands it over; None when it is of another type.

        Raises `MalformedEvent`.
        """
        try:
            envelope = _envelope.decode(message)
            return self._decode(envelope.detail) if envelope.detail_type == self._detail_type else None
        except (msgspec.DecodeError, UnicodeError) as unreadable:
            raise MalformedEvent(str(unreadable)) from unreadable

    def handler(self, event: dict[str, Any], lambda_context: Any) -> dict[str, Any]:
        """Handle a batch of messages; report those that failed."""
        telemetry, needed = self._built
        return self.consume(event, telemetry, *needed, lambda_context=lambda_context)

    def consume(
        self, event: dict[str, Any], telemetry: Telemetry, *needed: Any, lambda_context: Any = None
    ) -> dict[str, Any]:
        """Handle every message by itself, side by side, with what the function needs."""
        request_id = getattr(lambda_context, "aws_request_id", "")
        xray = context.invocation_xray()  # the platform's segments are in this trace, not in the event's

        async def handle(record: SQSRecord) -> None:
            with telemetry.log_operation(
                self.name, "event", request_id, failures="ConsumerFailures", xray_trace=xray
            ) as log_context:
                add_log_fields(message_id=record.message_id)
                detail = self.read(record.body)
                if detail is None:
                    return
                telemetry.set_trace_context(log_context, detail.correlation_id, detail.traceparent, xray)
                add_log_fields(event_id=detail.event_id)
                await self._handle(detail, *needed)
                add_metric("ConsumedEvents")

        # When all fail that is no other case than when some do: each comes again by itself.
        processor = AsyncBatchProcessor(EventType.SQS, raise_on_entire_batch_failure=False)
        return dict(async_process_partial_response(event, handle, processor, lambda_context))

    @functools.cached_property
    def _built(self) -> tuple[Telemetry, list[Any]]:
        settings = Settings.from_env()
        return Telemetry(settings).install(), [build(settings) for build in self._needs]


def consumer(
    name: str, detail_type: str, *needs: Callable[[Settings], Any]
) -> Callable[[Callable[..., Awaitable[None]]], Consumer[Any]]:
    """Make a function that handles one event a consumer. `name` is the one in template.yaml."""
    return lambda handle: Consumer(name, detail_type, needs, handle)
