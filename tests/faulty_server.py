"""A server with faults on purpose, in the place of an AWS service."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

# What a server does with one request, once it has read it: returns whether to go on with the connection.
Behaviour = Callable[[asyncio.StreamWriter], Awaitable[bool]]


def responds(body: bytes, status: int = 200, *headers: str, keep: bool = True) -> Behaviour:
    async def behave(writer: asyncio.StreamWriter) -> bool:
        head = [f"HTTP/1.1 {status} Whatever", f"content-length: {len(body)}", *headers]
        writer.write("\r\n".join([*head, "", ""]).encode() + body)
        return keep

    return behave


def sends(raw: bytes, keep: bool = False) -> Behaviour:
    async def behave(writer: asyncio.StreamWriter) -> bool:
        writer.write(raw)
        return keep

    return behave


def rejects(code: str, status: int = 400, **more: Any) -> Behaviour:
    return responds(json.dumps({"__type": f"com.amazonaws.dynamodb#{code}", **more}).encode(), status)


async def resets(writer: asyncio.StreamWriter) -> bool:
    writer.transport.abort()
    return False


async def hangs(writer: asyncio.StreamWriter) -> bool:
    await asyncio.sleep(30)
    return False


OK = responds(b'{"Item": {"n": {"N": "1"}}}')


class Server:
    """Plays its script, one behaviour for each request; then responds well. Keeps what it received."""

    def __init__(self, *script: Behaviour) -> None:
        self.script = list(script)
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.connections = 0
        self.url = ""
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        try:
            while True:
                lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = dict(line.split(": ", 1) for line in lines[1:] if line)
                self.requests.append(
                    (headers, await reader.readexactly(int(headers.get("content-length", 0))))
                )
                behave = self.script.pop(0) if self.script else OK
                if not await behave(writer):
                    break
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(*script: Behaviour, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    server = Server(*script)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls, backlog=512)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        await end(listener, server.writers)


@asynccontextmanager
async def silence() -> AsyncIterator[str]:
    """Yield the address of a server that accepts, and says nothing."""
    writers: list[asyncio.StreamWriter] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await reader.read()

    listener = await asyncio.start_server(accept, "127.0.0.1", 0, backlog=512)
    try:
        yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    finally:
        await end(listener, writers)


class Connected(Protocol):
    """The server's end of a connection."""

    @property
    def transport(self) -> Any: ...


async def end(listener: asyncio.Server, connections: Sequence[Connected]) -> None:
    """Close a server and its connections, also those that were accepted just now."""
    listener.close()
    for _ in range(10):  # new connections appear in the list, and aborted ones learn of it
        for each in connections:
            each.transport.abort()
        await asyncio.sleep(0)
