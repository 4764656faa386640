"""The local AWS emulator itself: what the other suites and `make run` stand on."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from botocore.exceptions import WaiterError
from localcloud.cloud import client
from localcloud.running import Emulator, running_emulator
from scripts.cli import CliError
from tests.local.running import until

# Stands for the project's functions: a relay whose batch stops at a record it cannot take.
_HANDLERS = """
import boto3, os, urllib.request, json

def relay(event, context):
    for record in event["Records"]:
        key = record["dynamodb"]["Keys"]["pk"]["S"]
        if key.startswith("poison"):
            return {"batchItemFailures": [{"itemIdentifier": record["dynamodb"]["SequenceNumber"]}]}
        entry = {"Source": "orders", "DetailType": "OrderPlaced", "Detail": json.dumps({"key": key})}
        boto3.client("events").put_events(Entries=[{**entry, "EventBusName": os.environ["BUS"]}])
    return {"batchItemFailures": []}

def receipts(event, context):
    for record in event["Records"]:
        key = json.loads(record["body"])["detail"]["key"]
        boto3.client("s3").put_object(Bucket=os.environ["BUCKET"], Key=key, Body=b"receipt")

def api(event, context):
    return {"statusCode": 200, "body": event["rawPath"]}

def custom(event, context):
    name, _, version = event["ResourceProperties"]["Version"].rpartition(":")
    code = boto3.client("lambda").get_function(FunctionName=name, Qualifier=version)["Code"]
    answer = {key: event[key] for key in ("StackId", "RequestId", "LogicalResourceId")}
    answer |= {"Status": "SUCCESS", "PhysicalResourceId": "it", "Data": {"Image": code["ResolvedImageUri"]}}
    request = urllib.request.Request(event["ResponseURL"], json.dumps(answer).encode(), method="PUT")
    urllib.request.urlopen(request, timeout=5)
"""
_FUNCTION = """
  %(name)sFunction:
    Type: AWS::Serverless::Function
    Metadata: { Dockerfile: Dockerfile, DockerContext: . }
    Properties:
      PackageType: Image
      ImageConfig: { EntryPoint: [python, -m, awslambdaric], Command: [standins.%(handler)s] }
      Timeout: 20
      AutoPublishAlias: live
      Environment: { Variables: { BUS: !Ref Bus, BUCKET: !Ref Bucket } }
"""
_TEMPLATE = """
AWSTemplateFormatVersion: "2010-09-09"
Transform: AWS::Serverless-2016-10-31
Resources:
  Key: { Type: AWS::KMS::Key, Properties: { KeySpec: HMAC_256, KeyUsage: GENERATE_VERIFY_MAC } }
  Alias: { Type: AWS::KMS::Alias, Properties: { AliasName: alias/standin, TargetKeyId: !Ref Key } }
  Table:
    Type: AWS::DynamoDB::Table
    Properties:
      BillingMode: PAY_PER_REQUEST
      AttributeDefinitions: [{ AttributeName: pk, AttributeType: S }]
      KeySchema: [{ AttributeName: pk, KeyType: HASH }]
      StreamSpecification: { StreamViewType: NEW_AND_OLD_IMAGES }
  Bucket: { Type: AWS::S3::Bucket }
  Bus: { Type: AWS::Events::EventBus, Properties: { Name: orders } }
  Archive: { Type: AWS::Events::Archive, Properties: { SourceArn: !GetAtt Bus.Arn, RetentionDays: 3 } }
  Queue: { Type: AWS::SQS::Queue, Properties: { VisibilityTimeout: 120 } }
  DeadLetters: { Type: AWS::SQS::Queue }
  Rule:
    Type: AWS::Events::Rule
    Properties:
      EventBusName: !Ref Bus
      EventPattern: { source: [orders] }
      Targets: [{ Id: Queue, Arn: !GetAtt Queue.Arn }]
%(functions)s
      Events:
        Any: { Type: HttpApi }
  Image:
    Type: AWS::CloudFormation::CustomResource
    Properties:
      ServiceToken: !GetAtt CustomFunction.Arn
      Version: !Ref ApiFunction.Version
      ServiceTimeout: 20
