"""`make dlq`: the messages in the dead-letter queues, why they failed, and how to deliver them again.

    list                            the messages in each queue and why they failed (changes nothing)
    redrive [--queue receipts]      deliver them again; says what it would do, does it with --yes
    replay --from T --to T          deliver every event of a time window again, from the archive;
                                    says what it would do, does it with --yes

`--queue` takes `relay` or a consumer's name. `--from-queue` takes messages from a queue outside the stack
instead, one that an earlier version left: they go to the consumer that `--queue` names, or onto the bus.

Everything is safe to repeat: consumers drop what they have seen, a message is deleted only once it
is delivered, and a replay that is under way is followed, not started again.
"""

from __future__ import annotations

import argparse
import json
import pkgutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
from botocore.exceptions import ClientError
from scripts.aws import messages_in, session
from scripts.cli import Arguments, CliError, batches, moment_of, run_command, stack_of
from scripts.stack import Stack

from app.core.events.consumer import Consumer, MalformedEvent
from app.core.events.stream import MalformedRecord
from app.entrypoints.lambda_relay import event_reader

# Messages that this command received and did not delete become visible to others after this time.
_HIDDEN_SECONDS = 120
_REPLAY_POLL_SECONDS = 2.0
# An event may take this long into the archive.
# https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-archive.html
_ARCHIVE_LAG = timedelta(minutes=10)
# What one call of the relay gets; its payload may have 6 MB.
_RECORDS = 100
# GetRecords may answer nothing before it comes to the next record, but not for ever.
_EMPTY_PAGES = 100

Say = Callable[[str], None]


@dataclass(frozen=True)
class Message:
    """One message of a dead-letter queue."""

    id: str
    handle: str
    body: str
    sent_at: datetime
    attributes: dict[str, str]


@dataclass(frozen=True)
class DeadLetterQueue:
    """A queue to take messages from; with the consumer that its events are for, if that is one."""

    name: str
    url: str
    handler: str = ""
    consumer_url: str = ""


