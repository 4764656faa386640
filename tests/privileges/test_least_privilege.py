"""Least privilege, proven: every permission is needed, and nothing beyond them is granted.

The stack of template.yaml is deployed to the emulator with IAM enforced. Each role's real statements, as
deployed, are put on a role of ours, whose session does what that role is for (`scenario.py`). Then they are
taken away one action (and one resource) at a time, and a named step has to fail. The outcome is
docs/security-mutations.md; `make permission-tests` writes it anew.

The emulator does not ask for KMS permissions when a service uses a key for a caller, and has no X-Ray. Those
statements are judged by an evaluator of policies, against the calls that AWS documents; the table marks them.
So are the roles that only AWS's own services take. The roles of bootstrap/ have tests/delivery.
"""

from __future__ import annotations

import copy
import json
import os
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from botocore.exceptions import BotoCoreError, ClientError
from localcloud.running import REGION, ROOT, running_emulator
from tests.delivery.iam import allowed
from tests.privileges import scenario
from tests.privileges.scenario import Rejected, Step, World
from tests.template.templates import template

from app.core.settings import Settings

pytestmark = [pytest.mark.xdist_group("privileges"), pytest.mark.timeout(300)]

TABLE = ROOT / "docs" / "security-mutations.md"
# Conditions on what the local AWS emulator does not tell its policies; the evaluator judges them.
UNKNOWN_THERE = {"kms:MacAlgorithm"}

Document = dict[str, Any]


@dataclass(frozen=True)
class Role:
    """Where a role's statements stand in the stack, and the scenario that needs them."""

    resource: str
    steps: Callable[[World], AbstractContextManager[dict[str, Step]]]


ROLES = [
    Role("AppPolicy", scenario.api),
    Role("ApiFunctionRole", scenario.api_log),
    Role("RelayFunctionRole", scenario.relay),
    Role("ReceiptsFunctionRole", scenario.receipts),
    Role("ImageVersionFunctionRole", scenario.image_version),
]