Outputs:
  Image: { Value: !GetAtt Image.Image }
  ApiUrl: { Value: !GetAtt ServerlessHttpApi.ApiEndpoint }
"""
_RELAY_EVENTS = """
      Events:
        Changes:
          Type: DynamoDB
          Properties:
            Stream: !GetAtt Table.StreamArn
            StartingPosition: TRIM_HORIZON
            BisectBatchOnFunctionError: true
            MaximumRetryAttempts: 1
            FunctionResponseTypes: [ReportBatchItemFailures]
            DestinationConfig: { OnFailure: { Type: SQS, Destination: !GetAtt DeadLetters.Arn } }
"""
_RECEIPTS_EVENTS = """
      Events:
        Queue: { Type: SQS, Properties: { Queue: !GetAtt Queue.Arn } }
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in miniature: a template and its functions' source."""
    directory = tmp_path_factory.mktemp("project")
    (directory / "standins.py").write_text(_HANDLERS)
    functions = (
        _FUNCTION % {"name": "Relay", "handler": "relay"} + _RELAY_EVENTS,
        _FUNCTION % {"name": "Receipts", "handler": "receipts"} + _RECEIPTS_EVENTS,
        _FUNCTION % {"name": "Custom", "handler": "custom"},
        _FUNCTION % {"name": "Api", "handler": "api"},
    )
    (directory / "template.yaml").write_text(_TEMPLATE % {"functions": "".join(functions)})
    return directory


@pytest.fixture(scope="module")
def aws(project: Path) -> Iterator[Emulator]:
    with running_emulator(project / "template.yaml", parameters={}, source=project) as aws:
        yield aws


def _put(aws: Emulator, *keys: str) -> None:
    table = client(aws.endpoint, "dynamodb")
    for key in keys:
        table.put_item(TableName=aws.resources["Table"], Item={"pk": {"S": key}})


def _objects(aws: Emulator) -> set[str]:
    answer = client(aws.endpoint, "s3").list_objects_v2(Bucket=aws.resources["Bucket"])
    return {found["Key"] for found in answer.get("Contents", [])}


def test_listens_on_loopback_only(aws: Emulator) -> None:
    wanted = f":{aws.port:04X}"
    listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines() if " 0A " in line]
    assert [address for address in listening if address.endswith(wanted)] == [f"0100007F{wanted}"]


def test_cursor_key_gives_the_same_mac_every_time(aws: Emulator) -> None:
    request = {"Message": b"cursor", "MacAlgorithm": "HMAC_SHA_256"}
    names = (aws.resources["Key"], aws.resources["Key"], "alias/standin")
    macs = {client(aws.endpoint, "kms").generate_mac(KeyId=name, **request)["Mac"] for name in names}
    assert [len(mac) for mac in macs] == [32]


def test_poison_record_stops_nobody_and_ends_in_the_dead_letter_queue(aws: Emulator) -> None:
    good = {f"good{n}" for n in range(12)}
    _put(aws, *sorted(good)[:5], "poison", *sorted(good)[5:])
    until(lambda: good <= _objects(aws), "the receipts of the good")
    queue = client(aws.endpoint, "sqs")
    request = {"QueueUrl": aws.resources["DeadLetters"], "WaitTimeSeconds": 1}
    (message,) = until(lambda: queue.receive_message(**request).get("Messages"), "the poison")
    failed = json.loads(message["Body"])
    assert failed["requestContext"]["condition"] == "RetryAttemptsExhausted"
    assert failed["DDBStreamBatchInfo"]["batchSize"] == 1  # bisected down to the poison alone


def test_archive_replays_events(aws: Emulator) -> None:
    _put(aws, "again")
    until(lambda: "again" in _objects(aws), "the receipt")
    client(aws.endpoint, "s3").delete_object(Bucket=aws.resources["Bucket"], Key="again")
    bus, now = "arn:aws:events:us-east-1:000000000000:event-bus/orders", time.time()
    archive = bus.replace("event-bus/orders", f"archive/{aws.resources['Archive']}")
    client(aws.endpoint, "events").start_replay(
        ReplayName="once",
        EventSourceArn=archive,
        EventStartTime=now - 600,
        EventEndTime=now + 600,
        Destination={"Arn": bus},
    )
    until(lambda: "again" in _objects(aws), "the receipt")


