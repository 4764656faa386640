"""The restore, rehearsed: orders deleted and spoilt on the local AWS emulator come back as they were."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import boto3
import httpx
import pytest
from botocore.stub import Stubber
from jsonschema import Draft202012Validator
from localcloud.running import Emulator
from scripts import restore as command
from scripts.cli import CliError
from tests.builders import AN_ORDER, ROOT, a_product, a_record, an_order
from tests.local.running import api_client, stream_of

from app.core.settings import Settings
from app.entrypoints.lambda_relay import event_reader

pytestmark = pytest.mark.xdist_group("restore")


@pytest.fixture
def table(aws: Emulator, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in aws.environ.items():
        monkeypatch.setenv(name, value)
    return aws.outputs["OrdersTableName"]


@pytest.fixture
def dynamodb(table: str) -> Any:
    return boto3.client("dynamodb")


def put(dynamodb: Any, table: str, **changes: Any) -> dict[str, Any]:
    item = a_record(an_order(id=str(uuid.uuid4()), **changes))["dynamodb"]["NewImage"]
    dynamodb.put_item(TableName=table, Item=item)
    return {"pk": item["pk"]}


def quiet(_: str) -> None:
    pass


@contextmanager
def as_it_is_now(dynamodb: Any, table: str) -> Iterator[str]:
    """A copy of the table."""
    then = f"{table}-then-{uuid.uuid4()}"
    dynamodb.restore_table_to_point_in_time(
        SourceTableName=table, TargetTableName=then, UseLatestRestorableTime=True
    )
    yield then
    dynamodb.delete_table(TableName=then)


def facts(item: dict[str, Any]) -> dict[str, Any]:
    """What a restore brings back of an item; the rest says which write it was."""
    written = ("version", "updated_at", "write_id", "traceparent", "correlation_id")
    return {name: value for name, value in item.items() if name not in written}


def test_what_is_gone_comes_back_and_what_came_since_stays(dynamodb: Any, table: str) -> None:
    gone, spoilt, torn, kept = keys = [put(dynamodb, table) for _ in range(4)]
    # The live table is a copy here, too: the relay, which other tests need, could not read what is spoilt.
    with as_it_is_now(dynamodb, table) as then, as_it_is_now(dynamodb, table) as live:

        def read(key: dict[str, Any]) -> dict[str, Any]:
            item: dict[str, Any] = dynamodb.get_item(TableName=live, Key=key)["Item"]
            return item

        def spoil(key: dict[str, Any], change: str, **values: dict[str, str]) -> None:
            named = {f":{name}": value for name, value in values.items()}
            more = {"ExpressionAttributeValues": named} if named else {}
            dynamodb.update_item(TableName=live, Key=key, UpdateExpression=change, **more)

        before = [read(key) for key in keys]
        dynamodb.delete_item(TableName=live, Key=gone)
        spoil(spoilt, "SET product = :p, write_id = :w", p={"S": "garbage"}, w={"S": "bad"})
        spoil(torn, "REMOVE version, write_id")
        since = put(dynamodb, live)

        def run(*, write: bool = False, overwrite: bool = False) -> command.Outcome:
            return command.put_back(live, then, write=write, overwrite=overwrite, say=quiet)

        looked = run()
        assert (looked.gone, looked.different, looked.written) == (1, 2, 0)
        assert "Item" not in dynamodb.get_item(TableName=live, Key=gone)

        assert run(write=True).written == 1
        assert facts(read(gone)) == facts(before[0])
        assert read(spoilt)["product"] == {"S": "garbage"}

        assert run(write=True, overwrite=True).written == 2
        after = [read(key) for key in keys]
        assert [facts(item) for item in after] == [facts(item) for item in before]
        assert [item["version"]["N"] for item in after] == ["1001", "1001", "1001", "1"]
        assert after[-1] == before[-1]
        assert "Item" in dynamodb.get_item(TableName=live, Key=since)
        assert run(write=True, overwrite=True).written == 0  # safe to repeat

        # What differs in the marks of a write alone was put back, but only if its version moved, too.
        spoil(kept, "SET updated_at = :u", u={"S": "garbage"})
        assert run(write=True, overwrite=True).written == 1


def test_what_other_resources_hold_comes_back_too(dynamodb: Any, table: str) -> None:
    item = a_record(a_product(id=str(uuid.uuid4())))["dynamodb"]["NewImage"]
    key = {"pk": item["pk"]}
    dynamodb.put_item(TableName=table, Item=item)
    with as_it_is_now(dynamodb, table) as then:
        dynamodb.delete_item(TableName=table, Key=key)
        assert command.put_back(table, then, write=True, overwrite=False, say=quiet).written == 1
    assert facts(dynamodb.get_item(TableName=table, Key=key)["Item"]) == facts(item)


def test_what_is_counted_beside_the_orders_is_left_alone(dynamodb: Any, table: str) -> None:
    """Attachments and uploads were counted on since: putting the counts back would let callers past them."""
    key = {"pk": {"S": f"uploads#2026-01-02#{uuid.uuid4()}"}}
    dynamodb.put_item(TableName=table, Item=key | {"reserved": {"N": "1"}})
    with as_it_is_now(dynamodb, table) as then:
        dynamodb.delete_item(TableName=table, Key=key)
        outcome = command.put_back(table, then, write=True, overwrite=True, say=quiet)
    assert (outcome.gone, outcome.different, outcome.written) == (0, 0, 0)


def events(order_id: str, table: str) -> list[Any]:
    """The events of every record of the order in the table's stream."""
    records = [r for r in stream_of(table) if r["dynamodb"]["Keys"]["pk"]["S"] == f"order#{order_id}"]
    return [event for event in map(event_reader().to_event, records) if event]


