"""A DynamoDB that always knows the answer: fast enough that the measured side is never waiting for it.

    python -m bench.canned [port] [delay in milliseconds]     prints its port

It reads no more of a request than it must: the length, the operation, and of a Query its key, Limit and projection.
Lists hold 1,000 orders, spread over as many shards as are asked for.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import sys
from typing import cast
from zlib import crc32

import uvloop

ORDERS = 1_000
ORDER_ID = "0199a6f5-1c00-7000-8000-000000000001"
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_OPERATION = re.compile(rb"(?i)\r\nx-amz-target: *\w+\.(\w+)")
_QUERY_LIMIT = re.compile(rb'"Limit": ?(\d+)')
_QUERY_SHARD = re.compile(rb'"orders?#(\d+)"')
_QUERY_PROJECTION = re.compile(rb'"ProjectionExpression": ?"([^"]*)"')
_QUERY_NAMES = re.compile(rb'"ExpressionAttributeNames": ?(\{[^}]*\})')


def item(number: int) -> dict[str, dict[str, str]]:
    """Return the stored order that is `number`th from the newest."""
    created = f"2026-01-02T03:{59 - number // 60 % 60:02}:{59 - number % 60:02}.678901Z"
    order_id = f"{ORDER_ID[:-4]}{number + 1:04}"
    return {
        "pk": {"S": f"order#{order_id}"},
        "id": {"S": order_id},
        "customer": {"S": "John Doe"},
        "product": {"S": "Widget"},
        "quantity": {"N": "5"},
        "status": {"S": "pending"},
        "version": {"N": "1"},
        "created_at": {"S": created},
        "updated_at": {"S": created},
        "sort_key": {"S": f"{created}#{order_id}"},
        "position": {"S": f"{created}#{order_id}"},  # its name before; `--against` runs an older commit
        "shard": {"S": f"order#{number % 4}"},
        "filter_key": {"S": "order#John Doe"},
        "fingerprint": {"S": "5f1d7a84db00d2fce00b31a7fc73224f3d5d1ccf2c2d60b4b6b4e6b1f3a1c2d3"},
        "write_id": {"S": "0f8fad5bd9cb469fa16570867728950e"},
        "traceparent": {"S": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
        "correlation_id": {"S": "7d444840-9dc0-11d1-b245-5ffdce74fad2"},
    }


ITEMS = [json.dumps(item(number)).encode() for number in range(ORDERS)]


def answer(body: bytes) -> bytes:
    """Return `body` as the service sends it."""
    head = (
        f"HTTP/1.1 200 OK\r\nServer: Server\r\nDate: Fri, 02 Jan 2026 03:04:05 GMT\r\n"
        f"Content-Type: application/x-amz-json-1.0\r\nContent-Length: {len(body)}\r\nConnection: keep-alive\r\n"
        f"x-amzn-RequestId: 4KBNVRGD25RG1KEO9UT4V3FQDJVV4KQNSO5AEMVJF66Q9ASUAAJG\r\nx-amz-crc32: {crc32(body)}\r\n\r\n"
    )
    return head.encode() + body


def projected(item: bytes, projection: bytes, names: bytes) -> bytes:
    """Return the attributes of an item that a projection names, itself or by a placeholder."""
    aliases = json.loads(names)
    wanted = {
        aliases[name] if name[0] == "#" else name for name in projection.decode().replace(",", " ").split()
    }
    return json.dumps({name: value for name, value in json.loads(item).items() if name in wanted}).encode()


def page(shard: int | None, limit: int, projection: bytes | None, names: bytes) -> bytes:
    """Return the newest orders of a list, or of its part in one shard of four."""
    found = (ITEMS if shard is None else ITEMS[shard % 4 :: 4])[:limit]
    last = json.loads(found[-1])
    key = {name: last[name] for name in ("pk", "sort_key", "position", "shard")}
    if projection:
        found = [projected(item, projection, names) for item in found]
    body = b'{"Count":%d,"Items":[%b],"LastEvaluatedKey":%b,"ScannedCount":%d}'
    return answer(body % (len(found), b",".join(found), json.dumps(key).encode(), len(found)))


FIXED = {
    b"GetItem": answer(b'{"Item":%b}' % ITEMS[0]),
    b"PutItem": answer(b"{}"),
    b"UpdateItem": answer(b'{"Attributes":%b}' % ITEMS[0]),
    b"GenerateMac": answer(json.dumps({"Mac": base64.b64encode(bytes(32)).decode()}).encode()),
}
PAGES: dict[tuple[int | None, int, bytes | None, bytes], bytes] = {}


def reply_to(head: bytes, body: bytes) -> bytes:
    """Return the answer to one request."""
    operation = _OPERATION.search(head)
    assert operation
    if operation[1] != b"Query":
        return FIXED[operation[1]]
    shard, limit = _QUERY_SHARD.search(body), _QUERY_LIMIT.search(body)
    projection = _QUERY_PROJECTION.search(body)
    names = projection and _QUERY_NAMES.search(body)
    key = (
        int(shard[1]) if shard else None,
        int(limit[1]) if limit else 100,
        projection[1] if projection else None,
        names[1] if names else b"{}",
    )
    if key not in PAGES:
        PAGES[key] = page(*key)
    return PAGES[key]


class Canned(asyncio.Protocol):
    """One connection. Answers come in the sequence of their requests."""

    delay_seconds = 0.0

    def __init__(self) -> None:
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass
        self.loop = asyncio.get_running_loop()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end]
            length = _LENGTH.search(head)
            size = end + 4 + (int(length[1]) if length else 0)
            if len(self.buffer) < size:
                return
            reply = reply_to(head, self.buffer[end + 4 : size])
            self.buffer = self.buffer[size:]
            if self.delay_seconds:
                self.loop.call_later(self.delay_seconds, self.transport.write, reply)
            else:
                self.transport.write(reply)


async def main(port: int = 0, delay_ms: float = 0.0) -> None:
    """Serve until killed."""
    Canned.delay_seconds = delay_ms / 1000
    server = await asyncio.get_running_loop().create_server(Canned, "127.0.0.1", port, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(*(int(argument) for argument in sys.argv[1:3])))
