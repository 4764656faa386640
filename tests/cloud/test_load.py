"""64 callers for 60 s at either entry point of a stack on the emulator, during a deployment: nothing fails.

What comes out is a proof of holding, not of speed: every function and task of the stack, its database and the
callers share this machine. Reports are in reports/load-*.html. About three minutes on two cores.
"""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import boto3
import httpx
import pytest
from bench.aws.__main__ import Bench, Plan
from bench.aws.starts import cold_starts
from bench.aws.target import find
from costs.model import Prices
from localcloud import cloud
from localcloud.running import ROOT, aws_environ
from scripts.aws import messages_in
from tests.local.running import until
from tests.unit.test_bench_aws import MEASURED

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(600), pytest.mark.xdist_group("load")]

_STACK = "load-test"
_USERS = 64
_SECONDS = 60
_LAMBDA_RAMP = 2  # here, unlike on AWS, 64 cold starts at once would share two cores
_OTHER_MEMORY_MB = 2048  # what makes a new version; nothing limits it here


@dataclass(frozen=True)
class Held:
    """What the load's last line says."""

    requests: int
    failed: int
    line: str


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    state = tmp_path_factory.mktemp("cloud")
    try:
        endpoint = cloud.start(state)
        parameters = {"BothRuntimes": "true"}
        yield endpoint, cloud.deploy(endpoint, _STACK, runtime="fargate", parameters=parameters)
    finally:
        cloud.stop(state)


def hold(url: str, name: str, *, ramp: int) -> Held:
    """Run the scenario of `make load`; `ramp` callers join a second, then the 60 s begin."""
    cloud.wait_until_healthy(url)
    (ROOT / "reports").mkdir(exist_ok=True)
    command = [".venv-load/bin/locust", "--locustfile", "load/locustfile.py", "--headless", "--only-summary"]
    command += ["--host", url.rstrip("/"), "--users", str(_USERS), "--spawn-rate", str(ramp)]
    command += ["--run-time", f"{_SECONDS + _USERS // ramp}s", "--html", f"reports/load-{name}.html"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    found = re.search(r"^load: (\d+) requests, (\d+) failed.*$", done.stdout + done.stderr, re.MULTILINE)
    assert found, done.stdout + done.stderr
    return Held(int(found[1]), int(found[2]), f"{name}: {found[0]}")


def test_fargate_holds_it_across_a_rolling_restart(
    stack: tuple[str, dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint, outputs = stack
    ecs = cloud.client(endpoint, "ecs")
    (cluster,) = ecs.list_clusters()["clusterArns"]
    (service,) = ecs.list_services(cluster=cluster)["serviceArns"]
    before = set(ecs.list_tasks(cluster=cluster)["taskArns"])

    def restart() -> None:
        ecs.update_service(cluster=cluster, service=service, forceNewDeployment=True)

    timer = threading.Timer(_SECONDS / 3, restart)
    timer.start()
    try:
        held = hold(outputs["FargateApiUrl"], "fargate", ramp=_USERS)
    finally:
        timer.cancel()
        timer.join()
    with capsys.disabled():
        print(f"\n{held.line}")  # noqa: T201
    assert held.failed == 0
    assert held.requests > 1000
    assert not before & set(ecs.list_tasks(cluster=cluster)["taskArns"]), (
        "the tasks were replaced during the load"
    )


def test_lambda_holds_it_while_a_new_version_takes_over(
    stack: tuple[str, dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint, outputs = stack
    functions = cloud.client(endpoint, "lambda")
    live = {"FunctionName": f"{_STACK}-api", "Name": "live"}
    old = functions.get_alias(**live)["FunctionVersion"]

    def take_over() -> str:
        """Publish a version and shift the alias to it by steps, as CodeDeploy does."""
        time.sleep(_USERS / _LAMBDA_RAMP + 5)
        function = {"FunctionName": live["FunctionName"]}
        functions.update_function_configuration(**function, MemorySize=_OTHER_MEMORY_MB)
        functions.get_waiter("function_updated_v2").wait(**function)
        new: str = functions.publish_version(**function)["Version"]
        for tenths in range(1, 10):
            routing = {"AdditionalVersionWeights": {new: tenths / 10}}
            functions.update_alias(**live, FunctionVersion=old, RoutingConfig=routing)
            time.sleep(_SECONDS / 12)
        functions.update_alias(**live, FunctionVersion=new, RoutingConfig={})
        return new

    with ThreadPoolExecutor(1) as pool:
        taking_over = pool.submit(take_over)
        held = hold(outputs["LambdaApiUrl"], "lambda", ramp=_LAMBDA_RAMP)
        new = taking_over.result()
    with capsys.disabled():
        print(f"\n{held.line}; version {old}, then {new}")  # noqa: T201
    assert held.failed == 0
    assert held.requests > 200
    assert new != old
    assert new in versions_in_containers(endpoint, live["FunctionName"]), (
        "the new version served during the load"
    )


def test_bench_aws_reads_the_reports_of_both_runtimes(
    stack: tuple[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Report lines of cold starts come from containers only; the rest is in tests/local/test_bench_aws.py."""
    for name, value in aws_environ(stack[0]).items():
        monkeypatch.setenv(name, value)
    # The relay and the consumers serve from `$LATEST` too: what the load left for them has to be done first.
    with httpx.Client(base_url=stack[1]["FargateApiUrl"], timeout=60) as api:
        newest = api.get("orders", params={"limit": 1}).json()["items"][0]["id"]
        until(lambda: api.get(f"orders/{newest}/receipt").status_code == 303, "the last receipt", 400)
    target = find(boto3.Session(), _STACK)
    sqs, queue = cloud.client(stack[0], "sqs"), target.consumers["receipts"]
    until(lambda: not messages_in(sqs, queue), "an empty queue", 100)
    assert [entry_point.name for entry_point in target.entry_points] == ["lambda", "fargate"]
    bench = Bench(boto3.Session(), target, Plan(), "", Prices.load(), MEASURED)
    assert bench._running_tasks() > 0
    reported = cold_starts(boto3.client("lambda"), target, 1, "")
    assert len(reported) == 3
    for name, figures in reported.items():
        # The emulator keeps the containers of `$LATEST` that events of relay and consumer have started.
        assert figures["cold"] == 1 or name in target.workers
        assert figures["calls"] == 2
        if figures["cold"]:
            assert figures["cold_billed_ms"]["median"] >= figures["cold_duration_ms"]["median"] > 0


def versions_in_containers(endpoint: str, function: str) -> set[str]:
    """Return the versions of the function that have served, by the containers that did."""
    names = [line.split()[0] for line in cloud.containers(endpoint)]
    command = ["docker", "inspect", "--format", "{{json .Config.Env}}", *names]
    inspected = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    environments = [
        dict(entry.split("=", 1) for entry in json.loads(line)) for line in inspected.stdout.splitlines()
    ]
    return {
        environ["AWS_LAMBDA_FUNCTION_VERSION"]
        for environ in environments
        if environ.get("AWS_LAMBDA_FUNCTION_NAME") == function
    }
