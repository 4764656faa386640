"""What is around the orders: the start page, health, documentation, headers, and the last catch."""

from __future__ import annotations

import logging
import re
from urllib.parse import urljoin

import httpx
import pytest
from tests.builders import a_settings

from app import __version__
from app.core.errors import AppError, DependencyUnavailable
from app.core.memory import FixedCursorKey
from app.core.settings import Settings
from app.orders.memory import MemoryDocumentStore, MemoryOrderRepository
from app.orders.models import Order
from app.orders.service import OrderService
from app.resources import RESOURCES


def test_start_page_says_what_answers_and_no_resource_names(client: httpx.Client, settings: Settings) -> None:
    response = client.get("/")
    about = response.json()
    assert about["version"] == __version__
    assert about["runtime"] == "local"
    assert about["authentication"] == "none"
    assert about["links"].keys() == {*RESOURCES, "docs", "openapi", "health"}
    for link in about["links"].values():
        assert client.get(link).status_code == 200
    assert settings.table_name not in response.text
    assert settings.bucket_name not in response.text


def test_health_is_alive_and_ready(client: httpx.Client) -> None:
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/health/ready").json() == {"status": "ready"}


@pytest.mark.parametrize("path", ["/", "/health", "/orders", "/nope", "/orders/nope"])
def test_every_answer_carries_the_security_headers(client: httpx.Client, path: str) -> None:
    headers = client.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert "max-age=" in headers["strict-transport-security"]
    assert "default-src 'none'" in headers["content-security-policy"]


class TestPathPrefix:
    @pytest.fixture
    def settings(self) -> Settings:
        return a_settings(root_path="/api")

    def test_the_api_and_its_documents_answer_under_it(self, client: httpx.Client) -> None:
        placed = client.post("/api/orders", json={"customer": "a", "product": "b", "quantity": 1})
        assert placed.headers["location"].startswith("/api/orders/")
        assert client.get(placed.headers["location"]).status_code == 200
        assert client.get("/api/openapi.json").json()["servers"] == [{"url": "/api"}]
        docs = client.get("/api/docs")
        for link in re.findall(r'(?:src|href)="([^"]+)"', docs.text):
            assert client.get(urljoin("/api/docs", link)).status_code == 200
        assert all(link.startswith("/api/") for link in client.get("/api/").json()["links"].values())


class TestDocs:
    def test_the_page_comes_from_here_alone_under_a_policy_that_says_so(self, client: httpx.Client) -> None:
        page = client.get("/docs")
        links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert len(links) == 4
        for link in links:
            assert "//" not in link
            answer = client.get(urljoin("/docs", link))
            assert answer.status_code == 200
            assert answer.content
            assert answer.content.startswith(b"\x89PNG") == link.endswith(".png")
            assert answer.headers["cache-control"] == "public, max-age=86400"
        assert "unsafe" not in page.headers["content-security-policy"]
        assert "http" not in page.headers["content-security-policy"]
        assert "style=" not in page.text

    @pytest.mark.parametrize("name", ["redoc.standalone.js", "..%2Fcore.py", "nope"])
    def test_nothing_else_of_the_package_is_served(self, client: httpx.Client, name: str) -> None:
        assert client.get(f"/docs/{name}").status_code == 404


class BrokenStore(MemoryOrderRepository):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    async def get(self, order_id: str) -> Order | None:
        raise self._error

    async def check_health(self) -> None:
        raise self._error


class TestFailures:
    @pytest.fixture
    def service(self, error: Exception) -> OrderService:
        return OrderService(BrokenStore(error), MemoryDocumentStore(), FixedCursorKey())

    @pytest.mark.parametrize("error", [RuntimeError("secret: arn:aws:dynamodb")])
    def test_an_unexpected_one_tells_the_log_and_not_the_caller(
        self, client: httpx.Client, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.ERROR, "orders"):
            response = client.get("/orders/0199a6f5-1c00-7000-8000-000000000001")
        assert response.status_code == 500
        assert response.headers["content-type"] == "application/problem+json"
        assert "secret" not in response.text
        assert "secret" in caplog.text

    @pytest.mark.parametrize("error", [DependencyUnavailable("dynamodb")])
    def test_a_missing_dependency_asks_to_come_back(self, client: httpx.Client) -> None:
        for path in ("/orders/0199a6f5-1c00-7000-8000-000000000001", "/health/ready"):
            response = client.get(path)
            assert response.status_code == 503
            assert int(response.headers["retry-after"]) > 0
            assert "dynamodb" not in response.text
        assert client.get("/health").status_code == 200


def test_every_error_has_a_status_and_a_name_of_its_own() -> None:
    errors = AppError.__subclasses__()
    assert all(400 <= error.status < 600 for error in errors)
    assert len({error.__name__ for error in errors}) == len(errors)
