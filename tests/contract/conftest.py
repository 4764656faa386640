"""Each port's implementations, those for AWS on the emulator with the resources of template.yaml."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from localcloud.running import Emulator
from moto import mock_aws

from app.core.aws.boto3_client import Boto3Client
from app.core.aws.json_client import AwsJsonClient


@pytest.fixture
def moto(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """AWS within the process, for what a test has to break."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with mock_aws():
        yield


@pytest.fixture
def at_aws(aws: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """The local AWS emulator, which every client made in this test calls."""
    for name, value in aws.environ.items():
        monkeypatch.setenv(name, value)
    return aws


@pytest.fixture(params=["memory", "json client", "boto3"])
async def dynamodb_client(
    request: pytest.FixtureRequest,
) -> AsyncIterator[AwsJsonClient | Boto3Client | None]:
    if request.param == "memory":
        yield None
        return
    request.getfixturevalue("at_aws")
    if request.param == "boto3":
        yield Boto3Client("dynamodb")
        return
    client = AwsJsonClient("dynamodb", "DynamoDB_20120810")
    yield client
    client.close()
