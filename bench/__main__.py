"""Measures us beside the baselines. `make bench` (about 15 minutes) or `make bench QUICK=1` (about 3).

Runs are interleaved: every round measures each candidate once, so that a busy machine is busy for all. Figures are
medians over rounds. CPU time is what is compared; wall times and percentiles are reported beside it.

Results go to `reports/bench/`; those of a whole run, with every part in it, to `bench/results/` too. Ends with 1 when
a threshold is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
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
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import uvloop

from bench import against, clients, lists, load, report
from bench.child import event_of
from bench.processes import (
    BASELINES_PYTHON,
    ROOT,
    canned,
    cpu_seconds,
    environment,
    free_port,
    resident_mb,
    run,
    started,
    wait_until_healthy,
)
from bench.report import BASELINE, BLOCKING, CHALICE, OURS, SECOND

FLOOR = "floor: bare ASGI"
REPORTS, RESULTS = ROOT / "reports/bench", ROOT / "bench/results"
# name: module of the Lambda handler, the kind of event it takes, the Python that has what it needs
HANDLERS = {
    OURS: ("app.entrypoints.lambda_api", "v2", sys.executable),
    BASELINE: ("bench.baselines.fastapi_boto3", "v2", sys.executable),
    "Powertools resolver with validation + boto3": ("bench.baselines.powertools_boto3", "v2", sys.executable),
    CHALICE: ("bench.baselines.chalice_boto3", "v1", BASELINES_PYTHON),
    "floor: bare handler, hand-signed HTTP": ("bench.baselines.floor", "v2", sys.executable),
}
# Not in a cold start: it imports what the other does.
WARM_HANDLERS = HANDLERS | {BLOCKING: ("bench.baselines.fastapi_boto3_blocking", "v2", sys.executable)}
# Our function with logs, metrics and traces as shipped, without any, and with Powertools' in their place
TOLD = {
    "as shipped": "app.entrypoints.lambda_api",
    "silent": "bench.baselines.orders_silent",
    "Powertools Logger and Metrics": "bench.baselines.orders_powertools",
}
SERVERS = {
    OURS: ["-m", "app.entrypoints.server"],
    BASELINE: ["-m", "uvicorn", "bench.baselines.fastapi_boto3:app"],
    BLOCKING: ["-m", "uvicorn", "bench.baselines.fastapi_boto3_blocking:app"],
    FLOOR: ["-m", "uvicorn", "bench.baselines.floor_asgi:app"],
}
QUIET = ["--no-access-log", "--log-level", "warning"]  # a line for each request would cost the baselines more
LOWEST_RATE, LATE_MS = 20.0, 100  # a rate is borne while p99 stays below
Figures = dict[str, Any]


def interleaved(
    rounds: int, candidates: Iterable[str], measure: Callable[[str], Figures]
) -> dict[str, Figures]:
    """Measure every candidate once in each round; return the median and the range of each figure."""
    found: dict[str, list[Figures]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, figures in found.items():
            figures.append(measure(name))
    result: dict[str, Figures] = {}
    for name, figures in found.items():
        series = {key: [each[key] for each in figures] for key in figures[0]}
        result[name] = {key: statistics.median(values) for key, values in series.items()}
        result[name]["range"] = {key: [min(values), max(values)] for key, values in series.items()}
    return result


def cold(rounds: int, quick: bool) -> dict[str, Figures]:
    """CPU of a fresh process from its start to the first answered GET."""
    with canned() as endpoint:

        def measure(name: str) -> Figures:
            module, kind, python = HANDLERS[name]
            return json.loads(run(["-m", "bench.child", "cold", module, kind, "1"], endpoint, python))  # type: ignore[no-any-return]

        for name in HANDLERS:  # compiles the bytecode, as the image has it
            measure(name)
        return interleaved(rounds, HANDLERS, measure)


def warm(rounds: int, quick: bool) -> dict[str, Figures]:
    """CPU of one Lambda request in a warm process, in microseconds."""
    with canned() as endpoint:

        def measure(name: str) -> Figures:
            module, kind, python = WARM_HANDLERS[name]
            arguments = ["-m", "bench.child", "warm", module, kind, "200" if quick else "400"]
            arguments += [SECOND] if name == OURS else []
            return json.loads(run(arguments, endpoint, python))  # type: ignore[no-any-return]

        return interleaved(rounds, WARM_HANDLERS, measure)


def observability(rounds: int, quick: bool) -> dict[str, Figures]:
    """What logs, metrics and traces cost our function, cold and warm."""
    with canned() as endpoint:

        def measure(name: str) -> Figures:
            def child(mode: str, calls: int) -> Figures:
                arguments = ["-m", "bench.child", mode, TOLD[name], "v2", str(calls)]
                return json.loads(run(arguments, endpoint))  # type: ignore[no-any-return]

            return {"cold_ms": child("cold", 1)["cpu_ms"]} | child("warm", 200 if quick else 400)

        for name in TOLD:  # compiles the bytecode, as the image has it
            measure(name)
        return interleaved(rounds, TOLD, measure)


def emulator() -> str:
    """Return the Lambda runtime interface emulator, which the SAM CLI ships, or "" without it."""
    machine = {"x86_64": "x86_64", "aarch64": "arm64"}.get(platform.machine(), "")
    found = ROOT.glob(f".venv-tools/lib/python3*/site-packages/samcli/local/rapid/aws-lambda-rie-{machine}")
    return str(next(iter(found), ""))


def rie(rounds: int, quick: bool) -> dict[str, Figures]:
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

        return interleaved(rounds, HANDLERS, measure)


def wait_for_port(port: int) -> None:
    """Wait until somebody listens."""
    for _ in range(500):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.1):
            return
        time.sleep(0.01)
    raise TimeoutError(f"nobody listens on {port}")


def rejected(url: str) -> int:
    """Place an order of nothing; return the status. For ours it is what makes it import FastAPI."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
    with contextlib.closing(connection):
        order = json.dumps({"customer": "John Doe", "product": "Widget", "quantity": 0})
        connection.request("POST", "/orders", order, {"content-type": "application/json"})
        return connection.getresponse().status


