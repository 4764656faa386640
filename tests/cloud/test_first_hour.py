"""`make test-aws` on the local AWS emulator: each step with the real image and templates, in containers.

What a step must find is written in scripts/first_hour/steps.py, once for this run and for an account's. Its
report is in reports/test-aws.md. About five minutes on two cores.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from localcloud import cloud
from localcloud.running import ROOT, aws_environ
from scripts.first_hour.steps import STEPS

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(900), pytest.mark.xdist_group("first-hour")]


@dataclass
class Hour:
    """The emulator, and what the command left on it and in its report."""

    endpoint: str
    code: int
    said: str
    steps: dict[str, dict[str, Any]]
    state: Path


@pytest.fixture(scope="module")
def hour(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hour]:
    state = tmp_path_factory.mktemp("cloud")
    kept = tmp_path_factory.mktemp("test-aws") / "state.json"
    try:
        # Functions and tasks have the rights of their own roles, and nothing more.
        endpoint = cloud.start(state, auth=True)
        # The emulator has no AWS::IAM::OIDCProvider: the account has one already.
        cloud.client(endpoint, "iam").create_open_id_connect_provider(
            Url="https://token.actions.githubusercontent.com", ClientIDList=["sts.amazonaws.com"]
        )
        done = subprocess.run(
            [sys.executable, "-m", "scripts.first_hour", "--yes", "--state", str(kept)],
            cwd=ROOT,
            env={**os.environ, **aws_environ(endpoint), "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"},
            capture_output=True,
            text=True,
            timeout=840,
            check=False,
        )
        steps = json.loads((ROOT / "reports" / "test-aws.json").read_text())["steps"]
        yield Hour(endpoint, done.returncode, done.stdout + done.stderr, steps, kept)
    finally:
        cloud.stop(state)


def test_every_step_passes(hour: Hour) -> None:
    assert {name: step["note"] for name, step in hour.steps.items() if step["result"] != "passed"} == {}
    assert list(hour.steps) == [step.name for step in STEPS]
    assert hour.code == 0, hour.said[-5000:]
    assert not hour.state.exists(), "a finished run is forgotten"


def test_the_report_says_what_was_not_shown_here(hour: Hour) -> None:
    report = (ROOT / "reports" / "test-aws.md").read_text()
    for step in STEPS:
        assert step.not_here in report
    assert "local AWS emulator" in report


def test_nothing_is_left(hour: Hour) -> None:
    """Asked without the command's own list of questions."""
    found = cloud.client(hour.endpoint, "cloudformation").list_stacks()["StackSummaries"]
    assert {stack["StackStatus"] for stack in found} == {"DELETE_COMPLETE"}
    assert cloud.client(hour.endpoint, "dynamodb").list_tables()["TableNames"] == []
    assert cloud.client(hour.endpoint, "s3").list_buckets()["Buckets"] == []
    assert cloud.client(hour.endpoint, "ecr").describe_repositories()["repositories"] == []
    assert cloud.client(hour.endpoint, "logs").describe_log_groups()["logGroups"] == []
    assert cloud.containers(hour.endpoint) == []
