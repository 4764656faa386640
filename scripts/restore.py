"""`make restore STACK=orders-prod TO=2026-11-22T10:00:00Z`: bring back what the table held at a moment.

DynamoDB restores a moment of the last 35 days into a new table. This makes that table, compares it with
the live one item by item, and says what it would do; with --yes it puts back the items that are gone, and
with --overwrite those that differ too. The live table stays the stack's; the new one is deleted at the end.
With TABLE=orders-restored in place of TO it compares with a table that is there already, say from AWS Backup
(docs/reliability.md), and leaves it there.
An item is an order, a product or whatever `app.resources` names. What was created since is never touched.
What is put back is a new version, so that no event id or entity tag is used twice. The relay publishes what
was overwritten, if its resource has an event for that; what was gone makes no event.

https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/PointInTimeRecovery_Howitworks.html
"""

from __future__ import annotations

import argparse
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import boto3
from scripts.aws import session
from scripts.cli import Arguments, CliError, moment_of, run_command, say, stack_of
from scripts.stack import Stack

from app.core.times import now, timestamp
from app.resources import load

# A restore takes minutes to hours, by the table's size.
_POLL_SECONDS = 10.0
_WAIT_SECONDS = 6 * 3600
_BATCH = 100  # keys of one BatchGetItem
# How far an item's version moves when it is put back. The live one is gone or may be spoilt, so nobody knows
# how far it had got; no item has this many changes.
_LEAP = 1000
# What each write sets anew.
_OF_THE_WRITE = {"version", "updated_at", "write_id", "traceparent", "correlation_id"}

# What the keys of every resource's items begin with.
_PREFIXES = tuple(f"{module.source.prefix}#" for module in load("events").values())

Item = dict[str, Any]
Say = Callable[[str], None]


@dataclass
class Outcome:
    """How many items of the moment are in the live table as they were, differ, or are gone."""

    same: int = 0
    different: int = 0
    gone: int = 0
    written: int = 0


def put_back(table: str, then: str, *, write: bool, overwrite: bool, say: Say) -> Outcome:
    """Compare `table` with `then`, and put back from it what `write` and `overwrite` allow."""
    dynamodb = boto3.client("dynamodb")
    outcome = Outcome()
    for batch in _batches(dynamodb, then):
        live = _live(dynamodb, table, batch)
        for item in batch:
            present = live.get(item["pk"]["S"])
            if present is not None and _same(present, item):
                outcome.same += 1
                continue
            if present is None:
                outcome.gone += 1
            else:
                outcome.different += 1
            if write and (present is None or overwrite):
                outcome.written += _put(dynamodb, table, item, present)
        seen = outcome.same + outcome.different + outcome.gone
        say(f"{seen} items compared: {outcome.gone} gone, {outcome.different} different")
    return outcome


@contextmanager
def table_at(table: str, moment: datetime, say: Say, poll_seconds: float = _POLL_SECONDS) -> Iterator[str]:
    """Make the table as it was at the moment, and delete it at the end; yields its name.

    One that an interrupted run has left is taken up.
    """
    dynamodb = boto3.client("dynamodb")
    then = f"{table[:220]}-at-{moment:%Y%m%dT%H%M%SZ}"
    say(f"Restoring {table} as of {moment:%Y-%m-%d %H:%M:%S} UTC into {then} ...")
    with suppress(dynamodb.exceptions.TableAlreadyExistsException):
        dynamodb.restore_table_to_point_in_time(
            SourceTableName=table,
            TargetTableName=then,
            RestoreDateTime=moment,
            GlobalSecondaryIndexOverride=[],
        )
    try:
        deadline = time.monotonic() + _WAIT_SECONDS
        while (status := dynamodb.describe_table(TableName=then)["Table"]["TableStatus"]) != "ACTIVE":
            if time.monotonic() > deadline:
                raise CliError(f"{then} is still {status} after {_WAIT_SECONDS // 3600} hours")
            say(f"{then} is {status} ...")
            time.sleep(poll_seconds)
        yield then
    finally:
        try:
            dynamodb.delete_table(TableName=then)
        except dynamodb.exceptions.ResourceInUseException:  # nobody can delete a table that is being made
            say(f"{then} is left, and costs. Run this again, or, once it is ACTIVE:")
            say(f"aws dynamodb delete-table --table-name {then}")


def restored(table: str, then: str) -> str:
    """Return `then`, a table that was restored by other means. Raises CliError if it was not."""
    dynamodb = boto3.client("dynamodb")
    try:
        found = dynamodb.describe_table(TableName=then)["Table"]
    except dynamodb.exceptions.ResourceNotFoundException as why:
        raise CliError(f"there is no table {then}") from why
    live = dynamodb.describe_table(TableName=table)["Table"]
    if found["TableArn"] == live["TableArn"]:
        raise CliError(f"{then} is the stack's own table")
    if found["KeySchema"] != live["KeySchema"]:
        raise CliError(f"{then} is no copy of it: its key is another one")
    if found["TableStatus"] != "ACTIVE":
        raise CliError(f"{then} is {found['TableStatus']}; wait until it is ACTIVE")
    return then


