"""How many the server lets in, and what it says while it stops. What it rejects: tests/api/test_limits.py."""

from __future__ import annotations

import httpx
from tests.builders import an_app

from app.core.aws import http1
from app.core.http import middleware

UNKNOWN = "/orders/0199a6f5-1c00-7000-8000-000000000001"


def test_nobody_with_one_call_at_a_time_waits_for_a_connection() -> None:
    """A caller that is rejected at once can retry; one that waits first learns of it seconds later."""
    assert middleware.MAX_IN_FLIGHT <= http1.MAX_CONNECTIONS


async def test_while_draining_it_serves_but_is_not_ready_and_closes() -> None:
    app = an_app()
    app.state.draining = True
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api.test") as client:
        answer = await client.get(UNKNOWN)
        assert (answer.status_code, answer.headers["connection"]) == (404, "close")
        assert (await client.get("/health/ready")).status_code == 503
        assert (await client.get("/health")).status_code == 200
