"""Fixtures for every suite: the application over memory, called through each runtime."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import boto3
import httpx
import pytest
from fastapi import FastAPI
from localcloud.running import Emulator, running_emulator
from tests.builders import a_settings, an_app
from tests.transports import LambdaTransport, ServerTransport

from app.core.memory import FixedCursorKey
from app.core.settings import Settings
from app.orders.memory import MemoryDocumentStore, MemoryOrderRepository
from app.orders.service import OrderService


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """What runs a test that is a coroutine: https://anyio.readthedocs.io/en/stable/testing.html"""
    return "asyncio"


@pytest.fixture
def settings() -> Settings:
    return a_settings()


@pytest.fixture
def documents(settings: Settings) -> MemoryDocumentStore:
    return MemoryDocumentStore(settings.attachment_max_bytes)


@pytest.fixture
def service(documents: MemoryDocumentStore) -> OrderService:
    return OrderService(MemoryOrderRepository(), documents, FixedCursorKey())


@pytest.fixture
def app(service: OrderService, settings: Settings) -> FastAPI:
    return an_app(service, settings)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)  # Mangum asks for the current loop
    yield loop
    asyncio.set_event_loop(None)
    loop.close()


@pytest.fixture(params=["lambda", "server"])
def client(
    request: pytest.FixtureRequest, app: FastAPI, loop: asyncio.AbstractEventLoop
) -> Iterator[httpx.Client]:
    """The API as its callers see it, through one runtime and then the other."""
    transport = LambdaTransport(app) if request.param == "lambda" else ServerTransport(app, loop)
    with httpx.Client(transport=transport, base_url="http://api.test") as client:
        yield client


@pytest.fixture(scope="module", autouse=True)
def own_session() -> None:
    """Forget the session that boto3 keeps: the credentials of the module before are in it."""
    boto3.DEFAULT_SESSION = None


@pytest.fixture(scope="session")
def aws() -> Iterator[Emulator]:
    """The local AWS emulator with the stack of template.yaml on it, and its functions running from `src`."""
    with running_emulator() as aws:
        yield aws