@pytest.mark.parametrize("accident", ["changed", "changed and deleted"])
def test_no_event_id_or_entity_tag_is_used_again(
    accident: str, dynamodb: Any, table: str, aws: Emulator
) -> None:
    tags = []

    def noted(answer: httpx.Response) -> str:
        assert answer.is_success, answer.text
        tags.append(answer.headers["etag"])
        return str(answer.json()["id"])

    async def case() -> str:
        async with asyncio.timeout(60), api_client(Settings.from_env(aws.environ)) as client:

            async def change(status: str) -> None:
                noted(await client.put(f"/orders/{order_id}/status", json={"status": status}))

            order_id = noted(await client.post("/orders", json=AN_ORDER))
            with as_it_is_now(dynamodb, table) as then:
                await change("shipped")
                await change("delivered")
                if accident == "changed and deleted":
                    dynamodb.delete_item(TableName=table, Key={"pk": {"S": f"order#{order_id}"}})
                command.put_back(table, then, write=True, overwrite=True, say=quiet)
            noted(await client.get(f"/orders/{order_id}"))
            await change("processing")
            return order_id

    published = events(asyncio.run(case()), table)
    steps = [(event.detail.get("previous_status"), event.detail["order"]["status"]) for event in published]
    restored = [("delivered", "pending")] if accident == "changed" else []
    assert steps == [
        (None, "pending"),
        ("pending", "shipped"),
        ("shipped", "delivered"),
        *restored,
        ("pending", "processing"),
    ]
    assert len({event.event_id for event in published}) == len(published)
    versions = [event.detail["order"]["version"] for event in published]
    assert versions == sorted(versions)
    assert len(set(tags)) == len(tags) == 5
    for event in published:
        schema = json.loads((ROOT / "docs" / "events" / f"{event.detail_type}.json").read_text())
        Draft202012Validator(schema).validate(event.detail)


def test_the_table_of_the_moment_is_made_and_removed(dynamodb: Any, table: str) -> None:
    key = put(dynamodb, table)
    with command.table_at(table, datetime.now(UTC), quiet, poll_seconds=0.1) as then:
        assert "Item" in dynamodb.get_item(TableName=then, Key=key)
    assert not [name for name in dynamodb.list_tables()["TableNames"] if "-at-" in name]


