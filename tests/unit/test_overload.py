"""What the server refuses rather than drown, and what it says while it stops."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from fastapi import FastAPI
from tests.builders import a_settings, an_app

from app.core.aws import http1
from app.core.http import middleware
from app.core.memory import FixedCursorKey
from app.orders.memory import MemoryDocumentStore, MemoryOrderRepository
from app.orders.models import Order
from app.orders.service import OrderService

UNKNOWN = "/orders/0199a6f5-1c00-7000-8000-000000000001"


class SlowStore(MemoryOrderRepository):
    """Answers when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.let = asyncio.Event()

    async def get(self, order_id: str) -> Order | None:
        await self.let.wait()
        return await super().get(order_id)


def a_server(store: MemoryOrderRepository) -> FastAPI:
    return an_app(OrderService(store, MemoryDocumentStore(), FixedCursorKey()), a_settings())


def test_what_is_too_much_is_refused_at_once_and_the_rest_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "MAX_IN_FLIGHT", 3)

    async def case() -> None:
        store = SlowStore()
        transport = httpx.ASGITransport(a_server(store))
        async with httpx.AsyncClient(transport=transport, base_url="http://api.test") as client:
            waiting = [asyncio.create_task(client.get(UNKNOWN)) for _ in range(3)]
            await asyncio.sleep(0.05)
            refused = await client.get(UNKNOWN)
            assert refused.status_code == 503
            assert int(refused.headers["retry-after"]) > 0
            assert refused.headers["content-type"] == "application/problem+json"
            assert (await client.get("/health")).status_code == 200
            for path in ("/orders/health", "/x/health", "/health/ready"):  # no liveness, whatever they end in
                assert (await client.get(path)).status_code == 503
            store.let.set()
            assert {answer.status_code for answer in await asyncio.gather(*waiting)} == {404}
            assert (await client.get(UNKNOWN)).status_code == 404

    asyncio.run(case())


def test_nobody_with_one_call_at_a_time_waits_for_a_connection() -> None:
    """Refused at the door, a caller learns it at once; behind it, after seconds and others' retries."""
    assert middleware.MAX_IN_FLIGHT <= http1.MAX_CONNECTIONS


def test_while_draining_it_serves_but_is_not_ready_and_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    async def case() -> None:
        app = a_server(MemoryOrderRepository())
        app.state.draining = True
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://api.test"
        ) as client:
            answer = await client.get(UNKNOWN)
            assert (answer.status_code, answer.headers["connection"]) == (404, "close")
            assert (await client.get("/health/ready")).status_code == 503
            assert (await client.get("/health")).status_code == 200

    asyncio.run(case())
