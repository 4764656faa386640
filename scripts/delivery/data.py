"""What a stack keeps when it goes: is there data in it, what it costs, and how it is removed on request."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError
from scripts.aws import explained, is_denied
from scripts.cli import batches, one_line

# List prices of us-east-1 in USD, a month: rough figures for a report, not a bill.
# https://aws.amazon.com/kms/pricing/, /dynamodb/pricing/on-demand/, /s3/pricing/
KEY_PRICE = 1.00
TABLE_PRICE_PER_GB = 0.25 + 0.20  # storage and point-in-time recovery
BUCKET_PRICE_PER_GB = 0.023
KEY_REMOVAL_DAYS = 7  # the shortest that KMS allows
_GONE = ("NotFound", "NoSuch", "404", "NonExistent", "DoesNotExist")
_BATCH = 1000  # of DeleteObjects
# How often a removal is tried that AWS rejects for now. With the usual pause that is two minutes.
_TRIES = 60
# What passes by itself: others at work on the resource, throttling, logs that still arrive. A bus says that
# it has rules for a while after they went: https://github.com/anomalyco/ion/issues/809
_FOR_NOW = (
    *(
        "BucketNotEmpty",
        "ConcurrentModification",
        "InternalError",
        "InternalException",
        "InternalServerError",
    ),
    *("KMSInternal", "LimitExceeded", "OperationAborted", "RequestLimitExceeded", "RequestThrottled"),
    *("ResourceInUse", "ServiceUnavailable", "SlowDown", "Throttl", "TooManyRequests"),
)
_HAS_RULES = "since it has rules"


@dataclass(frozen=True)
class Kept:
    """A resource that a stack retains."""

    kind: str
    logical_id: str
    physical_id: str


def kept_of(resources: Iterable[Mapping[str, Any]]) -> list[Kept]:
    """Return resources, or events, as what is kept."""
    return [Kept(r["ResourceType"], r["LogicalResourceId"], r["PhysicalResourceId"]) for r in resources]


class Data:
    """Looks into and removes retained resources. `connect` makes a client by service name.

    `pause_seconds` is the time between two tries of what AWS rejects for now.
    """

    def __init__(
        self, connect: Callable[[str], Any], say: Callable[[str], None], pause_seconds: float = 2.0
    ) -> None:
        self._connect, self._say, self._pause = connect, say, pause_seconds

    def stand(self, kept: Iterable[Kept]) -> bool:
        """Tell whether any of it is still to be removed. A stack's bus and archive are never the last."""
        return any(self._stands(each.kind, each.physical_id) for each in kept)

    def _stands(self, kind: str, name: str) -> bool:
        try:
            match kind:
                case "AWS::KMS::Key":
                    return self._key_stands(name)
                case "AWS::DynamoDB::Table":
                    found = self._connect("dynamodb").describe_table(TableName=name)["Table"]
                    return bool(found["TableStatus"] != "DELETING")
                case "AWS::S3::Bucket":
                    self._connect("s3").list_object_versions(Bucket=name, MaxKeys=1)
                case "AWS::SQS::Queue":
                    self._connect("sqs").get_queue_attributes(QueueUrl=name, AttributeNames=["QueueArn"])
                case _:
                    return False
        except ClientError as error:
            return not _is_gone(error)
        return True

    def _key_stands(self, key: str) -> bool:
        try:
            state = self._connect("kms").describe_key(KeyId=key)["KeyMetadata"]["KeyState"]
        except ClientError as error:
            # The roles' rights go by a key's tags, and one that is gone has none.
            if is_denied(error):
                return False
            raise
        return not str(state).startswith("Pending")

    def empty(self, bucket: str) -> int:
        """Delete every version of every object; return how many."""
        s3, count = self._connect("s3"), 0
        try:
            for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket):
                found = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
                for batch in batches(found, _BATCH):
                    objects = [{"Key": o["Key"], "VersionId": o["VersionId"]} for o in batch]
                    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": objects, "Quiet": True})
                    if errors := answer.get("Errors", []):
                        first = {"Code": errors[0]["Code"], "Message": f"{errors[0]['Key']} in {bucket}"}
                        raise ClientError({"Error": first}, "DeleteObjects")
                    count += len(objects)
                    self._say(f"  {bucket}: {count} object versions removed")
        except ClientError as error:
            if not _is_gone(error):
                raise
        return count

    def remove(self, kept: Iterable[Kept]) -> list[Kept]:
        """Remove the resources for good; return those that are left, each of which was said with its reason.

        Keys go last, and only if all that they encrypt has gone.
        """
        removers: dict[str, Callable[[str], Any]] = {
            "AWS::Events::Archive": lambda name: self._connect("events").delete_archive(ArchiveName=name),
            "AWS::Events::EventBus": lambda name: self._connect("events").delete_event_bus(Name=name),
            "AWS::SQS::Queue": lambda url: self._connect("sqs").delete_queue(QueueUrl=url),
            "AWS::DynamoDB::Table": lambda name: self._connect("dynamodb").delete_table(TableName=name),
            "AWS::S3::Bucket": self._remove_bucket,
            "AWS::KMS::Key": self._remove_key,
        }
        order, left, failed = list(removers), list[Kept](), False
        for resource in sorted(kept, key=lambda k: order.index(k.kind) if k.kind in order else -1):
            name = f"  {resource.logical_id} ({resource.physical_id})"
            if resource.kind not in removers:
                self._say(f"{name}: remove it by hand, this command knows no {resource.kind}")
                left.append(resource)
                continue
            if resource.kind == "AWS::KMS::Key" and failed:
                self._say(f"{name}: stays until the others are gone")
                left.append(resource)
                continue
            try:
                self._persist(removers[resource.kind], resource)
            except ClientError as error:
                self._say(f"{name}: NOT removed: {explained(error)}")
                if _HAS_RULES in str(error):
                    self._say(
                        f"    `aws events list-rules --event-bus-name {resource.physical_id}` shows them"
                    )
                left.append(resource)
                failed = True
                continue
            ends = f"gone in {KEY_REMOVAL_DAYS} days" if resource.kind == "AWS::KMS::Key" else "removed"
            self._say(f"{name}: {ends}")
        return left

    def _persist(self, remove: Callable[[str], Any], resource: Kept) -> None:
        """Remove the resource, unless it is gone; try again while AWS rejects it for now."""
        for tries_left in reversed(range(_TRIES)):
            try:
                remove(resource.physical_id)
                return
            except ClientError as error:
                if _is_gone(error):
                    return
                if not tries_left or not _for_now(error):
                    raise
                if tries_left == _TRIES - 1:
                    self._say(f"  {resource.logical_id}: waiting, for {one_line(error)}")
                time.sleep(self._pause)

    def _remove_bucket(self, name: str) -> None:
        self.empty(name)
        self._connect("s3").delete_bucket(Bucket=name)

    def _remove_key(self, key: str) -> None:
        kms = self._connect("kms")
        try:
            kms.schedule_key_deletion(KeyId=key, PendingWindowInDays=KEY_REMOVAL_DAYS)
        except kms.exceptions.KMSInvalidStateException:
            # It is, already: https://docs.aws.amazon.com/kms/latest/developerguide/key-state.html
            if self._key_stands(key):
                raise

    def report(self, kept: Iterable[Kept]) -> Iterator[str]:
        """Return a line for each resource that still exists, with what it goes on costing a month."""
        total = 0.0
        for resource in kept:
            try:
                cost, detail = self._cost(resource)
            except ClientError as error:
                if _is_gone(error):
                    continue
                cost, detail = 0.0, "could not be looked into"
            total += cost
            yield f"  {resource.logical_id:26} {resource.physical_id}  {detail}, about ${cost:.2f} a month"
        yield f"  together about ${total:.2f} a month (list prices of us-east-1, by size now)"

    def _cost(self, resource: Kept) -> tuple[float, str]:
        name = resource.physical_id
        if resource.kind == "AWS::KMS::Key":
            self._connect("kms").describe_key(KeyId=name)
            return KEY_PRICE, "key"
        if resource.kind == "AWS::DynamoDB::Table":
            size = self._connect("dynamodb").describe_table(TableName=name)["Table"].get("TableSizeBytes", 0)
            return size / 1e9 * TABLE_PRICE_PER_GB, f"table of {_size(size)}"
        if resource.kind == "AWS::S3::Bucket":
            pages = self._connect("s3").get_paginator("list_object_versions").paginate(Bucket=name)
            size = sum(version["Size"] for page in pages for version in page.get("Versions", []))
            return size / 1e9 * BUCKET_PRICE_PER_GB, f"bucket of {_size(size)}"
        return 0.0, "kept"


def _size(size: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _for_now(error: ClientError) -> bool:
    code = str(error.response["Error"]["Code"])
    return _HAS_RULES in str(error) or code.startswith(_FOR_NOW)


def _is_gone(error: ClientError) -> bool:
    code = str(error.response["Error"]["Code"])
    return any(word in code for word in _GONE)
