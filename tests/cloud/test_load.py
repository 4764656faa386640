"""64 callers for 60 s at either front door of one stack on the local AWS, and not one failed request.

What comes out is a proof of holding, not of speed: every function and task of the stack, its database and the
callers share this machine. Reports are in reports/load-*.html. About three minutes on two cores.
"""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from localcloud import cloud
from localcloud.embedded import ROOT

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(600), pytest.mark.xdist_group("load")]

_STACK = "load-test"
_USERS = 64
_SECONDS = 60


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
    assert not before & set(ecs.list_tasks(cluster=cluster)["taskArns"]), "the tasks were replaced meanwhile"


def test_lambda_holds_it(stack: tuple[str, dict[str, str]], capsys: pytest.CaptureFixture[str]) -> None:
    # Here, unlike on AWS, 64 cold starts at once would share two cores: callers join two a second.
    held = hold(stack[1]["LambdaApiUrl"], "lambda", ramp=2)
    with capsys.disabled():
        print(f"\n{held.line}")  # noqa: T201
    assert held.failed == 0
    assert held.requests > 200
