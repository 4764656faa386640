"""Each delivery command, ended by a fault at each of its calls to AWS, and run again: nothing is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from localcloud.running import Emulator
from scripts.cli import CliError
from scripts.delivery.data import Data, Kept
from scripts.delivery.deploy import records
from scripts.delivery.destroy import clean_up_previews, destroy
from scripts.delivery.stacks import Stacks
from tests.delivery.test_deploy import EDGE, POLICIES, WEB_ACL, Rig, Session

# One of each kind that the stack retains, and what the others do without.
RETAINED = {
    "Archive": "AWS::Events::Archive, Properties: { SourceArn: !GetAtt Bus.Arn }",
    "Bus": 'AWS::Events::EventBus, Properties: { Name: !Ref "AWS::StackName" }',
    "Queue": "AWS::SQS::Queue",
    "Table": "AWS::DynamoDB::Table, Properties: { BillingMode: PAY_PER_REQUEST, AttributeDefinitions: "
    "[{ AttributeName: pk, AttributeType: S }], KeySchema: [{ AttributeName: pk, KeyType: HASH }] }",
    "Documents": "AWS::S3::Bucket, Properties: { VersioningConfiguration: { Status: Enabled } }",
    "Key": "AWS::KMS::Key, Properties: { Description: data }",
}
STAGE = (
    "Resources:\n"
    + "".join(f"  {name}: {{ {POLICIES}, Type: {rest} }}\n" for name, rest in RETAINED.items())
    + "  Scratch: { Type: AWS::S3::Bucket, Properties: { VersioningConfiguration: { Status: Enabled } } }\n"
)
WITH_LOGS = EDGE.replace(
    "Resources:",
    f"Resources:\n  LogsBucket: {{ {POLICIES}, Type: AWS::S3::Bucket }}\n"
    "  ConsoleBucket: { Type: AWS::S3::Bucket }",
)
ENVIRON = {"ARTIFACT_BUCKET": "orders-artifacts", "IMAGE_REPOSITORY": "registry/orders"}


def denied() -> ClientError:
    return ClientError({"Error": {"Code": "AccessDenied", "Message": "not now"}}, "Any")


FAULTS: dict[str, Callable[[], BaseException]] = {
    "rejected": denied,
    "connection lost": lambda: EndpointConnectionError(endpoint_url="https://aws.example"),
    "Ctrl-C": KeyboardInterrupt,
}


class Cached(Session):
    """A session that makes each client once, which is most of what these tests would take."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(endpoint)
        self._clients: dict[tuple[str, str | None], Any] = {}

    def client(self, service: str, region_name: str | None = None) -> Any:
        if (service, region_name) not in self._clients:
            made = self._clients[service, region_name] = super().client(service, region_name)
            for event in ("before-call", "after-call"):
                made.meta.events.register(event, partial(self._passes, event))
        return self._clients[service, region_name]

    def _passes(self, event: str, **_: Any) -> None:
        """Let a call pass, unless a session like this one makes it fail."""


class FaultySession(Cached):
    """A session whose n-th call fails: before it is sent, or after AWS has done what it asks for."""

    def arm(self, fails_at: int) -> None:
        """Count from here, and let that call fail."""
        self.count, self._fails_at = 0, fails_at
        self._fault = list(FAULTS.values())[fails_at % len(FAULTS)]
        self._event = ("before-call", "after-call")[fails_at % 2]

    def _passes(self, event: str, **_: Any) -> None:
        if event == self._event:
            self.count += 1
            if self.count == self._fails_at:
                raise self._fault()


def each_fault(endpoint: str, command: Callable[[Stacks, int], None]) -> Iterator[int]:
    """Run the command again and again, so that each of its calls fails once; yield the number of each.

    The last number is that of a run without a fault.
    """
    session = FaultySession(endpoint)
    for number in range(1, 250):
        session.arm(number)
        try:
            command(stacks(session), number)
        except (CliError, ClientError, EndpointConnectionError, KeyboardInterrupt):
            assert session.count >= number, "the fault, and nothing else, ends it"
        yield number
        if session.count < number:
            return
    pytest.fail("the command has no end")


class Left:
    """What an account holds beside the artifacts."""

    def __init__(self, session: Session) -> None:
        self._client, self._going = session.client, set[str]()

    def names(self, prefix: str) -> set[str]:
        """Return what is there of the stacks whose names begin so."""
        found = {b["Name"] for b in self._client("s3").list_buckets()["Buckets"]}
        found |= set(self._client("dynamodb").list_tables()["TableNames"])
        found |= {url.rsplit("/", 1)[1] for url in self._client("sqs").list_queues().get("QueueUrls", [])}
        found |= {bus["Name"] for bus in self._client("events").list_event_buses()["EventBuses"]}
        found |= {each["ArchiveName"] for each in self._client("events").list_archives()["Archives"]}
        cloudformation = self._client("cloudformation")
        found |= {
            stack["StackName"]
            for stack in cloudformation.list_stacks()["StackSummaries"]
            if stack["StackStatus"] != "DELETE_COMPLETE"
        }
        return {name for name in found if name.startswith(prefix)}

    def keys(self) -> set[str]:
        """Return the keys that are not going to be deleted."""
        kms = self._client("kms")
        keys = {key["KeyId"] for key in kms.list_keys()["Keys"]} - self._going
        for key in keys:
            if kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"] != "Enabled":
                self._going.add(key)
        return keys - self._going


