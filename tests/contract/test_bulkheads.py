"""A dependency that hangs takes its own endpoints only: each in turn, beneath the whole application."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from bench.canned import ORDER_ID, Canned
from localcloud.issuer import AUDIENCE, Issuer
from tests.builders import AN_ORDER, ROOT, a_settings
from tests.faulty_server import end, responds, serving, silence

from app.core.auth.jwt import KeySet
from app.core.aws import client, credentials, http1, json_client, sdk_client
from app.core.dynamodb.repository import Table
from app.core.errors import DependencyUnavailable
from app.core.http.middleware import MAX_IN_FLIGHT
from app.core.times import now
from app.main import build_app
from app.orders.repository import DynamoOrderRepository

PLACES = 3

Call = Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]


@dataclass(frozen=True)
class Endpoint:
    call: Call
    status: int
    needs: frozenset[str]


def endpoint(method: str, path: str, status: int, *needs: str, **more: Any) -> Endpoint:
    return Endpoint(lambda client: client.request(method, path, **more), status, frozenset(needs))


ORDER = f"/orders/{ORDER_ID}"
ATTACHMENT = {"name": "a.pdf", "content_type": "application/pdf"}
KEYS = "token issuer"
DATABASE = (KEYS, "credentials", "dynamodb")
ENDPOINTS = {
    "/": endpoint("GET", "/", 200),
    "/health": endpoint("GET", "/health", 200),
    "/openapi.json": endpoint("GET", "/openapi.json", 200),
    "unknown path": endpoint("GET", "/nothing", 404, KEYS),
    "no token": endpoint("GET", ORDER, 401, headers={"authorization": ""}),
    "not an order's id": endpoint("GET", "/orders/1", 404, KEYS),
    "not an order": endpoint("POST", "/orders", 422, KEYS, json={}),
    "get": endpoint("GET", ORDER, 200, *DATABASE),
    "place": endpoint("POST", "/orders", 201, *DATABASE, json=AN_ORDER),
    "change": endpoint("PUT", f"{ORDER}/status", 200, *DATABASE, json={"status": "pending"}),
    "list": endpoint("GET", "/orders", 200, *DATABASE, "kms"),
    "attach": endpoint("POST", f"{ORDER}/attachments", 200, *DATABASE, json=ATTACHMENT),
    "receipt": endpoint("GET", f"{ORDER}/receipt", 303, *DATABASE, "s3"),
}
# What is asked for more often than there are places, while its dependency hangs.
ASKED = {"dynamodb": "get", "kms": "list", "s3": "receipt", "credentials": "get", KEYS: "not an order's id"}


@asynccontextmanager
async def healthy_aws() -> AsyncIterator[str]:
    made: list[Canned] = []

    def make() -> Canned:
        made.append(Canned())
        return made[-1]

    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        await end(server, made)


def few_places(monkeypatch: pytest.MonkeyPatch, dependency: str) -> None:
    """Allow few places, which are soon full, and time-outs that a busy machine does not reach."""
    # Who waits for credentials holds a place of the service that needs them.
    scarce = "dynamodb" if dependency == "credentials" else dependency
    monkeypatch.setattr(client, "PLACES", client.PLACES | {scarce: PLACES})
    monkeypatch.setattr(credentials, "TIMEOUT_SECONDS", 60.0)
    monkeypatch.setattr(KeySet, "TIMEOUT_SECONDS", 60.0)
    monkeypatch.setattr(KeySet, "COOLDOWN_SECONDS", 90.0)
    for name in ("ATTEMPT_SECONDS", "DEADLINE_SECONDS"):
        monkeypatch.setattr(json_client, name, 60.0)
    for name in ("READ_SECONDS", "DEADLINE_SECONDS"):
        monkeypatch.setattr(sdk_client, name, 60.0)


@asynccontextmanager
async def api(monkeypatch: pytest.MonkeyPatch, hanging: str) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a caller of the whole application, of which one dependency hangs."""
    async with (
        silence() as silent,
        healthy_aws() as json_services,
        serving(*[responds(b"")] * 99) as storage,
        serving() as tokens,
    ):
        issuer = Issuer(silent if hanging == "token issuer" else tokens.url)
        tokens.script = [responds(json.dumps(document).encode()) for document in issuer.documents().values()]
        names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL")
        for name in names:
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_REGION", "eu-central-1")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
        urls = {"dynamodb": json_services, "kms": json_services, "s3": storage.url} | {hanging: silent}
        for service in ("dynamodb", "kms", "s3"):
            monkeypatch.setenv(f"AWS_ENDPOINT_URL_{service.upper()}", urls[service])
        if hanging == "credentials":
            monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{silent}/creds")
        else:
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        app = build_app(a_settings(auth_issuer=issuer.url, auth_audience=AUDIENCE))
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app),
            base_url="http://api.test",
            headers=issuer.bearer("alice", "orders:admin"),
            timeout=None,  # noqa: S113 - the test's own ends it
        ) as client:
            yield client
            service: Any = app.state.orders
            for observed in (service._repository._table._client, service._cursor_key._client):
                observed._client.close()


