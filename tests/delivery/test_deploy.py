"""The delivery commands against the local AWS emulator, with a small template in place of the built artifact.

tests/cloud/test_first_hour.py does it once with the real image and templates.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
import zlib
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError
from localcloud.running import Emulator
from scripts.cli import CliError
from scripts.delivery import artifact
from scripts.delivery.__main__ import samconfig, tell
from scripts.delivery.artifact import Artifacts
from scripts.delivery.data import Data
from scripts.delivery.decide import stack_name, stage_parameters
from scripts.delivery.deploy import (
    Deployed,
    bootstrap,
    deploy,
    deploy_cdn,
    drift,
    package,
    records,
    roll_back,
)
from scripts.delivery.destroy import clean_up_previews, destroy
from scripts.delivery.stacks import Stacks
from scripts.stack import Stack, parameters_of
from tests.delivery.conftest import ROOT, Bootstrap, client, parameters, token

destroying = importlib.import_module("scripts.delivery.destroy")
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
    DeletionPolicy: RetainExceptOnCreate
    UpdateReplacePolicy: Retain
    Properties:
      BillingMode: PAY_PER_REQUEST
      AttributeDefinitions: [{ AttributeName: pk, AttributeType: S }]
      KeySchema: [{ AttributeName: pk, KeyType: HASH }]
  DocumentsBucket:
    Type: AWS::S3::Bucket
    DeletionPolicy: RetainExceptOnCreate
    UpdateReplacePolicy: Retain
    Properties: { VersioningConfiguration: { Status: Enabled } }
  AccessLogsBucket:
    Type: AWS::S3::Bucket
    DeletionPolicy: Retain
    UpdateReplacePolicy: Retain
  DataKey:
    Type: AWS::KMS::Key
    DeletionPolicy: RetainExceptOnCreate
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
POLICIES = "DeletionPolicy: RetainExceptOnCreate, UpdateReplacePolicy: Retain"
LOAD_BALANCER = """
  LoadBalancer:
    Type: AWS::ElasticLoadBalancingV2::LoadBalancer
    Properties:
      Subnets: [subnet-1, subnet-2]
      LoadBalancerAttributes: [{ Key: deletion_protection.enabled, Value: "true" }]
