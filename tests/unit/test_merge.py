"""Pages over a sharded index are those of one sorted list, however the orders are spread."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.dynamodb.repository import Table
from app.core.errors import DependencyUnavailable
from app.core.store import Query
from app.orders.repository import DynamoOrderRepository


class CannedIndex:
    """An `AwsClient` that answers Query from lists, as DynamoDB does: filter after limit, and last keys."""

    def __init__(self, shards: list[list[tuple[str, str]]]) -> None:
        self.shards = [sorted(shard, reverse=True) for shard in shards]
        self.items_read = 0

    async def call(self, operation: str, request: dict[str, Any], response_type: type[Any] = dict) -> Any:
        assert operation == "Query"
        values = request["ExpressionAttributeValues"]
        shard = self.shards[int(values[":key"]["S"].removeprefix("order#"))]
        before = values.get(":start_after", {"S": "~"})["S"]
        if "ExclusiveStartKey" in request:
            before = min(before, request["ExclusiveStartKey"]["sort_key"]["S"])
        found = [entry for entry in shard if entry[0] < before]
        page = found[: request["Limit"]]
        self.items_read += len(page)
        status = values.get(":status_0")
        answer: dict[str, Any] = {
            "Items": [item(*entry) for entry in page if status is None or entry[1] == status["S"]]
        }
        if len(page) == request["Limit"]:  # DynamoDB gives a key here even when nothing follows
            answer["LastEvaluatedKey"] = {"sort_key": {"S": page[-1][0]}}
        return msgspec.convert(answer, response_type)


def item(position: str, status: str) -> dict[str, Any]:
    moment = {"S": "2026-01-01T00:00:00.000000Z"}
    return {
        "id": {"S": position},
        "sort_key": {"S": position},
        "customer": {"S": "c"},
        "product": {"S": "p"},
        "quantity": {"N": "1"},
        "version": {"N": "1"},
        "status": {"S": status},
        "created_at": moment,
        "updated_at": moment,
        "fingerprint": {"S": "f"},
        "write_id": {"S": "w"},
    }


def walk(index: CannedIndex, limit: int, status: str | None = None) -> list[str]:
    store = DynamoOrderRepository(Table(index, "table", len(index.shards)))
    seen: list[str] = []
    before = None
    for _ in range(1000):
        page = asyncio.run(store.page(Query(limit, None, {"status": status}, before)))
        assert len(page.items) <= limit
        seen += [order.id for order in page.items]
        if page.next_key is None:
            return seen
        assert before is None or page.next_key < before, "a cursor must move on"
        before = page.next_key
    raise AssertionError("the list did not end")


SPREADS = st.integers(1, 6).flatmap(
    lambda shards: st.lists(
        st.tuples(st.integers(0, shards - 1), st.sampled_from(["pending", "shipped"])), max_size=120
    ).map(
        lambda spread: [
            [(f"{n:05}", status) for n, (shard, status) in enumerate(spread) if shard == wanted]
            for wanted in range(shards)
        ]
    )
)


@pytest.mark.parametrize("status", [None, "shipped"])
@given(SPREADS, st.integers(1, 20))
def test_pages_are_those_of_the_sorted_whole(
    status: str | None, shards: list[list[tuple[str, str]]], limit: int
) -> None:
    whole = sorted((at for shard in shards for at, each in shard if status in (None, each)), reverse=True)
    assert walk(CannedIndex(shards), limit, status) == whole


def test_a_rare_filter_gives_up_with_a_cursor_after_a_bounded_read() -> None:
    index = CannedIndex([[(f"{n:05}", "pending") for n in range(shard, 5000, 4)] for shard in range(4)])
    page = asyncio.run(
        DynamoOrderRepository(Table(index, "t", 4)).page(Query(10, filters={"status": "shipped"}))
    )
    assert page.items == []
    assert page.next_key is not None
    assert index.items_read == 4 * 4 * 50


@pytest.mark.parametrize(
    ("shards", "limit", "read"), [(4, 20, 40), (4, 100, 160), (64, 20, 128), (1, 50, 51)]
)  # the first three as the adapter's docstring says
def test_a_page_reads_as_many_items_however_many_there_are(shards: int, limit: int, read: int) -> None:
    for count in (1_000, 50_000):
        spread = [[(f"{n:07}", "pending") for n in range(shard, count, shards)] for shard in range(shards)]
        index = CannedIndex(spread)
        asyncio.run(DynamoOrderRepository(Table(index, "t", shards)).page(Query(limit)))
        assert index.items_read == read


async def test_a_page_that_fails_leaves_no_call_behind() -> None:
    class OneFails:
        calls = 0

        async def call(self, operation: str, request: dict[str, Any], response_type: type[Any] = dict) -> Any:
            self.calls += 1
            try:
                if self.calls == 4:
                    raise DependencyUnavailable("dynamodb")
                await asyncio.sleep(60)
            finally:
                self.calls -= 1

    client = OneFails()
    with pytest.raises(DependencyUnavailable):
        await DynamoOrderRepository(Table(client, "table", 4)).page(Query(limit=20))
    await asyncio.sleep(0)
    assert client.calls == 0
