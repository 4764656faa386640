"""The commands of the README: sam build, sam local invoke, sam local start-api."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from localcloud.local import (
    container_environ,
    lambda_api,
    sam_arguments,
    sam_build,
    sam_environ,
    wait_until_healthy,
)
from localcloud.running import ROOT, Emulator, free_port
from tests.builders import AN_ORDER
from tests.cloud.image.conftest import events

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(600)]
SAM = ROOT / ".venv-tools" / "bin" / "sam"


@pytest.fixture(scope="module")
def built(reachable_aws: Emulator) -> Path:
    return sam_build(container_environ(reachable_aws, "lambda")["AWS_ENDPOINT_URL"])


def function_of(event: str) -> str:
    return {"relay": "RelayFunction", "receipts": "ConsumerFunction"}.get(event.split("-")[0], "ApiFunction")


@pytest.mark.parametrize("name", events())
def test_invoke_answers_every_sample_event(reachable_aws: Emulator, built: Path, name: str) -> None:
    command = [str(SAM), "local", "invoke", function_of(name), "--event", str(events()[name])]
    done = subprocess.run(
        [*command, *sam_arguments(reachable_aws, built)],
        cwd=ROOT,
        env=dict(sam_environ(reachable_aws)),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    if function_of(name) == "ApiFunction":
        assert answer["statusCode"] < 500, answer
    else:
        assert answer.keys() == {"batchItemFailures"}


def test_invoke_needs_nothing_but_the_build() -> None:
    """The README's two commands as they stand there, with samconfig.toml and no AWS."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    for command in ("build", "local invoke ApiFunction -e events/check-health.json"):
        done = subprocess.run(
            [str(SAM), *command.split()],
            cwd=ROOT,
            env={**environ, "SAM_CLI_TELEMETRY": "0", "AWS_DEFAULT_REGION": "eu-central-1"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.strip().splitlines()[-1])["statusCode"] == 200


def test_start_api_walks_the_api(reachable_aws: Emulator, report: list[str]) -> None:
    port = free_port()
    with lambda_api(reachable_aws, port) as url, httpx.Client(base_url=url, timeout=60) as client:
        seconds = wait_until_healthy(url)
        report.append(f"sam local start-api --warm-containers EAGER: {seconds:.1f} s to the first 200")
        placed = client.post("/orders", json=AN_ORDER)
        assert placed.status_code == 201
        place = placed.headers["location"]
        assert client.get(place).json() == placed.json()
        assert client.get(place, headers={"if-none-match": placed.headers["etag"]}).status_code == 304
        shipped = client.put(f"{place}/status", json={"status": "shipped"})
        assert shipped.json()["version"] == 2
        assert client.put(f"{place}/status", json={"status": "pending"}).status_code == 409
        assert shipped.json() in client.get("/orders", params={"limit": 100}).json()["items"]
        assert client.get("/orders/nope").headers["content-type"] == "application/problem+json"
        assert client.get("/").json()["runtime"] == "lambda"
        for path in ("/docs", "/openapi.json", "/health/ready"):
            assert client.get(path).status_code == 200