def server(rounds: int, quick: bool) -> dict[str, Figures]:
    """Requests per CPU second of the server process, and its memory after the load."""
    runs = [("get", 16), ("post", 16), ("list", 16), ("get", 1), ("get", 64)]
    seconds = 0.6 if quick else 1.5
    with contextlib.ExitStack() as stack:
        endpoint = stack.enter_context(canned())
        found: dict[str, tuple[str, int]] = {}
        for name, command in SERVERS.items():
            port = free_port()
            arguments = (
                command
                if command[-1] == "app.entrypoints.server"
                else [*command, "--port", str(port), *QUIET]
            )
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

        figures = interleaved(rounds, SERVERS, measure)
        for name, (url, pid) in found.items():
            assert rejected(url) == (201 if name == FLOOR else 422)  # the floor checks nothing
            figures[name]["rejected_mb"] = resident_mb(pid)
        return figures


def has_engine() -> bool:
    """Return whether a container engine answers."""
    return (
        bool(shutil.which("docker"))
        and not subprocess.run(["docker", "info"], capture_output=True).returncode
    )


def container(rounds: int, quick: bool) -> dict[str, Figures]:
    """One task of 0.25 vCPU and 512 MB, in our image, the database 3 ms away: the GET rate it bears."""
    image = "orders-bench"
    build = ["docker", "build", "--quiet", "--tag", image, "."]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=300)
    inspect = ["docker", "image", "inspect", image, "--format", "{{.Size}}"]
    size = subprocess.run(inspect, check=True, capture_output=True, text=True).stdout
    with canned(delay_ms=3) as endpoint:

        def measure(name: str) -> Figures:
            port = free_port()
            container_name = f"orders-bench-{os.getpid()}-{port}"
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
            command = SERVERS[name]
            if command[-1] != "app.entrypoints.server":
                environ["PYTHONPATH"] = "/bench:/opt/app:/opt/python"
                command = ["python", *command, "--port", str(port), *QUIET]
            else:
                del environ["PYTHONPATH"]
                command = []  # what the image starts by itself
            del environ["PATH"]
            docker += [part for pair in environ.items() for part in ("--env", "=".join(pair))]
            with started([*docker, image, *command], dict(os.environ)):
                try:
                    healthy = wait_until_healthy(f"http://127.0.0.1:{port}")
                    return {"start_seconds": healthy} | endure(f"http://127.0.0.1:{port}")
                finally:
                    subprocess.run(["docker", "kill", container_name], capture_output=True)

        found = interleaved(rounds, SERVERS, measure)
    return {name: figures | {"image_mb": int(size) / 1e6} for name, figures in found.items()}


