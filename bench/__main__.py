"""Measures us beside our peers. `make bench` (about 8 minutes) or `make bench QUICK=1` (under 2).

Runs are interleaved: every round measures each candidate once, so that a busy machine is busy for all. Figures are
medians over rounds. CPU time is what is compared; wall times and percentiles are reported beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable
from typing import Any

import uvloop

from bench import clients, lists, load, report
from bench.child import event_of
from bench.processes import (
    PEERS_PYTHON,
    ROOT,
    canned,
    cpu_seconds,
    environment,
    resident_mb,
    run,
    started,
    wait_until_healthy,
)

OURS, EVERYONE = "orders (this project)", "FastAPI + Mangum + boto3, as everyone writes it"
# name: module of the Lambda handler, the kind of event it takes, the Python that has what it needs
HANDLERS = {
    OURS: ("orders.lambda_handler", "v2", sys.executable),
    EVERYONE: ("bench.peers.fastapi_boto3", "v2", sys.executable),
    "Powertools resolver with validation + boto3": ("bench.peers.powertools_boto3", "v2", sys.executable),
    "Chalice + boto3": ("bench.peers.chalice_boto3", "v1", PEERS_PYTHON),
    "floor: bare handler, hand-signed HTTP": ("bench.peers.floor", "v2", sys.executable),
}
# Our function with logs, metrics and traces as shipped, without any, and with Powertools' in their place
TOLD = {
    "as shipped": "orders.lambda_handler",
    "silent": "bench.peers.orders_silent",
    "Powertools Logger and Metrics": "bench.peers.orders_powertools",
}
SERVERS = {
    OURS: ["-m", "orders.server"],
    EVERYONE: ["-m", "uvicorn", "bench.peers.fastapi_boto3:app"],
    "the same, blocking in async def": ["-m", "uvicorn", "bench.peers.fastapi_boto3_blocking:app"],
    "floor: bare ASGI": ["-m", "uvicorn", "bench.peers.floor_asgi:app"],
}
QUIET = ["--no-access-log", "--log-level", "warning"]  # a line for each request would cost the peers more
Figures = dict[str, Any]


def free_port() -> int:
    """Return a port that nobody uses just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def interleaved(
    rounds: int, candidates: Iterable[str], measure: Callable[[str], Figures]
) -> dict[str, Figures]:
    """Measure every candidate once in each round; return the median of each figure."""
    found: dict[str, list[Figures]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, figures in found.items():
            figures.append(measure(name))
    return {
        name: {key: statistics.median(figure[key] for figure in figures) for key in figures[0]}
        for name, figures in found.items()
    }


def cold(quick: bool) -> dict[str, Figures]:
    """CPU of a fresh process from its start to the first answered GET."""
    with canned() as endpoint:

        def measure(name: str) -> Figures:
            module, kind, python = HANDLERS[name]
            return json.loads(run(["-m", "bench.child", "cold", module, kind, "1"], endpoint, python))  # type: ignore[no-any-return]

        for name in HANDLERS:  # compiles the bytecode, as the image has it
            measure(name)
        return interleaved(3 if quick else 9, HANDLERS, measure)


def warm(quick: bool) -> dict[str, Figures]:
    """CPU of one Lambda request in a warm process, in microseconds."""
    with canned() as endpoint:

        def measure(name: str) -> Figures:
            module, kind, python = HANDLERS[name]
            arguments = ["-m", "bench.child", "warm", module, kind, "200" if quick else "400"]
            return json.loads(run(arguments, endpoint, python))  # type: ignore[no-any-return]

        return interleaved(2 if quick else 5, HANDLERS, measure)


def observability(quick: bool) -> dict[str, Figures]:
    """What logs, metrics and traces cost our function, cold and warm."""
    with canned() as endpoint:

        def measure(name: str) -> Figures:
            def child(mode: str, calls: int) -> Figures:
                arguments = ["-m", "bench.child", mode, TOLD[name], "v2", str(calls)]
                return json.loads(run(arguments, endpoint))  # type: ignore[no-any-return]

            return {"cold_ms": child("cold", 1)["cpu_ms"]} | child("warm", 200 if quick else 400)

        for name in TOLD:  # compiles the bytecode, as the image has it
            measure(name)
        return interleaved(3 if quick else 9, TOLD, measure)


def emulator() -> str:
    """Return the Lambda runtime interface emulator, which the SAM CLI ships, or "" without it."""
    machine = {"x86_64": "x86_64", "aarch64": "arm64"}.get(platform.machine(), "")
    found = ROOT.glob(f".venv-tools/lib/python3*/site-packages/samcli/local/rapid/aws-lambda-rie-{machine}")
    return str(next(iter(found), ""))


def rie(quick: bool) -> dict[str, Figures]:
    """The same through Lambda's own runtime client and the runtime interface emulator."""
    binary = emulator()
    with canned() as endpoint:

        def measure(name: str) -> Figures:
            module, kind, python = HANDLERS[name]
            front, back = free_port(), free_port()
            command = [binary, "--runtime-interface-emulator-address", f"127.0.0.1:{front}"]
            command += [
                "--runtime-api-address",
                f"127.0.0.1:{back}",
                python,
                "-m",
                "awslambdaric",
                f"{module}.handler",
            ]
            url = f"http://127.0.0.1:{front}/2015-03-31/functions/function/invocations"
            request = urllib.request.Request(url, json.dumps(event_of("get", kind)).encode())
            with started(
                command, environment(endpoint) | {"AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1024"}
            ) as process:
                wait_for_port(front)
                before = cpu_seconds(process.pid)
                began = time.perf_counter()
                with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
                    assert json.load(answer)["statusCode"] == 200
                wall = time.perf_counter() - began
                return {"wall_ms": wall * 1e3, "cpu_ms": (cpu_seconds(process.pid) - before) * 1e3}

        return interleaved(2 if quick else 5, HANDLERS, measure)


def wait_for_port(port: int) -> None:
    """Wait until somebody listens."""
    for _ in range(500):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.1):
            return
        time.sleep(0.01)
    raise TimeoutError(f"nobody listens on {port}")


