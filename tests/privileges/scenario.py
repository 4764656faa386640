"""What each role of the stack does, as named steps that raise when a permission is missing.

The API's steps go through the API itself. Lambda's own part (polling the stream and the queue, writing the
log, setting a failed batch aside) happens in no code of ours: those steps make Lambda's calls, and follow
from what the template says of the function. So a new function needs a step for its own work only.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, NamedTuple
from unittest.mock import patch

import boto3
import httpx
from fastapi import FastAPI
from localcloud.issuer import Issuer
from localcloud.running import REGION, Emulator
from scripts.permissions import Role, functions_of, roles
from scripts.whole_stack import Resource, named, resources_of
from tests.builders import AN_ORDER, an_order, placed
from tests.transports import ServerTransport

from app.core.aws.json_client import AwsJsonClient
from app.core.events.publisher import EventBridgePublisher
from app.core.settings import Settings
from app.main import build_app
from app.orders.documents import S3DocumentStore
from app.resources import RESOURCES

ISSUER = Issuer("https://issuer.test")
bearer = ISSUER.bearer
ALICE = bearer("alice", "orders:read orders:write products:read products:write")
ADMIN = bearer("root", "orders:admin products:admin")

Step = Callable[["World"], Any]


class Use(NamedTuple):
    """A call that AWS makes with a role's rights during a step; of a key, with the resource it is for."""

    step: str
    action: str
    on: str = ""  # a path; the key is used for it


class Work(NamedTuple):
    """The steps of a policy or a function, and what AWS does meanwhile with its rights."""

    steps: dict[str, Step]
    uses: tuple[Use, ...] = ()


class Rejected(Exception):
    """A step did not do what it should."""


@dataclass
class World:
    """The stack, and what was put into it before any permission was taken away."""

    aws: Emulator
    settings: Settings
    names: dict[str, str]  # by a resource's path, its physical name
    tried: dict[str, str] = field(default_factory=dict)  # the session that the scenarios run with
    order_id: str = ""
    product_id: str = ""
    _clients: dict[tuple[str, bool], Any] = field(default_factory=dict)
    _lean: list[AwsJsonClient] = field(default_factory=list)

    def client(self, service: str) -> Any:
        """Return a client of the role that is tried."""
        return self._client(service, False)

    def root(self, service: str) -> Any:
        """Return a client that may do everything."""
        return self._client(service, True)

    def _client(self, service: str, root: bool) -> Any:
        environ = self.aws.environ if root else self.tried
        if (service, root) not in self._clients:
            self._clients[service, root] = boto3.Session(
                environ["AWS_ACCESS_KEY_ID"],
                environ["AWS_SECRET_ACCESS_KEY"],
                environ.get("AWS_SESSION_TOKEN"),
                REGION,
            ).client(service, endpoint_url=self.aws.endpoint)
        return self._clients[service, root]

    @cached_property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The one that every call of the API runs on."""
        return asyncio.new_event_loop()

    @cached_property
    def app(self) -> FastAPI:
        """The application, with the credentials that the environment has at its first use."""

        def client(*args: Any, **kwargs: Any) -> AwsJsonClient:
            made = AwsJsonClient(*args, **kwargs)
            self._lean.append(made)
            return made

        with (
            patch("app.main._authenticator", lambda _: ISSUER.authenticator()),
            patch("app.main.AwsJsonClient", client),
        ):
            return build_app(self.settings)

    @cached_property
    def api(self) -> httpx.Client:
        """A client of the API."""
        return httpx.Client(transport=ServerTransport(self.app, self.loop), base_url="http://api.test")

    def get(self, path: str, caller: dict[str, str] = ALICE) -> httpx.Response:
        """Read from the API."""
        return _expect(self.api.get(path, headers=caller), 200)

    def close(self) -> None:
        """Close what the application has open, and the loop."""
        self.api.close()
        for each in self._lean:
            each.close()
        self.loop.run_until_complete(asyncio.sleep(0))  # in which the connections go
        self.loop.close()

    @cached_property
    def documents(self) -> S3DocumentStore:
        """Return the document store of the receipts function, with the function's credentials."""
        return S3DocumentStore(self.settings.bucket_name, self.settings.kms_key_arn, 1)


def _expect(response: httpx.Response, *statuses: int) -> httpx.Response:
    if response.status_code not in statuses:
        raise Rejected(f"{response.request.method} {response.request.url}: {response.status_code}")
    return response


