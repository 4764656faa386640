"""The repository of a resource on DynamoDB: one table for all resources, one item for each entity.

Item (attribute names as stored; S unless noted):

    pk             <resource>#<id>                    the only table key
    <field>        each field of the entity           `codec`; absent when None
    sort_key       <created_at>#<id>                  sort key of every index; newest first is descending
    shard          <resource>#<n>, n = hash(id) mod N by-shard
    owner_key      <resource>#<owner>                 by-owner; absent when the API is open
    filter_key     <resource>#<value>                 by-filter, of the resource's one indexed field
    fingerprint    SHA-256 of the request             tells a replay from a reused idempotency key
    write_id       new with every write               tells our own resent write from another's
    traceparent, correlation_id                       of the last write; the relay passes them on

Access patterns, and what one costs (items up to 1 KB; the indexes project everything):

    create                  PutItem if pk is free; else the stored item comes back   3 WCU (4 with an owner)
    get                     GetItem, consistent                                      1 RCU
    update                  UpdateItem on what it asks of fields, owner, version     3 WCU (4 with an owner)
    list all                Query on every shard, merged by sort key                 N x (s + s / 2 + 1) items
    an owner's              Query by-owner                                           limit + 1 items
    by the indexed field    Query by-filter, for admins                              limit + 1 items
    by another field, or    a filter on one of these: at most `_MAX_ROUNDS` Queries on each partition,
    an owner's by any       of `_FILTERED_READ` items or a page, then a short page with a cursor

A list with an owner reads that owner's items and no others. So neither what it costs nor how it is cut into
pages tells of anyone else's.

Of a list of all each shard is asked for its share s = (limit + 1) / N, rounded up, half as much again, and
one, for they do not spread evenly: 40 items for a page of 20 and 160 for one of 100 with 4 shards, 128 for
one of 20 with 64. A shard that holds more of the page is asked again. Counted by
tests/local/test_list_cost.py.

One partition of an index takes 1,000 WCU a second and throttles the table's writes beyond
(https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/bp-partition-key-design.html), so the list
of all is spread over N shards. N may grow but not shrink, for a list reads the shards 0 to N-1.
"""

from __future__ import annotations

import asyncio
import uuid
import zlib
from collections.abc import Collection, Mapping
from functools import cached_property
from operator import attrgetter
from typing import Any, Generic

import msgspec

from app.core import context
from app.core.aws.client import AwsCallError, AwsClient, Bulkhead, bounded
from app.core.dynamodb.codec import Codec, Item
from app.core.models import E
from app.core.store import CreateResult, Page, Query, UpdateResult, sort_key

# Each index, and the attribute that is its partition key; `sort_key` is the sort key of all.
INDEXES = {"by-shard": "shard", "by-filter": "filter_key", "by-owner": "owner_key"}
# A page gives up after this many Queries on a partition and answers short, with a cursor.
_MAX_ROUNDS = 4
# With a filter, a round looks at this many items at least, to spend few round trips on few matches.
_FILTERED_READ = 200


class Table:
    """The table, its client, and the places for those who wait for it. `shards` may grow, never shrink."""

    def __init__(self, client: AwsClient, name: str, shards: int) -> None:
        self.name = name
        self.shards = shards
        self.bulkhead = Bulkhead("dynamodb")
        self._client = client

    async def call(self, operation: str, request: dict[str, Any], response: type[Any] = dict) -> Any:
        """Call DynamoDB about the table. See `AwsClient.call`."""
        return await self._client.call(operation, {"TableName": self.name, **request}, response)

    @bounded
    async def update_if(self, request: dict[str, Any]) -> bool:
        """Call UpdateItem; return whether its condition held."""
        try:
            await self.call("UpdateItem", request)
        except AwsCallError as error:
            if error.code != "ConditionalCheckFailedException":
                raise
            return False
        return True


