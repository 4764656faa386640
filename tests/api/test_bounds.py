"""What a client may hold of the server before its request is complete, and after it is answered."""

from __future__ import annotations

import asyncio
import json
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from tests.api.wire import Answer, answers, connect, exchange, received, sent, serving
from tests.builders import ROOT, a_settings, an_app

from app.core.http import http_protocol
from app.core.http.middleware import MAX_HEADER_BYTES
from app.orders.service import OrderService

HEAD = b"GET /health HTTP/1.1\r\nHost: a\r\n"
LAST = HEAD + b"Connection: close\r\n\r\n"
POST = b"POST /orders HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
ORDER = b'{"customer": "John Doe", "product": "Widget", "quantity": 5}'


@pytest.fixture
def port(service: OrderService) -> Iterator[int]:
    with serving(an_app(service, a_settings())) as port:
        yield port


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines() if '"request"' in line]


def flood(port: int, start: bytes, more: bytes) -> list[Answer]:
    """Send `more` again and again until it is refused; that must be long before 4 MB."""
    found = b""
    with connect(port) as connection:
        connection.sendall(start)
        for _ in range(4_000_000 // len(more)):
            sent(connection, more)
            if select.select([connection], [], [], 0)[0]:
                found += connection.recv(65536)
            if b"HTTP/1.1 4" in found:
                return answers(found + received(connection))
    raise AssertionError("it was not refused")


class TestBytes:
    @pytest.mark.parametrize(
        ("start", "more", "status", "method"),
        [
            (b"GET /health?", b"a" * 1000, 414, "GET"),
            (b"GET ", b"/" * 1000, 414, "GET"),
            (HEAD, b"X: a\r\n" * 100, 431, "GET"),
            (HEAD, b"X" * 1000, 431, "GET"),
            (HEAD + b"X: ", b"a" * 1000, 431, "GET"),
            (HEAD + b"X: ", b" " * 1000, 431, "GET"),
            (b"", b"\r\n" * 500, 431, "-"),
            (HEAD + b"\r\n" + HEAD + b"X: ", b"a" * 1000, 431, "GET"),
            (CHUNKED + b"0\r\n", b"X: a\r\n" * 100, 431, "POST"),
            (CHUNKED + b"0\r\nX: ", b"a" * 1000, 431, "POST"),
            (CHUNKED + b"3c;", b"a" * 1000, 431, "POST"),
            (CHUNKED + b"0", b"0" * 1000, 431, "POST"),
        ],
    )
    @pytest.mark.parametrize("at_once", [False, True])
    def test_what_never_ends_is_refused(
        self,
        port: int,
        start: bytes,
        more: bytes,
        status: int,
        method: str,
        at_once: bool,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        found = exchange(port, start + more * 100) if at_once else flood(port, start, more)
        refused = found[-1]
        assert refused.status == status
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.headers["connection"] == "close"
        line = next(line for line in lines(capsys) if line["status"] == status)
        assert (line["method"], line["Requests"], line["ClientErrors"]) == (method, 1, 1)

    @pytest.mark.parametrize("length", [MAX_HEADER_BYTES, MAX_HEADER_BYTES + 1])
    def test_the_bound_is_of_request_line_and_headers_together(self, port: int, length: int) -> None:
        for request in (b"GET /health?%s HTTP/1.1\r\nHost: a\r\n\r\n", HEAD + b"X: %s\r\n\r\n"):
            padded = request % (b"a" * (length - len(request) + 2))
            assert len(padded) == length
            # the application counts without what separates the fields
            assert [response.status for response in exchange(port, padded + LAST)] in (
                [200, 200],
                [414],
                [431],
            )
            if length > MAX_HEADER_BYTES:
                assert [response.status for response in exchange(port, padded + LAST)] in ([414], [431])

    def test_bodies_are_not_counted_as_headers(self, port: int) -> None:
        body = ORDER + b" " * 60_000
        length = POST + b"Content-Length: %d\r\n\r\n"
        small = (
            b"".join(b"1;abcdefgh\r\n%c\r\n" % char for char in ORDER)
            + b"0\r\n"
            + b"X: a\r\n" * 500
            + b"\r\n"
        )
        whole = length % len(body) + body + CHUNKED + small + LAST
        for parts in ([whole], [whole[at : at + 9_000] for at in range(0, len(whole), 9_000)]):
            assert [response.status for response in exchange(port, *parts)] == [201, 201, 200]


class TestTime:
    def test_headers_that_do_not_end_are_refused(
        self, port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.1)
        for start, method in ((b"G", "-"), (HEAD, "GET"), (HEAD + b"\r\n" + HEAD, "GET"), (b"\r\nG", "-")):
            refused = exchange(port, start)[-1]
            assert refused.status == 408
            (line,) = [line for line in lines(capsys) if line["status"] == 408]
            assert line["method"] == method
            assert line["route"] == "unmatched"

    def test_only_so_many_are_waited_for(
        self, port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The oldest go, and whoever sends a whole request is served meanwhile."""
        monkeypatch.setattr(http_protocol, "MAX_PARTIAL_HEADS", 10)
        with ExitStack() as stack:
            half_sent = [stack.enter_context(connect(port)) for _ in range(400)]
            for connection in half_sent:
                connection.sendall(HEAD)
                assert exchange(port, LAST)[0].status == 200
            for connection in half_sent[:390]:
                assert answers(received(connection))[0].status == 408
            for connection in half_sent[390:]:
                connection.sendall(b"Connection: close\r\n\r\n")
                assert answers(received(connection))[0].status == 200
        assert len(lines(capsys)) == 390

    def test_a_connection_on_which_nothing_comes_ends(self, service: OrderService) -> None:
        with serving(an_app(service, a_settings()), timeout_keep_alive=0.1) as port:
            with connect(port) as connection:
                assert received(connection) == b""
            assert [response.status for response in exchange(port, HEAD + b"\r\n")] == [200]

    def test_empty_lines_begin_no_request(
        self, service: OrderService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """RFC 9112, section 2.2: old clients send one after a body. They do not keep a connection either."""
        monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.1)
        app = an_app(service, a_settings())
        with serving(app, timeout_keep_alive=0.5) as port:
            for request, statuses in ((b"", []), (HEAD + b"\r\n", [200])):
                with connect(port) as connection:
                    connection.sendall(request)
                    begun = connection.recv(65536) if request else b""
                    connection.sendall(b"\r\n")
                    assert [response.status for response in answers(begun + received(connection))] == statuses

    def test_an_idle_connection_ends_also_after_a_body_that_came_late(self, service: OrderService) -> None:
        unwanted = b"GET /health HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\na"
        app = an_app(service, a_settings())
        with serving(app, timeout_keep_alive=0.1) as port, connect(port) as connection:
            connection.sendall(unwanted)
            begun = connection.recv(65536)
            connection.sendall(b"b")
            assert answers(begun + received(connection))[0].status == 200

    def test_a_connection_is_not_idle_while_its_response_is_made(self) -> None:
        async def takes_its_time(scope: Any, receive: Any, send: Any) -> None:
            await asyncio.sleep(0.5)
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body"})

        with serving(takes_its_time, timeout_keep_alive=0.1) as port:
            assert [response.status for response in exchange(port, HEAD + b"\r\n")] == [204]

    def test_a_request_that_was_answered_early_is_not_read_for_ever(
        self, port: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        unwanted = b"GET /health HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
        found = exchange(port, unwanted % 70_000 + b"a" * 70_000 + LAST)
        assert [response.status for response in found] == [200, 200], "a moderate rest is skipped"
        with connect(port) as connection:
            for _ in range(20):  # each of its requests has the bound, not all together
                connection.sendall(unwanted % 70_000 + b"a" * 70_000)
                assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
            sent(connection, LAST)
            assert [response.status for response in answers(received(connection))] == [200]
        found = exchange(port, unwanted % 10**9, *[b"a" * 65536] * 20)
        assert [response.status for response in found] == [200]
        monkeypatch.setattr(http_protocol, "DISCARD_SECONDS", 0.1)
        assert [response.status for response in exchange(port, unwanted % 10)] == [200]


class Large:
    """Answers with so many bytes, in so many parts, and tells when it is done."""

    def __init__(self, size: int, parts: int) -> None:
        self.done = threading.Event()
        self._size = size
        self._parts = parts

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            for _ in range(self._parts):
                part = b"a" * (self._size // self._parts)
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body"})
        finally:
            self.done.set()


@pytest.mark.parametrize(
    ("size", "parts"),
    [
        pytest.param(8_000_000, 8, id="the application waits"),
        pytest.param(8_000_000, 1, id="it has written all"),
        pytest.param(50_000, 1, id="it has written all, and that little"),
    ],
)
def test_a_client_that_does_not_read_its_answer_is_given_up(
    size: int, parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "WRITE_SECONDS", 0.2)
    lost = threading.Event()

    class Noted(http_protocol.HttpProtocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            super().connection_made(transport)

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            lost.set()

    large = Large(size, parts)
    with serving(large, http=Noted) as port, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", port))
        connection.sendall(LAST)
        assert large.done.wait(30)
        assert lost.wait(30)
        connection.settimeout(30)
        assert len(received(connection)) < size


def test_a_body_that_the_application_does_not_read_is_not_taken_from_the_client() -> None:
    reads, total = threading.Event(), 40_000_000

    async def reads_late(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.to_thread(reads.wait, 30)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    with serving(reads_late) as port, connect(port) as connection:
        connection.sendall(POST + b"Content-Length: %d\r\n\r\n" % total)
        connection.setblocking(False)
        taken = 0
        while taken < total and select.select([], [connection], [], 1)[1]:
            taken += connection.send(bytes(min(1_000_000, total - taken)))
        reads.set()
        assert taken < total, "the server keeps all of it"


def test_a_fault_of_ours_is_logged_and_no_fault_of_the_callers(
    port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def faulty(_: bytes) -> bool:
        raise ZeroDivisionError

    monkeypatch.setattr(http_protocol, "_is_host", faulty)
    (answer,) = exchange(port, HEAD + b"\r\n" + LAST)
    assert answer.status == 500
    assert b"Zero" not in answer.body
    assert [(line["status"], line["ServerErrors"]) for line in lines(capsys)] == [(500, 1)]


def test_a_broken_body_is_the_callers_fault(port: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Answered and logged as one request, with what the application had begun."""
    with connect(port) as connection:
        sent(connection, CHUNKED + b"3c\r\n" + ORDER[:10], b"", ORDER[10:] + b"\r\nZZZ\r\n" + LAST)
        (refused,) = answers(received(connection))
    assert refused.status == 400
    assert refused.headers["connection"] == "close"
    (line,) = lines(capsys)
    assert (line["route"], line["status"]) == ("/orders", 400)


def test_a_client_that_is_gone_before_its_answer_is_no_fault_of_ours(
    service: OrderService, capsys: pytest.CaptureFixture[str]
) -> None:
    """asyncio's own loop raises where uvloop does not: the client's end came, and nobody has read it yet."""
    with serving(an_app(service, a_settings()), loop="asyncio") as port:
        for _ in range(5):
            with connect(port) as connection:
                connection.sendall(
                    b"HEAD /orders/1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 5\r\n\r\n"
                )
        assert [answer.status for answer in exchange(port, LAST)] == [200]
    assert {line["status"] for line in lines(capsys)} == {404}


def test_the_documentation_tells_these_figures() -> None:
    text = " ".join((ROOT / "docs/reliability.md").read_text().split())
    for figures in (
        f"request line and headers have {http_protocol.HEAD_SECONDS} s and {MAX_HEADER_BYTES:,} bytes",
        f"of {http_protocol.MAX_PARTIAL_HEADS} requests whose headers are still on their way",
        f"given up after {http_protocol.WRITE_SECONDS} s",
        f"for {http_protocol.DISCARD_SECONDS} s and {http_protocol.MAX_DISCARDED_BYTES / 2**20:.1g} MB",
    ):
        assert figures in text
