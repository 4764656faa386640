"""What this account has, by calls that only read; prints rows as JSON. The Python of .venv runs it.

A right that is missing costs one row, which names the action. Without credentials every row says that it
could not be looked at.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    MissingDependencyException,
    ProfileNotFound,
    UnknownRegionError,
)
from botocore.exceptions import ConnectionError as NotConnected
from scripts.aws import endpoints_in, is_denied, wrong_endpoint
from scripts.cli import CliError, one_line
from scripts.delivery.decide import (
    Action,
    bootstrap_stage,
    check_stage,
    decide,
    stack_name,
    stage_parameters,
)
from scripts.doctor import FIX, NOTE, OK, UNKNOWN, Row, default_of

ROOT = Path(__file__).resolve().parents[2]
SERVICE = "orders"
# A row has a few calls one after the other; all rows together have the second.
_CALL = Config(connect_timeout=4, read_timeout=8, retries={"mode": "standard", "total_max_attempts": 2})
_ALL_SECONDS = 30
_SOON_SECONDS = 3600

# Where each partition tells which of its regions are enabled.
_HOMES = {
    "aws": "us-east-1",
    "aws-cn": "cn-north-1",
    "aws-us-gov": "us-gov-west-1",
    "aws-eusc": "eusc-de-east-1",
}
# What the templates are made of, as the SDK names it; tests/delivery compares with the templates' types.
SERVICES = {
    "ApiGatewayV2": "apigatewayv2",
    "CloudFormation": "cloudformation",
    "CloudWatch": "cloudwatch",
    "DynamoDB": "dynamodb",
    "Events": "events",
    "KMS": "kms",
    "Logs": "logs",
    "S3": "s3",
    "SNS": "sns",
    "SQS": "sqs",
    "Serverless": "lambda",  # with a gradual deployment by CodeDeploy
    "CodeDeploy": "codedeploy",
    "ECR": "ecr",
}
FARGATE_SERVICES = {
    "ApplicationAutoScaling": "application-autoscaling",
    "EC2": "ec2",
    "ECS": "ecs",
    "ElasticLoadBalancingV2": "elbv2",
    "WAFv2": "wafv2",
}
# Names without a region, or no service of its own.
EVERYWHERE = {"IAM", "Route53"}

# Service and code of each quota. The pages have AWS's defaults; what counts is what the account has.
# https://docs.aws.amazon.com/general/latest/gr/lambda-service.html
LAMBDA_CONCURRENCY = ("lambda", "L-B99A9384")
# Lambda lets nobody reserve the last hundred, so a quota below is a new account's.
# https://docs.aws.amazon.com/lambda/latest/dg/configuration-concurrency.html
_LEAST_CONCURRENCY = 100
# https://docs.aws.amazon.com/general/latest/gr/ecs-service.html
# "New AWS accounts might have initial lower quotas":
# https://docs.aws.amazon.com/AmazonECS/latest/developerguide/service-quotas.html
FARGATE_VCPUS = ("fargate", "L-3032A538")
# https://docs.aws.amazon.com/general/latest/gr/ec2-service.html
ELASTIC_IPS = ("ec2", "L-0263D0A3")
# https://docs.aws.amazon.com/general/latest/gr/vpc-service.html
VPCS = ("vpc", "L-F678F1CE")
NAT_GATEWAYS = ("vpc", "L-FE5A380F")
# https://docs.aws.amazon.com/general/latest/gr/elb.html
LOAD_BALANCERS = ("elasticloadbalancing", "L-53DA6B97")

# "The supported Availability Zone IDs are noted when applicable"; other regions carry Fargate in all zones.
# https://docs.aws.amazon.com/AmazonECS/latest/developerguide/AWS_Fargate-Regions.html
FARGATE_ZONES = {
    "us-west-1": {"usw1-az1", "usw1-az3"},
    "ap-northeast-1": {"apne1-az1", "apne1-az2", "apne1-az4"},
    "cn-north-1": {"cnn1-az1", "cnn1-az2"},
}
# Each is made by its service at first use, if the caller may iam:CreateServiceLinkedRole.
# https://docs.aws.amazon.com/AmazonECS/latest/developerguide/using-service-linked-roles.html
# https://docs.aws.amazon.com/elasticloadbalancing/latest/userguide/elb-service-linked-roles.html
# https://docs.aws.amazon.com/autoscaling/application/userguide/services-that-can-integrate-ecs.html
SERVICE_LINKED_ROLES = {
    "AWSServiceRoleForECS": "ecs.amazonaws.com",
    "AWSServiceRoleForElasticLoadBalancing": "elasticloadbalancing.amazonaws.com",
    "AWSServiceRoleForApplicationAutoScaling_ECSService": "ecs.application-autoscaling.amazonaws.com",
}
_GITHUB = "token.actions.githubusercontent.com"
# What `sam deploy` puts its files into. https://docs.aws.amazon.com/serverless-application-model/latest/developerguide/sam-cli-command-reference-sam-deploy.html
_SAM_STACK = "aws-sam-cli-managed-default"

_NO_CREDENTIALS = "aws configure sso"
# What IAM calls actions, where that is not the SDK's name.
_PREFIXES = {"service-quotas": "servicequotas", "elbv2": "elasticloadbalancing"}
_ACTIONS = {"s3:ListBuckets": "s3:ListAllMyBuckets"}
_BLOCKED_STACKS = {
    "UPDATE_ROLLBACK_FAILED": "aws cloudformation continue-update-rollback --stack-name {name}",
    "UPDATE_FAILED": "aws cloudformation rollback-stack --stack-name {name}",
}


class Unseen(Exception):
    """A row could not be looked at, and why."""


def session(environ: Mapping[str, str]) -> Any:
    """Return the session of all calls. AWS_REGION comes before AWS_DEFAULT_REGION, as in AWS's own CLI."""
    return boto3.Session(region_name=environ.get("AWS_REGION") or None)


