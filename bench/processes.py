"""Starting the measured processes, and reading what they cost."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BASELINES_PYTHON = str(ROOT / ".venv-bench/bin/python")  # has Chalice, aiodynamo and pydynox besides
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def environment(endpoint: str, source: Path = ROOT) -> dict[str, str]:
    """Return the environment of a measured process: the application's settings, and little else.

    `source` is the checkout whose application it runs; what measures is always this one.
    """
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{source / 'src'}:{ROOT}",
        "PYTHONHASHSEED": "0",
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        "AWS_SESSION_TOKEN": "FwoGZXIvYXdzE" + "x" * 700,  # a role's token is about this long
        "AWS_REGION": "eu-west-1",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_ENDPOINT_URL": endpoint,
        "APP_TABLE_NAME": "orders",
        "APP_BUCKET_NAME": "documents",
        "APP_EVENT_BUS_NAME": "orders",
        "APP_KMS_KEY_ARN": "arn:aws:kms:eu-west-1:123456789012:key/data",
        "APP_CURSOR_KEY_ARN": "arn:aws:kms:eu-west-1:123456789012:key/cursor",
    }


def run(arguments: list[str], endpoint: str, python: str = sys.executable, source: Path = ROOT) -> str:
    """Run a Python process to its end; return what it printed."""
    done = subprocess.run(
        [python, *arguments],
        env=environment(endpoint, source),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
    )
    if done.returncode:
        raise RuntimeError(f"{arguments} failed:\n{done.stderr[-3000:]}")
    return done.stdout.strip().splitlines()[-1]


@contextlib.contextmanager
def started(
    command: list[str], environ: dict[str, str], stdout: int = subprocess.DEVNULL
) -> Iterator[subprocess.Popen[str]]:
    """Run a process for the length of the block, in a group of its own; end the whole group after."""
    with open(os.devnull, "w") as errors:
        process = subprocess.Popen(
            command,
            env=environ,
            cwd=ROOT,
            stdout=stdout,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            for number in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(5)
            if process.stdout:
                process.stdout.close()


@contextlib.contextmanager
def canned(delay_ms: int = 0) -> Iterator[str]:
    """Run the canned DynamoDB; give its URL."""
    with started(
        [sys.executable, "-m", "bench.canned", "0", str(delay_ms)], environment(""), subprocess.PIPE
    ) as process:
        assert process.stdout
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"


def free_port() -> int:
    """Return a port that nobody uses just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_healthy(url: str, seconds: float = 30) -> float:
    """Wait for `GET /health`; return how long it took. Raises `TimeoutError`."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=1) as answer:  # noqa: S310
            if answer.status == 200:
                return time.monotonic() - began
        time.sleep(0.02)
    raise TimeoutError(f"{url} did not come up")


def family(pid: int) -> list[int]:
    """Return the process and its descendants."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                parents.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for each in found:
        found += parents.get(each, [])
    return found


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that the process and its descendants have used, to the nanosecond."""
    total = 0
    for each in family(pid):
        for task in Path(f"/proc/{each}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):
                total += int(task.read_text().split()[0])
    return total / 1e9


def resident_mb(pid: int) -> float:
    """Return the resident memory of the process and its descendants."""
    total = 0
    for each in family(pid):
        with contextlib.suppress(OSError):
            total += int(Path(f"/proc/{each}/statm").read_text().split()[1]) * PAGE_BYTES
    return total / 1e6
