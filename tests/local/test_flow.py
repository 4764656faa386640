"""From a request to the receipt, on the emulator with IAM enforced: nothing is lost, whatever fails.

The functions run from a copy of `src`, so that a test can break their code and fix it.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import textwrap
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from localcloud.running import Emulator, running_emulator
from scripts.dlq import main
from scripts.stack import Stack
from tests.builders import AN_ORDER, ROOT
from tests.local.running import api_client, stream_of, until

from app.core.events.publisher import EventBridgePublisher
from app.core.events.relay import relay
from app.core.settings import Settings
from app.core.telemetry import Telemetry
from app.entrypoints.lambda_relay import event_reader

ORDERS = 200
STACK = "orders-flow"
# Functions start anew in some tests; on a busy machine that takes its time.
pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("flow")]


class Flow:
    """The stack, its API, and what has come out at the other end."""

    def __init__(self, aws: Emulator, source: Path) -> None:
        self.aws = aws
        self.source = source
        self.s3: Any = boto3.client("s3")
        self.sqs: Any = boto3.client("sqs")
        self.events: Any = boto3.client("events")
        self.functions: Any = boto3.client("lambda")
        self.bucket = aws.outputs["DocumentsBucketName"]
        consumer = Stack(boto3.client("cloudformation"), STACK).consumers()["receipts"]
        self.receipts_queue = consumer["QueueUrl"]
        self.dead_letters = {
            "relay": aws.outputs["RelayDeadLetterQueueUrl"],
            "receipts": consumer["DeadLetterQueueUrl"],
        }
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
        """The details of every event so far, by the id of what it is of."""
        while messages := self.sqs.receive_message(QueueUrl=self._probe, MaxNumberOfMessages=10).get(
            "Messages"
        ):
            for message in messages:
                detail = json.loads(message["Body"])["detail"]
                self.seen[detail["event_id"].partition(":")[0]].append(detail)
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
        """How many messages are in a dead-letter queue."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        url = self.dead_letters[queue]
        found = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        return sum(int(found[name]) for name in names)

    def relay_mapping(self, **changes: Any) -> None:
        function = f"{STACK}-relay"
        [mapping] = self.functions.list_event_source_mappings(FunctionName=function)["EventSourceMappings"]
        self.functions.update_event_source_mapping(UUID=mapping["UUID"], **changes)

    def purge(self, queue: str) -> None:
        self.sqs.purge_queue(QueueUrl=self.dead_letters[queue])

    def break_code(self, module: str, fault: str) -> Callable[[], None]:
        """Put a fault at the end of a module that the functions run; return what fixes it."""
        path = self.source / "app" / module
        sound = path.read_text()
        path.write_text(sound + textwrap.dedent(fault))
        return lambda: void(path.write_text(sound))


def void(_: Any) -> None:
    """Drop a value."""


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flow]:
    source = tmp_path_factory.mktemp("flow") / "src"
    shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
    with (
        running_emulator(stack=STACK, source=source, auth=True) as aws,
        pytest.MonkeyPatch.context() as patch,
    ):
        aws.environ["APP_ATTACHMENT_MAX_BYTES"] = "1000"
        for name, value in aws.environ.items():
            patch.setenv(name, value)
        flow = Flow(aws, source)
        flow.relay_mapping(MaximumRetryAttempts=2)  # the template's ten prove no more and take longer
        yield flow


@pytest.fixture
def call(flow: Flow) -> Callable[..., Any]:
    """Run a coroutine function with a client of the API."""

    def run(case: Callable[[httpx.AsyncClient], Any]) -> Any:
        async def bounded() -> Any:
            async with asyncio.timeout(60), api_client(Settings.from_env(flow.aws.environ)) as client:
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
    until(
        lambda: all(
            {detail["event_id"] for detail in flow.on_the_bus()[order_id]}
            == {f"{order_id}:1", f"{order_id}:2"}
            for order_id in ids
        ),
        "both events of every order",
    )
    until(lambda: set(ids) <= set(flow.receipts()), "a receipt of every order")
    for order_id in ids:
        distinct = {json.dumps(detail, sort_keys=True) for detail in flow.seen[order_id]}
        assert len(distinct) == 2, flow.seen[order_id]
    receipts = flow.receipts()
    assert {order_id: receipts[order_id] for order_id in ids} == dict.fromkeys(ids, 1)
    assert flow.waiting("relay") == flow.waiting("receipts") == 0


