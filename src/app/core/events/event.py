"""Events: facts, in the past tense. A resource declares what they hold, and which follows from which change.

    class OrderPlaced(Event):
        order: Order

    def changed(old: Order | None, new: Order) -> Event | None: ...

An event's id is `<id>:<version>`.
The relay may publish one event twice, never two different ones with the same id, so a consumer can tell what
it has already seen.
"""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from app.core.context import known_parent
from app.core.models import Entity, UtcTime
from app.core.times import timestamp


class Event(msgspec.Struct, kw_only=True):
    """The detail of an event. The class name is the detail type on the bus."""

    # Grows when a field goes or changes its meaning; a new field alone is no new version.
    schema_version: Literal[1] = 1
    event_id: Annotated[
        str,
        Meta(
            pattern="^[0-9a-f-]{36}:[1-9][0-9]*$",
            description="<id>:<version>. The same for every delivery of the same fact.",
        ),
    ] = ""
    occurred_at: UtcTime | UnsetType = UNSET
    correlation_id: Annotated[str, Meta(description="Of the request that caused it; empty when unknown.")] = (
        ""
    )
    traceparent: Annotated[
        str,
        Meta(
            pattern="^$|^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$",
            description="W3C Trace Context of that request; empty when unknown.",
        ),
    ] = ""

    @property
    def detail_type(self) -> str:
        """The event's name on the bus."""
        return type(self).__name__

    @property
    def detail(self) -> dict[str, Any]:
        """The event as JSON has it: `docs/events/<detail_type>.json`. Every time has the same width."""
        return _plain(self)  # type: ignore[no-any-return]

    def about(self, entity: Entity, traceparent: str, correlation_id: str) -> Event:
        """Say of which state of which entity it is, and in which trace."""
        self.event_id = f"{entity.id}:{entity.version}"
        self.occurred_at = entity.updated_at
        self.correlation_id = correlation_id
        # What a caller sent may be anything; consumers get a trace or none.
        self.traceparent = known_parent(traceparent)
        return self


def _plain(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return {name: _plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, datetime):
        return timestamp(value)
    return str(value) if isinstance(value, Enum) else value
