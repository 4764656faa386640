"""The `OrderStore` on DynamoDB: one table, one item for each order.

Item (attribute names as stored; S unless noted):

    pk            order#<id>                      the only table key
    id, customer, product, status, created_at, updated_at, quantity (N), version (N)
    owner         the caller's sub                absent when the API is open
    position      <created_at>#<id>               sort key of every index; newest first is descending
    shard         orders#<n>, n = hash(id) mod N  orders-by-shard
    customer_key  customer#<customer>             orders-by-customer
    owner_key     owner#<owner>                   orders-by-owner; absent when the API is open
    fingerprint   SHA-256 of the placed body      tells a replay from a reused idempotency key
    write_id      new with every write            tells our own resent write from another's
    traceparent, correlation_id                   of the last write; the relay passes them on

Two other kinds of items, in no index and without events:

    pk            attachments#<order id>
    names (SS)    of the order's attachments, uploaded or offered

    pk            uploads#<day>#<caller's sub>    the sub is empty when the API is open
    reserved (N)  bytes of uploads offered to the caller on that day
    expires_at    (N) a day after it: the table deletes the item some time later

Access patterns, and what one costs (items up to 1 KB; the indexes project everything):

    place an order          PutItem if pk is free; else the stored item comes back   3 WCU (4 with an owner)
    get an order            GetItem, consistent                                      1 RCU
    change the status       UpdateItem on status, owner, version                     3 WCU (4 with an owner)
    all orders              Query on every shard, merged by position                 N x (s + s / 2 + 1) items
    an owner's orders       Query orders-by-owner                                    limit + 1 items
    a customer's orders     Query orders-by-customer, for admins                     limit + 1 items
    by status, or an        a filter on one of these: at most `_MAX_ROUNDS` Queries on each partition,
    owner's by customer     of `_FILTERED_READ` items or a page, then a short page with a cursor
    offer an upload         GetItem; UpdateItem on the names, UpdateItem on the      1 RCU, 2 WCU (names: one
                            caller's day                                             for each KB of them)

A list with an owner reads that owner's items and no others. So neither what it costs nor how it is cut into
pages tells of anyone else's orders.

Of all orders each shard is asked for its share s = (limit + 1) / N, rounded up, half as much again, and one,
for they do not spread evenly: 40 items for a page of 20 and 160 for one of 100 with 4 shards, 128 for one of
20 with 64. A shard that holds more of the page is asked again. Counted by tests/local/test_list_cost.py.

One partition of an index takes 1,000 WCU a second and throttles the table's writes beyond
(https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/bp-partition-key-design.html), so the list
of all orders is spread over N shards. N may grow but not shrink, for a list reads the shards 0 to N-1.
"""

from __future__ import annotations

import asyncio
import uuid
import zlib
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from operator import attrgetter
from typing import Any

import msgspec

from app.core import context
from app.core.aws.client import AwsCallError, AwsClient, Bulkhead, bounded
from app.orders.models import Order, OrderStatus, timestamp
from app.orders.ports import OrderPage, OrderQuery, Placed, StatusChange

Item = dict[str, dict[str, Any]]


class Text(msgspec.Struct, gc=False, rename="upper"):
    """An S attribute."""

    s: str


class Number(msgspec.Struct, gc=False, rename="upper"):
    """An N attribute."""

    n: str


class Moment(msgspec.Struct, gc=False, rename="upper"):
    """An S attribute that holds a time."""

    s: datetime


class Status(msgspec.Struct, gc=False, rename="upper"):
    """An S attribute that holds a status."""

    s: OrderStatus


class Listed(msgspec.Struct, gc=False):
    """What a list reads of an item: no more is asked for. Half the cost of a list is reading its items."""

    id: Text
    customer: Text
    product: Text
    quantity: Number
    status: Status
    version: Number
    created_at: Moment
    updated_at: Moment
    position: Text
    owner: Text | None = None

    def order(self) -> Order:
        """Return the order. Numbers are whole: they never pass through a float."""
        return Order(
            self.id.s,
            self.customer.s,
            self.product.s,
            int(self.quantity.n),
            self.status.s,
            int(self.version.n),
            self.created_at.s,
            self.updated_at.s,
            self.owner.s if self.owner else None,
        )


