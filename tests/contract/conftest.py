"""Each port's implementations, those for AWS on the emulator with the resources of template.yaml."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest
from localcloud.running import Emulator
from moto import mock_aws

from app.core.aws.boto3_client import Boto3Client
from app.core.aws.json_client import AwsJsonClient

Run = Callable[[Awaitable[None]], None]


@pytest.fixture
def moto(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """AWS within the process, for what a test has to break."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with mock_aws():
        yield


@pytest.fixture
def run(request: pytest.FixtureRequest) -> Run:
    async def bounded(case: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(60):
                await case
        finally:
            if "dynamodb_client" in request.fixturenames:
                client = request.getfixturevalue("dynamodb_client")
                if isinstance(client, AwsJsonClient):
                    client.close()

    return lambda case: asyncio.run(bounded(case))


@pytest.fixture
def at_aws(aws: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """The local AWS emulator, to which every client made meanwhile goes."""
    for name, value in aws.environ.items():
        monkeypatch.setenv(name, value)
    return aws


@pytest.fixture(params=["memory", "json client", "boto3"])
def dynamodb_client(request: pytest.FixtureRequest) -> AwsJsonClient | Boto3Client | None:
    if request.param == "memory":
        return None
    request.getfixturevalue("at_aws")
    if request.param == "boto3":
        return Boto3Client("dynamodb")
    return AwsJsonClient("dynamodb", "DynamoDB_20120810")