_IMAGES = f"arn:aws:ecr:{REGION}:000000000000:repository/images"
_GROUPS = f"arn:aws:logs:{REGION}:000000000000:log-group:"
_GROUP = f"{_GROUPS}/orders-local/any:*"  # as GetAtt gives it
_STREAM = f"{_GROUPS}/orders-local/any:log-stream:1"
_SECRET = f"arn:aws:secretsmanager:{REGION}:000000000000:secret:OriginSecret-1a2b"
# Roles that only services of AWS take: the step, and the call that the service makes.
SERVICE_ROLES: dict[tuple[str, str], list[tuple[str, str, str]]] = {
    # https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task_execution_IAM_role.html
    ("fargate/template.yaml", "ExecutionRole"): [
        ("log in to the registry", "ecr:GetAuthorizationToken", "*"),
        ("look for the layers", "ecr:BatchCheckLayerAvailability", _IMAGES),
        ("fetch the image", "ecr:BatchGetImage", _IMAGES),
        ("fetch the layers", "ecr:GetDownloadUrlForLayer", _IMAGES),
        ("open a log stream", "logs:CreateLogStream", _STREAM),
        ("write the log", "logs:PutLogEvents", _STREAM),
        ("read the origin secret", "secretsmanager:GetSecretValue", _SECRET),
    ],
    # https://docs.aws.amazon.com/vpc/latest/userguide/flow-logs-iam-role.html
    ("fargate/network.yaml", "FlowLogRole"): [
        ("find the log group", "logs:DescribeLogGroups", f"{_GROUPS}:log-stream:"),
        ("find a log stream", "logs:DescribeLogStreams", _GROUP),
        ("open a log stream", "logs:CreateLogStream", _STREAM),
        ("write the log", "logs:PutLogEvents", _STREAM),
    ],
}
# What those templates are given or make.
_REFERENCES = {
    "ImageRepositoryArn": _IMAGES,
    "LogGroupArn": _GROUP,
    "FlowLogGroup.Arn": _GROUP,
    "OriginSecretArn": _SECRET,
    "AWS::Partition": "aws",
    "AWS::Region": REGION,
    "AWS::AccountId": "000000000000",
}
# No statements of their own: CodeDeploy's and AWS Backup's have AWS's policies, the task's the application's.
BARE_ROLES = {
    ("template.yaml", "DeploymentRole"),
    ("fargate/template.yaml", "TaskRole"),
    ("backup/template.yaml", "BackupRole"),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The stack with IAM enforced, what the scenarios find in it, and a role to try statements on."""
    template = _over_plain_http(tmp_path_factory.mktemp("stack"))
    with running_emulator(template, auth=True) as aws, pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("AWS_", "APP_"))]:
            patch.delenv(name)
        world = World(aws, Settings.from_env(aws.environ | {"APP_AUTH_ISSUER": ""}))
        world.tried = aws.environ | _session(world)
        for name, value in world.tried.items():
            patch.setenv(name, value)
        _furnish(world)
        yield world
        world.close()


def _furnish(world: World) -> None:
    described = world.root("dynamodb").describe_table(TableName=world.settings.table_name)["Table"]
    world.stream = described["LatestStreamArn"]
    _grant(world, _document(world, "AppPolicy"))
    with scenario.api(world) as steps:
        world.order_id = steps["place an order, twice with one key"]()
        steps["place an order, twice with one key"]()  # a second page
        world.product_id = steps["add a product"]()
    with scenario.api(world) as steps:
        steps["upload an attachment"]()
    world.root("s3").put_object(
        Bucket=world.settings.bucket_name,
        Key=f"receipts/{world.order_id}.html",
        Body=b"<p>",
        ServerSideEncryption="aws:kms",
        SSEKMSKeyId=world.settings.kms_key_arn,
    )
    for group in ("ApiLogGroup", "RelayLogGroup", "ReceiptsLogGroup", "ImageVersionLogGroup"):
        world.root("logs").create_log_stream(
            logGroupName=world.aws.resources[group], logStreamName=f"ready-{group}"
        )


def _over_plain_http(directory: Path) -> Path:
    """Copy the template without the rejection of plain HTTP, for the local AWS emulator has no TLS."""
    rejection = re.compile(r"^( +)- Sid: RefusePlainHttp\n(?:\1 .*\n)+", re.MULTILINE)
    text, found = rejection.subn("", (ROOT / "template.yaml").read_text())
    assert found == 3, "documents, access logs, queues"
    for nested in {path.parent for path in ROOT.glob("*/template.yaml")}:
        (directory / nested.name).symlink_to(nested)
    copied = directory / "template.yaml"
    copied.write_text(text)
    return copied


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


def _document(world: World, resource: str) -> Document:
    """Return the statements as deployed: every reference resolved."""
    iam, name = world.root("iam"), world.aws.resources[resource]
    if resource.endswith("Policy"):
        version = iam.get_policy(PolicyArn=name)["Policy"]["DefaultVersionId"]
        document = iam.get_policy_version(PolicyArn=name, VersionId=version)["PolicyVersion"]["Document"]
        return dict(document)
    (inline,) = iam.list_role_policies(RoleName=name)["PolicyNames"]
    return dict(iam.get_role_policy(RoleName=name, PolicyName=inline)["PolicyDocument"])


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
    with role.steps(world) as steps:
        for name, step in steps.items():
            try:
                step()
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


def _uses_by_services(world: World, resource: str) -> list[tuple[str, str, str, dict[str, str]]]:
    """List what AWS does with a role beyond its scenario: the step, then the call that a service makes.

    With the data key, for whom it serves; to X-Ray, for a function that is traced.

    https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/encryption.usagenotes.html
    https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucket-key.html
    https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-key-management.html
    """
    settings, key = world.settings, world.settings.kms_key_arn
    account = key.split(":")[4]

    def via(service: str, **context: str) -> dict[str, str]:
        named = {
            f"kms:EncryptionContext:aws:{name.replace('_', ':')}": value for name, value in context.items()
        }
        return {"kms:ViaService": f"{service}.{REGION}.amazonaws.com", **named}

    def queue(output: str) -> dict[str, str]:
        name = world.aws.outputs[output].rsplit("/", 1)[1]
        return via("sqs", sqs_arn=f"arn:aws:sqs:{REGION}:{account}:{name}")

    table = via("dynamodb", dynamodb_tableName=settings.table_name)
    bucket = via("s3", s3_arn=f"arn:aws:s3:::{settings.bucket_name}")
    # https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars-encryption.html
    name = world.aws.resources["ApiFunction"]
    arn = f"arn:aws:lambda:{REGION}:{account}:function:{name}"
    function = {"kms:EncryptionContext:aws:lambda:FunctionArn": arn}
    dead, waiting = queue("RelayDeadLetterQueueUrl"), queue("ReceiptsQueueUrl")
    trace: list[tuple[str, str, str, dict[str, str]]] = [
        ("trace the call", f"xray:Put{what}", "*", {}) for what in ("TelemetryRecords", "TraceSegments")
    ]
    uses: dict[str, list[tuple[str, str, str, dict[str, str]]]] = {
        "AppPolicy": [
            ("get an order", "kms:Decrypt", key, table),
            ("download an attachment", "kms:Decrypt", key, bucket),
            ("upload an attachment", "kms:GenerateDataKey", key, bucket),
            (
                "turn to the next page",
                "kms:GenerateMac",
                settings.cursor_key_arn,
                {"kms:MacAlgorithm": "HMAC_SHA_256"},
            ),
        ],
        "ApiFunctionRole": [*trace, ("read the environment", "kms:Decrypt", key, function)],
        "RelayFunctionRole": [
            *trace,
            ("read the stream", "kms:Decrypt", key, table),
            ("set a failed batch aside", "kms:GenerateDataKey", key, dead),
            ("set a failed batch aside", "kms:Decrypt", key, dead),
        ],
        "ReceiptsFunctionRole": [
            *trace,
            ("take a message", "kms:Decrypt", key, waiting),
            ("write a receipt", "kms:GenerateDataKey", key, bucket),
        ],
    }
    return uses.get(resource, [])


def _of_service_role(path: str, name: str) -> Document:
    """Return the statements of a role of AWS's own services, every reference resolved."""

    def resolved(value: Any) -> Any:
        if isinstance(value, dict):
            ((function, argument),) = value.items()
            if function == "Fn::Sub":
                return re.sub(r"\$\{([\w:.]+)\}", lambda found: _REFERENCES[found[1]], argument)
            return _REFERENCES[argument if function == "Ref" else ".".join(argument)]
        return value

    (policy,) = template(path)["Resources"][name]["Properties"]["Policies"]
    document: Document = copy.deepcopy(policy["PolicyDocument"])
    document["Statement"] = [
        each["Fn::If"][1] if "Fn::If" in each else each for each in document["Statement"]
    ]
    for statement in document["Statement"]:
        statement["Resource"] = [resolved(each) for each in _listed(statement["Resource"])]
    return document


def test_every_role_of_every_template_has_a_scenario_or_is_judged() -> None:
    kinds = {"AWS::IAM::Role", "AWS::IAM::ManagedPolicy"}
    found = {}
    for file in (ROOT / "template.yaml", *ROOT.glob("[a-z]*/*.yaml")):
        path = file.relative_to(ROOT).as_posix()
        resources = template(path).get("Resources", {}) if not path.startswith("bootstrap/") else {}
        found |= {(path, name): each for name, each in resources.items() if each["Type"] in kinds}
    assert found.keys() == {("template.yaml", r.resource) for r in ROLES} | SERVICE_ROLES.keys() | BARE_ROLES
    for role in BARE_ROLES:
        properties = found[role]["Properties"].keys() - {"PermissionsBoundary"}
        assert properties == {"AssumeRolePolicyDocument", "ManagedPolicyArns"}


@pytest.mark.parametrize("role", SERVICE_ROLES, ids=lambda role: role[1])
def test_what_services_take_suffices_and_is_for_our_things_only(role: tuple[str, str]) -> None:
    statements = _of_service_role(*role)["Statement"]
    for step, action, resource in SERVICE_ROLES[role]:
        assert allowed(statements, action, resource), step
        if resource in (_IMAGES, _GROUP, _STREAM, _SECRET):
            other = (
                resource.replace("/images", "/other").replace("orders-local", "other").replace("1a2b", "3c4d")
            )
            assert not allowed(statements, action, other), step


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.resource)
def test_the_real_statements_suffice(world: World, role: Role) -> None:
    document = _document(world, role.resource)
    _grant(world, document)
    assert _failing(world, role) == []
    for step, action, resource, context in _uses_by_services(world, role.resource):
        assert allowed(document["Statement"], action, resource, **context), (step, action)


