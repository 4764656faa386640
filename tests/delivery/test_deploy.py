"""The delivery commands against the local AWS, with a small template in place of the built artefact.

tests/cloud/test_delivery.py does it once with the real image and templates.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from typing import Any

import pytest
from botocore.exceptions import ClientError
from localcloud.embedded import EmbeddedAws
from scripts.delivery import __main__ as command
from scripts.delivery.__main__ import Delivery
from scripts.delivery.data import Data
from scripts.delivery.decide import DeliveryError
from tests.delivery.conftest import client

pytestmark = pytest.mark.xdist_group("bootstrap")

ACCOUNT = "444444444444"
TEMPLATE = """
Parameters:
  Stage: { Type: String }
  Runtime: { Type: String, Default: lambda }
  LogRetentionDays: { Type: Number, Default: 30 }
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
    DependsOn: [OrdersTable, Code]
    Properties: { TemplateURL: "https://s3.us-east-1.amazonaws.com/orders-artifacts/no-such-template" }
Outputs:
  ApiUrl: { Value: "http://127.0.0.1/" }
  TableName: { Value: !Ref OrdersTable }
  BucketName: { Value: !Ref DocumentsBucket }
  ScratchName: { Value: !Ref ScratchBucket }
  CodeName: { Value: !Ref Code }
"""


class Session:
    """A boto3 session of the emulator."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint

    def client(self, service: str) -> Any:
        return client(self._endpoint, ACCOUNT, service)


class Rig:
    """The commands, with artefacts named after what the code says."""

    def __init__(self, session: Session, environ: Mapping[str, str]) -> None:
        self.session, self.delivery = session, Delivery(session, environ, poll=0.05)

    def artifact(self, code: str, stage: str = "dev", template: str = TEMPLATE) -> str:
        """Keep an artefact as `package` does; return its key."""
        self.delivery.artifacts(stage).keep(code, template.replace("CODE", code), f"1.0.{code}")
        return code

    def deploy(self, code: str, stage: str = "dev", *extra: str, template: str = TEMPLATE) -> None:
        self.delivery.deploy(stage, self.artifact(code, stage, template), extra)

    def client(self, service: str) -> Any:
        return self.session.client(service)

    def status(self, stage: str = "dev") -> str | None:
        return self.delivery.stack(f"orders-{stage}").status()

    def outputs(self, stage: str = "dev") -> dict[str, str]:
        return self.delivery.stack(f"orders-{stage}").outputs()

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

    def orders(self, table: str) -> int:
        return int(self.client("dynamodb").scan(TableName=table)["Count"])

    def exists(self, bucket: str) -> bool:
        return bucket in {b["Name"] for b in self.client("s3").list_buckets()["Buckets"]}

    def tables(self, stage: str) -> list[str]:
        names = self.client("dynamodb").list_tables()["TableNames"]
        return [name for name in names if name.startswith(f"orders-{stage}-")]