# The application's own work.


def place_order(world: World) -> str:
    """Place an order, and once more under the same key. Return its id."""
    key = {"idempotency-key": uuid.uuid4().hex}
    placed = _expect(world.api.post("/orders", json=AN_ORDER, headers=ALICE | key), 201)
    again = _expect(world.api.post("/orders", json=AN_ORDER, headers=ALICE | key), 201)
    if again.headers.get("idempotent-replayed") != "true":
        raise Rejected("no replay")
    return str(placed.json()["id"])


def _change_status(world: World) -> None:
    for status in ("cancelled", "pending"):  # the second is rejected: that reads the stored order
        path = f"/orders/{world.order_id}/status"
        _expect(world.api.put(path, json={"status": status}, headers=ALICE), 200, 409)


def _next_page(world: World) -> None:
    for name in RESOURCES:
        getattr(world.app.state, name)._cursor_key._key = None  # as a new process, ask for it
    world.get("/orders?limit=1&cursor=" + world.get("/orders?limit=1").json()["next_cursor"])


def upload(world: World) -> None:
    """Upload an attachment."""
    asked = {"name": "note.txt", "content_type": "text/plain"}
    path = f"/orders/{world.order_id}/attachments"
    offer = _expect(world.api.post(path, json=asked, headers=ALICE), 200).json()
    _expect(httpx.post(offer["url"], data=offer["fields"], files={"file": b"hello"}), 200, 201, 204)


def _download(world: World) -> None:
    listed = world.get(f"/orders/{world.order_id}/attachments").json()["items"]
    _expect(httpx.get(listed[0]["url"]), 200)


def _fetch_receipt(world: World) -> None:
    answer = world.api.get(f"/orders/{world.order_id}/receipt", headers=ALICE)
    _expect(httpx.get(_expect(answer, 303).headers["location"]), 200)


def add_product(world: World) -> str:
    """Add a product. Return its id."""
    product = {"name": "Widget", "price_cents": 1999, "category": "tools"}
    return str(_expect(world.api.post("/products", json=product, headers=ALICE), 201).json()["id"])


def _publish(world: World) -> None:
    publisher = EventBridgePublisher(
        world.settings.event_bus_name, world.client("events"), sleep=lambda _: None
    )
    if publisher.publish([placed(an_order())]):
        raise Rejected("the bus took nothing")


def _write_receipt(world: World) -> None:
    world.loop.run_until_complete(world.documents.put_receipt(uuid.uuid4().hex, b"<p>"))


def _read_image(world: World) -> None:
    (asked,) = (each for each in resources_of().values() if each.type == "Custom::ImageVersion")
    function = named(asked.properties["FunctionVersionArn"], "AWS::Serverless::Function")
    world.client("lambda").get_function(FunctionName=world.names[function.path], Qualifier="1")


# By the name of a policy, or by a function's handler. One that needs no permission of its own has no line:
# the API's function does the work of AppPolicy, which its role carries.
WORK = {
    "AppPolicy": Work(
        {
            "place an order, twice with one key": place_order,
            "get an order": lambda world: world.get(f"/orders/{world.order_id}"),
            "change an order's status": _change_status,
            "list one's own orders": lambda world: world.get("/orders"),
            "list all orders": lambda world: world.get("/orders", ADMIN),
            "list a customer's orders": lambda world: world.get("/orders?customer=John%20Doe", ADMIN),
            "add a product": add_product,
            "get a product": lambda world: world.get(f"/products/{world.product_id}"),
            "list one's own products": lambda world: world.get("/products?category=tools"),
            "list all products": lambda world: world.get("/products", ADMIN),
            "turn to the next page": _next_page,
            "upload an attachment": upload,
            "list attachments": lambda world: world.get(f"/orders/{world.order_id}/attachments"),
            "download an attachment": _download,
            "fetch the receipt": _fetch_receipt,
            "be ready": lambda world: world.get("/health/ready"),
        },
        (
            Use("get an order", "kms:Decrypt", "OrdersTable"),
            Use("download an attachment", "kms:Decrypt", "DocumentsBucket"),
            Use("upload an attachment", "kms:GenerateDataKey", "DocumentsBucket"),
            Use("turn to the next page", "kms:GenerateMac", "CursorKey"),
        ),
    ),
    "app.entrypoints.lambda_relay.handler": Work({"publish an event": _publish}),
    "app.orders.receipts.handler": Work(
        {"write a receipt": _write_receipt},
        (Use("write a receipt", "kms:GenerateDataKey", "DocumentsBucket"),),
    ),
    "app.entrypoints.custom_resources.handler": Work({"read a version's image": _read_image}),
}


