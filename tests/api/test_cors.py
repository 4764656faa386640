"""Pages of other origins: those listed may call the API, with a token in a header, never with cookies."""

from __future__ import annotations

import json

import httpx
import pytest
from localcloud.issuer import Issuer
from tests.builders import AN_ORDER, a_settings, an_app

from app.core.http import middleware
from app.core.http.app import App
from app.core.settings import Settings
from app.orders.service import OrderService

OURS, EVIL = "https://console.test", "https://evil.test"
ISSUER = Issuer("https://issuer.test")
bearer = ISSUER.bearer
NOT_OURS = [
    EVIL,
    "null",
    "http://console.test",
    "https://console.test.evil.test",
    "https://console.test:8443",
    "*",
]


@pytest.fixture
def settings() -> Settings:
    return a_settings(cors_origins=(OURS,))


@pytest.fixture
def app(service: OrderService, settings: Settings) -> App:
    return an_app(service, settings, ISSUER.authenticator())


def preflight(client: httpx.Client, origin: str, method: str, headers: str) -> httpx.Response:
    asked = {
        "origin": origin,
        "access-control-request-method": method,
        "access-control-request-headers": headers,
    }
    return client.options("/orders", headers=asked)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT"])
@pytest.mark.parametrize(
    "headers",
    [
        "authorization,content-type,idempotency-key,if-match",
        "traceparent,tracestate",  # what instrumented pages add
        "baggage, traceparent",
    ],
)
def test_a_listed_page_may_send_what_the_api_takes(client: httpx.Client, method: str, headers: str) -> None:
    answer = preflight(client, OURS, method, headers)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == OURS
    assert method in answer.headers["access-control-allow-methods"]
    assert answer.headers["access-control-max-age"] == "600"
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize("origin", NOT_OURS)
def test_other_pages_may_not(client: httpx.Client, origin: str) -> None:
    asked = preflight(client, origin, "POST", "authorization")
    assert asked.status_code == 400
    assert asked.json()["type"] == "urn:orders:problem:cross-origin"
    assert "access-control-allow-origin" not in asked.headers
    answer = client.get("/orders", headers=bearer("alice") | {"origin": origin})
    assert "access-control-allow-origin" not in answer.headers


def test_a_listed_page_can_read_every_header_of_ours(client: httpx.Client) -> None:
    headers = bearer("alice") | {"origin": OURS, "idempotency-key": "once"}
    client.post("/orders", json=AN_ORDER, headers=headers)
    replayed = client.post("/orders", json=AN_ORDER, headers=headers).headers
    assert "access-control-allow-credentials" not in replayed
    exposed = set(replayed["access-control-expose-headers"].split(", "))
    assert {"etag", "location", "idempotent-replayed", "x-request-id"} <= exposed & replayed.keys()


def test_an_unexpected_error_can_be_read_too(
    client: httpx.Client, service: OrderService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service._repository, "page", None)
    answer = client.get("/orders", headers=bearer("alice") | {"origin": OURS})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (500, OURS)


def test_a_preflight_leaves_its_line(client: httpx.Client, capsys: pytest.CaptureFixture[str]) -> None:
    answer = preflight(client, OURS, "GET", "authorization")
    line = json.loads(capsys.readouterr().out)
    assert (line["method"], line["status"], line["Requests"]) == ("OPTIONS", 200, 1)
    assert line["request_id"] == answer.headers["x-request-id"]


def test_what_is_too_much_is_refused_and_can_be_read(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(middleware, "MAX_IN_FLIGHT", 0)
    for answer in (
        client.get("/orders", headers={"origin": OURS}),
        preflight(client, OURS, "GET", "authorization"),
    ):
        assert answer.status_code == 503
        assert answer.headers["access-control-allow-origin"] == OURS
        assert "retry-after" in answer.headers["access-control-expose-headers"]


class TestBehindTheEdge:
    """A preflight brings no token, but comes by the edge like any request, or not at all."""

    SECRET = "secret-" * 7

    @pytest.fixture
    def settings(self) -> Settings:
        return a_settings(cors_origins=(OURS,), origin_secrets=(self.SECRET,))

    def test_a_preflight_past_it_is_refused(self, client: httpx.Client) -> None:
        answer = preflight(client, OURS, "GET", "authorization")
        assert answer.json()["type"] == "urn:orders:problem:direct-access-forbidden"
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (403, OURS)
        client.headers["x-origin-secret"] = self.SECRET
        assert preflight(client, OURS, "GET", "authorization").status_code == 200


class TestEveryone:
    """Even if someone lists "*" by environment; the template's pattern takes no such origin."""

    @pytest.fixture
    def settings(self) -> Settings:
        return a_settings(cors_origins=("*",))

    def test_never_goes_with_credentials(self, client: httpx.Client) -> None:
        answer = client.get("/orders", headers={"origin": EVIL, "cookie": "a=b"})
        assert "access-control-allow-credentials" not in answer.headers
        assert "access-control-allow-credentials" not in preflight(client, EVIL, "GET", "cookie").headers
