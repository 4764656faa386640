"""The image itself: what is in it, how it starts, and how it stops."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from localcloud.engine import docker
from localcloud.local import TASK_LIMITS, address, build_image, container, wait_until_healthy
from localcloud.running import ROOT, Emulator
from tests.cloud.image.conftest import events, load, variables
from tests.template.templates import template

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(600)]
BASE = "public.ecr.aws/docker/library/python:3.13-slim"


def inspect(image: str) -> Any:
    return json.loads("\n".join(docker("image", "inspect", image)))[0]


def in_image(image: str, *command: str) -> str:
    return "\n".join(docker("run", "--rm", "--network=none", image, *command))


class TestContent:
    def test_default_command_is_the_server_and_nobody_runs_it(self, image: str) -> None:
        config = inspect(image)["Config"]
        assert config["Cmd"] == ["python", "-m", "app.entrypoints.server"]
        assert config["Entrypoint"] is None  # Lambda names its own
        assert config["User"] == "65534:65534"

    def test_holds_our_package_and_nothing_else_of_the_repository(self, image: str) -> None:
        assert in_image(image, "ls", "-A", "/opt", "/opt/app").split() == (
            ["/opt:", "app", "python", "/opt/app:", "app"]
        )

    def test_every_module_is_compiled_and_readable_by_anyone(self, image: str) -> None:
        program = (
            "import pathlib, sys\n"
            "root = pathlib.Path('/opt/app')\n"
            "missing = [str(p) for p in root.rglob('*.py')"
            " if not (p.parent / '__pycache__' / f'{p.stem}.{sys.implementation.cache_tag}.pyc').exists()]\n"
            "closed = [str(p) for top in ('/opt/app', '/opt/python') for p in pathlib.Path(top).rglob('*')"
            " if not p.stat().st_mode & 0o004 or p.stat().st_mode & 0o022]\n"
            "print(missing + closed)"
        )
        assert in_image(image, "python", "-c", program) == "[]"

    def test_size_above_the_base(self, image: str, report: list[str]) -> None:
        base, ours = inspect(BASE), inspect(image)
        history = json.loads(
            "[" + ",".join(docker("history", "--format={{json .}}", "--human=false", image)) + "]"
        )
        layers = [int(layer["Size"]) for layer in history[: -len(docker("history", "-q", BASE))]]
        code, packages = [size for size in layers if size][:2]
        report.append(
            f"layers above the base ({base['Size'] / 1e6:.0f} MB): packages {packages / 1e6:.1f} MB,"
            f" code {code / 1e6:.2f} MB"
        )
        assert ours["Size"] - base["Size"] < 130e6
        assert code < 2e6

    def test_the_same_files_make_the_same_layers(self, image: str) -> None:
        again = build_image("orders-local:again", "--no-cache")
        assert inspect(again)["RootFS"]["Layers"] == inspect(image)["RootFS"]["Layers"]

    def test_buildkit_makes_the_same_image(self, image: str, reachable_aws: Emulator) -> None:
        if not docker("buildx", "version"):
            pytest.skip("docker buildx is not installed: the build with BuildKit is NOT tried")
        tag = "orders-local:buildkit"
        command = ["docker", "buildx", "build", "--load", "--provenance=false", "--tag", tag, str(ROOT)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        for key in ("Cmd", "Entrypoint", "Env", "ExposedPorts", "OnBuild", "User", "WorkingDir"):
            assert inspect(tag)["Config"].get(key) == inspect(image)["Config"].get(key), key
        options = [*TASK_LIMITS, "--publish=127.0.0.1:0:8080", *variables(reachable_aws, "fargate")]
        with container(tag, options) as name:
            wait_until_healthy(address(name))


class TestServer:
    def test_serves_within_the_limits_of_the_task(self, server: str) -> None:
        limits = inspect_container(server)["HostConfig"]
        assert limits["ReadonlyRootfs"]
        assert limits["CapDrop"] == ["ALL"]
        assert httpx.get(f"{address(server)}/").json()["runtime"] == "fargate"

    def test_the_health_check_of_the_task_tells_alive_from_dead(self, server: str, image: str) -> None:
        task = template("fargate/template.yaml")["Resources"]["TaskDefinition"]["Properties"]
        _, *check = task["ContainerDefinitions"][0]["HealthCheck"]["Command"]
        assert subprocess.run(["docker", "exec", server, *check], timeout=30, check=False).returncode == 0
        with container(image, ["--network=none"], "sleep", "60") as silent:
            dead = subprocess.run(
                ["docker", "exec", silent, *check], timeout=30, check=False, capture_output=True
            )
            assert dead.returncode != 0

    def test_a_sigterm_loses_none_of_fifty_requests_in_flight(
        self, image: str, reachable_aws: Emulator, table: Any, report: list[str]
    ) -> None:
        options = [*TASK_LIMITS, "--publish=127.0.0.1:0:8080", *variables(reachable_aws, "fargate")]
        with container(image, options) as name:
            url = address(name)
            wait_until_healthy(url)
            all_begun, told = threading.Barrier(51), threading.Event()

            def place(number: int) -> int:
                body = json.dumps({"customer": f"drain {number}", "product": "x", "quantity": 1}).encode()
                host, port = url.removeprefix("http://").split(":")
                with socket.create_connection((host, int(port)), timeout=40) as connection:
                    head = "POST /orders HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
                    connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body[:10])
                    all_begun.wait(30)
                    told.wait(30)
                    # Half of them end while the server drains, half after it has stopped listening.
                    time.sleep(1 if number % 2 else 7)
                    connection.sendall(body[10:])
                    return int(connection.recv(65536).split(b" ")[1])

            with ThreadPoolExecutor(50) as pool:
                placed = [pool.submit(place, number) for number in range(50)]
                all_begun.wait(30)
                time.sleep(0.5)  # the bytes are on their way into the container
                docker("kill", "--signal=TERM", name)
                stopped = time.monotonic()
                told.set()
                assert [call.result() for call in placed] == [201] * 50
            code = docker("wait", name)
            seconds = time.monotonic() - stopped
        assert code in (["0"], ["143"])  # not 137: nobody had to kill it
        assert seconds < 30  # or ECS would have killed it
        stored = {item["customer"] for item in table.scan(ConsistentRead=True)["Items"]}
        assert {f"drain {number}" for number in range(50)} <= stored
        report.append(
            f"SIGTERM: 50 of 50 requests in flight answered and stored, ended after {seconds:.1f} s"
        )


def inspect_container(name: str) -> Any:
    return json.loads("\n".join(docker("inspect", name)))[0]


class TestFunction:
    @pytest.mark.parametrize("name", [n for n, path in events().items() if '"rawPath"' in path.read_text()])
    def test_answers_every_sample_event(self, function: httpx.Client, name: str) -> None:
        transport: Any = function._transport
        answer = httpx.post(transport._url, json=load(events()[name]), timeout=60).json()
        assert answer["statusCode"] < 500, answer
