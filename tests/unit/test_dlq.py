"""The operator's command on queues larger than one batch, and on messages it cannot deliver."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto import mock_aws
from scripts.dlq import main
from tests.support import an_envelope, an_order

from orders.events import order_placed

QUEUES = ("ReceiptsQueue", "ReceiptsDeadLetterQueue", "RelayDeadLetterQueue")


class Queues:
    """The stack's queues."""

    def __init__(self) -> None:
        self._sqs: Any = boto3.client("sqs")
        self.urls = {name: self._sqs.create_queue(QueueName=name)["QueueUrl"] for name in QUEUES}

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
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with mock_aws():
        queues = Queues()
        monkeypatch.setattr("scripts.dlq.resources_of", {"orders-dev": queues.urls}.__getitem__)
        yield queues


def events(count: int) -> list[str]:
    ids = [f"0199a6f5-1c00-7000-8000-{n:012}" for n in range(count)]
    return [an_envelope(order_placed(an_order(id=each))) for each in ids]


def test_without_a_command_it_lists_and_leaves_everything_there(
    queues: Queues, capsys: pytest.CaptureFixture[str]
) -> None:
    messages = events(23)
    queues.send("ReceiptsDeadLetterQueue", *messages)
    assert main([]) == 0
    said = capsys.readouterr().out
    assert "RelayDeadLetterQueue: no messages" in said
    assert "ReceiptsDeadLetterQueue: 23 messages" in said
    assert said.count("readable with the code here") == 23
    assert sorted(queues.bodies("ReceiptsDeadLetterQueue")) == sorted(messages)


def test_lists_no_more_than_asked_for(queues: Queues, capsys: pytest.CaptureFixture[str]) -> None:
    queues.send("ReceiptsDeadLetterQueue", *events(13))
    assert main(["list", "--limit", "12"]) == 0
    said = capsys.readouterr().out
    assert said.count("readable with the code here") == 12
    assert "... and more (--limit 12)" in said


def test_says_why_the_bus_could_not_deliver(queues: Queues, capsys: pytest.CaptureFixture[str]) -> None:
    queues.send(
        "ReceiptsDeadLetterQueue", *events(1), ERROR_CODE="NO_PERMISSIONS", ERROR_MESSAGE="Access denied"
    )
    assert main(["list"]) == 0
    assert "not delivered by the bus: NO_PERMISSIONS Access denied" in capsys.readouterr().out


def test_redrives_every_message_once(queues: Queues, capsys: pytest.CaptureFixture[str]) -> None:
    messages = events(23)
    queues.send("ReceiptsDeadLetterQueue", *messages)
    assert main(["redrive"]) == 0
    assert queues.bodies("ReceiptsQueue") == []
    capsys.readouterr()

    assert main(["redrive", "--yes"]) == 0
    said = capsys.readouterr().out
    for progress in ("10 of 23", "20 of 23", "23 of 23"):
        assert f"ReceiptsDeadLetterQueue: {progress} delivered" in said
    assert sorted(queues.bodies("ReceiptsQueue")) == sorted(messages)
    assert queues.bodies("ReceiptsDeadLetterQueue") == []


def test_keeps_what_it_cannot_deliver_and_says_why(
    queues: Queues, capsys: pytest.CaptureFixture[str]
) -> None:
    queues.send("RelayDeadLetterQueue", "not from Lambda")
    for arguments in (["list"], ["redrive", "--yes"]):
        assert main(arguments) == (1 if "redrive" in arguments else 0)
        assert "it does not say which record it is about" in capsys.readouterr().out
    assert queues.bodies("RelayDeadLetterQueue") == ["not from Lambda"]