class Account:
    """The account of a session, looked at for one stage, and for one runtime or both."""

    def __init__(
        self, aws: Any, environ: Mapping[str, str], sdk_region: str | None = None, root: Path = ROOT
    ) -> None:
        self._aws, self._environ, self._sdk_region, self._root = aws, environ, sdk_region, root
        self._lock, self._clients = threading.Lock(), dict[tuple[str, str | None], Any]()
        self.region: str | None = aws.region_name
        self._known = {r for p in aws.get_available_partitions() for r in aws.get_available_regions("ec2", p)}
        try:
            self.partition = str(aws.get_partition_for_region(self.region)) if self.region else "aws"
        except UnknownRegionError:
            self.partition = "aws"
        self.stage = environ.get("STAGE") or "dev"
        self._stack = stack_name(SERVICE, self.stage)
        self._template = (root / "template.yaml").read_text(encoding="utf-8")
        samconfig = tomllib.loads((root / "samconfig.toml").read_text(encoding="utf-8"))
        check_stage(self.stage, samconfig)
        self._given = stage_parameters(samconfig, self.stage, [])
        sections = [samconfig.get("default", {}).get(name, {}) for name in ("deploy", "global")]
        names = [section.get("parameters", {}).get("stack_name") for section in sections]
        self._of_sam = next((str(name) for name in names if name), self._stack)  # as SAM CLI looks for it
        chosen = environ.get("RUNTIME")
        self.runtimes = {chosen} if chosen else {"lambda", "fargate"}
        # What stops this is what the stage runs on.
        self._blocks_fargate = FIX if (chosen or self._parameter("Runtime")) == "fargate" else NOTE

    def rows(self) -> list[Row]:
        identity, reason = self._identity()
        region = self._offline_region()
        if not reason and not self.region:
            reason = "there is no region"
        checks = self._checks()
        if reason:
            rest = [Row(UNKNOWN, what, f"could not look: {reason}") for what, _ in checks[1:]]
        else:
            region, *rest = self._all(checks)
        return [*identity, region, *self._offline_services(), *rest]

    def _checks(self) -> list[tuple[str, Callable[[], Row]]]:
        """Return what is asked of AWS: the row's name, and the function."""
        checks = [("region", self._region), ("the stage's stack", self._stage_stack)]
        if self._of_sam != self._stack:
            checks.append(("`sam deploy`'s stack", self._stack_of_sam))
        checks += [("images (ECR)", self._images), ("files (S3)", self._files)]
        if "lambda" in self.runtimes:
            checks.append(("Lambda concurrency", self._concurrency))
        if "fargate" in self.runtimes:
            checks += [("Fargate vCPUs", self._vcpus), ("load balancers", self._load_balancers)]
            if not self._parameter("VpcId"):
                checks += [("VPCs", self._vpcs), ("Elastic IPs", self._elastic_ips)]
                checks += [("NAT gateways", self._nat_gateways), ("zones", self._zones)]
            checks.append(("service-linked roles", self._service_linked_roles))
        return [*checks, ("pipeline's provider", self._provider)]

    def _all(self, checks: list[tuple[str, Callable[[], Row]]]) -> list[Row]:
        """Look at all of it at the same time, for a bounded time."""
        found: dict[str, Row] = {}

        def look(what: str, check: Callable[[], Row]) -> None:
            try:
                found[what] = check()
            except (Unseen, ClientError) as error:
                found[what] = Row(UNKNOWN, what, f"could not look: {error}")
            except (KeyError, TypeError):  # an emulator's, as a rule
                return

        threads = [threading.Thread(target=look, args=each, daemon=True) for each in checks]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + _ALL_SECONDS
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        late = f"no answer within {_ALL_SECONDS} s"
        for (what, _), thread in zip(checks, threads, strict=True):
            why = late if thread.is_alive() else "the answer is not of AWS's shape"
            found.setdefault(what, Row(UNKNOWN, what, f"could not look: {why}"))
        return [found[what] for what, _ in checks]

    def _ask(self, service: str, operation: str, region: str | None = None, **request: Any) -> Any:
        """Return AWS's answer. Raises Unseen if it is rejected or does not come."""
        try:
            with self._lock:  # a session is not safe to share, its clients are
                key = (service, region or self.region)
                if key not in self._clients:
                    self._clients[key] = self._aws.client(service, region_name=key[1], config=_CALL)
                client = self._clients[key]
            return getattr(client, operation)(**request)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if is_denied(error):
                raise Unseen(f"needs {_action(service, error.operation_name)}") from None
            if code in ("NoSuchEntity", "NoSuchResourceException", "ValidationError"):
                raise
            raise Unseen(f"{error.operation_name} answered {code}") from None
        except BotoCoreError as error:
            raise Unseen(_line(error)) from None

    # Who we are, and where

    def _identity(self) -> tuple[list[Row], str]:
        """Return who AWS says we are, and, if nothing else can be asked, the reason."""
        what, profile = "credentials", self._environ.get("AWS_PROFILE")
        sign_in = f"aws sso login --profile {profile}" if profile else "aws sso login"
        rows = self._endpoint()
        if wrong := wrong_endpoint(self._environ):
            found = f"{wrong}={self._environ[wrong]} is no address"
            return [Row(FIX, "endpoint", found, f"unset {wrong}")], found
        try:
            credentials = self._aws.get_credentials()
        except MissingDependencyException as error:  # `aws login` needs botocore[crt]
            fix = 'eval "$(aws configure export-credentials --format env)"'
            return [Row(FIX, what, _line(error), fix), *rows], "no credentials"
        except (BotoCoreError, ClientError) as error:
            return [Row(FIX, what, _line(error), sign_in), *rows], "no credentials"
        if credentials is None:
            return [Row(FIX, what, "none were found", _NO_CREDENTIALS), *rows], "no credentials"
        how = credentials.method + (f", profile {profile}" if profile else "")
        home = self.region if self.region in self._known else _HOMES[self.partition]
        try:
            client = self._aws.client("sts", region_name=home, config=_CALL)
            who = client.get_caller_identity()
        except ClientError as error:
            code = error.response["Error"]["Code"]
            found = f"found by {how}, and rejected: {code}"
            fix = sign_in if credentials.method in ("sso", "login") else _NO_CREDENTIALS
            if code == "SignatureDoesNotMatch" and "expired" in str(error).lower():
                found, fix = f"{found}; this machine's clock is wrong", "sudo timedatectl set-ntp true"
            return [Row(FIX, what, found, fix), *rows], "the credentials are rejected"
        except (HTTPClientError, NotConnected) as error:
            found = f"found by {how}; AWS did not answer: {_line(error)}"
            fix = rows[0].fix if rows else f"curl -sS https://sts.{home}.amazonaws.com"
            return [Row(FIX, what, found, fix), *rows], "AWS did not answer"
        except BotoCoreError as error:  # an SSO session that ended, a process that failed
            return [Row(FIX, what, f"found by {how}: {_line(error)}", sign_in), *rows], "no credentials"
        found = f"{who['Arn']} of account {who['Account']}, by {how}"
        return [self._may_last(found, credentials, who["Arn"], sign_in), *rows], ""

    def _may_last(self, found: str, credentials: Any, arn: str, sign_in: str) -> Row:
        """Return the row of credentials that work: root's, or some that end soon, are to note."""
        what = "credentials"
        if arn.endswith(":root"):
            # https://docs.aws.amazon.com/IAM/latest/UserGuide/root-user-best-practices.html
            return Row(NOTE, what, f"{found}; root should deploy nothing", _NO_CREDENTIALS)
        # The SDK shows no expiry in public. Nothing renews credentials from the environment, and only those.
        expiry = getattr(credentials, "_expiry_time", None)
        if expiry is None:
            lasting = "" if not credentials.token else "; temporary"
            return Row(OK, what, f"{found}{lasting}")
        left = (expiry - datetime.now(UTC)).total_seconds()
        found = f"{found}, until {expiry.astimezone(UTC):%H:%M} UTC"
        if credentials.method == "env" and left < _SOON_SECONDS:
            return Row(NOTE, what, f"{found}: a first deployment may outlast them", sign_in)
        return Row(OK, what, found)

    def _endpoint(self) -> list[Row]:
        """Return a row if calls do not go to AWS."""
        names = sorted(endpoints_in(self._environ))
        if not names:
            return []
        found = f"{names[0]}={self._environ[names[0]]}: what follows is of that, not of AWS"
        return [Row(NOTE, "endpoint", found, f"unset {' '.join(names)}")]

    def _offline_region(self) -> Row:
        """Return what can be said of the region without asking."""
        what = "region"
        if not self.region:
            return Row(FIX, what, "none is set", "export AWS_DEFAULT_REGION=eu-central-1")
        if self.region not in self._known:
            return self._no_such_region(self._known)
        by = next(
            (n for n in ("AWS_REGION", "AWS_DEFAULT_REGION") if self._environ.get(n) == self.region),
            "the profile",
        )
        found = f"{self.region} by {by}, partition {self.partition}"
        if self._sdk_region != self.region:
            # SAM CLI: "Please provide a region via the --region parameter or by the AWS_DEFAULT_REGION ..."
            found += f"; but SAM CLI takes {self._sdk_region or 'none'}"
            # Two that are set the commands reject.
            state = FIX if self._environ.get("AWS_DEFAULT_REGION") else NOTE
            return Row(state, what, found, f"export AWS_DEFAULT_REGION={self.region}")
        return Row(OK, what, found)

    def _no_such_region(self, known: Iterable[str]) -> Row:
        near = difflib.get_close_matches(str(self.region), sorted(known), 1) or ["eu-central-1"]
        return Row(FIX, "region", f"there is no region {self.region}", f"export AWS_DEFAULT_REGION={near[0]}")

    def _region(self) -> Row:
        """Return whether the region is enabled. Asked at home, for a region that is not answers nothing."""
        offline, home = self._offline_region(), _HOMES.get(self.partition, self.region)
        try:
            regions = self._ask("ec2", "describe_regions", region=home, AllRegions=True)["Regions"]
        except Unseen as error:
            return offline._replace(
                found=f"{offline.found}; whether it is enabled could not be seen: {error}"
            )
        # https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_Region.html
        opted = {region["RegionName"]: region["OptInStatus"] for region in regions}
        if self.region not in opted:
            return self._no_such_region(opted)
        if opted[self.region] == "not-opted-in":
            # https://docs.aws.amazon.com/accounts/latest/reference/manage-acct-regions.html
            fix = f"aws account enable-region --region-name {self.region}"
            return Row(FIX, "region", f"{self.region} is not enabled in this account", fix)
        if self.region not in self._known:
            found = f"{self.region} is enabled, and newer than the SDK, which does not know it"
            return Row(NOTE, "region", found, "make lock")
        return offline._replace(found=f"{offline.found}, enabled") if offline.state == OK else offline

    def _offline_services(self) -> list[Row]:
        """Return whether the SDK's list of endpoints has every service in the region, and the CDN's."""
        if not self.region:
            return []
        wanted = {**SERVICES, **(FARGATE_SERVICES if "fargate" in self.runtimes else {})}
        lacking = [
            name
            for name in sorted(set(wanted.values()))
            if self.region not in self._aws.get_available_regions(name, self.partition)
        ]
        if lacking:
            # https://docs.aws.amazon.com/systems-manager/latest/userguide/parameter-store-public-parameters-global-infrastructure.html
            path = f"/aws/service/global-infrastructure/regions/{self.region}/services"
            fix = (
                f"aws ssm get-parameters-by-path --region us-east-1 --path {path} --query Parameters[].Value"
            )
            services = Row(NOTE, "services", f"the SDK knows no endpoint here of {', '.join(lacking)}", fix)
        else:
            services = Row(OK, "services", "all that the templates are made of have an endpoint here")
        if self.partition == "aws":
            return [services, Row(OK, "CDN", "CloudFront and its web ACL are in this partition")]
        # CloudFront's resource types are in no other, or not whole: cfn-lint's E3006 in cn-north-1 and
        # us-gov-west-1.
        found = f"edge/ and waf/ are for the partition aws, not {self.partition}; the rest works without"
        return [services, Row(NOTE, "CDN", found)]

    # The stage, and what a deployment puts its files into

    def _status(self, stack: str) -> str | None:
        try:
            return str(
                self._ask("cloudformation", "describe_stacks", StackName=stack)["Stacks"][0]["StackStatus"]
            )
        except ClientError as error:
            if "does not exist" in str(error):
                return None
            raise Unseen(_line(error)) from None

    def _stage_stack(self) -> Row:
        return self._state("the stage's stack", self._stack, f"make destroy STAGE={self.stage}")

    def _stack_of_sam(self) -> Row:
        return self._state("`sam deploy`'s stack", self._of_sam, f"sam delete --stack-name {self._of_sam}")

    def _state(self, what: str, stack: str, removal: str) -> Row:
        """Return whether a stack can be deployed to."""
        status = self._status(stack)
        action = decide(status).action
        found = f"{stack} is {status}" if status else f"there is no {stack} yet"
        if action is Action.REJECT:
            return Row(FIX, what, found, _BLOCKED_STACKS.get(str(status), removal).format(name=stack))
        if action is Action.WAIT:
            events = f"aws cloudformation describe-stack-events --stack-name {stack} --max-items 5"
            return Row(NOTE, what, f"{found}: another operation runs", events)
        return Row(OK, what, found)

    def _images(self) -> Row:
        self._ask("ecr", "describe_repositories", maxResults=1)
        return Row(OK, "images (ECR)", "answers, and may be listed")

    def _files(self) -> Row:
        what = "files (S3)"
        self._ask("s3", "list_buckets", MaxBuckets=1)
        status = self._status(_SAM_STACK)
        if status and not (status.endswith("_COMPLETE") and status != "ROLLBACK_COMPLETE"):
            fix = f"aws cloudformation delete-stack --stack-name {_SAM_STACK}"
            return Row(FIX, what, f"`sam deploy` puts its files into {_SAM_STACK}, which is {status}", fix)
        return Row(OK, what, "answers, and may be listed")

    # Quotas

    def _quota(self, quota: tuple[str, str]) -> float:
        """Return what the account has; where nobody ever asked for more, AWS's default."""
        wanted = {"ServiceCode": quota[0], "QuotaCode": quota[1]}
        for operation in ("get_service_quota", "get_aws_default_service_quota"):
            try:
                return float(self._ask("service-quotas", operation, **wanted)["Quota"]["Value"])
            except ClientError:
                continue
        raise Unseen(f"Service Quotas does not know {quota[0]} {quota[1]}")

    def _concurrency(self) -> Row:
        """Return whether the background work leaves the API concurrency.

        "New AWS accounts have reduced concurrency": https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
        """
        what = "Lambda concurrency"
        limit = self._ask("lambda", "get_account_settings")["AccountLimit"]
        total, free = limit["ConcurrentExecutions"], limit["UnreservedConcurrentExecutions"]
        batches = int(self._parameter("EventConcurrency"))
        background = batches + max(2, batches)  # as lambda/relay.yaml and lambda/consumer.yaml have them
        found = f"{total}, {free} of them not reserved; relay (a shard) and receipts may take {background}"
        if free <= 2 * background or total < _LEAST_CONCURRENCY:
            return Row(NOTE, what, found, _more(LAMBDA_CONCURRENCY, 1000))
        return Row(OK, what, found)

    def _vcpus(self) -> Row:
        what, quota = "Fargate vCPUs", self._quota(FARGATE_VCPUS)
        each = int(self._parameter("FargateCpuUnits")) / 1024
        # A deployment starts the new tasks before it stops the old ones: MaximumPercent 200.
        least = 2 * each * int(self._parameter("FargateMinTasks"))
        most = 2 * each * int(self._parameter("FargateMaxTasks"))
        found = f"{quota:g}; the tasks take {least:g}, scaled out {most:g}, a deployment included"
        if quota < least:
            return Row(self._blocks_fargate, what, found, _more(FARGATE_VCPUS, most))
        if quota < most:
            return Row(NOTE, what, found, _more(FARGATE_VCPUS, most))
        return Row(OK, what, found)

    def _room(self, what: str, quota: tuple[str, str], used: int, needed: int) -> Row:
        have = self._quota(quota)
        found = f"{used} of {have:g} in use, {needed} needed"
        if self._standing():
            return Row(OK, what, f"{used} of {have:g} in use, the stage's own among them")
        if used + needed > have:
            return Row(self._blocks_fargate, what, found, _more(quota, used + needed))
        return Row(OK, what, found)

    def _standing(self) -> bool:
        """Tell whether the stage runs already, so that what it needs is in use."""
        try:
            return self._blocks_fargate == FIX and self._status(self._stack) is not None
        except Unseen:
            return False

    def _load_balancers(self) -> Row:
        found = self._ask("elbv2", "describe_load_balancers")["LoadBalancers"]
        used = sum(each["Type"] == "application" for each in found)
        return self._room("load balancers", LOAD_BALANCERS, used, 1)

    def _vpcs(self) -> Row:
        return self._room("VPCs", VPCS, len(self._ask("ec2", "describe_vpcs")["Vpcs"]), 1)

    def _gateways(self) -> int:
        """Return how many NAT gateways the stage makes, each with an address."""
        return {"nat-per-az": 2, "single-nat": 1}.get(self._parameter("NetworkEgress"), 0)

    def _elastic_ips(self) -> Row:
        used = len(self._ask("ec2", "describe_addresses")["Addresses"])
        return self._room("Elastic IPs", ELASTIC_IPS, used, self._gateways())

    def _nat_gateways(self) -> Row:
        """Compare with the most that one zone may have. All of the region's may be in one."""
        states = [{"Name": "state", "Values": ["pending", "available", "deleting"]}]
        used = len(self._ask("ec2", "describe_nat_gateways", Filter=states)["NatGateways"])
        quota, needed = self._quota(NAT_GATEWAYS), min(1, self._gateways())
        found = f"{used} in the region, {quota:g} a zone, {needed} needed in a zone"
        if used + needed > quota:
            return Row(NOTE, "NAT gateways", found, _more(NAT_GATEWAYS, used + needed))
        return Row(OK, "NAT gateways", found)

    def _zones(self) -> Row:
        """Return whether the zones that the stack takes carry Fargate and NAT gateways.

        Fn::GetAZs gives those with a default subnet, or all if none has one, sorted by name.
        https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/intrinsic-function-reference-getavailabilityzones.html
        """
        kind = [{"Name": "zone-type", "Values": ["availability-zone"]}]
        found = self._ask("ec2", "describe_availability_zones", Filters=kind)["AvailabilityZones"]
        default = [{"Name": "default-for-az", "Values": ["true"]}]
        subnets = self._ask("ec2", "describe_subnets", Filters=default)["Subnets"]
        ids = {zone["ZoneName"]: zone["ZoneId"] for zone in found}
        given = sorted({subnet["AvailabilityZone"] for subnet in subnets} & set(ids)) or sorted(ids)
        chosen = default_of(
            (self._root / "fargate" / "template.yaml").read_text(encoding="utf-8"), "AvailabilityZones"
        )
        taken = [zone for zone in chosen.split(",") if zone in ids] if chosen else given[:2]
        # "constrained" zones take no new NAT gateway (NotAvailableInZone).
        # https://docs.aws.amazon.com/vpc/latest/userguide/nat-gateway-troubleshooting.html
        lacking = {zone["ZoneName"]: "NAT gateways" for zone in found if zone["State"] != "available"}
        carried = FARGATE_ZONES.get(str(self.region))
        lacking |= {name: "Fargate" for name, id_ in ids.items() if carried and id_ not in carried}
        text = ", ".join(f"{name} ({ids[name]})" for name in taken)
        bad = [f"{name} carries no {lacking[name]}" for name in taken if name in lacking]
        fit = [name for name in sorted(ids) if name not in lacking][:2]
        if len(fit) < 2:
            fix = "export AWS_DEFAULT_REGION=eu-central-1"
            return Row(self._blocks_fargate, "zones", f"{text}; the region has no two that carry it all", fix)
        if bad or len(taken) < 2:
            fix = f"Default of AvailabilityZones in fargate/template.yaml: {','.join(fit)}"
            return Row(self._blocks_fargate, "zones", "; ".join([text, *bad]), fix)
        return Row(OK, "zones", f"{text} carry Fargate and NAT gateways")

    # Identities

    def _service_linked_roles(self) -> Row:
        what, missing = "service-linked roles", []
        for role in SERVICE_LINKED_ROLES:
            try:
                self._ask("iam", "get_role", RoleName=role)
            except ClientError:
                missing.append(role)
        if not missing:
            return Row(OK, what, "those of ECS, load balancing and scaling are there")
        found = f"{len(missing)} of 3 are missing; AWS makes each at first use, perhaps too late for it"
        names = " ".join(SERVICE_LINKED_ROLES[role] for role in missing)
        fix = f"for name in {names}; do aws iam create-service-linked-role --aws-service-name $name; done"
        return Row(NOTE, what, found, fix)

    def _provider(self) -> Row:
        """Return whether GitHub's tokens are taken here. An account has room for one such provider."""
        what = "pipeline's provider"
        bootstrap = f"{SERVICE}-bootstrap-{bootstrap_stage(self.stage)}"
        providers = self._ask("iam", "list_open_id_connect_providers")["OpenIDConnectProviderList"]
        arn = next((each["Arn"] for each in providers if each["Arn"].endswith(f"/{_GITHUB}")), "")
        status = self._status(bootstrap)
        # `gh` puts the repository of the directory into the braces. https://cli.github.com/manual/gh_api
        ids = "Repository=\\(.full_name) OwnerId=\\(.owner.id) RepositoryId=\\(.id)"
        wanted = f"""$(gh api 'repos/{{owner}}/{{repo}}' --jq '"{ids}"')"""
        if bootstrap_stage(self.stage) in ("prod", "preview"):
            wanted += f" Environment={bootstrap_stage(self.stage)}"
        if self.stage == "prod":
            wanted += " ArtifactBucketName=... ImageRepositoryArn=..."  # of dev's bootstrap
        command = f'make bootstrap STAGE={self.stage} PARAMETERS="{wanted}"'
        if not arn:
            return Row(NOTE, what, f"none for {_GITHUB}; `make bootstrap` makes it", command)
        known = self._ask("iam", "get_open_id_connect_provider", OpenIDConnectProviderArn=arn)["ClientIDList"]
        if "sts.amazonaws.com" not in known:
            # https://docs.github.com/en/actions/how-tos/secure-your-work/security-harden-deployments/oidc-in-aws
            fix = "aws iam add-client-id-to-open-id-connect-provider --client-id sts.amazonaws.com"
            fix += f" --open-id-connect-provider-arn {arn}"
            return Row(NOTE, what, f"{arn} takes no tokens for sts.amazonaws.com", fix)
        if status is None:
            command = f'{command[:-1]} OidcProviderArn={arn}"'
            return Row(NOTE, what, f"{arn} is there; the stack {bootstrap} is not", command)
        return Row(OK, what, f"{arn}; the stack {bootstrap} is {status}")

    # What the templates ask for

    def _parameter(self, name: str) -> str:
        """Return a parameter of the stage: samconfig.toml's, else the template's default."""
        return self._given.get(name, default_of(self._template, name))


def _more(quota: tuple[str, str], value: float) -> str:
    """Return the command that asks for more."""
    wanted = f"--service-code {quota[0]} --quota-code {quota[1]} --desired-value {math.ceil(value)}"
    return f"aws service-quotas request-service-quota-increase {wanted}"


def _action(service: str, operation: str) -> str:
    """Return IAM's name of an operation."""
    action = f"{_PREFIXES.get(service, service)}:{operation}"
    return _ACTIONS.get(action, action)


def _line(error: Exception) -> str:
    return one_line(error)[:200]


def look(environ: Mapping[str, str]) -> list[Row]:
    """Return the account's rows."""
    try:
        return Account(session(environ), environ, boto3.Session().region_name).rows()
    except CliError as error:
        return [Row(FIX, "stage", str(error), "make doctor STAGE=dev")]
    except ProfileNotFound as error:
        return [
            Row(FIX, "credentials", f"{_line(error)}; the account was not looked at", "unset AWS_PROFILE")
        ]


if __name__ == "__main__":
    json.dump(look(os.environ), sys.stdout)