async def all_but(client: httpx.AsyncClient, dependency: str) -> None:
    """Assert that every endpoint that does not need the dependency answers as ever."""
    for name, other in ENDPOINTS.items():
        if dependency not in other.needs:
            assert (name, (await other.call(client)).status_code) == (name, other.status)


def rejected(answer: httpx.Response) -> bool:
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"].endswith("dependency-unavailable")
    return answer.status_code == 503 and int(answer.headers["retry-after"]) > 0


@pytest.mark.parametrize("hanging", ASKED)
async def test_one_that_hangs_takes_its_own_endpoints_only(
    monkeypatch: pytest.MonkeyPatch, hanging: str
) -> None:
    few_places(monkeypatch, hanging)
    async with api(monkeypatch, hanging) as client:
        await all_but(client, hanging)  # all is imported, and the issuer's keys are known
        asked = ENDPOINTS[ASKED[hanging]]
        places = PLACES + (hanging == KEYS)  # the one that asks for the keys takes none
        waiting = {asyncio.create_task(asked.call(client)) for _ in range(places + 4)}
        while len(waiting) > places:  # who finds no place is told at once
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            assert all(rejected(task.result()) for task in done)
        assert len(waiting) == places
        await all_but(client, hanging)
        assert not any(task.done() for task in waiting)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


def test_together_they_leave_places_for_what_needs_none() -> None:
    assert sum(client.PLACES.values()) < MAX_IN_FLIGHT


METHODS = [name for name, _ in inspect.getmembers(DynamoOrderRepository, inspect.iscoroutinefunction)]


@pytest.mark.parametrize("method", METHODS)
def test_no_method_of_the_store_goes_past_its_bound(method: str) -> None:
    class Unasked:
        async def call(self, *_: Any) -> Any:
            raise AssertionError

    store = DynamoOrderRepository(Table(Unasked(), "table", 4))
    for _ in range(client.PLACES["dynamodb"]):
        store.bulkhead.take()
    call = getattr(store, method)
    parameters = inspect.signature(call).parameters.values()
    positional = [
        {"day": now(), "size_bytes": 1, "limit_bytes": 1}.get(parameter.name)
        for parameter in parameters
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    named = {parameter.name: None for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}
    with pytest.raises(DependencyUnavailable):
        asyncio.run(call(*positional, **named))


def test_the_documentation_knows_the_places() -> None:
    text = (ROOT / "docs/reliability.md").read_text()
    _, table = text.split("| dependency | requests that may wait |")
    rows = [re.search(r"\d+", row.split("|")[2]) for row in table.split("\n\n")[0].splitlines()[2:]]
    assert [int(found[0]) for found in rows if found] == list(client.PLACES.values())


def test_the_documentation_knows_the_deadlines() -> None:
    text = (ROOT / "docs/reliability.md").read_text()
    _, table = text.split("| a call ends after | runs in |")
    rows = [row.split("|") for row in table.split("\n\n")[0].splitlines()[2:]]
    told = {row[1].strip(): float(row[3].strip().removesuffix(" s")) for row in rows}
    assert told == {
        "DynamoDB": json_client.DEADLINE_SECONDS,
        "S3": sdk_client.DEADLINE_SECONDS,
        "KMS": json_client.DEADLINE_SECONDS,
        "issuer of tokens": KeySet.TIMEOUT_SECONDS,
        "credentials": credentials.TIMEOUT_SECONDS,
    }
    assert f"over {http1.MAX_CONNECTIONS} connections" in text
    assert f"of the {MAX_IN_FLIGHT} requests" in text


def test_a_place_is_given_back_however_the_work_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    few_places(monkeypatch, "s3")
    bulkhead = client.Bulkhead("s3")
    for _ in range(9):
        with pytest.raises(KeyError), bulkhead:
            raise KeyError
    for _ in range(PLACES):
        bulkhead.take()
    with pytest.raises(DependencyUnavailable) as caught:
        bulkhead.take()
    assert caught.value.dependency == "s3"
    bulkhead.give_back()
    bulkhead.take()


def test_who_makes_one_call_at_a_time_finds_a_connection() -> None:
    assert client.PLACES["dynamodb"] <= http1.MAX_CONNECTIONS