"""
NESTED = "  Stack:\n    Properties:\n      TemplateURL: {}\n"
WEB_ACL = "Resources: { Group: { Type: AWS::Logs::LogGroup } }"
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
        self.requests: list[tuple[str, dict[str, Any]]] = []  # to CloudFormation, as the SDK takes them
        self.regions: dict[str, set[str | None]] = defaultdict(set)

    def client(self, service: str, region_name: str | None = None) -> Any:
        endpoint, account, keys = self._who
        self.regions[service].add(region_name)
        made = client(endpoint, account, service, keys)
        made.meta.events.register("before-call", lambda model, **_: self.calls.append(model.name))
        made.meta.events.register("before-parameter-build.cloudformation", self._keep)
        return made

    def _keep(self, params: dict[str, Any], model: Any, **_: Any) -> None:
        self.requests.append((model.name, dict(params)))


class Rig:
    """The commands, with artifacts named after what the code says."""

    def __init__(self, session: Session, environ: Mapping[str, str], stacks: Stacks | None = None) -> None:
        self.session, self.stacks = session, stacks or Stacks(session, environ, poll=0.05)

    def artifact(self, code: str, stage: str = "dev", template: str = TEMPLATE) -> str:
        """Keep an artifact as `package` does; return its name."""
        key = f"{code}-{zlib.crc32(template.encode())}"  # nothing is kept twice
        return self.stacks.artifacts(stage).keep(key, template.replace("CODE", code), f"1.0.{code}")

    def deploy(self, code: str, stage: str = "dev", *extra: str, template: str = TEMPLATE) -> Deployed:
        return self.run(stage, self.artifact(code, stage, template), *extra)

    def run(self, stage: str, artifact: str, *extra: str) -> Deployed:
        """Deploy an artifact with the parameters of the stage and these."""
        return deploy(self.stacks, stage, artifact, stage_parameters(samconfig(), stage, extra))

    def nested(self, name: str, resources: str) -> str:
        """Keep a template with these resources; return the usual template, which nests it."""
        self.client("s3").put_object(
            Bucket="orders-artifacts", Key=f"{name}.yaml", Body=f"Resources:\n{resources}".encode()
        )
        url = f"{self.session.endpoint}/orders-artifacts/{name}.yaml"
        stack = f"  {name}: {{ Type: AWS::CloudFormation::Stack, Properties: {{ TemplateURL: '{url}' }} }}\n"
        return TEMPLATE.replace("Resources:\n", f"Resources:\n{stack}")

    def client(self, service: str) -> Any:
        return self.session.client(service)

    def status(self, stage: str = "dev") -> str | None:
        return self.stacks.of(stage).status()

    def outputs(self, stage: str = "dev") -> dict[str, str]:
        return self.stacks.of(stage).outputs()

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

    def edge(self, stage: str, origin: str) -> None:
        """Put a CDN before the stage, or point it to another origin."""
        stack = self.stacks.edge(stage)
        stack.apply("UPDATE" if stack.status() else "CREATE", EDGE, {"ActiveOrigin": origin})

    def switch_edge(self, stage: str, origin: str) -> None:
        """Send requests to another origin, as `make switch` does."""
        stack, names = (
            self.stacks.edge(stage),
            ("LambdaOriginDomain", "FargateOriginDomain", "DocumentsBucketName"),
        )
        given = {name: self.outputs(stage)[name] for name in names}
        stack.apply("UPDATE", stack.template(), given | {"ActiveOrigin": origin})

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

    @pytest.mark.parametrize(
        ("words", "said"),
        [("", "nothing to do"), ("\n# a comment\n", "nothing to change")],
        ids=["by us", "in other words, by CloudFormation"],
    )
    def test_without_a_change_it_is_skipped(
        self, rig: Rig, stage: str, words: str, said: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        rig.deploy("a", stage)
        before = rig.stacks.of(stage).require()
        capsys.readouterr()
        rig.deploy("a", stage, template=TEMPLATE + words)
        assert said in capsys.readouterr().out
        assert before.get("LastUpdatedTime") == rig.stacks.of(stage).require().get("LastUpdatedTime")
        assert len(records(rig.stacks, stage)) == 1

    def test_a_changed_parameter_rolls_out(self, rig: Rig, stage: str) -> None:
        rig.deploy("a", stage)
        rig.deploy("a", stage, "Runtime=fargate")
        assert rig.status(stage) == "UPDATE_COMPLETE"
        assert [r.parameters["Runtime"] for r in records(rig.stacks, stage)] == ["lambda", "fargate"]
        rig.deploy("a", stage)  # nothing is remembered
        assert records(rig.stacks, stage)[-1].parameters["Runtime"] == "lambda"

    @pytest.mark.parametrize("empty", [True, False])
    def test_a_failed_first_one_is_cleaned_by_the_next(
        self, rig: Rig, stage: str, capsys: pytest.CaptureFixture[str], empty: bool
    ) -> None:
        """CloudFormation takes back what it made but for the log bucket, and may not take that either."""
        with pytest.raises(CliError, match="Failure"):
            rig.deploy("a", stage, "Broken=true")
        assert rig.status(stage) == "ROLLBACK_COMPLETE"
        assert records(rig.stacks, stage) == []
        (logs,) = rig.stacks.retained(rig.stacks.of(stage))
        assert (logs.logical_id, rig.tables(stage)) == ("AccessLogsBucket", [])
        if not empty:  # turning on a load balancer's log writes a first object, before any request
            rig.client("s3").put_object(
                Bucket=logs.physical_id, Key="AWSLogs/ELBAccessLogTestFile", Body=b"1"
            )
        capsys.readouterr()
        rig.deploy("a", stage)
        assert rig.status(stage) == "CREATE_COMPLETE"
        what = "removed, it was empty" if empty else "stays in the account"
        assert f"AccessLogsBucket ({logs.physical_id}) {what}" in capsys.readouterr().out
        assert rig.exists(logs.physical_id) is not empty

    def test_of_production_nothing_is_deleted(self, rig: Rig) -> None:
        with pytest.raises(CliError, match="Failure"):
            rig.deploy("a", "prod", "Broken=true")
        with pytest.raises(CliError, match=r"left alone: .* then `make destroy`"):
            rig.deploy("a", "prod")
        destroy(rig.stacks, "prod", data=False, ask=lambda _: "orders-prod")

    def test_what_a_failed_update_made_is_taken_back(self, rig: Rig, stage: str) -> None:
        """Though the template retains it, as older ones do with versions of functions."""
        retained = "{ Type: AWS::S3::Bucket, DeletionPolicy: Retain, UpdateReplacePolicy: Retain }"
        more = TEMPLATE.replace("Resources:\n", f"Resources:\n  Extra: {retained}\n")
        rig.deploy("a", stage)
        with pytest.raises(CliError, match="Failure"):
            rig.deploy(
                "b", stage, "Broken=true", template=more.replace("DependsOn: [", "DependsOn: [Extra, ")
            )
        made = [e for e in rig.stacks.of(stage)._events() if e["LogicalResourceId"] == "Extra"]
        assert made[0]["ResourceStatus"] == "DELETE_COMPLETE"
        assert not rig.exists(made[0]["PhysicalResourceId"])
        executed = [asked for name, asked in rig.session.requests if name == "ExecuteChangeSet"]
        assert [each["RetainExceptOnCreate"] for each in executed] == [False, True]
        assert not any(each["DisableRollback"] for each in executed), "whatever the default is"

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

    def test_an_artifact_that_is_not_there_is_rejected(self, rig: Rig, stage: str) -> None:
        with pytest.raises(CliError, match="no artifact"):
            rig.run(stage, "f" * 32)
        assert rig.status(stage) is None

    def test_what_the_next_template_has_no_more_leaves_the_stack_with_what_it_holds(
        self, rig: Rig, stage: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Of a nested stack, too. The emulator enforces no stack policy, so the requests are looked at."""
        queue = f"{{ Type: AWS::SQS::Queue, {POLICIES} }}\n"
        both = rig.nested("Consumer", f"  Dead: {queue}")
        rig.deploy("a", stage, template=both.replace("Resources:\n", f"Resources:\n  Queue: {queue}"))
        left = {k.logical_id: k.physical_id for k in rig.stacks.retained(rig.stacks.of(stage))}
        for name in ("Queue", "Dead"):
            rig.client("sqs").send_message(QueueUrl=left[name], MessageBody="1")
        capsys.readouterr()
        rig.session.requests.clear()
        rig.deploy("a", stage, template="Metadata: { LeavesTheStack: [Queue] }\n" + TEMPLATE)
        said = capsys.readouterr().out
        for name in ("Queue", "Dead"):
            assert f"  {name} ({left[name]}) left the stack: it stays in the account" in said
            assert rig.client("sqs").receive_message(QueueUrl=left[name])["Messages"]
        assert said.count("left the stack") == 2
        relevant = ("SetStackPolicy", "ExecuteChangeSet")
        asked = [(name, request) for name, request in rig.session.requests if name in relevant]
        assert [name for name, _ in asked] == ["SetStackPolicy", "ExecuteChangeSet", "SetStackPolicy"]
        kept = ["AccessLogsBucket", "DataKey", "DocumentsBucket", "OrdersTable"]
        for _, request in asked[::2]:
            denied = json.loads(request["StackPolicyBody"])["Statement"][1]["Resource"]
            assert denied == [f"LogicalResourceId/{name}" for name in kept]