class EveryThirdRejected:
    """The client of the bus, but every third entry ever sent is rejected."""

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

    def test_every_record_twice_and_shuffled_while_every_third_entry_is_rejected(
        self, flow: Flow, call: Callable[..., Any]
    ) -> None:
        flow.relay_mapping(Enabled=False)
        ids = call(lambda client: place_and_ship(client, ORDERS))
        ours = {f"order#{order_id}" for order_id in ids}
        stream = stream_of(flow.aws.outputs["OrdersTableName"])
        records = [r for r in stream if r["dynamodb"]["Keys"]["pk"]["S"] in ours]
        assert len(records) == 2 * ORDERS
        pending = records * 2
        random.Random(7).shuffle(pending)  # noqa: S311  # the same each time
        telemetry = Telemetry(Settings.from_env(flow.aws.environ))
        publisher = EventBridgePublisher(
            flow.aws.outputs["OrdersEventBusName"], EveryThirdRejected(flow.events), sleep=lambda _: None
        )
        rounds = 0
        while pending:
            batch, pending = pending[:100], pending[100:]
            answer = relay({"Records": batch}, event_reader(), publisher, telemetry)
            failed = {each["itemIdentifier"] for each in answer["batchItemFailures"]}
            pending += [record for record in batch if record["dynamodb"]["SequenceNumber"] in failed]
            rounds += 1
            assert rounds < 50
        assert_told_once(flow, ids)
        assert max(len(flow.seen[order_id]) for order_id in ids) > 2  # some did come twice
        flow.relay_mapping(Enabled=True)


async def place(client: httpx.AsyncClient, **changes: Any) -> str:
    response = await client.post("/orders", json=AN_ORDER | changes)
    assert response.status_code == 201, response.text
    return str(response.json()["id"])


