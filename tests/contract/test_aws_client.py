"""What every `AwsClient` makes of responses, bad ones above all: one suite over ours and boto3."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from botocore.config import Config
from tests.builders import a_settings
from tests.faulty_server import Behaviour, Server, hangs, rejects, resets, responds, sends, serving

from app.core.aws import boto3_client, json_client
from app.core.aws.boto3_client import Boto3Client
from app.core.aws.client import CREDENTIALS_REJECTED, KEY_UNUSABLE, THROTTLES, AwsCallError, AwsClient
from app.core.aws.json_client import AwsJsonClient
from app.core.errors import DependencyUnavailable
from app.core.telemetry import Telemetry

MakeClient = Callable[[Server], AwsClient]


class Got(msgspec.Struct):
    item: dict[str, dict[str, str]] = msgspec.field(name="Item")


@pytest.fixture(params=["json client", "boto3"])
def client_of(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> MakeClient:
    """Make a client of a server, one that loses no time."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "eu-west-1")
    # Only a response that never comes is not waited for: any other may take its time on a busy machine.
    seconds = 0.5 if request.node.callspec.params.get("fault") is hangs else 10.0
    monkeypatch.setattr(json_client, "ATTEMPT_SECONDS", seconds)
    monkeypatch.setattr(json_client, "BACKOFF_SECONDS", 0.001)
    monkeypatch.setattr(boto3_client, "Config", lambda **more: Config(**more | {"read_timeout": seconds}))
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda _: None)

    def make(server: Server) -> AwsClient:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        if request.param == "boto3":
            return Boto3Client("dynamodb")
        return AwsJsonClient("dynamodb", "DynamoDB_20120810")

    return make


async def get(client: AwsClient) -> Any:
    request = {"TableName": "table", "Key": {"pk": {"S": "order#1"}}}
    return await client.call("GetItem", request, Got)


PASSING: dict[str, Behaviour] = {
    "reset": resets,
    "closed without a response": sends(b""),
    "cut short": sends(b'HTTP/1.1 200 OK\r\nx-amz-crc32: 1\r\ncontent-length: 99\r\n\r\n{"Item"'),
    "no response in time": hangs,
    "not JSON": responds(b"<html>", 200, "x-amz-crc32: 1"),
    "wrong checksum": responds(b'{"Item": {"n": {"N": "2"}}}', 200, "x-amz-crc32: 1"),
    "500": rejects("InternalServerError", 500),
    "500 of no known name": rejects("SomethingNew", 500),
    "502 of a proxy": responds(b"<html>bad gateway</html>", 502),
    "503 of a proxy": responds(b"<html>busy</html>", 503),
} | {code: rejects(code) for code in sorted(THROTTLES)}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
async def test_what_may_pass_is_tried_again_and_then_unavailable(
    client_of: MakeClient, fault: Behaviour
) -> None:
    async with serving(fault) as server:
        assert await get(client_of(server)) == Got({"n": {"N": "1"}})
        assert len(server.requests) == 2
    async with serving(*[fault] * 9) as server:
        with pytest.raises(DependencyUnavailable) as caught:
            await get(client_of(server))
        assert caught.value.dependency == "dynamodb"
        assert len(server.requests) > 1


@pytest.mark.parametrize(
    "code", ["ValidationException", "AccessDeniedException", "ResourceNotFoundException", "SomethingNew"]
)
async def test_what_is_rejected_is_rejected_once(client_of: MakeClient, code: str) -> None:
    async with serving(rejects(code, message="No.")) as server:
        with pytest.raises(AwsCallError, match=f"{code}: No.") as caught:
            await get(client_of(server))
        assert caught.value.code == code
        assert len(server.requests) == 1


@pytest.mark.parametrize("code", sorted(CREDENTIALS_REJECTED))
async def test_keys_that_are_rejected_are_a_dependency_that_fails(client_of: MakeClient, code: str) -> None:
    async with serving(*[rejects(code, message="No.")] * 9) as server:
        with pytest.raises(DependencyUnavailable) as caught:
            await get(client_of(server))
        assert caught.value.dependency == "credentials"


@pytest.mark.parametrize("code", sorted(KEY_UNUSABLE))
async def test_a_key_that_is_switched_off_is_a_dependency_that_fails(
    client_of: MakeClient, code: str
) -> None:
    async with serving(rejects(code, message="No.")) as server:
        with pytest.raises(DependencyUnavailable):
            await get(client_of(server))
        assert len(server.requests) == 1


async def test_a_call_ends_by_its_deadline(client_of: MakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one attempt may still take its time."""
    for module in (json_client, boto3_client):
        monkeypatch.setattr(module, "DEADLINE_SECONDS", 0.3)
    async with serving(hangs, hangs) as server:
        with pytest.raises(DependencyUnavailable) as caught:
            await get(client_of(server))
        assert isinstance(caught.value.__cause__, TimeoutError)
        assert len(server.requests) == 1


async def test_a_redirect_is_followed_nowhere(client_of: MakeClient) -> None:
    async with serving() as elsewhere:
        moved = responds(b"", 307, f"location: {elsewhere.url}/")
        async with serving(*[moved] * 9) as server:
            with pytest.raises(DependencyUnavailable):
                await get(client_of(server))
        assert not elsewhere.requests


async def test_an_error_in_html_is_called_by_its_status(client_of: MakeClient) -> None:
    async with serving(responds(b"<html>forbidden</html>", 403)) as server:
        with pytest.raises(AwsCallError) as caught:
            await get(client_of(server))
        assert caught.value.code == "403"


async def test_a_failed_condition_brings_the_item(client_of: MakeClient) -> None:
    item = {"pk": {"S": "order#1"}}
    async with serving(rejects("ConditionalCheckFailedException", message="No.", Item=item)) as server:
        with pytest.raises(AwsCallError) as caught:
            await client_of(server).call("PutItem", {"TableName": "table", "Item": item})
        assert (caught.value.code, caught.value.item) == ("ConditionalCheckFailedException", item)


async def test_an_item_of_another_shape_is_no_fault_of_the_network(client_of: MakeClient) -> None:
    async with serving(responds(b'{"Item": {"n": {"BOOL": true}}}')) as server:
        with pytest.raises(msgspec.ValidationError):
            await get(client_of(server))
        assert len(server.requests) == 1


async def test_throttles_are_counted(client_of: MakeClient) -> None:
    work = Telemetry(a_settings()).begin("request")
    async with serving(*[rejects("ThrottlingException")] * 9) as server:
        with pytest.raises(DependencyUnavailable):
            await get(client_of(server))
    assert work.metrics["Throttles"] > 0


@pytest.mark.usefixtures("at_aws")
def test_goes_on_in_another_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_client, "ATTEMPTS", 1)
    client = AwsJsonClient("dynamodb", "DynamoDB_20120810")
    loops = [asyncio.new_event_loop(), asyncio.new_event_loop()]
    for loop in loops:
        assert loop.run_until_complete(client.call("ListTables", {}))["TableNames"]
        loop.call_soon(client._pool._idle[0].close)
    for loop in loops:
        loop.run_until_complete(asyncio.sleep(0.01))
        loop.close()