@pytest.fixture
def rig(bare_aws: EmbeddedAws) -> Rig:
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
        with pytest.raises(DeliveryError, match="Failure"):
            rig.deploy("a", stage, "Broken=true")
        assert rig.status(stage) == "ROLLBACK_COMPLETE"
        assert rig.delivery.records(stage) == []
        assert len(rig.tables(stage)) == 1
        capsys.readouterr()
        rig.deploy("a", stage)
        said = capsys.readouterr().out
        for what in ("OrdersTable", "DocumentsBucket", "DataKey"):
            assert re.search(rf"{what} \(.*\): (removed|gone in 7 days)", said), (
                "what it left, empty, goes too"
            )
        assert rig.status(stage) == "CREATE_COMPLETE"
        assert rig.tables(stage) == [rig.outputs(stage)["TableName"]]

    @pytest.mark.parametrize("where", ["table", "bucket", "unknown"])
    def test_a_failed_first_one_that_holds_data_is_left_alone(
        self, rig: Rig, stage: str, where: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(DeliveryError):
            rig.deploy("a", stage, "Broken=true")
        left = {
            k.logical_id: k.physical_id for k in rig.delivery._retained(rig.delivery.stack(f"orders-{stage}"))
        }
        assert set(left) == {"OrdersTable", "DocumentsBucket", "DataKey"}
        if where == "table":
            rig.client("dynamodb").put_item(TableName=left["OrdersTable"], Item={"pk": {"S": "order#1"}})
        elif where == "bucket":
            rig.client("s3").put_object(Bucket=left["DocumentsBucket"], Key="receipts/1.html", Body=b"1")
        else:  # no right to look
            denied = ClientError({"Error": {"Code": "AccessDeniedException"}}, "Scan")
            monkeypatch.setattr(Data, "_table_holds", lambda *_: (_ for _ in ()).throw(denied))
        with pytest.raises(DeliveryError, match="left alone"):
            rig.deploy("a", stage)
        assert rig.status(stage) == "ROLLBACK_COMPLETE"

    def test_a_failed_update_is_kept_with_its_data_and_mended(self, rig: Rig, stage: str) -> None:
        rig.deploy("a", stage)
        rig.place(stage)
        table = rig.outputs(stage)["TableName"]
        with pytest.raises(DeliveryError, match="Failure"):
            rig.deploy("b", stage, "Broken=true")
        assert rig.status(stage) == "UPDATE_ROLLBACK_COMPLETE"
        assert rig.code(stage) == "a"
        assert rig.orders(table) == 1
        rig.deploy("b", stage)
        assert rig.code(stage) == "b"
        assert rig.outputs(stage)["TableName"] == table
        assert rig.orders(table) == 1

    def test_an_artefact_that_is_not_there_is_refused(self, rig: Rig, stage: str) -> None:
        with pytest.raises(DeliveryError, match="no artefact"):
            rig.delivery.deploy(stage, "f" * 32, [])
        assert rig.status(stage) is None

    def test_an_unknown_parameter_is_refused_before_anything_is_done(self, rig: Rig, stage: str) -> None:
        with pytest.raises(DeliveryError, match="Runtme"):
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
        with pytest.raises(DeliveryError, match="no artefact"):
            rig.delivery.deploy("prod", "only-a-preview", [])


class TestRollback:
    def test_goes_back_to_what_ran_before_with_its_parameters(self, rig: Rig, stage: str) -> None:
        rig.deploy("a", stage, "LogRetentionDays=3")
        rig.deploy("b", stage)
        rig.place(stage)
        rig.delivery.rollback(stage)
        assert rig.code(stage) == "a"
        assert rig.delivery.records(stage)[-1].parameters["LogRetentionDays"] == "3"
        assert rig.orders(rig.outputs(stage)["TableName"]) == 1
        with pytest.raises(DeliveryError, match="no earlier"):
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
        self, rig: Rig, stage: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        rig.deploy("a", stage)
        rig.place(stage)
        out = rig.outputs(stage)
        rig.delivery.destroy(stage, yes=True, data=True)
        assert rig.status(stage) is None
        assert rig.tables(stage) == []
        assert not rig.exists(out["BucketName"])
        assert "gone in 7 days" in capsys.readouterr().out

    @pytest.mark.parametrize(("typed", "goes"), [("orders-{}", True), ("yes", False), (None, False)])
    def test_asks_for_the_name(
        self, rig: Rig, stage: str, monkeypatch: pytest.MonkeyPatch, typed: str | None, goes: bool
    ) -> None:
        rig.deploy("a", stage)
        monkeypatch.setattr(command, "_ask", lambda _: typed.format(stage) if typed else None)
        if goes:
            rig.delivery.destroy(stage, yes=False, data=False)
        else:
            with pytest.raises(DeliveryError, match="nothing was done"):
                rig.delivery.destroy(stage, yes=False, data=False)
        assert (rig.status(stage) is None) == goes

    def test_production_asks_is_protected_and_keeps_its_data(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rig.deploy(
            "a",
            "prod",
            template=TEMPLATE.replace(
                "LogRetentionDays:", "NetworkEgress: { Type: String }\n  LogRetentionDays:"
            ),
        )
        rig.place("prod")
        out = rig.outputs("prod")
        described = rig.delivery.stack("orders-prod").describe()
        assert described is not None
        assert described["EnableTerminationProtection"]
        for refused in ({"yes": True, "data": False}, {"yes": False, "data": True}):
            monkeypatch.setattr(command, "_ask", lambda _: "orders-prod")
            with pytest.raises(DeliveryError, match="not for production"):
                rig.delivery.destroy("prod", **refused)
        rig.delivery.destroy("prod", yes=False, data=False)
        assert rig.status("prod") is None
        assert rig.orders(out["TableName"]) == 1

    def test_what_is_not_there_needs_no_destroying(self, rig: Rig, stage: str) -> None:
        rig.delivery.destroy(stage, yes=True, data=False)


def test_sweep_removes_previews_of_closed_pull_requests_with_their_data(rig: Rig, stage: str) -> None:
    for each in ("preview3", "preview4", stage):
        rig.deploy("a", each)
    rig.place("preview3")
    rig.delivery.sweep([4])
    assert rig.status("preview3") is None
    assert rig.tables("preview3") == []
    assert rig.status("preview4") == "CREATE_COMPLETE"
    assert rig.status(stage) == "CREATE_COMPLETE"
    rig.delivery.sweep([])
    assert rig.status("preview4") is None


def test_results_are_handed_to_the_workflow(
    bare_aws: EmbeddedAws, rig: Rig, stage: str, tmp_path: Any
) -> None:
    outputs = tmp_path / "outputs"
    environ = {"ARTIFACT_BUCKET": "orders-artifacts", "GITHUB_OUTPUT": str(outputs)}
    told = Rig(rig.session, environ)
    told.deploy("a", stage)
    told.deploy("a", stage)
    assert outputs.read_text().splitlines() == [
        *("artifact=a", "api_url=http://127.0.0.1/", "changed=true"),
        *("artifact=a", "api_url=http://127.0.0.1/", "changed=false"),
    ]


def test_without_a_bootstrap_it_says_what_to_do(bare_aws: EmbeddedAws) -> None:
    with pytest.raises(DeliveryError, match="make bootstrap"):
        Delivery(Session(bare_aws.endpoint), {}).package("dev", force=False)


def test_the_bootstrap_is_made_once_and_found_by_the_other_commands(
    bare_aws: EmbeddedAws, capsys: pytest.CaptureFixture[str]
) -> None:
    delivery = Delivery(Session(bare_aws.endpoint), {}, poll=0.05)
    # The emulator has no AWS::IAM::OIDCProvider, so it is given one.
    provider = f"arn:aws:iam::{ACCOUNT}:oidc-provider/token.actions.githubusercontent.com"
    parameters = ["Repository=acme/orders", f"OidcProviderArn={provider}"]
    with pytest.raises(DeliveryError, match="Repository="):
        delivery.bootstrap([])
    delivery.bootstrap(parameters)
    assert "DevRoleArn: arn:aws:iam::" in capsys.readouterr().out
    delivery.bootstrap(parameters)
    assert "nothing to change" in capsys.readouterr().out
    artifacts = delivery.artifacts("dev")
    assert artifacts.bucket.startswith("orders-bootstrap-")
    assert "imagerepository" in artifacts.repository
    delivery.stack("orders-bootstrap").delete()
