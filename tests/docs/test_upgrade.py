"""The program of docs/adopting.md makes of an item as it was one that the application reads and lists."""

from __future__ import annotations

import re
from typing import Any

import boto3
import pytest
from moto import mock_aws
from tests.builders import ORDERS, ROOT, an_order

from app.core.models import fingerprint
from app.entrypoints.lambda_relay import event_reader
from app.orders.models import OrderCreate

[PROGRAM] = re.findall(
    r"^```python\n(.*?)^```", (ROOT / "docs" / "adopting.md").read_text(), re.MULTILINE | re.DOTALL
)


def before(item: dict[str, Any]) -> dict[str, Any]:
    """Return the item as it was stored."""
    old = {name: value for name, value in item.items() if name not in ("sort_key", "filter_key")}
    return old | {
        "position": item["sort_key"],
        "shard": {"S": item["shard"]["S"].replace("order#", "orders#")},
        "customer_key": {"S": f"customer#{item['customer']['S']}"},
        "owner_key": {"S": f"owner#{item['owner']['S']}"},
        "fingerprint": {"S": "old"},
    }


def test_copies_a_table_of_before(monkeypatch: pytest.MonkeyPatch) -> None:
    order = an_order(owner="alice")
    sent = OrderCreate(customer=order.customer, product=order.product, quantity=order.quantity)
    expected = ORDERS.to_item(order, fingerprint(sent))
    counted = {"pk": {"S": "uploads#2026-01-02#alice"}, "reserved": {"N": "1"}}
    for name, value in {"OLD": "old", "NEW": "new", "AWS_DEFAULT_REGION": "eu-central-1"}.items():
        monkeypatch.setenv(name, value)
    with mock_aws():
        dynamodb: Any = boto3.client("dynamodb")
        for table in ("old", "new"):
            dynamodb.create_table(
                TableName=table,
                KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
                AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
                BillingMode="PAY_PER_REQUEST",
            )
        for item in (before(expected), counted):
            dynamodb.put_item(TableName="old", Item=item)
        exec(PROGRAM, {})  # noqa: S102  # the page's own
        copied = dynamodb.scan(TableName="new")["Items"]
    assert sorted(copied, key=str) == sorted([expected, counted], key=str)
    record = {"eventName": "INSERT", "dynamodb": {"NewImage": copied[0] if "id" in copied[0] else copied[1]}}
    assert event_reader().to_event(record) is not None
