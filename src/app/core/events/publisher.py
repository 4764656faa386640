"""The `EventPublisher` on EventBridge.

`PutEvents` responds with 200 even when it took only some of the entries: each entry has its own result,
in the same sequence, and only those with an `ErrorCode` are sent again.
https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-putevents.html#eb-handle-failures-putevents
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import msgspec
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from app.core.aws.endpoints import region_for_sdk
from app.core.context import TRACEPARENT
from app.core.events.event import Event

SOURCE = "orders"

# https://docs.aws.amazon.com/eventbridge/latest/APIReference/API_PutEvents.html#API_PutEvents_RequestParameters
# Ten of ours are some 30 KB at most (each text of an entity has a bound), far below the limit in bytes.
_MAX_ENTRIES = 10
# What still fails after these tries, 0.2 s at most, is reported, and the stream brings it again.
_TRIES = 3
_PAUSE_SECONDS = 0.1

_log = logging.getLogger(__name__)


class EventBridgePublisher:
    """Publishes to one event bus."""

    def __init__(
        self, bus_name: str, client: Any = None, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        config = Config(connect_timeout=2, read_timeout=5, retries={"mode": "standard", "max_attempts": 3})
        self._client: Any = client or boto3.client("events", region_name=region_for_sdk(), config=config)
        self._bus = bus_name
        self._sleep = sleep

    def publish(self, events: list[Event]) -> list[Event]:
        """Publish in tens, resending what is rejected; return what was rejected to the end."""
        return [event for ten in _tens(events) for event in self._publish_ten(ten)]

    def _publish_ten(self, events: list[Event]) -> list[Event]:
        for attempt in range(_TRIES):
            if attempt:
                self._sleep(random.uniform(0, _PAUSE_SECONDS))  # noqa: S311  # spreads retries, hides nothing
            try:
                response = self._client.put_events(Entries=[self._entry(event) for event in events])
            except (BotoCoreError, ClientError) as failed:
                _log.warning("PutEvents failed", extra={"problem": str(failed), "events": len(events)})
                return events  # botocore has retried already
            results = zip(events, response["Entries"], strict=True)
            rejected = [(event, entry["ErrorCode"]) for event, entry in results if entry.get("ErrorCode")]
            if not rejected:
                return []
            codes = sorted({code for _, code in rejected})
            _log.warning("PutEvents rejected entries", extra={"problem": codes, "events": len(rejected)})
            events = [event for event, _ in rejected]
        return events

    def _entry(self, event: Event) -> dict[str, Any]:
        entry = {
            "EventBusName": self._bus,
            "Source": SOURCE,
            "DetailType": event.detail_type,
            "Detail": msgspec.json.encode(event.detail).decode(),
            "Time": event.occurred_at,
        }
        trace = xray_header(event.traceparent)
        return entry | {"TraceHeader": trace} if trace else entry


def xray_header(traceparent: str) -> str:
    """Spell a W3C traceparent as X-Ray does, or "" when it is none.

    https://docs.aws.amazon.com/xray/latest/devguide/xray-concepts.html#xray-concepts-tracingheader
    """
    parts = TRACEPARENT.fullmatch(traceparent)
    if parts is None:
        return ""
    sampled = int(parts["flags"], 16) & 1
    return f"Root=1-{parts['time']}-{parts['rest']};Parent={parts['parent']};Sampled={sampled}"


def _tens(events: list[Event]) -> Iterator[list[Event]]:
    return (events[start : start + _MAX_ENTRIES] for start in range(0, len(events), _MAX_ENTRIES))