@pytest.fixture
def session(bare_aws: Emulator) -> Session:
    session = Cached(bare_aws.endpoint)
    session.client("s3").create_bucket(Bucket="orders-artifacts")
    return session


@pytest.fixture
def left(session: Session) -> Left:
    return Left(session)


def stacks(session: Session) -> Stacks:
    return Stacks(session, ENVIRON, poll=0.01)


def make(session: Session, name: str, *, edge: bool = False) -> None:
    """Make a stage, a small one behind a CDN if asked, and put something into each bucket."""
    usual, template = stacks(session), STAGE
    if edge:
        template = f"Resources: {{ Key: {{ {POLICIES}, Type: {RETAINED['Key']} }} }}"
        usual.stack(f"{name}-waf-us-east-1", "us-east-1").apply("CREATE", WEB_ACL, {})
        usual.stack(f"{name}-edge").apply("CREATE", WITH_LOGS, {"ActiveOrigin": "lambda"})
    usual.stack(name).apply("CREATE", template, {})
    for bucket in session.client("s3").list_buckets()["Buckets"]:
        if bucket["Name"].startswith(f"{name}-"):
            session.client("s3").put_object(Bucket=bucket["Name"], Key="object", Body=b"1")


@pytest.mark.timeout(900)  # some hundred runs; half a minute each where nothing else runs
class TestEachFault:
    def test_destroy_with_an_edge_goes_on_where_it_stopped(self, session: Session, left: Left) -> None:
        keys = left.keys()

        def command(by: Stacks, number: int) -> None:
            make(session, f"orders-d{number}", edge=True)
            destroy(by, f"d{number}", data=True)

        for number in each_fault(session.endpoint, command):
            destroy(Stacks(session, {}, poll=0.01), f"d{number}", data=True)  # by no bootstrap
            assert left.names(f"orders-d{number}") == set()
            assert left.keys() == keys

    def test_the_next_clean_up_finishes_an_interrupted_one(self, session: Session, left: Left) -> None:
        keys = left.keys()

        def command(by: Stacks, number: int) -> None:
            make(session, f"orders-preview-{number}")
            clean_up_previews(by, range(number))  # the earlier ones are open: nobody looks at them again

        for number in each_fault(session.endpoint, command):
            clean_up_previews(stacks(session), range(number))
            assert left.names(f"orders-preview-{number}") == set()
            assert left.keys() == keys

    def test_a_failed_first_creation_is_cleaned_up(self, session: Session, left: Left) -> None:
        keys, rig = left.keys(), Rig(session, ENVIRON)
        artifact = rig.artifact("a")

        def command(by: Stacks, number: int) -> None:
            with pytest.raises(CliError, match="ROLLBACK_COMPLETE"):
                rig.run(f"c{number}", artifact, "Broken=true")
            assert left.keys() == keys
            Rig(session, ENVIRON, by).run(f"c{number}", artifact)

        for number in each_fault(session.endpoint, command):
            rig.run(f"c{number}", artifact)
            kept = {k.physical_id for k in rig.stacks.retained(rig.stacks.of(f"c{number}"))}
            there = {name for name in left.names(f"orders-c{number}-") if "scratch" not in name}
            others = (there | (left.keys() - keys)) - kept
            assert [name for name in others if "accesslogsbucket" not in name] == [], "it is the new stack's"
            keys |= kept & left.keys()

    def test_a_deployment_is_finished_and_recorded_once(self, session: Session) -> None:
        """While CloudFormation still works on what the first run began, too."""
        rig = Rig(session, ENVIRON)
        first, second = rig.artifact("a"), rig.artifact("b")

        def command(by: Stacks, number: int) -> None:
            rig.run(f"u{number}", first)
            Rig(session, ENVIRON, by).run(f"u{number}", second)

        for number in each_fault(session.endpoint, command):
            rig.run(f"u{number}", second)
            assert rig.code(f"u{number}") == "b"
            assert [r.artifact for r in records(rig.stacks, f"u{number}")] == [first, second]


