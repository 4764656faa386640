"""The hostile suite: every way in that we know of, on every route, through both runtimes.

The routes come from the OpenAPI document, so a new one is attacked from its first day. How many cases were
tried is printed at the end of the run.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from starlette.types import ASGIApp, Scope
from tests.api import hostile
from tests.issuer import ISSUER, authenticator, bearer
from tests.support import a_settings

from app.core.dynamodb.memory import MemoryDocumentStore
from app.core.http.app import create_app
from app.core.settings import Settings
from app.orders.service import OrderService

PAGE = "https://console.test"  # may call, and so has to be able to read every answer
ALICE, BOB, ADMIN = bearer("alice"), bearer("bob"), bearer("root", "orders:admin")
UNKNOWN = "0199a6f5-1c00-7000-8000-000000000001"
# Nothing of ours may show in an answer.
INTERNALS = re.compile(
    r"traceback|\.py\b|orders\.(api|adapters|service)|fastapi|starlette|pydantic|botocore|dynamodb|jwks|pyjwt",
    re.I,
)

Send = Callable[..., httpx.Response]


@pytest.fixture
def settings() -> Settings:
    return a_settings(cors_origins=(PAGE,))


@pytest.fixture
def arrived() -> list[str]:
    """The path of every request, as the application gets it."""
    return []


@pytest.fixture
def app(service: OrderService, settings: Settings, arrived: list[str]) -> ASGIApp:
    application = create_app(service, settings, authenticator())

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        arrived.append(scope["path"])
        await application(scope, receive, send)

    return app


@pytest.fixture
def send(client: httpx.Client, record_property: Callable[[str, object], None]) -> Iterator[Send]:
    """Send one hostile request: count it, and check what every answer has to keep to."""
    tried = itertools.count()
    client.headers["origin"] = PAGE

    def send(method: str, path: str, **more: Any) -> httpx.Response:
        next(tried)
        response = client.request(method, path, **more)
        assert response.status_code < 500, (method, path, response.text)
        assert not INTERNALS.search(response.text), (method, path, response.text)
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["access-control-allow-origin"] == PAGE, (method, path)
        assert "access-control-allow-credentials" not in response.headers
        assert response.headers["x-request-id"]
        assert "x-injected" not in response.headers
        if response.status_code >= 400 and method != "HEAD":
            assert response.headers["content-type"] == "application/problem+json", (method, path)
        return response

    yield send
    record_property("hostile_cases", next(tried))


def routes() -> list[tuple[str, str, dict[str, Any] | None]]:
    """Every operation on orders: method, path, and a body that it takes."""
    document = create_app(None, Settings("t", "b", "e", "k", "c")).openapi()  # type: ignore[arg-type]
    found = []
    for path, methods in document["paths"].items():
        if not path.startswith("/orders"):
            continue
        for method, operation in methods.items():
            body = None
            if "requestBody" in operation:
                schema = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
                body = document["components"]["schemas"][schema.rsplit("/", 1)[1]]["examples"][0]
            found.append((method.upper(), path, body))
    return found


ROUTES = routes()
OF_ONE_ORDER = [route for route in ROUTES if "{order_id}" in route[1]]


def at(path: str, order_id: str) -> str:
    return re.sub(r"{(?!order_id)[^}]*}", "x", path).replace("{order_id}", order_id)


def place(client: httpx.Client, caller: dict[str, str], **more: Any) -> str:
    response = client.post("/orders", json=hostile.GOOD, headers=caller | more)
    assert response.status_code == 201, response.text
    return response.json()["id"]


def test_the_routes_are_all_here() -> None:
    assert len(ROUTES) >= 4
    assert {"/orders", "/orders/{order_id}", "/orders/{order_id}/status"} <= {path for _, path, _ in ROUTES}


def test_bad_tokens_are_refused_everywhere(send: Send, client: httpx.Client) -> None:
    order_id = place(client, ALICE)
    for (what, headers), (method, path, body) in itertools.product(hostile.bad_authorizations(), ROUTES):
        given = [("authorization", header.encode("utf-8")) for header in headers]
        response = send(method, at(path, order_id), json=body, headers=given)
        assert response.status_code == 401, (what, method, path, response.text)
        assert response.headers["www-authenticate"].startswith("Bearer"), what
        assert order_id not in response.json()["detail"]


def test_bad_tokens_are_refused_before_the_body_is_looked_at(send: Send) -> None:
    for body in hostile.BAD_BODIES:
        assert send("POST", "/orders", content=body).status_code == 401


def test_scopes_that_are_not_enough_are_refused(send: Send, client: httpx.Client) -> None:
    order_id = place(client, ALICE)
    for method, path, body in ROUTES:
        needed = "orders:read" if method == "GET" else "orders:write"
        for scopes in hostile.BAD_SCOPES[needed]:
            response = send(method, at(path, order_id), json=body, headers=bearer("alice", scopes))
            assert response.status_code == 403, (scopes, method, path, response.text)
            assert needed in response.headers["www-authenticate"]
        enough = send(method, at(path, order_id), json=body, headers=bearer("alice", needed))
        assert enough.status_code not in {401, 403}


def test_another_callers_order_does_not_exist(send: Send, client: httpx.Client) -> None:
    order_id = place(client, ALICE)
    before = client.get(f"/orders/{order_id}", headers=ALICE).json()
    for method, path, body in OF_ONE_ORDER:
        for extra in (
            {},
            {"if-match": '"1"'},
            {"if-match": "*"},
            {"if-match": '"9"'},
            {"if-none-match": '"1"'},
        ):
            theirs = send(method, at(path, order_id), json=body, headers=BOB | extra)
            nobodys = send(method, at(path, UNKNOWN), json=body, headers=BOB | extra)
            assert theirs.status_code == nobodys.status_code == 404, (method, path, extra)
            assert theirs.json() == {
                name: value.replace(UNKNOWN, order_id) if isinstance(value, str) else value
                for name, value in nobodys.json().items()
            }
            assert "etag" not in theirs.headers
    assert client.get(f"/orders/{order_id}", headers=ALICE).json() == before


def test_an_admin_sees_and_changes_all(send: Send, client: httpx.Client, service: OrderService) -> None:
    order_id = place(client, ALICE)
    assert isinstance(service._documents, MemoryDocumentStore)
    service._documents.receipts[order_id] = b""
    for method, path, body in OF_ONE_ORDER:
        response = send(method, at(path, order_id), json=body, headers=ADMIN, follow_redirects=False)
        assert response.status_code < 400, (method, path, response.text)
    assert [each["id"] for each in send("GET", "/orders", headers=ADMIN).json()["items"]] == [order_id]


def test_lists_hold_ones_own_only(send: Send, client: httpx.Client) -> None:
    mine = {place(client, BOB) for _ in range(3)}
    theirs = {place(client, ALICE) for _ in range(3)}
    for query in (
        "",
        "?customer=John%20Doe",
        "?status=pending",
        "?customer=John%20Doe&status=pending",
        "?owner=alice",
        "?sub=alice",
        "?limit=100&owner_key=owner%23alice",
    ):
        found = {each["id"] for each in send("GET", f"/orders{query}", headers=BOB).json()["items"]}
        assert found == mine
        assert not found & theirs


def test_cursors_cannot_be_made_changed_or_borrowed(send: Send, client: httpx.Client) -> None:
    for caller in (ALICE, BOB):
        for _ in range(3):
            place(client, caller)
    first = client.get("/orders?limit=1", headers=ALICE).json()
    cursor = first["next_cursor"]
    assert client.get("/orders", params={"cursor": cursor}, headers=ALICE).status_code == 200

    flipped = [cursor[:n] + ("A" if c != "A" else "B") + cursor[n + 1 :] for n, c in enumerate(cursor)]
    made_up = [
        "",
        "A",
        "=",
        "%00",
        cursor + "=",
        cursor + "A",
        cursor[:-1],
        cursor[1:],
        cursor.swapcase(),
        "null",
    ]
    for forged in flipped + made_up:
        response = send("GET", "/orders", params={"cursor": forged}, headers=ALICE)
        assert response.status_code == 400, forged
    for other, query in (
        (BOB, {}),
        (ADMIN, {}),
        (ALICE, {"customer": "John Doe"}),
        (ALICE, {"status": "pending"}),
    ):
        response = send("GET", "/orders", params={"cursor": cursor} | query, headers=other)
        assert response.status_code == 400, (other, query)
    everyones = client.get("/orders?limit=1", headers=ADMIN).json()["next_cursor"]
    assert send("GET", "/orders", params={"cursor": everyones}, headers=ALICE).status_code == 400


def test_an_idempotency_key_is_its_callers_own(send: Send, client: httpx.Client) -> None:
    for key in ("k", "alice:k", "1:", "é", "x" * 255, "k\t2"):
        header = {"idempotency-key": key.encode("latin-1")}
        first = send("POST", "/orders", json=hostile.GOOD, headers=ALICE | header)
        assert first.status_code == 201
        for caller in (BOB, ADMIN, bearer("alice "), bearer("Alice"), bearer("alic")):
            other = send("POST", "/orders", json=hostile.GOOD, headers=caller | header)
            assert other.status_code == 201
            assert other.json()["id"] != first.json()["id"], key
            assert "idempotent-replayed" not in other.headers
        again = send("POST", "/orders", json=hostile.GOOD, headers=ALICE | header)
        assert again.headers["idempotent-replayed"] == "true"
        assert (
            send("POST", "/orders", json=hostile.GOOD | {"quantity": 6}, headers=ALICE | header).status_code
            == 422
        )


def test_path_tricks_find_nothing(send: Send, client: httpx.Client, arrived: list[str]) -> None:
    order_id = place(client, ALICE)
    for target in hostile.trick_paths(order_id):
        path = unquote(target.partition("?")[0])
        as_it_is = {"extensions": {"target": target.encode()}}
        for caller, allowed in (({}, {401, 404, 405}), (BOB, {404, 405})):
            response = send("GET", "/", headers=caller, **as_it_is)
            assert arrived[-1] == path
            assert response.status_code in allowed, (target, response.status_code, response.text)
            assert "John Doe" not in response.text
        # Its owner finds it by the plain path, however that is spelled, and by no other.
        found = send("GET", "/", headers=ALICE, **as_it_is).status_code
        assert found in ({200} if path == f"/orders/{order_id}" else {404, 405}), target
        for method in ("PUT", "DELETE", "PATCH"):
            response = send(method, "/", headers=BOB, json={"status": "cancelled"}, **as_it_is)
            assert arrived[-1] == path
            assert response.status_code in {404, 405}, (method, target)
    assert client.get(f"/orders/{order_id}", headers=ALICE).json()["status"] == "pending"


def test_header_tricks_change_nobody(send: Send, client: httpx.Client) -> None:
    order_id = place(client, ALICE)
    for header, (method, path, body) in itertools.product(hostile.TRICK_HEADERS, ROUTES):
        assert send(method, at(path, order_id), json=body, headers=header).status_code == 401, header
        if "{order_id}" in path:
            assert send(method, at(path, order_id), json=body, headers=BOB | header).status_code == 404, (
                header
            )
    for header in hostile.TRICK_HEADERS:
        response = send("POST", "/orders", json=hostile.GOOD, headers=BOB | header)
        assert response.headers["location"] == f"/orders/{response.json()['id']}", header


def test_methods_that_are_not_offered_do_nothing(send: Send, client: httpx.Client) -> None:
    order_id = place(client, ALICE)
    for path in {path for _, path, _ in ROUTES}:
        offered = {method for method, each, _ in ROUTES if each == path}
        for method in {"TRACE", "DELETE", "PATCH", "OPTIONS", "PUT", "POST", "BREW"} - offered:
            assert send(method, at(path, order_id), headers=ALICE).status_code == 405, (method, path)


def test_bad_bodies_are_refused(send: Send, client: httpx.Client) -> None:
    kinds: list[dict[str, str]] = [{"content-type": "application/json"}, {}]
    for body, kind in itertools.product(hostile.BAD_BODIES, kinds):
        response = send("POST", "/orders", content=body, headers=ALICE | kind)
        expected = {400, 422} if kind or not body else {415}
        assert response.status_code in expected, (body[:40], response.text)
    for kind in (
        "text/plain",
        "application/xml",
        "multipart/form-data; boundary=x",
        "application/json; charset=utf-7",
    ):
        sent = {"content": json.dumps(hostile.GOOD), "headers": ALICE | {"content-type": kind}}
        assert send("POST", "/orders", **sent).status_code == 415
    assert client.get("/orders", headers=ALICE).json()["items"] == []


def test_large_bodies_and_headers_are_refused(send: Send) -> None:
    assert send("POST", "/orders", content=b" " * 70_000, headers=ALICE).status_code == 413
    assert send("POST", "/orders", content=b"{" + b'"a":1,' * 20_000, headers=ALICE).status_code == 413
    for headers in ({"x-large": "x" * 11_000}, {f"x-{n}": "x" * 50 for n in range(200)}):
        for method, path, body in ROUTES:
            assert send(method, at(path, UNKNOWN), json=body, headers=ALICE | headers).status_code == 431


def test_preflights_pass_no_bound(send: Send, client: httpx.Client) -> None:
    order_id = place(client, ALICE)
    asks = {"access-control-request-method": "GET"}
    for path in {path for _, path, _ in ROUTES} | {"/", "/health", "/nope"}:
        assert send("OPTIONS", at(path, order_id), headers=asks).text == ""
        for refused in (
            {"access-control-request-method": "DELETE"},
            {"access-control-request-headers": "authorization, x-made-up"},
            {"access-control-request-headers": "x" * 9_000},
        ):
            assert send("OPTIONS", at(path, order_id), headers=asks | refused).status_code == 400
        large = asks | {"x-large": "x" * 11_000}
        assert send("OPTIONS", at(path, order_id), headers=large).status_code == 431


@pytest.mark.parametrize(
    "name", ["idempotency-key", "if-match", "if-none-match", "traceparent", "x-correlation-id"]
)
def test_odd_header_values_break_nothing(send: Send, client: httpx.Client, name: str) -> None:
    order_id = place(client, ALICE)
    for value in (
        b"",
        b" ",
        b'"',
        b'"\xff"',
        b"*,*",
        b"'; DROP TABLE",
        b"${jndi:ldap://evil.test}",
        b"x" * 4000,
        b'W/"1"',
    ):
        for method, path, body in ROUTES:
            send(method, at(path, order_id), json=body, headers=[*ALICE.items(), (name, value)])


def test_the_start_page_says_that_tokens_are_asked_for(client: httpx.Client) -> None:
    assert client.get("/").json()["authentication"] == "jwt"
    assert ISSUER.url not in client.get("/").text


class TestLog:
    """With every detail logged, still no credential is, and no customer."""

    @pytest.fixture
    def settings(self) -> Settings:
        return a_settings(debug_sample_percent=100, log_level="DEBUG", cors_origins=(PAGE,))

    def test_holds_no_credentials(self, send: Send, capsys: pytest.CaptureFixture[str]) -> None:
        secret = {"idempotency-key": "S3CRET-key", "cookie": "S3CRET=1", "x-origin-secret": "S3CRET"}
        for _, headers in hostile.bad_authorizations():
            given = [("authorization", header.encode()) for header in headers]
            send("POST", "/orders?customer=S3CRET", json=hostile.GOOD, headers=[*given, *secret.items()])
        placed = hostile.GOOD | {"customer": "S3CRET"}
        assert send("POST", "/orders", json=placed, headers=ALICE | secret).status_code == 201
        send("POST", "/orders", json=placed | {"quantity": "S3CRET"}, headers=ALICE | secret)
        log = capsys.readouterr().out
        assert log.count('"message":"request"') > 50
        assert "S3CRET" not in log
        assert "eyJ" not in log  # how every token begins