class DynamoRepository(Generic[E]):
    """A `Repository` in the table.

    `prefix` begins the keys of its items; `indexed` is the field of the index by-filter, if it has one.
    """

    def __init__(self, table: Table, entity: type[E], prefix: str, indexed: str = "") -> None:
        self.entity = entity
        self.bulkhead = table.bulkhead
        self._table = table
        self._prefix = prefix
        self._indexed = indexed
        # The fields that lists are found by, and the attributes that hold them as keys.
        self._index_names = {"owner": INDEXES["by-owner"]} | (
            {indexed: INDEXES["by-filter"]} if indexed else {}
        )

    @cached_property
    def _codec(self) -> Codec[E]:
        return Codec(self.entity)  # when first needed: a cold start pays for the resource that is asked for

    @bounded
    async def create(self, entity: E, fingerprint: str) -> CreateResult[E]:
        """Put the item if its key is free; the rejection itself brings the one that is there."""
        item = self.to_item(entity, fingerprint)
        try:
            await self._table.call(
                "PutItem",
                {
                    "Item": item,
                    "ConditionExpression": "attribute_not_exists(pk)",
                    "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
                },
            )
        except AwsCallError as error:
            stored = self._stored(error)
            if stored is None:
                raise
            # If our first try did arrive and only its response was lost, what is there is our own.
            created = stored.write_id.s == item["write_id"]["S"]
            return CreateResult(self._codec.read(stored), created, stored.fingerprint.s)
        return CreateResult(entity, True, fingerprint)

    @bounded
    async def get(self, entity_id: str) -> E | None:
        """Read the item, consistently."""
        request = {"Key": self._key(entity_id), "ConsistentRead": True}
        output = await self._table.call("GetItem", request, self._codec.get_output)
        return self._codec.read(output.item) if output.item else None

    @bounded
    async def update(
        self,
        entity_id: str,
        changes: Mapping[str, Any],
        *,
        allowed: Mapping[str, Collection[Any]] | None = None,
        owner: str | None = None,
        version: int | None = None,
    ) -> UpdateResult[E]:
        """Update in one conditional call; the rejection itself brings the present item."""
        names, values = {"#version": "version"}, dict[str, dict[str, Any]]()
        set_to = self._attributes(changes)
        assignments = ["#version = #version + :one"]
        values[":one"] = {"N": "1"}
        for name, value in set_to.items():
            names[f"#{name}"] = name
            values[f":{name}"] = value
            assignments.append(f"#{name} = :{name}")
        removed = [name for name, value in changes.items() if value is None]
        removed += [key for name, key in self._index_names.items() if name in removed]
        names |= {f"#{name}": name for name in removed}
        expression = f"SET {', '.join(assignments)}"
        if removed:
            expression += f" REMOVE {', '.join(f'#{name}' for name in removed)}"
        conditions = ["attribute_exists(pk)"]
        for name, choices in (allowed or {}).items():
            names[f"#{name}"] = name
            conditions.append(self._one_of(name, choices, values))
        for name, wanted in (("owner", owner), ("version", version)):
            if wanted is not None:
                names[f"#{name}"] = name
                conditions.append(f"#{name} = :if_{name}")
                values[f":if_{name}"] = self._codec.write({name: wanted})[name]
        try:
            output = await self._table.call(
                "UpdateItem",
                {
                    "Key": self._key(entity_id),
                    "UpdateExpression": expression,
                    "ConditionExpression": " AND ".join(conditions),
                    "ExpressionAttributeNames": names,
                    "ExpressionAttributeValues": values,
                    "ReturnValues": "ALL_NEW",
                    "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
                },
                self._codec.update_output,
            )
        except AwsCallError as error:
            if error.code != "ConditionalCheckFailedException":
                raise
            stored = self._stored(error)
            if stored is None:
                return UpdateResult(None, updated=False)
            return UpdateResult(
                self._codec.read(stored), updated=stored.write_id.s == set_to["write_id"]["S"]
            )
        return UpdateResult(self._codec.read(output.attributes), updated=True)

    @bounded
    async def page(self, query: Query) -> Page[E]:
        """Read the partitions that hold the list side by side, and merge them by sort key."""
        keys, request, values = self._list(query)

        async def read(shard: ShardReader) -> None:
            more = request | {"ExpressionAttributeValues": values | {":key": {"S": shard.key}}}
            if shard.last_key:
                more["ExclusiveStartKey"] = shard.last_key
            output = await self._table.call("Query", more, self._codec.query_output)
            shard.items += output.items
            shard.last_key = output.last_evaluated_key

        shards = incomplete = [ShardReader(key) for key in keys]
        for _ in range(_MAX_ROUNDS):
            reads = [asyncio.ensure_future(read(shard)) for shard in incomplete]
            try:
                await asyncio.gather(*reads)
            finally:  # when one fails, nobody waits for the others, and no place in the bulkhead counts them
                for task in reads:
                    task.cancel()
            items, incomplete = merge(shards, query.limit)
            if not incomplete:
                break
        else:
            # What the unread rest may still hold, from this sort key on, is left to the next page.
            safe_boundary = max(shard.last_read_key for shard in incomplete)
            items = [item for item in items if item.sort_key.s >= safe_boundary]
            if len(items) <= query.limit:
                return Page([*map(self._codec.read, items)], safe_boundary)
        page = items[: query.limit]
        more = len(items) > query.limit
        return Page([*map(self._codec.read, page)], page[-1].sort_key.s if more else None)

    async def check_health(self) -> None:
        """Read a key that no entity has."""
        await self.get("")

    def to_item(self, entity: E, fingerprint: str) -> Item:
        """Return the item to store."""
        fields: Any = entity.__struct_fields__  # type: ignore[attr-defined]  # an Entity is a Struct
        return {
            **self._key(entity.id),
            **self._attributes({name: getattr(entity, name) for name in fields}),
            "sort_key": {"S": sort_key(entity)},
            INDEXES["by-shard"]: {"S": self._index_key(shard_for(entity.id, self._table.shards))},
            "fingerprint": {"S": fingerprint},
        }

    def _attributes(self, values: Mapping[str, Any]) -> Item:
        """Return what a write of these fields sets: with them their index keys, its own id and its trace."""
        attributes = self._codec.write(values) | {
            "write_id": {"S": uuid.uuid4().hex},
            "traceparent": {"S": context.traceparent.get()},
            "correlation_id": {"S": context.correlation_id.get()},
        }
        for name, key in self._index_names.items():
            if name in attributes:
                attributes[key] = {"S": self._index_key(values[name])}
        return attributes

    def _list(self, query: Query) -> tuple[list[str], dict[str, Any], Item]:
        """Return the partitions that hold the list, the Query on each, and its values but for the key."""
        filters = {name: value for name, value in query.filters.items() if value is not None}
        if query.owner is not None:
            index, keys = "by-owner", [self._index_key(query.owner)]
        elif self._indexed in filters:
            index, keys = "by-filter", [self._index_key(filters.pop(self._indexed))]
        else:
            index, keys = "by-shard", [self._index_key(n) for n in range(self._table.shards)]
        condition, values = "#key = :key", dict[str, dict[str, Any]]()
        if query.start_after is not None:
            condition += " AND #sort_key < :start_after"
            values[":start_after"] = {"S": query.start_after}
        # The page and one more, shared out, with room for an uneven spread when there are several.
        share = -(-(query.limit + 1) // len(keys))
        limit = share if len(keys) == 1 else share + share // 2 + 1
        request: dict[str, Any] = {
            "IndexName": index,
            "ScanIndexForward": False,
            "KeyConditionExpression": condition,
            "ProjectionExpression": self._codec.projection,
            "ExpressionAttributeNames": {"#key": INDEXES[index], **self._codec.names},
            "Limit": max(limit, _FILTERED_READ // len(keys)) if filters else limit,
        }
        if filters:
            equal = [self._one_of(name, [value], values) for name, value in filters.items()]
            request["FilterExpression"] = " AND ".join(equal)
        return keys, request, values

    def _one_of(self, name: str, choices: Collection[Any], values: Item) -> str:
        """Return the condition that a field has one of these values, which are added to `values`.

        An item without the attribute has what the field then reads as.
        """
        # IN takes one operand at least; no field has the value "".
        given = sorted(choice for choice in choices if choice is not None)
        attributes = [self._codec.write({name: choice})[name] for choice in given] or [{"S": ""}]
        operands = {f":{name}_{n}": attribute for n, attribute in enumerate(attributes)}
        values |= operands
        condition = f"#{name} IN ({', '.join(operands)})"
        if name in self._codec.absent and self._codec.absent[name] in choices:
            condition = f"({condition} OR attribute_not_exists(#{name}))"
        return condition

    def _key(self, entity_id: str) -> Item:
        return {"pk": {"S": f"{self._prefix}#{entity_id}"}}

    def _index_key(self, value: object) -> str:
        return f"{self._prefix}#{value}"

    def _stored(self, error: AwsCallError) -> Any:
        if error.code != "ConditionalCheckFailedException" or not error.item:
            return None
        return msgspec.convert(error.item, self._codec.stored)


class ShardReader(msgspec.Struct):
    """How far one partition of an index has been read, newest first."""

    key: str
    items: list[Any] = []
    last_key: Item | None = None  # None after a read: it has no more

    @property
    def last_read_key(self) -> str:
        """Every item of the partition above this sort key has been read."""
        return str(self.last_key["sort_key"]["S"]) if self.last_key else ""


def merge(shards: list[ShardReader], limit: int) -> tuple[list[Any], list[ShardReader]]:
    """Return the newest `limit` + 1 items read, and the partitions that may hide newer ones."""
    items = [item for shard in shards for item in shard.items]
    items.sort(key=attrgetter("sort_key.s"), reverse=True)
    del items[limit + 1 :]
    page_end = items[-1].sort_key.s if len(items) > limit else ""
    return items, [shard for shard in shards if shard.last_read_key > page_end]


def shard_for(entity_id: str, shards: int) -> int:
    """Return the shard of an entity: stable between processes, even over any ids."""
    return zlib.crc32(entity_id.encode()) % shards
