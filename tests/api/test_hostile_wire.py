"""Malformed HTTP on a real socket, to the server of the Fargate runtime."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote

import pytest
from tests.api import hostile
from tests.api.wire import serving
from tests.issuer import authenticator, bearer
from tests.support import a_settings

from orders.api.app import create_app
from orders.service import OrderService

TOKEN = bearer("alice")["authorization"]
HOST = "Host: api.test\r\n"
ORDER = b'{"customer": "John Doe", "product": "Widget", "quantity": 5}'
CHUNKED = b"POST /orders HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
SMUGGLED = f"POST /orders HTTP/1.1\r\n{HOST}Authorization: {TOKEN}\r\nContent-Length: 60\r\n\r\n".encode()

# Each is refused with a 4xx, or the connection is closed without an answer. No order may come of it.
MALFORMED: dict[str, bytes] = {
    "two lengths": b"POST /orders HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 60\r\n\r\n"
    + ORDER,
    "length with a sign": b"POST /orders HTTP/1.1\r\nHost: a\r\nContent-Length: +60\r\n\r\n" + ORDER,
    "negative length": b"POST /orders HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n" + ORDER,
    "length and chunks": b"POST /orders HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED + ORDER,
    "strange encoding": b"POST /orders HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunk size is no number": CHUNKED + b"zz\r\n\r\n",
    "endless chunk size": CHUNKED + b"f" * 40 + b"\r\n",
    "space before the colon": f"GET /orders HTTP/1.1\r\n{HOST}Authorization : {TOKEN}\r\n\r\n".encode(),
    "NUL in a header": b"GET /orders HTTP/1.1\r\nHost: a\r\nX-A: a\x00b\r\n\r\n",
    "no version": b"GET /orders\r\n\r\n",
    "version 9": b"GET /orders HTTP/9.9\r\nHost: a\r\n\r\n",
    "not HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "method is no token": b"GE\xffT /orders HTTP/1.1\r\nHost: a\r\n\r\n",
    "CONNECT": b"CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n",
    "a very long path": b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "11 KB of headers": b"GET /orders HTTP/1.1\r\nHost: a\r\nX-A: " + b"a" * 11_000 + b"\r\n\r\n",
    "a thousand headers": b"GET /orders HTTP/1.1\r\nHost: a\r\n" + b"X-A: aaaaaaaa\r\n" * 1000 + b"\r\n",
}


@pytest.fixture
def arrived() -> list[str]:
    """The path of every request, as the application gets it."""
    return []


@pytest.fixture
def port(service: OrderService, arrived: list[str]) -> Iterator[int]:
    """The application behind uvicorn, on a free port of loopback."""
    application = create_app(service, a_settings(), authenticator())

    async def app(scope: Any, receive: Any, send: Any) -> None:
        arrived.append(scope["path"])
        await application(scope, receive, send)

    with serving(app) as port:
        yield port


def exchange(port: int, request: bytes) -> bytes:
    """Send it with a good token, and return every answer that comes within a moment."""
    known = f"Host: a\r\nAuthorization: {TOKEN}\r\nContent-Type: application/json\r\n".encode()
    answers = b""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        try:
            connection.sendall(request.replace(b"Host: a\r\n", known, 1))
            while received := connection.recv(65536):
                answers += received
                connection.settimeout(0.3)  # a second answer would follow at once
        except (ConnectionResetError, BrokenPipeError, TimeoutError):
            pass
    return answers


def test_malformed_requests_are_refused(port: int, record_property: Callable[[str, object], None]) -> None:
    for what, request in MALFORMED.items():
        statuses = re.findall(rb"HTTP/1\.1 (\d{3})", exchange(port, request))
        assert all(status.startswith(b"4") for status in statuses), (what, statuses)
        assert len(statuses) <= 1, (what, statuses)
    listed = exchange(port, b"GET /orders HTTP/1.1\r\nHost: a\r\n\r\n")
    assert listed.startswith(b"HTTP/1.1 200")
    assert b'{"items":[],' in listed
    placed = exchange(port, b"POST /orders HTTP/1.1\r\nHost: a\r\nContent-Length: 60\r\n\r\n" + ORDER)
    assert placed.startswith(b"HTTP/1.1 201"), "the requests above were refused for what is wrong with them"
    record_property("hostile_cases", len(MALFORMED))


def test_a_path_is_taken_as_it_was_sent(
    port: int, arrived: list[str], record_property: Callable[[str, object], None]
) -> None:
    """No part of the server straightens "/x/../orders": its owner finds an order by the plain path only."""
    placed = exchange(port, b"POST /orders HTTP/1.1\r\nHost: a\r\nContent-Length: 60\r\n\r\n" + ORDER)
    order_id = json.loads(placed.partition(b"\r\n\r\n")[2])["id"]
    targets = hostile.trick_paths(order_id)
    for target in targets:
        answer = exchange(port, f"GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        assert arrived[-1] == unquote(target.partition("?")[0])
        expected = {b"200"} if arrived[-1] == f"/orders/{order_id}" else {b"404", b"405"}
        assert answer[9:12] in expected, (target, answer)
        assert b"x-injected" not in answer.lower().partition(b"\r\n\r\n")[0]
    record_property("hostile_cases", len(targets))


def test_nothing_is_left_of_a_folded_header_or_a_bare_newline(port: int) -> None:
    """Some servers would find an Authorization header in these."""
    for header in (
        f"X-A: a\r\n Authorization: {TOKEN}",
        f"X-A: a\rAuthorization: {TOKEN}",
        f"X-A: a\x0bAuthorization: {TOKEN}",
    ):
        answer = exchange(port, f"GET /orders HTTP/1.1\r\n{HOST}{header}\r\n\r\n".encode())
        assert not answer.startswith(b"HTTP/1.1 2"), header
