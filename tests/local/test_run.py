"""`make run` as a user meets it: its start, its restart, its end, and what it says when it cannot work."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from localcloud.issuer import Issuer
from localcloud.running import ROOT, free_port, wait_until_healthy

_BODY = {"customer": "John Doe", "product": "Widget", "quantity": 5}


@pytest.fixture
def port() -> int:
    return free_port()


@contextmanager
def _running(port: int, state: Path, **more: str) -> Iterator[subprocess.Popen[str]]:
    environ = {
        **os.environ,
        "PORT": str(port),
        "LOCALCLOUD_STATE": str(state),
        "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}",
        **more,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "localcloud.run"],
        env=environ,
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _children(pid: int) -> list[int]:
    """Return the process's descendants, itself not included."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += [int(child), *_children(int(child))]
    return found


def _all_gone(pids: list[int], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def test_orders_survive_kill_nine_and_nothing_is_left_running(port: int, tmp_path: Path) -> None:
    with _running(port, tmp_path) as process:
        wait_until_healthy(f"http://127.0.0.1:{port}")
        pids = _children(process.pid)
        assert len(pids) >= 3  # the emulator, the server that watches the source, and the one that serves
        placed = httpx.post(f"http://127.0.0.1:{port}/orders", json=_BODY)
        assert placed.status_code == 201
        for pid in [process.pid, *pids]:
            os.kill(pid, signal.SIGKILL)  # at once: no snapshot was taken since the order
        assert _all_gone(pids)
    with _running(port, tmp_path) as process:
        wait_until_healthy(f"http://127.0.0.1:{port}")
        assert httpx.get(f"http://127.0.0.1:{port}{placed.headers['location']}").json() == placed.json()
        pids = _children(process.pid)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=30)
        assert process.returncode == 0, errors
        assert "nothing to deploy" in output
        assert f"http://localhost:{port}/docs" in output
        assert _all_gone(pids)


def test_with_auth_it_asks_for_tokens_of_its_own_issuer(port: int, tmp_path: Path) -> None:
    api = f"http://127.0.0.1:{port}"
    with _running(port, tmp_path, AUTH="1"):
        wait_until_healthy(f"http://127.0.0.1:{port}")
        assert httpx.get(f"{api}/").json()["authentication"] == "jwt"
        assert httpx.post(f"{api}/orders", json=_BODY).status_code == 401
        issuer = Issuer.load(tmp_path / "issuer.json")  # as `make token` does
        alice, bob = (issuer.bearer(sub) for sub in ("alice", "bob"))
        placed = httpx.post(f"{api}/orders", json=_BODY, headers=alice)
        assert placed.status_code == 201
        order = f"{api}{placed.headers['location']}"
        assert httpx.get(order, headers=alice).status_code == 200
        assert httpx.get(order, headers=bob).status_code == 404


def test_children_end_when_only_the_command_is_killed(port: int, tmp_path: Path) -> None:
    with _running(port, tmp_path) as process:
        wait_until_healthy(f"http://127.0.0.1:{port}")
        pids = _children(process.pid)
        process.kill()
        assert _all_gone(pids)


def test_busy_port_is_one_clear_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with _running(port, tmp_path) as process:
            output, errors = process.communicate(timeout=30)
    assert (process.returncode, output) == (1, "")
    assert errors.startswith(f"make run: port {port} is not free")
    assert errors.count("\n") == 1


def test_another_word_for_auth_is_one_clear_line(port: int, tmp_path: Path) -> None:
    with _running(port, tmp_path, AUTH="false") as process:
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (1, "")
    assert errors == "make run: AUTH is 0 or 1, which asks for tokens, not 'false'\n"


def test_second_run_in_the_same_directory_is_one_clear_line(port: int, tmp_path: Path) -> None:
    import fcntl

    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with _running(port, tmp_path) as process:
            _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert errors == "make run: another `make run` works in this directory; stop that one first\n"


class TestEnvironment:
    """`make run` in a project in miniature, whose requirements are none: what it makes of a Python."""

    @pytest.fixture
    def project(self, tmp_path: Path) -> Path:
        shutil.copy(ROOT / "Makefile", tmp_path)
        for name in re.findall(r"call stamp,[\w.-]+,([\w-]+)\)", (ROOT / "Makefile").read_text()):
            (tmp_path / f"{name}.txt").touch()
        (tmp_path / "scripts/preflight").mkdir(parents=True)
        (tmp_path / "scripts/preflight/package-lock.json").touch()
        (tmp_path / "localcloud").mkdir()
        (tmp_path / "localcloud/run.py").write_text("print('started')")
        return tmp_path

    def make_run(self, project: Path, python: str) -> subprocess.CompletedProcess[str]:
        environ = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}  # this is no sub-make
        command = ["make", "run", f"PYTHON={python}"]
        return subprocess.run(command, cwd=project, env=environ, capture_output=True, text=True)

    @pytest.mark.parametrize(
        ("fault", "says"),
        [
            ("sys.modules['ensurepip'] = None", "apt-get install python3-venv"),  # as Debian's without it
            ("sys.version_info = (3, 9, 2)", "Python 3.11 or newer is needed"),
            ("sys.exit('broken')", "does not start"),
        ],
    )
    def test_python_that_will_not_do_is_one_clear_line(self, project: Path, fault: str, says: str) -> None:
        (project / "sitecustomize.py").write_text(f"import sys; {fault}")
        done = self.make_run(project, f"env PYTHONPATH=. {sys.executable}")
        assert done.returncode != 0
        why, _ = done.stderr.splitlines()  # and make's own "Error 2"
        assert says in why
        assert not (project / ".venv").exists()

    def test_environments_without_pip_or_interpreter_are_made_anew(self, project: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", ".venv"], cwd=project, check=True)
        done = self.make_run(project, sys.executable)
        assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "started"), done.stderr
        interpreter = project / ".venv/bin/python"
        interpreter.unlink()
        interpreter.symlink_to("/nowhere/python")
        done = self.make_run(project, sys.executable)
        assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "started"), done.stderr
