"""Which host and port a connection goes to, and whether by TLS: what an address says, or its scheme's own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import pytest

from app.core.auth.jwt import KeySet
from app.core.aws.credentials import CredentialsChain
from app.core.aws.http1 import Pool
from app.core.aws.json_client import AwsJsonClient
from app.core.errors import DependencyUnavailable

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}


class Loop(asyncio.SelectorEventLoop):
    """Connects to nobody, and keeps who was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: set[tuple[str, int, bool]] = set()

    async def create_connection(self, *args: Any, **options: Any) -> Any:
        _, host, port = args
        self.asked.add((host, port, options["ssl"] is not None))
        raise ConnectionRefusedError


async def of_any_service(url: str) -> None:
    await Pool(urlsplit(url), {}).exchange(b"", asyncio.get_running_loop().time() + 10)


async def of_dynamodb(url: str) -> None:
    client = AwsJsonClient("dynamodb", "DynamoDB_20120810", endpoint=(url, "eu-west-1"), environ=KEYS)
    await client.call("GetItem", {})


async def of_dynamodb_by_settings(url: str) -> None:
    environ = KEYS | {"AWS_REGION": "eu-west-1", "AWS_ENDPOINT_URL": url, "HOME": "/nowhere"}
    await AwsJsonClient("dynamodb", "DynamoDB_20120810", environ=environ).call("GetItem", {})


async def of_the_issuer(url: str) -> None:
    await KeySet(url).get("any")


async def of_credentials(url: str) -> None:
    await CredentialsChain({"AWS_CONTAINER_CREDENTIALS_FULL_URI": url}).renew()


ASKING = [of_any_service, of_dynamodb, of_dynamodb_by_settings, of_the_issuer, of_credentials]


def asked_by(call: Callable[[str], Awaitable[None]], url: str) -> set[tuple[str, int, bool]]:
    async def case() -> set[tuple[str, int, bool]]:
        with suppress(OSError, DependencyUnavailable):
            await call(url)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Loop)
        return loop.asked

    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(case())


@pytest.mark.parametrize("call", ASKING)
@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("https://localhost", ("localhost", 443, True)),
        ("https://localhost:443", ("localhost", 443, True)),
        ("https://localhost:8443/path", ("localhost", 8443, True)),
        ("http://localhost", ("localhost", 80, False)),
        ("http://localhost:80", ("localhost", 80, False)),
        ("http://127.0.0.1:4566/path", ("127.0.0.1", 4566, False)),
        ("http://[::1]/", ("::1", 80, False)),
    ],
)
def test_an_address_leads_to_its_port(
    call: Callable[[str], Awaitable[None]],
    url: str,
    asked: tuple[str, int, bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", "/nowhere")  # no profile, which would be asked first
    assert asked_by(call, url) == {asked}


def test_a_service_is_called_by_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/nowhere")

    async def call(_: str) -> None:
        environ = KEYS | {"AWS_REGION": "eu-west-1", "HOME": "/nowhere"}
        await AwsJsonClient("kms", "TrentService", environ=environ).call("GenerateMac", {})

    assert asked_by(call, "") == {("kms.eu-west-1.amazonaws.com", 443, True)}


def test_the_credentials_of_a_task_come_from_its_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    """https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-iam-roles.html"""
    monkeypatch.setenv("HOME", "/nowhere")

    async def call(path: str) -> None:
        await CredentialsChain({"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": path}).renew()

    assert asked_by(call, "/v2/credentials/1") == {("169.254.170.2", 80, False)}


BUNDLES = ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"]


@pytest.mark.parametrize("name", BUNDLES)
def test_the_bundle_of_aws_is_not_for_the_issuer(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle that is no file keeps from asking whoever goes by it."""
    for other in BUNDLES:
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, "/nowhere.pem")
    assert bool(asked_by(of_the_issuer, "https://localhost")) == (name == "AWS_CA_BUNDLE")
