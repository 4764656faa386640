"""The README's own commands, run as a newcomer runs them: in a copy of the repository, block by block."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from localcloud.running import free_port

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
# A block with this comment before it is run here.
RUNNABLE = re.compile(r"<!-- run by tests/docs/test_readme.py -->\n```sh\n(.*?)```", re.DOTALL)


def bare_clone(target: Path) -> Path:
    """The files that git tracks or would add, and nothing else."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return target


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with the environments of this checkout."""
    target = bare_clone(tmp_path_factory.mktemp("clone"))
    for environment in ROOT.glob(".venv*"):
        (target / environment.name).symlink_to(environment.resolve())
    return target


@contextmanager
def make_run(clone: Path, patience_seconds: float = 60) -> Iterator[str]:
    """`make run` until the block ends, then Ctrl-C; yields the API's address."""
    port = free_port()
    log = (clone / "run.log").open("w+")
    running = subprocess.Popen(
        ["make", "run", f"PORT={port}"],
        cwd=clone,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    deadline = time.monotonic() + patience_seconds
    try:
        while time.monotonic() < deadline:
            assert running.poll() is None, Path(log.name).read_text()
            try:
                urllib.request.urlopen(f"http://localhost:{port}/health", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        else:
            raise AssertionError(Path(log.name).read_text())
        yield f"http://localhost:{port}"
    finally:
        os.killpg(running.pid, signal.SIGINT)  # as the terminal's Ctrl-C: the whole group
        running.wait(60)
        log.close()
    assert "Stopped." in Path(log.name).read_text()
    with pytest.raises(ProcessLookupError):  # nothing of the group is left
        os.killpg(running.pid, 0)


def run_example(api: str, clone: Path) -> str:
    (block,) = RUNNABLE.findall(README)
    assert "API=http://localhost:8000" in block
    script = "set -euo pipefail\n" + block.replace("API=http://localhost:8000", f"API={api}")
    done = subprocess.run(["bash", "-c", script], cwd=clone, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def test_the_example_passes_as_written_every_time_and_its_orders_survive_a_restart(clone: Path) -> None:
    with make_run(clone) as api:
        for _ in range(2):
            said = run_example(api, clone)
            assert '"status":"shipped"' in said
            assert '"status":409' in said
    with make_run(clone) as api:
        page = urllib.request.urlopen(f"{api}/orders", timeout=10).read().decode()
    assert page.count('"customer":"John Doe"') == page.count('"status":"shipped"') == 2


@pytest.mark.install
@pytest.mark.timeout(900)
def test_a_start_takes_no_more_work_than_a_newcomer_waits_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bound is of processor time, which other work on the machine hardly lengthens."""
    bare_clone(tmp_path)
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")  # a newcomer has nothing downloaded yet
    for start, limit in (("first", 90), ("later", 10)):
        began, worked = time.monotonic(), _processor_seconds()
        with make_run(tmp_path, patience_seconds=400):
            waited = time.monotonic() - began
        worked = _processor_seconds() - worked
        with capsys.disabled():
            print(  # noqa: T201
                f"\n{start} start: /health answers after {waited:.1f} s; processor: {worked:.1f} s of {limit}"
            )
        assert worked < limit
    commands_start_with_what_a_run_installs(tmp_path)


def commands_start_with_what_a_run_installs(clone: Path) -> None:
    """For them the Makefile installs the application's packages into .venv, and no developer's."""
    makefile = (clone / "Makefile").read_text()
    recipes = re.findall(
        r"^[a-z-]+: \$\(RUN\)(?: \$\((?:LOCAL|TOOLS)\))* ##.*\n\t(.+)", makefile, re.MULTILINE
    )
    modules = {re.search(r"-m ([\w.]+)", recipe)[1] for recipe in recipes}  # type: ignore[index]
    assert {"bench.aws", "scripts.dlq", "localcloud.local"} <= modules
    for module in sorted(modules):
        program = f"{module}.__main__" if (clone / module.replace(".", "/")).is_dir() else module
        subprocess.run(
            [clone / ".venv/bin/python", "-c", f"import {program}"],
            cwd=clone,
            env={"PYTHONPATH": ".:src"},
            timeout=60,
            check=True,
        )
    doctor = subprocess.run(["make", "doctor"], cwd=clone, capture_output=True, text=True, timeout=120)
    assert "  credentials " in doctor.stdout, doctor.stdout  # so the account was looked at


def _processor_seconds() -> float:
    """Return what this process's children, and theirs, have used until they ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_a_busy_port_gets_one_line(clone: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = subprocess.run(
            ["make", "run", f"PORT={taken.getsockname()[1]}"],
            cwd=clone,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode != 0
    assert "make run: " in done.stderr
    assert "Traceback" not in done.stderr


def test_is_short() -> None:
    assert len(README.splitlines()) < 150
