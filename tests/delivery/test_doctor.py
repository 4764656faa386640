"""`make doctor`: each row in each state, from answers of AWS's documented shapes and a PATH of scripts.

The answers are checked against the SDK's service models, as botocore's Stubber does; the calls are checked to
read only.
"""

from __future__ import annotations

import ast
import json
import os
import re
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
from cfnlint.decode import decode
from scripts.doctor import FIX, NOTE, OK, UNKNOWN, Row
from scripts.doctor import __main__ as command
from scripts.doctor import account as doctor
from scripts.doctor.account import Account
from scripts.doctor.machine import Machine

ROOT = Path(__file__).resolve().parents[2]
REGION = "eu-central-1"
PROVIDER = "arn:aws:iam::111111111111:oidc-provider/token.actions.githubusercontent.com"


def a_refusal(code: str, message: str = "") -> tuple[str, str]:
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
        return a_refusal("ValidationError", f"Stack with id {name} does not exist")

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
LOADER = Loader()  # reads each service's model once for all tests


class Recorded:
    """An account that answers as recorded, and keeps which operations were called."""

    def __init__(self, changes: Mapping[str, Any] = HEALTHY, region: str | None = REGION) -> None:
        self._answers, self.called = {**HEALTHY, **changes}, list[str]()
        self.session = boto3.Session("AKIAEXAMPLE", "secret", region_name=region)
        self.session._session.register_component("data_loader", LOADER)
        self.session.events.register("provide-client-params", self._keep)
        self.session.events.register("before-call", self._answer)

    def _keep(self, params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
        context["asked"] = params

    def _answer(self, model: Any, context: dict[str, Any], **_: Any) -> tuple[AWSResponse, Any]:
        operation = f"{model.service_model.service_id.hyphenize()}:{model.name}"
        self.called.append(operation)
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
    (found,) = [each for each in rows if each.what == what]
    return found


class TestAccount:
    def test_an_account_that_lacks_nothing_is_all_green(self) -> None:
        rows = Recorded().rows()
        assert [each for each in rows if each.state != OK] == []
        assert len(rows) == 16

    def test_only_calls_that_read_go_out(self) -> None:
        """Also where a quota was never changed, and AWS's default is asked for."""
        aws = Recorded({"service-quotas:GetServiceQuota": a_refusal("NoSuchResourceException")})
        aws.rows()
        assert {operation.split(":")[1] for operation in aws.called} == {key.split(":")[1] for key in HEALTHY}
        assert all(re.match("(Describe|Get|List)[A-Z]", name.split(":")[1]) for name in aws.called)

    @pytest.mark.parametrize(
        ("changes", "what", "state", "found", "mend"),
        [
            pytest.param(
                {"sts:GetCallerIdentity": a_refusal("InvalidClientTokenId")},
                *("credentials", FIX, "refused: InvalidClientTokenId", "aws configure sso"),
                id="credentials that AWS does not know",
            ),
            pytest.param(
                {"sts:GetCallerIdentity": a_refusal("SignatureDoesNotMatch", "Signature expired: ...")},
                *("credentials", FIX, "clock is wrong", "timedatectl"),
                id="a wrong clock",
            ),
            pytest.param(
                {
                    "sts:GetCallerIdentity": {
                        "Account": "111111111111",
                        "Arn": "arn:aws:iam::111111111111:root",
                        "UserId": "1",
                    }
                },
                *("credentials", NOTE, "root should deploy nothing", "aws configure sso"),
                id="root",
            ),
            pytest.param(
                {"ec2:DescribeRegions": regions(eu_central_1="not-opted-in")},
                *("region", FIX, "not enabled", "aws account enable-region --region-name eu-central-1"),
                id="a region that is not enabled",
            ),
            pytest.param(
                {"cloudformation:DescribeStacks": stacks(orders_dev="UPDATE_ROLLBACK_FAILED")},
                *("stack orders-dev", FIX, "UPDATE_ROLLBACK_FAILED", "continue-update-rollback --stack-name"),
                id="a stack whose rollback failed",
            ),
            pytest.param(
                {"cloudformation:DescribeStacks": stacks(orders_dev="ROLLBACK_COMPLETE")},
                *("stack orders-dev", FIX, "its creation failed", "make destroy STAGE=dev"),
                id="a stack whose creation failed",
            ),
            pytest.param(
                {"cloudformation:DescribeStacks": stacks(orders_dev="UPDATE_IN_PROGRESS")},
                *("stack orders-dev", NOTE, "another operation runs", "describe-stack-events"),
                id="a stack that is being updated",
            ),
            pytest.param(
                {"cloudformation:DescribeStacks": stacks(aws_sam_cli_managed_default="REVIEW_IN_PROGRESS")},
                *("files (S3)", FIX, "REVIEW_IN_PROGRESS", "delete-stack --stack-name aws-sam-cli"),
                id="SAM's own stack was never made whole",
            ),
            pytest.param(
                {
                    "lambda:GetAccountSettings": {
                        "AccountLimit": {"ConcurrentExecutions": 10, "UnreservedConcurrentExecutions": 10}
                    }
                },
                *("Lambda concurrency", NOTE, "LambdaConcurrencyAlarm=8"),
                "--service-code lambda --quota-code L-B99A9384 --desired-value 1000",
                id="a new account's concurrency",
            ),
            pytest.param(
                {"service-quotas:GetServiceQuota": quotas(L_3032A538=4)},
                *("Fargate vCPUs", NOTE, "4; the tasks take 1, scaled out 5", "--desired-value 5"),
                id="vCPUs for a start, not for scaling",
            ),
            pytest.param(
                {"service-quotas:GetServiceQuota": quotas(L_3032A538=0)},
                *("Fargate vCPUs", NOTE, "0; the tasks take 1", "--quota-code L-3032A538"),
                id="no vCPUs",
            ),
            pytest.param(
                {"service-quotas:GetServiceQuota": quotas(L_F678F1CE=1)},
                *("VPCs", NOTE, "1 of 1 in use, 1 needed", "--service-code vpc --quota-code L-F678F1CE"),
                id="no VPC left",
            ),
            pytest.param(
                {"ec2:DescribeAddresses": {"Addresses": [{}] * 5}}
                | {"service-quotas:GetServiceQuota": a_refusal("NoSuchResourceException")},
                *("Elastic IPs", NOTE, "5 of 5 in use, 1 needed", "L-0263D0A3 --desired-value 6"),
                id="no address left of AWS's default",
            ),
            pytest.param(
                {"service-quotas:GetServiceQuota": quotas(L_FE5A380F=0)},
                *("NAT gateways", NOTE, "0 a zone, 1 needed", "L-FE5A380F"),
                id="no NAT gateway left",
            ),
            pytest.param(
                {"service-quotas:GetServiceQuota": quotas(L_53DA6B97=1)},
                *("load balancers", NOTE, "1 of 1 in use", "L-53DA6B97"),
                id="no load balancer left",
            ),
            pytest.param(
                {"iam:GetRole": a_refusal("NoSuchEntity")},
                *("service-linked roles", NOTE, "AWSServiceRoleForECS"),
                "create-service-linked-role --aws-service-name ecs.amazonaws.com && ",
                id="an account new to ECS",
            ),
            pytest.param(
                {"iam:ListOpenIDConnectProviders": {"OpenIDConnectProviderList": []}},
                *("pipeline's provider", NOTE, "none for token.actions", "make bootstrap STAGE=dev"),
                id="no provider",
            ),
            pytest.param(
                {"cloudformation:DescribeStacks": stacks()},
                *("pipeline's provider", NOTE, "orders-bootstrap-dev is not", f"OidcProviderArn={PROVIDER}"),
                id="another project's provider",
            ),
            pytest.param(
                {"iam:GetOpenIDConnectProvider": {"ClientIDList": ["https://github.com/acme"]}},
                *("pipeline's provider", NOTE, "no tokens for sts.amazonaws.com", "add-client-id-to-open-id"),
                id="a provider for others' tokens",
            ),
            pytest.param(
                {
                    "ec2:DescribeAvailabilityZones": zones(
                        *(("eu-central-1a", "1"), ("eu-central-1b", "2"), ("eu-central-1c", "3")),
                        state="constrained",
                    )
                },
                *("zones", NOTE, "eu-central-1a carries no NAT", "eu-central-1b,eu-central-1c"),
                id="a constrained zone",
            ),
            pytest.param(
                {"ec2:DescribeAvailabilityZones": zones(("eu-central-1a", "1"))},
                *("zones", NOTE, "no two that carry it all", "export AWS_DEFAULT_REGION="),
                id="one zone only",
            ),
        ],
    )
    def test_what_is_lacking(
        self, changes: dict[str, Any], what: str, state: str, found: str, mend: str
    ) -> None:
        seen = row(Recorded(changes).rows(), what)
        assert seen.state == state
        assert found in seen.found
        assert mend in seen.mend

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
        assert ("ap-northeast-1a,ap-northeast-1d" in seen.mend) == (state == NOTE)

    @pytest.mark.parametrize("operation", sorted(set(HEALTHY) - {"sts:GetCallerIdentity"}))
    def test_a_right_that_is_missing_costs_the_rows_that_need_it(self, operation: str) -> None:
        changes = {operation: a_refusal("AccessDenied")}
        if operation.endswith("GetAWSDefaultServiceQuota"):  # asked where there is no other
            changes["service-quotas:GetServiceQuota"] = a_refusal("NoSuchResourceException")
        rows = Recorded(changes).rows()
        unseen = [each for each in rows if "could not" in each.found]
        assert unseen
        assert {each.state for each in rows if each not in unseen} == {OK}
        for each in unseen:
            (service, action) = re.search(r"needs (\S+):(\w+)", each.found).groups()
            assert action.lower() in iam_actions(service)

    def test_with_no_right_at_all_it_says_who_we_are_and_what_it_needs(self) -> None:
        denied = {operation: a_refusal("AccessDenied") for operation in HEALTHY}
        rows = Recorded({**denied, "sts:GetCallerIdentity": HEALTHY["sts:GetCallerIdentity"]}).rows()
        assert row(rows, "credentials").state == OK
        assert sum(each.state == UNKNOWN for each in rows) == 12

    def test_a_service_that_does_not_answer_costs_its_row(self) -> None:
        refused = EndpointConnectionError(endpoint_url="https://lambda.eu-central-1.amazonaws.com")
        rows = Recorded({"lambda:GetAccountSettings": refused}).rows()
        assert [each.what for each in rows if each.state == UNKNOWN] == ["Lambda concurrency"]

    def test_it_waits_for_a_bounded_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doctor, "_ALL_SECONDS", 0.5)
        over = threading.Event()

        def answer(_: dict[str, Any]) -> Any:
            over.wait(60)
            return {"repositories": []}

        rows = Recorded({"ecr:DescribeRepositories": answer}).rows()
        over.set()
        assert "no answer within" in row(rows, "images (ECR)").found

    def test_fargate_blocks_whoever_runs_on_it(self) -> None:
        aws = Recorded({"service-quotas:GetServiceQuota": quotas(L_3032A538=0)})
        assert row(aws.rows(ENVIRON | {"RUNTIME": "fargate"}), "Fargate vCPUs").state == FIX

    def test_what_the_stage_itself_uses_is_not_needed_again(self) -> None:
        full = {"service-quotas:GetServiceQuota": quotas(L_F678F1CE=1)}
        running = full | {"cloudformation:DescribeStacks": stacks(orders_dev="CREATE_COMPLETE")}
        environ = ENVIRON | {"RUNTIME": "fargate"}
        assert row(Recorded(full).rows(environ), "VPCs").state == FIX
        assert row(Recorded(running).rows(environ), "VPCs").state == OK

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
        ("region", "environ", "sdk_region", "state", "found", "mend"),
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
            (REGION, {}, REGION, OK, "by the profile, partition aws, enabled", ""),
            (REGION, {"AWS_DEFAULT_REGION": REGION}, REGION, OK, "by AWS_DEFAULT_REGION", ""),
        ],
    )
    def test_regions(
        self, region: str | None, environ: dict[str, str], sdk_region: str, state: str, found: str, mend: str
    ) -> None:
        seen = row(Recorded(region=region).rows(environ, sdk_region), "region")
        assert seen.state == state
        assert found in seen.found
        assert mend in seen.mend

    def test_edge_and_services_of_another_partition(self) -> None:
        rows = Recorded(
            {"ec2:DescribeRegions": regions(cn_north_1="opt-in-not-required")}, "cn-north-1"
        ).rows()
        assert row(rows, "edge").state == NOTE
        assert row(rows, "services").state == OK

    def test_a_region_that_the_sdk_has_no_endpoint_of(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(doctor.SERVICES, "Lambda", "apprunner")  # a service of a few regions
        seen = row(Recorded(region="eu-south-2").rows(), "services")
        assert seen.state == NOTE
        assert "apprunner" in seen.found
        assert "aws ssm get-parameters-by-path" in seen.mend

    def test_an_emulator_is_not_taken_for_aws(self) -> None:
        seen = row(Recorded().rows(ENVIRON | {"AWS_ENDPOINT_URL": "http://localhost:4566"}), "endpoint")
        assert (seen.state, seen.mend) == (NOTE, "unset AWS_ENDPOINT_URL")

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
        names = [ROOT / "template.yaml", *ROOT.glob("fargate/*.yaml"), ROOT / "monitoring" / "template.yaml"]
        resources = [each for path in names for each in decode(str(path))[0]["Resources"].values()]
        used = {each["Type"].split("::")[1] for each in resources if each["Type"].startswith("AWS::")}
        assert used <= set(doctor.SERVICES) | set(doctor.FARGATE_SERVICES) | doctor.EVERYWHERE

    def test_parameters_are_read_as_the_template_has_them(self) -> None:
        account = Account(Recorded().session, {"STAGE": "unheardof"})
        for name, parameter in decode(str(ROOT / "template.yaml"))[0]["Parameters"].items():
            if name not in ("Stage", "Runtime", "LogRetentionDays"):  # samconfig.toml has these
                assert account._parameter(name) == str(parameter.get("Default", "")), name
        assert account._number("MaximumConcurrency") >= 1
        assert account._number("ParallelizationFactor") >= 1

    def test_aws_region_alone_is_enough(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
        assert doctor.session({"AWS_REGION": "eu-west-3"}).region_name == "eu-west-3"

    @pytest.mark.parametrize(
        ("environ", "what", "mend"),
        [
            ({"STAGE": "No-Stage"}, "stage", "make doctor STAGE=dev"),
            ({"AWS_PROFILE": "nobody"}, "credentials", "unset AWS_PROFILE"),
        ],
    )
    def test_what_cannot_be_meant_is_one_row(
        self, environ: dict[str, str], what: str, mend: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        (seen,) = doctor.look(os.environ)
        assert (seen.state, seen.what, seen.mend) == (FIX, what, mend)


def iam_actions(service: str) -> set[str]:
    """Return the actions that IAM knows, as cfn-lint has them of AWS."""
    file = Path(cfnlint.data.AdditionalSpecs.__path__[0]) / "Policies.json"
    return set(json.loads(file.read_text())[service]["Actions"])