class TestPromotion:
    def test_prod_runs_what_dev_ran(self, rig: Rig, stage: str) -> None:
        key = rig.artifact("a")
        rig.run(stage, key)
        second = f"{stage}2"
        rig.run(second, key, "LogRetentionDays=365")
        stacks = [rig.stacks.stack(f"orders-{s}") for s in (stage, second)]
        assert stacks[0].template() == stacks[1].template()

    def test_previews_cannot_reach_what_prod_deploys(self, rig: Rig) -> None:
        rig.artifact("only-a-preview", "preview1")
        with pytest.raises(CliError, match="no artifact"):
            rig.run("prod", f"only-a-preview@{'0' * 64}")


class TestRollback:
    def test_goes_back_to_what_ran_before_with_its_parameters(self, rig: Rig, stage: str) -> None:
        rig.deploy("a", stage, "LogRetentionDays=3")
        rig.deploy("b", stage)
        rig.place(stage)
        roll_back(rig.stacks, stage)
        assert rig.code(stage) == "a"
        assert records(rig.stacks, stage)[-1].parameters["LogRetentionDays"] == "3"
        assert rig.orders(rig.outputs(stage)["TableName"]) == 1
        with pytest.raises(CliError, match="no earlier"):
            roll_back(rig.stacks, stage)