def test_without_any_every_step_fails(world: World) -> None:
    _grant(world, {"Version": "2012-10-17", "Statement": []})
    for role in ROLES:
        with role.steps(world) as steps:
            names = list(steps)
        assert _failing(world, role) == names


def test_every_permission_is_needed(world: World) -> None:
    rows, unneeded = [], []
    for role in ROLES:
        for sid, removed, mutated in _without_each_permission(_document(world, role.resource)):
            if removed.startswith(("kms:", "xray:")) and removed != "kms:GenerateMac":
                how = "evaluated"
                failed = [
                    step
                    for step, action, resource, context in _uses_by_services(world, role.resource)
                    if not allowed(mutated["Statement"], action, resource, **context)
                ]
            else:
                how = "enforced"
                _grant(world, mutated)
                failed = _failing(world, role)
            rows.append((role.resource, sid, _short(world, removed), how, "; ".join(dict.fromkeys(failed))))
            if not failed:
                unneeded.append((role.resource, sid, removed))
    for (path, name), calls in SERVICE_ROLES.items():
        for sid, removed, mutated in _without_each_permission(_of_service_role(path, name)):
            failed = [step for step, *call in calls if not allowed(mutated["Statement"], *call)]
            rows.append((name, sid, removed, "evaluated", "; ".join(failed)))
            if not failed:
                unneeded.append((name, sid, removed))
    assert not unneeded
    table = _table(rows)
    if os.environ.get("UPDATE_DOCS"):
        TABLE.write_text(table)
    assert TABLE.read_text() == table, "docs/security-mutations.md is stale: make permission-tests"


