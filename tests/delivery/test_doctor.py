"""`make doctor`: each row in each state, from answers of AWS's documented shapes and a PATH of scripts.

The answers are checked against the SDK's service models, as botocore's Stubber does; the calls are checked to
read only.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import cfnlint.data.AdditionalSpecs
import pytest
from botocore.awsrequest import AWSResponse
from botocore.credentials import RefreshableCredentials
from botocore.exceptions import EndpointConnectionError
from botocore.loaders import Loader
from botocore.validate import validate_parameters
from localcloud.running import free_port
from scripts.doctor import FIX, NOTE, OK, UNKNOWN, Row
from scripts.doctor import __main__ as command
from scripts.doctor import account as doctor
from scripts.doctor.account import Account
from scripts.doctor.machine import Machine
from scripts.templates import load_template

ROOT = Path(__file__).resolve().parents[2]
REGION = "eu-central-1"
PROVIDER = "arn:aws:iam::111111111111:oidc-provider/token.actions.githubusercontent.com"


def a_rejection(code: str, message: str = "") -> tuple[str, str]:
    return code, message


def a_stack(name: str, status: str) -> dict[str, Any]:
    created = datetime(2026, 11, 1, tzinfo=UTC)
    return {"Stacks": [{"StackName": name, "StackStatus": status, "CreationTime": created}]}


def stacks(**statuses: str) -> Callable[[dict[str, Any]], Any]:
    """Answer DescribeStacks by name, the underscores of which are dashes."""
    known = {name.replace("_", "-"): status for name, status in statuses.items()}

    def answer(request: dict[str, Any]) -> Any:
        name = request["StackName"]
        if name in known:
            return a_stack(name, known[name])
        return a_rejection("ValidationError", f"Stack with id {name} does not exist")

    return answer


def quotas(**values: float) -> Callable[[dict[str, Any]], Any]:
    """Answer GetServiceQuota by code (its dash an underscore), else with plenty."""

    def answer(request: dict[str, Any]) -> Any:
        value = values.get(request["QuotaCode"].replace("-", "_"), 100.0)
        return {"Quota": {"QuotaCode": request["QuotaCode"], "Value": float(value)}}

    return answer


def zones(*names_and_ids: tuple[str, str], state: str = "available") -> dict[str, Any]:
    return {
        "AvailabilityZones": [
            {"ZoneName": name, "ZoneId": id_, "State": state if place == 0 else "available"}
            for place, (name, id_) in enumerate(names_and_ids)
        ]
    }


def regions(**status: str) -> dict[str, Any]:
    return {"Regions": [{"RegionName": n.replace("_", "-"), "OptInStatus": s} for n, s in status.items()]}


# An account that lacks nothing.
HEALTHY: dict[str, Any] = {
    "sts:GetCallerIdentity": {
        "Account": "111111111111",
        "Arn": "arn:aws:sts::111111111111:assumed-role/Admin/ada",
        "UserId": "AROA:ada",
    },
    "ec2:DescribeRegions": regions(eu_central_1="opt-in-not-required", af_south_1="not-opted-in"),
    "cloudformation:DescribeStacks": stacks(orders_bootstrap_dev="CREATE_COMPLETE"),
    "ecr:DescribeRepositories": {"repositories": []},
    "s3:ListBuckets": {"Buckets": []},
    "lambda:GetAccountSettings": {
        "AccountLimit": {"ConcurrentExecutions": 1000, "UnreservedConcurrentExecutions": 1000}
    },
    "service-quotas:GetServiceQuota": quotas(),
    "service-quotas:GetAWSDefaultServiceQuota": {"Quota": {"Value": 5.0}},
    "elastic-load-balancing-v2:DescribeLoadBalancers": {"LoadBalancers": [{"Type": "application"}]},
    "ec2:DescribeVpcs": {"Vpcs": [{"VpcId": "vpc-1"}]},
    "ec2:DescribeAddresses": {"Addresses": []},
    "ec2:DescribeNatGateways": {"NatGateways": []},
    "ec2:DescribeAvailabilityZones": zones(("eu-central-1a", "euc1-az2"), ("eu-central-1b", "euc1-az3")),
    "ec2:DescribeSubnets": {
        "Subnets": [{"AvailabilityZone": "eu-central-1a"}, {"AvailabilityZone": "eu-central-1b"}]
    },
    "iam:GetRole": lambda request: {
        "Role": {
            "Path": "/aws-service-role/",
            "RoleName": request["RoleName"],
            "RoleId": "AROAEXAMPLEEXAMPLE",
            "Arn": f"arn:aws:iam::111111111111:role/aws-service-role/{request['RoleName']}",
            "CreateDate": datetime(2026, 11, 1, tzinfo=UTC),
        }
    },
    "iam:ListOpenIDConnectProviders": {"OpenIDConnectProviderList": [{"Arn": PROVIDER}]},
    "iam:GetOpenIDConnectProvider": {"ClientIDList": ["sts.amazonaws.com"]},
}
ENVIRON = {"AWS_DEFAULT_REGION": REGION}
WRITTEN_HERE = "<!-- written by tests/delivery/test_doctor.py -->\n```\n"
LOADER = Loader()  # reads the list of endpoints once for all tests


class Recorded:
    """An account that answers as recorded, and keeps which operations were called."""

    _clients: dict[tuple[str, str], Any] = {}  # take long to make; they ask the account that is `now`
    now: Recorded

    def __init__(self, changes: Mapping[str, Any] = HEALTHY, region: str | None = REGION) -> None:
        self._answers, self.called = {**HEALTHY, **changes}, dict[str, str]()  # operation: region
        self.session = boto3.Session("AKIAEXAMPLE", "secret", region_name=region)
        self.session._session.register_component("data_loader", LOADER)
        self.session.client = self._client
        Recorded.now = self

    def _client(self, service: str, region_name: str, config: Any) -> Any:
        if (service, region_name) not in self._clients:
            client = boto3.Session("AKIAEXAMPLE", "secret").client(service, region_name, config=config)
            client.meta.events.register("provide-client-params", lambda **given: Recorded.now._keep(**given))
            client.meta.events.register("before-call", lambda **given: Recorded.now._answer(**given))
            self._clients[(service, region_name)] = client
        return self._clients[(service, region_name)]

    def _keep(self, params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
        context["asked"] = params

    def _answer(self, model: Any, context: dict[str, Any], **_: Any) -> tuple[AWSResponse, Any]:
        operation = f"{model.service_model.service_id.hyphenize()}:{model.name}"
        self.called[operation] = context["client_region"]
        answer = self._answers[operation]
        answer = answer(context["asked"]) if callable(answer) else answer
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, tuple):
            code, message = answer
            return AWSResponse("", 400, {}, None), {"Error": {"Code": code, "Message": message}}
        validate_parameters(answer, model.output_shape)
        return AWSResponse("", 200, {}, None), answer

    def rows(self, environ: Mapping[str, str] = ENVIRON, sdk_region: str | None = REGION) -> list[Row]:
        return Account(self.session, environ, sdk_region).rows()


def row(rows: list[Row], what: str) -> Row:
    """Return the row; what fixes it is a command that a shell takes."""
    (found,) = [each for each in rows if each.what == what]
    subprocess.run(["bash", "-n", "-c", found.fix], check=True)
    return found


def assert_row(rows: list[Row], what: str, state: str, found: str, fix: str) -> None:
    seen = row(rows, what)
    assert seen.state == state
    assert found in seen.found
    assert fix in seen.fix


# Answers that differ from a healthy account's: the row, its state, what it says and what fixes it.
LACKING: dict[str, tuple[Any, ...]] = {
    "credentials that AWS does not know": (
        {"sts:GetCallerIdentity": a_rejection("InvalidClientTokenId")},
        *("credentials", FIX, "rejected: InvalidClientTokenId", "aws configure sso"),
    ),
    "a wrong clock": (
        {"sts:GetCallerIdentity": a_rejection("SignatureDoesNotMatch", "Signature expired: ...")},
        *("credentials", FIX, "clock is wrong", "timedatectl"),
    ),
    "root": (
        {
            "sts:GetCallerIdentity": {
                "Account": "111111111111",
                "Arn": "arn:aws:iam::111111111111:root",
                "UserId": "1",
            }
        },
        *("credentials", NOTE, "root should deploy nothing", "aws configure sso"),
    ),
    "a region that is not enabled": (
        {"ec2:DescribeRegions": regions(eu_central_1="not-opted-in")},
        *("region", FIX, "not enabled", "aws account enable-region --region-name eu-central-1"),
    ),
    "a stack whose rollback failed": (
        {"cloudformation:DescribeStacks": stacks(orders_dev="UPDATE_ROLLBACK_FAILED")},
        *(
            "the stage's stack",
            FIX,
            "UPDATE_ROLLBACK_FAILED",
            "continue-update-rollback --stack-name",
        ),
    ),
    "a stack whose creation failed": (
        {"cloudformation:DescribeStacks": stacks(orders_dev="ROLLBACK_COMPLETE")},
        *("the stage's stack", FIX, "is ROLLBACK_COMPLETE", "make destroy STAGE=dev"),
    ),
    "a stack that is being updated": (
        {"cloudformation:DescribeStacks": stacks(orders_dev="UPDATE_IN_PROGRESS")},
        *("the stage's stack", NOTE, "UPDATE_IN_PROGRESS", "describe-stack-events"),
    ),
    "SAM's own stack was never made whole": (
        {"cloudformation:DescribeStacks": stacks(aws_sam_cli_managed_default="REVIEW_IN_PROGRESS")},
        *("files (S3)", FIX, "REVIEW_IN_PROGRESS", "delete-stack --stack-name aws-sam-cli"),
    ),
    "a new account's concurrency": (
        {
            "lambda:GetAccountSettings": {
                "AccountLimit": {"ConcurrentExecutions": 10, "UnreservedConcurrentExecutions": 10}
            }
        },
        # The queue takes two at least: https://docs.aws.amazon.com/lambda/latest/api/API_ScalingConfig.html
        *("Lambda concurrency", NOTE, "receipts may take 3"),
        "--service-code lambda --quota-code L-B99A9384 --desired-value 1000",
    ),
    "vCPUs for a start, not for scaling": (
        {"service-quotas:GetServiceQuota": quotas(L_3032A538=4)},
        *("Fargate vCPUs", NOTE, "4; the tasks take 1, scaled out 5", "--desired-value 5"),
    ),
    "no vCPUs": (
        {"service-quotas:GetServiceQuota": quotas(L_3032A538=0)},
        *("Fargate vCPUs", NOTE, "0; the tasks take 1", "--quota-code L-3032A538"),
    ),
    "no VPC left": (
        {"service-quotas:GetServiceQuota": quotas(L_F678F1CE=1)},
        *("VPCs", NOTE, "1 of 1 in use, 1 needed", "--service-code vpc --quota-code L-F678F1CE"),
    ),
    "no address left of AWS's default": (
        {"ec2:DescribeAddresses": {"Addresses": [{}] * 5}}
        | {"service-quotas:GetServiceQuota": a_rejection("NoSuchResourceException")},
        *("Elastic IPs", NOTE, "5 of 5 in use, 1 needed", "L-0263D0A3 --desired-value 6"),
    ),
    "no NAT gateway left": (
        {"service-quotas:GetServiceQuota": quotas(L_FE5A380F=0)},
        *("NAT gateways", NOTE, "0 a zone, 1 needed", "L-FE5A380F"),
    ),
    "no load balancer left": (
        {"service-quotas:GetServiceQuota": quotas(L_53DA6B97=1)},
        *("load balancers", NOTE, "1 of 1 in use", "L-53DA6B97"),
    ),
    "an account new to ECS": (
        {"iam:GetRole": a_rejection("NoSuchEntity")},
        *("service-linked roles", NOTE, "3 of 3 are missing", "for name in ecs.amazonaws.com "),
    ),
    "no provider": (
        {"iam:ListOpenIDConnectProviders": {"OpenIDConnectProviderList": []}},
        *("pipeline's provider", NOTE, "none for token.actions", "make bootstrap STAGE=dev"),
    ),
    "another project's provider": (
        {"cloudformation:DescribeStacks": stacks()},
        *("pipeline's provider", NOTE, "orders-bootstrap-dev is not", f"OidcProviderArn={PROVIDER}"),
    ),
    "a provider for others' tokens": (
        {"iam:GetOpenIDConnectProvider": {"ClientIDList": ["https://github.com/acme"]}},
        *("pipeline's provider", NOTE, "no tokens for sts.amazonaws.com", "add-client-id-to-open-id"),
    ),
    "a constrained zone": (
        {
            "ec2:DescribeAvailabilityZones": zones(
                *(("eu-central-1a", "1"), ("eu-central-1b", "2"), ("eu-central-1c", "3")),
                state="constrained",
            )
        },
        *("zones", NOTE, "eu-central-1a carries no NAT", "eu-central-1b,eu-central-1c"),
    ),
    "one zone only": (
        {"ec2:DescribeAvailabilityZones": zones(("eu-central-1a", "1"))},
        *("zones", NOTE, "no two that carry it all", "export AWS_DEFAULT_REGION="),
    ),
}


class TestAccount:
    def test_an_account_that_lacks_nothing_is_all_green(self) -> None:
        rows = Recorded().rows()
        assert [each for each in rows if each.state != OK] == []
        assert len(rows) >= 16

    def test_only_calls_that_read_go_out(self) -> None:
        """Also where a quota was never changed, and AWS's default is asked for."""
        aws = Recorded({"service-quotas:GetServiceQuota": a_rejection("NoSuchResourceException")})
        aws.rows()
        assert {operation.split(":")[1] for operation in aws.called} == {key.split(":")[1] for key in HEALTHY}
        assert all(re.match("(Describe|Get|List)[A-Z]", name.split(":")[1]) for name in aws.called)

    @pytest.mark.parametrize(
        ("changes", "what", "state", "found", "fix"), LACKING.values(), ids=LACKING.keys()
    )
    def test_what_is_lacking(
        self, changes: dict[str, Any], what: str, state: str, found: str, fix: str
    ) -> None:
        assert_row(Recorded(changes).rows(), what, state, found, fix)

    @pytest.mark.parametrize(
        ("subnets", "state"),
        [
            # The first two zones of all: one of them carries no Fargate.
            ([], NOTE),
            # A zone without a default subnet is not given: the first two are others.
            ([{"AvailabilityZone": "ap-northeast-1a"}, {"AvailabilityZone": "ap-northeast-1d"}], OK),
        ],
    )
    def test_zones_are_those_that_cloudformation_gives(self, subnets: list[Any], state: str) -> None:
        """In an account of Tokyo's that has the zone without Fargate; ids of AWS's own documentation."""
        tokyo = zones(
            ("ap-northeast-1a", "apne1-az4"),
            ("ap-northeast-1b", "apne1-az3"),
            ("ap-northeast-1d", "apne1-az2"),
        )
        changes = {
            "ec2:DescribeAvailabilityZones": tokyo,
            "ec2:DescribeSubnets": {"Subnets": subnets},
            "ec2:DescribeRegions": regions(ap_northeast_1="opt-in-not-required"),
        }
        seen = row(Recorded(changes, "ap-northeast-1").rows(), "zones")
        assert seen.state == state
        assert ("ap-northeast-1b carries no Fargate" in seen.found) == (state == NOTE)
        assert ("ap-northeast-1a,ap-northeast-1d" in seen.fix) == (state == NOTE)

    def test_zones_are_those_that_the_template_names(self, tmp_path: Path) -> None:
        for name in ("template.yaml", "samconfig.toml"):
            (tmp_path / name).symlink_to(ROOT / name)
        (tmp_path / "fargate").mkdir()
        text = (ROOT / "fargate" / "template.yaml").read_text()
        start, name, rest = text.partition("  AvailabilityZones:\n")
        named = rest.replace('Default: ""', 'Default: "eu-central-1c,eu-central-1d"', 1)
        (tmp_path / "fargate" / "template.yaml").write_text(start + name + named)
        four = zones(*((f"eu-central-1{letter}", f"euc1-az{n}") for n, letter in enumerate("abcd")))
        aws = Recorded({"ec2:DescribeAvailabilityZones": four})
        seen = row(Account(aws.session, ENVIRON, REGION, tmp_path).rows(), "zones")
        assert "eu-central-1c" in seen.found
        assert "eu-central-1a" not in seen.found

    @pytest.mark.parametrize("operation", sorted(set(HEALTHY) - {"sts:GetCallerIdentity"}))
    def test_a_right_that_is_missing_costs_the_rows_that_need_it(self, operation: str) -> None:
        changes = {operation: a_rejection("AccessDenied")}
        if operation.endswith("GetAWSDefaultServiceQuota"):  # asked where there is no other
            changes["service-quotas:GetServiceQuota"] = a_rejection("NoSuchResourceException")
        rows = Recorded(changes).rows()
        unseen = [each for each in rows if "could not" in each.found]
        assert unseen
        assert {each.state for each in rows if each not in unseen} == {OK}
        for each in unseen:
            (service, action) = re.search(r"needs (\S+):(\w+)", each.found).groups()
            assert action.lower() in iam_actions(service)

    def test_with_no_right_at_all_it_says_who_we_are_and_what_it_needs(self) -> None:
        denied = {operation: a_rejection("AccessDenied") for operation in HEALTHY}
        rows = Recorded({**denied, "sts:GetCallerIdentity": HEALTHY["sts:GetCallerIdentity"]}).rows()
        assert row(rows, "credentials").state == OK
        assert sum(each.state == UNKNOWN for each in rows) >= 12

    def test_a_service_that_does_not_answer_costs_its_row(self) -> None:
        rejected = EndpointConnectionError(endpoint_url="https://lambda.eu-central-1.amazonaws.com")
        rows = Recorded({"lambda:GetAccountSettings": rejected}).rows()
        assert [each.what for each in rows if each.state == UNKNOWN] == ["Lambda concurrency"]

    def test_an_answer_of_another_shape_costs_its_row(self) -> None:
        rows = Recorded({"lambda:GetAccountSettings": {}}).rows()
        assert row(rows, "Lambda concurrency").found == "could not look: the answer is not of AWS's shape"

    def test_it_waits_for_a_bounded_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doctor, "_ALL_SECONDS", 0.5)
        over = threading.Event()

        def answer(_: dict[str, Any]) -> Any:
            over.wait(60)
            return {"repositories": []}

        rows = Recorded({"ecr:DescribeRepositories": answer}).rows()
        over.set()
        assert "no answer within" in row(rows, "images (ECR)").found

    def test_fargate_blocks_a_stage_that_runs_on_it(self) -> None:
        aws = Recorded({"service-quotas:GetServiceQuota": quotas(L_3032A538=0)})
        assert row(aws.rows(ENVIRON | {"RUNTIME": "fargate"}), "Fargate vCPUs").state == FIX

    def test_what_the_stage_itself_uses_is_not_needed_again(self) -> None:
        full = {"service-quotas:GetServiceQuota": quotas(L_F678F1CE=1)}
        running = full | {"cloudformation:DescribeStacks": stacks(orders_dev="CREATE_COMPLETE")}
        environ = ENVIRON | {"RUNTIME": "fargate"}
        assert row(Recorded(full).rows(environ), "VPCs").state == FIX
        assert row(Recorded(running).rows(environ), "VPCs").state == OK

    @pytest.mark.parametrize(("status", "state"), [("ROLLBACK_COMPLETE", FIX), ("CREATE_COMPLETE", OK)])
    def test_sam_may_deploy_to_a_stack_of_its_own(self, status: str, state: str, tmp_path: Path) -> None:
        for name in ("template.yaml", "fargate"):
            (tmp_path / name).symlink_to(ROOT / name)
        given = '[default.global.parameters]\nstack_name = "orders-own"\n'
        (tmp_path / "samconfig.toml").write_text(given)
        aws = Recorded({"cloudformation:DescribeStacks": stacks(orders_own=status)})
        rows = Account(aws.session, ENVIRON, REGION, tmp_path).rows()
        seen = row(rows, "`sam deploy`'s stack")
        assert (seen.state, seen.found) == (state, f"orders-own is {status}")
        assert seen.fix == ("sam delete --stack-name orders-own" if state == FIX else "")
        assert row(rows, "the stage's stack").state == OK

    def test_production_takes_an_address_for_each_zone(self) -> None:
        changes = {"service-quotas:GetServiceQuota": quotas(L_0263D0A3=1)}
        seen = row(Recorded(changes).rows(ENVIRON | {"STAGE": "prod"}), "Elastic IPs")
        assert "0 of 1 in use, 2 needed" in seen.found

    def test_lambda_alone_needs_no_fargate(self) -> None:
        aws = Recorded()
        names = {each.what for each in aws.rows(ENVIRON | {"RUNTIME": "lambda"})}
        assert not names & {"Fargate vCPUs", "VPCs", "zones", "service-linked roles"}
        assert "ec2:DescribeVpcs" not in aws.called

    @pytest.mark.parametrize(
        ("region", "environ", "sdk_region", "state", "found", "fix"),
        [
            (None, {}, None, FIX, "none is set", "export AWS_DEFAULT_REGION="),
            ("eu-centrl-1", {}, "eu-centrl-1", FIX, "there is no region", "AWS_DEFAULT_REGION=eu-central-1"),
            ("nowhere", {}, "nowhere", FIX, "there is no region", "export AWS_DEFAULT_REGION="),
            # SAM CLI reads the other variable only.
            (
                REGION,
                {"AWS_REGION": REGION},
                None,
                NOTE,
                "SAM CLI takes none",
                f"AWS_DEFAULT_REGION={REGION}",
            ),
            (REGION, {"AWS_REGION": REGION}, "us-east-1", NOTE, "takes us-east-1", "AWS_DEFAULT_REGION="),
            (
                REGION,
                {"AWS_REGION": REGION, "AWS_DEFAULT_REGION": "us-east-1"},
                "us-east-1",
                FIX,
                "takes us-east-1",
                "AWS_DEFAULT_REGION=",
            ),
            (REGION, {}, REGION, OK, "by the profile, partition aws, enabled", ""),
            (REGION, {"AWS_DEFAULT_REGION": REGION}, REGION, OK, "by AWS_DEFAULT_REGION", ""),
        ],
    )
    def test_regions(
        self, region: str | None, environ: dict[str, str], sdk_region: str, state: str, found: str, fix: str
    ) -> None:
        assert_row(Recorded(region=region).rows(environ, sdk_region), "region", state, found, fix)

    @pytest.mark.parametrize(
        ("region", "home"),
        [("af-south-1", "us-east-1"), ("cn-northwest-1", "cn-north-1"), ("us-gov-east-1", "us-gov-west-1")],
    )
    def test_whether_a_region_is_enabled_is_asked_of_one_that_always_is(self, region: str, home: str) -> None:
        """A region that is not enabled rejects the account's credentials.

        https://docs.aws.amazon.com/accounts/latest/reference/manage-acct-regions.html
        """
        aws = Recorded(region=region)
        aws.rows()
        assert aws.called["ec2:DescribeRegions"] == home
        assert aws.called["ec2:DescribeVpcs"] == region

    def test_a_region_that_is_newer_than_the_sdk(self) -> None:
        changes = {"ec2:DescribeRegions": regions(eu_central_9="opted-in")}
        seen = row(Recorded(changes, "eu-central-9").rows(), "region")
        assert (seen.state, seen.fix) == (NOTE, "make lock")

    def test_edge_and_services_of_another_partition(self) -> None:
        rows = Recorded(
            {"ec2:DescribeRegions": regions(cn_north_1="opt-in-not-required")}, "cn-north-1"
        ).rows()
        assert row(rows, "CDN").state == NOTE
        assert row(rows, "services").state == OK

    def test_a_region_that_the_sdk_has_no_endpoint_of(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(doctor.SERVICES, "Lambda", "apprunner")  # a service of a few regions
        seen = row(Recorded(region="eu-south-2").rows(), "services")
        assert seen.state == NOTE
        assert "apprunner" in seen.found
        assert "aws ssm get-parameters-by-path" in seen.fix

    def test_an_emulator_is_not_taken_for_aws(self) -> None:
        seen = row(Recorded().rows(ENVIRON | {"AWS_ENDPOINT_URL": "http://localhost:4566"}), "endpoint")
        assert (seen.state, seen.fix) == (NOTE, "unset AWS_ENDPOINT_URL")

    def test_an_endpoint_that_is_no_address(self) -> None:
        rows = Recorded().rows(ENVIRON | {"AWS_ENDPOINT_URL_S3": "localhost"})
        seen = row(rows, "endpoint")
        assert (seen.state, seen.fix) == (FIX, "unset AWS_ENDPOINT_URL_S3")
        assert "AWS_ENDPOINT_URL_S3=localhost is no address" in row(rows, "zones").found

    @pytest.mark.parametrize(("minutes", "state"), [(20, NOTE), (300, OK)])
    def test_credentials_that_end_soon(self, minutes: int, state: str) -> None:
        aws, ends = Recorded(), datetime.now(UTC) + timedelta(minutes=minutes)
        aws.session._session._credentials = RefreshableCredentials(  # as AWS_CREDENTIAL_EXPIRATION makes them
            *("AKIAEXAMPLE", "secret", "token", ends, dict, "env"),
            advisory_timeout=0,
            mandatory_timeout=0,
        )
        seen = row(aws.rows(), "credentials")
        assert seen.state == state
        assert f"until {ends:%H:%M} UTC" in seen.found

    def test_what_the_templates_are_made_of_is_looked_for(self) -> None:
        names = [ROOT / "template.yaml", *ROOT.glob("fargate/*.yaml"), *ROOT.glob("monitoring/*.yaml")]
        resources = [each for path in names for each in load_template(path.read_text())["Resources"].values()]
        used = {each["Type"].split("::")[1] for each in resources if each["Type"].startswith("AWS::")}
        assert used <= set(doctor.SERVICES) | set(doctor.FARGATE_SERVICES) | doctor.EVERYWHERE

    def test_parameters_are_read_as_the_template_has_them(self) -> None:
        account = Account(Recorded().session, {"STAGE": "test1"})
        for name, parameter in load_template((ROOT / "template.yaml").read_text())["Parameters"].items():
            if name not in ("Stage", "Runtime", "LogRetentionDays"):  # samconfig.toml has these
                assert account._parameter(name) == str(parameter.get("Default", "")), name

    def test_aws_region_alone_is_enough(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
        assert doctor.session({"AWS_REGION": "eu-west-3"}).region_name == "eu-west-3"

    @pytest.mark.parametrize(
        ("environ", "what", "fix"),
        [
            ({"STAGE": "No-Stage"}, "stage", "make doctor STAGE=dev"),
            ({"STAGE": "prodd"}, "stage", "make doctor STAGE=dev"),
            ({"AWS_PROFILE": "nobody"}, "credentials", "unset AWS_PROFILE"),
        ],
    )
    def test_what_cannot_be_meant_is_one_row(
        self, environ: dict[str, str], what: str, fix: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        (seen,) = doctor.look(os.environ)
        assert (seen.state, seen.what, seen.fix) == (FIX, what, fix)


def iam_actions(service: str) -> set[str]:
    """Return the actions that IAM knows, as cfn-lint has them of AWS."""
    file = Path(cfnlint.data.AdditionalSpecs.__path__[0]) / "Policies.json"
    return set(json.loads(file.read_text())[service]["Actions"])


DOCKER = {
    "ServerVersion": "28.3.2",
    "Architecture": "x86_64",
    "OSType": "linux",
    "DockerRootDir": "/nowhere",
}
# What each command prints on a machine that lacks nothing.
PRINTED = {
    "make": "GNU Make 4.4.1",
    "docker": json.dumps(DOCKER),
    "sam": "SAM CLI, version 99.0.0",
    "aws": "aws-cli/2.31.0 Python/3.13.7 Linux/6.1 exe/x86_64",
    "node": "v24.1.0",
    "npm": "11.0.0",
    "git": 'case "$1" in --version) echo git version 2.39.5;; *) echo git@github.com:acme/orders.git;; esac',
    "gh": r"""case "$2" in
      */sub) echo '{"use_default": true, "use_immutable_subject": true}';;
      *) echo '{"id": 171717, "owner": {"id": 4242}, "created_at": "2020-01-01T00:00:00Z"}';;
    esac""",
    "apt-get": "",
}


class TestMachine:
    """On a PATH of scripts, started as the real commands are."""

    @pytest.fixture
    def rows(self, tmp_path: Path) -> Callable[..., list[Row]]:
        def look(
            environ: Mapping[str, str] | None = None,
            *,
            without: str = "",
            python: tuple[int, ...] = (3, 13, 1),
            platform: str = "linux",
            **scripts: str,
        ) -> list[Row]:
            path = tmp_path / "bin"
            path.mkdir()
            for name, text in {**PRINTED, **scripts}.items():
                if name not in without.split():
                    body = text if "case" in text or "exit" in text else f"cat <<'END'\n{text}\nEND"
                    (path / name).write_text(f"#!/bin/bash\nPATH={os.environ['PATH']}\n{body}\n")
                    (path / name).chmod(0o755)
            root = tmp_path / "clone"
            root.mkdir()
            for name in ("template.yaml", "requirements-tools.txt"):
                (root / name).symlink_to(ROOT / name)
            given = {"PATH": str(path), "PORT": str(free_port()), **(environ or {})}
            return Machine(given, root, python, platform).rows()

        return look

    def test_a_machine_that_lacks_nothing_is_all_green(
        self, rows: Callable[..., list[Row]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, 80 * 10**9))
        assert {row.what: row.state for row in rows()} == dict.fromkeys(
            [
                *("Python", "make", "container engine", "disk", "SAM CLI", "AWS CLI", "node", "git", "port"),
                "GitHub's subject",
            ],
            OK,
        )

    @pytest.mark.parametrize(
        ("given", "what", "state", "found", "fix"),
        [
            ({"python": (3, 9, 2)}, "Python", FIX, "3.9.2; 3.11 or newer", "apt-get install -y python3"),
            (
                {"python": (3, 10, 1), "python3.12": ""},
                *("Python", FIX, "3.10.1", "make doctor PYTHON=python3.12"),
            ),
            ({"without": "make"}, "make", FIX, "not on the PATH", "apt-get install -y make"),
            ({"without": "make", "platform": "darwin"}, "make", FIX, "not on", "xcode-select --install"),
            ({"make": "usage: bsd"}, "make", FIX, "not GNU Make", "apt-get install -y make"),
            (
                {"make": "GNU Make 3.81", "platform": "darwin"},
                *("make", NOTE, "3.81 ignores .SHELLFLAGS", "brew install make"),
            ),
            ({"without": "docker"}, "container engine", FIX, "no `docker`", "apt-get install -y docker.io"),
            (
                {"docker": "echo Cannot connect to the Docker daemon >&2; exit 1"},
                *("container engine", FIX, "Cannot connect to the Docker daemon", "systemctl start docker"),
            ),
            (
                {"docker": "echo Cannot connect >&2; exit 1", "platform": "darwin"},
                *("container engine", FIX, "does not answer", "open -a Docker"),
            ),
            (
                {"docker": 'echo \'{"ServerErrors": ["permission denied while ..."]}\'; exit 0'},
                *("container engine", FIX, "permission denied", "usermod -aG docker"),
            ),
            (
                {"docker": json.dumps(DOCKER | {"Architecture": "aarch64"})},
                *("container engine", NOTE, "arm64; the stage is x86_64", 'PARAMETERS="Architecture=arm64"'),
            ),
            (
                {"sam": "SAM CLI, version 1.90.0"},
                "SAM CLI",
                NOTE,
                "1.90.0, older than",
                "make setup && export",
            ),
            ({"sam": "exit 1"}, "SAM CLI", FIX, "does not start", "make setup"),
            ({"without": "sam"}, "SAM CLI", FIX, "not on the PATH", "make setup && export PATH="),
            ({"without": "aws"}, "AWS CLI", NOTE, "not on the PATH", "sudo aws/install"),
            (
                {"aws": "aws-cli/1.44.1 Python/3.13.7"},
                "AWS CLI",
                NOTE,
                "configure sso",
                "aws/install --update",
            ),
            ({"without": "aws", "platform": "darwin"}, "AWS CLI", NOTE, "the PATH", "brew install awscli"),
            ({"without": "node"}, "node", NOTE, "`make check` needs it", "apt-get install -y nodejs"),
            ({"without": "npm"}, "node", NOTE, "npm is not on the PATH", "apt-get install -y nodejs npm"),
            (
                {"node": "v16.20.2"},
                "node",
                NOTE,
                "16.20.2; `make check` needs 18",
                "apt-get install -y nodejs",
            ),
            ({"without": "git"}, "git", NOTE, "not on the PATH", "apt-get install -y git"),
            ({"without": "git apt-get"}, "git", NOTE, "not on the PATH", "install git with the package"),
            ({"environ": {"PORT": "x"}}, "port", NOTE, "PORT=x", "make run PORT=8000"),
            ({"git": "exit 2"}, "GitHub's subject", NOTE, "no remote `origin`", "gh repo create"),
            (
                {"git": 'case "$1" in *) echo https://gitlab.com/acme/orders.git;; esac'},
                *("GitHub's subject", NOTE, "on github.com", "gh repo create"),
            ),
            (
                {"without": "gh"},
                *(
                    "GitHub's subject",
                    UNKNOWN,
                    "there is no `gh`",
                    "gh api repos/acme/orders --jq",
                ),
            ),
            ({"gh": "exit 4"}, "GitHub's subject", UNKNOWN, "GitHub did not say", "gh api repos/acme/orders"),
            (
                {"gh": PRINTED["gh"].replace('"use_default": true', '"use_default": false')},
                *("GitHub's subject", NOTE, "its subject is customized", "-F use_default=true"),
            ),
        ],
    )
    def test_what_is_lacking(
        self,
        rows: Callable[..., list[Row]],
        given: dict[str, Any],
        what: str,
        state: str,
        found: str,
        fix: str,
    ) -> None:
        assert_row(rows(**given), what, state, found, fix)

    @pytest.mark.parametrize(
        ("answer", "created_at", "subject"),
        [
            (
                '{"use_default": true, "use_immutable_subject": true}',
                "2020-01-01",
                "repo:acme@4242/orders@171717:",
            ),
            ('{"use_default": true, "use_immutable_subject": false}', "2026-11-01", "repo:acme/orders:"),
            # Who may not read it goes by the repository's age; a rename or transfer does not show.
            ("", "2026-07-15", "repo:acme@4242/orders@171717:… (by its age)"),
            ("", "2026-07-14", "repo:acme/orders:… (by its age)"),
        ],
    )
    def test_which_subject_github_sends(
        self, rows: Callable[..., list[Row]], answer: str, created_at: str, subject: str
    ) -> None:
        repository = {"id": 171717, "owner": {"id": 4242}, "created_at": f"{created_at}T00:00:00Z"}
        script = f"""case "$2" in */sub) echo '{answer}';; *) echo '{json.dumps(repository)}';; esac"""
        seen = row(rows(gh=script), "GitHub's subject")
        assert seen.found.startswith(subject)
        assert seen.found.endswith("takes Repository=acme/orders OwnerId=4242 RepositoryId=171717")

    @pytest.mark.parametrize(("free_gb", "state"), [(80, OK), (4, NOTE), (0, FIX)])
    def test_disk(
        self, rows: Callable[..., list[Row]], free_gb: int, state: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, free_gb * 10**9))
        seen = row(rows(), "disk")
        assert (seen.state, bool(seen.fix)) == (state, state != OK)

    def test_a_port_that_is_taken(self, rows: Callable[..., list[Row]]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            seen = row(rows({"PORT": str(port)}), "port")
        assert seen.state == NOTE
        assert f"PORT={port}" not in seen.fix
        assert "make run PORT=" in seen.fix


class TestCommand:
    @pytest.fixture
    def bare(self, tmp_path: Path) -> dict[str, str]:
        """The environment of someone who has neither credentials nor settings."""
        return {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "AWS_EC2_METADATA_DISABLED": "true"}

    def doctor(self, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
        """Run it by a Python without any package: -S leaves site-packages out."""
        return subprocess.run(
            [sys.executable, "-S", "-m", "scripts.doctor"],
            cwd=ROOT,
            env=environ,
            check=False,
            capture_output=True,
            text=True,
            timeout=110,
        )

    def test_without_credentials_it_says_what_it_could_not_look_at(self, bare: dict[str, str]) -> None:
        done = self.doctor(bare)
        assert (done.returncode, done.stderr) == (1, "")
        assert "none were found" in done.stdout
        assert "-> aws configure sso" in done.stdout
        assert done.stdout.count("could not look: no credentials") >= 12

    def test_without_a_network_it_says_so(self, bare: dict[str, str]) -> None:
        environ = bare | {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}",
            "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": REGION,
        }
        done = self.doctor(environ)
        assert (done.returncode, done.stderr) == (1, "")
        assert done.stdout.count("could not look: AWS did not answer") >= 12
        assert "sts.eu-central-1" not in done.stdout, "it was not asked"

    def test_a_runtime_that_there_is_not(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert command.main({"RUNTIME": "ec2"}) == 2
        assert capsys.readouterr().err == "error: RUNTIME is lambda or fargate, not 'ec2'\n"

    @pytest.mark.parametrize(
        ("python", "found", "fix"),
        [("none", "there is no .venv", "make setup"), ("printf '[1]'", "damaged", "make clean setup")],
    )
    def test_an_environment_that_is_missing_or_damaged(
        self, python: str, found: str, fix: str, tmp_path: Path
    ) -> None:
        program = tmp_path / "python"
        if python != "none":
            program.write_text(f"#!/bin/sh\n{python}\n")
            program.chmod(0o755)
        (seen,) = command.account_rows(os.environ, program)
        assert (seen.state, seen.fix) == (FIX, fix)
        assert found in seen.found

    @pytest.mark.parametrize(("state", "code"), [(OK, 0), (NOTE, 0), (UNKNOWN, 0), (FIX, 1)])
    def test_only_what_blocks_a_deployment_fails(
        self, state: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(Machine, "rows", lambda _: [Row(OK, "Python", "3.13.1")])
        monkeypatch.setattr(command, "account_rows", lambda *_: [Row(state, "zones", "a, b", "fix it")])
        assert command.main({}) == code
        assert re.search(rf"{state} +zones +a, b\n +-> fix it", capsys.readouterr().out)

    @pytest.mark.parametrize("name", ["__init__.py", "__main__.py", "machine.py"])
    def test_the_machines_part_runs_on_an_old_python_and_nothing_else(self, name: str) -> None:
        tree = ast.parse((ROOT / "scripts" / "doctor" / name).read_text(), feature_version=(3, 9))
        imported = {each.module for each in ast.walk(tree) if isinstance(each, ast.ImportFrom)}
        imported |= {a.name for each in ast.walk(tree) if isinstance(each, ast.Import) for a in each.names}
        own = {module for module in imported if module and module.startswith("scripts.")}
        assert own <= {"scripts.doctor", "scripts.doctor.machine"}
        assert {module.split(".")[0] for module in imported - own} <= sys.stdlib_module_names

    def test_the_example_is_what_it_prints(self) -> None:
        """In a new account, by a developer who is new to it. UPDATE_DOCS=1 writes it anew."""
        aws = Recorded(
            {
                "cloudformation:DescribeStacks": stacks(),
                "ec2:DescribeAddresses": a_rejection("UnauthorizedOperation"),
                "iam:GetRole": a_rejection("NoSuchEntity"),
                "iam:ListOpenIDConnectProviders": {"OpenIDConnectProviderList": []},
                "lambda:GetAccountSettings": {
                    "AccountLimit": {"ConcurrentExecutions": 10, "UnreservedConcurrentExecutions": 10}
                },
                "service-quotas:GetServiceQuota": quotas(L_3032A538=6, L_F678F1CE=5, L_FE5A380F=5),
            }
        )
        aws.session.get_credentials().method = "sso"
        machine = [
            Row(OK, "Python", "3.13.1"),
            Row(FIX, "container engine", "no `docker` on the PATH", "sudo apt-get install -y docker.io"),
        ]
        printed = command.table(machine, aws.rows(), colour=False)
        page = ROOT / "docs" / "delivery.md"
        before, mark, rest = page.read_text().partition(WRITTEN_HERE)
        assert mark
        example, fence, after = rest.partition("```\n")
        if os.environ.get("UPDATE_DOCS"):
            page.write_text(before + mark + printed + "\n" + fence + after)
        else:
            assert example == printed + "\n", "UPDATE_DOCS=1 writes it anew"


def test_making_one_environment_leaves_the_stamp_of_the_other(tmp_path: Path) -> None:
    """`make run` between two `make check` must not install the latter's packages once more."""
    for name in ("Makefile", "requirements.txt", "requirements-dev.txt"):
        (tmp_path / name).symlink_to(ROOT / name)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\n")  # installs whatever it is told
    python.chmod(0o755)
    for target in (".venv/.installed-requirements-dev-1", ".venv/.installed-requirements-2"):
        (tmp_path / target).touch()
    asked = ["make", "-f", "-", "stamps"]
    rules = "include Makefile\n.PHONY: stamps\nstamps: $(RUN)\n"
    subprocess.run(asked, cwd=tmp_path, input=rules, check=True, capture_output=True, text=True)
    stamps = {each.name for each in python.parents[1].glob(".installed-*")}
    assert ".installed-requirements-dev-1" in stamps
    assert ".installed-requirements-2" not in stamps
    assert len(stamps) == 2
