"""What a page of a list costs: the items read for it, as the local AWS emulator counts them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any

import boto3
import msgspec
import pytest
from botocore.config import Config
from localcloud.running import running_emulator
from tests.builders import ORDERS, an_order
from tests.template.templates import template

from app.core.dynamodb.repository import Table
from app.core.store import Query, sort_key
from app.orders.models import Order
from app.orders.repository import DynamoOrderRepository

SHARDS = 4
LIMIT = 20
FEW, MANY = 1_000, 50_000


class CountingClient:
    """An `AwsClient` that adds up what DynamoDB says it has read.

    Not the JSON client, which does not wait long enough: 50,000 orders slow the local AWS emulator.
    """

    def __init__(self) -> None:
        self.items_read = 0
        self._client = boto3.client("dynamodb")

    async def call(self, operation: str, request: dict[str, Any], response_type: type[Any] = dict) -> Any:
        assert operation == "Query"
        answer = self._client.query(**request)
        self.items_read += answer["ScannedCount"]
        return msgspec.convert(answer, response_type)


def aged(seconds: int) -> Order:
    """An order so many seconds older than the newest."""
    order = an_order(id=f"{seconds:032}", owner="alice")
    moment = order.created_at - timedelta(seconds=seconds)
    return an_order(id=order.id, owner=order.owner, created_at=moment, updated_at=moment)


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The table of template.yaml, without the stream: nobody shall follow it here."""
    declared = template()["Resources"]["OrdersTable"]["Properties"]
    wanted = ("BillingMode", "KeySchema", "AttributeDefinitions", "GlobalSecondaryIndexes")
    with running_emulator(None) as aws:
        for name, value in aws.environ.items():
            monkeypatch.setenv(name, value)
        table = {name: declared[name] for name in wanted}
        boto3.client("dynamodb").create_table(TableName="orders", **table)
        yield "orders"


def fill(table: str, orders: Iterable[Order]) -> None:
    client = boto3.client(
        "dynamodb", config=Config(parameter_validation=False)
    )  # it saves a quarter of the time
    orders = iter(orders)
    while batch := list(itertools.islice(orders, 25)):
        puts = [{"PutRequest": {"Item": ORDERS.to_item(order, "fingerprint")}} for order in batch]
        assert not client.batch_write_item(RequestItems={table: puts})["UnprocessedItems"]


def items_read(table: str, query: Query) -> int:
    """How many items a full page of the list costs."""
    client = CountingClient()
    page = asyncio.run(DynamoOrderRepository(Table(client, table, SHARDS)).page(query))
    assert len(page.items) == LIMIT
    return client.items_read


@pytest.mark.timeout(300)  # half a minute to write them; more on a busy machine
def test_a_page_reads_as_many_items_of_50_000_orders_as_of_1_000(table: str) -> None:
    pages = {
        "first": Query(LIMIT),
        "in the middle": Query(LIMIT, start_after=sort_key(aged(FEW // 2))),
        "of a customer": Query(LIMIT, filters={"customer": "John Doe"}),
        "of an owner": Query(LIMIT, "alice"),
    }
    # As the adapter's docstring says. The ids are fixed: no shard holds more of these pages than it is asked.
    cost = {"first": 40, "in the middle": 40, "of a customer": LIMIT + 1, "of an owner": LIMIT + 1}
    fill(table, map(aged, range(FEW)))
    assert {name: items_read(table, query) for name, query in pages.items()} == cost
    fill(table, map(aged, range(FEW, MANY)))  # older ones: the pages stay as they are
    assert {name: items_read(table, query) for name, query in pages.items()} == cost
    deep = Query(LIMIT, start_after=sort_key(aged(MANY // 2)))
    assert items_read(table, deep) == cost["in the middle"]
