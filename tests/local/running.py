"""The application on the local AWS, within one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from app.core.aws.json_client import LeanClient
from app.core.settings import Settings
from app.main import build_app


@asynccontextmanager
async def api_client(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the API as bootstrap builds it; its connections to AWS are closed with the loop."""
    made: list[LeanClient] = []

    class Noted(LeanClient):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("app.main.LeanClient", Noted)
        transport = httpx.ASGITransport(build_app(settings))
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://api.test") as client:
            yield client
    finally:
        for each in made:
            each.close()
        await asyncio.sleep(0)  # in which the connections go
