"""The operator's command on queues larger than one batch, and on messages it cannot deliver."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from moto import mock_aws
from moto.core import DEFAULT_ACCOUNT_ID
from moto.events.models import ReplayState, events_backends
from scripts import dlq
from scripts.dlq import main
from scripts.stack import Stack
from tests.builders import a_product, a_record, an_envelope, an_order, placed, status_changed

from app.orders.models import OrderStatus
from app.products.events import ProductCreated

QUEUES = ("ReceiptsQueue", "ReceiptsDeadLetterQueue", "RelayDeadLetterQueue")
HANDLER = "app.orders.receipts.handler"
REGION = "eu-central-1"


class Queues:
    """The stack's queues."""

    def __init__(self) -> None:
        self._sqs: Any = boto3.client("sqs")
        self.urls = {name: self._sqs.create_queue(QueueName=name)["QueueUrl"] for name in QUEUES}

    def arn(self, queue: str) -> str:
        url = self.urls[queue]
        found = self._sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
        return str(found["Attributes"]["QueueArn"])

    def send(self, queue: str, *bodies: str, **attributes: str) -> None:
        typed = {name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()}
        for body in bodies:
            self._sqs.send_message(QueueUrl=self.urls[queue], MessageBody=body, MessageAttributes=typed)

    def bodies(self, queue: str) -> list[str]:
        """What can be received from a queue, now."""
        bodies: list[str] = []
        while found := self._sqs.receive_message(QueueUrl=self.urls[queue]).get("Messages"):
            bodies += [message["Body"] for message in found]
        return bodies


@pytest.fixture
def queues(monkeypatch: pytest.MonkeyPatch) -> Iterator[Queues]:
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with mock_aws():
        queues = Queues()
        a_bus(queues)
        others = {name: name for name in ("OrdersEventBus", "OrdersArchive", "RelayFunction")}
        monkeypatch.setattr(Stack, "ids", lambda _: queues.urls | others)
        receipts = {
            "Handler": HANDLER,
            "QueueUrl": queues.urls["ReceiptsQueue"],
            "DeadLetterQueueUrl": queues.urls["ReceiptsDeadLetterQueue"],
        }
        monkeypatch.setattr(Stack, "consumers", lambda _: {"receipts": receipts})
        yield queues


def a_bus(queues: Queues) -> None:
    """The stack's bus and archive, and a queue that gets all of its events."""
    client: Any = boto3.client("events")
    bus = client.create_event_bus(Name="OrdersEventBus")["EventBusArn"]
    client.create_archive(ArchiveName="OrdersArchive", EventSourceArn=bus)
    queues.urls["Probe"] = boto3.client("sqs").create_queue(QueueName="Probe")["QueueUrl"]
    client.put_rule(Name="probe", EventBusName="OrdersEventBus", EventPattern='{"source": ["orders"]}')
    client.put_targets(
        Rule="probe", EventBusName="OrdersEventBus", Targets=[{"Id": "probe", "Arn": queues.arn("Probe")}]
    )


def events(count: int) -> list[str]:
    ids = [f"0199a6f5-1c00-7000-8000-{n:012}" for n in range(count)]
    return [an_envelope(placed(an_order(id=each))) for each in ids]


def test_without_a_command_it_lists_and_leaves_everything_there(
    queues: Queues, capsys: pytest.CaptureFixture[str]
) -> None:
    messages = events(23)
    queues.send("ReceiptsDeadLetterQueue", *messages)
    assert main([]) == 0
    said = capsys.readouterr().out
    assert "relay: no messages" in said
    assert "receipts: 23 messages" in said
    assert said.count("readable with the code here") == 23
    assert sorted(queues.bodies("ReceiptsDeadLetterQueue")) == sorted(messages)


def test_names_events_of_any_type(queues: Queues, capsys: pytest.CaptureFixture[str]) -> None:
    """The bus may leave any event here, and so may the rule of the event log."""
    product = a_product()
    created = ProductCreated(product=product).about(product, "", "")
    odd = json.dumps(
        {"detail-type": "Odd", "source": "orders", "detail": [1], "time": "2026-01-02T03:04:05Z"}
    )
    queues.send("RelayDeadLetterQueue", an_envelope(created), *events(1), odd)
    assert main(["list"]) == 0
    said = capsys.readouterr().out
    assert f"ProductCreated {product.id}:1: readable" in said
    assert "OrderPlaced 0199a6f5-1c00-7000-8000-000000000000:1: readable" in said
    assert "Odd without an id: readable" in said


