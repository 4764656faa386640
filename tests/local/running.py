"""What tests on the local AWS emulator share: a client of the application, and how to wait."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import boto3
import httpx
import pytest

from app.core.aws.json_client import AwsJsonClient
from app.core.settings import Settings
from app.main import build_app


@asynccontextmanager
async def api_client(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the API as bootstrap builds it; its connections to AWS are closed with the loop."""
    made: list[AwsJsonClient] = []

    class Noted(AwsJsonClient):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("app.main.AwsJsonClient", Noted)
        transport = httpx.ASGITransport(build_app(settings))
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://api.test") as client:
            yield client
    finally:
        for client in made:
            client.close()
        await asyncio.sleep(0)  # in which the connections go


def until(check: Callable[[], Any], what: str, seconds: float = 100) -> Any:
    """Return what `check` returns as soon as it is something. The time is a safety net."""
    deadline = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)
    return found


def stream_of(table: str) -> list[dict[str, Any]]:
    """Return every record that the table's stream holds, as Lambda hands it over."""
    streams: Any = boto3.client("dynamodbstreams")
    [stream] = streams.list_streams(TableName=table)["Streams"]
    arn = stream["StreamArn"]
    records: list[dict[str, Any]] = []
    for shard in streams.describe_stream(StreamArn=arn)["StreamDescription"]["Shards"]:
        iterator = streams.get_shard_iterator(
            StreamArn=arn, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]
        while iterator:
            page = streams.get_records(ShardIterator=iterator)
            records += json.loads(json.dumps(page["Records"], default=datetime.timestamp))
            iterator = page.get("NextShardIterator") if page["Records"] else None
    return records