class DeadLetterQueues:
    """The commands, on one stack."""

    def __init__(self, stack: Stack, say: Say = print) -> None:
        self._say = say
        self._sqs: Any = boto3.client("sqs")
        self._ids = stack.ids()
        self._queues = {"relay": DeadLetterQueue("relay", self._id("RelayDeadLetterQueue"))} | {
            name: DeadLetterQueue(name, of["DeadLetterQueueUrl"], of["Handler"], of["QueueUrl"])
            for name, of in stack.consumers().items()
        }

    def chosen(self, names: list[str] | None, source: str = "") -> list[DeadLetterQueue]:
        """Return the queues of these names, or all; with `source` that queue, as if it had the name.

        Raises CliError.
        """
        if unknown := set(names or ()) - set(self._queues):
            raise CliError(f"no queue {', '.join(sorted(unknown))}: there are {', '.join(self._queues)}")
        queues = [self._queues[name] for name in names or self._queues]
        if not source:
            return queues
        url = source if "/" in source else self._sqs.get_queue_url(QueueName=source)["QueueUrl"]
        if not names:
            return [DeadLetterQueue(source, url)]
        if len(names) > 1:
            raise CliError("--from-queue goes with one --queue at most")
        return [replace(queues[0], name=source, url=url)]

    def show(self, queues: list[DeadLetterQueue], limit: int) -> None:
        """Say what is in the queues and why, and leave it there."""
        for queue in queues:
            count = messages_in(self._sqs, queue.url)
            self._say(f"{queue.name}: {count or 'no'} message{'' if count == 1 else 's'}")
            taken: list[Message] = []
            for batch in self._batches(queue, limit) if count else ():
                taken += batch
                for message in batch:
                    self._say(f"  {message.sent_at:%Y-%m-%d %H:%M:%S}Z  {self._reason(queue, message)}")
            self._put_back(queue, taken)
            if count > limit:
                self._say(f"  ... and more (--limit {limit})")

    def redrive(self, queues: list[DeadLetterQueue], really: bool) -> bool:
        """Deliver what is in the queues again; return whether all of it went."""
        complete = True
        for queue in queues:
            count = messages_in(self._sqs, queue.url)
            if not really or not count:
                self._say(f"{queue.name}: {f'would deliver {count}' if count else 'nothing to deliver'}")
                continue
            done, kept = 0, list[Message]()
            for batch in self._batches(queue):
                delivered = self._deliver(queue, batch)
                self._by_handle("delete_message_batch", queue, delivered)
                done += len(delivered)
                kept += [message for message in batch if message not in delivered]
                self._say(f"{queue.name}: {done} of {max(count, done + len(kept))} delivered")
            self._put_back(queue, kept)
            if kept:
                complete = False
                self._say(f"{queue.name}: {len(kept)} kept, see above")
        if not really:
            self._say("Nothing was changed. Add --yes to do it.")
        return complete

    def replay(self, start: datetime, end: datetime, really: bool) -> bool:
        """Send the archived events of the window to the bus again; return whether all went."""
        events: Any = boto3.client("events")
        archive = events.describe_archive(ArchiveName=self._id("OrdersArchive"))
        # The API takes whole seconds; cutting the end down to them would lose the last events.
        start = start.replace(microsecond=0)
        end = end.replace(microsecond=0) + timedelta(seconds=bool(end.microsecond))
        window = f"{start:%Y-%m-%d %H:%M:%S}Z to {end:%Y-%m-%d %H:%M:%S}Z"
        if end > datetime.now(UTC) - _ARCHIVE_LAG:
            self._say("Events of the last ten minutes may not be in the archive yet; replay those later.")
        if not really:
            self._say(f"Would replay the events from {window}.")
            self._say("Nothing was changed. Add --yes to do it.")
            return True
        running = next(_running(events, archive["ArchiveArn"]), None)
        if running:
            name = running["ReplayName"]
            if (running["EventStartTime"], running["EventEndTime"]) != (start, end):
                raise CliError(f"the replay {name} of another window is under way; wait for it")
            self._say(f"{name} is under way already")
        else:
            name = f"orders-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"
            events.start_replay(
                ReplayName=name,
                EventSourceArn=archive["ArchiveArn"],
                EventStartTime=start,
                EventEndTime=end,
                Destination={"Arn": archive["EventSourceArn"]},
            )
            self._say(f"{name}: {window}")
        return self._follow(events, name, end)

    def _follow(self, events: Any, name: str, end: datetime) -> bool:
        reached = None
        while True:
            replay = events.describe_replay(ReplayName=name)
            if replay["State"] not in ("STARTING", "RUNNING"):
                self._say(f"{name}: {replay['State'].lower()} {replay.get('StateReason', '')}".rstrip())
                return bool(replay["State"] == "COMPLETED")
            if replay.get("EventLastReplayedTime") not in (None, reached):
                reached = replay["EventLastReplayedTime"]
                self._say(f"{name}: at {reached:%Y-%m-%d %H:%M:%S} of {end:%Y-%m-%d %H:%M:%S}")
            time.sleep(_REPLAY_POLL_SECONDS)

    def _id(self, logical_id: str) -> str:
        if logical_id not in self._ids:
            raise CliError(f"the stack has no {logical_id}")
        return self._ids[logical_id]

    def _batches(self, queue: DeadLetterQueue, limit: int | None = None) -> Iterator[list[Message]]:
        """Take the messages, each once, hiding them from others for a while."""
        seen: set[str] = set()
        while limit is None or len(seen) < limit:
            answer = self._sqs.receive_message(
                QueueUrl=queue.url,
                MaxNumberOfMessages=10 if limit is None else min(10, limit - len(seen)),
                VisibilityTimeout=_HIDDEN_SECONDS,
                WaitTimeSeconds=1,  # asks every server of the queue, so that empty means empty
                MessageSystemAttributeNames=["SentTimestamp"],
                MessageAttributeNames=["All"],
            )
            batch = [_message(raw) for raw in answer.get("Messages", []) if raw["MessageId"] not in seen]
            if not batch:
                return
            seen |= {message.id for message in batch}
            yield batch

    def _put_back(self, queue: DeadLetterQueue, messages: list[Message]) -> None:
        self._by_handle("change_message_visibility_batch", queue, messages, VisibilityTimeout=0)

    def _by_handle(
        self, operation: str, queue: DeadLetterQueue, messages: list[Message], **more: Any
    ) -> None:
        for ten in batches(messages, 10):
            entries = [{"Id": str(n), "ReceiptHandle": each.handle, **more} for n, each in enumerate(ten)]
            getattr(self._sqs, operation)(QueueUrl=queue.url, Entries=entries)

    def _reason(self, queue: DeadLetterQueue, message: Message) -> str:
        try:
            if failure := _failure(message):
                context, batch = failure
                tries = f"{context['condition']} after {context['approximateInvokeCount']} tries"
                return f"{batch['batchSize']} record(s), {tries}: {self._record_reasons(batch)}"
            return _event_reason(queue, message)
        except CliError as problem:
            return str(problem)

    def _record_reasons(self, batch: dict[str, Any]) -> str:
        try:
            return "; ".join(_record_reason(record) for record in self._records(batch))
        except CliError as gone:
            return str(gone)

    def _deliver(self, queue: DeadLetterQueue, messages: list[Message]) -> list[Message]:
        """Deliver changes to the relay, and events to the queue's consumer or else to the bus."""
        changes, events = list[tuple[Message, dict[str, Any]]](), list[Message]()
        for message in messages:
            if failure := _failure(message):
                changes.append((message, failure[1]))
            else:
                events.append(message)
        to_consumer = queue.consumer_url and events
        return self._to_relay(changes) + (
            self._to_consumer(queue.consumer_url, events) if to_consumer else self._to_bus(events)
        )

    def _to_bus(self, messages: list[Message]) -> list[Message]:
        """Put events on the bus again: every rule gets them, and consumers drop what they have seen."""
        events: Any = boto3.client("events")
        delivered = []
        for message in messages:
            try:
                entry = _entry(message) | {"EventBusName": self._id("OrdersEventBus")}
            except CliError as problem:
                self._say(f"  {message.id}: {problem}")
                continue
            [answer] = events.put_events(Entries=[entry])["Entries"]
            if answer.get("ErrorCode"):
                self._say(f"  {message.id}: the bus rejects it: {answer['ErrorCode']}")
            else:
                delivered.append(message)
        return delivered

    def _to_consumer(self, url: str, messages: list[Message]) -> list[Message]:
        answer = self._sqs.send_message_batch(
            QueueUrl=url,
            Entries=[{"Id": str(n), "MessageBody": message.body} for n, message in enumerate(messages)],
        )
        for failed in answer.get("Failed", []):
            self._say(f"  {messages[int(failed['Id'])].id}: {failed['Code']}")
        return [messages[int(sent["Id"])] for sent in answer.get("Successful", [])]

    def _to_relay(self, changes: list[tuple[Message, dict[str, Any]]]) -> list[Message]:
        """Let the relay function itself publish the records: what it takes then is delivered."""
        delivered = []
        for message, batch in changes:
            try:
                records = self._records(batch)
                for some in batches(records, _RECORDS):
                    self._relay(some)
            except CliError as problem:
                self._say(f"  {message.id}: {problem}")
            else:
                delivered.append(message)
        return delivered

    def _relay(self, records: Sequence[dict[str, Any]]) -> None:
        answer = boto3.client("lambda").invoke(
            FunctionName=self._id("RelayFunction"),
            Payload=json.dumps({"Records": records}, default=_plain).encode(),
        )
        outcome = json.loads(answer["Payload"].read() or "null")
        if answer.get("FunctionError"):
            raise CliError(f"the relay failed: {(outcome or {}).get('errorMessage', 'no reason given')}")
        failed = {each["itemIdentifier"] for each in outcome["batchItemFailures"]}
        if failed:
            still = [r for r in records if r["dynamodb"]["SequenceNumber"] in failed]
            raise CliError(
                "the relay still rejects it: " + "; ".join(_record_reason(record) for record in still)
            )

    def _records(self, batch: dict[str, Any]) -> list[dict[str, Any]]:
        """Read from the first record of a failed batch to its last; the stream keeps them for 24 hours.

        Those of other batches are between them, for several are under way in a shard at a time.
        """
        streams: Any = boto3.client("dynamodbstreams")
        first, last = batch["startSequenceNumber"], int(batch["endSequenceNumber"])
        try:
            iterator = streams.get_shard_iterator(
                StreamArn=batch["streamArn"],
                ShardId=batch["shardId"],
                ShardIteratorType="AT_SEQUENCE_NUMBER",
                SequenceNumber=first,
            ).get("ShardIterator")
            records: list[dict[str, Any]] = []
            reached = empty = 0
            while iterator and reached < last and empty < _EMPTY_PAGES:
                answer = streams.get_records(ShardIterator=iterator, Limit=1000)
                for record in answer["Records"]:
                    reached = int(record["dynamodb"]["SequenceNumber"])
                    if reached <= last:
                        records.append(record)
                empty = 0 if answer["Records"] else empty + 1
                iterator = answer.get("NextShardIterator")
        except ClientError as rejected:
            code = rejected.response["Error"]["Code"]
            if code not in ("TrimmedDataAccessException", "ResourceNotFoundException"):
                raise
            raise CliError("it has left the stream, which keeps records for 24 hours") from rejected
        if reached < last or not records:
            raise CliError("the stream does not give all of it")
        return [record | {"eventSourceARN": batch["streamArn"]} for record in records]


