"""What each role of the stack does, as named steps that raise when a permission is missing.

The API's steps go through the API itself. Lambda's own part (polling the stream and the queue, writing the
log, setting a failed batch aside) happens in no code of ours, so those steps make Lambda's calls.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from unittest.mock import patch

import boto3
import httpx
from fastapi import FastAPI
from localcloud.issuer import Issuer
from localcloud.running import REGION, Emulator
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

Step = Callable[[], Any]


class Rejected(Exception):
    """A step did not do what it should."""


@dataclass
class World:
    """The stack, and what was put into it before any permission was taken away."""

    aws: Emulator
    settings: Settings
    tried: dict[str, str] = field(default_factory=dict)  # the session that the scenarios run with
    order_id: str = ""
    product_id: str = ""
    stream: str = ""
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

    def close(self) -> None:
        """Close what the application has open, and the loop."""
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


@contextmanager
def api(world: World) -> Iterator[dict[str, Step]]:
    """Yield the steps of the API: every route, with all that it reads and writes."""
    client = httpx.Client(transport=ServerTransport(world.app, world.loop), base_url="http://api.test")
    for name in RESOURCES:
        getattr(world.app.state, name)._cursor_key._key = None  # as a new process, ask for it
    order = f"/orders/{world.order_id}"

    def get(path: str, caller: dict[str, str] = ALICE) -> httpx.Response:
        return _expect(client.get(path, headers=caller), 200)

    def place() -> str:
        key = {"idempotency-key": uuid.uuid4().hex}
        placed = _expect(client.post("/orders", json=AN_ORDER, headers=ALICE | key), 201)
        again = _expect(client.post("/orders", json=AN_ORDER, headers=ALICE | key), 201)
        if again.headers.get("idempotent-replayed") != "true":
            raise Rejected("no replay")
        return str(placed.json()["id"])

    def ship() -> None:
        for status in ("cancelled", "pending"):  # the second is rejected: that reads the stored order
            _expect(client.put(f"{order}/status", json={"status": status}, headers=ALICE), 200, 409)

    def upload() -> None:
        asked = {"name": "note.txt", "content_type": "text/plain"}
        offer = _expect(client.post(f"{order}/attachments", json=asked, headers=ALICE), 200).json()
        _expect(httpx.post(offer["url"], data=offer["fields"], files={"file": b"hello"}), 200, 201, 204)

    def download() -> None:
        listed = get(f"{order}/attachments").json()["items"]
        _expect(httpx.get(listed[0]["url"]), 200)

    def receipt() -> None:
        link = _expect(client.get(f"{order}/receipt", headers=ALICE), 303).headers["location"]
        _expect(httpx.get(link), 200)

    with client:
        yield {
            "place an order, twice with one key": place,
            "get an order": lambda: get(order),
            "change an order's status": ship,
            "list one's own orders": lambda: get("/orders"),
            "list all orders": lambda: get("/orders", ADMIN),
            "list a customer's orders": lambda: get("/orders?customer=John%20Doe", ADMIN),
            **_products(world, client),
            "turn to the next page": lambda: get(
                "/orders?limit=1&cursor=" + get("/orders?limit=1").json()["next_cursor"]
            ),
            "upload an attachment": upload,
            "list attachments": lambda: get(f"{order}/attachments"),
            "download an attachment": download,
            "fetch the receipt": receipt,
            "be ready": lambda: get("/health/ready"),
        }


def _products(world: World, client: httpx.Client) -> dict[str, Step]:
    def add() -> str:
        product = {"name": "Widget", "price_cents": 1999, "category": "tools"}
        return str(_expect(client.post("/products", json=product, headers=ALICE), 201).json()["id"])

    def get(path: str, caller: dict[str, str] = ALICE) -> httpx.Response:
        return _expect(client.get(path, headers=caller), 200)

    return {
        "add a product": add,
        "get a product": lambda: get(f"/products/{world.product_id}"),
        "list one's own products": lambda: get("/products?category=tools"),
        "list all products": lambda: get("/products", ADMIN),
    }


def _writes_log(world: World, group: str) -> dict[str, Step]:
    logs = world.client("logs")
    name, stream = world.aws.resources[group], uuid.uuid4().hex
    line = {"timestamp": int(time.time() * 1000), "message": "{}"}
    put = {"logGroupName": name, "logStreamName": f"ready-{group}", "logEvents": [line]}
    return {
        "open a log stream": lambda: logs.create_log_stream(logGroupName=name, logStreamName=stream),
        "write the log": lambda: logs.put_log_events(**put),
    }


@contextmanager
def api_log(world: World) -> Iterator[dict[str, Step]]:
    """Yield what the API's function does beside the API."""
    yield _writes_log(world, "ApiLogGroup")


@contextmanager
def relay(world: World) -> Iterator[dict[str, Step]]:
    """Yield the steps of the relay."""
    streams, sqs = world.client("dynamodbstreams"), world.client("sqs")
    publisher = EventBridgePublisher(
        world.settings.event_bus_name, world.client("events"), sleep=lambda _: None
    )

    def publish() -> None:
        if publisher.publish([placed(an_order())]):
            raise Rejected("the bus took nothing")

    def shard() -> str:
        described = world.root("dynamodbstreams").describe_stream(StreamArn=world.stream)["StreamDescription"]
        return str(described["Shards"][0]["ShardId"])

    def iterator(client: Any) -> str:
        asked = {"StreamArn": world.stream, "ShardId": shard(), "ShardIteratorType": "TRIM_HORIZON"}
        return str(client.get_shard_iterator(**asked)["ShardIterator"])

    yield {
        "publish an event": publish,
        "find the stream": lambda: streams.list_streams(TableName=world.settings.table_name),
        "describe the stream": lambda: streams.describe_stream(StreamArn=world.stream),
        "enter the stream": lambda: iterator(streams),
        "read the stream": lambda: streams.get_records(ShardIterator=iterator(world.root("dynamodbstreams"))),
        "set a failed batch aside": lambda: sqs.send_message(
            QueueUrl=world.aws.outputs["RelayDeadLetterQueueUrl"], MessageBody="{}"
        ),
        **_writes_log(world, "RelayLogGroup"),
    }


@contextmanager
def receipts(world: World) -> Iterator[dict[str, Step]]:
    """Yield the steps of the receipts function."""
    sqs, url = world.client("sqs"), world.aws.outputs["ReceiptsQueueUrl"]
    yield {
        "write a receipt": lambda: world.loop.run_until_complete(
            world.documents.put_receipt(uuid.uuid4().hex, b"<p>")
        ),
        "look at the queue": lambda: sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"]),
        "take a message": lambda: sqs.receive_message(QueueUrl=url, VisibilityTimeout=0),
        "delete a message": lambda: _delete(sqs, url),
        **_writes_log(world, "ReceiptsLogGroup"),
    }


def _delete(sqs: Any, url: str) -> None:
    with suppress(sqs.exceptions.ReceiptHandleIsInvalid):  # let in; there is no such message
        sqs.delete_message(QueueUrl=url, ReceiptHandle="none")


@contextmanager
def image_version(world: World) -> Iterator[dict[str, Step]]:
    """Yield the steps of the custom resource."""
    function = world.client("lambda")
    name = world.aws.resources["RelayFunction"]
    yield {
        "read a version's image": lambda: function.get_function(FunctionName=name, Qualifier="1"),
        **_writes_log(world, "ImageVersionLogGroup"),
    }
