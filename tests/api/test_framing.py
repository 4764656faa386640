"""One request has one answer, whatever its headers say: where requests begin and end on a connection."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.api.wire import Answer, connect, exchange, pieces, received, sent, serving
from tests.api.wire import answers as read_answers
from tests.builders import a_settings, an_app

from app.orders.service import OrderService

ORDER = b'{"customer": "John Doe", "product": "Widget", "quantity": 5}'
HOST = b"Host: a\r\n"
JSON = b"Content-Type: application/json\r\n"
PLACE = b"POST /orders HTTP/1.1\r\n" + HOST + JSON
CHUNKED = b"Transfer-Encoding: chunked\r\n"
# Behind every request of a test: it is answered if the connection goes on, and the connection ends with it.
LAST = b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
HEAD_ONLY = b"GET /last HTTP/1.1\r\nHost: a\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"


def length(body: bytes) -> bytes:
    return b"Content-Length: %d\r\n" % len(body)


def chunks(body: bytes, size: int = 7) -> bytes:
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


class Served:
    """The application behind the server, with what reached it."""

    def __init__(self, service: OrderService) -> None:
        self.paths: list[str] = []
        self.headers: list[list[tuple[bytes, bytes]]] = []
        self.port = 0
        self._application = an_app(service, a_settings())

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if "app.rejection" not in scope:
            self.paths.append(f"{scope['method']} {scope['path']}")
        self.headers.append(scope["headers"])
        await self._application(scope, receive, send)


@pytest.fixture
def served(service: OrderService) -> Iterator[Served]:
    served = Served(service)
    with serving(served) as served.port:
        yield served


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines() if '"request"' in line]


class TestUpgrade:
    """Java's HttpClient and `curl --http2` ask for h2c by default (RFC 9110, 7.8: it may be ignored)."""

    @pytest.mark.parametrize("word", [b"h2c", b"websocket", b"TLS/1.0, x", b"\xff"])
    @pytest.mark.parametrize("connection", [b"Upgrade", b"keep-alive, upgrade, HTTP2-Settings"])
    def test_a_request_is_served_as_if_it_did_not_ask(
        self, served: Served, word: bytes, connection: bytes
    ) -> None:
        upgrade = b"Connection: %s\r\nHTTP2-Settings: AAMAAABk\r\nUpgrade: %s\r\n" % (connection, word)
        for how, body in ((length(ORDER), ORDER), (CHUNKED, chunks(ORDER))):
            head = PLACE + upgrade + how + b"\r\n"
            for parts in ([head + body + LAST], [head, body, LAST], pieces(head + body + LAST)):
                placed, last = exchange(served.port, *parts)
                assert (placed.status, last.status) == (201, 404)
                assert json.loads(placed.body)["customer"] == "John Doe"
                assert served.paths == ["POST /orders", "GET /last"]
                assert b"upgrade" not in dict(served.headers[0])
                served.paths.clear()

    @pytest.mark.parametrize("version", [b"1.1", b"1.0"])
    @pytest.mark.parametrize("split", [False, True])
    def test_a_body_is_never_run_as_a_request(self, served: Served, version: bytes, split: bool) -> None:
        for how, body in ((length(SMUGGLED), SMUGGLED), (CHUNKED, chunks(SMUGGLED, 500))):
            head = PLACE.replace(b"1.1", version) + b"Connection: Upgrade\r\nUpgrade: x\r\n" + how + b"\r\n"
            found = exchange(served.port, *([head, body, LAST] if split else [head + body + LAST]))
            assert found[0].status in (400, 415, 422)
            assert "GET /smuggled" not in served.paths

    def test_without_a_body_the_connection_goes_on(self, served: Served) -> None:
        get = b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
        assert [response.status for response in exchange(served.port, get + get, LAST)] == [200, 200, 404]

    def test_to_ask_for_it_and_for_close_closes(self, served: Served) -> None:
        asks = b"Connection: close, Upgrade\r\nUpgrade: h2c\r\n" + length(ORDER) + b"\r\n" + ORDER
        (placed,) = exchange(served.port, PLACE + asks + LAST)
        assert placed.status == 201
        assert placed.headers["connection"] == "close"

    @pytest.mark.parametrize(
        "request_",
        [
            b"CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n" + SMUGGLED,
            b"CONNECT /orders HTTP/1.1\r\nHost: a\r\n" + length(SMUGGLED) + b"\r\n" + SMUGGLED,
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SMUGGLED,
        ],
    )
    def test_what_is_no_http_1_is_refused_and_ends_the_connection(
        self, served: Served, request_: bytes
    ) -> None:
        (refused,) = exchange(served.port, request_ + LAST)
        assert refused.status == 400
        assert served.paths == []