def test_http_api_reaches_its_function(aws: Emulator) -> None:
    # By the path form, that is: on its own host the emulator answers /health.
    assert httpx.get(aws.outputs["ApiUrl"] + "/health", timeout=20).text == "/health"


def test_custom_resource_gets_the_digest_of_the_published_version(aws: Emulator) -> None:
    repository, _, digest = aws.outputs["Image"].partition("@sha256:")
    assert repository
    assert len(digest) == 64


def test_what_has_not_changed_since_gets_no_second_version(aws: Emulator) -> None:
    """Also after a change that was undone, as by an update that is rolled back.

    https://docs.aws.amazon.com/lambda/latest/api/API_PublishVersion.html
    """
    functions, name = client(aws.endpoint, "lambda"), aws.resources["ApiFunction"]
    before = functions.get_function_configuration(FunctionName=name)["MemorySize"]

    def published_with(memory_mb: int) -> str:
        functions.update_function_configuration(FunctionName=name, MemorySize=memory_mb)
        return str(functions.publish_version(FunctionName=name)["Version"])

    last = published_with(before + 64)
    functions.update_function_configuration(FunctionName=name, MemorySize=before)
    assert published_with(before + 64) == last
    assert published_with(before) != last


def test_functions_follow_their_source(aws: Emulator, project: Path) -> None:
    source = project / "standins.py"
    source.write_text(source.read_text().replace('event["rawPath"]', '"changed"'))
    assert httpx.get(aws.outputs["ApiUrl"] + "/x", timeout=20).text == "changed"


def test_a_restart_loses_no_event(project: Path, tmp_path: Path) -> None:
    def run(key: str) -> None:
        with running_emulator(
            project / "template.yaml", parameters={}, source=project, state=tmp_path / "state"
        ) as aws:
            _put(aws, key)
            until(lambda: key in _objects(aws), "the receipt")

    run("before")
    run("after")


_NESTED = """
Resources:
  Queue: { Type: AWS::SQS::Queue }
  Group:
    Type: AWS::EC2::SecurityGroup
    DependsOn: Queue
    Properties: { GroupDescription: in no VPC, VpcId: vpc-unknown }
"""


def test_a_nested_stack_that_fails_leaves_nothing_behind(aws: Emulator) -> None:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/using-cfn-nested-stacks.html"""
    s3, formation = client(aws.endpoint, "s3"), client(aws.endpoint, "cloudformation")
    s3.put_object(Bucket=aws.resources["Bucket"], Key="nested", Body=_NESTED.encode())
    address = f"{aws.endpoint}/{aws.resources['Bucket']}/nested"
    nested = {"Type": "AWS::CloudFormation::Stack", "Properties": {"TemplateURL": address}}
    stacks = {stack["StackName"] for stack in formation.describe_stacks()["Stacks"]}
    queues = client(aws.endpoint, "sqs").list_queues()["QueueUrls"]

    formation.create_stack(StackName="parent", TemplateBody=json.dumps({"Resources": {"Nested": nested}}))
    with pytest.raises(WaiterError, match="ROLLBACK_COMPLETE"):
        formation.get_waiter("stack_create_complete").wait(StackName="parent", WaiterConfig={"Delay": 1})

    assert {stack["StackName"] for stack in formation.describe_stacks()["Stacks"]} == stacks | {"parent"}
    assert client(aws.endpoint, "sqs").list_queues()["QueueUrls"] == queues
    events = formation.describe_stack_events(StackName="parent")["StackEvents"]
    assert "'vpc-unknown' does not exist" in json.dumps(events, default=str)


def test_template_that_fails_says_why_in_one_line(tmp_path: Path) -> None:
    template = tmp_path / "template.yaml"
    template.write_text("Resources: { Odd: { Type: 'AWS::Odd::Thing' } }")
    with pytest.raises(CliError, match="AWS::Odd::Thing"), running_emulator(template, parameters={}):
        pass
