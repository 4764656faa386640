"""From a record of the table's stream to the event it stands for. Pure: no I/O, no clock.

Record (what matters of it; images have the shape that `core/dynamodb/repository.py` describes):

    {"eventName": "INSERT" | "MODIFY" | "REMOVE",
     "dynamodb": {"SequenceNumber": "...", "NewImage": {...}, "OldImage": {...}}}
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from app.core.dynamodb.codec import Codec, Item
from app.core.events.event import Event


class MalformedRecord(ValueError):
    """The record is not a change of an entity as we store them; no retry will change that."""


class Source(msgspec.Struct, frozen=True):
    """The events of one resource: `changed` takes the entity before (None: it is new) and after."""

    prefix: str  # of its items' keys
    entity: type[Any]
    changed: Callable[[Any, Any], Event | None]


class EventReader:
    """Reads the records of all resources."""

    def __init__(self, sources: Iterable[Source]) -> None:
        self._sources = {source.prefix: (source.changed, Codec(source.entity)) for source in sources}

    def to_event(self, record: dict[str, Any]) -> Event | None:
        """Return the event, or None when nothing happened that others should know.

        Raises `MalformedRecord`.
        """
        if record.get("eventName") == "REMOVE":
            return None
        try:
            images = record["dynamodb"]
            new: Item = images["NewImage"]
            source = self._sources.get(new["pk"]["S"].partition("#")[0])
            if source is None:
                return None
            changed, codec = source
            entity, before = codec.from_item(new), None
            if record["eventName"] == "INSERT":
                if entity.version > 1:  # put back by a restore: its events went out in its first life
                    return None
            else:
                before = codec.from_item(images["OldImage"])
                if before.version == entity.version:  # an attribute of ours moved, not the entity
                    return None
            event = changed(before, entity)
            if event is not None:
                event.about(entity, text(new, "traceparent"), text(new, "correlation_id"))
            return event
        except (AttributeError, KeyError, TypeError, ValueError) as broken:
            raise MalformedRecord(f"{type(broken).__name__}: {broken}") from broken


def text(item: Item, name: str) -> str:
    """Return a text attribute, or "" when the item has none."""
    return str(item.get(name, {}).get("S", ""))