def post(*fields: bytes, version: bytes = b"1.1", body: bytes = ORDER) -> bytes:
    return b"POST /orders HTTP/%s\r\n" % version + HOST + JSON + b"".join(fields) + b"\r\n" + body


def get(*fields: bytes, target: bytes = b"/last", version: bytes = b"1.1", host: bytes = HOST) -> bytes:
    return b"GET %s HTTP/%s\r\n" % (target, version) + host + b"".join(fields) + b"\r\n"


SOME = length(ORDER)
# Refused with 400, and nothing after it is run.
REFUSED: dict[str, bytes] = {
    "length and chunks": post(SOME, CHUNKED, body=chunks(ORDER)),
    "chunks and length": post(CHUNKED, SOME, body=chunks(ORDER)),
    "two lengths": post(SOME, SOME),
    "list of lengths": post(b"Content-Length: 60, 60\r\n"),
    "empty length": post(b"Content-Length:\r\n"),
    "length with a sign": post(b"Content-Length: +60\r\n"),
    "length in hexadecimal": post(b"Content-Length: 0x3c\r\n"),
    "length beyond 64 bits": post(b"Content-Length: 18446744073709551676\r\n"),
    "xchunked": post(b"Transfer-Encoding: xchunked\r\n", body=chunks(ORDER)),
    "identity": post(b"Transfer-Encoding: identity\r\n", body=chunks(ORDER)),
    "empty coding": post(b"Transfer-Encoding:\r\n", SOME),
    "chunked twice": post(b"Transfer-Encoding: chunked, chunked\r\n", body=chunks(ORDER)),
    "chunked in two fields": post(CHUNKED, CHUNKED, body=chunks(ORDER)),
    "gzip and chunked": post(b"Transfer-Encoding: gzip, chunked\r\n", body=chunks(ORDER)),
    "gzip and chunked in two fields": post(b"Transfer-Encoding: gzip\r\n", CHUNKED, body=chunks(ORDER)),
    "chunked with a parameter": post(b"Transfer-Encoding: chunked;q=1\r\n", body=chunks(ORDER)),
    "chunked after a vertical tab": post(b"Transfer-Encoding: \x0bchunked\r\n", body=chunks(ORDER)),
    "chunks in HTTP/1.0": post(CHUNKED, version=b"1.0", body=chunks(ORDER)),
    "chunk size beyond 64 bits": post(CHUNKED, body=b"1000000000000003c\r\n" + ORDER + b"\r\n0\r\n\r\n"),
    "chunk size with 0x": post(CHUNKED, body=b"0x3c\r\n" + ORDER + b"\r\n0\r\n\r\n"),
    "chunk size with a space": post(CHUNKED, body=b"3c \r\n" + ORDER + b"\r\n0\r\n\r\n"),
    "negative chunk size": post(CHUNKED, body=b"-3c\r\n" + ORDER),
    "chunks end in bare newlines": post(CHUNKED, body=chunks(ORDER).replace(b"\r\n", b"\n")),
    "newline in a chunk extension": post(CHUNKED, body=b"3c;a\nb\r\n" + ORDER + b"\r\n0\r\n\r\n"),
    "carriage return in a chunk extension": post(CHUNKED, body=b"3c;a\rb\r\n" + ORDER + b"\r\n0\r\n\r\n"),
    "chunk longer than its size": post(CHUNKED, body=b"3b\r\n" + ORDER + b"\r\n0\r\n\r\n"),
    "length in a trailer": post(CHUNKED, body=chunks(ORDER)[:-2] + length(SMUGGLED) + b"\r\n"),
    "chunked in a trailer": post(CHUNKED, body=chunks(ORDER)[:-2] + CHUNKED + b"\r\n"),
    "NUL in a trailer": post(CHUNKED, body=chunks(ORDER)[:-2] + b"X: \x00\r\n\r\n"),
    "folded header": get(b"X: a\r\n b\r\n"),
    "folded with a tab": get(b"X: a\r\n\tb\r\n"),
    "space before the first header": get(host=b" Host: a\r\n"),
    "bare carriage return": get(b"X: a\rY: b\r\n"),
    "bare newline": get(b"X: a\nY: b\r\n"),
    "bare newlines throughout": get().replace(b"\r\n", b"\n"),
    "headers end in a bare newline": get()[:-2] + b"\n",
    "space before the colon": get(b"X : a\r\n"),
    "no colon": get(b"X\r\n"),
    "no name": get(b": a\r\n"),
    "name with a control character": get(b"X\x01: a\r\n"),
    "name beyond ASCII": get(b"X\xe9: a\r\n"),
    "value with NUL": get(b"X: a\x00b\r\n"),
    "value with a control character": get(b"X: a\x01b\r\n"),
    "value with DEL": get(b"X: a\x7fb\r\n"),
    "lower case method": b"get /last HTTP/1.1\r\nHost: a\r\n\r\n",
    "unknown method": b"FROBNICATE /last HTTP/1.1\r\nHost: a\r\n\r\n",
    "method is no token": b"GE(T /last HTTP/1.1\r\nHost: a\r\n\r\n",
    "space before the method": b" GET /last HTTP/1.1\r\nHost: a\r\n\r\n",
    "tab after the method": b"GET\t/last HTTP/1.1\r\nHost: a\r\n\r\n",
    "HTTP/0.9": get(version=b"0.9"),
    "HTTP/9.9": get(version=b"9.9"),
    "HTTP/1.2": get(version=b"1.2"),
    "HTTP/2.0": get(version=b"2.0"),
    "http/1.1": get().replace(b"HTTP", b"http"),
    "no version": b"GET /last\r\nHost: a\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "NUL first": b"\x00",
    "authority as target": get(target=b"evil.test:80"),
    "asterisk as target": get(target=b"*"),
    "fragment in the target": get(target=b"/last#x"),
    "target beyond ASCII": get(target=b"/l\xe4st"),
    "control character in the target": get(target=b"/la\x01st"),
    "ftp as target": get(target=b"ftp://a/last"),
    "no host in the target": get(target=b"http:///last"),
    "name and password in the target": get(target=b"http://u:p@a/last"),
    "no Host": get(host=b""),
    "two Hosts": get(HOST),
    "two Hosts, joined": get(host=b"Host: a,b\r\n"),
    "empty Host": get(host=b"Host:\r\n"),
    "Host with a path": get(host=b"Host: a/b\r\n"),
    "Host with a name and password": get(host=b"Host: u:p@a\r\n"),
    "Host with a space": get(host=b"Host: a b\r\n"),
    "Host with a port that is no number": get(host=b"Host: a:b\r\n"),
    "Host beyond ASCII": get(host=b"Host: \xe4\r\n"),
    "Host with an open bracket": get(host=b"Host: [::1\r\n"),
    "two Hosts in HTTP/1.0": get(HOST, version=b"1.0"),
}
# Served with this status, and so is what comes after it.
SERVED: dict[str, tuple[bytes, int]] = {
    "chunks": (post(CHUNKED, body=chunks(ORDER)), 201),
    "CHUNKED": (post(b"Transfer-Encoding: CHUNKED \r\n", body=chunks(ORDER)), 201),
    "chunk extension": (post(CHUNKED, body=b"3c;a=b;c\r\n" + ORDER + b"\r\n0;d\r\n\r\n"), 201),
    "chunk size with zeros": (post(CHUNKED, body=b"0003C\r\n" + ORDER + b"\r\n000\r\n\r\n"), 201),
    "upgrade in a trailer": (
        post(CHUNKED, body=chunks(ORDER)[:-2] + b"Connection: upgrade\r\nUpgrade: x\r\n\r\n"),
        201,
    ),
    "GET with a body": (get(length(SMUGGLED), target=b"/health") + SMUGGLED, 200),
    "HEAD with a body": (get(length(SMUGGLED)).replace(b"GET", b"HEAD") + SMUGGLED, 404),
    "GET with chunks": (get(CHUNKED, target=b"/health") + chunks(SMUGGLED), 200),
    "empty line before": (b"\r\n" + get(target=b"/health"), 200),
    "absolute target": (get(target=b"http://evil.test:80/health?x"), 200),
    "absolute target in capitals": (get(target=b"HTTPS://evil.test/health"), 200),
    "absolute target without a path": (get(target=b"http://evil.test"), 200),
    "absolute target with a query alone": (get(target=b"http://evil.test?x=/health"), 200),
    "Host with a port": (get(target=b"/health", host=b"Host: a.test:8080\r\n"), 200),
    "Host with an empty port": (get(target=b"/health", host=b"Host: a.test:\r\n"), 200),
    "Host is an address": (get(target=b"/health", host=b"Host: 127.0.0.1\r\n"), 200),
    "Host is an IPv6 address": (get(target=b"/health", host=b"Host: [2001:db8::1]:80\r\n"), 200),
    "Host with white space around": (get(target=b"/health", host=b"Host: \t a \t\r\n"), 200),
    "a value beyond ASCII": (get(b"X: \xe4\r\n", target=b"/health"), 200),
}