def _running(events: Any, archive_arn: str) -> Iterator[dict[str, Any]]:
    """Yield the replays of the archive that are under way; the API takes one filter, not two."""
    request = {"EventSourceArn": archive_arn}
    while True:
        page = events.list_replays(**request)
        yield from (replay for replay in page["Replays"] if replay["State"] in ("STARTING", "RUNNING"))
        if "NextToken" not in page:
            return
        request["NextToken"] = page["NextToken"]


def _message(raw: dict[str, Any]) -> Message:
    return Message(
        id=raw["MessageId"],
        handle=raw["ReceiptHandle"],
        body=raw["Body"],
        sent_at=datetime.fromtimestamp(int(raw["Attributes"]["SentTimestamp"]) / 1000, UTC),
        attributes={
            name: value.get("StringValue", "") for name, value in raw.get("MessageAttributes", {}).items()
        },
    )


def _failure(message: Message) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Read what Lambda writes of a batch that it gave up: how it was tried, and where it is.

    Of any other message that is None.
    https://docs.aws.amazon.com/lambda/latest/dg/services-dynamodb-errors.html
    """
    try:
        failure = json.loads(message.body)
        return failure["requestContext"], failure["DDBStreamBatchInfo"]
    except (KeyError, TypeError, ValueError):
        return None


def _entry(message: Message) -> dict[str, Any]:
    """Read an event that the bus handed over as what `PutEvents` takes."""
    try:
        event = json.loads(message.body)
        return {
            "Source": event["source"],
            "DetailType": event["detail-type"],
            "Detail": json.dumps(event["detail"]),
            "Time": event["time"],
        }
    except (KeyError, TypeError, ValueError) as problem:
        raise CliError("it is neither an event nor a batch of the relay") from problem


def _event_reason(queue: DeadLetterQueue, message: Message) -> str:
    # What EventBridge could not deliver says so in attributes, and for which target, if it had come to one.
    # https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-rule-dlq.html
    if "ERROR_CODE" in message.attributes:
        attributes = message.attributes
        target = attributes.get("TARGET_ARN", "any target")
        reason = f"{attributes['ERROR_CODE']} {attributes.get('ERROR_MESSAGE', '')}"
        return f"not delivered by the bus to {target}: {reason}"
    try:
        if queue.handler:
            _consumer(queue.handler).read(message.body)
    except MalformedEvent as problem:
        return f"unreadable: {problem}"
    entry = _entry(message)
    detail = json.loads(entry["Detail"])
    event_id = detail.get("event_id") if isinstance(detail, dict) else None
    named = f"{entry['DetailType']} {event_id or 'without an id'}"
    return f"{named}: readable with the code here; the function's log says what went wrong"


def _consumer(handler: str) -> Consumer[Any]:
    """Return the consumer whose handler a function of the stack runs."""
    try:
        found = getattr(pkgutil.resolve_name(handler), "__self__", None)
    except (ImportError, AttributeError):
        found = None
    if not isinstance(found, Consumer):
        raise CliError(f"the code here has no consumer {handler}: check out the commit that is deployed")
    return found


def _record_reason(record: dict[str, Any]) -> str:
    try:
        event = event_reader().to_event(record)
    except MalformedRecord as problem:
        key = record["dynamodb"].get("Keys", {}).get("pk", {}).get("S", "unknown")
        return f"{key} unreadable: {problem}"
    named = f"{event.detail_type} {event.event_id}" if event else "no event"
    return f"{named}: readable with the code here"


def _plain(value: Any) -> Any:
    """Spell what JSON lacks as the stream's own records do."""
    if isinstance(value, datetime):
        return int(value.timestamp())
    raise TypeError(type(value).__name__)