def server(quick: bool) -> dict[str, Figures]:
    """Requests per CPU second of the server process, and its memory after the load."""
    runs = [("get", 16), ("post", 16), ("list", 16), ("get", 1), ("get", 64)]
    seconds = 0.6 if quick else 1.5
    with contextlib.ExitStack() as stack:
        endpoint = stack.enter_context(canned())
        found: dict[str, tuple[str, int]] = {}
        for name, command in SERVERS.items():
            port = free_port()
            arguments = command if command[-1] == "orders.server" else [*command, "--port", str(port), *QUIET]
            environ = environment(endpoint) | {"PORT": str(port)}
            process = stack.enter_context(started([sys.executable, *arguments], environ))
            found[name] = (f"http://127.0.0.1:{port}", process.pid)
            wait_until_healthy(found[name][0])

        def measure(name: str) -> Figures:
            url, pid = found[name]
            figures: Figures = {}
            for operation, connections in runs:
                uvloop.run(load.closed_loop(url, operation, connections, 0.2))
                before = cpu_seconds(pid)
                done = uvloop.run(load.closed_loop(url, operation, connections, seconds))
                figures[f"{operation}_{connections}"] = done / (cpu_seconds(pid) - before)
            return figures | {"resident_mb": resident_mb(pid)}

        return interleaved(1 if quick else 3, SERVERS, measure)


def has_engine() -> bool:
    """Return whether a container engine answers."""
    return (
        bool(shutil.which("docker"))
        and not subprocess.run(["docker", "info"], capture_output=True).returncode
    )


