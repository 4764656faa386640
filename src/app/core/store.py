"""What a resource's store does, whatever keeps it; `dynamodb.repository` and `memory` implement it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Generic, Protocol

import msgspec

from app.core.models import E, Entity
from app.core.times import timestamp


def sort_key(entity: Entity) -> str:
    """Return the place of an entity in every list: newest first is this key, descending."""
    return f"{timestamp(entity.created_at)}#{entity.id}"


class CreateResult(msgspec.Struct, Generic[E], frozen=True):
    """The outcome of `Repository.create`: the entity as stored, and whether this call stored it."""

    entity: E
    created: bool
    fingerprint: str  # of the request that the stored entity was created by


class UpdateResult(msgspec.Struct, Generic[E], frozen=True):
    """The outcome of `Repository.update`: the entity as it now is (None: there is none)."""

    entity: E | None
    updated: bool


class Query(msgspec.Struct, frozen=True):
    """One page of a list, newest first.

    `filters` are equalities of fields. `start_after` is the sort key to go on from, not included. With an
    owner, what the page costs depends on that owner's entities only, whatever the filters.
    """

    limit: int
    owner: str | None = None
    filters: Mapping[str, Any] = {}
    start_after: str | None = None


class Page(msgspec.Struct, Generic[E], frozen=True):
    """The entities of one page, and the sort key to go on from (None: this was the last page)."""

    items: list[E]
    next_key: str | None


class Repository(Protocol[E]):
    """The stored entities of one resource.

    Raises `DependencyUnavailable` when the database does not answer.
    """

    entity: type[E]

    async def create(self, entity: E, fingerprint: str) -> CreateResult[E]:
        """Store `entity` unless its id is taken; then return the one that is there. One call."""

    async def get(self, entity_id: str) -> E | None:
        """Return the entity, or None. Reads its own writes. One call."""

    async def update(
        self,
        entity_id: str,
        changes: Mapping[str, Any],
        *,
        allowed: Mapping[str, Collection[Any]] | None = None,
        owner: str | None = None,
        version: int | None = None,
    ) -> UpdateResult[E]:
        """Set `changes` and count the version up, if all holds that is given.

        `allowed`: the values that fields may have before. One call. Rejected: `updated` is False and `entity`
        is what is stored.
        """

    async def page(self, query: Query) -> Page[E]:
        """Return one page. It may be short, even empty, with more to follow, when filters match little."""

    async def check_health(self) -> None:
        """Return if the database answers."""