@pytest.mark.parametrize("split", [False, True])
def test_what_has_two_readings_or_none_is_refused(
    served: Served,
    split: bool,
    capsys: pytest.CaptureFixture[str],
    record_property: Callable[[str, object], None],
) -> None:
    for what, request in REFUSED.items():
        served.paths.clear()
        found = exchange(served.port, *(pieces(request + LAST) if split else [request + LAST]))
        assert [response.status for response in found] == [400], what
        assert "GET /last" not in served.paths, what
        assert_is_a_refusal(found[0])
        (line,) = lines(capsys)
        assert (line["status"], line["Requests"], line["ClientErrors"]) == (400, 1, 1), what
        if not served.paths:
            assert line["route"] == "unmatched"
    record_property("attack_cases", len(REFUSED))


@pytest.mark.parametrize("split", [False, True])
def test_what_has_one_reading_is_served(served: Served, split: bool) -> None:
    for what, (request, status) in SERVED.items():
        with connect(served.port) as connection:
            sent(connection, *(pieces(request + LAST) if split else [request + LAST]))
            found = re.findall(rb"HTTP/1\.1 (\d+)", received(connection))  # an answer to HEAD has no body
        assert [int(code) for code in found] == [status, 404], what
        assert served.paths.pop() == "GET /last", what


