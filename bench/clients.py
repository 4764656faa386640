"""The candidates for the store's client, each in a process of its own: CPU of a call, and of importing it.

python -m bench.clients NAME
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

KEY = {"pk": {"S": "order#1"}}
PLAIN_ITEM = {
    "pk": "order#1",
    "customer": "John Doe",
    "product": "Widget",
    "quantity": 5,
    "status": "pending",
}
ITEM = {
    name: {"N": str(value)} if isinstance(value, int) else {"S": value} for name, value in PLAIN_ITEM.items()
}
QUERY = {
    "TableName": "orders",
    "IndexName": "by-shard",
    "KeyConditionExpression": "shard = :shard",
    "ExpressionAttributeValues": {":shard": {"S": "orders"}},
    "Limit": 50,
}
Calls = dict[str, Callable[[], Awaitable[Any]]]


def contract(client: Any) -> Calls:
    """The three calls over our own `AwsClient` contract."""
    return {
        "get": lambda: client.call("GetItem", {"TableName": "orders", "Key": KEY, "ConsistentRead": True}),
        "put": lambda: client.call("PutItem", {"TableName": "orders", "Item": ITEM}),
        "query": lambda: client.call("Query", QUERY),
    }


async def ours() -> Calls:
    from app.core.aws.json_client import AwsJsonClient

    return contract(AwsJsonClient("dynamodb", "DynamoDB_20120810"))


async def boto3_threads() -> Calls:
    from app.core.aws.boto3_client import Boto3Client

    return contract(Boto3Client("dynamodb"))


async def aiodynamo() -> Calls:
    from aiodynamo.client import Client
    from aiodynamo.credentials import Credentials
    from aiodynamo.expressions import HashKey
    from aiodynamo.http.aiohttp import AIOHTTP
    from aiohttp import ClientSession
    from yarl import URL

    client = Client(
        AIOHTTP(ClientSession()), Credentials.auto(), "eu-west-1", URL(os.environ["AWS_ENDPOINT_URL"])
    )
    table = client.table("orders")

    async def query() -> None:
        page = await table.query_single_page(HashKey("shard", "orders"), limit=50, index="by-shard")
        assert len(page.items) == 50

    return {
        "get": lambda: table.get_item({"pk": "order#1"}, consistent_read=True),
        "put": lambda: table.put_item(PLAIN_ITEM),
        "query": query,
    }


async def pydynox() -> Calls:
    from pydynox import DynamoDBClient

    client = DynamoDBClient(region="eu-west-1", endpoint_url=os.environ["AWS_ENDPOINT_URL"])

    async def query() -> None:
        options = {
            "expression_attribute_values": {":shard": "orders"},
            "index_name": "by-shard",
            "limit": 50,
        }
        count = 0
        async for _ in client.query("orders", "shard = :shard", **options):
            count += 1
            if count == 50:
                break

    return {
        "get": lambda: client.get_item("orders", {"pk": "order#1"}),
        "put": lambda: client.put_item("orders", PLAIN_ITEM),
        "query": query,
    }


CANDIDATES = {
    "ours": ours,
    "boto3 in threads": boto3_threads,
    "aiodynamo (aiohttp)": aiodynamo,
    "pydynox": pydynox,
}


async def main(name: str) -> None:
    """Measure one candidate."""
    began = time.process_time()
    calls = await CANDIDATES[name]()
    await calls["get"]()
    found: dict[str, float] = {"import_and_first_call_ms": (time.process_time() - began) * 1e3}
    for operation, call in calls.items():
        count = 320 if operation == "query" else 960
        await asyncio.gather(*(call() for _ in range(64)))
        began = time.process_time()
        for _ in range(count // 16):
            await asyncio.gather(*(call() for _ in range(16)))
        found[f"{operation}_us"] = (time.process_time() - began) / count * 1e6
    print(json.dumps(found), flush=True)
    os._exit(0)  # some candidates would want their sessions closed first


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(sys.argv[1]))
