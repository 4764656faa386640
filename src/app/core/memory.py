"""Stores in memory: first-class implementations for the unit suite, held to the same contract."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Generic

import msgspec

from app.core.events.event import Event
from app.core.models import E
from app.core.store import CreateResult, Page, Query, UpdateResult, sort_key


class MemoryRepository(Generic[E]):
    """A `Repository` in a dictionary, for one event loop."""

    def __init__(self, entity: type[E]) -> None:
        self.entity = entity
        self._stored: dict[str, tuple[E, str]] = {}

    async def create(self, entity: E, fingerprint: str) -> CreateResult[E]:
        """Store the entity unless its id is taken."""
        stored, first = self._stored.setdefault(entity.id, (entity, fingerprint))
        return CreateResult(stored, created=stored is entity, fingerprint=first)

    async def get(self, entity_id: str) -> E | None:
        """Return the entity, or None."""
        found = self._stored.get(entity_id)
        return found[0] if found else None

    async def update(
        self,
        entity_id: str,
        changes: Mapping[str, Any],
        *,
        allowed: Mapping[str, Collection[Any]] | None = None,
        owner: str | None = None,
        version: int | None = None,
    ) -> UpdateResult[E]:
        """Set the fields if everything matches."""
        if entity_id not in self._stored:
            return UpdateResult(None, updated=False)
        entity, fingerprint = self._stored[entity_id]
        if (
            any(getattr(entity, name) not in choices for name, choices in (allowed or {}).items())
            or (owner is not None and entity.owner != owner)
            or (version is not None and entity.version != version)
        ):
            return UpdateResult(entity, updated=False)
        updated: E = msgspec.structs.replace(entity, **changes, version=entity.version + 1)  # type: ignore[type-var]
        self._stored[entity_id] = (updated, fingerprint)
        return UpdateResult(updated, updated=True)

    async def page(self, query: Query) -> Page[E]:
        """Return one page of the sorted whole."""
        wanted = {name: value for name, value in query.filters.items() if value is not None}
        if query.owner is not None:
            wanted["owner"] = query.owner
        matching = sorted(
            (
                entity
                for entity, _ in self._stored.values()
                if all(getattr(entity, name) == value for name, value in wanted.items())
                and (query.start_after is None or sort_key(entity) < query.start_after)
            ),
            key=sort_key,
            reverse=True,
        )
        page = matching[: query.limit]
        return Page(page, sort_key(page[-1]) if len(matching) > len(page) else None)

    async def check_health(self) -> None:
        """Memory always answers."""


class MemoryEventPublisher:
    """An `EventPublisher` that keeps what it is given."""

    def __init__(self) -> None:
        self.published: list[Event] = []

    def publish(self, events: list[Event]) -> list[Event]:
        """Keep the events; none is rejected."""
        self.published.extend(events)
        return []


class FixedCursorKey:
    """A `CursorKey` known to the test."""

    def __init__(self, key: bytes = b"k" * 32) -> None:
        self._key = key

    async def cursor_key(self) -> bytes:
        """Return the key."""
        return self._key