def assert_is_a_refusal(answer: Answer) -> None:
    """It looks like all others that the API gives, and closes the connection."""
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["connection"] == "close"
    assert answer.headers["x-request-id"]
    assert json.loads(answer.body)["status"] == answer.status


def test_an_absolute_target_says_the_host(served: Served) -> None:
    exchange(served.port, get(target=b"http://evil.test:81/x", host=HOST) + LAST)
    assert [value for name, value in served.headers[0] if name == b"host"] == [b"evil.test:81"]


def test_http_1_0_needs_no_host(served: Served) -> None:
    (answer,) = exchange(served.port, b"GET /health HTTP/1.0\r\n\r\n")
    assert answer.status == 200


def test_trailers_reach_nobody(served: Served) -> None:
    """RFC 9110, 6.5.1."""
    trailers = b"Authorization: Bearer x\r\nIdempotency-Key: k\r\nHost: b\r\nExpect: 100-continue\r\n\r\n"
    for split in (False, True):
        request = post(CHUNKED, body=chunks(ORDER)[:-2] + trailers) + LAST
        found = exchange(served.port, *(pieces(request) if split else [request]))
        assert [response.status for response in found] == [201, 404]
        names = [name for name, _ in served.headers[0]]
        assert names == [b"host", b"content-type", b"transfer-encoding"]