def _short(world: World, removed: str) -> str:
    """Name a resource by its logical id: the table is the same for every deployment."""
    for name in ("OrdersTable", "DocumentsBucket"):
        removed = removed.replace(world.aws.resources[name], name)
    return removed.rsplit(":", 1)[1] if removed.startswith("arn:") else removed


def _table(rows: list[tuple[str, ...]]) -> str:
    enforced = sum(row[3] == "enforced" for row in rows)
    lines = [
        "# What fails when a permission is taken away",
        "",
        "Written by `make permission-tests` and kept current by `tests/privileges`. Each row is one action,",
        "or one of several resources, removed from the statements as deployed; the last column names the",
        f"steps that then fail. Of {len(rows)} removals {enforced} are tried on an emulator that enforces",
        "IAM. The others are what a service does for its caller (KMS, X-Ray), or by a role that only it",
        "takes (ECS, flow logs); the emulator does not ask for those: an evaluator of policies judges them",
        "by the calls that AWS documents; only AWS can prove them. The roles of CodeDeploy and AWS Backup",
        "have AWS's own policies.",
        "",
        "| policy or role | statement | removed | how | what fails |",
        "| --- | --- | --- | --- | --- |",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    return "\n".join([*lines, ""])


def _forbidden(world: World) -> dict[str, tuple[str, Step, Step]]:
    """Calls that nobody's statements may allow: by name, the same call as the role and as root."""
    settings, resources = world.settings, world.aws.resources
    key = {"pk": {"S": "order#x"}}

    def both(service: str, operation: str, **request: Any) -> tuple[str, Step, Step]:
        return (
            service,
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
        "read the access logs": both("s3", "list_objects_v2", Bucket=resources["AccessLogsBucket"]),
        "decrypt by itself": both("kms", "decrypt", KeyId=settings.kms_key_arn, CiphertextBlob=b"x"),
        "use another key": both("kms", "generate_data_key", KeyId="alias/other", KeySpec="AES_256"),
        "end a key": both("kms", "describe_key", KeyId=settings.kms_key_arn),
        "put to the default bus": both("events", "put_events", Entries=[event | {"EventBusName": "default"}]),
        "read the stack's roles": both("iam", "list_roles"),
        "send to the receipts queue": both(
            "sqs", "send_message", QueueUrl=world.aws.outputs["ReceiptsQueueUrl"], MessageBody="x"
        ),
        "empty a queue": both("sqs", "purge_queue", QueueUrl=world.aws.outputs["RelayDeadLetterQueueUrl"]),
        "read the logs": both(
            "logs", "get_log_events", logGroupName=resources["ApiLogGroup"], logStreamName="x"
        ),
        "call a function": both(
            "lambda", "invoke", FunctionName=resources["ReceiptsFunction"], Payload=b"{}"
        ),
        "delete the table": both("dynamodb", "delete_table", TableName=settings.table_name),
    }


def _code(step: Step) -> str:
    try:
        step()
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


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.resource)
def test_what_is_not_granted_is_rejected(world: World, others: None, role: Role) -> None:
    _grant(world, _document(world, role.resource))
    let_in = [name for name, (_, call, _) in _forbidden(world).items() if "AccessDenied" not in _code(call)]
    assert let_in == []


