"""Least privilege, proven: every permission is needed, and nothing beyond them is granted.

The stack of template.yaml, with its nested ones, is deployed to the emulator with IAM enforced. Each role's
real statements, as deployed, are put on a role of ours, whose session does what that role is for
(`scenario.py`). Then they are taken away one action (and one resource) at a time, and a named step has to
fail; `make permission-tests` prints which. Roles and statements are found in the templates: a new one needs
no line here, but a step that fails without it.

The emulator does not ask for KMS permissions when a service uses a key for a caller, and has no X-Ray. Those
statements are judged by an evaluator of policies, against the calls that AWS documents. So are the roles that
only AWS's own services take. The roles of bootstrap/ have tests/delivery.
"""

from __future__ import annotations

import copy
import json
import os
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from botocore.exceptions import BotoCoreError, ClientError
from localcloud.running import REGION, ROOT, running_emulator
from scripts.permissions import Role, functions_of, roles
from scripts.whole_stack import choices, resources_of, text_of
from tests.delivery.iam import allowed
from tests.privileges import scenario
from tests.privileges.scenario import Rejected, Use, World

from app.core.settings import Settings

pytestmark = [pytest.mark.xdist_group("privileges"), pytest.mark.timeout(300)]

# Conditions on what the local AWS emulator does not tell its policies; the evaluator judges them.
UNKNOWN_THERE = {"kms:MacAlgorithm"}
TRIED, JUDGED = scenario.tried(), scenario.judged()

Document = dict[str, Any]
Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The stack with IAM enforced, what the scenarios find in it, and a role to try statements on."""
    template = _over_plain_http(tmp_path_factory.mktemp("stack"))
    with running_emulator(template, auth=True) as aws, pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("AWS_", "APP_"))]:
            patch.delenv(name)
        world = World(aws, Settings.from_env(aws.environ | {"APP_AUTH_ISSUER": ""}), {})
        world.names.update((path, name) for path, _, name in _deployed(world))
        world.tried = aws.environ | _session(world)
        for name, value in world.tried.items():
            patch.setenv(name, value)
        try:
            _furnish(world)
            yield world
        finally:
            world.close()


def _deployed(world: World, stack: str = "orders-local", prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield path, type and physical name of every resource of a stack and of its nested stacks."""
    described = world.root("cloudformation").describe_stack_resources(StackName=stack)
    for each in described["StackResources"]:
        path, kind, name = (
            prefix + each["LogicalResourceId"],
            each["ResourceType"],
            each["PhysicalResourceId"],
        )
        yield path, kind, name
        if kind == "AWS::CloudFormation::Stack":
            yield from _deployed(world, name, f"{path}.")


def _furnish(world: World) -> None:
    _grant(world, _document(world, "AppPolicy"))
    world.order_id = scenario.place_order(world)
    scenario.place_order(world)  # a second page
    world.product_id = scenario.add_product(world)
    scenario.upload(world)
    world.root("s3").put_object(
        Bucket=world.settings.bucket_name,
        Key=f"receipts/{world.order_id}.html",
        Body=b"<p>",
        ServerSideEncryption="aws:kms",
        SSEKMSKeyId=world.settings.kms_key_arn,
    )
    for group in {scenario.log_group_of(function) for function in scenario.functions()}:
        world.root("logs").create_log_stream(logGroupName=world.names[group], logStreamName="ready")


def _over_plain_http(directory: Path) -> Path:
    """Copy the templates without the rejection of plain HTTP, for the local AWS emulator has no TLS."""
    rejection = re.compile(r"^( +)- Sid: RefusePlainHttp\n(?:\1 .*\n)+", re.MULTILINE)
    removed = 0
    for path in {each.template for each in resources_of().values()}:
        text, found = rejection.subn("", (ROOT / path).read_text())
        removed += found
        (directory / path).parent.mkdir(exist_ok=True)
        (directory / path).write_text(text)
    assert removed, "documents, access logs, queues"
    return directory / "template.yaml"


