"""From a request to the receipt, on the embedded AWS with IAM enforced: nothing is lost, whatever fails.

The functions run from a copy of `src`, so that a test can break their code and mend it.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from localcloud.embedded import EmbeddedAws, embedded_aws
from tests.support import AN_ORDER, ROOT

from orders.adapters.eventbridge import EventBridgePublisher
from orders.bootstrap import build_app
from orders.relay_handler import relay
from orders.settings import Settings
from orders.telemetry import Telemetry

ORDERS = 200
STACK = "orders-flow"


class Flow:
    """The stack, its API, and what has come out at the other end."""

    def __init__(self, aws: EmbeddedAws, source: Path) -> None:
        self.aws = aws
        self.source = source
        self.s3: Any = boto3.client("s3")
        self.sqs: Any = boto3.client("sqs")
        self.events: Any = boto3.client("events")
        self.functions: Any = boto3.client("lambda")
        self.bucket = aws.outputs["DocumentsBucketName"]
        self.seen: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._probe = self._new_probe()

    def _new_probe(self) -> str:
        """A queue of our own that gets every event on the bus, as a second consumer would."""
        url: str = self.sqs.create_queue(QueueName="probe")["QueueUrl"]
        arn = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"][
            "QueueArn"
        ]
        bus = self.aws.outputs["OrdersEventBusName"]
        self.events.put_rule(Name="probe", EventBusName=bus, EventPattern='{"source": ["orders"]}')
        self.events.put_targets(Rule="probe", EventBusName=bus, Targets=[{"Id": "probe", "Arn": arn}])
        return url

    def on_the_bus(self) -> dict[str, list[dict[str, Any]]]:
        """The details of every event so far, by order."""
        while messages := self.sqs.receive_message(QueueUrl=self._probe, MaxNumberOfMessages=10).get(
            "Messages"
        ):
            for message in messages:
                detail = json.loads(message["Body"])["detail"]
                self.seen[detail["order"]["id"]].append(detail)
            entries = [{"Id": str(n), "ReceiptHandle": m["ReceiptHandle"]} for n, m in enumerate(messages)]
            self.sqs.delete_message_batch(QueueUrl=self._probe, Entries=entries)
        return self.seen

    def event_ids(self) -> set[str]:
        return {detail["event_id"] for details in self.on_the_bus().values() for detail in details}

    def receipts(self) -> Counter[str]:
        """How many versions of its receipt each order has."""
        pages = self.s3.get_paginator("list_object_versions").paginate(Bucket=self.bucket, Prefix="receipts/")
        versions = [version["Key"] for page in pages for version in page.get("Versions", [])]
        return Counter(key.removeprefix("receipts/").removesuffix(".html") for key in versions)

    def waiting(self, queue: str) -> int:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        url = self.aws.resources[queue]
        found = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        return sum(int(found[name]) for name in names)

    def relay_mapping(self, **changes: Any) -> None:
        function = f"{self.aws.resources['RelayFunction']}:live"
        [mapping] = self.functions.list_event_source_mappings(FunctionName=function)["EventSourceMappings"]
        self.functions.update_event_source_mapping(UUID=mapping["UUID"], **changes)

    def stream(self) -> list[dict[str, Any]]:
        """Every record that the table's stream holds, as Lambda hands it over."""
        streams: Any = boto3.client("dynamodbstreams")
        [stream] = streams.list_streams(TableName=self.aws.outputs["OrdersTableName"])["Streams"]
        description = streams.describe_stream(StreamArn=stream["StreamArn"])["StreamDescription"]
        records: list[dict[str, Any]] = []
        for shard in description["Shards"]:
            iterator = streams.get_shard_iterator(
                StreamArn=stream["StreamArn"], ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
            )["ShardIterator"]
            while page := streams.get_records(ShardIterator=iterator):
                records += json.loads(json.dumps(page["Records"], default=datetime.timestamp))
                iterator = page.get("NextShardIterator")
                if not iterator or not page["Records"]:
                    break
        return records

    def break_code(self, module: str, line: str) -> Callable[[], None]:
        """Put a fault into the functions' code; return what mends it."""
        path = self.source / "orders" / module
        sound = path.read_text()
        path.write_text(f"{sound}\n\n{line}\n")
        return lambda: void(path.write_text(sound))


def void(_: Any) -> None:
    """Drop a value."""