def test_the_rejected_calls_are_rejected_for_the_lack_of_permission(world: World, others: None) -> None:
    """A role with every permission is allowed each call: so the rejections above come from the statements."""
    rejected = [
        name
        for name, (_, _, call) in _forbidden(world).items()
        if name not in {"call a function", "delete the table", "empty a queue"}
        and "AccessDenied" in _code(call)
    ]
    assert rejected == []


def test_the_data_key_serves_the_stacks_own_services_only(world: World) -> None:
    """KMS: by the evaluator, for the local AWS emulator does not ask."""
    key, other = world.settings.kms_key_arn, f"arn:aws:kms:{REGION}:000000000000:key/{uuid.uuid4()}"
    for role in ROLES:
        statements = _document(world, role.resource)["Statement"]
        for action in (
            "kms:Decrypt",
            "kms:GenerateDataKey",
            "kms:Encrypt",
            "kms:CreateGrant",
            "kms:PutKeyPolicy",
        ):
            assert not allowed(statements, action, key), (role.resource, action)
            assert not allowed(statements, action, key, **{"kms:ViaService": f"ec2.{REGION}.amazonaws.com"})
        for _, action, _, context in _uses_by_services(world, role.resource):
            if not context:
                continue
            assert not allowed(statements, action, other, **context)
            for name in context:
                assert not allowed(statements, action, key, **context | {name: "other"}), (
                    role.resource,
                    name,
                )


def test_what_the_local_aws_cannot_tell_apart(world: World) -> None:
    relay = _document(world, "RelayFunctionRole")["Statement"]
    table, label = world.stream.split("/stream/")
    for action in ("DescribeStream", "GetRecords", "GetShardIterator"):
        assert allowed(relay, f"dynamodb:{action}", world.stream)
        assert not allowed(relay, f"dynamodb:{action}", f"{table}-other/stream/{label}")
    assert not allowed(relay, "dynamodb:ListStreams", f"{table}-other/stream/{label}")
    bus = next(s["Resource"] for s in relay if s["Sid"] == "PublishOrderEvents")
    assert allowed(relay, "events:PutEvents", bus, **{"events:source": "orders"})
    assert not allowed(relay, "events:PutEvents", bus, **{"events:source": "aws.orders"})