def test_lists_no_more_than_asked_for(queues: Queues, capsys: pytest.CaptureFixture[str]) -> None:
    queues.send("ReceiptsDeadLetterQueue", *events(13))
    assert main(["list", "--limit", "12"]) == 0
    said = capsys.readouterr().out
    assert said.count("readable with the code here") == 12
    assert "... and more (--limit 12)" in said


def test_says_why_the_bus_could_not_deliver(queues: Queues, capsys: pytest.CaptureFixture[str]) -> None:
    why = {"ERROR_CODE": "NO_PERMISSIONS", "ERROR_MESSAGE": "Access denied"}
    queues.send("RelayDeadLetterQueue", *events(1), TARGET_ARN="arn:aws:logs:a-log", **why)
    queues.send("RelayDeadLetterQueue", *events(1), **why)
    assert main(["list"]) == 0
    said = capsys.readouterr().out
    assert "not delivered by the bus to arn:aws:logs:a-log: NO_PERMISSIONS Access denied" in said
    assert "not delivered by the bus to any target: NO_PERMISSIONS Access denied" in said


def test_reads_an_event_as_its_consumer_does(queues: Queues, capsys: pytest.CaptureFixture[str]) -> None:
    broken = json.loads(events(1)[0])
    broken["detail"]["order"]["quantity"] = 0
    for queue in ("ReceiptsDeadLetterQueue", "RelayDeadLetterQueue"):
        queues.send(queue, json.dumps(broken))
    assert main(["list", "--queue", "receipts"]) == 0
    assert "unreadable: Expected" in capsys.readouterr().out
    assert main(["list", "--queue", "relay"]) == 0
    assert "readable with the code here" in capsys.readouterr().out