class TestDestroy:
    def test_keeps_the_data_until_it_is_asked_to_remove_it(
        self, rig: Rig, stage: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """By what CloudFormation says of a stack that is gone: it says so for 90 days."""
        rig.deploy(
            "a", stage, template=rig.nested("Consumer", f"  Mail: {{ Type: AWS::S3::Bucket, {POLICIES} }}\n")
        )
        rig.place(stage)
        out, mail = rig.outputs(stage), rig.stacks.of(stage).ids()["Mail"]
        rig.client("s3").put_object(Bucket=mail, Key="1", Body=b"1")
        capsys.readouterr()
        destroy(rig.stacks, stage, data=False)
        assert rig.status(stage) is None
        assert rig.orders(out["TableName"]) == 1
        assert rig.exists(out["BucketName"])
        assert "Contents" in rig.client("s3").list_objects_v2(Bucket=mail), "of a nested stack, too"
        assert not rig.exists(out["ScratchName"]), "a versioned bucket that is not kept is emptied first"
        announced, _, said = capsys.readouterr().out.partition("Retained:")
        for name in (out["TableName"], out["BucketName"], mail):
            assert name in announced
            assert name in said
        assert "$1.00 a month" in said
        destroy(rig.stacks, stage, data=False)
        said = capsys.readouterr().out
        assert re.search(rf"^orders-{stage}, deleted [-0-9]+ [:0-9]+, left:$", said, re.MULTILINE)
        assert f"{out['TableName']}  table of" in said, "with what it costs"
        with pytest.raises(CliError, match="nothing was done"):
            destroy(rig.stacks, stage, data=True, ask=lambda _: "no")
        assert rig.orders(out["TableName"]) == 1
        destroy(rig.stacks, stage, data=True)
        assert rig.tables(stage) == []
        assert not rig.exists(out["BucketName"])
        assert not rig.exists(mail)

    def test_removes_the_data_when_asked(
        self, rig: Rig, stage: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rig.deploy("a", stage)
        rig.place(stage)
        out = rig.outputs(stage)
        # As a queue does: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_DeleteQueue.html
        monkeypatch.setattr(Data, "stand", lambda *_: True)  # for a minute after it was deleted
        destroy(rig.stacks, stage, data=True)
        assert rig.status(stage) is None
        assert rig.tables(stage) == []
        assert not rig.exists(out["BucketName"])
        said = capsys.readouterr().out
        assert "gone in 7 days" in said
        assert "An earlier" not in said

    @pytest.mark.parametrize(("typed", "goes"), [("orders-{}", True), ("yes", False), (None, False)])
    def test_asks_for_the_name(self, rig: Rig, stage: str, typed: str | None, goes: bool) -> None:
        rig.deploy("a", stage)
        rejected = nullcontext() if goes else pytest.raises(CliError, match="nothing was done")
        with rejected:
            destroy(rig.stacks, stage, data=False, ask=lambda _: typed.format(stage) if typed else None)
        assert (rig.status(stage) is None) == goes

    def test_production_asks_is_protected_and_keeps_its_data(self, rig: Rig) -> None:
        rig.deploy("a", "prod")
        rig.place("prod")
        out = rig.outputs("prod")
        assert rig.stacks.of("prod").require()["EnableTerminationProtection"]
        for data, ask in ((False, None), (True, lambda _: "orders-prod")):
            with pytest.raises(CliError, match="not for production"):
                destroy(rig.stacks, "prod", data=data, ask=ask)
        destroy(rig.stacks, "prod", data=False, ask=lambda _: "orders-prod")
        assert rig.status("prod") is None
        assert rig.orders(out["TableName"]) == 1

    def test_productions_load_balancer_is_let_go_first(self, rig: Rig) -> None:
        """CloudFormation deletes none that is protected, neither with the stack nor in an update."""
        both = rig.nested("FargateStack", LOAD_BALANCER)
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
        destroy(rig.stacks, "prod", data=False, ask=lambda _: "orders-prod")
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
            destroy(rig.stacks, stage, data=data)
            assert capsys.readouterr().out == f"there is no stack orders-{stage}, and nothing left of it\n"

    def test_one_that_was_only_reviewed_goes(
        self, rig: Rig, stage: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rig.client("cloudformation").create_change_set(
            StackName=f"orders-{stage}", ChangeSetName="x", ChangeSetType="CREATE", TemplateBody=WEB_ACL
        )
        assert rig.status(stage) == "REVIEW_IN_PROGRESS"

        def none(*_: Any) -> str:
            """Answer as AWS does of a template that it does not have."""
            raise ClientError({"Error": {"Code": "ValidationError", "Message": "none"}}, "GetTemplate")

        monkeypatch.setattr(Stack, "_template", none)
        destroy(rig.stacks, stage, data=True)
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

        stage_stack = rig.stacks.of(stage)

        def ends(stack: Stack, seen: set[str] | None = None) -> str | None:
            if seen is None:
                monkeypatch.setattr(Stack, "describe", describe)
                stage_stack.delete()
            return wait(stack, seen)

        monkeypatch.setattr(Stack, "describe", under_way)
        monkeypatch.setattr(Stack, "wait", ends)
        rig.session.calls.clear()
        destroy(rig.stacks, stage, data=True)
        assert rig.session.calls.count("DeleteStack") == 1
        assert rig.tables(stage) == []

    def test_data_that_an_earlier_stack_kept_is_not_that_of_the_one_that_stands(
        self, rig: Rig, stage: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rig.deploy("a", stage)
        rig.place(stage)
        first = rig.outputs(stage)
        destroy(rig.stacks, stage, data=False)
        # CloudFormation remembers all stacks of a name, the emulator one.
        gone, skipped = destroying._gone, Stack.skipped
        earlier = next(s for s in gone(rig.stacks) if s["StackName"] == f"orders-{stage}")
        kept = rig.stacks.of(stage).skipped(earlier["StackId"])
        rig.deploy("a", stage)

        def both(stacks: Stacks) -> list[dict[str, Any]]:
            return [*(s for s in gone(stacks) if s["StackId"] != earlier["StackId"]), earlier]

        monkeypatch.setattr(destroying, "_gone", both)
        monkeypatch.setattr(
            Stack, "skipped", lambda self, by="": kept if by == earlier["StackId"] else skipped(self, by)
        )
        for _ in ("of the one that stands", "of one that is gone"):
            capsys.readouterr()
            destroy(rig.stacks, stage, data=True)
            assert rig.exists(first["BucketName"]), "nobody was asked, and it may be kept on purpose"
            assert "An earlier" in capsys.readouterr().out
        destroy(rig.stacks, stage, data=True, ask=lambda _: f"orders-{stage}")
        assert f"And all that orders-{stage}, deleted 2" in capsys.readouterr().out
        assert not rig.exists(first["BucketName"])

    def test_an_edge_and_its_web_acl_go_first(
        self, rig: Rig, stage: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        rig.deploy("a", stage, template=ORIGINS)
        deploy_cdn(rig.stacks, stage, [])
        logs = next(
            r["PhysicalResourceId"]
            for r in rig.stacks.edge(stage).resources()
            if r["LogicalResourceId"] == "LogsBucket"
        )
        rig.client("s3").put_object(Bucket=logs, Key="E1.2026-11-30-12.gz", Body=b"1")
        capsys.readouterr()
        destroy(rig.stacks, stage, data=True)
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
        rig.stacks.stack(name, "us-east-1").apply("CREATE", EDGE, {"ActiveOrigin": "x"})
        delete, rejected = Stack.delete, iter(range(rejections))

        def associated(stack: Stack) -> None:
            if stack.name == name and next(rejected, None) is not None:
                raise CliError(f"{name} is DELETE_FAILED: WebAcl: {reason}")
            delete(stack)

        with monkeypatch.context() as patch:
            patch.setattr(Stack, "delete", associated)
            patch.setattr(destroying.time, "sleep", lambda _: None)
            failed = pytest.raises(CliError, match=f"not removed: {name}; `make destroy` again")
            with nullcontext() if goes else failed:
                destroy(rig.stacks, stage, data=True)
        assert rig.status(stage) is None
        destroy(rig.stacks, stage, data=True)
        assert rig.stacks.stack(name, "us-east-1").status() is None

    def test_a_web_acl_that_another_regions_edge_may_have_is_left(self, rig: Rig, stage: str) -> None:
        """Its stack was once named after no region."""
        rig.deploy("a", stage, template=ORIGINS)
        old = rig.stacks.stack(f"orders-{stage}-waf", "us-east-1")
        old.apply("CREATE", EDGE, {"ActiveOrigin": "x"})
        destroy(rig.stacks, stage, data=True)
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
        monkeypatch.setattr(destroying, "_gone", lambda _: [])
        destroy(Stacks(China(), {}), "dev", data=True)
        monkeypatch.setattr(Stack, "describe", lambda _: {"StackStatus": "CREATE_COMPLETE"})
        monkeypatch.setattr(Stack, "drifted", lambda _: [])
        drift(Stacks(China(), {}), "dev")
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
    def test_the_address_is_that_of_the_cdn(self, rig: Rig, stage: str) -> None:
        """Behind a CDN the API answers 403 to everyone else, a smoke test too."""
        assert rig.deploy("a", stage).api_url == "http://127.0.0.1/"
        rig.edge(stage, "lambda")
        assert rig.deploy("b", stage).api_url == "https://edge.example.com"

    def test_what_it_sends_requests_to_is_not_taken_away(self, rig: Rig, stage: str) -> None:
        rig.deploy("a", stage)
        rig.deploy("b", stage, "BothRuntimes=true")
        rig.edge(stage, "fargate")
        with pytest.raises(CliError, match="make switch"):
            rig.deploy("c", stage)
        with pytest.raises(CliError, match="Runtime=fargate"):
            roll_back(rig.stacks, stage)
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
        functions = "".join(f"  F{n}:\n    Properties:\n      ImageUri: {{}}\n" for n in range(2))

        def sam(*words: str) -> None:
            """As `sam build` writes them: each nested template in a folder named after its stack."""
            assert words[0] == "build"
            files = {"": "Lambda", "Lambda": "Consumer", "Lambda/Consumer": ""}
            for (folder, nested), image in zip(files.items(), ("f1:orders", *self.built), strict=True):
                path = built.parent / folder / "template.yaml"
                path.parent.mkdir(parents=True, exist_ok=True)
                text = f"# {folder}\nResources:\n{functions.replace('{}', image)}"
                text += NESTED.format(f"{nested}/template.yaml") * bool(nested)
                path.write_text(f"{text}Outputs:\n  ImageUri:\n    Value: x\n")

        self.built = ["f1:orders", "f1:orders"]

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
        texts = [body.decode() for file, body in self.stored(name).items() if file != "release.json"]
        found = re.findall(r"ImageUri: (\S+)", "".join(texts))
        assert len(found) == 6, "two functions in each of three templates"
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

    def test_functions_of_two_images_are_rejected(self, package: Callable[..., str]) -> None:
        self.built = ["f1:orders", "f2:orders"]
        with pytest.raises(CliError, match=r"one image for all functions, not \['f1:orders', 'f2:orders'\]"):
            package()
        assert self.docker == []

    def test_images_of_nested_templates_are_in_the_manifest(self, package: Callable[..., str]) -> None:
        image = f"{self.artifacts.repository}@sha256:{'0' * 64}"
        name = self.artifacts.keep("k", "Resources: {}", "1.0.0", nested={"a.template": f"ImageUri: {image}"})
        assert json.loads(self.artifacts.verified(name)[0])["images"] == [image]

    def test_nested_templates_lie_beside_it_under_their_hashes(self, package: Callable[..., str]) -> None:
        name = package()
        files = self.stored(name)
        (front,) = re.findall(rb"TemplateURL: (\S+)", files["template.yaml"])
        (consumer,) = re.findall(rb"TemplateURL: (\S+)", files[front.decode().rsplit("/", 1)[1]])
        assert files[consumer.decode().rsplit("/", 1)[1]].startswith(b"# Lambda/Consumer\n")
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
        name = rig.stacks.artifacts(stage).keep(
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
            rig.run(stage, name)
        assert rig.status(stage) is None

    def test_one_that_was_wholly_replaced_is_told_by_its_hash(self, rig: Rig, stage: str) -> None:
        name, place = self.kept(rig, stage)
        for file in ("template.yaml", "abc.template", "release.json"):
            rig.client("s3").delete_object(Bucket="orders-artifacts", Key=f"{place}/{file}")
        other = rig.stacks.artifacts(stage).keep(stage, TEMPLATE.replace("CODE", "evil"), "1.0")
        with pytest.raises(CliError, match="its hash is"):
            rig.run(stage, name)
        rig.run(stage, other)
        assert rig.code(stage) == "evil", "the control: by its own name it is deployed"

    def test_a_rollback_takes_what_was_recorded(self, rig: Rig, stage: str) -> None:
        name, place = self.kept(rig, stage)
        rig.run(stage, name.partition("@")[0])
        rig.deploy("b", stage)
        assert next(record.artifact for record in records(rig.stacks, stage)) == name
        rig.client("s3").put_object(Bucket="orders-artifacts", Key=f"{place}/release.json", Body=b"{}")
        with pytest.raises(CliError, match="its hash is"):
            roll_back(rig.stacks, stage)

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
            pipeline.run(stage, name)
        else:
            with pytest.raises(CliError, match="no attestation that"):
                pipeline.run(stage, name)
        assert (rig.status(stage) is not None) == genuine
        asked = (tmp_path / "asked").read_text()
        assert asked.startswith(name.partition("@")[2]), (
            "about the manifest, which has all other hashes in it"
        )
        assert f"--repo acme/orders --cert-identity {workflow}" in asked


class TestDrift:
    def test_a_stage_without_a_stack_has_none(self, rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
        drift(rig.stacks, "none")
        assert "nothing to compare" in capsys.readouterr().out

    def test_is_found_and_named(self, rig: Rig, stage: str, capsys: pytest.CaptureFixture[str]) -> None:
        rig.deploy("a", stage)
        drift(rig.stacks, stage)
        assert "as its templates say" in capsys.readouterr().out
        rig.client("ssm").put_parameter(Name=rig.outputs(stage)["CodeName"], Value="x", Overwrite=True)
        with pytest.raises(CliError, match="drifted in 1 resources"):
            drift(rig.stacks, stage)
        assert "Code (AWS::SSM::Parameter): modified /Value" in capsys.readouterr().out

    class CloudFormation:
        """Answers with these drifts, one a page."""

        status = "DETECTION_COMPLETE"

        def __init__(self, *drifts: dict[str, Any]) -> None:
            self._drifts = drifts

        def get_paginator(self, _: str) -> Any:
            return SimpleNamespace(paginate=lambda **_: [{"StackResourceSummaries": []}])

        def detect_stack_drift(self, **_: Any) -> dict[str, str]:
            return {"StackDriftDetectionId": "1"}

        def describe_stack_drift_detection_status(self, **_: str) -> dict[str, str]:
            return {"DetectionStatus": self.status, "DetectionStatusReason": "no right to read"}

        def describe_stack_resource_drifts(self, NextToken: str = "0", **_: Any) -> dict[str, Any]:  # noqa: N803
            page = int(NextToken)
            more = {"NextToken": str(page + 1)} if page + 1 < len(self._drifts) else {}
            return {"StackResourceDrifts": [self._drifts[page]], **more}

    def drifted(self, cloudformation: CloudFormation) -> list[str]:
        return Stack(cloudformation, "any", lambda _: None, poll=0).drifted()

    def test_every_page_counts_and_a_failed_search_is_an_error(self) -> None:
        found = {"LogicalResourceId": "A", "ResourceType": "T", "StackResourceDriftStatus": "DELETED"}
        fake = self.CloudFormation(found, found)
        assert self.drifted(fake) == ["A (T): deleted"] * 2
        fake.status = "DETECTION_FAILED"
        with pytest.raises(CliError, match="no right to read"):
            self.drifted(fake)

    def test_an_environment_that_the_role_cannot_read_is_not_compared(self) -> None:
        """Lambda hides one that is encrypted with the stack's key; CloudFormation calls that a difference."""
        encrypted, plain = json.dumps({"KmsKeyArn": "k"}), json.dumps({"MemorySize": 1024})
        hidden, seen = {"PropertyPath": "/Environment/Variables"}, {"PropertyPath": "/MemorySize"}
        function = {"LogicalResourceId": "F", "ResourceType": "AWS::Lambda::Function"}
        modified = {**function, "StackResourceDriftStatus": "MODIFIED"}
        drifts = [
            {**modified, "ExpectedProperties": properties, "PropertyDifferences": differences}
            for properties, differences in (
                (encrypted, [hidden]),
                (encrypted, [hidden, seen]),
                (plain, [hidden]),
            )
        ]
        assert self.drifted(self.CloudFormation(*drifts)) == [
            "F (AWS::Lambda::Function): modified /MemorySize",
            "F (AWS::Lambda::Function): modified /Environment/Variables",
        ]

    def test_the_edge_is_compared_but_for_its_secret(
        self, rig: Rig, stage: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        rig.deploy("a", stage, template=ORIGINS)
        deploy_cdn(rig.stacks, stage, [])
        capsys.readouterr()
        drift(rig.stacks, stage)
        name = f"orders-{stage}"
        assert capsys.readouterr().out.splitlines() == [
            f"{each} is as its templates say" for each in (name, f"{name}-edge", f"{name}-waf-us-east-1")
        ]
        secret = rig.stacks.stack(f"{name}-edge").outputs()["OriginSecretArn"]
        rig.client("secretsmanager").update_secret(SecretId=secret, Description="changed")
        drift(rig.stacks, stage)
        logs = rig.stacks.client("logs", "us-east-1")
        logs.put_retention_policy(logGroupName=f"aws-waf-logs-{name}-waf-us-east-1", retentionInDays=1)
        with pytest.raises(CliError, match="drifted in 1 resources"):
            drift(rig.stacks, stage)
        assert "(AWS::Logs::LogGroup): modified /RetentionInDays" in capsys.readouterr().out


class TestMakeEdge:
    """`make deploy-cdn`; tests/local/test_edge.py calls the API through what it makes."""

    def parameters(self, rig: Rig, stack: str) -> dict[str, str]:
        found = rig.stacks.stack(stack).describe()
        assert found is not None
        return parameters_of(found)

    def test_the_web_acl_comes_from_us_east_1_and_names_are_handed_over(
        self, rig: Rig, stage: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        rig.deploy("a", stage, template=ORIGINS)
        assert rig.session.regions["cloudformation"] == {None}
        deploy_cdn(rig.stacks, stage, ["Mode=count", "PriceClass=PriceClass_All", "LogRetentionDays=30"])
        assert rig.session.regions["cloudformation"] == {None, "us-east-1"}
        assert rig.session.regions["cloudfront"] == rig.session.regions["s3"] == {None}
        web_acl = rig.stacks.stack(f"orders-{stage}-waf-us-east-1")
        of_web_acl = self.parameters(rig, web_acl.name)
        assert (of_web_acl["Scope"], of_web_acl["Mode"]) == ("CLOUDFRONT", "count")
        edge = self.parameters(rig, f"orders-{stage}-edge")
        assert edge["WebAclArn"] == web_acl.outputs()["WebAclArn"]
        assert edge["LambdaOriginDomain"] == "lambda.example.com"
        assert (edge["FargateOriginDomain"], edge["ActiveOrigin"]) == ("", "lambda")
        assert (edge["PriceClass"], edge["LogRetentionDays"]) == ("PriceClass_All", "30")
        outputs = rig.stacks.edge(stage).outputs()
        said = capsys.readouterr().out
        assert f"OriginSecretArn={outputs['OriginSecretArn']} CorsOrigins={outputs['EdgeUrl']}" in said
        keys = rig.client("s3").list_objects_v2(Bucket=outputs["ConsoleBucketName"])["Contents"]
        assert "console/index.html" in {each["Key"] for each in keys}
        kept = [f"OriginSecretArn={outputs['OriginSecretArn']}", f"CorsOrigins={outputs['EdgeUrl']}"]
        rig.deploy("a", stage, *kept, template=ORIGINS)
        capsys.readouterr()
        deploy_cdn(rig.stacks, stage, ["Mode=count", "PriceClass=PriceClass_All", "LogRetentionDays=30"])
        said = capsys.readouterr().out
        assert said.count("nothing to change") == 2
        assert "OriginSecretArn" not in said

    def test_a_web_acl_of_an_earlier_release_is_left_and_said(
        self, rig: Rig, stage: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        rig.deploy("a", stage, template=ORIGINS)
        deploy_cdn(rig.stacks, stage, [])
        assert "another web ACL" not in capsys.readouterr().out
        edge = rig.stacks.edge(stage)
        old = "arn:aws:wafv2:us-east-1:111122223333:global/webacl/WebAcl-old/1"
        known = self.parameters(rig, edge.name) | {"WebAclArn": old}
        edge.apply("UPDATE", (ROOT / "edge" / "template.yaml").read_text(), known)
        deploy_cdn(rig.stacks, stage, [])
        assert f"orders-{stage}-waf in us-east-1.\n  That stack is left" in capsys.readouterr().out
        assert self.parameters(rig, edge.name)["WebAclArn"] != old

    def test_where_a_switch_sent_requests_they_stay(self, rig: Rig, stage: str) -> None:
        rig.deploy("a", stage, template=ORIGINS)
        deploy_cdn(rig.stacks, stage, [])
        rig.deploy("a", stage, "BothRuntimes=true", template=ORIGINS)
        rig.switch_edge(stage, "fargate")
        deploy_cdn(rig.stacks, stage, [])
        edge = self.parameters(rig, f"orders-{stage}-edge")
        assert (edge["ActiveOrigin"], edge["LambdaOriginDomain"]) == ("fargate", "lambda.example.com")

    def test_bad_input_changes_nothing(self, rig: Rig, stage: str) -> None:
        with pytest.raises(CliError, match="deploy it first"):
            deploy_cdn(rig.stacks, stage, [])
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
                deploy_cdn(rig.stacks, stage, [pair])
        assert rig.stacks.stack(f"orders-{stage}-waf-us-east-1").status() is None
        assert rig.stacks.edge(stage).status() is None


class TestJobs:
    """Each command with the rights of the job that runs it; the local AWS emulator enforces them."""

    def rig(self, made: Bootstrap, role: str, job: str) -> Rig:
        keys = made.client("sts").assume_role_with_web_identity(
            RoleArn=made.arn(role), RoleSessionName="job", WebIdentityToken=token(f"repo:acme/orders:{job}")
        )["Credentials"]
        return Rig(Session(made.endpoint, made.account, keys), {})

    def test_dev_prod_and_drift(self, stages: dict[str, Bootstrap]) -> None:
        of_dev, of_prod = stages["dev"], stages["prod"]
        branch = "ref:refs/heads/main"
        dev, prod = self.rig(of_dev, "deploy", branch), self.rig(of_prod, "deploy", "environment:prod")
        first = dev.artifact("a")
        dev.run("dev", first)
        dev.deploy("b")
        roll_back(dev.stacks, "dev")
        assert Rig(Session(of_dev.endpoint, of_dev.account), {}).code() == "a"
        prod.run("prod", first)
        drift(self.rig(of_prod, "drift", branch).stacks, "prod")
        dev.deploy("edged", template=ORIGINS)
        deploy_cdn(dev.stacks, "dev", [])
        drift(self.rig(of_dev, "drift", branch).stacks, "dev")
        for forbidden in (
            lambda: deploy_cdn(dev.stacks, "prod", []),
            lambda: prod.artifact("c", "prod"),
            lambda: dev.run("prod", first),
            lambda: drift(self.rig(of_dev, "drift", branch).stacks, "prod"),
        ):
            with pytest.raises(ClientError, match="not authorized"):
                forbidden()
        destroy(dev.stacks, "dev", data=True)
        assert dev.status("dev") is None

    def test_previews_and_the_clean_up(self, stages: dict[str, Bootstrap]) -> None:
        made = stages["preview"]
        rig = self.rig(made, "deploy", "environment:preview")
        for stage in ("preview3", "preview4"):
            rig.deploy("a", stage)
        root = Rig(Session(made.endpoint, made.account), {})
        root.place("preview3")
        clean_up_previews(rig.stacks, [4])
        assert rig.status("preview3") is None
        assert root.tables("preview3") == []
        assert rig.status("preview4") == "CREATE_COMPLETE"
        clean_up_previews(rig.stacks, [])
        assert rig.status("preview4") is None
        with pytest.raises(ClientError, match="not authorized"):
            rig.artifact("b", "dev")


def test_results_are_handed_to_the_workflow(rig: Rig, stage: str, tmp_path: Any) -> None:
    outputs = tmp_path / "outputs"
    name = rig.artifact("a")
    for _ in range(2):
        tell(rig.run(stage, name), {"GITHUB_OUTPUT": str(outputs)})
    assert outputs.read_text().splitlines() == [
        *(f"artifact={name}", "api_url=http://127.0.0.1/", "changed=true"),
        *(f"artifact={name}", "api_url=http://127.0.0.1/", "changed=false"),
    ]


def test_the_image_is_built_for_the_architecture_asked_for(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*words: str) -> None:
        raise CliError(" ".join(words))

    monkeypatch.setattr("scripts.delivery.artifact._sam", build)
    monkeypatch.setattr(Artifacts, "_digest", lambda *_: None)
    for given, built_for in (({}, "x86_64"), ({"Architecture": "arm64"}, "arm64")):
        with pytest.raises(CliError, match=f"^build --parameter-overrides Architecture={built_for}$"):
            package(rig.stacks, "dev", {"Stage": "dev", **given})


def test_what_the_rules_reject_is_rejected_before_packaging(
    rig: Rig, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(*_: Any, **__: Any) -> None:
        pytest.fail("packaged")

    monkeypatch.setattr(Artifacts, "package", nobody)
    with pytest.raises(CliError, match="AuthIssuer needs AuthAudience"):  # by the sources' template
        package(rig.stacks, stage, {"AuthIssuer": "https://issuer.example"})
    ruled = f"{TEMPLATE}Rules: {{ R: {{ Assertions: [{{ Assert: !Equals [!Ref AWS::Region, xx-west-1], "
    ruled += "AssertDescription: Only there. }] } }\n"
    with pytest.raises(CliError, match="Only there"):  # by the artifact's
        rig.deploy("a", stage, template=ruled)
    assert rig.status(stage) is None


def test_an_artifact_runs_on_no_other_architecture(rig: Rig, stage: str) -> None:
    template = TEMPLATE.replace(
        "Parameters:", "Parameters:\n  Architecture: { Type: String, Default: x86_64 }"
    )
    rig.stacks.artifacts(stage).keep("arm", template.replace("CODE", "arm"), "1.0", "arm64")
    with pytest.raises(CliError, match="give Architecture=arm64"):
        rig.run(stage, "arm")
    assert rig.status(stage) is None
    rig.run(stage, "arm", "Architecture=arm64")
    assert rig.code(stage) == "arm"
    with pytest.raises(CliError, match="give Architecture=x86_64"):
        rig.deploy("intel", stage, "Architecture=arm64", template=template)


def test_without_a_bootstrap_it_says_what_to_do(bare_aws: Emulator) -> None:
    with pytest.raises(CliError, match="make bootstrap"):
        package(Stacks(Session(bare_aws.endpoint), {}), "dev", {})


@pytest.mark.parametrize(("stage", "of"), [("dev", "dev"), ("preview12", "preview")])
def test_the_bootstrap_is_made_once_and_found_by_the_other_commands(
    bare_aws: Emulator, stage: str, of: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stacks = Stacks(Session(bare_aws.endpoint), {}, poll=0.05)
    # The emulator has no AWS::IAM::OIDCProvider, so it is given one.
    given = parameters(of, {}, f"arn:aws:iam::{ACCOUNT}:oidc-provider/token.actions.githubusercontent.com")
    with pytest.raises(CliError, match="give Repository, OwnerId, RepositoryId"):
        bootstrap(stacks, stage, {})
    with pytest.raises(CliError, match="ArtifactBucketName and ImageRepositoryArn go together"):
        bootstrap(stacks, stage, {**given, "ArtifactBucketName": "orders-artifacts"})
    bootstrap(stacks, stage, {**given, "Stage": stage})
    assert "DeployRoleArn: arn:aws:iam::" in capsys.readouterr().out
    bootstrap(stacks, stage, given)
    assert "nothing to change" in capsys.readouterr().out
    stack, artifacts = stacks.stack(f"orders-bootstrap-{of}"), stacks.artifacts(stage)
    assert stack.parameters()["Stage"] == of, "all previews share one"
    assert artifacts.bucket.startswith(f"orders-bootstrap-{of}-")
    assert "imagerepository" in artifacts.repository
    stack.delete()


def test_a_bootstrap_that_could_not_be_made_says_why_and_what_to_do(bare_aws: Emulator) -> None:
    """For example because the account has GitHub's provider already."""
    stacks = Stacks(Session(bare_aws.endpoint), {}, poll=0.05)
    stack = stacks.stack("orders-bootstrap-dev")
    nested = "https://s3.us-east-1.amazonaws.com/orders-artifacts/no-such-template"
    provider = f"{{ Type: AWS::CloudFormation::Stack, Properties: {{ TemplateURL: '{nested}' }} }}"
    failure = f"Resources: {{ Provider: {provider} }}"
    with pytest.raises(CliError):
        stack.apply("CREATE", failure, {})
    given = parameters("dev", {}, "")
    with pytest.raises(CliError, match=r"Provider: .*delete-stack --stack-name orders-bootstrap-dev"):
        bootstrap(stacks, "dev", given)
    stack.delete()
