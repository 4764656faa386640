"""What of a stage is still there: each service is asked, and what has the stage's name in it counts."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, NamedTuple

from botocore.exceptions import BotoCoreError, ClientError
from scripts.cli import one_line
from scripts.delivery.cdn import WEB_ACL_REGION
from scripts.delivery.data import Data, Kept


class Ask(NamedTuple):
    """A call that lists things, where its answer has them, and what tells one from another."""

    what: str
    service: str
    operation: str
    found: str
    name: str
    given: Mapping[str, Any] = MappingProxyType({})
    region: str | None = None


_LISTED = {"Type": "custom"}
ASKS = (
    Ask("stack", "cloudformation", "list_stacks", "StackSummaries", "StackName"),
    Ask("stack", "cloudformation", "list_stacks", "StackSummaries", "StackName", region=WEB_ACL_REGION),
    Ask("table", "dynamodb", "list_tables", "TableNames", ""),
    Ask("bucket", "s3", "list_buckets", "Buckets", "Name"),
    Ask("queue", "sqs", "list_queues", "QueueUrls", ""),
    Ask("bus", "events", "list_event_buses", "EventBuses", "Name"),
    Ask("archive", "events", "list_archives", "Archives", "ArchiveName"),
    Ask("log group", "logs", "describe_log_groups", "logGroups", "logGroupName"),
    Ask("log group", "logs", "describe_log_groups", "logGroups", "logGroupName", region=WEB_ACL_REGION),
    Ask("key alias", "kms", "list_aliases", "Aliases", "AliasName"),
    Ask("repository", "ecr", "describe_repositories", "repositories", "repositoryName"),
    Ask("function", "lambda", "list_functions", "Functions", "FunctionName"),
    Ask("HTTP API", "apigatewayv2", "get_apis", "Items", "Name"),
    Ask("load balancer", "elbv2", "describe_load_balancers", "LoadBalancers", "LoadBalancerName"),
    Ask("cluster", "ecs", "list_clusters", "clusterArns", ""),
    Ask("VPC", "ec2", "describe_vpcs", "Vpcs", "VpcId"),
    Ask("NAT gateway", "ec2", "describe_nat_gateways", "NatGateways", "NatGatewayId"),
    Ask("address", "ec2", "describe_addresses", "Addresses", "AllocationId"),
    Ask("distribution", "cloudfront", "list_distributions", "DistributionList.Items", "Id"),
    Ask("CloudFront function", "cloudfront", "list_functions", "FunctionList.Items", "Name"),
    Ask(
        *("cache policy", "cloudfront", "list_cache_policies"),
        *("CachePolicyList.Items", "CachePolicy.Id", _LISTED),
    ),
    Ask(
        *("headers policy", "cloudfront", "list_response_headers_policies"),
        *("ResponseHeadersPolicyList.Items", "ResponseHeadersPolicy.Id", _LISTED),
    ),
    Ask(
        *("access control", "cloudfront", "list_origin_access_controls"),
        *("OriginAccessControlList.Items", "Id"),
    ),
    Ask(
        "web ACL", "wafv2", "list_web_acls", "WebACLs", "Name", {"Scope": "CLOUDFRONT"}, region=WEB_ACL_REGION
    ),
    Ask("secret", "secretsmanager", "list_secrets", "SecretList", "Name"),
    Ask("alarm", "cloudwatch", "describe_alarms", "MetricAlarms", "AlarmName"),
    Ask(
        *("composite alarm", "cloudwatch", "describe_alarms", "CompositeAlarms", "AlarmName"),
        {"AlarmTypes": ["CompositeAlarm"]},
    ),
    Ask("dashboard", "cloudwatch", "list_dashboards", "DashboardEntries", "DashboardName"),
    Ask("topic", "sns", "list_topics", "Topics", "TopicArn"),
    Ask("role", "iam", "list_roles", "Roles", "RoleName"),
    Ask("policy", "iam", "list_policies", "Policies", "PolicyName", {"Scope": "Local"}),
)
# As the services themselves say that something is gone.
_GONE = {"DELETE_COMPLETE", "deleted", "deleting"}
_KINDS = {
    "table": "AWS::DynamoDB::Table",
    "bucket": "AWS::S3::Bucket",
    "queue": "AWS::SQS::Queue",
    "bus": "AWS::Events::EventBus",
    "archive": "AWS::Events::Archive",
    "key": "AWS::KMS::Key",
}


class Left(NamedTuple):
    """Something that is there, or a question that had no answer."""

    what: str
    name: str
    region: str | None = None

    def __str__(self) -> str:
        return f"{self.what} {self.name}"


class Leftovers:
    """Of one stage of a service. `connect` makes a client by service name and region."""

    def __init__(self, connect: Callable[..., Any], service: str, stage: str, region: str) -> None:
        self._connect = cache(connect)
        self._region, self._stage, self._service = region, stage, service
        self._ours = re.compile(rf"\b{service}-(bootstrap-)?{stage}(?![a-z0-9])", re.IGNORECASE)

    def found(self, *kinds: str) -> list[Left]:
        """Ask for what there is; for these kinds only, if any are given."""
        asks = [ask for ask in ASKS if ask.what in kinds or not kinds]
        asks = [ask for ask in asks if ask.region != self._region or ask._replace(region=None) not in ASKS]
        keys = self._keys() if "key" in kinds or not kinds else ()
        return sorted({left for ask in asks for left in self._found(ask)} | set(keys), key=str)

    def wait_until_gone(self, seconds: float, pause_seconds: float = 5.0) -> list[Left]:
        """Ask until nothing is there or the time is up: what goes is still listed for a while."""
        deadline = time.monotonic() + seconds
        while (found := self.found()) and time.monotonic() < deadline:
            time.sleep(pause_seconds)
        return found

    def pending_keys(self) -> list[str]:
        """Return the keys that are to be deleted; they cost nothing. https://aws.amazon.com/kms/pricing/"""
        return [arn for arn, state in self._states() if state == "PendingDeletion"]

    def remove(self, left: list[Left], say: Callable[[str], None]) -> None:
        """Remove what costs or keeps a name taken, as far as one call does it."""
        known = [Kept(_KINDS[each.what], each.what, each.name) for each in left if each.what in _KINDS]
        Data(self._connect, say).remove(known)
        for each in left:
            if each.what == "log group":
                self._connect("logs", each.region).delete_log_group(logGroupName=each.name)
            elif each.what == "repository":
                self._connect("ecr").delete_repository(repositoryName=each.name, force=True)
            else:
                continue
            say(f"  {each}: removed")

    def _found(self, ask: Ask) -> Iterator[Left]:
        try:
            client = self._connect(ask.service, ask.region)
            if client.can_paginate(ask.operation):
                pages = client.get_paginator(ask.operation).paginate(**ask.given)
            else:
                pages = [getattr(client, ask.operation)(**ask.given)]
            for page in pages:
                for item in _at(page, ask.found) or []:
                    if self._is_ours(item):
                        yield Left(ask.what, str(_at(item, ask.name) if ask.name else item), ask.region)
        except (ClientError, BotoCoreError) as error:
            yield Left(f"no answer of {ask.service}:", one_line(error), ask.region)

    def _is_ours(self, item: Any) -> bool:
        """Tell whether the stage's name is in what is told of it: its name, description or tags."""
        there = not isinstance(item, dict) or not _GONE & {item.get("StackStatus"), item.get("State")}
        return there and bool(self._ours.search(str(item)))

    def _keys(self) -> Iterator[Left]:
        """Ask for the keys, which have no names, by the stage's tags."""
        try:
            yield from (Left("key", arn) for arn, state in self._states() if state != "PendingDeletion")
        except (ClientError, BotoCoreError) as error:
            yield Left("no answer of kms:", one_line(error))

    def _states(self) -> Iterator[tuple[str, str]]:
        """Return the stage's keys with their states."""
        tags = [{"Key": k, "Values": [v]} for k, v in (("service", self._service), ("stage", self._stage))]
        pages = self._connect("resourcegroupstaggingapi").get_paginator("get_resources")
        for page in pages.paginate(TagFilters=tags, ResourceTypeFilters=["kms:key"]):
            for each in page["ResourceTagMappingList"]:
                key = self._connect("kms").describe_key(KeyId=each["ResourceARN"])["KeyMetadata"]
                yield each["ResourceARN"], key["KeyState"]


def _at(item: Any, path: str) -> Any:
    for key in path.split("."):
        item = (item or {}).get(key)
    return item