def test_the_table_of_an_interrupted_run_is_taken_up_and_removed(dynamodb: Any, table: str) -> None:
    moment = datetime.now(UTC)
    then = f"{table}-at-{moment:%Y%m%dT%H%M%SZ}"
    dynamodb.restore_table_to_point_in_time(
        SourceTableName=table, TargetTableName=then, UseLatestRestorableTime=True
    )
    with command.table_at(table, moment, quiet, poll_seconds=0.1) as taken:
        assert taken == then
    assert then not in dynamodb.list_tables()["TableNames"]


def test_a_table_that_is_still_being_made_is_named_and_hides_no_cause(
    dynamodb: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", interrupt)
    monkeypatch.setattr("scripts.restore.boto3.client", lambda _: dynamodb)
    with Stubber(dynamodb) as stub:
        stub.add_response("restore_table_to_point_in_time", {})
        stub.add_response("describe_table", {"Table": {"TableStatus": "CREATING"}})
        stub.add_client_error("delete_table", "ResourceInUseException")
        with pytest.raises(KeyboardInterrupt), command.table_at("orders", datetime(2026, 1, 2), said.append):
            pass
    assert said[-1] == "aws dynamodb delete-table --table-name orders-at-20260102T000000Z"


def test_a_table_that_was_restored_already_is_used_and_left(
    dynamodb: Any, table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As after AWS Backup: docs/reliability.md."""
    gone, spoilt = put(dynamodb, table), put(dynamodb, table)
    before = dynamodb.get_item(TableName=table, Key=gone)["Item"]
    with as_it_is_now(dynamodb, table) as then:
        tables = dynamodb.list_tables()["TableNames"]
        dynamodb.delete_item(TableName=table, Key=gone)
        dynamodb.update_item(
            TableName=table,
            Key=spoilt,
            UpdateExpression="SET product = :p",
            ExpressionAttributeValues={":p": {"S": "garbage"}},
        )

        def run(*more: str) -> str:
            assert command.main(["--stack", "orders-local", "--table", then, *more]) == 0
            return capsys.readouterr().out

        assert "1 were gone, 1 differ" in run()
        assert "Item" not in dynamodb.get_item(TableName=table, Key=gone)
        assert "1 put back" in run("--yes")
        assert facts(dynamodb.get_item(TableName=table, Key=gone)["Item"]) == facts(before)
        assert dynamodb.get_item(TableName=table, Key=spoilt)["Item"]["product"] == {"S": "garbage"}
        assert "0 were gone, 1 differ" in run("--yes", "--overwrite")
        assert "0 were gone, 0 differ" in run()
        assert dynamodb.list_tables()["TableNames"] == tables


def test_a_table_that_cannot_be_meant_gets_one_line(
    dynamodb: Any, table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    other = f"other-{uuid.uuid4()}"
    dynamodb.create_table(
        TableName=other,
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    cases = {"nowhere": "no table nowhere", table: "the stack's own table", other: "no copy of it"}
    for name, words in cases.items():
        assert command.main(["--stack", "orders-local", "--table", name, "--yes"]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert words in error
    dynamodb.delete_table(TableName=other)


def test_a_table_that_is_still_being_restored_gets_one_line(
    dynamodb: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scripts.restore.boto3.client", lambda _: dynamodb)
    key = {"KeySchema": [{"AttributeName": "pk", "KeyType": "HASH"}]}
    with Stubber(dynamodb) as stub:
        stub.add_response("describe_table", {"Table": {"TableArn": "b", "TableStatus": "CREATING", **key}})
        stub.add_response("describe_table", {"Table": {"TableArn": "a", "TableStatus": "ACTIVE", **key}})
        with pytest.raises(CliError, match="b is CREATING"):
            command.restored("a", "b")


def test_an_order_that_was_gone_makes_no_event_again() -> None:
    assert event_reader().to_event(a_record(an_order())) is not None
    assert event_reader().to_event(a_record(an_order(version=3))) is None


def test_a_stack_that_is_not_there_gets_one_line(table: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--stack", "nowhere", "--to", "2026-01-01T00:00:00Z"]) == 1
    assert "nowhere" in capsys.readouterr().err
