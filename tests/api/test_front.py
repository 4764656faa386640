"""The front and FastAPI read requests alike: the same bytes go both ways, and come back the same."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from dataclasses import replace
from itertools import count
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support import a_settings, an_order

from app.core.dynamodb.memory import FixedCursorKey, MemoryDocumentStore, MemoryOrderStore
from app.core.errors import NotAuthenticated
from app.core.http import fast_path
from app.core.http.app import App, create_app
from app.core.http.middleware import RequestBoundary
from app.core.telemetry import Telemetry
from app.orders import service as service_module
from app.orders.models import ANYONE, Caller
from app.orders.service import OrderService

STORED = an_order().id
ABSENT = STORED[:-1] + "2"
SETTINGS = a_settings(log_level="CRITICAL")
Header = tuple[bytes, bytes]
Answered = tuple[int, list[Header], bytes]


class Scopes:
    """Takes the token for the scopes."""

    async def caller(self, authorization: str | None) -> Caller:
        if authorization is None or not authorization.startswith("Bearer "):
            raise NotAuthenticated
        return Caller("me", frozenset(authorization.removeprefix("Bearer ").split()))


class Both:
    """The application with its front, and the same without."""

    def __init__(self, guarded: bool, root_path: str = "") -> None:
        self.used = 0  # how often FastAPI was asked by the front
        self.root_path = root_path
        self.apps = [self._app(guarded), self._app(guarded)]
        self.ways = [self.apps[0], RequestBoundary(self._plain, root_path, Telemetry(SETTINGS))]
        behind = self.apps[0]._behind

        async def counted(*arguments: Any) -> None:
            self.used += 1
            await behind(*arguments)

        boundary: Any = self.apps[0]._outermost
        boundary._app._behind = counted

    def _app(self, guarded: bool) -> App:
        service = OrderService(MemoryOrderStore(), MemoryDocumentStore(), FixedCursorKey())
        order = an_order(owner="me" if guarded else None)
        asyncio.run(service._store.place(order, "fingerprint"))
        return create_app(service, replace(SETTINGS, root_path=self.root_path), Scopes() if guarded else None)

    async def _plain(self, scope: Any, receive: Any, send: Any) -> None:
        scope["app"] = self.apps[1]
        await self.apps[1].fastapi(scope, receive, send)

    def ask(
        self, method: str, path: str, query: str, headers: list[Header], body: bytes, cut_off: bool = False
    ) -> tuple[Answered, Answered]:
        """Send one request both ways. Cut off: the connection ends after `body`, and more was to come."""
        answers = []
        for way in self.ways:
            with pytest.MonkeyPatch.context() as patch:
                numbers = count(1)
                patch.setattr(service_module, "now", lambda: an_order().created_at)
                patch.setattr(
                    service_module,
                    "new_order_id",
                    lambda n=numbers: f"0199a6f5-1c00-7000-8000-{next(n):012}",
                )
                answers.append(asyncio.run(self._ask(way, method, path, query, headers, body, cut_off)))
        return answers[0], answers[1]

    async def _ask(
        self,
        way: Any,
        method: str,
        path: str,
        query: str,
        headers: list[Header],
        body: bytes,
        cut_off: bool,
    ) -> Answered:
        half = len(body) // 2
        parts = [body[:half], body[half:]]
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if not parts:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts) or cut_off}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "https",
            "path": self.root_path + path,
            "raw_path": quote(path).encode(),
            "query_string": query.encode("latin-1"),
            "root_path": "",
            "headers": headers,
            "client": ("203.0.113.7", 1234),
            "server": ("api.test", 443),
            "app": self.apps[1],
        }
        await way(scope, receive, send)
        if not sent:  # nobody is there to get it
            return 0, [], b""
        kept = [pair for pair in sent[0]["headers"] if pair[0] not in (b"x-request-id", b"x-correlation-id")]
        return sent[0]["status"], kept, b"".join(each.get("body", b"") for each in sent[1:])


JSON = (b"content-type", b"application/json")
ORDER = {"customer": "John Doe", "product": "Widget", "quantity": 5}
odd_text = st.one_of(
    st.text(max_size=6),
    st.sampled_from(
        ["", " ", " padded ", "\x1c", "\u2028x", "x" * 200, "x" * 201, "\U0001f600" * 200, "\x00", "null"]
    ),
)
odd_value = st.one_of(
    odd_text,
    st.sampled_from(
        [5, 0, -1, 1_000_000, 1_000_001, 10**30, 5.0, 5.5, True, False, None, "5", [], {}, ["shipped"]]
    ),
)
fields = st.sampled_from(["customer", "product", "quantity", "status", "extra"])
bodies = st.one_of(
    st.just(json.dumps(ORDER)),
    st.just('{"status": "shipped"}'),
    st.builds(lambda more: json.dumps(ORDER | more), st.dictionaries(fields, odd_value, max_size=2)),
    st.builds(lambda status: json.dumps({"status": status}), odd_value),
    st.dictionaries(fields, odd_value).map(json.dumps),
    st.sampled_from(
        [
            "",
            "null",
            "[]",
            "{",
            '{"status": "shipped"} x',
            '{"status": "shipped", "status": "cancelled"}',
            '{"customer": "a", "customer": "b", "product": "p", "quantity": 1}',
            '{"customer": "\\ud800", "product": "p", "quantity": 1}',
            '{"customer": "\\u0000", "product": "p", "quantity": 1e0}',
            '{"customer": "a", "product": "p", "quantity": NaN}',
            '{"customer": "a", "product": "p", "quantity": 1.0}',
            '{"customer": "a", "product": "p", "quantity": 01}',
            '{"customer": "a", "product": "p", "quantity": 5e0}',
            '{"customer": "a", "product": "p", "quantity": 1, "quantity": 1}',
            '{"customer": "\\"", "product": "p", "quantity": 1}',
            '{"customer": "\\"", "product": "p", "product": "p", "quantity": 1}',
            '{"customer": "a\\\\", "custome\\u0072": "p", "product": "p", "quantity": 1}',
            '{"customer": "Zo\\u00eb", "product": "p", "quantity": 1}',
            '{"status": "shipped", "\\ud800": 1}',
            '{"stat\\u0075s": "shipped"}',
            '\ufeff{"status": "shipped"}',
        ]
    ),
).map(lambda text: text.encode("utf-8", "surrogatepass"))
headers = st.lists(
    st.one_of(
        st.just(JSON),
        st.tuples(
            st.just(b"content-type"),
            st.sampled_from(
                [
                    b"application/json; charset=utf-8",
                    b"APPLICATION/JSON",
                    b"text/plain",
                    b"",
                    b"application/x+json",
                    b"application/json; charset=latin-1",
                    b'Application/JSON ;charset="UTF-8"',
                ]
            ),
        ),
        st.tuples(st.just(b"content-encoding"), st.sampled_from([b"gzip", b"identity", b""])),
        st.tuples(
            st.just(b"idempotency-key"),
            st.sampled_from([b"key", b" key", b"other", b"", b"\xff", b"k" * 255, b"k" * 256]),
        ),
        st.tuples(
            st.sampled_from([b"if-match", b"if-none-match"]),
            st.sampled_from(
                [
                    b'"1"',
                    b'W/"1"',
                    b'"2"',
                    b"*",
                    b"",
                    b'"1", "2"',
                    b"1",
                    b'"9999999999999999999"',
                    b"\xb2",
                    b' "1"\t',
                    b'"a,*,b"',
                    b'*, "1"',
                    b'"1" "1"',
                ]
            ),
        ),
    ),
    max_size=4,
)
queries = st.one_of(
    st.just(""),
    st.lists(
        st.tuples(
            st.sampled_from(["limit", "cursor", "customer", "status", "other"]),
            st.one_of(
                st.sampled_from(
                    [
                        "1",
                        "50",
                        "100",
                        "101",
                        "0",
                        "-1",
                        "007",
                        "+5",
                        " 5",
                        "5.0",
                        "1_0",
                        "٣",
                        "",
                        "pending",
                        "Pending",
                        "John Doe",
                        " John Doe ",
                        "\u3000",
                    ]
                ),
                st.text(max_size=5),
                st.sampled_from(["c" * 512, "c" * 513, "c" * 200, "c" * 201]),
            ),
        ),
        max_size=3,
    ).map(lambda pairs: "&".join(f"{name}={quote(value, errors='replace')}" for name, value in pairs)),
    st.sampled_from(
        [
            "limit",
            "limit=5&",
            "&limit=5",
            "limit=5;cursor=x",
            "customer=%ff",
            "customer=a+b",
            "limit=%35",
            "%6cimit=5",
        ]
    ),
)
paths = st.sampled_from(
    [
        *["/orders"] * 3,
        *[f"/orders/{STORED}", f"/orders/{ABSENT}", f"/orders/{STORED}/status"] * 2,
        f"/orders/{STORED.upper()}",
        "/orders/none",
        "/orders/",
        "/orders/a b",
        "/orders/ü",
        "/orders\n",
        f"/orders/{STORED}/status/",
        f"/orders/{STORED}/attachments",
        "/health",
        "/health/ready",
        "/nowhere",
        "//orders",
    ]
)
tokens = st.lists(
    st.sampled_from(
        [
            b"Bearer orders:read",
            b"Bearer orders:write",
            b"Bearer orders:read orders:write",
            b"Bearer orders:admin",
            b"Basic x",
        ]
    ).map(lambda value: (b"authorization", value)),
    max_size=2,
)
requests = st.tuples(
    st.sampled_from(["GET", "GET", "POST", "POST", "PUT", "PUT", "DELETE", "PATCH", "OPTIONS"]),
    paths,
    queries,
    headers,
    bodies,
)


@pytest.fixture(scope="module")
def both() -> dict[str, Both]:
    return {"open": Both(False), "guarded": Both(True), "under a prefix": Both(False, "/api")}


@pytest.mark.parametrize("kind", ["open", "guarded", "under a prefix"])
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(request=requests, token=tokens)
def test_any_request_is_answered_the_same_both_ways(
    both: dict[str, Both], kind: str, request: tuple[str, str, str, list[Header], bytes], token: list[Header]
) -> None:
    method, path, query, head, body = request
    with_front, without = both[kind].ask(method, path, query, [*head, *token], body)
    assert with_front == without


GOOD = [
    ("GET", "/orders", "limit=50&status=pending&customer=John%20Doe", b""),
    ("GET", "/orders", "", b""),
    ("GET", f"/orders/{STORED}", "", b""),
    ("GET", f"/orders/{ABSENT}", "", b""),
    ("POST", "/orders", "", json.dumps(ORDER).encode()),
    ("PUT", f"/orders/{STORED}/status", "", b'{"status": "processing"}'),
    ("GET", "/health", "", b""),
    ("GET", "/health/ready", "", b""),
]


@pytest.mark.parametrize("kind", ["open", "guarded", "under a prefix"])
def test_good_requests_do_not_need_fastapi(both: dict[str, Both], kind: str) -> None:
    way = both[kind]
    before = way.used
    for method, path, query, body in GOOD:
        token = (b"authorization", b"Bearer orders:read orders:write")
        with_front, without = way.ask(method, path, query, [JSON, token], body)
        assert with_front == without
    assert way.used == before


def test_a_body_that_is_too_large(both: dict[str, Both]) -> None:
    body = json.dumps(ORDER | {"customer": "x" * 70_000}).encode()
    with_front, without = both["open"].ask("POST", "/orders", "", [JSON], body)
    assert with_front == without
    assert with_front[0] == 413


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [("POST", "/orders", json.dumps(ORDER)), ("PUT", f"/orders/{STORED}/status", '{"status": "shipped"}')],
)
def test_a_body_that_is_cut_off_is_not_taken_for_a_whole_one(method: str, path: str, body: str) -> None:
    """However whole it looks: the caller was about to send more."""
    way = Both(False)
    for part in (body, body[:-1], ""):
        with_front, without = way.ask(method, path, "", [JSON], part.encode(), cut_off=True)
        assert with_front == without == (0, [], b"")
    assert asyncio.run(way.apps[0].state.service.list_orders(ANYONE, 10)).orders == [an_order()]


def test_every_hot_endpoint_is_a_documented_one(both: dict[str, Both]) -> None:
    paths = both["open"].apps[0].openapi()["paths"]
    for method, endpoints in fast_path.HOT.items():
        for hot in endpoints:
            assert method.lower() in paths[hot.path]
    for path in fast_path.HEALTH:
        assert "get" in paths[path]


# What a cold start must not wait for: each of these costs tens of milliseconds of CPU.
NOT_COLD = {
    "boto3",
    "botocore",
    "fastapi",
    "pydantic",
    "pydantic_core",
    "opentelemetry",
    "jwt",
    "cryptography",
} | {
    "aws_lambda_powertools",
    "urllib3",
    "jmespath",
    "uvicorn",
    "uvloop",
    "importlib.metadata",
}
# Room for a few more; a library that comes in brings dozens. See docs/decisions/ before raising it.
MAX_MODULES = 320

ENVIRON = {
    "PYTHONPATH": "src",
    "HOME": "/nowhere",  # without a profile
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_REGION": "eu-west-1",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    **{
        f"APP_{name}": "x"
        for name in ("TABLE_NAME", "BUCKET_NAME", "EVENT_BUS_NAME", "KMS_KEY_ARN", "CURSOR_KEY_ARN")
    },
}


def test_a_cold_start_imports_only_what_it_needs() -> None:
    """The first request of a Lambda environment, up to the answer (503 here: there is no database)."""
    event = {
        "version": "2.0",
        "rawPath": f"/orders/{STORED}",
        "rawQueryString": "",
        "headers": {"host": "api.test"},
        "requestContext": {"http": {"method": "GET", "path": f"/orders/{STORED}", "sourceIp": "203.0.113.7"}},
        "isBase64Encoded": False,
    }
    program = f"""
import json, sys
from app.entrypoints.lambda_api import handler
class Context: aws_request_id, function_version = "request", "7"
answer = handler({event!r}, Context)
print(json.dumps([answer["statusCode"], sorted(sys.modules)]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env=ENVIRON, capture_output=True, text=True, timeout=60, check=True
    )
    status, modules = json.loads(done.stdout.splitlines()[-1])
    assert status == 503
    assert not NOT_COLD & set(modules)
    assert len(modules) <= MAX_MODULES, f"{len(modules)} modules"