def test_nothing_after_connection_close_is_run(served: Served) -> None:
    closing = get(b"Connection: close\r\n", target=b"/health")
    for request in ([closing + SMUGGLED], [closing, SMUGGLED], [get(version=b"1.0") + SMUGGLED]):
        assert len(exchange(served.port, *request)) == 1
    assert "GET /smuggled" not in served.paths


class TestExpect:
    def test_a_body_is_asked_for(self, served: Served) -> None:
        with connect(served.port) as connection:
            sent(connection, post(SOME, b"Expect: 100-Continue\r\n", body=b""))
            assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
            sent(connection, ORDER + LAST)
            (placed,) = read_answers(received(connection))
            assert placed.status == 201

    def test_a_body_that_is_not_wanted_cannot_become_a_request(self, served: Served) -> None:
        """A client that got its answer may send the body all the same, or may not: the connection ends."""
        request = get(b"Expect: 100-continue\r\n", SOME, target=b"/nothing")
        (answer,) = exchange(served.port, request, SMUGGLED)
        assert (answer.status, answer.headers["connection"]) == (404, "close")
        assert served.paths == ["GET /nothing"]

    def test_http_1_0_does_not_know_it(self, served: Served) -> None:
        """RFC 9110, 10.1.1."""
        (placed,) = exchange(served.port, post(SOME, b"Expect: 100-continue\r\n", version=b"1.0"))
        assert placed.status == 201


class Slow:
    """Answers `/slow` when it is let, every other path at once."""

    def __init__(self, *headers: tuple[bytes, bytes]) -> None:
        self.headers = headers
        self.begun: list[str] = []
        self.let = asyncio.Event()
        self.loop: asyncio.AbstractEventLoop

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.loop = asyncio.get_running_loop()
        self.begun.append(scope["path"])
        if scope["path"] == "/slow":
            await self.let.wait()
        body = scope["path"].encode()
        headers = [(b"content-length", b"%d" % len(body)), *self.headers]
        status = scope["app.rejection"].status_code if "app.rejection" in scope else 200
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class TestPipelines:
    def answers(self, slow: Slow, *parts: bytes) -> list[Answer]:
        """Send the parts, let the slow path answer once it was asked, and return all answers."""
        with serving(slow) as port, connect(port) as connection:
            sent(connection, *parts)
            while not slow.begun:
                pass
            slow.loop.call_soon_threadsafe(slow.let.set)
            return read_answers(received(connection))

    def test_the_second_waits_for_the_first(self) -> None:
        found = self.answers(Slow(), get(target=b"/slow") + get(target=b"/2"), LAST)
        assert [response.body for response in found] == [b"/slow", b"/2", b"/last"]

    def test_a_refusal_waits_for_the_answers_before_it(self) -> None:
        found = self.answers(
            Slow(), get(target=b"/slow") + get(target=b"/2") + b"NONSENSE\r\n\r\n" + SMUGGLED
        )
        assert [response.body for response in found] == [b"/slow", b"/2", b""]
        assert found[2].status == 400

    def test_no_more_wait_than_the_bound(self) -> None:
        """What is more is not run, and the connection ends, so that the client sends it again."""
        slow = Slow()
        found = self.answers(slow, get(target=b"/slow") + get(target=b"/2") * 5000)
        assert len(found) == len(slow.begun) == 1 + 16
        assert found[-1].headers["connection"] == "close"

    def test_what_exceeds_the_bound_spoils_no_request_before_it(self, served: Served) -> None:
        malformed = post(CHUNKED, body=b"no chunk\r\n")
        found = exchange(served.port, post(length(ORDER)) * (1 + 16) + malformed)
        assert [response.status for response in found][: 1 + 16] == [201] * (1 + 16)

    def test_an_answer_that_closes_is_the_last(self) -> None:
        """As all answers are while the server stops."""
        slow = Slow((b"connection", b"close"))
        found = self.answers(slow, get(target=b"/slow") + get(target=b"/2") + HEAD_ONLY)
        assert [response.body for response in found] == [b"/slow"]
        assert slow.begun == ["/slow"]
