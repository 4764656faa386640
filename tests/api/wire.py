"""The server on a real socket, and a client that sends bytes and reads every answer."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import uvicorn

from app.core.http.http_protocol import HttpProtocol

# No test waits for these; they end one that would hang.
SECONDS = 30


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


@contextlib.contextmanager
def serving(app: Any, **options: Any) -> Iterator[int]:
    """Serve `app` with our protocol on a free port of loopback, which it yields."""
    options = {"http": HttpProtocol, "timeout_graceful_shutdown": 5} | options
    config = uvicorn.Config(
        app,
        ws="none",
        host="127.0.0.1",
        port=0,
        lifespan="off",
        log_config=None,
        access_log=False,
        **options,
    )
    server = uvicorn.Server(config)
    listening = config.bind_socket()
    listening.listen(512)  # whoever comes before the server has started waits
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(timeout=SECONDS)
        listening.close()


def await_listener(port: int) -> None:
    """Return when something listens on the port."""
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            connect(port).close()
            return
        except ConnectionRefusedError:
            assert time.monotonic() < deadline, f"nothing listens on {port}"
            time.sleep(0.05)


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=SECONDS)


def sent(connection: socket.socket, *parts: bytes) -> None:
    """Send each part as a packet of its own; a server that closes meanwhile is no fault."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with contextlib.suppress(ConnectionError):
        for part in parts:
            connection.sendall(part)
            if len(parts) > 1:
                time.sleep(0.001)  # so that packets stay apart; that some may not is no fault


def received(connection: socket.socket) -> bytes:
    """Return all that comes until the server closes."""
    found = b""
    with contextlib.suppress(ConnectionError):
        while data := connection.recv(65536):
            found += data
    return found


def answers(raw: bytes) -> list[Answer]:
    """Read answers one after the other, by their content-length."""
    found = []
    while raw:
        head, _, rest = raw.partition(b"\r\n\r\n")
        line, *fields = head.decode("latin-1").split("\r\n")
        assert re.match(r"HTTP/1\.1 \d{3} ", line), raw
        headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
        status = int(line.split()[1])
        length = int(headers.get("content-length", 0))
        found.append(Answer(status, headers, rest[:length]))
        raw = rest[length:]
    return found


def exchange(port: int, *parts: bytes) -> list[Answer]:
    """Send the parts on one connection; return every answer until the server closes."""
    with connect(port) as connection:
        sent(connection, *parts)
        return answers(received(connection))


def pieces(data: bytes, size: int = 5) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]