def endure(url: str, seconds: float = 3) -> Figures:
    """Return the highest rate of GETs whose p99 stays below `LATE_MS`, and its percentiles. Two tries at each."""
    uvloop.run(load.fixed_rate(url, "get", 20, 2))
    best: Figures = {"rate": 0.0, "p50_ms": float("inf"), "p99_ms": float("inf")}

    def bears(rate: float) -> bool:
        for _ in range(2):
            outcome = uvloop.run(load.fixed_rate(url, "get", rate, seconds, LATE_MS))
            p50, p99 = outcome.percentile(0.5), outcome.percentile(0.99)
            if p99 < LATE_MS:
                best.update(rate=round(rate, 1), p50_ms=p50, p99_ms=p99)
                return True
            time.sleep(1)  # it may still be busy with what was asked of it
        return False

    if not highest(bears):
        raise RuntimeError(f"{url} does not even bear {LOWEST_RATE:g} requests a second")
    return best


def highest(bears: Callable[[float], bool]) -> float:
    """Return the highest rate that is borne, to 4 %: doubled until one is not, then bisected four times."""
    good = 0.0
    for bad in (LOWEST_RATE * 2**step for step in range(9)):
        if not bears(bad):
            break
        good = bad
    else:
        return good
    for _ in range(4 if good else 0):
        middle = (good * bad) ** 0.5
        if bears(middle):
            good = middle
        else:
            bad = middle
    return good


def client_choice(rounds: int, quick: bool) -> dict[str, Figures]:
    """CPU of one call, in microseconds, 16 at a time; and what the import and first call cost."""
    with canned() as endpoint:
        return interleaved(
            rounds,
            clients.CANDIDATES,
            lambda name: json.loads(run(["-m", "bench.clients", name], endpoint, BASELINES_PYTHON)),
        )


class Part(NamedTuple):
    """One part of the bench, and how it is measured."""

    measure: Callable[[int, bool], dict[str, Any]]
    rounds: int
    quick_rounds: int
    how: str


PARTS = {
    "cold": Part(cold, 9, 3, "{rounds} interleaved rounds, a fresh process each"),
    "rie": Part(rie, 5, 2, "{rounds} interleaved rounds, a fresh emulator each"),
    "warm": Part(warm, 5, 2, "{rounds} interleaved rounds, a fresh process each, warmed up first"),
    "server": Part(
        server,
        3,
        1,
        "{rounds} interleaved rounds, a process each for all; the rejected request once, after them",
    ),
    "container": Part(
        container,
        3,
        0,
        "{rounds} interleaved rounds, a fresh container each; the rate to 4 %, two tries at each",
    ),
    "clients": Part(client_choice, 3, 1, "{rounds} interleaved rounds, a fresh process each"),
    "lists": Part(
        lambda _, quick: lists.measure(quick), 1, 1, "once: Queries counted over a fake, spread simulated"
    ),
    "observability": Part(observability, 9, 3, "{rounds} interleaved rounds, fresh processes each"),
}


def can_measure(name: str, quick: bool) -> bool:
    """Return whether what a part needs is here."""
    if name == "container":
        return not quick and has_engine()
    return name != "rie" or bool(emulator())


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and write the results. Returns 1 if a threshold is missed."""
    parser = argparse.ArgumentParser(prog="bench")
    parser.add_argument("--quick", action="store_true", help="fewer rounds; no container part")
    parser.add_argument("--only", choices=PARTS, action="append", help="only these parts")
    parser.add_argument(
        "--against", metavar="COMMIT", help="only this project, in turn with another commit of it"
    )
    options = parser.parse_args(arguments)
    if options.against:
        print(against.table(options.against, against.compare(options.against, 3 if options.quick else 21)))
        return 0
    found: dict[str, Any] = {
        "machine": {
            "python": platform.python_version(),
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "quick": options.quick,
            "began": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        },
        "measured": {},
    }
    REPORTS.mkdir(parents=True, exist_ok=True)
    for name, part in PARTS.items():
        if options.only and name not in options.only:
            continue
        if not can_measure(name, options.quick):
            print(f"{name}: left out", file=sys.stderr)
            continue
        began, rounds = time.monotonic(), part.quick_rounds if options.quick else part.rounds
        found[name] = part.measure(rounds, options.quick)
        seconds = round(time.monotonic() - began)
        print(f"{name}: {seconds} s", file=sys.stderr)
        found["measured"][name] = {"how": part.how.format(rounds=rounds), "seconds": seconds}
        (REPORTS / "results.json").write_text(json.dumps(found, indent=1) + "\n")
    text = report.table(found)
    print(text)
    (REPORTS / "results.md").write_text(text + "\n")
    (REPORTS / "results.svg").write_text(report.plot(found))
    if found["measured"].keys() == PARTS.keys() and not options.quick:
        shutil.copytree(REPORTS, RESULTS, dirs_exist_ok=True)
    for each in report.missed(found):
        print(f"MISSED: {each}", file=sys.stderr)
    return bool(report.missed(found))


if __name__ == "__main__":
    sys.exit(main())
