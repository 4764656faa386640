"""The floor of the server: bare ASGI over bare connections. Nobody should ship this."""

from __future__ import annotations

import asyncio
from urllib.parse import parse_qs

from bench.baselines.floor import (
    HOST,
    PORT,
    decode,
    encode,
    get_request,
    list_request,
    listed,
    public,
    put_request,
    size_of,
)


class Wire(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.data, self.waiting = transport, b"", None

    def data_received(self, data):
        self.data += data
        if len(self.data) == size_of(self.data):
            data, self.data = self.data, b""
            self.waiting.set_result(data[data.index(b"\r\n\r\n") + 4 :])


idle: list[Wire] = []


async def async_exchange(request: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    wire = idle.pop() if idle else (await loop.create_connection(Wire, HOST, int(PORT)))[1]
    wire.waiting = loop.create_future()
    wire.transport.write(request)
    answer = await wire.waiting
    idle.append(wire)
    return answer


async def app(scope, receive, send):
    status = 200
    if scope["method"] == "POST":
        request, order = put_request((await receive())["body"])
        await async_exchange(request)
        status, body = 201, encode(order)
    elif scope["path"] == "/orders":
        body = listed(
            await async_exchange(list_request(parse_qs(scope["query_string"].decode())["limit"][0]))
        )
    elif scope["path"] == "/health":
        body = b"{}"
    else:
        body = encode(public(decode(await async_exchange(get_request(scope["path"][8:])))["Item"]))
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