def _session(world: World) -> dict[str, str]:
    trust = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}
    role = world.root("iam").create_role(
        RoleName="tried", AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    )["Role"]
    keys = world.root("sts").assume_role(RoleArn=role["Arn"], RoleSessionName="scenario")["Credentials"]
    return {
        "AWS_ACCESS_KEY_ID": keys["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": keys["SecretAccessKey"],
        "AWS_SESSION_TOKEN": keys["SessionToken"],
    }


def _document(world: World, path: str) -> Document:
    """Return the statements as deployed: every reference resolved."""
    iam, name = world.root("iam"), world.names[path]
    if resources_of()[path].type == "AWS::IAM::ManagedPolicy":
        version = iam.get_policy(PolicyArn=name)["Policy"]["DefaultVersionId"]
        documents = [iam.get_policy_version(PolicyArn=name, VersionId=version)["PolicyVersion"]["Document"]]
    else:
        inline = iam.list_role_policies(RoleName=name)["PolicyNames"]
        documents = [iam.get_role_policy(RoleName=name, PolicyName=each)["PolicyDocument"] for each in inline]
    statements = [each for document in documents for each in document["Statement"]]
    return {"Version": "2012-10-17", "Statement": statements}


def _grant(world: World, document: Document) -> None:
    granted = copy.deepcopy(document)
    for statement in granted["Statement"]:
        for operator, keys in statement.get("Condition", {}).items():
            known = {key: value for key, value in keys.items() if key not in UNKNOWN_THERE}
            statement["Condition"] = {operator: known} if known else {}
        statement["Resource"] = [_as_named_there(each) for each in _listed(statement["Resource"])]
    if not granted["Statement"]:
        granted["Statement"] = [{"Effect": "Deny", "Action": "none:None", "Resource": "*"}]
    world.root("iam").put_role_policy(
        RoleName="tried", PolicyName="tried", PolicyDocument=json.dumps(granted)
    )


def _as_named_there(resource: str) -> str:
    """Name a resource as the emulator does: no version or log stream at the end, and no streams at all.

    `test_what_the_local_aws_cannot_tell_apart` has the evaluator judge what that leaves out.
    """
    if resource.startswith(("arn:aws:logs:", "arn:aws:lambda:")):
        return resource.removesuffix(":*")
    return "*" if "/stream/" in resource else resource


def _failing(world: World, role: Role) -> list[str]:
    failed = []
    for name, step in scenario.work_of(role).steps.items():
        try:
            step(world)
        except (Rejected, ClientError, BotoCoreError, httpx.HTTPError):
            failed.append(name)
    return failed


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _without_each_permission(document: Document) -> Iterator[tuple[str, str, Document]]:
    """Yield the document without one action, or one resource where there are several."""
    for number, statement in enumerate(document["Statement"]):
        for part in ("Action", "Resource"):
            values = _listed(statement[part])
            if part == "Resource" and len(values) == 1:
                continue
            for value in values:
                mutated = copy.deepcopy(document)
                mutated["Statement"][number][part] = [other for other in values if other != value]
                if not mutated["Statement"][number][part]:
                    del mutated["Statement"][number]
                yield statement["Sid"], value, mutated


def _call(world: World, use: Use) -> tuple[str, str, dict[str, str]]:
    """Return the action of a use, what it is on, and what IAM is told: for which resource the key is used.

    https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/encryption.usagenotes.html
    https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucket-key.html
    https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-key-management.html
    https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars-encryption.html
    """
    if not use.on:
        return use.action, "*", {}
    key, name = world.settings.kms_key_arn, world.names[use.on]
    prefix, _, _ = key.partition(":key/")
    account = prefix.split(":")[4]
    if resources_of()[use.on].type == "AWS::KMS::Key":
        return use.action, f"{prefix}:key/{name}", {"kms:MacAlgorithm": "HMAC_SHA_256"}
    service, context, value = {
        "AWS::DynamoDB::Table": ("dynamodb", "dynamodb:tableName", name),
        "AWS::S3::Bucket": ("s3", "s3:arn", f"arn:aws:s3:::{name}"),
        "AWS::SQS::Queue": ("sqs", "sqs:arn", f"arn:aws:sqs:{REGION}:{account}:{name.rsplit('/', 1)[-1]}"),
        "AWS::Serverless::Function": (  # which names itself in no kms:ViaService
            "",
            "lambda:FunctionArn",
            f"arn:aws:lambda:{REGION}:{account}:function:{name}",
        ),
    }[resources_of()[use.on].type]
    via = {"kms:ViaService": f"{service}.{REGION}.amazonaws.com"} if service else {}
    return use.action, key, via | {f"kms:EncryptionContext:aws:{context}": value}


def _allowed(world: World, document: Document, use: Use) -> bool:
    action, resource, context = _call(world, use)
    return allowed(document["Statement"], action, resource, **context)


def _of_service_role(role: Role) -> Document:
    """Return the statements of a role of AWS's own services, every reference resolved."""
    statements = copy.deepcopy(role.statements)
    for statement in statements:
        statement["Resource"] = [scenario.stand_in(each) for each in choices(statement["Resource"])]
    return {"Statement": statements}


def _path(role: Role) -> str:
    return role.path


def test_every_role_of_the_stack_is_tried_or_judged_or_has_no_statements(world: World) -> None:
    deployed = {path for path, kind, _ in _deployed(world) if kind.startswith("AWS::IAM::")}
    assert deployed <= resources_of().keys(), "made by SAM: its statements stand in no template"
    policies = {role.path for role in TRIED if not role.principal}
    assert scenario.WORK.keys() <= policies | set(map(scenario.handler_of, scenario.functions()))
    assert scenario.SERVICE_CALLS.keys() <= {role.principal for role in JUDGED}
    for role in roles():
        assert len({each["Sid"] for each in role.statements}) == len(role.statements)
        if role not in TRIED + JUDGED:
            properties = role.resource.properties
            assert properties.keys() - {"PermissionsBoundary"} == {
                "AssumeRolePolicyDocument",
                "ManagedPolicyArns",
            }
            carried = set(map(text_of, properties["ManagedPolicyArns"]))
            assert all(":iam::aws:policy/" in each or each == "AppPolicy" for each in carried)


@pytest.mark.parametrize("role", JUDGED, ids=_path)
def test_what_services_take_suffices_and_is_for_our_things_only(role: Role) -> None:
    statements = _of_service_role(role)["Statement"]
    for step, action, resource in scenario.SERVICE_CALLS.get(role.principal, []):
        assert allowed(statements, action, resource), step
        if resource in scenario.OURS:
            other = (
                resource.replace("/images", "/other").replace("orders-local", "other").replace("1a2b", "3c4d")
            )
            assert not allowed(statements, action, other), step


@pytest.mark.parametrize("role", TRIED, ids=_path)
def test_the_real_statements_suffice(world: World, role: Role) -> None:
    document = _document(world, role.path)
    _grant(world, document)
    assert _failing(world, role) == []
    for use in scenario.work_of(role).uses:
        assert _allowed(world, document, use), use


def test_without_any_every_step_fails(world: World) -> None:
    _grant(world, {"Version": "2012-10-17", "Statement": []})
    for role in TRIED:
        assert _failing(world, role) == list(scenario.work_of(role).steps)


@pytest.mark.parametrize("role", TRIED, ids=_path)
def test_every_permission_is_needed(world: World, role: Role, record_property: Record) -> None:
    for sid, removed, mutated in _without_each_permission(_document(world, role.path)):
        if removed.startswith(("kms:", "xray:")) and removed != "kms:GenerateMac":
            failed = [use.step for use in scenario.work_of(role).uses if not _allowed(world, mutated, use)]
            record_property("removed", _line(role, sid, removed, "judged", failed))
        else:
            _grant(world, mutated)
            failed = _failing(world, role)
            record_property("removed", _line(role, sid, removed, "tried", failed))
        assert failed, f"no step needs {removed} of {sid}"


@pytest.mark.parametrize("role", JUDGED, ids=_path)
def test_every_permission_of_a_service_is_needed(role: Role, record_property: Record) -> None:
    for sid, removed, mutated in _without_each_permission(_of_service_role(role)):
        calls = scenario.SERVICE_CALLS.get(role.principal, [])
        failed = [step for step, *call in calls if not allowed(mutated["Statement"], *call)]
        record_property("removed", _line(role, sid, removed, "judged", failed))
        assert failed, f"no step needs {removed} of {sid}"


def _line(role: Role, sid: str, removed: str, how: str, failed: list[str]) -> str:
    return f"{role.path} {sid} without {removed} ({how}): {'; '.join(dict.fromkeys(failed))}"


Call = Callable[[], Any]


def _forbidden(world: World) -> dict[str, tuple[Call, Call]]:
    """Calls that nobody's statements may allow: by name, the same call as the role and as root."""
    settings, names = world.settings, world.names
    consumer, queue = next(
        (each, names[path]) for each in scenario.functions() for path, _ in scenario.events_of(each, "SQS")
    )
    key = {"pk": {"S": "order#x"}}

    def both(service: str, operation: str, **request: Any) -> tuple[Call, Call]:
        return (
            lambda: getattr(world.client(service), operation)(**request),
            lambda: getattr(world.root(service), operation)(**request),
        )

    event = {"Source": "orders", "DetailType": "OrderPlaced", "Detail": "{}"}
    bucket, other = settings.bucket_name, "somebody-elses"
    return {
        "read another table": both("dynamodb", "get_item", TableName=other, Key=key),
        "write another table": both("dynamodb", "put_item", TableName=other, Item=key),
        "scan the table": both("dynamodb", "scan", TableName=settings.table_name),
        "delete an order": both("dynamodb", "delete_item", TableName=settings.table_name, Key=key),
        "export the table": both("dynamodb", "describe_continuous_backups", TableName=settings.table_name),
        "alter the table": both(
            "dynamodb", "update_table", TableName=settings.table_name, BillingMode="PAY_PER_REQUEST"
        ),
        "read another bucket": both("s3", "get_object", Bucket=other, Key="x"),
        "write another bucket": both("s3", "put_object", Bucket=other, Key="x", Body=b"x"),
        "delete a document": both("s3", "delete_object", Bucket=bucket, Key="receipts/none"),
        "write outside the prefixes": both("s3", "put_object", Bucket=bucket, Key="other/x", Body=b"x"),
        "read outside the prefixes": both("s3", "get_object", Bucket=bucket, Key="other/x"),
        "change the bucket's policy": both("s3", "get_bucket_policy", Bucket=bucket),
        "read the access logs": both("s3", "list_objects_v2", Bucket=names["AccessLogsBucket"]),
        "decrypt by itself": both("kms", "decrypt", KeyId=settings.kms_key_arn, CiphertextBlob=b"x"),
        "use another key": both("kms", "generate_data_key", KeyId="alias/other", KeySpec="AES_256"),
        "end a key": both("kms", "describe_key", KeyId=settings.kms_key_arn),
        "put to the default bus": both("events", "put_events", Entries=[event | {"EventBusName": "default"}]),
        "read the stack's roles": both("iam", "list_roles"),
        "send to a consumer's queue": both("sqs", "send_message", QueueUrl=queue, MessageBody="x"),
        "empty a queue": both("sqs", "purge_queue", QueueUrl=queue),
        "read the logs": both(
            "logs",
            "get_log_events",
            logGroupName=names[scenario.log_group_of(consumer)],
            logStreamName="x",
        ),
        "call a function": both("lambda", "invoke", FunctionName=names[consumer.path], Payload=b"{}"),
        "delete the table": both("dynamodb", "delete_table", TableName=settings.table_name),
    }


def _code(call: Call) -> str:
    try:
        call()
    except ClientError as rejected:
        return str(rejected.response["Error"]["Code"])
    return ""


@pytest.fixture(scope="module")
def others(world: World) -> None:
    """What is somebody else's."""
    world.root("dynamodb").create_table(
        TableName="somebody-elses",
        AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
        BillingMode="PAY_PER_REQUEST",
    )
    world.root("s3").create_bucket(Bucket="somebody-elses")
    key = world.root("kms").create_key()["KeyMetadata"]["KeyId"]
    world.root("kms").create_alias(AliasName="alias/other", TargetKeyId=key)


@pytest.mark.parametrize("role", TRIED, ids=_path)
def test_what_is_not_granted_is_rejected(world: World, others: None, role: Role) -> None:
    _grant(world, _document(world, role.path))
    let_in = [name for name, (call, _) in _forbidden(world).items() if "AccessDenied" not in _code(call)]
    assert let_in == []


def test_the_rejected_calls_are_rejected_for_the_lack_of_permission(world: World, others: None) -> None:
    """A role with every permission is allowed each call: so the rejections above come from the statements."""
    rejected = [
        name
        for name, (_, call) in _forbidden(world).items()
        if name not in {"call a function", "delete the table", "empty a queue"}
        and "AccessDenied" in _code(call)
    ]
    assert rejected == []


def test_the_data_key_serves_the_stacks_own_services_only(world: World) -> None:
    """KMS: by the evaluator, for the local AWS emulator does not ask."""
    key, other = world.settings.kms_key_arn, f"arn:aws:kms:{REGION}:000000000000:key/{uuid.uuid4()}"
    for role in TRIED:
        statements = _document(world, role.path)["Statement"]
        for action in (
            "kms:Decrypt",
            "kms:GenerateDataKey",
            "kms:Encrypt",
            "kms:CreateGrant",
            "kms:PutKeyPolicy",
        ):
            assert not allowed(statements, action, key), (role.path, action)
            assert not allowed(statements, action, key, **{"kms:ViaService": f"ec2.{REGION}.amazonaws.com"})
        for use in scenario.work_of(role).uses:
            action, own, context = _call(world, use)
            if not context:
                continue
            assert not allowed(statements, action, other, **context)
            for name in context:
                changed = context | {name: "other"}
                assert not allowed(statements, action, own, **changed), (role.path, name)


def test_what_the_local_aws_cannot_tell_apart(world: World) -> None:
    (relay,), (name,) = zip(
        *(
            (_document(world, role.path)["Statement"], name)
            for role in TRIED
            for function in functions_of(role)
            for name, _ in scenario.events_of(function, "DynamoDB")
        ),
        strict=True,
    )
    stream = scenario.stream_of(world, name)
    table, label = stream.split("/stream/")
    for action in ("DescribeStream", "GetRecords", "GetShardIterator"):
        assert allowed(relay, f"dynamodb:{action}", stream)
        assert not allowed(relay, f"dynamodb:{action}", f"{table}-other/stream/{label}")
    assert not allowed(relay, "dynamodb:ListStreams", f"{table}-other/stream/{label}")
    bus = next(s["Resource"] for s in relay if s["Sid"] == "PublishOrderEvents")
    assert allowed(relay, "events:PutEvents", bus, **{"events:source": "orders"})
    assert not allowed(relay, "events:PutEvents", bus, **{"events:source": "aws.orders"})
