"""Behind the edge, the origin answers the edge and nobody else; but its own health check always."""

from __future__ import annotations

import httpx
import pytest
from tests.builders import AN_ORDER, a_settings

from app.core.settings import Settings

NEW, OLD = "new-secret-" + "n" * 40, "old-secret-" + "o" * 40


@pytest.fixture
def settings() -> Settings:
    return a_settings(origin_secrets=(NEW, OLD), root_path="/api")


@pytest.mark.parametrize("secret", [NEW, OLD])
def test_the_edge_is_answered_while_its_secret_changes(client: httpx.Client, secret: str) -> None:
    headers = {"x-origin-secret": secret}
    assert client.post("/api/orders", json=AN_ORDER, headers=headers).status_code == 201
    assert client.get("/api/orders", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [{}, {"x-origin-secret": ""}, {"x-origin-secret": NEW[:-1]}, {"x-origin-secret": NEW + "," + OLD}],
)
@pytest.mark.parametrize(
    "path", ["/api/", "/api/orders", "/api/docs", "/api/health/ready", "/api/orders/health", "/nope"]
)
def test_others_are_refused_everywhere(client: httpx.Client, headers: dict[str, str], path: str) -> None:
    answer = client.get(path, headers=headers)
    assert answer.status_code == 403
    assert answer.json()["type"] == "urn:orders:problem:direct-access-forbidden"
    assert NEW not in answer.text


def test_two_values_are_not_one(client: httpx.Client) -> None:
    answer = client.get("/api/orders", headers=[("x-origin-secret", "wrong"), ("x-origin-secret", NEW)])
    assert answer.status_code == 403


@pytest.mark.parametrize("path", ["/health", "/api/health"])
def test_the_health_check_passes(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code == 200
