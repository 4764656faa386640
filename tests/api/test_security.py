"""Security tests: every way in that we know of, on every route, through both runtimes.

The routes come from the application and the bodies from its OpenAPI document, so a new route or resource is
attacked from its first day. How many cases were tried is printed at the end of the run.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from fastapi.routing import iter_route_contexts
from localcloud.issuer import Issuer
from starlette.types import ASGIApp, Scope
from tests.api import attack_cases
from tests.builders import a_settings, an_app

from app.core.http.app import PUBLIC
from app.core.settings import Settings
from app.orders.memory import MemoryDocumentStore
from app.orders.service import OrderService
from app.resources import RESOURCES

ISSUER = Issuer("https://issuer.test")
bearer = ISSUER.bearer
PAGE = "https://console.test"  # may call, and so has to be able to read every answer
ALICE, BOB = bearer("alice", attack_cases.ALL), bearer("bob", attack_cases.ALL)
ADMIN = bearer("root", attack_cases.ADMIN)
UNKNOWN = "0199a6f5-1c00-7000-8000-000000000001"
# Nothing of ours may show in an answer.
INTERNALS = re.compile(
    r"traceback|\.py\b|app\.(core|orders|products)|fastapi|starlette|pydantic|botocore|dynamodb|jwks|pyjwt",
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


class Recorded:
    """An application that notes the path of every request."""

    has_lifespan = False

    def __init__(self, app: ASGIApp, arrived: list[str]) -> None:
        self._app = app
        self._arrived = arrived

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        self._arrived.append(scope["path"])
        await self._app(scope, receive, send)


@pytest.fixture
def app(service: OrderService, settings: Settings, arrived: list[str]) -> ASGIApp:
    return Recorded(an_app(service, settings, ISSUER.authenticator()), arrived)


@pytest.fixture
def send(client: httpx.Client, record_property: Callable[[str, object], None]) -> Iterator[Send]:
    """Send one attack: count it, and check what every answer has to keep to."""
    tried = itertools.count()
    client.headers["origin"] = PAGE

    def send(method: str, path: str, **more: Any) -> httpx.Response:
        next(tried)
        response = client.request(method, path, **more)
        assert response.status_code < 500, (method, path, response.text)
        assert not INTERNALS.search(response.text), (method, path, response.text)
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["access-control-allow-origin"] == PAGE, (method, path)
        assert response.headers["vary"].lower() == "origin"
        assert "access-control-allow-credentials" not in response.headers
        assert response.headers["x-request-id"]
        assert "x-injected" not in response.headers
        if response.status_code >= 400 and method != "HEAD":
            assert response.headers["content-type"] == "application/problem+json", (method, path)
        return response

    yield send
    record_property("attack_cases", next(tried))


@dataclass(frozen=True)
class Route:
    """An operation of the application: with a body that it takes, and the scope that it asks for."""

    method: str
    path: str
    body: dict[str, Any] | None

    @property
    def is_public(self) -> bool:
        return self.path in PUBLIC

    @property
    def scope(self) -> str:
        resource = self.path.split("/")[1]
        return f"{resource}:{'read' if self.method == 'GET' else 'write'}"

    @property
    def is_of_one(self) -> bool:
        return re.search("{[a-z]+_id}", self.path) is not None

    def at(self, entity_id: str) -> str:
        return re.sub("{[^}]*}", "x", re.sub("{[a-z]+_id}", entity_id, self.path))


DOCUMENT = an_app().openapi()


def schema_of(operation: Any) -> dict[str, Any]:
    """The JSON Schema of what an operation takes."""
    schema = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    found: dict[str, Any] = DOCUMENT["components"]["schemas"][schema.rsplit("/", 1)[1]]
    return found


def routes() -> Iterator[Route]:
    """Every operation of the application, documented or not, whatever its path."""
    for found in iter_route_contexts(an_app().fastapi.routes):
        for method in (found.methods or {"GET"}) - {"HEAD"}:
            operation = DOCUMENT["paths"].get(found.path, {}).get(method.lower(), {})
            body = schema_of(operation)["examples"][0] if "requestBody" in operation else None
            yield Route(method, str(found.path), body)


ALL_ROUTES = sorted(routes(), key=lambda route: (route.path, route.method))
ROUTES = [route for route in ALL_ROUTES if not route.is_public]
of_every_resource = pytest.mark.parametrize("resource", RESOURCES)


def good(resource: str) -> dict[str, Any]:
    """A body that creates an entity."""
    return next(route.body for route in ROUTES if route.path == f"/{resource}" and route.body)


def of(resource: str, routes: list[Route] = ROUTES) -> list[Route]:
    return [route for route in routes if route.path.split("/")[1] == resource]


def text_in(body: dict[str, Any]) -> str:
    """A text that only someone who sees the entity knows."""
    return next(value for value in body.values() if isinstance(value, str))


def place(client: httpx.Client, caller: dict[str, str], resource: str = "orders", **more: Any) -> str:
    response = client.post(f"/{resource}", json=good(resource), headers=caller | more)
    assert response.status_code == 201, response.text
    return response.json()["id"]


def test_the_routes_are_all_here() -> None:
    documented = {(m.upper(), path) for path, operations in DOCUMENT["paths"].items() for m in operations}
    assert documented <= {(route.method, route.path) for route in ALL_ROUTES}
    for resource in RESOURCES:
        assert {("POST", f"/{resource}"), ("GET", f"/{resource}")} <= {(r.method, r.path) for r in ROUTES}


def test_every_route_is_guarded_or_listed(send: Send) -> None:
    """Whatever is public stands in one list, and what is in it exists."""
    for route in ALL_ROUTES:
        status = send(route.method, route.at(UNKNOWN), json=route.body).status_code
        assert (status == 401) is not route.is_public, (route, status)
    assert {*PUBLIC} <= {route.path for route in ALL_ROUTES}


def test_what_is_beside_a_public_path_is_guarded(send: Send) -> None:
    for path in (re.sub("{[^}]*}", "x", path).rstrip("/") for path in PUBLIC):
        for beside in (f"{path}/x/y", f"{path}//", f"/x{path}"):
            assert send("GET", "/", extensions={"target": beside.encode()}).status_code == 401, beside


def test_bad_tokens_are_refused_everywhere(send: Send, client: httpx.Client) -> None:
    entity_id = place(client, ALICE)
    for (what, headers), route in itertools.product(attack_cases.bad_authorizations(), ROUTES):
        given = [("authorization", header.encode("utf-8")) for header in headers]
        response = send(route.method, route.at(entity_id), json=route.body, headers=given)
        assert response.status_code == 401, (what, route, response.text)
        assert response.headers["www-authenticate"].startswith("Bearer"), what
        assert entity_id not in response.json()["detail"]


def bad_bodies(resource: str) -> list[bytes]:
    schema = schema_of(DOCUMENT["paths"][f"/{resource}"]["post"])
    properties = {
        name: DOCUMENT["components"]["schemas"][each["$ref"].rsplit("/", 1)[1]] if "$ref" in each else each
        for name, each in schema["properties"].items()
    }
    return attack_cases.bad_bodies(good(resource), properties)


@of_every_resource
def test_bad_tokens_are_refused_before_the_body_is_looked_at(send: Send, resource: str) -> None:
    for body in bad_bodies(resource):
        assert send("POST", f"/{resource}", content=body).status_code == 401


def test_scopes_that_are_not_enough_are_refused(send: Send, client: httpx.Client) -> None:
    entity_id = place(client, ALICE)
    for route in ROUTES:
        path = route.at(entity_id)
        for scopes in attack_cases.bad_scopes(route.scope):
            response = send(route.method, path, json=route.body, headers=bearer("alice", scopes))
            assert response.status_code == 403, (scopes, route, response.text)
            assert route.scope in response.headers["www-authenticate"]
        enough = send(route.method, path, json=route.body, headers=bearer("alice", route.scope))
        assert enough.status_code not in {401, 403}


@of_every_resource
def test_anothers_entity_does_not_exist(send: Send, client: httpx.Client, resource: str) -> None:
    entity_id = place(client, ALICE, resource)
    before = client.get(f"/{resource}/{entity_id}", headers=ALICE).json()
    for route in filter(lambda route: route.is_of_one, of(resource)):
        for extra in (
            {},
            {"if-match": '"1"'},
            {"if-match": "*"},
            {"if-match": '"9"'},
            {"if-none-match": '"1"'},
        ):
            theirs = send(route.method, route.at(entity_id), json=route.body, headers=BOB | extra)
            nobodys = send(route.method, route.at(UNKNOWN), json=route.body, headers=BOB | extra)
            assert theirs.status_code == nobodys.status_code == 404, (route, extra)
            assert theirs.json() == {
                name: value.replace(UNKNOWN, entity_id) if isinstance(value, str) else value
                for name, value in nobodys.json().items()
            }
            assert "etag" not in theirs.headers
    assert client.get(f"/{resource}/{entity_id}", headers=ALICE).json() == before


@of_every_resource
def test_an_admin_sees_and_changes_all(
    send: Send, client: httpx.Client, service: OrderService, resource: str
) -> None:
    entity_id = place(client, ALICE, resource)
    assert isinstance(service._documents, MemoryDocumentStore)
    service._documents.receipts[entity_id] = b""
    for route in filter(lambda route: route.is_of_one, of(resource)):
        response = send(
            route.method, route.at(entity_id), json=route.body, headers=ADMIN, follow_redirects=False
        )
        assert response.status_code < 400, (route, response.text)
    assert [each["id"] for each in send("GET", f"/{resource}", headers=ADMIN).json()["items"]] == [entity_id]
    for other in RESOURCES:  # an admin of one resource is none of another
        if other != resource:
            theirs = bearer("root", f"{other}:admin {resource}:read")
            assert send("GET", f"/{resource}", headers=theirs).json()["items"] == []
            assert send("GET", f"/{resource}/{entity_id}", headers=theirs).status_code == 404


def filters(resource: str, entity: dict[str, Any]) -> list[dict[str, str]]:
    """Queries of the list that the entity meets."""
    declared = DOCUMENT["paths"][f"/{resource}"]["get"]["parameters"]
    return [{each["name"]: entity[each["name"]]} for each in declared if each["name"] in entity]


@of_every_resource
def test_lists_hold_ones_own_only(send: Send, client: httpx.Client, resource: str) -> None:
    mine = {place(client, BOB, resource) for _ in range(3)}
    theirs = {place(client, ALICE, resource) for _ in range(3)}
    entity = client.get(f"/{resource}/{min(mine)}", headers=BOB).json()
    known = filters(resource, entity)
    assert known
    both = {name: value for query in known for name, value in query.items()}
    unknown = [{"owner": "alice"}, {"sub": "alice"}, {"limit": "100", "owner_key": "owner#alice"}]
    for query in ({}, *known, both, *unknown):
        found = send("GET", f"/{resource}", params=query, headers=BOB).json()["items"]
        assert {each["id"] for each in found} == mine
        assert not {each["id"] for each in found} & theirs


@of_every_resource
def test_cursors_cannot_be_made_changed_or_borrowed(send: Send, client: httpx.Client, resource: str) -> None:
    path = f"/{resource}"
    for caller in (ALICE, BOB):
        for _ in range(3):
            place(client, caller, resource)
    first = client.get(f"{path}?limit=1", headers=ALICE).json()
    cursor = first["next_cursor"]
    assert client.get(path, params={"cursor": cursor}, headers=ALICE).status_code == 200

    # Every character of one, and every way to spell it: tests/unit/test_cursor.py.
    flipped = [
        cursor[:n] + ("A" if cursor[n] != "A" else "B") + cursor[n + 1 :] for n in (0, 50, len(cursor) - 1)
    ]
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
        "\xff",
    ]
    for forged in flipped + made_up:
        response = send("GET", path, params={"cursor": forged}, headers=ALICE)
        assert response.status_code == 400, forged
    borrowed: list[tuple[str, dict[str, str], dict[str, str]]] = [
        (path, BOB, {}),
        (path, ADMIN, {}),
        *((path, ALICE, query) for query in filters(resource, first["items"][0])),
        *((f"/{other}", ALICE, {}) for other in RESOURCES if other != resource),
    ]
    for other, caller, query in borrowed:
        response = send("GET", other, params={"cursor": cursor} | query, headers=caller)
        assert response.status_code == 400, (other, query)
    everyones = client.get(f"{path}?limit=1", headers=ADMIN).json()["next_cursor"]
    assert send("GET", path, params={"cursor": everyones}, headers=ALICE).status_code == 400


@of_every_resource
def test_an_idempotency_key_is_its_callers_own(send: Send, client: httpx.Client, resource: str) -> None:
    path, body = f"/{resource}", good(resource)
    other_body = body | {name: f"{value}2" for name, value in body.items() if value == text_in(body)}
    for key in ("k", "alice:k", "1:", "é", "x" * 255, "k\t2"):
        header = {"idempotency-key": key.encode("latin-1")}
        first = send("POST", path, json=body, headers=ALICE | header)
        assert first.status_code == 201
        for caller in (BOB, ADMIN, *(bearer(each, attack_cases.ALL) for each in ("alice ", "Alice", "alic"))):
            other = send("POST", path, json=body, headers=caller | header)
            assert other.status_code == 201
            assert other.json()["id"] != first.json()["id"], key
            assert "idempotent-replayed" not in other.headers
        again = send("POST", path, json=body, headers=ALICE | header)
        assert again.headers["idempotent-replayed"] == "true"
        assert send("POST", path, json=other_body, headers=ALICE | header).status_code == 422


@of_every_resource
def test_path_tricks_find_nothing(
    send: Send, client: httpx.Client, arrived: list[str], resource: str
) -> None:
    entity_id = place(client, ALICE, resource)
    before = client.get(f"/{resource}/{entity_id}", headers=ALICE).json()
    for target in attack_cases.trick_paths(resource, entity_id):
        path = unquote(target.partition("?")[0])
        as_it_is = {"extensions": {"target": target.encode()}}
        for caller, allowed in (({}, {401}), (BOB, {404, 405})):
            response = send("GET", "/", headers=caller, **as_it_is)
            assert arrived[-1] == path
            assert response.status_code in allowed, (target, response.status_code, response.text)
            assert text_in(good(resource)) not in response.text
        # Its owner finds it by the plain path, however that is spelled, and by no other.
        found = send("GET", "/", headers=ALICE, **as_it_is).status_code
        assert found in ({200} if path == f"/{resource}/{entity_id}" else {404, 405}), target
        for method in ("PUT", "DELETE", "PATCH"):
            response = send(method, "/", headers=BOB, json={"status": "cancelled"}, **as_it_is)
            assert arrived[-1] == path
            assert response.status_code in {404, 405}, (method, target)
    assert client.get(f"/{resource}/{entity_id}", headers=ALICE).json() == before


def test_header_tricks_change_nobody(send: Send, client: httpx.Client) -> None:
    ids = {resource: place(client, ALICE, resource) for resource in RESOURCES}
    for header, (resource, entity_id) in itertools.product(attack_cases.TRICK_HEADERS, ids.items()):
        for route in of(resource):
            sent = {"json": route.body, "headers": header}
            assert send(route.method, route.at(entity_id), **sent).status_code == 401, header
            if route.is_of_one:
                sent["headers"] = BOB | header
                assert send(route.method, route.at(entity_id), **sent).status_code == 404, header
        response = send("POST", f"/{resource}", json=good(resource), headers=BOB | header)
        assert response.headers["location"] == f"/{resource}/{response.json()['id']}", header


def test_methods_that_are_not_offered_do_nothing(send: Send, client: httpx.Client) -> None:
    entity_id = place(client, ALICE)
    for path in {route.path for route in ALL_ROUTES}:
        routes = [route for route in ALL_ROUTES if route.path == path]
        for method in {"TRACE", "DELETE", "PATCH", "OPTIONS", "PUT", "POST", "BREW"} - {
            route.method for route in routes
        }:
            status = send(method, routes[0].at(entity_id), headers=ALICE).status_code
            assert status == 405, (method, path)


@of_every_resource
def test_bad_bodies_are_refused(send: Send, client: httpx.Client, resource: str) -> None:
    path, kinds = f"/{resource}", ({"content-type": "application/json"}, {})
    for body, kind in itertools.product(bad_bodies(resource), kinds):
        response = send("POST", path, content=body, headers=ALICE | kind)
        expected = {400, 422} if kind or not body else {415}
        assert response.status_code in expected, (body[:40], response.text)
    for kind_of_text in (
        "text/plain",
        "application/xml",
        "multipart/form-data; boundary=x",
        "application/json; charset=utf-7",
    ):
        sent = {"content": json.dumps(good(resource)), "headers": ALICE | {"content-type": kind_of_text}}
        assert send("POST", path, **sent).status_code == 415
    assert client.get(path, headers=ALICE).json()["items"] == []


@of_every_resource
def test_large_bodies_are_refused(send: Send, resource: str) -> None:
    for body in (b" " * 70_000, b"{" + b'"a":1,' * 20_000):
        assert send("POST", f"/{resource}", content=body, headers=ALICE).status_code == 413


def test_large_headers_are_refused(send: Send) -> None:
    for headers in ({"x-large": "x" * 11_000}, {f"x-{n}": "x" * 50 for n in range(200)}):
        for route in ROUTES:
            response = send(route.method, route.at(UNKNOWN), json=route.body, headers=ALICE | headers)
            assert response.status_code == 431


def test_preflights_pass_no_bound(send: Send, client: httpx.Client) -> None:
    entity_id = place(client, ALICE)
    asks = {"access-control-request-method": "GET"}
    for path in {route.at(entity_id) for route in ALL_ROUTES} | {"/nope"}:
        assert send("OPTIONS", path, headers=asks).text == ""
        for refused in (
            {"access-control-request-method": "DELETE"},
            {"access-control-request-headers": "authorization, x-made-up"},
            {"access-control-request-headers": "x" * 9_000},
        ):
            assert send("OPTIONS", path, headers=asks | refused).status_code == 400
        large = asks | {"x-large": "x" * 11_000}
        assert send("OPTIONS", path, headers=large).status_code == 431


@pytest.mark.parametrize(
    "name", ["idempotency-key", "if-match", "if-none-match", "traceparent", "x-correlation-id"]
)
def test_odd_header_values_break_nothing(send: Send, client: httpx.Client, name: str) -> None:
    ids = {resource: place(client, ALICE, resource) for resource in RESOURCES}
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
        for route in ROUTES:
            path = route.at(ids.get(route.path.split("/")[1], UNKNOWN))
            send(route.method, path, json=route.body, headers=[*ALICE.items(), (name, value)])


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
        for _, headers in attack_cases.bad_authorizations():
            given = [("authorization", header.encode()) for header in headers]
            send("POST", "/orders?customer=S3CRET", json=good("orders"), headers=[*given, *secret.items()])
        placed = good("orders") | {"customer": "S3CRET"}
        assert send("POST", "/orders", json=placed, headers=ALICE | secret).status_code == 201
        send("POST", "/orders", json=placed | {"quantity": "S3CRET"}, headers=ALICE | secret)
        log = capsys.readouterr().out
        assert log.count('"message":"request"') > 50
        assert "S3CRET" not in log
        assert "eyJ" not in log  # how every token begins