# Lambda's part.


def functions() -> list[Resource]:
    """Return the functions of the stack."""
    return [each for each in resources_of().values() if each.type == "AWS::Serverless::Function"]


def handler_of(function: Resource) -> str:
    """Return what a function runs."""
    return str(function.properties["ImageConfig"]["Command"][0])


# What Lambda polls: the property of an event that names it, and its type.
_POLLED = {"DynamoDB": ("Stream", "AWS::DynamoDB::Table"), "SQS": ("Queue", "AWS::SQS::Queue")}


def events_of(function: Resource, event_type: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each source that Lambda polls for a function: its path, and the properties of the event."""
    name, kind = _POLLED[event_type]
    for event in function.properties.get("Events", {}).values():
        if event["Type"] == event_type:
            yield named(event["Properties"][name], kind).path, event["Properties"]


def log_group_of(function: Resource) -> str:
    """Return the path of a function's log group."""
    return named(function.properties["LoggingConfig"]["LogGroup"], "AWS::Logs::LogGroup").path


def _of_lambda(function: Resource) -> Work:
    """Return what Lambda does with the rights of a function's role.

    https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html
    https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/iam-policy-example-lamda-process-dynamodb-streams.html
    https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars-encryption.html
    """
    steps, uses = _log(log_group_of(function)), []
    if function.properties.get("Tracing") == "Active":
        uses += [Use("trace the call", f"xray:Put{what}") for what in ("TelemetryRecords", "TraceSegments")]
    if "KmsKeyArn" in function.properties:
        uses.append(Use("read the environment", "kms:Decrypt", function.path))
    for table, mapping in events_of(function, "DynamoDB"):
        steps |= _stream(table)
        uses.append(Use("read the stream", "kms:Decrypt", table))
        queue = named(mapping["DestinationConfig"]["OnFailure"]["Destination"], "AWS::SQS::Queue").path
        steps["set a failed batch aside"] = partial(_send, queue=queue)
        uses += [
            Use("set a failed batch aside", action, queue)
            for action in ("kms:GenerateDataKey", "kms:Decrypt")
        ]
    for queue, _ in events_of(function, "SQS"):
        steps |= _queue(queue)
        uses.append(Use("take a message", "kms:Decrypt", queue))
    return Work(steps, tuple(uses))


def _log(group: str) -> dict[str, Step]:
    def open_stream(world: World) -> None:
        world.client("logs").create_log_stream(
            logGroupName=world.names[group], logStreamName=uuid.uuid4().hex
        )

    def write(world: World) -> None:
        line = {"timestamp": int(time.time() * 1000), "message": "{}"}
        world.client("logs").put_log_events(
            logGroupName=world.names[group], logStreamName="ready", logEvents=[line]
        )

    return {"open a log stream": open_stream, "write the log": write}


def stream_of(world: World, table: str) -> str:
    """Return the ARN of a table's stream."""
    described = world.root("dynamodb").describe_table(TableName=world.names[table])["Table"]
    return str(described["LatestStreamArn"])


def _stream(table: str) -> dict[str, Step]:
    def iterator(world: World, client: Any) -> str:
        stream = stream_of(world, table)
        described = world.root("dynamodbstreams").describe_stream(StreamArn=stream)["StreamDescription"]
        asked = {"ShardId": described["Shards"][0]["ShardId"], "ShardIteratorType": "TRIM_HORIZON"}
        return str(client.get_shard_iterator(StreamArn=stream, **asked)["ShardIterator"])

    def streams(world: World) -> Any:
        return world.client("dynamodbstreams")

    return {
        "find the stream": lambda world: streams(world).list_streams(TableName=world.names[table]),
        "describe the stream": lambda world: streams(world).describe_stream(
            StreamArn=stream_of(world, table)
        ),
        "enter the stream": lambda world: iterator(world, streams(world)),
        "read the stream": lambda world: streams(world).get_records(
            ShardIterator=iterator(world, world.root("dynamodbstreams"))
        ),
    }


def _send(world: World, queue: str) -> None:
    world.client("sqs").send_message(QueueUrl=world.names[queue], MessageBody="{}")


def _queue(queue: str) -> dict[str, Step]:
    def call(world: World, operation: str, **request: Any) -> None:
        getattr(world.client("sqs"), operation)(QueueUrl=world.names[queue], **request)

    def delete(world: World) -> None:
        with suppress(world.client("sqs").exceptions.ReceiptHandleIsInvalid):  # let in; there is no such one
            call(world, "delete_message", ReceiptHandle="none")

    return {
        "look at the queue": lambda world: call(world, "get_queue_attributes", AttributeNames=["All"]),
        "take a message": lambda world: call(world, "receive_message", VisibilityTimeout=0),
        "delete a message": delete,
    }


def work_of(role: Role) -> Work:
    """Return what is done with a role of the deployed stack."""
    nothing = Work({})
    if not role.principal:
        return WORK.get(role.path, nothing)
    steps: dict[str, Step] = {}
    uses: tuple[Use, ...] = ()
    for function in functions_of(role):
        for work in (WORK.get(handler_of(function), nothing), _of_lambda(function)):
            steps |= work.steps
            uses += work.uses
    return Work(steps, uses)


def tried() -> list[Role]:
    """Return the roles whose steps run on the local AWS emulator: the policies, and those of functions."""
    return [role for role in roles() if role.principal in ("", "lambda.amazonaws.com")]


# Roles that only services of AWS take.

_REPOSITORY = f"arn:aws:ecr:{REGION}:000000000000:repository/images"
_GROUPS = f"arn:aws:logs:{REGION}:000000000000:log-group:"
GROUP = f"{_GROUPS}/orders-local/any:*"  # as GetAtt gives it
_LOG_STREAM = f"{_GROUPS}/orders-local/any:log-stream:1"
_SECRET = f"arn:aws:secretsmanager:{REGION}:000000000000:secret:OriginSecret-1a2b"
OURS = (_REPOSITORY, GROUP, _LOG_STREAM, _SECRET)
# By who takes the role: the step, and the call that the service makes.
SERVICE_CALLS: dict[str, list[tuple[str, str, str]]] = {
    # https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task_execution_IAM_role.html
    "ecs-tasks.amazonaws.com": [
        ("log in to the registry", "ecr:GetAuthorizationToken", "*"),
        ("look for the layers", "ecr:BatchCheckLayerAvailability", _REPOSITORY),
        ("fetch the image", "ecr:BatchGetImage", _REPOSITORY),
        ("fetch the layers", "ecr:GetDownloadUrlForLayer", _REPOSITORY),
        ("open a log stream", "logs:CreateLogStream", _LOG_STREAM),
        ("write the log", "logs:PutLogEvents", _LOG_STREAM),
        ("read the origin secret", "secretsmanager:GetSecretValue", _SECRET),
    ],
    # https://docs.aws.amazon.com/vpc/latest/userguide/flow-logs-iam-role.html
    "vpc-flow-logs.amazonaws.com": [
        ("find the log group", "logs:DescribeLogGroups", f"{_GROUPS}:log-stream:"),
        ("find a log stream", "logs:DescribeLogStreams", GROUP),
        ("open a log stream", "logs:CreateLogStream", _LOG_STREAM),
        ("write the log", "logs:PutLogEvents", _LOG_STREAM),
    ],
}


def stand_in(resource: Any) -> str:
    """Return an ARN for what the templates name, in statements that no emulator resolves.

    Raises `ValueError` for what it does not know.
    """
    match resource:
        case {"Fn::GetAtt": [_, "RepositoryArn"]}:
            return _REPOSITORY
        case {"Ref": "OriginSecretArn"}:
            return _SECRET
        case str():
            return resource
    named(resource, "AWS::Logs::LogGroup")
    return GROUP


def judged() -> list[Role]:
    """Return the roles that only services take: an evaluator of policies judges them."""
    taken = {role.path for role in tried()}
    return [role for role in roles() if role.statements and role.path not in taken]


def step_names() -> dict[str, list[str]]:
    """Return the names of all steps by the path of a role."""
    found = {}
    for role in tried():
        work = work_of(role)
        found[role.path] = list(dict.fromkeys([*work.steps, *(use.step for use in work.uses)]))
    for role in judged():
        found[role.path] = [step for step, *_ in SERVICE_CALLS.get(role.principal, [])]
    return found
