"""The relay's Lambda function: stream records in, events on the bus out."""

from __future__ import annotations

import functools
from typing import Any

from app.core.events.publisher import EventBridgePublisher
from app.core.events.relay import relay
from app.core.events.stream import EventReader
from app.core.settings import Settings
from app.core.telemetry import Telemetry
from app.resources import load


def handler(event: dict[str, Any], lambda_context: Any) -> dict[str, Any]:
    """Publish the events of a batch of stream records; report the records that failed."""
    return relay(event, event_reader(), _publisher(), _telemetry(), lambda_context)


@functools.cache
def event_reader() -> EventReader:
    """Return the reader of every resource's events."""
    return EventReader(module.source for module in load("events").values())


@functools.cache
def _publisher() -> EventBridgePublisher:
    return EventBridgePublisher(Settings.from_env().event_bus_name)


@functools.cache
def _telemetry() -> Telemetry:
    return Telemetry(Settings.from_env()).install()
