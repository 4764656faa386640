"""Paths on a real socket, to the server of the Fargate runtime. What is no HTTP: `test_framing.py`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote

import pytest
from localcloud.issuer import Issuer
from tests.api import attack_cases
from tests.api.wire import exchange, serving
from tests.builders import AN_ORDER, a_settings, an_app

from app.orders.service import OrderService

ISSUER = Issuer("https://issuer.test")
bearer = ISSUER.bearer
KNOWN = (
    f"HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/json\r\n"
    f"Authorization: {bearer('alice')['authorization']}\r\n"
)
ORDER = json.dumps(AN_ORDER)


@pytest.fixture
def arrived() -> list[str]:
    """The path of every request, as the application gets it."""
    return []


@pytest.fixture
def port(service: OrderService, arrived: list[str]) -> Iterator[int]:
    """The application behind uvicorn, on a free port of loopback."""
    application = an_app(service, a_settings(), ISSUER.authenticator())

    async def app(scope: Any, receive: Any, send: Any) -> None:
        arrived.append(scope["path"])
        await application(scope, receive, send)

    with serving(app) as port:
        yield port


def test_a_path_is_taken_as_it_was_sent(
    port: int, arrived: list[str], record_property: Callable[[str, object], None]
) -> None:
    """No part of the server straightens "/x/../orders": its owner finds an order by the plain path only."""
    (placed,) = exchange(port, f"POST /orders {KNOWN}Content-Length: {len(ORDER)}\r\n\r\n{ORDER}".encode())
    order_id = json.loads(placed.body)["id"]
    targets = attack_cases.trick_paths("orders", order_id)
    for target in targets:
        (answer,) = exchange(port, f"GET {target} {KNOWN}\r\n".encode())
        assert arrived[-1] == unquote(target.partition("?")[0])
        expected = {200} if arrived[-1] == f"/orders/{order_id}" else {404, 405}
        assert answer.status in expected, (target, answer)
        assert "x-injected" not in answer.headers
    record_property("attack_cases", len(targets))
