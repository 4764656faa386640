"""Each port's implementations, the AWS ones on an emulator with the resources of template.yaml."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import boto3
import pytest
from cfnlint.decode import decode
from moto import mock_aws

from orders.adapters.boto3_client import Boto3Client
from orders.adapters.dynamodb import DynamoOrderStore
from orders.adapters.memory import MemoryOrderStore
from orders.ports import OrderStore

TEMPLATE = Path(__file__).parents[2] / "template.yaml"


@pytest.fixture
def run() -> Callable[[Awaitable[None]], None]:
    async def bounded(case: Awaitable[None]) -> None:
        async with asyncio.timeout(60):
            await case

    return lambda case: asyncio.run(bounded(case))


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with mock_aws():
        yield


@pytest.fixture
def table(aws: None) -> str:
    template, _ = decode(str(TEMPLATE))
    properties = template["Resources"]["OrdersTable"]["Properties"]
    keys = ("AttributeDefinitions", "KeySchema", "BillingMode", "GlobalSecondaryIndexes")
    boto3.client("dynamodb").create_table(TableName="orders", **{key: properties[key] for key in keys})
    return "orders"


@pytest.fixture(params=["memory", "dynamodb"])
def store(request: pytest.FixtureRequest) -> OrderStore:
    if request.param == "memory":
        return MemoryOrderStore()
    table = request.getfixturevalue("table")
    return DynamoOrderStore(Boto3Client("dynamodb"), table, shards=4)
