"""The delivery commands against the local AWS emulator, with a small template in place of the built artifact.

tests/cloud/test_first_hour.py does it once with the real image and templates.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import zlib
from collections import defaultdict
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError
from localcloud.running import Emulator
from scripts.cli import CliError
from scripts.delivery import artifact, destroy
from scripts.delivery.__main__ import Delivery
from scripts.delivery.artifact import Artifacts
from scripts.delivery.data import Data
from scripts.delivery.decide import stack_name
from scripts.stack import Stack, parameters_of
from tests.delivery.conftest import ROOT, Bootstrap, client, parameters, token

pytestmark = pytest.mark.xdist_group("bootstrap")

ACCOUNT = "444444444444"
TEMPLATE = """
Parameters:
  Stage: { Type: String }
  Runtime: { Type: String, Default: lambda }
  BothRuntimes: { Type: String, Default: "false" }
  LogRetentionDays: { Type: Number, Default: 30 }
  NetworkEgress: { Type: String, Default: single-nat }
  PermissionsBoundaryArn: { Type: String, Default: "" }
  Broken: { Type: String, Default: "false" }
Conditions:
  IsBroken: !Equals [!Ref Broken, "true"]
Resources:
  OrdersTable:
    Type: AWS::DynamoDB::Table
    DeletionPolicy: Retain
    UpdateReplacePolicy: Retain
    Properties:
      BillingMode: PAY_PER_REQUEST
      AttributeDefinitions: [{ AttributeName: pk, AttributeType: S }]
      KeySchema: [{ AttributeName: pk, KeyType: HASH }]
  DocumentsBucket:
    Type: AWS::S3::Bucket
    DeletionPolicy: Retain
    UpdateReplacePolicy: Retain
    Properties: { VersioningConfiguration: { Status: Enabled } }
  AccessLogsBucket:
    Type: AWS::S3::Bucket
    DeletionPolicy: Retain
    UpdateReplacePolicy: Retain
  DataKey:
    Type: AWS::KMS::Key
    DeletionPolicy: Retain
    UpdateReplacePolicy: Retain
    Properties: { Description: data }
  ScratchBucket:
    Type: AWS::S3::Bucket
    Properties: { VersioningConfiguration: { Status: Enabled } }
  Code:
    Type: AWS::SSM::Parameter
    DependsOn: OrdersTable
    Properties: { Type: String, Value: "CODE", Description: !Ref Runtime }
  Failure:
    Type: AWS::CloudFormation::Stack
    Condition: IsBroken
    DependsOn: [OrdersTable, AccessLogsBucket, Code]
    Properties: { TemplateURL: "https://s3.us-east-1.amazonaws.com/orders-artifacts/no-such-template" }
Outputs:
  ApiUrl: { Value: "http://127.0.0.1/" }
  TableName: { Value: !Ref OrdersTable }
  BucketName: { Value: !Ref DocumentsBucket }
  ScratchName: { Value: !Ref ScratchBucket }
  CodeName: { Value: !Ref Code }
"""
# What a CDN must know of the orders stack.
ORIGINS = """
Parameters:
  Stage: { Type: String }
  Runtime: { Type: String, Default: lambda }
  BothRuntimes: { Type: String, Default: "false" }
  PermissionsBoundaryArn: { Type: String, Default: "" }
  OriginSecretArn: { Type: String, Default: "" }
  CorsOrigins: { Type: String, Default: "" }
  LogRetentionDays: { Type: Number, Default: 7 }
Conditions:
  UseLambda: !Or [!Equals [!Ref Runtime, lambda], !Equals [!Ref BothRuntimes, "true"]]
  UseFargate: !Or [!Equals [!Ref Runtime, fargate], !Equals [!Ref BothRuntimes, "true"]]
Resources:
  Code:
    Type: AWS::SSM::Parameter
    Properties:
      { Type: String, Value: "CODE", Description: !Sub "${BothRuntimes}${OriginSecretArn}${CorsOrigins}" }
Outputs:
  ApiUrl: { Value: "http://127.0.0.1/" }
  DocumentsBucketName: { Value: orders-documents }
  LambdaOriginDomain: { Condition: UseLambda, Value: lambda.example.com }
  FargateOriginDomain: { Condition: UseFargate, Value: fargate.example.com }
"""
LOAD_BALANCER = """
Resources:
  LoadBalancer:
    Type: AWS::ElasticLoadBalancingV2::LoadBalancer
    Properties:
      Subnets: [subnet-1, subnet-2]
      LoadBalancerAttributes: [{ Key: deletion_protection.enabled, Value: "true" }]
"""
NESTED = "  Stack:\n    Properties:\n      TemplateURL: {}\n"
EDGE = """
Parameters: { ActiveOrigin: { Type: String } }
Resources:
  Distribution: { Type: AWS::SSM::Parameter, Properties: { Type: String, Value: !Ref ActiveOrigin } }
Outputs:
  ActiveOrigin: { Value: !Ref ActiveOrigin }
  EdgeUrl: { Value: "https://edge.example.com" }
"""


class Session:
    """A boto3 session of the emulator: an account's root, or the role whose keys are given."""

    def __init__(self, endpoint: str, account: str = ACCOUNT, keys: Mapping[str, str] | None = None) -> None:
        self.endpoint, self._who = endpoint, (endpoint, account, keys)
        self.calls: list[str] = []
        self.regions: dict[str, set[str | None]] = defaultdict(set)

    def client(self, service: str, region_name: str | None = None) -> Any:
        endpoint, account, keys = self._who
        self.regions[service].add(region_name)
        made = client(endpoint, account, service, keys)
        made.meta.events.register("before-call", lambda model, **_: self.calls.append(model.name))
        return made


class Rig:
    """The commands, with artifacts named after what the code says."""

    def __init__(self, session: Session, environ: Mapping[str, str]) -> None:
        self.session, self.delivery = session, Delivery(session, environ, poll=0.05)

    def artifact(self, code: str, stage: str = "dev", template: str = TEMPLATE) -> str:
        """Keep an artifact as `package` does; return its name."""
        key = f"{code}-{zlib.crc32(template.encode())}"  # nothing is kept twice
        return self.delivery.artifacts(stage).keep(key, template.replace("CODE", code), f"1.0.{code}")

    def deploy(self, code: str, stage: str = "dev", *extra: str, template: str = TEMPLATE) -> None:
        self.delivery.deploy(stage, self.artifact(code, stage, template), extra)

    def client(self, service: str) -> Any:
        return self.session.client(service)

    def status(self, stage: str = "dev") -> str | None:
        return self.delivery.stack(stack_name("orders", stage)).status()

    def outputs(self, stage: str = "dev") -> dict[str, str]:
        return self.delivery.stack(stack_name("orders", stage)).outputs()

    def code(self, stage: str = "dev") -> str:
        """Return what runs."""
        name = self.outputs(stage)["CodeName"]
        return str(self.client("ssm").get_parameter(Name=name)["Parameter"]["Value"])

    def place(self, stage: str = "dev") -> None:
        """Put an order and its receipt, in two versions, into the stack; and something to throw away."""
        out = self.outputs(stage)
        self.client("dynamodb").put_item(TableName=out["TableName"], Item={"pk": {"S": "order#1"}})
        for body in (b"first", b"second"):
            self.client("s3").put_object(Bucket=out["BucketName"], Key="receipts/1.html", Body=body)
            self.client("s3").put_object(Bucket=out["ScratchName"], Key="scratch", Body=body)

    def left_behind(self, stage: str) -> dict[str, str]:
        """Return what a failed creation retains, by logical id."""
        return {
            k.logical_id: k.physical_id
            for k in self.delivery._retained(self.delivery.stack(f"orders-{stage}"))
        }

    def edge(self, stage: str, origin: str) -> None:
        """Put a CDN before the stage, or point it to another origin."""
        stack = self.delivery.stack(f"orders-{stage}-edge")
        stack.apply("UPDATE" if stack.status() else "CREATE", EDGE, {"ActiveOrigin": origin})

    def switch_edge(self, stage: str, origin: str) -> None:
        """Send requests to another origin, as `make switch` does."""
        orders = self.outputs(stage)
        stack = self.delivery.stack(f"orders-{stage}-edge")
        given = {
            "ActiveOrigin": origin,
            **{
                name: orders[name]
                for name in ("LambdaOriginDomain", "FargateOriginDomain", "DocumentsBucketName")
            },
        }
        stack.apply("UPDATE", stack.template(), given)

    def orders(self, table: str) -> int:
        return int(self.client("dynamodb").scan(TableName=table)["Count"])

    def exists(self, bucket: str) -> bool:
        return bucket in {b["Name"] for b in self.client("s3").list_buckets()["Buckets"]}

    def tables(self, stage: str) -> list[str]:
        names = self.client("dynamodb").list_tables()["TableNames"]
        return [name for name in names if name.startswith(f"{stack_name('orders', stage)}-")]


