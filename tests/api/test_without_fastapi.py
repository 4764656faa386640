"""Which requests are served without FastAPI: every canonical one, whatever other headers it has.

The answers of both paths are alike, so nothing in them tells which was taken. FastAPI itself tells it here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from localcloud.issuer import Issuer
from tests.builders import AN_ORDER, a_settings, an_app, an_order
from tests.transports import LambdaTransport, ServerTransport

from app.core.settings import Settings
from app.orders.service import OrderService

ISSUER = Issuer("https://issuer.test")
bearer = ISSUER.bearer

UNKNOWN = an_order().id
JSON = {"content-type": "application/json"}
# What browsers, SDKs, proxies and tracers add. None of it changes what is asked for.
HARMLESS = {
    "accept": "application/json",
    "accept-encoding": "gzip, deflate, br",
    "accept-language": "de-CH, de;q=0.9, *;q=0.1",
    "cache-control": "no-cache",
    "cookie": "session=1; theme=dark",
    "forwarded": "for=192.0.2.60;proto=https",
    "origin": "https://elsewhere.test",
    "pragma": "no-cache",
    "priority": "u=1, i",
    "referer": "https://elsewhere.test/orders",
    "sec-fetch-mode": "cors",
    "te": "trailers",
    "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "tracestate": "vendor=1",
    "user-agent": "Mozilla/5.0 (X11; Linux x86_64)",
    "via": "2.0 proxy.test",
    "x-amzn-trace-id": "Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=1",
    "x-anything": "at all",
    "x-correlation-id": "mine-1",
    "x-empty": "",
    "x-forwarded-for": "203.0.113.7",
    "x-forwarded-port": "443",
    "x-forwarded-proto": "https",
    "x-request-id": "mine-2",
}


@pytest.fixture
def by_fastapi(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Return what FastAPI was asked for since the last look."""
    asked: list[str] = []
    original = FastAPI.__call__

    async def noted(self: FastAPI, scope: Any, receive: Any, send: Any) -> None:
        asked.append(f"{scope['method']} {scope['path']}")
        await original(self, scope, receive, send)

    monkeypatch.setattr(FastAPI, "__call__", noted)

    def look() -> list[str]:
        found = asked[:]
        asked.clear()
        return found

    return look


@pytest.fixture(params=["open", "guarded", "with a console"])
def settings(request: pytest.FixtureRequest) -> Settings:
    return a_settings(cors_origins=("https://console.test",) if request.param == "with a console" else ())


@pytest.fixture(params=["lambda", "server"])
def client(
    request: pytest.FixtureRequest, service: OrderService, settings: Settings, loop: Any
) -> Iterator[httpx.Client]:
    guarded = "guarded" in request.node.callspec.id
    app = an_app(service, settings, ISSUER.authenticator() if guarded else None)
    transport = LambdaTransport(app) if request.param == "lambda" else ServerTransport(app, loop)
    headers = bearer("alice") if guarded else {}
    with httpx.Client(transport=transport, base_url="http://api.test", headers=headers) as client:
        yield client


def canonical(client: httpx.Client, **headers: str) -> list[int]:
    """Send one request to each endpoint that has a fast path, and return the statuses."""
    placed = client.post("/orders", content=json.dumps(AN_ORDER), headers=JSON | headers)
    location = placed.headers["location"]
    change = json.dumps({"status": "processing"})
    return [
        placed.status_code,
        client.get(location, headers=headers).status_code,
        client.get("/orders", headers=headers).status_code,
        client.get("/orders?limit=1&status=pending&customer=John%20Doe", headers=headers).status_code,
        client.put(f"{location}/status", content=change, headers=JSON | headers).status_code,
        client.get(f"/orders/{UNKNOWN}", headers=headers).status_code,
        client.get("/health", headers=headers).status_code,
        client.get("/health/ready", headers=headers).status_code,
    ]


def test_no_header_makes_a_canonical_request_another(
    client: httpx.Client, by_fastapi: Callable[[], list[str]]
) -> None:
    cases: list[dict[str, str]] = [{}, HARMLESS, *({name: value} for name, value in HARMLESS.items())]
    for headers in cases:
        assert canonical(client, **headers) == [201, 200, 200, 200, 200, 404, 200, 200], headers
        assert by_fastapi() == [], headers


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("POST", "/orders", JSON | {"idempotency-key": "k" * 255}, 201),
        ("POST", "/orders", {"content-type": "application/json; charset=utf-8"}, 201),
        ("GET", "/orders/{}", {"if-none-match": '"1"'}, 304),
        ("GET", "/orders/{}", {"if-match": '"2"'}, 412),
        ("GET", "/orders?limit=100", {}, 200),
        ("GET", "/orders?customer=" + "c" * 200, {}, 200),
        ("HEAD", "/orders/{}", {}, 200),
        ("POST", "/orders", {"content-type": "text/plain"}, 415),
    ],
)
def test_neither_does_what_it_may_ask_for(
    client: httpx.Client,
    by_fastapi: Callable[[], list[str]],
    method: str,
    path: str,
    headers: dict[str, str],
    status: int,
) -> None:
    order_id = client.post("/orders", json=AN_ORDER).json()["id"]
    body = json.dumps(AN_ORDER) if method == "POST" else None
    answer = client.request(method, path.format(order_id), content=body, headers=headers)
    assert (answer.status_code, by_fastapi()) == (status, [])


@pytest.mark.parametrize(
    ("method", "path", "changes"),
    [
        ("POST", "/orders", {"quantity": 0}),
        ("POST", "/orders", {"customer": " padded "}),
        ("GET", "/orders?limit=0", {}),
        ("GET", "/nowhere", {}),
    ],
)
def test_and_fastapi_is_asked_for_any_other(
    client: httpx.Client,
    by_fastapi: Callable[[], list[str]],
    method: str,
    path: str,
    changes: dict[str, Any],
) -> None:
    client.request(method, path, json=AN_ORDER | changes if method == "POST" else None)
    assert by_fastapi() == [f"{method} {path.partition('?')[0]}"]
