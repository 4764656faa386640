"""The commands themselves: make cloud-up, the README's example, make cloud-down, twice in a row; make local.

About five minutes on two cores.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import httpx
import pytest
from localcloud import engine
from localcloud.running import ROOT, free_port
from tests.docs.test_readme import run_example

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(900), pytest.mark.xdist_group("commands")]

_UP_SECONDS = 240  # "a few minutes"


class Laptop:
    """`make` with its state in a directory of the test's own."""

    def __init__(self, state: Path) -> None:
        self.environ = {**os.environ, "LOCALCLOUD_STATE": str(state)}
        self.before = _everything()

    def make(self, *words: str) -> str:
        done = subprocess.run(
            ["make", *words], cwd=ROOT, env=self.environ, capture_output=True, text=True, timeout=_UP_SECONDS
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    def up(self, runtime: str) -> str:
        """Return the address that `make cloud-up` printed."""
        said = self.make("cloud-up", f"RUNTIME={runtime}")
        found = re.search(rf"API +(\S+)\n +Runtime +{runtime}\n", said)
        assert found, said[-3000:]
        return found[1]

    def left(self) -> set[str]:
        """Name every container, image and build that is there because of `up`."""
        return _everything() - self.before


def _everything() -> set[str]:
    """Name all but the build cache: the base image, and layers without a name."""
    images = engine.docker("images", "--format", "{{.Repository}}:{{.Tag}}", "--filter", "dangling=false")
    return {
        *engine.docker("ps", "--all", "--format", "{{.Names}}"),
        *(image for image in images if not image.startswith("public.ecr.aws/docker/library/python")),
        *map(str, (ROOT / ".aws-sam").glob("localcloud-*")),
    }


def test_up_example_switch_example_down_twice_in_a_row(tmp_path: Path) -> None:
    laptop = Laptop(tmp_path / "state")
    try:
        for _ in range(2):
            run_example(laptop.up("lambda"), tmp_path)
            api = laptop.up("fargate")
            page = httpx.get(f"{api}/orders", timeout=60).json()
            assert len(page["items"]) == 1, "the order created on the other runtime"
            assert '"status":409' in run_example(api, tmp_path)
            status = laptop.make("cloud-status")
            assert "Runtime=fargate" in status
            assert f"{api} (healthy)" in status
            assert laptop.left()
            laptop.make("cloud-down")
            assert laptop.left() == set()
            assert not list((tmp_path / "state").glob("*"))
    finally:
        laptop.make("cloud-down")


@pytest.mark.parametrize("runtime", ["lambda", "fargate"])
def test_make_local_serves_until_it_is_interrupted(tmp_path: Path, runtime: str) -> None:
    port = free_port()
    before = set(engine.docker("ps", "--quiet"))
    log = tmp_path / "log"
    with log.open("w") as output:
        running = subprocess.Popen(
            ["make", "local", f"RUNTIME={runtime}", f"PORT={port}"],
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + _UP_SECONDS
        while f"API       http://127.0.0.1:{port}" not in log.read_text():
            assert running.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as api:
            assert api.get("/").json()["runtime"] == runtime
            assert (
                api.post("/orders", json={"customer": "a", "product": "b", "quantity": 1}).status_code == 201
            )
    finally:
        os.killpg(running.pid, signal.SIGINT)
        running.wait(60)
    assert "Stopped." in log.read_text()
    assert set(engine.docker("ps", "--quiet")) <= before
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/health")
