"""Packaged once, deployed, changed, rolled back, destroyed: the commands with the real image and templates.

One stack on the local AWS lives through the file, in the order of its tests. About two minutes on two cores.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from localcloud import cloud
from localcloud.embedded import ROOT, aws_environ
from scripts.delivery.artifact import SOURCES

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(300), pytest.mark.xdist_group("delivery")]

STAGE, STACK = "clouddev", "orders-clouddev"
# The functions cannot be made with it, when most of the stack is there: the secret does not exist.
BROKEN = "OriginSecretArn=arn:aws:secretsmanager:us-east-1:000000000000:secret:none"


@dataclass
class Pipeline:
    """A copy of the sources to change, the emulator, and what the commands said."""

    root: Path
    endpoint: str
    artifacts: list[str] = field(default_factory=list)

    def run(self, *words: str) -> str:
        """Run a delivery command as make does; return what it said."""
        done = self._run(*words)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    def fail(self, *words: str) -> str:
        """Run one that must fail; return its error."""
        done = self._run(*words)
        assert done.returncode == 1, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stderr

    def _run(self, *words: str) -> subprocess.CompletedProcess[str]:
        environ = {
            **os.environ,
            **aws_environ(self.endpoint),
            "PYTHONPATH": f"{self.root}:{self.root / 'src'}",
        }
        environ |= {
            "ARTIFACT_BUCKET": "orders-artifacts",
            "IMAGE_REPOSITORY": f"{self.endpoint.removeprefix('http://')}/delivery",
        }
        command = [sys.executable, "-m", "scripts.delivery", *words]
        return subprocess.run(
            command, cwd=self.root, env=environ, capture_output=True, text=True, timeout=280
        )

    def smoke(self) -> str:
        """Run the smoke test against what is deployed; return what it said."""
        command = [sys.executable, "scripts/smoke.py", self.url]
        done = subprocess.run(command, cwd=self.root, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @property
    def url(self) -> str:
        found = cloud.describe(self.endpoint, STACK)
        assert found is not None
        return cloud.stack_outputs(found)["ApiUrl"]

    def status(self) -> str:
        found = cloud.describe(self.endpoint, STACK)
        return str(found["StackStatus"]) if found else ""

    def orders(self) -> int:
        """Return how many items the one table holds."""
        database = cloud.client(self.endpoint, "dynamodb")
        (table,) = database.list_tables()["TableNames"]
        return int(database.scan(TableName=table)["Count"])

    def version(self) -> str:
        return str(httpx.get(self.url, timeout=60).json()["version"])


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    root = tmp_path_factory.mktemp("sources")
    for name in (*SOURCES, "scripts", "samconfig.toml", "pyproject.toml"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy(source, root / name)
    (root / ".venv-tools").symlink_to(ROOT / ".venv-tools")
    state = tmp_path_factory.mktemp("cloud")
    try:
        endpoint = cloud.start(state)
        cloud.client(endpoint, "s3").create_bucket(Bucket="orders-artifacts")
        cloud.client(endpoint, "ecr").create_repository(
            repositoryName="delivery", imageTagMutability="IMMUTABLE"
        )
        yield Pipeline(root, endpoint)
    finally:
        cloud.stop(state)


def test_the_artifact_is_built_once_and_pinned_by_digest(pipeline: Pipeline) -> None:
    assert "building" in pipeline.run("package")
    said = pipeline.run("package")
    assert "nothing to build" in said
    found = re.search(r"artifact ([0-9a-f]{32})", said)
    assert found is not None
    pipeline.artifacts.append(found[1])
    s3 = cloud.client(pipeline.endpoint, "s3")
    key = f"artifacts/{found[1]}/template.yaml"
    template = s3.get_object(Bucket="orders-artifacts", Key=key)["Body"].read().decode()
    images = re.findall(r"ImageUri: (\S+)", template)
    assert images
    assert all(re.fullmatch(r"\S+/delivery@sha256:[0-9a-f]{64}", image) for image in images), images
    assert len(set(images)) == 1, "every function and the task run one image"
    pushed = cloud.client(pipeline.endpoint, "ecr").describe_images(repositoryName="delivery")["imageDetails"]
    assert [tag for image in pushed for tag in image.get("imageTags", [])] == [found[1]], "the artifact's key"


def test_a_failed_first_deployment_is_cleaned_by_the_next(pipeline: Pipeline) -> None:
    deploy = ["deploy", "--stage", STAGE, "--artifact", pipeline.artifacts[0]]
    assert "secret" in pipeline.fail(*deploy, "--parameters", BROKEN)
    assert pipeline.status() == "ROLLBACK_COMPLETE"
    assert pipeline.orders() == 0, "the table was left behind"
    said = pipeline.run(*deploy)
    assert re.search(r"OrdersTable \(.*\): removed", said)
    assert pipeline.orders() == 0
    assert "smoke test passed" in pipeline.smoke()


def test_a_second_has_nothing_to_do(pipeline: Pipeline) -> None:
    assert "nothing to do" in pipeline.run("deploy", "--stage", STAGE)


def test_a_failed_update_is_kept_with_its_data_and_serves_on(pipeline: Pipeline) -> None:
    placed = pipeline.orders()
    assert placed > 0
    assert "secret" in pipeline.fail("deploy", "--stage", STAGE, "--parameters", BROKEN)
    assert pipeline.status() == "UPDATE_ROLLBACK_COMPLETE"
    assert pipeline.orders() == placed
    assert "smoke test passed" in pipeline.smoke()


def test_changed_code_rolls_out_and_back(pipeline: Pipeline) -> None:
    before = pipeline.version()
    for name in ("src/orders/__init__.py", "pyproject.toml"):
        path = pipeline.root / name
        path.write_text(path.read_text().replace(f'"{before}"', '"9.9.9"'))
    pipeline.run("deploy", "--stage", STAGE)
    assert pipeline.version() == "9.9.9"
    pipeline.run("rollback", "--stage", STAGE)
    assert pipeline.version() == before


def test_destroyed_with_its_data(pipeline: Pipeline) -> None:
    said = pipeline.run("destroy", "--stage", STAGE, "--yes", "--data")
    assert f"{STACK} is gone" in said
    assert cloud.client(pipeline.endpoint, "dynamodb").list_tables()["TableNames"] == []
    buckets = cloud.client(pipeline.endpoint, "s3").list_buckets()["Buckets"]
    assert [bucket["Name"] for bucket in buckets] == ["orders-artifacts"]