class TestRemoval:
    """What AWS rejects for a while, by its own words: the emulator does not."""

    KEPT = tuple(Kept(rest.partition(",")[0], name, name.lower()) for name, rest in RETAINED.items())

    def remove(self, **rejections: list[tuple[str, str]]) -> tuple[list[str], list[str], str]:
        """Remove one of each kind; return what is left, the calls that AWS carried out, and what was said.

        `rejections` are code and message of the answers of each call, before it is carried out.
        """
        done: list[str] = []
        said: list[str] = []

        class Client:
            exceptions = type("", (), {"KMSInvalidStateException": InvalidState})

            def get_paginator(self, _: str) -> Client:
                return self

            def paginate(self, **_: str) -> list[dict[str, Any]]:
                objects = [{"Key": str(number), "VersionId": "1"} for number in range(1500)]
                return [{"Versions": objects[:1200], "DeleteMarkers": objects[1200:]}]

            def describe_key(self, **_: str) -> Any:
                return {"KeyMetadata": {"KeyState": "PendingDeletion"}}

            def __getattr__(self, name: str) -> Callable[..., dict[str, Any]]:
                def call(**given: Any) -> dict[str, Any]:
                    if answers := rejections.get(name):
                        code, message = answers.pop(0)
                        if name == "delete_objects":
                            return {"Errors": [{"Code": code, "Key": "0", "Message": message}]}
                        kind = InvalidState if code == "KMSInvalidStateException" else ClientError
                        raise kind({"Error": {"Code": code, "Message": message}}, name)
                    assert len(given.get("Delete", {}).get("Objects", [])) <= 1000
                    done.append(name)
                    return {}

                return call

        left = Data(lambda _: Client(), said.append, pause_seconds=0).remove(self.KEPT)
        return [each.logical_id for each in left], done, "\n".join(said)

    DONE = (
        *("delete_archive", "delete_event_bus", "delete_queue", "delete_table"),
        *("delete_objects", "delete_objects", "delete_bucket", "schedule_key_deletion"),
    )

    def test_in_an_order_that_aws_takes(self) -> None:
        assert self.remove()[:2] == ([], list(self.DONE))

    @pytest.mark.parametrize(
        ("call", "code", "message"),
        [
            # https://github.com/anomalyco/ion/issues/809
            ("delete_event_bus", "ValidationException", "EventBus can't be deleted since it has rules."),
            ("delete_archive", "ConcurrentModificationException", "there is concurrent modification"),
            # https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_DeleteTable.html
            ("delete_table", "ResourceInUseException", "Table is being updated: orders"),
            ("delete_table", "LimitExceededException", "Subscriber limit exceeded"),
            # https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
            ("delete_bucket", "BucketNotEmpty", "The bucket you tried to delete is not empty"),
            ("delete_bucket", "OperationAborted", "A conflicting conditional operation is in progress"),
            ("delete_objects", "InternalError", "We encountered an internal error. Please try again."),
            ("delete_objects", "SlowDown", "Please reduce your request rate."),
            ("delete_queue", "RequestThrottled", "The request was denied due to request throttling."),
            ("schedule_key_deletion", "ThrottlingException", "Rate exceeded"),
        ],
    )
    def test_what_is_rejected_for_now_is_tried_again(self, call: str, code: str, message: str) -> None:
        left, done, said = self.remove(**{call: [(code, message)] * 3})
        assert left == []
        assert list(dict.fromkeys(done)) == list(dict.fromkeys(self.DONE))
        assert said.count("waiting") == 1

    def test_after_an_error_it_goes_on_but_keeps_the_keys(self) -> None:
        left, done, said = self.remove(
            delete_event_bus=[("ValidationException", "EventBus can't be deleted since it has rules.")] * 99,
            delete_table=[("ValidationException", "Resource cannot be deleted as it is currently protected")],
        )
        assert left == ["Bus", "Table", "Key"], "a key goes last: without it nobody can read what is left"
        assert "delete_bucket" in done
        assert "schedule_key_deletion" not in done
        assert "list-rules --event-bus-name bus" in said
        assert "currently protected" in said

    def test_objects_that_may_not_be_deleted_are_an_error(self) -> None:
        left, done, said = self.remove(
            delete_objects=[("AccessDenied", "Access Denied because object protected")]
        )
        assert left == ["Documents", "Key"]
        assert "delete_bucket" not in done
        assert "0 in documents" in said

    def test_what_is_gone_or_going_is_no_error(self) -> None:
        left, _, _ = self.remove(
            delete_archive=[("ResourceNotFoundException", "Archive orders does not exist.")],
            delete_queue=[("AWS.SimpleQueueService.NonExistentQueue", "The specified queue does not exist.")],
            delete_table=[("ResourceNotFoundException", "Requested resource not found")],
            delete_objects=[("NoSuchBucket", "The specified bucket does not exist")],
            # https://docs.aws.amazon.com/kms/latest/APIReference/API_ScheduleKeyDeletion.html
            schedule_key_deletion=[("KMSInvalidStateException", "key is pending deletion.")],
        )
        assert left == []


class InvalidState(ClientError):
    """As the client of KMS raises it."""
