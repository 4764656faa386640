"""The floor of Lambda: the three operations with no framework, no validation, no retries. Nobody should ship this."""

from __future__ import annotations

import json
import os
import socket
import uuid
from collections import namedtuple
from datetime import UTC, datetime
from urllib.parse import parse_qs

import msgspec

from app.core.aws.sigv4 import Signer

TABLE = os.environ["APP_TABLE_NAME"]
HOST, PORT = os.environ["AWS_ENDPOINT_URL"].removeprefix("http://").split(":")
PUBLIC = ("id", "customer", "product", "quantity", "status", "version", "created_at", "updated_at")
Credentials = namedtuple("Credentials", "access_key secret_key token")
encode, decode = msgspec.json.encode, msgspec.json.decode
signer = Signer("dynamodb", os.environ["AWS_REGION"], f"{HOST}:{PORT}", "/", "application/x-amz-json-1.0")
credentials = Credentials(
    *(os.environ[f"AWS_{name}"] for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN"))
)


def request_of(operation: str, request: dict) -> bytes:
    body = encode({"TableName": TABLE, **request})
    return signer.head(f"DynamoDB_20120810.{operation}", body, credentials) + body


def get_request(order_id: str) -> bytes:
    return request_of("GetItem", {"Key": {"pk": {"S": f"order#{order_id}"}}})


def list_request(limit: str) -> bytes:
    query = {"IndexName": "by-shard", "ScanIndexForward": False, "Limit": int(limit)}
    key = {"KeyConditionExpression": "shard = :s", "ExpressionAttributeValues": {":s": {"S": "orders"}}}
    return request_of("Query", query | key)


def put_request(text: bytes) -> tuple[bytes, dict]:
    now = datetime.now(UTC).isoformat()
    order = {**decode(text), "id": str(uuid.uuid4()), "status": "pending", "version": 1}
    order |= {"created_at": now, "updated_at": now}
    item = {
        name: {"N": str(value)} if isinstance(value, int) else {"S": value} for name, value in order.items()
    }
    return request_of("PutItem", {"Item": item | {"pk": {"S": f"order#{order['id']}"}}}), order


def public(item: dict) -> dict:
    return {name: next(iter(item[name].values())) for name in PUBLIC}


def listed(answer: bytes) -> bytes:
    found = decode(answer)
    return encode({"items": [public(item) for item in found["Items"]], "next_cursor": None})


def size_of(data: bytes) -> int:
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return -1
    at = data.index(b"Content-Length: ") + 16
    return end + 4 + int(data[at : data.index(b"\r\n", at)])


wire: socket.socket | None = None


def exchange(request: bytes) -> bytes:
    global wire
    if wire is None:
        wire = socket.create_connection((HOST, int(PORT)))
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    wire.sendall(request)
    data = wire.recv(65_536)
    while len(data) != size_of(data):
        data += wire.recv(65_536)
    return data[data.index(b"\r\n\r\n") + 4 :]


def handler(event, context):
    http = event["requestContext"]["http"]
    if http["method"] == "POST":
        request, order = put_request(event["body"].encode())
        exchange(request)
        return {"statusCode": 201, "headers": {"content-type": "application/json"}, "body": json.dumps(order)}
    if http["path"] == "/orders":
        body = listed(exchange(list_request(parse_qs(event["rawQueryString"])["limit"][0])))
    else:
        body = encode(public(decode(exchange(get_request(http["path"][8:])))["Item"]))
    return {"statusCode": 200, "headers": {"content-type": "application/json"}, "body": body.decode()}