def container(quick: bool) -> dict[str, Figures]:
    """One task of 0.25 vCPU and 512 MB, in our image, the database 3 ms away: the GET rate it bears."""
    image = "orders-bench"
    build = ["docker", "build", "--quiet", "--tag", image, "."]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=300)
    size = subprocess.run(
        ["docker", "image", "inspect", image, "--format", "{{.Size}}"],
        check=True,
        capture_output=True,
        text=True,
    )
    found: dict[str, Figures] = {}
    rates = [30 * 2 ** (step / 2) for step in range(15)]
    with canned(delay_ms=3) as endpoint:
        for name, command in SERVERS.items():
            port, container_name = free_port(), f"orders-bench-{os.getpid()}-{len(found)}"
            docker = [
                "docker",
                "run",
                "--rm",
                "--name",
                container_name,
                "--network",
                "host",
                "--cpus",
                "0.25",
            ]
            docker += ["--memory", "512m", "--volume", f"{ROOT / 'bench'}:/bench/bench:ro"]
            environ = environment(endpoint) | {"PORT": str(port)}
            if command[-1] != "orders.server":
                environ["PYTHONPATH"] = "/bench:/opt/app:/opt/python"
                command = ["python", *command, "--port", str(port), *QUIET]
            else:
                del environ["PYTHONPATH"]
                command = []  # what the image starts by itself
            del environ["PATH"]
            docker += [part for pair in environ.items() for part in ("--env", "=".join(pair))]
            with started([*docker, image, *command], dict(os.environ)):
                try:
                    figures: Figures = {"start_seconds": wait_until_healthy(f"http://127.0.0.1:{port}")}
                    figures |= endure(f"http://127.0.0.1:{port}", rates, 2 if quick else 4)
                finally:
                    subprocess.run(["docker", "kill", container_name], capture_output=True)
            found[name] = figures | {"image_mb": int(size.stdout) / 1e6}
    return found


def endure(url: str, rates: list[float], seconds: float) -> Figures:
    """Offer ever higher rates until p99 reaches 100 ms twice; then one between the last two. Return the best."""
    uvloop.run(load.fixed_rate(url, "get", 20, 2))
    best: Figures = {"rate": 0.0, "p50_ms": float("inf"), "p99_ms": float("inf")}

    def bears(rate: float) -> bool:
        for _ in range(2):
            outcome = uvloop.run(load.fixed_rate(url, "get", rate, seconds))
            if outcome.percentile(0.99) < 100:
                best["rate"] = round(rate, 1)
                best["p50_ms"], best["p99_ms"] = outcome.percentile(0.5), outcome.percentile(0.99)
                return True
        return False

    too_much = next((rate for rate in rates if not bears(rate)), None)
    if too_much and best["rate"]:
        bears((best["rate"] * too_much) ** 0.5)
    return best


def client_choice(quick: bool) -> dict[str, Figures]:
    """CPU of one call, in microseconds, 16 at a time; and what the import and first call cost."""
    with canned() as endpoint:
        return interleaved(
            1 if quick else 3,
            clients.CANDIDATES,
            lambda name: json.loads(run(["-m", "bench.clients", name], endpoint, PEERS_PYTHON)),
        )


PARTS: dict[str, Callable[[bool], dict[str, Any]]] = {
    "cold": cold,
    "rie": rie,
    "warm": warm,
    "server": server,
    "container": container,
    "clients": client_choice,
    "lists": lists.measure,
    "observability": observability,
}


def main() -> None:
    """Measure, print, and write `bench/results/`."""
    parser = argparse.ArgumentParser(prog="bench")
    parser.add_argument("--quick", action="store_true", help="fewer rounds; no container part")
    parser.add_argument(
        "--only", choices=PARTS, action="append", help="only these parts; keeps the rest of the results"
    )
    options = parser.parse_args()
    results = ROOT / "bench/results"
    file = results / "results.json"
    found: dict[str, Any] = json.loads(file.read_text()) if options.only and file.exists() else {}
    found["machine"] = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "quick": options.quick,
    }
    for name, measure in PARTS.items():
        if options.only and name not in options.only:
            continue
        if (name == "rie" and not emulator()) or (
            name == "container" and (options.quick or not has_engine())
        ):
            print(f"{name}: left out", file=sys.stderr)
            continue
        began = time.monotonic()
        found[name] = measure(options.quick)
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
        results.mkdir(exist_ok=True)
        file.write_text(json.dumps(found, indent=1) + "\n")
    text = report.table(found, OURS, EVERYONE)
    print(text)
    (results / "results.md").write_text(text + "\n")
    (results / "results.svg").write_text(report.plot(found, OURS, EVERYONE))


if __name__ == "__main__":
    main()