def _moment(text: str) -> datetime:
    moment = moment_of(text)
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 when all of it was done."""
    parser = Arguments(prog="make dlq", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--stack", type=stack_of, default="orders-dev", help="name of the stack (%(default)s)"
    )
    commands = parser.add_subparsers(dest="command")
    listing = commands.add_parser("list", help="the messages in the queues, and why they failed")
    listing.add_argument("--limit", type=int, default=50, help="messages of each queue (%(default)s)")
    again = commands.add_parser("redrive", help="deliver it again")
    for command in (listing, again):
        command.add_argument(
            "--queue", metavar="NAME", action="append", help="only relay, or this consumer's"
        )
        command.add_argument(
            "--from-queue",
            metavar="URL",
            default="",
            help="from this queue, by its URL or name, to the consumer of --queue, or else onto the bus",
        )
    replay = commands.add_parser("replay", help="archived events again")
    utc = "ISO 8601; UTC if it names no zone"
    replay.add_argument("--from", dest="start", type=_moment, required=True, help=utc)
    replay.add_argument("--to", dest="end", type=_moment, required=True)
    for command in (again, replay):
        command.add_argument("--yes", action="store_true", help="do it, and do not only say so")
    parser.set_defaults(command="list", limit=50, queue=None, from_queue="")
    asked = parser.parse_args(arguments)
    return run_command("make dlq", lambda: _run(asked))


def _run(asked: argparse.Namespace) -> int:
    if asked.command == "replay" and (asked.start >= asked.end or asked.end > datetime.now(UTC)):
        raise CliError("--from must be before --to, and --to not in the future")
    stack = Stack(session().client("cloudformation"), asked.stack)
    dead = DeadLetterQueues(stack)
    if asked.command == "replay":
        return 0 if dead.replay(asked.start, asked.end, asked.yes) else 1
    queues = dead.chosen(asked.queue, asked.from_queue)
    if asked.command == "redrive":
        return 0 if dead.redrive(queues, asked.yes) else 1
    dead.show(queues, asked.limit)
    return 0


if __name__ == "__main__":
    sys.exit(main())
