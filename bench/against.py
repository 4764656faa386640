"""Measures this checkout and another commit of it in turn: `make bench ARGS="--against HEAD~5"`.

A ratio of 1.03 means that this checkout needs 3 % more processor time. Of each figure the median over the rounds'
own ratios is told, with the middle half of them: other work on the machine then hits both alike.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import uvloop

from bench import load
from bench.processes import (
    ROOT,
    canned,
    cpu_seconds,
    environment,
    free_port,
    run,
    started,
    wait_until_healthy,
)

OPERATIONS = ("get", "post", "list")
Figures = dict[str, float]


@contextlib.contextmanager
def checkout(revision: str) -> Iterator[Path]:
    """Check the commit out beside this one for the length of the block."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "source"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run(
            [*git, "add", "--quiet", "--detach", str(target), revision], check=True, capture_output=True
        )
        try:
            yield target
        finally:
            subprocess.run([*git, "remove", "--force", str(target)], check=True, capture_output=True)


def on_lambda(endpoint: str, source: Path) -> Figures:
    """Return the processor time of a cold start and of warm requests."""

    def child(mode: str, calls: int) -> Figures:
        arguments = ["-m", "bench.child", mode, "app.entrypoints.lambda_api", "v2", str(calls)]
        return json.loads(run(arguments, endpoint, source=source))  # type: ignore[no-any-return]

    warm = child("warm", 400)
    return {"cold start": child("cold", 1)["cpu_ms"]} | {f"warm {name}": warm[name] for name in OPERATIONS}


def on_server(url: str, pid: int) -> Figures:
    """Return the processor time of the server for a request, 16 at a time."""
    figures: Figures = {}
    for operation in OPERATIONS:
        before = cpu_seconds(pid)
        done = uvloop.run(load.closed_loop(url, operation, 16, 0.6))
        figures[f"server {operation}"] = (cpu_seconds(pid) - before) / done
    return figures


def compare(revision: str, rounds: int) -> dict[str, list[float]]:
    """Return this checkout's ratio to the other commit in each round, by figure."""
    ratios: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        sources = (stack.enter_context(checkout(revision)), ROOT)
        endpoint = stack.enter_context(canned())
        servers = []
        for source in sources:
            port = free_port()
            environ = environment(endpoint, source) | {"PORT": str(port)}
            process = stack.enter_context(started([sys.executable, "-m", "app.entrypoints.server"], environ))
            servers.append((f"http://127.0.0.1:{port}", process.pid))
            wait_until_healthy(servers[-1][0])
        for number in range(-1, rounds):  # the first round warms up
            turns = ((0, 1), (1, 0))[number % 2]
            found = {turn: on_lambda(endpoint, sources[turn]) | on_server(*servers[turn]) for turn in turns}
            for name, theirs in found[0].items() if number >= 0 else ():
                ratios.setdefault(name, []).append(found[1][name] / theirs)
    return ratios


def table(revision: str, ratios: dict[str, list[float]]) -> str:
    """Return one line for each figure."""
    lines = [
        f"Processor time, this checkout to {revision}: the median of the rounds' ratios, their middle half"
    ]
    for name, each in ratios.items():
        low, middle, high = statistics.quantiles(each, n=4, method="inclusive")
        lines.append(f"- {name}: {middle:.3f} ({low:.3f} to {high:.3f}; {len(each)} rounds)")
    return "\n".join(lines)