class Stored(Listed, gc=False, kw_only=True):
    """What is read of an item that is fetched by itself; the rest is skipped."""

    fingerprint: Text
    write_id: Text


class Got(msgspec.Struct, rename="pascal"):
    """The answer of GetItem."""

    item: Stored | None = None


class Updated(msgspec.Struct, rename="pascal"):
    """The answer of UpdateItem that returns ALL_NEW."""

    attributes: Stored


class Queried(msgspec.Struct, rename="pascal"):
    """The answer of Query."""

    items: list[Listed]
    last_evaluated_key: Item | None = None


_LISTED = {f"#{name}": name for name in Listed.__struct_fields__}
_PROJECTION = ", ".join(_LISTED)

# A page gives up after this many Queries on a partition and answers short, with a cursor.
_MAX_ROUNDS = 4
# With a filter, a round looks at this many items at least, to spend few round trips on few matches.
_FILTERED_READ = 200


class DynamoOrderStore:
    """Orders in a DynamoDB table. `shards` may grow between deployments, never shrink."""

    def __init__(self, client: AwsClient, table_name: str, shards: int) -> None:
        self._client = client
        self._table = table_name
        self._shards = shards
        self.bulkhead = Bulkhead("dynamodb")

    @bounded
    async def place(self, order: Order, fingerprint: str) -> Placed:
        """Put the order if its id is free; the refusal itself brings the one that is there."""
        item = item_of(order, fingerprint, self._shards)
        try:
            await self._client.call(
                "PutItem",
                {
                    "TableName": self._table,
                    "Item": item,
                    "ConditionExpression": "attribute_not_exists(pk)",
                    "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
                },
            )
        except AwsCallError as refused:
            stored = _stored(refused)
            if stored is None:
                raise
            # If our first try did arrive and only its answer was lost, what is there is our own.
            created = stored.write_id.s == item["write_id"]["S"]
            return Placed(stored.order(), created, stored.fingerprint.s)
        return Placed(order, True, fingerprint)

    @bounded
    async def get(self, order_id: str) -> Order | None:
        """Read the order, consistently."""
        request = {"TableName": self._table, "Key": _key(order_id), "ConsistentRead": True}
        answer: Got = await self._client.call("GetItem", request, Got)
        return answer.item.order() if answer.item else None

    @bounded
    async def change_status(
        self,
        order_id: str,
        target: OrderStatus,
        *,
        sources: frozenset[OrderStatus],
        at: datetime,
        owner: str | None = None,
        version: int | None = None,
    ) -> StatusChange:
        """Update in one conditional call; the refusal itself brings the present order."""
        write_id = {"S": uuid.uuid4().hex}
        # IN takes one operand at least; `pending` follows nothing, and no order has the status "".
        states: Item = {f":from_{n}": {"S": state} for n, state in enumerate(sorted(sources) or [""])}
        condition = f"#status IN ({', '.join(states)})"
        names = {"#status": "status", "#version": "version"}
        values: Item = states | {
            ":to": {"S": target},
            ":one": {"N": "1"},
            ":at": {"S": timestamp(at)},
            ":write": write_id,
            ":trace": {"S": context.traceparent.get()},
            ":correlation": {"S": context.correlation_id.get()},
        }
        if owner is not None:
            condition += " AND #owner = :owner"
            names["#owner"] = "owner"
            values[":owner"] = {"S": owner}
        if version is not None:
            condition += " AND #version = :version"
            values[":version"] = {"N": str(version)}
        try:
            answer: Updated = await self._client.call(
                "UpdateItem",
                {
                    "TableName": self._table,
                    "Key": _key(order_id),
                    "UpdateExpression": "SET #status = :to, #version = #version + :one, updated_at = :at, "
                    "write_id = :write, traceparent = :trace, correlation_id = :correlation",
                    "ConditionExpression": condition,
                    "ExpressionAttributeNames": names,
                    "ExpressionAttributeValues": values,
                    "ReturnValues": "ALL_NEW",
                    "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
                },
                Updated,
            )
        except AwsCallError as refused:
            if refused.code != "ConditionalCheckFailedException":
                raise
            stored = _stored(refused)
            if stored is None:
                return StatusChange(None, changed=False)
            return StatusChange(stored.order(), changed=stored.write_id.s == write_id["S"])
        return StatusChange(answer.attributes.order(), changed=True)

    @bounded
    async def page(self, query: OrderQuery) -> OrderPage:
        """Read the partitions that hold the list side by side, and merge them by position."""
        names, request, values = self._list(query)

        async def read(partition: Partition) -> None:
            more = request | {"ExpressionAttributeValues": values | {":key": {"S": partition.name}}}
            if partition.last_key:
                more["ExclusiveStartKey"] = partition.last_key
            answer: Queried = await self._client.call("Query", more, Queried)
            partition.items += answer.items
            partition.last_key = answer.last_evaluated_key

        partitions = behind = [Partition(name) for name in names]
        for _ in range(_MAX_ROUNDS):
            reads = [asyncio.ensure_future(read(partition)) for partition in behind]
            try:
                await asyncio.gather(*reads)
            finally:  # when one fails, nobody waits for the others, and no place in the bulkhead counts them
                for each in reads:
                    each.cancel()
            items, behind = merge(partitions, query.limit)
            if not behind:
                break
        else:
            # What the unread rest may still hold, from this depth on, is left to the next page.
            frontier = max(partition.depth for partition in behind)
            items = [item for item in items if item.position.s >= frontier]
            if len(items) <= query.limit:
                return OrderPage([item.order() for item in items], frontier)
        page = items[: query.limit]
        more = len(items) > query.limit
        return OrderPage([item.order() for item in page], page[-1].position.s if more else None)

    @bounded
    async def add_attachment(self, order_id: str, name: str, limit: int) -> bool:
        """Add the name, unless there are as many others; in one conditional call."""
        return await self._update(
            {
                "Key": {"pk": {"S": f"attachments#{order_id}"}},
                "UpdateExpression": "ADD #names :names",
                "ConditionExpression": "attribute_not_exists(#names) OR size(#names) < :limit"
                " OR contains(#names, :name)",
                "ExpressionAttributeNames": {"#names": "names"},
                "ExpressionAttributeValues": {
                    ":names": {"SS": [name]},
                    ":name": {"S": name},
                    ":limit": {"N": str(limit)},
                },
            }
        )

    @bounded
    async def reserve_upload(self, owner: str | None, day: date, size_bytes: int, limit_bytes: int) -> bool:
        """Add the bytes in one conditional call. If its answer is lost they count twice, never not at all."""
        expires_at = datetime.combine(day + timedelta(days=2), time(), UTC)
        return await self._update(
            {
                "Key": {"pk": {"S": f"uploads#{day}#{owner or ''}"}},
                "UpdateExpression": "ADD #reserved :size SET expires_at = :expires_at",
                "ConditionExpression": "attribute_not_exists(#reserved) OR #reserved <= :room",
                "ExpressionAttributeNames": {"#reserved": "reserved"},
                "ExpressionAttributeValues": {
                    ":size": {"N": str(size_bytes)},
                    ":room": {"N": str(limit_bytes - size_bytes)},
                    ":expires_at": {"N": str(int(expires_at.timestamp()))},
                },
            }
        )

    async def ping(self) -> None:
        """Read a key that no order has."""
        await self.get("")

    async def _update(self, request: dict[str, Any]) -> bool:
        """Update an item; return whether its condition held."""
        try:
            await self._client.call("UpdateItem", {"TableName": self._table, **request})
        except AwsCallError as refused:
            if refused.code != "ConditionalCheckFailedException":
                raise
            return False
        return True

    def _list(self, query: OrderQuery) -> tuple[list[str], dict[str, Any], Item]:
        """Return the partitions that hold the list, the Query on each, and its values but for the key."""
        filters: dict[str, str | None] = {"status": query.status}
        if query.owner is not None:
            index, key, names = "orders-by-owner", "owner_key", [f"owner#{query.owner}"]
            filters["customer"] = query.customer
        elif query.customer is not None:
            index, key, names = "orders-by-customer", "customer_key", [f"customer#{query.customer}"]
        else:
            index, key, names = "orders-by-shard", "shard", [f"orders#{n}" for n in range(self._shards)]
        condition, values = "#key = :key", dict[str, dict[str, Any]]()
        if query.before is not None:
            condition += " AND #position < :before"
            values[":before"] = {"S": query.before}
        wanted = {name: value for name, value in filters.items() if value is not None}
        values |= {f":{name}": {"S": value} for name, value in wanted.items()}
        # The page and one more, shared out, with room for an uneven spread when there are several.
        share = -(-(query.limit + 1) // len(names))
        limit = share if len(names) == 1 else share + share // 2 + 1
        request: dict[str, Any] = {
            "TableName": self._table,
            "IndexName": index,
            "ScanIndexForward": False,
            "KeyConditionExpression": condition,
            "ProjectionExpression": _PROJECTION,
            "ExpressionAttributeNames": {"#key": key, **_LISTED},
            "Limit": max(limit, _FILTERED_READ // len(names)) if wanted else limit,
        }
        if wanted:
            request["FilterExpression"] = " AND ".join(f"#{name} = :{name}" for name in wanted)
        return names, request, values


@dataclass(slots=True)
class Partition:
    """How far one partition of an index has been read, newest first."""

    name: str
    items: list[Listed] = field(default_factory=list)
    last_key: Item | None = None  # None after a read: it has no more

    @property
    def depth(self) -> str:
        """Every item of the partition above this position has been read."""
        return str(self.last_key["position"]["S"]) if self.last_key else ""


def merge(partitions: list[Partition], limit: int) -> tuple[list[Listed], list[Partition]]:
    """Return the newest `limit` + 1 items read, and the partitions that may hide newer ones."""
    items = [item for partition in partitions for item in partition.items]
    items.sort(key=attrgetter("position.s"), reverse=True)
    del items[limit + 1 :]
    edge = items[-1].position.s if len(items) > limit else ""
    return items, [partition for partition in partitions if partition.depth > edge]


def shard_of(order_id: str, shards: int) -> int:
    """Return the shard of an order: stable between processes, even over any ids."""
    return zlib.crc32(order_id.encode()) % shards


def item_of(order: Order, fingerprint: str, shards: int) -> Item:
    """Write an order as the item to store, with the trace and correlation id of the write."""
    item: Item = {
        **_key(order.id),
        "id": {"S": order.id},
        "customer": {"S": order.customer},
        "product": {"S": order.product},
        "quantity": {"N": str(order.quantity)},
        "status": {"S": order.status},
        "version": {"N": str(order.version)},
        "created_at": {"S": timestamp(order.created_at)},
        "updated_at": {"S": timestamp(order.updated_at)},
        "position": {"S": order.position},
        "shard": {"S": f"orders#{shard_of(order.id, shards)}"},
        "customer_key": {"S": f"customer#{order.customer}"},
        "fingerprint": {"S": fingerprint},
        "write_id": {"S": uuid.uuid4().hex},
        "traceparent": {"S": context.traceparent.get()},
        "correlation_id": {"S": context.correlation_id.get()},
    }
    if order.owner is not None:
        item |= {"owner": {"S": order.owner}, "owner_key": {"S": f"owner#{order.owner}"}}
    return item


def order_of(item: Item) -> Order:
    """Read an order from its stored item, as the stream brings it. Raises `msgspec.ValidationError`."""
    return msgspec.convert(item, Stored).order()


def _key(order_id: str) -> Item:
    return {"pk": {"S": f"order#{order_id}"}}


def _stored(refused: AwsCallError) -> Stored | None:
    if refused.code != "ConditionalCheckFailedException" or not refused.item:
        return None
    return msgspec.convert(refused.item, Stored)