@pytest.fixture
def rig(bare_aws: Emulator) -> Rig:
    session = Session(bare_aws.endpoint)
    session.client("s3").create_bucket(Bucket="orders-artifacts")
    environ = {"ARTIFACT_BUCKET": "orders-artifacts", "IMAGE_REPOSITORY": "registry/orders"}
    return Rig(session, environ)


@pytest.fixture
def stage(request: pytest.FixtureRequest) -> str:
    """A stage of the test's own."""
    return f"t{zlib.crc32(request.node.nodeid.encode())}"


class TestDeploy:
    def test_the_first_makes_the_stack_and_guards_it(self, rig: Rig, stage: str) -> None:
        rig.deploy("a", stage)
        assert rig.status(stage) == "CREATE_COMPLETE"
        assert rig.code(stage) == "a"
        found = rig.client("cloudformation").get_stack_policy(StackName=f"orders-{stage}")
        denied = json.loads(found["StackPolicyBody"])["Statement"][1]["Resource"]
        assert "LogicalResourceId/OrdersTable" in denied
        assert "LogicalResourceId/Code" not in denied

    def test_without_a_change_it_is_skipped(
        self, rig: Rig, stage: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        rig.deploy("a", stage)
        before = rig.delivery.stack(f"orders-{stage}").describe()
        capsys.readouterr()
        rig.deploy("a", stage)
        assert "nothing to do" in capsys.readouterr().out
        after = rig.delivery.stack(f"orders-{stage}").describe()
        assert before is not None
        assert after is not None
        assert before.get("LastUpdatedTime") == after.get("LastUpdatedTime")
        assert len(rig.delivery.records(stage)) == 1

    def test_the_same_in_other_words_is_skipped_by_cloudformation(
        self, rig: Rig, stage: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        rig.deploy("a", stage)
        capsys.readouterr()
        rig.deploy("a", stage, template=TEMPLATE + "\n# a comment\n")
        assert "nothing to change" in capsys.readouterr().out
        assert len(rig.delivery.records(stage)) == 1

    def test_changed_code_rolls_out(self, rig: Rig, stage: str) -> None:
        rig.deploy("a", stage)
        rig.place(stage)
        rig.deploy("b", stage)
        assert rig.status(stage) == "UPDATE_COMPLETE"
        assert rig.code(stage) == "b"
        assert rig.orders(rig.outputs(stage)["TableName"]) == 1

    def test_a_changed_parameter_rolls_out(self, rig: Rig, stage: str) -> None:
        rig.deploy("a", stage)
        rig.deploy("a", stage, "Runtime=fargate")
        assert rig.status(stage) == "UPDATE_COMPLETE"
        assert [r.parameters["Runtime"] for r in rig.delivery.records(stage)] == ["lambda", "fargate"]
        rig.deploy("a", stage)  # nothing is remembered
        assert rig.delivery.records(stage)[-1].parameters["Runtime"] == "lambda"

    def test_a_failed_first_one_is_cleaned_by_the_next(
        self, rig: Rig, stage: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(CliError, match="Failure"):
            rig.deploy("a", stage, "Broken=true")
        assert rig.status(stage) == "ROLLBACK_COMPLETE"
        assert rig.delivery.records(stage) == []
        assert len(rig.tables(stage)) == 1
        capsys.readouterr()
        rig.deploy("a", stage)
        said = capsys.readouterr().out
        for what in ("OrdersTable", "DocumentsBucket", "AccessLogsBucket", "DataKey"):
            assert re.search(rf"{what} \(.*\): (removed|gone in 7 days)", said), (
                "what it left, empty, goes too"
            )
        assert rig.status(stage) == "CREATE_COMPLETE"
        assert rig.tables(stage) == [rig.outputs(stage)["TableName"]]

    def test_a_log_is_no_data(self, rig: Rig, stage: str) -> None:
        """Turning on a load balancer's log writes a first object, before any request."""
        with pytest.raises(CliError, match="Failure"):
            rig.deploy("a", stage, "Broken=true")
        left = rig.left_behind(stage)
        rig.client("s3").put_object(
            Bucket=left["AccessLogsBucket"], Key="load-balancer/AWSLogs/1/ELBAccessLogTestFile", Body=b"1"
        )
        rig.deploy("a", stage)
        assert rig.status(stage) == "CREATE_COMPLETE"
        assert not rig.exists(left["AccessLogsBucket"])

    def test_a_rollback_that_a_log_stopped_is_cleaned_up(
        self, rig: Rig, stage: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """ROLLBACK_FAILED: CloudFormation deletes no bucket that holds something, here a first object."""
        with pytest.raises(CliError, match="Failure"):
            rig.deploy("a", stage, "Broken=true")
        logs = rig.left_behind(stage)["AccessLogsBucket"]
        rig.client("s3").put_object(Bucket=logs, Key="AWSLogs/1/ELBAccessLogTestFile", Body=b"1")
        status, resources, skipped = Stack.status, Stack.resources, Stack.skipped

        def failed(of: Stack) -> bool:
            return status(of) == "ROLLBACK_COMPLETE"

        def left(of: Stack) -> list[dict[str, Any]]:
            bucket = {"ResourceType": "AWS::S3::Bucket", "LogicalResourceId": "AccessLogsBucket"}
            there = bucket | {"PhysicalResourceId": logs, "ResourceStatus": "DELETE_FAILED"}
            return [there] if failed(of) else resources(of)

        monkeypatch.setattr(Stack, "status", lambda of: "ROLLBACK_FAILED" if failed(of) else status(of))
        monkeypatch.setattr(Stack, "resources", left)
        monkeypatch.setattr(Stack, "skipped", lambda of: [] if failed(of) else skipped(of))
        rig.deploy("a", stage)
        assert status(rig.delivery.stack(f"orders-{stage}")) == "CREATE_COMPLETE"
        assert not rig.exists(logs)

    @pytest.mark.parametrize("where", ["table", "bucket", "unknown"])
    def test_a_failed_first_one_that_holds_data_is_left_alone(
        self, rig: Rig, stage: str, where: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(CliError):
            rig.deploy("a", stage, "Broken=true")
        left = rig.left_behind(stage)
        assert set(left) == {"OrdersTable", "DocumentsBucket", "AccessLogsBucket", "DataKey"}
        if where == "table":
            rig.client("dynamodb").put_item(TableName=left["OrdersTable"], Item={"pk": {"S": "order#1"}})
        elif where == "bucket":
            rig.client("s3").put_object(Bucket=left["DocumentsBucket"], Key="receipts/1.html", Body=b"1")
        else:  # no right to look
            denied = ClientError({"Error": {"Code": "AccessDeniedException"}}, "Scan")
            monkeypatch.setattr(Data, "_table_holds", lambda *_: (_ for _ in ()).throw(denied))
        with pytest.raises(CliError, match="left alone"):
            rig.deploy("a", stage)
        assert rig.status(stage) == "ROLLBACK_COMPLETE"

    def test_a_failed_update_is_kept_with_its_data_and_fixed(self, rig: Rig, stage: str) -> None:
        rig.deploy("a", stage)
        rig.place(stage)
        table = rig.outputs(stage)["TableName"]
        with pytest.raises(CliError, match="Failure"):
            rig.deploy("b", stage, "Broken=true")
        assert rig.status(stage) == "UPDATE_ROLLBACK_COMPLETE"
        assert rig.code(stage) == "a"
        assert rig.orders(table) == 1
        rig.deploy("b", stage)
        assert rig.code(stage) == "b"
        assert rig.outputs(stage)["TableName"] == table
        assert rig.orders(table) == 1

    @pytest.mark.parametrize(
        ("reason", "names"),
        [
            # https://github.com/aws/aws-cdk/issues/35540
            (
                'Resource handler returned message: "Version already exists: [arn:aws:lambda:eu-west-1:1:'
                "function:orders-dev-ApiFunction-1a:7]. Please modify the function to create a new version. "
                '(Service: Lambda, Status Code: 409, Request ID: aa44)" (HandlerErrorCode: AlreadyExists)',
                "orders-dev-ApiFunction-1a --qualifier 7`",
            ),
            # https://github.com/aws-samples/siem-on-amazon-opensearch-service/issues/261
            (
                "A version for this Lambda function exists ( 7 ). Modify the function to create a new "
                "version.",
                "orders-dev-ApiFunction-1a --qualifier 7`",
            ),
            ("Resource limit exceeded", ""),
        ],
    )
    def test_a_version_that_a_rollback_left_is_named(self, reason: str, names: str) -> None:
        """As older templates let it; those of today delete the version."""
        version = {"ResourceType": "AWS::Lambda::Version", "LogicalResourceId": "ApiFunctionVersion0a1b2c"}
        function = {"ResourceType": "AWS::Lambda::Function", "LogicalResourceId": "ApiFunction"}

        class CloudFormation:
            done = False

            def __getattr__(self, name: str) -> Callable[..., dict[str, Any]]:
                return lambda **_: {"Status": "CREATE_COMPLETE"}

            def execute_change_set(self, **_: str) -> None:
                self.done = True

            def describe_stacks(self, **_: str) -> dict[str, Any]:
                return {"Stacks": [{"StackId": "s", "StackStatus": "UPDATE_ROLLBACK_COMPLETE"}]}

            def get_paginator(self, name: str) -> Any:
                failed = {"ResourceStatus": "CREATE_FAILED", "ResourceStatusReason": reason, "EventId": "1"}
                events = [{"StackId": "s", **version, **failed}] if self.done else []
                made = {
                    "PhysicalResourceId": "orders-dev-ApiFunction-1a",
                    "ResourceStatus": "UPDATE_COMPLETE",
                }
                pages = {"StackEvents": events, "StackResourceSummaries": [function | made]}
                return SimpleNamespace(paginate=lambda **_: [pages])

        with pytest.raises(CliError, match="UPDATE_ROLLBACK_COMPLETE") as failed:
            Stack(CloudFormation(), "orders-dev", lambda _: None, poll=0).apply("UPDATE", "", {})
        assert ("aws lambda delete-function" in str(failed.value)) == bool(names)
        assert names in str(failed.value)

    def test_an_artifact_that_is_not_there_is_rejected(self, rig: Rig, stage: str) -> None:
        with pytest.raises(CliError, match="no artifact"):
            rig.delivery.deploy(stage, "f" * 32, [])
        assert rig.status(stage) is None

    def test_an_unknown_parameter_is_rejected_before_anything_is_done(self, rig: Rig, stage: str) -> None:
        with pytest.raises(CliError, match="Runtme"):
            rig.deploy("a", stage, "Runtme=fargate")
        assert rig.status(stage) is None


class TestPromotion:
    def test_prod_runs_what_dev_ran(self, rig: Rig, stage: str) -> None:
        key = rig.artifact("a")
        rig.delivery.deploy(stage, key, [])
        second = f"{stage}2"
        rig.delivery.deploy(second, key, ["LogRetentionDays=365"])
        stacks = [rig.delivery.stack(f"orders-{s}") for s in (stage, second)]
        assert stacks[0].template() == stacks[1].template()

    def test_previews_cannot_reach_what_prod_deploys(self, rig: Rig) -> None:
        rig.artifact("only-a-preview", "preview1")
        with pytest.raises(CliError, match="no artifact"):
            rig.delivery.deploy("prod", f"only-a-preview@{'0' * 64}", [])


class TestRollback:
    def test_goes_back_to_what_ran_before_with_its_parameters(self, rig: Rig, stage: str) -> None:
        rig.deploy("a", stage, "LogRetentionDays=3")
        rig.deploy("b", stage)
        rig.place(stage)
        rig.delivery.rollback(stage)
        assert rig.code(stage) == "a"
        assert rig.delivery.records(stage)[-1].parameters["LogRetentionDays"] == "3"
        assert rig.orders(rig.outputs(stage)["TableName"]) == 1
        with pytest.raises(CliError, match="no earlier"):
            rig.delivery.rollback(stage)


class TestDestroy:
    def test_keeps_the_data_and_says_what_it_costs(
        self, rig: Rig, stage: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        rig.deploy("a", stage)
        rig.place(stage)
        out = rig.outputs(stage)
        rig.delivery.destroy(stage, yes=True, data=False)
        assert rig.status(stage) is None
        assert rig.orders(out["TableName"]) == 1
        assert rig.exists(out["BucketName"])
        assert not rig.exists(out["ScratchName"]), "a versioned bucket that is not kept is emptied first"
        said = capsys.readouterr().out
        assert "Retained:" in said
        for name in (out["TableName"], out["BucketName"], "$1.00 a month"):
            assert name in said

    def test_removes_the_data_when_asked(
        self, rig: Rig, stage: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rig.deploy("a", stage)
        rig.place(stage)
        out = rig.outputs(stage)
        # As a queue does: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_DeleteQueue.html
        monkeypatch.setattr(Data, "stand", lambda *_: True)  # for a minute after it was deleted
        rig.delivery.destroy(stage, yes=True, data=True)
        assert rig.status(stage) is None
        assert rig.tables(stage) == []
        assert not rig.exists(out["BucketName"])
        said = capsys.readouterr().out
        assert "gone in 7 days" in said
        assert "An earlier" not in said

    @pytest.mark.parametrize(("typed", "goes"), [("orders-{}", True), ("yes", False), (None, False)])
    def test_asks_for_the_name(
        self, rig: Rig, stage: str, monkeypatch: pytest.MonkeyPatch, typed: str | None, goes: bool
    ) -> None:
        rig.deploy("a", stage)
        monkeypatch.setattr(destroy, "ask", lambda _: typed.format(stage) if typed else None)
        if goes:
            rig.delivery.destroy(stage, yes=False, data=False)
        else:
            with pytest.raises(CliError, match="nothing was done"):
                rig.delivery.destroy(stage, yes=False, data=False)
        assert (rig.status(stage) is None) == goes

    def test_production_asks_is_protected_and_keeps_its_data(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rig.deploy("a", "prod")
        rig.place("prod")
        out = rig.outputs("prod")
        described = rig.delivery.stack("orders-prod").describe()
        assert described is not None
        assert described["EnableTerminationProtection"]
        for rejected in ({"yes": True, "data": False}, {"yes": False, "data": True}):
            monkeypatch.setattr(destroy, "ask", lambda _: "orders-prod")
            with pytest.raises(CliError, match="not for production"):
                rig.delivery.destroy("prod", **rejected)
        rig.delivery.destroy("prod", yes=False, data=False)
        assert rig.status("prod") is None
        assert rig.orders(out["TableName"]) == 1

    def test_productions_load_balancer_is_let_go_first(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """CloudFormation deletes none that is protected, neither with the stack nor in an update."""
        rig.client("s3").put_object(Bucket="orders-artifacts", Key="front.yaml", Body=LOAD_BALANCER.encode())
        url = f"{rig.client('s3').meta.endpoint_url}/orders-artifacts/front.yaml"
        front = (
            f"  FargateStack: {{ Type: AWS::CloudFormation::Stack, Properties: {{ TemplateURL: '{url}' }} }}"
        )
        both = TEMPLATE.replace("Resources:", f"Resources:\n{front}")
        calls = rig.session.calls

        def done() -> list[str]:
            relevant = {"ModifyLoadBalancerAttributes", "ExecuteChangeSet", "DeleteStack"}
            found = [call for call in calls if call in relevant]
            calls.clear()
            return found

        rig.deploy("a", "prod", "Runtime=fargate", template=both)
        rig.deploy("b", "prod", "Runtime=fargate", template=both)
        assert done() == ["ExecuteChangeSet"] * 2
        rig.deploy("c", "prod", "Runtime=lambda")
        assert done() == ["ModifyLoadBalancerAttributes", "ExecuteChangeSet"]
        rig.deploy("d", "prod", "Runtime=fargate", template=both)
        done()
        monkeypatch.setattr(destroy, "ask", lambda _: "orders-prod")
        rig.delivery.destroy("prod", yes=False, data=False)
        assert done() == ["ModifyLoadBalancerAttributes", "DeleteStack"]

    def test_a_load_balancer_that_could_not_be_deleted_is_found_again(self) -> None:
        def resource(kind: str, name: str, status: str) -> dict[str, str]:
            return {"ResourceType": kind, "PhysicalResourceId": name, "ResourceStatus": status}

        nested, balancer = "AWS::CloudFormation::Stack", "AWS::ElasticLoadBalancingV2::LoadBalancer"
        stacks = {
            "orders-prod": [
                resource(nested, "front", "DELETE_FAILED"),
                resource(nested, "monitoring", "DELETE_COMPLETE"),
            ],
            "front": [
                resource(balancer, "kept", "DELETE_FAILED"),
                resource(balancer, "gone", "DELETE_COMPLETE"),
            ],
        }

        class CloudFormation:
            def get_paginator(self, _: str) -> CloudFormation:
                return self

            def paginate(self, StackName: str) -> list[dict[str, Any]]:  # noqa: N803
                return [{"StackResourceSummaries": stacks[StackName]}]

        assert Stack(CloudFormation(), "orders-prod", print).load_balancers() == ["kept"]

    def test_what_is_not_there_needs_no_destroying(
        self, rig: Rig, stage: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for data in (False, True):
            rig.delivery.destroy(stage, yes=True, data=data)
            assert capsys.readouterr().out == f"there is no stack orders-{stage}, and nothing left of it\n"

    def test_one_that_was_only_reviewed_goes(
        self, rig: Rig, stage: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rig.client("cloudformation").create_change_set(
            StackName=f"orders-{stage}", ChangeSetName="x", ChangeSetType="CREATE", TemplateBody=LOAD_BALANCER
        )
        assert rig.status(stage) == "REVIEW_IN_PROGRESS"

        def none(_: Stack) -> str:
            """Answer as AWS does of a template that it does not have."""
            raise ClientError({"Error": {"Code": "ValidationError", "Message": "none"}}, "GetTemplate")

        monkeypatch.setattr(Stack, "template", none)
        rig.delivery.destroy(stage, yes=True, data=True)
        assert rig.status(stage) is None

    def test_a_deletion_under_way_is_waited_for(
        self, rig: Rig, stage: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """For example that of an interrupted run: the stack gets no call until it is deleted."""
        rig.deploy("a", stage)
        describe, wait, deleting = Stack.describe, Stack.wait, iter([True] * 3)

        def under_way(stack: Stack) -> dict[str, Any] | None:
            found = describe(stack)
            going = found and stack.name == f"orders-{stage}" and next(deleting, False)
            return found | {"StackStatus": "DELETE_IN_PROGRESS"} if found and going else found

        stage_stack = rig.delivery.stack(f"orders-{stage}")

        def ends(stack: Stack, seen: set[str] | None = None) -> str | None:
            if seen is None:
                monkeypatch.setattr(Stack, "describe", describe)
                stage_stack.delete()
            return wait(stack, seen)

        monkeypatch.setattr(Stack, "describe", under_way)
        monkeypatch.setattr(Stack, "wait", ends)
        rig.session.calls.clear()
        rig.delivery.destroy(stage, yes=True, data=True)
        assert rig.session.calls.count("DeleteStack") == 1
        assert rig.tables(stage) == []

    def test_what_was_kept_can_be_removed_later(
        self, rig: Rig, stage: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By what CloudFormation says of a stack that is gone: it says so for 90 days."""
        rig.deploy("a", stage)
        rig.place(stage)
        out = rig.outputs(stage)
        rig.delivery.destroy(stage, yes=True, data=False)
        capsys.readouterr()
        rig.delivery.destroy(stage, yes=True, data=False)
        said = capsys.readouterr().out
        assert re.search(rf"^orders-{stage}, deleted [-0-9]+ [:0-9]+, left:$", said, re.MULTILINE)
        assert f"{out['TableName']}  table of" in said, "with what it costs"
        monkeypatch.setattr(destroy, "ask", lambda _: "no")
        with pytest.raises(CliError, match="nothing was done"):
            rig.delivery.destroy(stage, yes=False, data=True)
        assert rig.orders(out["TableName"]) == 1
        rig.delivery.destroy(stage, yes=True, data=True)
        assert rig.tables(stage) == []
        assert not rig.exists(out["BucketName"])

    def test_data_that_an_earlier_stack_kept_is_not_that_of_the_one_that_stands(
        self, rig: Rig, stage: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rig.deploy("a", stage)
        rig.place(stage)
        first = rig.outputs(stage)
        rig.delivery.destroy(stage, yes=True, data=False)
        # CloudFormation remembers all stacks of a name, the emulator one.
        gone, skipped = Delivery._gone, Stack.skipped
        earlier = next(s for s in rig.delivery._gone() if s["StackName"] == f"orders-{stage}")
        kept = rig.delivery.stack(f"orders-{stage}").skipped(earlier["StackId"])
        rig.deploy("a", stage)
        monkeypatch.setattr(
            Delivery,
            "_gone",
            lambda self: [*(s for s in gone(self) if s["StackId"] != earlier["StackId"]), earlier],
        )
        monkeypatch.setattr(
            Stack,
            "skipped",
            lambda self, by="": kept if by == earlier["StackId"] else skipped(self, by),
        )
        for _ in ("of the one that stands", "of one that is gone"):
            capsys.readouterr()
            rig.delivery.destroy(stage, yes=True, data=True)
            assert rig.exists(first["BucketName"]), "nobody was asked, and it may be kept on purpose"
            assert "An earlier" in capsys.readouterr().out
        monkeypatch.setattr(destroy, "ask", lambda _: f"orders-{stage}")
        rig.delivery.destroy(stage, yes=False, data=True)
        assert f"And all that orders-{stage}, deleted 2" in capsys.readouterr().out
        assert not rig.exists(first["BucketName"])

    def test_an_edge_and_its_web_acl_go_first(
        self, rig: Rig, stage: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        rig.deploy("a", stage, template=ORIGINS)
        rig.delivery.deploy_cdn(stage, [])
        logs = next(
            r["PhysicalResourceId"]
            for r in rig.delivery.stack(f"orders-{stage}-edge").resources()
            if r["LogicalResourceId"] == "LogsBucket"
        )
        rig.client("s3").put_object(Bucket=logs, Key="E1.2026-11-30-12.gz", Body=b"1")
        capsys.readouterr()
        rig.delivery.destroy(stage, yes=True, data=True)
        said = capsys.readouterr().out
        gone = re.findall(r"^(\S+) is gone$", said, re.MULTILINE)
        assert gone[0] == f"orders-{stage}-edge"
        assert gone[1].startswith(f"orders-{stage}-waf")
        assert gone[2] == f"orders-{stage}"
        assert all(name in said.splitlines()[0] for name in gone), "it says so before it begins"
        assert not rig.exists(logs)

    @pytest.mark.parametrize(("rejections", "goes"), [(2, True), (99, False)])
    def test_a_web_acl_that_is_still_associated_is_waited_for(
        self, rig: Rig, stage: str, monkeypatch: pytest.MonkeyPatch, rejections: int, goes: bool
    ) -> None:
        """And if it stays, the others go all the same."""
        # As CloudFormation passes on what WAF says: without the name of the exception.
        reason = (
            'Resource handler returned message: "AWS WAF couldn\u2019t perform the operation because your '
            "resource is being used by another resource or it\u2019s associated with another resource. "
            '(Service: Wafv2, Status Code: 400, Request ID: 1)" (HandlerErrorCode: GeneralServiceException)'
        )
        name = f"orders-{stage}-waf-us-east-1"
        rig.deploy("a", stage, template=ORIGINS)
        rig.delivery.stack(name, "us-east-1").apply("CREATE", EDGE, {"ActiveOrigin": "x"})
        delete, rejected = Stack.delete, iter(range(rejections))

        def associated(stack: Stack) -> None:
            if stack.name == name and next(rejected, None) is not None:
                raise CliError(f"{name} is DELETE_FAILED: WebAcl: {reason}")
            delete(stack)

        with monkeypatch.context() as patch:
            patch.setattr(Stack, "delete", associated)
            patch.setattr(destroy.time, "sleep", lambda _: None)
            if goes:
                rig.delivery.destroy(stage, yes=True, data=True)
            else:
                with pytest.raises(CliError, match=f"not removed: {name}; `make destroy` again"):
                    rig.delivery.destroy(stage, yes=True, data=True)
        assert rig.status(stage) is None
        rig.delivery.destroy(stage, yes=True, data=True)
        assert rig.delivery.stack(name, "us-east-1").status() is None

    def test_a_web_acl_that_another_regions_edge_may_have_is_left(self, rig: Rig, stage: str) -> None:
        """Its stack was once named after no region."""
        rig.deploy("a", stage, template=ORIGINS)
        old = rig.delivery.stack(f"orders-{stage}-waf", "us-east-1")
        old.apply("CREATE", EDGE, {"ActiveOrigin": "x"})
        rig.delivery.destroy(stage, yes=True, data=True)
        assert old.status() == "CREATE_COMPLETE"
        old.delete()

    def test_outside_of_the_aws_partition_nobody_asks_us_east_1(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Credentials of China or GovCloud are rejected there."""
        regions: set[str | None] = set()

        class China:
            def client(self, service: str, region_name: str | None = None) -> Any:
                regions.add(region_name)
                return SimpleNamespace(meta=SimpleNamespace(partition="aws-cn", region_name="cn-north-1"))

        monkeypatch.setattr(Stack, "describe", lambda _: None)
        monkeypatch.setattr(Delivery, "_gone", lambda _: [])
        Delivery(China(), {}).destroy("dev", yes=True, data=True)
        monkeypatch.setattr(Stack, "describe", lambda _: {"StackStatus": "CREATE_COMPLETE"})
        monkeypatch.setattr(Stack, "drifted", lambda _: [])
        Delivery(China(), {}).drift("dev")
        assert regions == {None}

    def test_a_role_that_is_gone_comes_with_the_command(self) -> None:
        """CloudFormation deletes as the role of the last deployment, which goes with the bootstrap."""

        class CloudFormation:
            def describe_stacks(self, **_: str) -> dict[str, Any]:
                return {"Stacks": [{"StackId": "s", "StackStatus": "CREATE_COMPLETE"}]}

            def get_paginator(self, _: str) -> Any:
                return SimpleNamespace(paginate=lambda **_: [{"StackEvents": []}])

            def delete_stack(self, **_: str) -> None:
                message = "Role arn:aws:iam::1:role/gone is invalid or cannot be assumed"
                raise ClientError({"Error": {"Code": "ValidationError", "Message": message}}, "DeleteStack")

        with pytest.raises(CliError, match="delete-stack --stack-name orders-dev --role-arn"):
            Stack(CloudFormation(), "orders-dev", print, poll=0).delete()


class TestEdge:
    def test_the_workflow_is_told_the_cdn(self, rig: Rig, stage: str, tmp_path: Any) -> None:
        """Behind a CDN the API answers 403 to everyone else, a smoke test too."""
        outputs = tmp_path / "outputs"
        told = Rig(rig.session, {"ARTIFACT_BUCKET": "orders-artifacts", "GITHUB_OUTPUT": str(outputs)})
        told.deploy("a", stage)
        assert "api_url=http://127.0.0.1/" in outputs.read_text()
        told.edge(stage, "lambda")
        told.deploy("b", stage)
        assert outputs.read_text().splitlines()[-2:] == ["api_url=https://edge.example.com", "changed=true"]

    def test_what_it_sends_requests_to_is_not_taken_away(self, rig: Rig, stage: str) -> None:
        rig.deploy("a", stage)
        rig.deploy("b", stage, "BothRuntimes=true")
        rig.edge(stage, "fargate")
        with pytest.raises(CliError, match="make switch"):
            rig.deploy("c", stage)
        with pytest.raises(CliError, match="Runtime=fargate"):
            rig.delivery.rollback(stage)
        assert rig.code(stage) == "b"
        rig.deploy("c", stage, "Runtime=fargate")
        assert rig.code(stage) == "c"
        rig.edge(stage, "lambda")
        with pytest.raises(CliError, match="Runtime=lambda"):
            rig.deploy("d", stage, "Runtime=fargate")


class TestPackage:
    """Without Docker: `sam build` and `docker push` stand for themselves, the registry is the emulator's."""

    SOURCES = "f" * 32

    @pytest.fixture
    def package(self, rig: Rig, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
        ecr = rig.client("ecr")
        name = f"images-{tmp_path.name[-20:].lower().replace('_', '-')}"
        uri = ecr.create_repository(repositoryName=name, imageTagMutability="IMMUTABLE")["repository"][
            "repositoryUri"
        ]
        built = tmp_path / ".aws-sam/build/template.yaml"
        functions = "".join(f"  F{n}:\n    Properties:\n      ImageUri: f1:orders\n" for n in range(4))

        def sam(*words: str) -> None:
            assert words[0] == "build"
            for folder, nested in {"Front": "Network", "Front/Network": ""}.items():
                path = built.parent / folder / "template.yaml"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(f"# {folder}\n" + NESTED.format(f"{nested}/template.yaml") * bool(nested))
            front = NESTED.format("Front/template.yaml")
            built.write_text(f"Resources:\n{functions}{front}Outputs:\n  ImageUri:\n    Value: x\n")

        def docker(*words: str, put: str = "") -> None:
            self.docker.append(words[0])
            if words[0] == "login":
                assert put
            if words[0] == "push":
                tag = words[1].removeprefix(f"{uri}:")
                if ecr.batch_get_image(repositoryName=name, imageIds=[{"imageTag": tag}])["images"]:
                    raise CliError("immutable")  # as ECR says, and the emulator does not
                manifest = json.dumps({"schemaVersion": 2, "pushed": len(self.docker)})
                ecr.put_image(repositoryName=name, imageTag=tag, imageManifest=manifest)

        self.docker: list[str] = []
        monkeypatch.setattr(artifact, "ROOT", tmp_path)
        monkeypatch.setattr(artifact, "_sam", sam)
        monkeypatch.setattr(artifact, "_docker", docker)
        monkeypatch.setattr(artifact, "source_key", lambda **_: self.SOURCES)
        self.s3 = rig.client("s3")
        artifacts = self.artifacts = Artifacts(rig.client("s3"), ecr, "orders-artifacts", uri, name)
        return lambda force=False: artifacts.package(
            "1.0.0", lambda _: None, architecture="x86_64", force=force
        )[0]

    def images(self, name: str) -> set[str]:
        found = re.findall(r"ImageUri: (\S+)", self.artifacts.verified(name)[1])
        assert len(found) == 4
        return set(found)

    def stored(self, name: str) -> dict[str, bytes]:
        """Return the files of an artifact by name."""
        prefix = f"{self.artifacts.prefix}/{name.partition('@')[0]}/"
        listed = self.s3.list_objects_v2(Bucket="orders-artifacts", Prefix=prefix)["Contents"]
        return {
            o["Key"].removeprefix(prefix): self.s3.get_object(Bucket="orders-artifacts", Key=o["Key"])[
                "Body"
            ].read()
            for o in listed
        }

    def test_the_image_is_pushed_once_and_named_by_digest(self, package: Callable[..., str]) -> None:
        name = package()
        assert name.startswith(f"{self.SOURCES}@")
        assert self.docker == ["login", "tag", "push"]
        (image,) = self.images(name)
        assert re.fullmatch(re.escape(self.artifacts.repository) + r"@sha256:[0-9a-f]{64}", image)
        assert json.loads(self.artifacts.verified(name)[0])["images"] == [image]
        assert package() == name
        assert self.docker == ["login", "tag", "push"], "unchanged sources push nothing"

    def test_nested_templates_lie_beside_it_under_their_hashes(self, package: Callable[..., str]) -> None:
        name = package()
        files = self.stored(name)
        (front,) = re.findall(rb"TemplateURL: (\S+)", files["template.yaml"])
        (network,) = re.findall(rb"TemplateURL: (\S+)", files[front.decode().rsplit("/", 1)[1]])
        assert files[network.decode().rsplit("/", 1)[1]] == b"# Front/Network\n"
        for file, body in files.items():
            if file.endswith(".template"):
                assert file == f"{hashlib.sha256(body).hexdigest()}.template"
        assert len(files) == 4

    def test_what_is_attested_is_the_manifest_and_the_image(
        self, package: Callable[..., str], tmp_path: Any
    ) -> None:
        name = package()
        (image,) = self.images(name)
        repository, _, digest = image.partition("@sha256:")
        lines = (tmp_path / artifact.SUBJECTS).read_text().splitlines()
        assert lines == [f"{name.partition('@')[2]}  release.json", f"{digest}  {repository}"]

    def test_what_an_earlier_try_pushed_is_left_alone(
        self, package: Callable[..., str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Who pushed it is not known, and what is kept is going to be attested."""

        def fails(*_: str) -> None:
            raise OSError("the network is gone")

        with monkeypatch.context() as patch:
            patch.setattr(Artifacts, "keep", fails)
            with pytest.raises(OSError, match="gone"):
                package()
        assert package().startswith(f"{self.SOURCES}-")
        assert self.docker == ["login", "tag", "push"] * 2

    def test_force_makes_another_and_leaves_what_runs(self, package: Callable[..., str]) -> None:
        first = package()
        images = self.images(first)
        second = package(force=True)
        assert second.startswith(f"{self.SOURCES}-")
        assert self.images(first) == images
        assert self.images(second) != images
        assert package() == second, "the newest of the sources"

    def test_nothing_is_kept_twice(self, package: Callable[..., str]) -> None:
        name = package()
        before, key = self.stored(name), name.partition("@")[0]
        with pytest.raises(CliError, match="there already, with other contents"):
            self.artifacts.keep(key, "Resources: {}", "1.0.1")
        assert self.stored(name) == before
        nested = {file: body.decode() for file, body in before.items() if file.endswith(".template")}
        again = self.artifacts.keep(key, before["template.yaml"].decode(), "1.0.0", "x86_64", nested)
        assert again == name, "a second try of the same"


class TestVerification:
    """What is deployed is what was built, byte by byte; and by the pipeline, if the pipeline deploys it."""

    NESTED = {"abc.template": "Resources: {}"}

    def kept(self, rig: Rig, stage: str) -> tuple[str, str]:
        """Return the name of an artifact of the test's own, and where it lies."""
        name = rig.delivery.artifacts(stage).keep(
            stage, TEMPLATE.replace("CODE", "a"), "1.0", nested=self.NESTED
        )
        return name, f"artifacts/{stage}"

    @pytest.mark.parametrize("file", ["template.yaml", "abc.template", "release.json"])
    @pytest.mark.parametrize("gone", [False, True])
    def test_a_tampered_artifact_is_rejected(self, rig: Rig, stage: str, file: str, gone: bool) -> None:
        name, place = self.kept(rig, stage)
        rig.client("s3").delete_object(Bucket="orders-artifacts", Key=f"{place}/{file}")
        if not gone:
            body = json.dumps({"architecture": "x86_64", "version": "1", "files": {}}).encode()
            rig.client("s3").put_object(Bucket="orders-artifacts", Key=f"{place}/{file}", Body=body)
        with pytest.raises(CliError, match=r"not what was built|no artifact"):
            rig.delivery.deploy(stage, name, [])
        assert rig.status(stage) is None

    def test_one_that_was_wholly_replaced_is_told_by_its_hash(self, rig: Rig, stage: str) -> None:
        name, place = self.kept(rig, stage)
        for file in ("template.yaml", "abc.template", "release.json"):
            rig.client("s3").delete_object(Bucket="orders-artifacts", Key=f"{place}/{file}")
        other = rig.delivery.artifacts(stage).keep(stage, TEMPLATE.replace("CODE", "evil"), "1.0")
        with pytest.raises(CliError, match="its hash is"):
            rig.delivery.deploy(stage, name, [])
        rig.delivery.deploy(stage, other, [])
        assert rig.code(stage) == "evil", "the control: by its own name it is deployed"

    def test_a_rollback_takes_what_was_recorded(self, rig: Rig, stage: str) -> None:
        name, place = self.kept(rig, stage)
        rig.delivery.deploy(stage, name.partition("@")[0], [])
        rig.deploy("b", stage)
        assert next(record.artifact for record in rig.delivery.records(stage)) == name
        rig.client("s3").put_object(Bucket="orders-artifacts", Key=f"{place}/release.json", Body=b"{}")
        with pytest.raises(CliError, match="its hash is"):
            rig.delivery.rollback(stage)

    @pytest.mark.parametrize("genuine", [True, False])
    def test_the_pipeline_asks_github_who_built_it(
        self, rig: Rig, stage: str, genuine: bool, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        name, _ = self.kept(rig, stage)
        workflow = "https://github.com/acme/orders/.github/workflows/deploy.yml@refs/heads/main"
        gh = tmp_path / "gh"
        gh.write_text(
            f'#!/bin/sh\nsha256sum "$3" > {tmp_path}/asked\nshift 3\necho "$@" >> {tmp_path}/asked\n'
            f"exit {0 if genuine else 1}\n"
        )
        gh.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        environ = {"ARTIFACT_BUCKET": "orders-artifacts", "ATTESTED_BY": workflow}
        pipeline = Rig(rig.session, environ | {"GITHUB_REPOSITORY": "acme/orders"})
        if genuine:
            pipeline.delivery.deploy(stage, name, [])
        else:
            with pytest.raises(CliError, match="no attestation that"):
                pipeline.delivery.deploy(stage, name, [])
        assert (rig.status(stage) is not None) == genuine
        asked = (tmp_path / "asked").read_text()
        assert asked.startswith(name.partition("@")[2]), (
            "about the manifest, which has all other hashes in it"
        )
        assert f"--repo acme/orders --cert-identity {workflow}" in asked


class TestDrift:
    def test_a_stage_without_a_stack_has_none(self, rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
        rig.delivery.drift("none")
        assert "nothing to compare" in capsys.readouterr().out

    def test_is_found_and_named(self, rig: Rig, stage: str, capsys: pytest.CaptureFixture[str]) -> None:
        rig.deploy("a", stage)
        rig.delivery.drift(stage)
        assert "as its templates say" in capsys.readouterr().out
        rig.client("ssm").put_parameter(Name=rig.outputs(stage)["CodeName"], Value="x", Overwrite=True)
        with pytest.raises(CliError, match="drifted in 1 resources"):
            rig.delivery.drift(stage)
        assert "Code (AWS::SSM::Parameter): modified /Value" in capsys.readouterr().out

    def test_every_page_counts_and_a_failed_search_is_an_error(self, rig: Rig) -> None:
        found = {"LogicalResourceId": "A", "ResourceType": "T", "StackResourceDriftStatus": "DELETED"}
        own = {"StackResourceSummaries": [found]}

        class CloudFormation:
            status = "DETECTION_COMPLETE"

            def get_paginator(self, _: str) -> Any:
                return SimpleNamespace(paginate=lambda **_: [own])

            def detect_stack_drift(self, **_: str) -> dict[str, str]:
                return {"StackDriftDetectionId": "1"}

            def describe_stack_drift_detection_status(self, **_: str) -> dict[str, str]:
                return {"DetectionStatus": self.status, "DetectionStatusReason": "no right to read"}

            def describe_stack_resource_drifts(self, NextToken: str = "", **_: Any) -> dict[str, Any]:  # noqa: N803
                return {"StackResourceDrifts": [found]} | ({} if NextToken else {"NextToken": "2"})

        fake = CloudFormation()
        stack = Stack(fake, "any", lambda _: None, poll=0)
        assert stack.drifted() == ["A (T): deleted"] * 2
        fake.status = "DETECTION_FAILED"
        with pytest.raises(CliError, match="no right to read"):
            stack.drifted()

    def test_an_environment_that_the_role_cannot_read_is_not_compared(self) -> None:
        """Lambda hides one that is encrypted with the stack's key; CloudFormation calls that a difference."""
        encrypted, plain = json.dumps({"KmsKeyArn": "k"}), json.dumps({"MemorySize": 1024})
        hidden, seen = {"PropertyPath": "/Environment/Variables"}, {"PropertyPath": "/MemorySize"}

        class CloudFormation:
            def get_paginator(self, _: str) -> Any:
                return SimpleNamespace(paginate=lambda **_: [{"StackResourceSummaries": []}])

            def detect_stack_drift(self, **_: Any) -> dict[str, str]:
                return {"StackDriftDetectionId": "1"}

            def describe_stack_drift_detection_status(self, **_: str) -> dict[str, str]:
                return {"DetectionStatus": "DETECTION_COMPLETE"}

            def describe_stack_resource_drifts(self, **_: Any) -> dict[str, Any]:
                drifts = [(encrypted, [hidden]), (encrypted, [hidden, seen]), (plain, [hidden])]
                function = {"LogicalResourceId": "F", "ResourceType": "AWS::Lambda::Function"}
                modified = {**function, "StackResourceDriftStatus": "MODIFIED"}
                return {
                    "StackResourceDrifts": [
                        {**modified, "ExpectedProperties": properties, "PropertyDifferences": differences}
                        for properties, differences in drifts
                    ]
                }

        assert Stack(CloudFormation(), "any", lambda _: None, poll=0).drifted() == [
            "F (AWS::Lambda::Function): modified /MemorySize",
            "F (AWS::Lambda::Function): modified /Environment/Variables",
        ]

    def test_the_edge_is_compared_but_for_its_secret(
        self, rig: Rig, stage: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        rig.deploy("a", stage, template=ORIGINS)
        rig.delivery.deploy_cdn(stage, [])
        capsys.readouterr()
        rig.delivery.drift(stage)
        name = f"orders-{stage}"
        assert capsys.readouterr().out.splitlines() == [
            f"{each} is as its templates say" for each in (name, f"{name}-edge", f"{name}-waf-us-east-1")
        ]
        secret = rig.delivery.stack(f"{name}-edge").outputs()["OriginSecretArn"]
        rig.client("secretsmanager").update_secret(SecretId=secret, Description="changed")
        rig.delivery.drift(stage)
        logs = rig.delivery.client("logs", "us-east-1")
        logs.put_retention_policy(logGroupName=f"aws-waf-logs-{name}-waf-us-east-1", retentionInDays=1)
        with pytest.raises(CliError, match="drifted in 1 resources"):
            rig.delivery.drift(stage)
        assert "(AWS::Logs::LogGroup): modified /RetentionInDays" in capsys.readouterr().out


class TestMakeEdge:
    """`make deploy-cdn`; tests/local/test_edge.py calls the API through what it makes."""

    def parameters(self, rig: Rig, stack: str) -> dict[str, str]:
        found = rig.delivery.stack(stack).describe()
        assert found is not None
        return parameters_of(found)

    def test_the_web_acl_comes_from_us_east_1_and_names_are_handed_over(
        self, rig: Rig, stage: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        rig.deploy("a", stage, template=ORIGINS)
        assert rig.session.regions["cloudformation"] == {None}
        rig.delivery.deploy_cdn(stage, ["Mode=count", "PriceClass=PriceClass_All", "LogRetentionDays=30"])
        assert rig.session.regions["cloudformation"] == {None, "us-east-1"}
        assert rig.session.regions["cloudfront"] == rig.session.regions["s3"] == {None}
        web_acl = rig.delivery.stack(f"orders-{stage}-waf-us-east-1")
        of_web_acl = self.parameters(rig, web_acl.name)
        assert (of_web_acl["Scope"], of_web_acl["Mode"]) == ("CLOUDFRONT", "count")
        edge = self.parameters(rig, f"orders-{stage}-edge")
        assert edge["WebAclArn"] == web_acl.outputs()["WebAclArn"]
        assert edge["LambdaOriginDomain"] == "lambda.example.com"
        assert (edge["FargateOriginDomain"], edge["ActiveOrigin"]) == ("", "lambda")
        assert (edge["PriceClass"], edge["LogRetentionDays"]) == ("PriceClass_All", "30")
        outputs = rig.delivery.stack(f"orders-{stage}-edge").outputs()
        said = capsys.readouterr().out
        assert f"OriginSecretArn={outputs['OriginSecretArn']} CorsOrigins={outputs['EdgeUrl']}" in said
        keys = rig.client("s3").list_objects_v2(Bucket=outputs["ConsoleBucketName"])["Contents"]
        assert "console/index.html" in {each["Key"] for each in keys}
        kept = [f"OriginSecretArn={outputs['OriginSecretArn']}", f"CorsOrigins={outputs['EdgeUrl']}"]
        rig.deploy("a", stage, *kept, template=ORIGINS)
        capsys.readouterr()
        rig.delivery.deploy_cdn(stage, ["Mode=count", "PriceClass=PriceClass_All", "LogRetentionDays=30"])
        said = capsys.readouterr().out
        assert said.count("nothing to change") == 2
        assert "OriginSecretArn" not in said

    def test_a_web_acl_of_an_earlier_release_is_left_and_said(
        self, rig: Rig, stage: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        rig.deploy("a", stage, template=ORIGINS)
        rig.delivery.deploy_cdn(stage, [])
        assert "another web ACL" not in capsys.readouterr().out
        edge = rig.delivery.stack(f"orders-{stage}-edge")
        old = "arn:aws:wafv2:us-east-1:111122223333:global/webacl/WebAcl-old/1"
        known = self.parameters(rig, edge.name) | {"WebAclArn": old}
        edge.apply("UPDATE", (ROOT / "edge" / "template.yaml").read_text(), known)
        rig.delivery.deploy_cdn(stage, [])
        assert f"orders-{stage}-waf in us-east-1.\n  That stack is left" in capsys.readouterr().out
        assert self.parameters(rig, edge.name)["WebAclArn"] != old

    def test_where_a_switch_sent_requests_they_stay(self, rig: Rig, stage: str) -> None:
        rig.deploy("a", stage, template=ORIGINS)
        rig.delivery.deploy_cdn(stage, [])
        rig.deploy("a", stage, "BothRuntimes=true", template=ORIGINS)
        rig.switch_edge(stage, "fargate")
        rig.delivery.deploy_cdn(stage, [])
        edge = self.parameters(rig, f"orders-{stage}-edge")
        assert (edge["ActiveOrigin"], edge["LambdaOriginDomain"]) == ("fargate", "lambda.example.com")

    def test_bad_input_changes_nothing(self, rig: Rig, stage: str) -> None:
        with pytest.raises(CliError, match="deploy it first"):
            rig.delivery.deploy_cdn(stage, [])
        rig.deploy("a", stage, template=ORIGINS)
        for pair, why in {
            "Nonsense=1": "has a parameter Nonsense",
            "Mode": "Name=value",
            "ActiveOrigin=fargate": "worked out",
            "WebAclArn=arn:x": "worked out",
            "FargateOriginDomain=x": "worked out",
            # What CloudFormation would reject of the CDN when its web ACL stands.
            "DomainName=orders.example.com": "DomainName and CertificateArn go together",
        }.items():
            with pytest.raises(CliError, match=why):
                rig.delivery.deploy_cdn(stage, [pair])
        assert rig.delivery.stack(f"orders-{stage}-waf-us-east-1").status() is None
        assert rig.delivery.stack(f"orders-{stage}-edge").status() is None


class TestJobs:
    """Each command with the rights of the job that runs it; the local AWS emulator enforces them."""

    def rig(self, made: Bootstrap, role: str, job: str) -> Rig:
        keys = made.client("sts").assume_role_with_web_identity(
            RoleArn=made.arn(role), RoleSessionName="job", WebIdentityToken=token(f"repo:acme/orders:{job}")
        )["Credentials"]
        return Rig(Session(made.endpoint, made.account, keys), {})

    def test_dev_prod_and_drift(self, by_cloudformation: dict[str, Bootstrap]) -> None:
        of_dev, of_prod = by_cloudformation["dev"], by_cloudformation["prod"]
        branch = "ref:refs/heads/main"
        dev, prod = self.rig(of_dev, "deploy", branch), self.rig(of_prod, "deploy", "environment:prod")
        first = dev.artifact("a")
        dev.delivery.deploy("dev", first, [])
        dev.deploy("b")
        dev.delivery.rollback("dev")
        assert Rig(Session(of_dev.endpoint, of_dev.account), {}).code() == "a"
        prod.delivery.deploy("prod", first, [])
        self.rig(of_prod, "drift", branch).delivery.drift("prod")
        dev.deploy("edged", template=ORIGINS)
        dev.delivery.deploy_cdn("dev", [])
        self.rig(of_dev, "drift", branch).delivery.drift("dev")
        for forbidden in (
            lambda: dev.delivery.deploy_cdn("prod", []),
            lambda: prod.artifact("c", "prod"),
            lambda: dev.delivery.deploy("prod", first, []),
            lambda: self.rig(of_dev, "drift", branch).delivery.drift("prod"),
        ):
            with pytest.raises(ClientError, match="not authorized"):
                forbidden()
        dev.delivery.destroy("dev", yes=True, data=True)
        assert dev.status("dev") is None

    def test_previews_and_the_clean_up(self, by_cloudformation: dict[str, Bootstrap]) -> None:
        made = by_cloudformation["preview"]
        rig = self.rig(made, "deploy", "environment:preview")
        rig.deploy("a", "preview3")
        Rig(Session(made.endpoint, made.account), {}).place("preview3")
        rig.delivery.clean_up_previews([])
        assert rig.status("preview3") is None
        with pytest.raises(ClientError, match="not authorized"):
            rig.artifact("b", "dev")


def test_clean_up_removes_previews_of_closed_pull_requests_with_their_data(rig: Rig, stage: str) -> None:
    for each in ("preview3", "preview4", stage):
        rig.deploy("a", each)
    rig.place("preview3")
    rig.delivery.clean_up_previews([4])
    assert rig.status("preview3") is None
    assert rig.tables("preview3") == []
    assert rig.status("preview4") == "CREATE_COMPLETE"
    assert rig.status(stage) == "CREATE_COMPLETE"
    rig.delivery.clean_up_previews([])
    assert rig.status("preview4") is None


def test_results_are_handed_to_the_workflow(bare_aws: Emulator, rig: Rig, stage: str, tmp_path: Any) -> None:
    outputs = tmp_path / "outputs"
    environ = {"ARTIFACT_BUCKET": "orders-artifacts", "GITHUB_OUTPUT": str(outputs)}
    told = Rig(rig.session, environ)
    name = told.artifact("a")
    for _ in range(2):
        told.delivery.deploy(stage, name, [])
    assert outputs.read_text().splitlines() == [
        *(f"artifact={name}", "api_url=http://127.0.0.1/", "changed=true"),
        *(f"artifact={name}", "api_url=http://127.0.0.1/", "changed=false"),
    ]


def test_the_image_is_built_for_the_architecture_asked_for(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*words: str) -> None:
        raise CliError(" ".join(words))

    monkeypatch.setattr("scripts.delivery.artifact._sam", build)
    monkeypatch.setattr(Artifacts, "_digest", lambda *_: None)
    for extra, built_for in (([], "x86_64"), (["Architecture=arm64"], "arm64")):
        with pytest.raises(CliError, match=f"^build --parameter-overrides Architecture={built_for}$"):
            rig.delivery.deploy("dev", "", extra)
        with pytest.raises(CliError, match=f"Architecture={built_for}$"):
            rig.delivery.package("dev", extra, force=False)


def test_what_the_rules_reject_is_rejected_before_packaging(
    rig: Rig, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(*_: Any, **__: Any) -> None:
        pytest.fail("packaged")

    monkeypatch.setattr(Artifacts, "package", nobody)
    with pytest.raises(CliError, match="AuthIssuer needs AuthAudience"):  # by the sources' template
        rig.delivery.deploy(stage, "", ["AuthIssuer=https://issuer.example"])
    ruled = f"{TEMPLATE}Rules: {{ R: {{ Assertions: [{{ Assert: !Equals [!Ref AWS::Region, xx-west-1], "
    ruled += "AssertDescription: Only there. }] } }\n"
    with pytest.raises(CliError, match="Only there"):  # by the artifact's
        rig.deploy("a", stage, template=ruled)
    assert rig.status(stage) is None


def test_an_artifact_runs_on_no_other_architecture(rig: Rig, stage: str) -> None:
    template = TEMPLATE.replace(
        "Parameters:", "Parameters:\n  Architecture: { Type: String, Default: x86_64 }"
    )
    rig.delivery.artifacts(stage).keep("arm", template.replace("CODE", "arm"), "1.0", "arm64")
    with pytest.raises(CliError, match="give Architecture=arm64"):
        rig.delivery.deploy(stage, "arm", [])
    assert rig.status(stage) is None
    rig.delivery.deploy(stage, "arm", ["Architecture=arm64"])
    assert rig.code(stage) == "arm"
    with pytest.raises(CliError, match="give Architecture=x86_64"):
        rig.deploy("intel", stage, "Architecture=arm64", template=template)


def test_without_a_bootstrap_it_says_what_to_do(bare_aws: Emulator) -> None:
    with pytest.raises(CliError, match="make bootstrap"):
        Delivery(Session(bare_aws.endpoint), {}).package("dev", force=False)


def test_the_bootstrap_is_made_once_and_found_by_the_other_commands(
    bare_aws: Emulator, capsys: pytest.CaptureFixture[str]
) -> None:
    delivery = Delivery(Session(bare_aws.endpoint), {}, poll=0.05)
    # The emulator has no AWS::IAM::OIDCProvider, so it is given one.
    provider = f"arn:aws:iam::{ACCOUNT}:oidc-provider/token.actions.githubusercontent.com"
    given = [f"{name}={value}" for name, value in parameters("dev", {}, provider).items()]
    with pytest.raises(CliError, match="give Repository, OwnerId, RepositoryId"):
        delivery.bootstrap("dev", [])
    with pytest.raises(CliError, match="ArtifactBucketName and ImageRepositoryArn go together"):
        delivery.bootstrap("dev", [*given, "ArtifactBucketName=orders-artifacts"])
    delivery.bootstrap("dev", given)
    assert "DeployRoleArn: arn:aws:iam::" in capsys.readouterr().out
    delivery.bootstrap("dev", given)
    assert "nothing to change" in capsys.readouterr().out
    artifacts = delivery.artifacts("dev")
    assert artifacts.bucket.startswith("orders-bootstrap-dev-")
    assert "imagerepository" in artifacts.repository
    delivery.stack("orders-bootstrap-dev").delete()


def test_a_bootstrap_that_could_not_be_made_says_why_and_what_to_do(bare_aws: Emulator) -> None:
    """For example because the account has GitHub's provider already."""
    delivery = Delivery(Session(bare_aws.endpoint), {}, poll=0.05)
    stack = delivery.stack("orders-bootstrap-dev")
    nested = "https://s3.us-east-1.amazonaws.com/orders-artifacts/no-such-template"
    provider = f"{{ Type: AWS::CloudFormation::Stack, Properties: {{ TemplateURL: '{nested}' }} }}"
    failure = f"Resources: {{ Provider: {provider} }}"
    with pytest.raises(CliError):
        stack.apply("CREATE", failure, {})
    given = [f"{name}={value}" for name, value in parameters("dev", {}, "").items()]
    with pytest.raises(CliError, match=r"Provider: .*delete-stack --stack-name orders-bootstrap-dev"):
        delivery.bootstrap("dev", given)
    stack.delete()


def test_the_bootstrap_of_one_preview_is_that_of_all(bare_aws: Emulator) -> None:
    delivery = Delivery(Session(bare_aws.endpoint), {}, poll=0.05)
    provider = f"arn:aws:iam::{ACCOUNT}:oidc-provider/token.actions.githubusercontent.com"
    given = [f"{name}={value}" for name, value in parameters("preview", {}, provider).items()]
    delivery.bootstrap("preview12", given)
    stack = delivery.stack("orders-bootstrap-preview")
    made = {p["ParameterKey"]: p["ParameterValue"] for p in (stack.describe() or {})["Parameters"]}
    stack.delete()
    assert made["Stage"] == "preview"