def test_names_a_consumer_that_the_code_here_lacks(
    queues: Queues, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Stack.consumers(Stack(None, ""))["receipts"]
    for handler in ("app.gone.handler", "app.orders.receipts.gone", "app.entrypoints.lambda_relay.handler"):
        monkeypatch.setattr(Stack, "consumers", lambda _, of=handler: {"receipts": known | {"Handler": of}})
        queues.send("ReceiptsDeadLetterQueue", *events(1))
        assert main(["list"]) == 0
        assert f"the code here has no consumer {handler}" in capsys.readouterr().out


def test_names_the_queues_that_there_are(queues: Queues, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--queue", "receipt"]) == 1
    assert "no queue receipt: there are relay, receipts" in capsys.readouterr().err


def test_redrives_every_message_once(queues: Queues, capsys: pytest.CaptureFixture[str]) -> None:
    messages = events(23)
    queues.send("ReceiptsDeadLetterQueue", *messages)
    assert main(["redrive"]) == 0
    assert queues.bodies("ReceiptsQueue") == []
    capsys.readouterr()

    assert main(["redrive", "--yes"]) == 0
    said = capsys.readouterr().out
    for progress in ("10 of 23", "20 of 23", "23 of 23"):
        assert f"receipts: {progress} delivered" in said
    assert sorted(queues.bodies("ReceiptsQueue")) == sorted(messages)
    assert queues.bodies("ReceiptsDeadLetterQueue") == []


def test_keeps_what_it_cannot_deliver_and_says_why(
    queues: Queues, capsys: pytest.CaptureFixture[str]
) -> None:
    queues.send("RelayDeadLetterQueue", "not from Lambda")
    for arguments in (["list"], ["redrive", "--yes"]):
        assert main(arguments) == (1 if "redrive" in arguments else 0)
        assert "it is neither an event nor a batch of the relay" in capsys.readouterr().out
    assert queues.bodies("RelayDeadLetterQueue") == ["not from Lambda"]


class TestWhatTheBusSetAside:
    def test_goes_to_the_consumer_that_its_rule_is_for(self, queues: Queues) -> None:
        [message] = events(1)
        attributes = {"ERROR_CODE": "NO_PERMISSIONS", "TARGET_ARN": queues.arn("ReceiptsQueue")}
        queues.send("ReceiptsDeadLetterQueue", message, **attributes)
        assert main(["redrive", "--yes"]) == 0
        assert queues.bodies("ReceiptsQueue") == [message]
        assert queues.bodies("Probe") == []

    @pytest.mark.parametrize(
        "attributes",
        [
            pytest.param({"TARGET_ARN": "arn:aws:logs:a-log"}, id="of the event log's rule"),
            pytest.param({}, id="the bus's own"),
        ],
    )
    def test_goes_onto_the_bus_again_when_it_was_for_no_consumer(
        self, queues: Queues, attributes: dict[str, str]
    ) -> None:
        shipped = an_order(status=OrderStatus.SHIPPED, version=2)
        message = an_envelope(status_changed(shipped, OrderStatus.PENDING))
        queues.send("RelayDeadLetterQueue", message, ERROR_CODE="SDK_CLIENT_ERROR", **attributes)
        assert main(["redrive", "--yes"]) == 0
        assert queues.bodies("ReceiptsQueue") == queues.bodies("RelayDeadLetterQueue") == []
        [again] = map(json.loads, queues.bodies("Probe"))
        sent = json.loads(message)
        for part in ("source", "detail-type", "detail"):
            assert again[part] == sent[part]

    @pytest.mark.parametrize(
        ("message", "why"),
        [
            ("not an event", "it is neither an event"),
            (json.dumps(json.loads(events(1)[0]) | {"detail-type": ""}), "rejects it: InvalidArgument"),
        ],
    )
    def test_stays_when_the_bus_does_not_take_it(
        self, queues: Queues, capsys: pytest.CaptureFixture[str], message: str, why: str
    ) -> None:
        queues.send("RelayDeadLetterQueue", message, ERROR_CODE="SDK_CLIENT_ERROR")
        assert main(["redrive", "--yes"]) == 1
        assert why in capsys.readouterr().out
        assert queues.bodies("RelayDeadLetterQueue") == [message]


class TestAQueueOutsideTheStack:
    """A stack of an earlier version left its queues of receipts in the account."""

    LEFT = "orders-dev-ReceiptsQueue-1A2B"

    @pytest.fixture
    def messages(self, queues: Queues) -> list[str]:
        queues.urls[self.LEFT] = boto3.client("sqs").create_queue(QueueName=self.LEFT)["QueueUrl"]
        messages = events(2)
        queues.send(self.LEFT, *messages)
        queues.send("ReceiptsDeadLetterQueue", *events(1))
        return messages

    def test_is_listed_alone(
        self, queues: Queues, messages: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["list", "--from-queue", self.LEFT]) == 0
        said = capsys.readouterr().out
        assert f"{self.LEFT}: 2 messages" in said
        assert "receipts: " not in said

    @pytest.mark.parametrize("by", ["url", "name"])
    def test_goes_to_the_consumer_that_is_named(self, queues: Queues, messages: list[str], by: str) -> None:
        source = queues.urls[self.LEFT] if by == "url" else self.LEFT
        assert main(["redrive", "--from-queue", source, "--queue", "receipts", "--yes"]) == 0
        assert sorted(queues.bodies("ReceiptsQueue")) == sorted(messages)
        assert queues.bodies(self.LEFT) == queues.bodies("Probe") == []
        assert len(queues.bodies("ReceiptsDeadLetterQueue")) == 1

    def test_goes_onto_the_bus_when_none_is_named(self, queues: Queues, messages: list[str]) -> None:
        assert main(["redrive", "--from-queue", self.LEFT, "--yes"]) == 0
        details = [json.loads(body)["detail"]["event_id"] for body in queues.bodies("Probe")]
        assert sorted(details) == [json.loads(message)["detail"]["event_id"] for message in messages]
        assert queues.bodies("ReceiptsQueue") == queues.bodies(self.LEFT) == []

    def test_goes_to_one_consumer_at_most(
        self, queues: Queues, messages: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        both = ("--queue", "receipts", "--queue", "relay")
        assert main(["redrive", "--from-queue", self.LEFT, *both, "--yes"]) == 1
        assert "--from-queue goes with one --queue at most" in capsys.readouterr().err
        assert len(queues.bodies(self.LEFT)) == 2


class Stream:
    """Boto3 with a stream that answers these pages of records, and a relay that takes them all."""

    def __init__(self, *pages: list[int]) -> None:
        self._pages = pages
        self.relayed: list[list[str]] = []

    def client(self, service: str) -> Any:
        return self if service in ("dynamodbstreams", "lambda") else boto3.client(service)

    def get_shard_iterator(self, **_: Any) -> dict[str, Any]:
        return {"ShardIterator": "0"}

    def get_records(self, *, ShardIterator: str, **_: Any) -> dict[str, Any]:  # noqa: N803  # boto3's name
        page = int(ShardIterator)
        if page >= len(self._pages):  # an open shard goes on without an end
            return {"Records": [], "NextShardIterator": ShardIterator}
        records = [a_record(an_order(), sequence=str(n)) for n in self._pages[page]]
        return {"Records": records, "NextShardIterator": str(page + 1)}

    def invoke(self, *, Payload: bytes, **request: Any) -> dict[str, Any]:  # noqa: N803  # boto3's name
        assert request == {"FunctionName": "RelayFunction"}, "it has no alias"
        records = json.loads(Payload)["Records"]
        self.relayed.append([record["dynamodb"]["SequenceNumber"] for record in records])
        return {"Payload": io.BytesIO(b'{"batchItemFailures": []}')}


def a_failed_batch(first: int, last: int, size: int) -> str:
    batch = {
        "shardId": "shard",
        "streamArn": "stream",
        "startSequenceNumber": str(first),
        "endSequenceNumber": str(last),
        "batchSize": size,
    }
    context = {"condition": "RetryAttemptsExhausted", "approximateInvokeCount": 11}
    return json.dumps({"requestContext": context, "DDBStreamBatchInfo": batch})


class TestARedriveOfTheRelay:
    @pytest.fixture(autouse=True)
    def failed(self, queues: Queues) -> None:
        # The batch held two of the records: the filter took one out, or another batch had it.
        queues.send("RelayDeadLetterQueue", a_failed_batch(first=1, last=3, size=2))

    def test_reads_on_to_the_last_record_of_the_batch(
        self, queues: Queues, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stream = Stream([1, 2], [], [3, 4])
        monkeypatch.setattr(dlq, "boto3", stream)
        assert main(["redrive", "--yes"]) == 0
        assert stream.relayed == [["1", "2", "3"]]
        assert queues.bodies("RelayDeadLetterQueue") == []

    def test_gives_the_relay_no_more_than_it_can_take_at_once(
        self, queues: Queues, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stream = Stream([1] * 150, [3])
        monkeypatch.setattr(dlq, "boto3", stream)
        assert main(["redrive", "--yes"]) == 0
        assert [len(records) for records in stream.relayed] == [100, 51]

    def test_keeps_the_message_when_the_stream_gives_only_a_part(
        self, queues: Queues, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stream = Stream([1, 2])
        monkeypatch.setattr(dlq, "boto3", stream)
        assert main(["redrive", "--yes"]) == 1
        assert "the stream does not give all of it" in capsys.readouterr().out
        assert stream.relayed == []
        assert len(queues.bodies("RelayDeadLetterQueue")) == 1


class TestReplay:
    WINDOW = ("2026-01-02T03:00:00Z", "2026-01-02T04:00:00Z")

    def replay(self, start: str = WINDOW[0], end: str = WINDOW[1]) -> int:
        return main(["replay", "--from", start, "--to", end, "--yes"])

    @pytest.fixture
    def running(self, queues: Queues) -> Any:
        """A replay of the window that is under way."""
        assert self.replay() == 0
        [replay] = events_backends[DEFAULT_ACCOUNT_ID][REGION].replays.values()
        replay.state = ReplayState.RUNNING
        return replay

    def test_sends_the_archived_events_again(
        self, queues: Queues, capsys: pytest.CaptureFixture[str]
    ) -> None:
        sent = json.loads(events(1)[0])
        entry = {"Source": "orders", "DetailType": "OrderPlaced", "Detail": json.dumps(sent["detail"])}
        boto3.client("events").put_events(Entries=[entry | {"EventBusName": "OrdersEventBus"}])
        assert self.replay() == 0
        said = capsys.readouterr().out
        assert "completed" in said
        assert "may not be in the archive yet" not in said
        details = [json.loads(body)["detail"] for body in queues.bodies("Probe")]
        assert details == [sent["detail"]] * 2

    def test_follows_one_that_is_under_way(
        self, running: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("time.sleep", lambda _: setattr(running, "state", ReplayState.COMPLETED))
        assert self.replay() == 0
        assert f"{running.name} is under way already" in capsys.readouterr().out
        assert list(events_backends[DEFAULT_ACCOUNT_ID][REGION].replays) == [running.name]

    def test_waits_for_one_of_another_window(self, running: Any, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.replay(end="2026-01-02T05:00:00Z") == 1
        assert f"{running.name} of another window is under way" in capsys.readouterr().err

    def test_says_that_the_archive_lags(self, queues: Queues, capsys: pytest.CaptureFixture[str]) -> None:
        now = datetime.now(UTC)
        assert self.replay((now - timedelta(hours=1)).isoformat(), now.isoformat()) == 0
        assert "may not be in the archive yet" in capsys.readouterr().out

    def test_finds_one_that_is_under_way_behind_a_full_page(self) -> None:
        class Pages:
            def list_replays(self, **request: str) -> dict[str, Any]:
                assert request.pop("EventSourceArn") == "archive"
                if request == {"NextToken": "more"}:
                    return {"Replays": [{"ReplayName": "b", "State": "RUNNING"}]}
                return {"Replays": [{"ReplayName": "a", "State": "COMPLETED"}], "NextToken": "more"}

        assert [replay["ReplayName"] for replay in dlq._running(Pages(), "archive")] == ["b"]
