"""`make bench-aws` over the local AWS emulator: both runtimes' addresses, and what it leaves behind.

It shows that the command works. The emulator counts, reports and traces no calls, and the page says so.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from bench.aws import __main__ as command
from bench.aws.callers import ENDPOINTS
from bench.aws.starts import event_for
from bench.aws.target import EntryPoint, Target, find
from bench.processes import environment, free_port, started, wait_until_healthy
from costs.model import Prices, load_measured
from localcloud.running import ROOT, Emulator, running_emulator

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("bench-aws")]

PLAN = command.Plan(
    minutes=1,
    rate=10,
    samples=4,
    events=2,
    rounds=1,
    step_seconds=0.3,
    step_requests=500,
    drain_seconds=57,
    pause_seconds=0,
    whole_minutes=False,
)


@pytest.fixture(scope="module")
def aws() -> Iterator[Emulator]:
    with running_emulator() as aws, pytest.MonkeyPatch.context() as patch:
        for name, value in aws.environ.items():
            patch.setenv(name, value)
        yield aws


@pytest.fixture(scope="module")
def target(aws: Emulator) -> Iterator[Target]:
    """The stack, and the server over it as the task that it has none of here."""
    port = free_port()
    bare = {name: value for name, value in environment("").items() if not name.startswith("APP_")}
    environ = bare | aws.environ | {"PORT": str(port), "APP_RUNTIME": "fargate"}
    with started([".venv/bin/python", "-m", "app.entrypoints.server"], environ):
        url = f"http://127.0.0.1:{port}"
        wait_until_healthy(url)
        found = find(boto3.Session(), "orders-local")
        yield replace(found, entry_points=(*found.entry_points, EntryPoint("fargate", url)))


def logging_of(target: Target) -> list[dict[str, str]]:
    functions: Any = boto3.client("lambda")
    names = target.functions.values()
    return [functions.get_function_configuration(FunctionName=name)["LoggingConfig"] for name in names]


def test_calls_of_the_functions_change_nothing_and_fail_nowhere(target: Target) -> None:
    functions: Any = boto3.client("lambda")
    for logical_id, name in target.functions.items():
        answer = functions.invoke(FunctionName=name, Payload=json.dumps(event_for(logical_id, target, "")))
        assert "FunctionError" not in answer, answer["Payload"].read()
    assert len(target.functions) == 3


def test_ctrl_c_ends_it_and_puts_back_what_was_changed(target: Target) -> None:
    before = logging_of(target)
    command = [".venv/bin/python", "-m", "bench.aws", "--stack", "orders-local", "--yes"]
    with subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout
        try:
            assert any("cold starts" in line for line in process.stdout if line.startswith("  "))
            deadline = time.monotonic() + 60
            while logging_of(target) == before:  # until the first change
                assert time.monotonic() < deadline
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert errors.strip().startswith("make bench-aws: interrupted")
    assert len(errors.strip().splitlines()) == 1
    assert logging_of(target) == before


def test_measures_both_runtimes_and_leaves_what_it_said(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command.bill, "LOOKS", 2)  # the emulator will not count, however long one waits
    before = logging_of(target)
    measured = load_measured()
    bench = command.Bench(boto3.Session(), target, PLAN, "", Prices.load(), measured)
    found = bench.run(lambda _: None)

    assert set(found["entry_points"]) == {"lambda", "fargate"}
    for entry_point in found["entry_points"].values():
        assert set(entry_point["endpoints"]) == set(ENDPOINTS)
        assert {(row["count"], row["failed"]) for row in entry_point["endpoints"].values()} == {(4.0, 0.0)}
        assert (entry_point["events"]["count"], entry_point["events"]["missing"]) == (2, 0)
    assert found["throughput"]["steps"][0]["rate"] > 0
    assert found["about"]["requests"] <= sum(
        PLAN.requests(entry_point)[0] for entry_point in target.entry_points
    )
    assert logging_of(target) == before

    with httpx.Client(base_url=target.entry_points[1].url) as api:
        listed: list[dict[str, Any]] = []
        cursor: str | None = ""
        while cursor is not None:
            page = api.get(
                "/orders",
                params={"customer": bench._customer, "limit": 100, **({"cursor": cursor} if cursor else {})},
            )
            listed += page.json()["items"]
            cursor = page.json().get("next_cursor")
    assert len(listed) == found["about"]["orders"]
    assert {order["status"] for order in listed} == {"cancelled"}

    said = command.write(found, tmp_path).read_text()
    assert "A local AWS emulator answered" in said
    missing = said.partition("## Not measured here")[2]
    for what in (
        "cold starts of ApiFunction",
        "lambda: the bill of a million requests",
        "X-Ray",
        "how many tasks ran",
    ):
        assert what in missing
