"""A DynamoDB that always knows the answer: fast enough that the measured side is never waiting for it.

    python -m bench.canned [port] [delay in milliseconds]     prints its port

It reads no more of a request than it must: the length, the operation, the key, and of a Query its Limit and
projection.
Lists hold 1,000 items, spread over as many shards as are asked for.
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

ITEM_COUNT = 1_000
ORDER_ID = "0199a6f5-1c00-7000-8000-000000000001"
# Of each resource, the attributes that no other has.
FIELDS = {
    "order": {
        "customer": {"S": "John Doe"},
        "product": {"S": "Widget"},
        "quantity": {"N": "5"},
        "status": {"S": "pending"},
        "filter_key": {"S": "order#John Doe"},
    },
    "product": {"name": {"S": "Widget"}, "price_cents": {"N": "1999"}, "category": {"S": "tools"}},
}
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_OPERATION = re.compile(rb"(?i)\r\nx-amz-target: *\w+\.(\w+)")
_QUERY_LIMIT = re.compile(rb'"Limit": ?(\d+)')
_KEY = re.compile(rf'"({"|".join(FIELDS)})s?#(?:(\d+)")?'.encode())
_QUERY_PROJECTION = re.compile(rb'"ProjectionExpression": ?"([^"]*)"')
_QUERY_NAMES = re.compile(rb'"ExpressionAttributeNames": ?(\{[^}]*\})')


def item(number: int, kind: str = "order") -> dict[str, dict[str, str]]:
    """Return the stored entity that is `number`th from the newest."""
    created = f"2026-01-02T03:{59 - number // 60 % 60:02}:{59 - number % 60:02}.678901Z"
    item_id = f"{ORDER_ID[:-4]}{number + 1:04}"
    return FIELDS[kind] | {
        "pk": {"S": f"{kind}#{item_id}"},
        "id": {"S": item_id},
        "version": {"N": "1"},
        "created_at": {"S": created},
        "updated_at": {"S": created},
        "sort_key": {"S": f"{created}#{item_id}"},
        "position": {"S": f"{created}#{item_id}"},  # its name before; `--against` runs an older commit
        "shard": {"S": f"{kind}#{number % 4}"},
        "fingerprint": {"S": "5f1d7a84db00d2fce00b31a7fc73224f3d5d1ccf2c2d60b4b6b4e6b1f3a1c2d3"},
        "write_id": {"S": "0f8fad5bd9cb469fa16570867728950e"},
        "traceparent": {"S": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
        "correlation_id": {"S": "7d444840-9dc0-11d1-b245-5ffdce74fad2"},
    }


ITEMS = {kind: [json.dumps(item(number, kind)).encode() for number in range(ITEM_COUNT)] for kind in FIELDS}


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


def page(kind: str, shard: int | None, limit: int, projection: bytes | None, names: bytes) -> bytes:
    """Return the newest items of a list, or of its part in one shard of four."""
    found = (ITEMS[kind] if shard is None else ITEMS[kind][shard % 4 :: 4])[:limit]
    last = json.loads(found[-1])
    key = {name: last[name] for name in ("pk", "sort_key", "position", "shard")}
    if projection:
        found = [projected(item, projection, names) for item in found]
    body = b'{"Count":%d,"Items":[%b],"LastEvaluatedKey":%b,"ScannedCount":%d}'
    return answer(body % (len(found), b",".join(found), json.dumps(key).encode(), len(found)))


FIXED = {
    kind: {
        b"GetItem": answer(b'{"Item":%b}' % items[0]),
        b"PutItem": answer(b"{}"),
        b"UpdateItem": answer(b'{"Attributes":%b}' % items[0]),
        b"GenerateMac": answer(json.dumps({"Mac": base64.b64encode(bytes(32)).decode()}).encode()),
    }
    for kind, items in ITEMS.items()
}
PAGES: dict[tuple[str, int | None, int, bytes | None, bytes], bytes] = {}


def reply_to(head: bytes, body: bytes) -> bytes:
    """Return the answer to one request."""
    operation = _OPERATION.search(head)
    assert operation
    key = _KEY.search(body)
    kind = key[1].decode() if key else "order"
    if operation[1] != b"Query":
        return FIXED[kind][operation[1]]
    limit, projection = _QUERY_LIMIT.search(body), _QUERY_PROJECTION.search(body)
    names = projection and _QUERY_NAMES.search(body)
    query = (
        kind,
        int(key[2]) if key and key[2] else None,
        int(limit[1]) if limit else 100,
        projection[1] if projection else None,
        names[1] if names else b"{}",
    )
    if query not in PAGES:
        PAGES[query] = page(*query)
    return PAGES[query]


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
