"""Behind the edge, the origin answers the edge and nobody else; but its own health check always."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import httpx
import pytest
from tests.support import AN_ORDER, LambdaTransport, ServerTransport, a_settings

from app.core.http.app import create_app
from app.orders.service import OrderService

NEW, OLD = "new-secret-" + "n" * 40, "old-secret-" + "o" * 40


@pytest.fixture(params=["lambda", "server"])
def origin(
    request: pytest.FixtureRequest, service: OrderService, loop: asyncio.AbstractEventLoop
) -> Iterator[httpx.Client]:
    app = create_app(service, a_settings(origin_secrets=(NEW, OLD), root_path="/api"))
    transport = LambdaTransport(app) if request.param == "lambda" else ServerTransport(app, loop)
    with httpx.Client(transport=transport, base_url="http://api.test") as client:
        yield client


@pytest.mark.parametrize("secret", [NEW, OLD])
def test_the_edge_is_answered_while_its_secret_changes(origin: httpx.Client, secret: str) -> None:
    headers = {"x-origin-secret": secret}
    assert origin.post("/api/orders", json=AN_ORDER, headers=headers).status_code == 201
    assert origin.get("/api/orders", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [{}, {"x-origin-secret": ""}, {"x-origin-secret": NEW[:-1]}, {"x-origin-secret": NEW + "," + OLD}],
)
@pytest.mark.parametrize(
    "path", ["/api/", "/api/orders", "/api/docs", "/api/health/ready", "/api/orders/health", "/nope"]
)
def test_others_are_refused_everywhere(origin: httpx.Client, headers: dict[str, str], path: str) -> None:
    answer = origin.get(path, headers=headers)
    assert answer.status_code == 403
    assert answer.json()["type"] == "urn:orders:problem:not-by-the-edge"
    assert NEW not in answer.text


def test_two_values_are_not_one(origin: httpx.Client) -> None:
    answer = origin.get("/api/orders", headers=[("x-origin-secret", "wrong"), ("x-origin-secret", NEW)])
    assert answer.status_code == 403


@pytest.mark.parametrize("path", ["/health", "/api/health"])
def test_the_health_check_passes(origin: httpx.Client, path: str) -> None:
    assert origin.get(path).status_code == 200


def test_without_a_secret_anyone_is_answered(client: httpx.Client) -> None:
    assert client.get("/orders").status_code == 200
