"""The built image in containers, as the server and under Lambda's runtime, against one local AWS emulator."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from localcloud.cloud import runtime_interface_emulator
from localcloud.engine import gateway
from localcloud.local import (
    TASK_LIMITS,
    address,
    build_image,
    container,
    container_environ,
    wait_until_healthy,
)
from localcloud.running import ROOT, Emulator, running_emulator
from tests.transports import http_api_event

_REPORT: list[str] = []


@pytest.fixture(scope="session")
def report() -> list[str]:
    """Lines for the end of the run."""
    return _REPORT


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _REPORT:
        terminalreporter.section("the image")
        for line in _REPORT:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def image() -> str:
    return build_image()


@pytest.fixture(scope="session")
def reachable_aws() -> Iterator[Emulator]:
    """A local AWS emulator that containers reach too."""
    with running_emulator(also_bind=gateway()) as aws:
        yield aws


@pytest.fixture(scope="session")
def table(reachable_aws: Emulator) -> Any:
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    resource = boto3.resource("dynamodb", endpoint_url=reachable_aws.endpoint, **keys)
    return resource.Table(reachable_aws.outputs["OrdersTableName"])


def empty(table: Any) -> None:
    """Delete every order, as each test of the memory store begins with none."""
    with table.batch_writer() as batch:
        for item in table.scan(ProjectionExpression="pk")["Items"]:
            batch.delete_item(Key=item)


def variables(aws: Emulator, runtime: str) -> list[str]:
    return [f"--env={name}={value}" for name, value in container_environ(aws, runtime).items()]


@pytest.fixture(scope="session")
def server(image: str, reachable_aws: Emulator, report: list[str]) -> Iterator[str]:
    """A container of the default command, limited as the task is; its id."""
    options = [*TASK_LIMITS, "--publish=127.0.0.1:0:8080", *variables(reachable_aws, "fargate")]
    started = time.monotonic()
    with container(image, options) as name:
        wait_until_healthy(address(name))
        report.append(f"server: {time.monotonic() - started:.2f} s from docker run to the first 200 (1 CPU)")
        yield name


@pytest.fixture(scope="session")
def function(
    image: str, reachable_aws: Emulator, report: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    """The API function under AWS's emulator of the Lambda runtime, with a read-only root as on Lambda."""
    emulator = runtime_interface_emulator(tmp_path_factory.mktemp("rie"))
    emulator.parent.chmod(0o755)
    options = ["--read-only", "--tmpfs=/tmp", "--memory=1024m", "--publish=127.0.0.1:0:8080"]
    options += [f"--volume={emulator}:/rie:ro", "--entrypoint=/rie", *variables(reachable_aws, "lambda")]
    command = ("python", "-m", "awslambdaric", "app.entrypoints.lambda_api.handler")
    with (
        container(image, options, *command) as name,
        httpx.Client(transport=FunctionTransport(address(name)), base_url="http://api.test") as client,
    ):
        time.sleep(1)  # the emulator listens; it starts the function with the first event
        started = time.monotonic()
        assert client.get("/health").status_code == 200
        report.append(
            f"function: {time.monotonic() - started:.2f} s from the first event to its answer, cold"
        )
        yield client


class FunctionTransport(httpx.BaseTransport):
    """Hands each request to the runtime emulator as the event that the HTTP API would make of it."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/2015-03-31/functions/function/invocations"

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = httpx.post(self._url, json=http_api_event(request), timeout=60).json()
        body = answer.get("body") or ""
        content = base64.b64decode(body) if answer.get("isBase64Encoded") else body.encode()
        if request.method == "HEAD":  # the HTTP API sends no body then
            content = b""
        headers = [
            *answer["headers"].items(),
            *(("set-cookie", cookie) for cookie in answer.get("cookies", [])),
        ]
        return httpx.Response(answer["statusCode"], headers=headers, content=content)


@pytest.fixture(params=["lambda", "server"])
def client(request: pytest.FixtureRequest, table: Any) -> Iterator[httpx.Client]:
    """The live API over an empty table; overrides the client of the in-process suites."""
    empty(table)
    if request.param == "lambda":
        yield request.getfixturevalue("function")
        return
    url = address(request.getfixturevalue("server"))
    with httpx.Client(base_url=url, timeout=30) as client:
        yield client


def events() -> dict[str, Path]:
    """The sample events by name, the one that places the order first."""
    found = {path.stem: path for path in sorted((ROOT / "events").glob("*.json"))}
    return {"create-order": found.pop("create-order"), **found}


def load(path: Path) -> Any:
    return json.loads(path.read_text())
