"""What a page costs as orders grow, and how the index spreads: the real store over a counting fake."""

from __future__ import annotations

import asyncio
import bisect
import uuid
from typing import Any

import msgspec

from app.core.dynamodb.repository import Table, shard_for
from app.core.store import Query
from app.orders.repository import DynamoOrderRepository

PARTITION_WRITES = 1_000  # a second, of one partition of an index
SHARDS = 4


class CountingDynamo:
    """Answers Query over the positions of `count` orders as DynamoDB does, and counts what it reads."""

    def __init__(self, count: int) -> None:
        self.partitions: dict[str, list[str]] = {}
        for number in range(count):
            order_id = str(uuid.UUID(int=number * 0x9E3779B97F4A7C15F39CC0605CEDC834 % (1 << 128)))
            second, micro = divmod(number * 100_000, 1_000_000)
            minute, second = divmod(second, 60)
            hour, minute = divmod(minute, 60)
            day, hour = divmod(hour, 24)
            moment = f"2026-01-{day + 1:02}T{hour:02}:{minute:02}:{second:02}.{micro:06}Z"
            self.partitions.setdefault(f"order#{shard_for(order_id, SHARDS)}", []).append(
                f"{moment}#{order_id}"
            )
        self.positions = sorted(position for each in self.partitions.values() for position in each)
        self.calls = self.items = 0

    async def call(self, operation: str, request: dict[str, Any], response_type: Any = dict) -> Any:
        assert operation == "Query"
        values = request["ExpressionAttributeValues"]
        partition = self.partitions.get(values[":key"]["S"], [])
        start = (
            request.get("ExclusiveStartKey", {}).get("sort_key") or values.get(":start_after") or {"S": "~"}
        )
        end = bisect.bisect_left(partition, start["S"])
        first = max(0, end - request["Limit"])
        found = partition[first:end][::-1]
        self.calls += 1
        self.items += len(found)
        answer: dict[str, Any] = {"Items": [self._item(position) for position in found]}
        if first:
            answer["LastEvaluatedKey"] = {
                "sort_key": {"S": found[-1]},
                "pk": {"S": "x"},
                "shard": values[":key"],
            }
        return msgspec.convert(answer, response_type)

    @staticmethod
    def _item(position: str) -> dict[str, dict[str, str]]:
        moment, order_id = position.split("#")
        text = {"id": order_id, "customer": "c", "product": "p", "status": "pending", "sort_key": position}
        text |= {
            "created_at": moment,
            "updated_at": moment,
            "pk": f"order#{order_id}",
            "write_id": "w",
            "fingerprint": "f",
        }
        return {name: {"S": value} for name, value in text.items()} | {
            "quantity": {"N": "1"},
            "version": {"N": "1"},
        }


async def pages(count: int, limit: int = 50) -> dict[str, float]:
    """Return the Queries and items that the first page and one in the middle take."""
    dynamo = CountingDynamo(count)
    store = DynamoOrderRepository(Table(dynamo, "orders", SHARDS))
    found: dict[str, float] = {}
    for name, start_after in (("first", None), ("middle", dynamo.positions[count // 2])):
        dynamo.calls = dynamo.items = 0
        page = await store.page(Query(limit, start_after=start_after))
        at = len(dynamo.positions) if start_after is None else count // 2
        expected = [position.split("#")[1] for position in dynamo.positions[max(0, at - limit) : at][::-1]]
        assert [order.id for order in page.items] == expected, "the page is wrong"
        found[f"{name}_queries"], found[f"{name}_items"] = dynamo.calls, dynamo.items
    return found


def spread(shards: int, writes_per_second: int = 3_000, seconds: int = 20) -> dict[str, float]:
    """Return the busiest shard's share of the mean, and the writes that one second's capacity admits."""
    busiest, admitted = 0.0, 0
    for _ in range(seconds):
        load = [0] * shards
        for _ in range(writes_per_second):
            load[shard_for(str(uuid.uuid4()), shards)] += 1
        busiest = max(busiest, max(load) / (writes_per_second / shards))
        admitted += sum(min(each, PARTITION_WRITES) for each in load)
    return {
        "busiest_to_mean": busiest,
        "admitted_per_second": admitted / seconds,
        "offered": writes_per_second,
    }


def measure(quick: bool) -> dict[str, Any]:
    """Return both tables."""
    sizes = [10**3, 10**4, 10**5] + ([] if quick else [10**6])
    return {
        "page_of_50": {str(size): asyncio.run(pages(size)) for size in sizes},
        "writes_at_3000_a_second": {str(shards): spread(shards) for shards in (1, 2, 4, 8, 16)},
    }
