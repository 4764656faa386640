"""The restore, rehearsed: orders deleted and spoilt on the local AWS come back as they were."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
from localcloud.embedded import EmbeddedAws
from scripts import restore as command
from tests.support import an_order

from orders.adapters.dynamodb import item_of
from orders.adapters.stream import event_of

pytestmark = pytest.mark.xdist_group("restore")


@pytest.fixture
def table(aws: EmbeddedAws, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in aws.environ.items():
        monkeypatch.setenv(name, value)
    return aws.outputs["OrdersTableName"]


@pytest.fixture
def dynamodb(table: str) -> Any:
    return boto3.client("dynamodb")


def put(dynamodb: Any, table: str, **changes: Any) -> dict[str, Any]:
    order = an_order(id=str(uuid.uuid4()), **changes)
    item = item_of(order, "f", 4)
    dynamodb.put_item(TableName=table, Item=item)
    return {"pk": item["pk"]}


def quiet(_: str) -> None:
    pass


def test_what_is_gone_comes_back_and_what_came_since_stays(dynamodb: Any, table: str) -> None:
    gone, spoilt, kept = (put(dynamodb, table) for _ in range(3))
    before = {
        key["pk"]["S"]: dynamodb.get_item(TableName=table, Key=key)["Item"] for key in (gone, spoilt, kept)
    }
    then = f"{table}-then"
    dynamodb.restore_table_to_point_in_time(
        SourceTableName=table, TargetTableName=then, UseLatestRestorableTime=True
    )
    dynamodb.delete_item(TableName=table, Key=gone)
    dynamodb.update_item(
        TableName=table,
        Key=spoilt,
        UpdateExpression="SET product = :p, write_id = :w",
        ExpressionAttributeValues={":p": {"S": "garbage"}, ":w": {"S": "bad"}},
    )
    since = put(dynamodb, table)

    def run(*, write: bool = False, overwrite: bool = False) -> command.Outcome:
        return command.put_back(table, then, write=write, overwrite=overwrite, say=quiet)

    looked = run()
    assert (looked.gone, looked.different, looked.written) == (1, 1, 0)
    assert "Item" not in dynamodb.get_item(TableName=table, Key=gone)

    assert run(write=True).written == 1
    assert dynamodb.get_item(TableName=table, Key=gone)["Item"] == before[gone["pk"]["S"]]
    assert dynamodb.get_item(TableName=table, Key=spoilt)["Item"]["product"] == {"S": "garbage"}

    assert run(write=True, overwrite=True).written == 1
    for key in (gone, spoilt, kept):
        assert dynamodb.get_item(TableName=table, Key=key)["Item"] == before[key["pk"]["S"]]
    assert "Item" in dynamodb.get_item(TableName=table, Key=since)
    assert run(write=True, overwrite=True).written == 0  # safe to repeat
    dynamodb.delete_table(TableName=then)


def test_the_table_of_the_moment_is_made_and_removed(dynamodb: Any, table: str) -> None:
    key = put(dynamodb, table)
    with command.table_at(table, datetime.now(UTC), quiet, poll_seconds=0.1) as then:
        assert "Item" in dynamodb.get_item(TableName=then, Key=key)
    assert not [name for name in dynamodb.list_tables()["TableNames"] if "-at-" in name]


def test_an_order_that_is_put_back_makes_no_event_again() -> None:
    def record(version: int) -> dict[str, Any]:
        item = item_of(an_order(version=version), "f", 4)
        return {"eventName": "INSERT", "dynamodb": {"NewImage": item}}

    assert event_of(record(1)) is not None
    assert event_of(record(3)) is None


@pytest.mark.parametrize(
    ("to", "word"),
    [
        ("yesterday", "yesterday"),
        ("2026-01-01T00:00:00", "zone"),
        ("2999-01-01T00:00:00Z", "future"),
    ],
)
def test_bad_moments_get_one_line(to: str, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--stack", "orders-dev", "--to", to]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert word in error


def test_a_stack_that_is_not_there_gets_one_line(table: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--stack", "nowhere", "--to", "2026-01-01T00:00:00Z"]) == 1
    assert "nowhere" in capsys.readouterr().err
