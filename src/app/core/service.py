"""The use cases that every resource has: create once, read what is yours, change what has not moved, list."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Generic, Protocol

import msgspec

from app.core import cursor
from app.core.auth.caller import Caller
from app.core.errors import IdempotencyKeyReused, NotFound, VersionConflict
from app.core.ids import id_for, is_id, new_id
from app.core.models import E, Model, fingerprint
from app.core.store import Query, Repository
from app.core.times import now


class CursorKey(Protocol):
    """Where the key that encrypts cursors comes from; the same for every task and function."""

    async def cursor_key(self) -> bytes:
        """Return the 32-byte key."""


class Created(msgspec.Struct, Generic[E], frozen=True):
    """What `Service.create` returns. `replayed`: an earlier request with the same key created it."""

    entity: E
    replayed: bool


class Listed(msgspec.Struct, Generic[E], frozen=True):
    """One page, newest first, and the cursor of the next one."""

    items: list[E]
    next_cursor: str | None


class Service(Generic[E]):
    """The use cases of one resource. `name` begins its scopes: `<name>:read`, `<name>:write`, `<name>:admin`.

    `initial` are the fields that a new entity has beside those that the caller sends.
    """

    def __init__(self, name: str, repository: Repository[E], cursor_key: CursorKey, **initial: Any) -> None:
        self.name = name
        self._repository = repository
        self._cursor_key = cursor_key
        self._entity: Any = repository.entity
        self._initial = initial

    async def create(self, caller: Caller, body: Model, idempotency_key: str | None = None) -> Created[E]:
        """Create an entity, once for each caller and idempotency key.

        Raises `IdempotencyKeyReused` when the key came with another body before.
        """
        moment = now()
        fields = {name: getattr(body, name) for name in body.__struct_fields__} | self._initial
        entity: E = self._entity(
            **fields,
            id=new_id() if idempotency_key is None else id_for(caller.subject, idempotency_key),
            version=1,
            created_at=moment,
            updated_at=moment,
            owner=caller.subject,
        )
        sent = fingerprint(body)
        result = await self._repository.create(entity, sent)
        if result.created:
            return Created(result.entity, replayed=False)
        if result.fingerprint != sent:
            raise IdempotencyKeyReused
        # As the first response showed it, whatever has happened to it since.
        stored: Any = result.entity
        first = msgspec.structs.replace(stored, **fields, version=1, updated_at=stored.created_at)
        return Created(first, replayed=True)

    async def get(self, caller: Caller, entity_id: str) -> E:
        """Return the entity. Raises `NotFound`, also when it is another caller's."""
        return self._visible(
            caller, entity_id, await self._repository.get(entity_id) if is_id(entity_id) else None
        )

    async def update(
        self,
        caller: Caller,
        entity_id: str,
        changes: Mapping[str, Any],
        *,
        allowed: Mapping[str, Collection[Any]] | None = None,
        version: int | None = None,
    ) -> tuple[E, bool]:
        """Set fields, if these fields have `allowed` values; return the entity, and whether it was changed.

        Raises `NotFound`; `VersionConflict` when `version` is given and stale.
        """
        if not is_id(entity_id):
            raise self._not_found(entity_id)
        result = await self._repository.update(
            entity_id,
            {**changes, "updated_at": now()},
            allowed=allowed,
            owner=None if caller.is_admin(self.name) else caller.subject,
            version=version,
        )
        entity = self._visible(caller, entity_id, result.entity)
        if not result.updated and version is not None and version != entity.version:
            raise VersionConflict(entity)
        return entity, result.updated

    async def list(
        self, caller: Caller, limit: int, after: str | None = None, filters: Mapping[str, Any] | None = None
    ) -> Listed[E]:
        """List the caller's entities (an admin: all), newest first; a filter that is None is none.

        A page may be short, even empty, and still have a `next_cursor`: filters are applied to a bounded
        number of entities. Raises `InvalidCursor` when `after` is not from this very list.
        """
        query = Query(limit, None if caller.is_admin(self.name) else caller.subject, filters or {})
        scope = self._scope(caller, query)
        if after is not None:
            start_after = cursor.decrypt(after, scope, await self._cursor_key.cursor_key())
            query = msgspec.structs.replace(query, start_after=start_after)
        page = await self._repository.page(query)
        if page.next_key is None:
            return Listed(page.items, None)
        return Listed(page.items, cursor.encrypt(page.next_key, scope, await self._cursor_key.cursor_key()))

    async def check_dependencies(self) -> None:
        """Return if the database answers. Raises `DependencyUnavailable`."""
        await self._repository.check_health()

    def _scope(self, caller: Caller, query: Query) -> bytes:
        """Return what a cursor is bound to: the list, who reads it, and with which filters."""
        filters = sorted((name, value) for name, value in query.filters.items() if value is not None)
        return msgspec.json.encode([self.name, caller.subject, caller.is_admin(self.name), filters])

    def _visible(self, caller: Caller, entity_id: str, entity: E | None) -> E:
        if entity is None or not (caller.is_admin(self.name) or entity.owner == caller.subject):
            raise self._not_found(entity_id)
        return entity

    def _not_found(self, entity_id: str) -> NotFound:
        return NotFound(self._entity.__name__.lower(), entity_id)