def _batches(dynamodb: Any, table: str) -> Iterator[list[Item]]:
    """Yield every entity of the restored table, which nobody else reads or writes.

    What is counted of attachments and uploads stays as it is in the live table.
    """
    for page in dynamodb.get_paginator("scan").paginate(
        TableName=table, PaginationConfig={"PageSize": _BATCH}
    ):
        if items := [item for item in page["Items"] if item["pk"]["S"].startswith(_PREFIXES)]:
            yield items


def _live(dynamodb: Any, table: str, items: list[Item]) -> dict[str, Item]:
    """Return the live items of the same keys."""
    found: dict[str, Item] = {}
    asked = {table: {"Keys": [{"pk": item["pk"]} for item in items], "ConsistentRead": True}}
    for _ in range(20):
        answer = dynamodb.batch_get_item(RequestItems=asked)
        found |= {item["pk"]["S"]: item for item in answer["Responses"][table]}
        asked = answer.get("UnprocessedKeys") or {}
        if not asked:
            return found
        time.sleep(1)
    raise CliError(f"{table} goes on rejecting reads; try again when it has less to do")


def _same(present: Item, item: Item) -> bool:
    """Whether the live item is as it was, or was put back already and has not changed since."""
    if present == item:
        return True
    facts = [{name: each[name] for name in each.keys() - _OF_THE_WRITE} for each in (present, item)]
    return facts[0] == facts[1] and _version(present) >= _version(item) + _LEAP


def _version(item: Item) -> int:
    """Return the version; 0 when it is spoilt."""
    try:
        return int(item["version"]["N"])
    except (KeyError, ValueError):
        return 0


def _put(dynamodb: Any, table: str, item: Item, present: Item | None) -> int:
    """Put the item unless the live one has moved on since it was compared; return how many were put."""
    condition: dict[str, Any] = {"ConditionExpression": "attribute_not_exists(write_id)"}
    if present is not None and "write_id" in present:
        condition = {
            "ConditionExpression": "write_id = :seen",
            "ExpressionAttributeValues": {":seen": present["write_id"]},
        }
    version = max(_version(each) for each in (item, present) if each) + _LEAP
    written = {
        "version": {"N": str(version)},
        "updated_at": {"S": timestamp(now())},
        "write_id": {"S": uuid.uuid4().hex},
        "traceparent": {"S": ""},
        "correlation_id": {"S": ""},
    }
    try:
        dynamodb.put_item(TableName=table, Item=item | written, **condition)
    except dynamodb.exceptions.ConditionalCheckFailedException:
        return 0
    return 1


def main(argv: list[str]) -> int:
    """Restore, or say what that would do."""
    parser = Arguments(prog="make restore", description=__doc__)
    parser.add_argument("--stack", type=stack_of, required=True)
    parser.add_argument("--to", type=_moment, help="the moment, as 2026-11-22T10:00:00Z")
    parser.add_argument("--table", help="in place of the moment: a table that was restored already")
    parser.add_argument("--yes", action="store_true", help="put back the items that are gone")
    parser.add_argument("--overwrite", action="store_true", help="with --yes: the items that differ, too")
    asked = parser.parse_args(argv)
    if bool(asked.to) == bool(asked.table):
        parser.error("give either TO=, a moment as 2026-11-22T10:00:00Z, or TABLE=, a table restored already")
    return run_command("make restore", lambda: _run(asked))


def _run(asked: argparse.Namespace) -> int:
    table = Stack(session().client("cloudformation"), asked.stack).output("OrdersTableName")
    with table_at(table, asked.to, say) if asked.to else nullcontext(restored(table, asked.table)) as then:
        outcome = put_back(table, then, write=asked.yes, overwrite=asked.overwrite, say=say)
    print(f"{outcome.same} items are as they were, {outcome.gone} were gone, {outcome.different} differ.")
    print(
        f"{outcome.written} put back." if asked.yes else "Nothing was changed; --yes puts back what is gone."
    )
    return 0


def _moment(text: str) -> datetime | None:
    """Read the moment; none if none is given."""
    if not text:
        return None
    moment = moment_of(text)
    if moment.tzinfo is None:
        raise argparse.ArgumentTypeError(f"a moment needs its zone, as {text}Z has one")
    if moment > datetime.now(UTC):
        raise argparse.ArgumentTypeError(f"{text} lies in the future")
    return moment.astimezone(UTC)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