def eventually(check: Callable[[], bool], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flow]:
    source = tmp_path_factory.mktemp("flow") / "src"
    shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
    parameters = {"Runtime": "lambda", "AttachmentMaxBytes": "1000"}
    with (
        embedded_aws(stack=STACK, source=source, auth=True, parameters=parameters) as aws,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in aws.environ.items():
            patch.setenv(name, value)
        yield Flow(aws, source)


@pytest.fixture
def call(flow: Flow) -> Callable[..., Any]:
    """Run a coroutine function with a client of the API."""

    def run(case: Callable[[httpx.AsyncClient], Any]) -> Any:
        async def bounded() -> Any:
            transport = httpx.ASGITransport(build_app(Settings.from_env(flow.aws.environ)))
            async with httpx.AsyncClient(transport=transport, base_url="http://api.test") as client:
                async with asyncio.timeout(60):
                    return await case(client)

        return asyncio.run(bounded())

    return run


async def place_and_ship(client: httpx.AsyncClient, count: int) -> list[str]:
    """Place orders side by side and ship each; return their ids."""
    slots = asyncio.Semaphore(20)

    async def one(n: int) -> str:
        async with slots:
            placed = await client.post("/orders", json=AN_ORDER | {"customer": f"Customer {n}"})
            assert placed.status_code == 201, placed.text
            order_id = str(placed.json()["id"])
            shipped = await client.put(f"/orders/{order_id}/status", json={"status": "shipped"})
            assert shipped.status_code == 200, shipped.text
            return order_id

    return list(await asyncio.gather(*(one(n) for n in range(count))))


def assert_told_once(flow: Flow, ids: list[str]) -> None:
    """Each order has exactly its events on the bus (repeats are equal) and exactly one receipt."""
    eventually(
        lambda: all(
            {detail["event_id"] for detail in flow.on_the_bus()[order_id]}
            == {f"{order_id}:1", f"{order_id}:2"}
            for order_id in ids
        ),
        "both events of every order",
    )
    eventually(lambda: set(ids) <= set(flow.receipts()), "a receipt of every order")
    for order_id in ids:
        distinct = {json.dumps(detail, sort_keys=True) for detail in flow.seen[order_id]}
        assert len(distinct) == 2, flow.seen[order_id]
    receipts = flow.receipts()
    assert {order_id: receipts[order_id] for order_id in ids} == dict.fromkeys(ids, 1)
    assert flow.waiting("RelayDeadLetterQueue") == flow.waiting("ReceiptsDeadLetterQueue") == 0


class EveryThirdRefused:
    """The client of the bus, but every third entry ever sent is refused."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._sent = 0

    def put_events(self, Entries: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: N803  # boto3's name
        numbers = range(self._sent + 1, self._sent + 1 + len(Entries))
        self._sent += len(Entries)
        passed = [entry for n, entry in zip(numbers, Entries, strict=True) if n % 3]
        taken = iter(self._client.put_events(Entries=passed)["Entries"] if passed else [])
        answers = [next(taken) if n % 3 else {"ErrorCode": "InternalFailure"} for n in numbers]
        return {"Entries": answers, "FailedEntryCount": len(Entries) - len(passed)}


class TestNothingIsLost:
    def test_200_orders_at_once(self, flow: Flow, call: Callable[..., Any]) -> None:
        assert_told_once(flow, call(lambda client: place_and_ship(client, ORDERS)))

    def test_every_record_twice_and_shuffled_while_every_third_entry_is_refused(
        self, flow: Flow, call: Callable[..., Any]
    ) -> None:
        flow.relay_mapping(Enabled=False)
        ids = call(lambda client: place_and_ship(client, ORDERS))
        ours = {f"order#{order_id}" for order_id in ids}
        records = [r for r in flow.stream() if r["dynamodb"]["Keys"]["pk"]["S"] in ours]
        assert len(records) == 2 * ORDERS
        pending = records * 2
        random.Random(7).shuffle(pending)  # noqa: S311  # the same each time
        told = Telemetry(Settings.from_env(flow.aws.environ))
        publisher = EventBridgePublisher(
            flow.aws.outputs["OrdersEventBusName"], EveryThirdRefused(flow.events), sleep=lambda _: None
        )
        rounds = 0
        while pending:
            batch, pending = pending[:100], pending[100:]
            answer = relay({"Records": batch}, publisher, told)
            failed = {each["itemIdentifier"] for each in answer["batchItemFailures"]}
            pending += [record for record in batch if record["dynamodb"]["SequenceNumber"] in failed]
            rounds += 1
            assert rounds < 50
        assert_told_once(flow, ids)
        assert max(len(flow.seen[order_id]) for order_id in ids) > 2  # some did come twice
        flow.relay_mapping(Enabled=True)