def dlq(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Run the operator's command; return its exit status and what it said."""
    capsys.readouterr()
    status = main(["--stack", STACK, *arguments])
    said = capsys.readouterr()
    return status, said.out + said.err


class TestFailedMessages:
    def test_a_record_the_relay_cannot_take_stops_nobody_and_is_redriven_once_fixed(
        self, flow: Flow, call: Callable[..., Any], capsys: pytest.CaptureFixture[str]
    ) -> None:
        fix = flow.break_code(
            "core/events/stream.py",
            """
            sound = EventReader.to_event

            def to_event(self, record):
                if record["dynamodb"]["NewImage"]["product"]["S"] == "Cursed":
                    raise MalformedRecord("a fault of ours")
                return sound(self, record)

            EventReader.to_event = to_event
            """,
        )

        async def three(client: httpx.AsyncClient) -> list[str]:
            return [await place(client, product=product) for product in ("Before", "Cursed", "After")]

        before, cursed, after = call(three)
        until(lambda: {before, after} <= set(flow.receipts()), "the receipts of the others")
        until(lambda: flow.waiting("relay") == 1, "the record in the dead-letter queue")
        assert f"{cursed}:1" not in flow.event_ids()

        status, said = dlq(capsys)
        assert status == 0
        assert "relay: 1 message\n" in said
        assert "1 record(s), RetryAttemptsExhausted" in said
        assert f"{cursed}:1: readable with the code here" in said
        assert "receipts: no messages" in said

        status, said = dlq(capsys, "redrive", "--yes")  # too early: the fault is still there
        assert (status, flow.waiting("relay")) == (1, 1)
        assert f"the relay still rejects it: OrderPlaced {cursed}:1" in said

        fix()
        status, said = dlq(capsys, "redrive")
        assert (status, flow.waiting("relay")) == (0, 1)
        assert "relay: would deliver 1" in said
        assert "Nothing was changed" in said
        status, said = dlq(capsys, "redrive", "--yes")
        assert (status, flow.waiting("relay")) == (0, 0), said
        assert "relay: 1 of 1 delivered" in said
        until(lambda: cursed in flow.receipts(), "the receipt of the redriven order")
        assert dlq(capsys, "redrive", "--yes")[0] == 0  # again: there is nothing left to do

    def test_a_record_that_nobody_can_read_is_named_with_its_reason(
        self, flow: Flow, call: Callable[..., Any], capsys: pytest.CaptureFixture[str]
    ) -> None:
        table = flow.aws.outputs["OrdersTableName"]
        boto3.client("dynamodb").put_item(
            TableName=table, Item={"pk": {"S": "order#torn"}, "version": {"N": "1"}}
        )
        after = call(place)
        until(lambda: after in flow.receipts(), "the receipt of the order after it")
        until(lambda: flow.waiting("relay") == 1, "the record in the dead-letter queue")
        assert "order#torn unreadable: " in dlq(capsys, "list", "--queue", "relay")[1]

        url = flow.dead_letters["relay"]
        [message] = flow.sqs.receive_message(QueueUrl=url)["Messages"]
        flow.purge("relay")
        failure = json.loads(message["Body"])
        failure["DDBStreamBatchInfo"] |= {"startSequenceNumber": "1" * 21, "endSequenceNumber": "1" * 21}
        flow.sqs.send_message(QueueUrl=url, MessageBody=json.dumps(failure))
        status, said = dlq(capsys, "redrive", "--yes")
        assert (status, flow.waiting("relay")) == (1, 1)
        assert "it has left the stream, which keeps records for 24 hours" in said
        flow.purge("relay")

    @pytest.fixture
    def impatient(self, flow: Flow) -> Iterator[None]:
        """The receipts queue gives up after seconds, not after a quarter of an hour."""
        url = flow.receipts_queue
        names = ["VisibilityTimeout", "RedrivePolicy"]
        patient = flow.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        policy = json.dumps(json.loads(patient["RedrivePolicy"]) | {"maxReceiveCount": 3})
        attributes = {"VisibilityTimeout": "4", "RedrivePolicy": policy}
        flow.sqs.set_queue_attributes(QueueUrl=url, Attributes=attributes)
        yield
        flow.sqs.set_queue_attributes(QueueUrl=url, Attributes=patient)

    def test_a_message_the_consumer_cannot_take_ends_in_its_queue_and_nothing_else_does(
        self, flow: Flow, impatient: None, call: Callable[..., Any], capsys: pytest.CaptureFixture[str]
    ) -> None:
        receipts = flow.receipts_queue
        fix = flow.break_code(
            "orders/receipts.py",
            """
            sound = receipt_html

            def receipt_html(order):
                if order.product == "Cursed":
                    raise RuntimeError("a fault of ours")
                return sound(order)
            """,
        )
        flow.sqs.send_message(QueueUrl=receipts, MessageBody="not an event")

        async def three(client: httpx.AsyncClient) -> list[str]:
            return [await place(client, product=product) for product in ("Before", "Cursed", "After")]

        before, cursed, after = call(three)
        until(lambda: {before, after} <= set(flow.receipts()), "the receipts of the others")
        until(lambda: flow.waiting("receipts") == 2, "both in the dead-letter queue")

        status, said = dlq(capsys, "list", "--queue", "receipts")
        assert (status, flow.waiting("receipts")) == (0, 2)
        assert "unreadable: JSON is malformed" in said
        assert f"{cursed}:1: readable with the code here" in said

        fix()
        status, said = dlq(capsys, "redrive", "--queue", "receipts", "--yes")
        assert status == 0
        assert "receipts: 2 of 2 delivered" in said
        until(lambda: flow.receipts()[cursed] == 1, "the receipt of the redriven order")
        until(lambda: flow.waiting("receipts") == 1, "the unreadable one back again")
        flow.purge("receipts")

    def test_a_time_window_is_replayed_from_the_archive(
        self, flow: Flow, call: Callable[..., Any], capsys: pytest.CaptureFixture[str]
    ) -> None:
        start = datetime.now(UTC)
        lost, kept = call(place), call(place)
        until(lambda: {lost, kept} <= set(flow.receipts()), "the receipts")
        end = datetime.now(UTC)
        key = f"receipts/{lost}.html"
        for version in flow.s3.list_object_versions(Bucket=flow.bucket, Prefix=key)["Versions"]:
            flow.s3.delete_object(Bucket=flow.bucket, Key=key, VersionId=version["VersionId"])
        assert lost not in flow.receipts()

        window = ["replay", "--from", start.isoformat(), "--to", end.isoformat()]
        status, said = dlq(capsys, *window)
        assert (status, "Nothing was changed" in said) == (0, True)
        for _ in range(2):  # safe to repeat
            status, said = dlq(capsys, *window, "--yes")
            assert (status, "completed" in said) == (0, True), said
            until(lambda: lost in flow.receipts(), "the replayed receipt")
        assert flow.receipts()[lost] == flow.receipts()[kept] == 1
        assert flow.waiting("receipts") == 0

    def test_what_makes_no_sense_is_rejected(self, flow: Flow, capsys: pytest.CaptureFixture[str]) -> None:
        status, said = dlq(capsys, "replay", "--from", "2026-01-02T04:00Z", "--to", "2026-01-02T03:00Z")
        assert status == 1
        assert "--from must be before --to" in said
        assert main(["--stack", "no-such-stack"]) == 1
        assert capsys.readouterr().err.count("\n") == 1


def with_web(case: Callable[[httpx.AsyncClient, httpx.AsyncClient], Any]) -> Callable[..., Any]:
    """Give a case a second client, which follows the links that the API hands out."""

    async def run(client: httpx.AsyncClient) -> None:
        async with httpx.AsyncClient() as web:
            await case(client, web)

    return run


class TestEventLog:
    def test_every_event_is_logged_when_asked_for(self, flow: Flow, call: Callable[..., Any]) -> None:
        order_id = call(place)
        logs: Any = boto3.client("logs")
        group = f"/aws/events/{STACK}/bus"

        def logged() -> bool:
            found = logs.filter_log_events(logGroupName=group, filterPattern=f'"{order_id}"')["events"]
            return [json.loads(event["message"])["detail"]["event_id"] for event in found] == [
                f"{order_id}:1"
            ]

        until(logged, "the event in the log group")


class TestDocuments:
    def test_an_attachment_goes_up_and_comes_down_and_nothing_else_does(
        self, flow: Flow, call: Callable[..., Any]
    ) -> None:
        async def case(client: httpx.AsyncClient, web: httpx.AsyncClient) -> None:
            order_id = await place(client)
            path = f"/orders/{order_id}/attachments"
            offered = await client.post(path, json={"name": "note.txt", "content_type": "text/plain"})
            upload = offered.json()
            assert upload["max_bytes"] == 1000
            fields = upload["fields"]
            # Nothing, too much, another type, another key, another's encryption: S3 rejects.
            for status, body, changes in (
                (400, b"", {}),
                (400, b"x" * 1001, {}),
                (403, b"x", {"Content-Type": "text/html"}),
                (403, b"x", {"key": f"receipts/{order_id}.html"}),
                (403, b"x", {"x-amz-server-side-encryption": "AES256"}),
                (403, b"x", {"x-amz-server-side-encryption-customer-algorithm": "AES256"}),
            ):
                rejected = await web.post(upload["url"], data=fields | changes, files={"file": body})
                assert rejected.status_code == status, (changes, rejected.text)
            assert (await client.get(path)).json() == {"items": []}

            for body in (b"x" * 1000, b"replaced"):
                taken = await web.post(upload["url"], data=fields, files={"file": body})
                assert taken.status_code == 204, taken.text
            [item] = (await client.get(path)).json()["items"]
            assert (item["name"], item["size_bytes"]) == ("note.txt", 8)
            download = await web.get(item["url"])
            assert (download.status_code, download.content) == (200, b"replaced")
            assert download.headers["content-type"] == "text/plain"
            assert download.headers["content-disposition"].startswith("attachment;")
            stored = flow.s3.head_object(Bucket=flow.bucket, Key=fields["key"])
            assert stored["SSEKMSKeyId"] == flow.aws.outputs["DataKeyArn"]

        call(with_web(case))

    def test_a_receipt_is_reached_by_redirect(self, flow: Flow, call: Callable[..., Any]) -> None:
        async def case(client: httpx.AsyncClient, web: httpx.AsyncClient) -> None:
            order_id = await place(client, customer="<b>Ann</b>")
            deadline = time.monotonic() + 60
            while (found := await client.get(f"/orders/{order_id}/receipt")).status_code == 404:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.1)
            assert found.status_code == 303
            page = await web.get(found.headers["location"])
            assert page.headers["content-type"] == "text/html; charset=utf-8"
            assert "&lt;b&gt;Ann&lt;/b&gt;" in page.text
            unsigned = await web.get(found.headers["location"].partition("?")[0])
            assert unsigned.status_code == 403

        call(with_web(case))


def test_the_event_of_another_resource_comes_to_the_bus(flow: Flow) -> None:
    """The filter of the table's stream lets it through, and the relay knows it."""

    async def case() -> str:
        async with api_client(Settings.from_env(flow.aws.environ)) as client:
            added = await client.post("/products", json={"name": "Widget", "price_cents": 1999})
            assert added.status_code == 201, added.text
            return str(added.json()["id"])

    product_id = asyncio.run(case())
    until(lambda: product_id in flow.on_the_bus(), "the event of the product")
    [detail] = flow.on_the_bus()[product_id]
    assert (detail["event_id"], detail["product"]["name"]) == (f"{product_id}:1", "Widget")
