"""The local AWS emulator as a context manager, for tests and for `make run`. Standard library only.

    with running_emulator() as aws:        # about 2 s: template.yaml deployed, nothing persisted
        aws.endpoint                       # http://127.0.0.1:<free port>
        aws.outputs["OrdersTableName"]     # the stack's outputs
        aws.resources["OrdersTable"]       # logical id -> physical id, of the root stack
        aws.environ                        # AWS_* and APP_* for a process or `Settings.from_env`

The functions of the templates (relay, consumers, custom resources) run from `src` without Docker, by the
image's own command; see `patches.images`. `auth=True` enforces IAM: then the functions
have their roles' rights and nothing more, while `aws.environ` is the account's root.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from scripts.cli import CliError

ROOT = Path(__file__).resolve().parent.parent
LOCAL_PYTHON = ROOT / ".venv-local" / "bin" / "python"
REGION = "us-east-1"
# What the local run leaves out: it would only be a stub here, and costs seconds.
LOCAL_PARAMETERS = {"Runtime": "lambda"}
_STOP_SECONDS = 15


@dataclass
class Emulator:
    """A running emulator with the project's stack on it."""

    endpoint: str
    process: subprocess.Popen[bytes]
    outputs: dict[str, str] = field(default_factory=dict)
    resources: dict[str, str] = field(default_factory=dict)
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def port(self) -> int:
        """The emulator's port on loopback."""
        return int(self.endpoint.rsplit(":", 1)[1])


def aws_environ(endpoint: str) -> dict[str, str]:
    """Return what makes an SDK call the emulator, and never a real account."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


def emulator_environ(*, auth: bool) -> dict[str, str]:
    """Return the environment of the emulator's process: nothing of the user's AWS, and nothing of ours."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "APP_", "PYTHON"))}
    return clean | {"PYTHONPATH": str(ROOT), "AUTH": str(auth).lower()}


def free_port() -> int:
    """Return a port of loopback that nobody uses just now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def is_healthy(url: str, seconds: float = 30) -> bool:
    """Return whether GET <url>/health returns 200."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=seconds) as response:  # noqa: S310  # ours
            return bool(response.status == 200)
    except OSError:
        return False


def wait_until_healthy(url: str, seconds: float = 120) -> float:
    """Return, in seconds, how long GET <url>/health took to return 200. Raises CliError."""
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        if is_healthy(url):
            return time.monotonic() - started
        time.sleep(0.02)
    raise CliError(f"{url}/health did not answer within {seconds:.0f} s")


@contextmanager
def running_emulator(
    template: Path | None = ROOT / "template.yaml",
    *,
    parameters: Mapping[str, str] = LOCAL_PARAMETERS,
    stack: str = "orders-local",
    state: Path | None = None,
    source: Path | None = ROOT / "src",
    port: int = 0,
    auth: bool = False,
    environ: Mapping[str, str] | None = None,
    also_bind: str = "",
    log: Path | None = None,
    progress: Callable[[str], object] = str,
) -> Iterator[Emulator]:
    """Start the emulator, deploy `template` (None: nothing), and stop it at the end.

    `state` keeps everything in that directory for the next start; the functions run from `source`
    (None: they are deployed, and fail when invoked); `environ` adds variables to the emulator's;
    `also_bind` is one more address to listen on, for containers; `port` 0 is any that is free;
    `log` takes what it writes. Raises CliError.
    """
    command = [str(LOCAL_PYTHON), "-m", "localcloud.emulator", "--stack", stack]
    command += ["--parameters", json.dumps(dict(parameters)), "--port", str(port)]
    if template:
        command += ["--template", str(template)]
    if state:
        state.mkdir(parents=True, exist_ok=True)
        command += ["--state", str(state.resolve())]
    if source:
        command += ["--source", str(source), "--python", sys.executable]
    if also_bind:
        command += ["--also-bind", also_bind]
    with _started(command, auth, environ or {}, log) as aws:
        _await_deployment(aws, template is not None, progress)
        yield aws


@contextmanager
def _started(
    command: list[str], auth: bool, environ: Mapping[str, str], log: Path | None
) -> Iterator[Emulator]:
    if not LOCAL_PYTHON.exists():
        raise CliError(".venv-local is missing: `make setup` makes it")
    with _log_file(log) as errors:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=emulator_environ(auth=auth) | dict(environ),
            stdin=subprocess.PIPE,  # closing it ends the emulator, also when we are killed
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,  # Ctrl-C is for us; we stop the emulator
        )
    try:
        yield Emulator("", process)
    finally:
        stop(process)


@contextmanager
def _log_file(log: Path | None) -> Iterator[int | IO[bytes]]:
    if log is None:
        yield subprocess.DEVNULL
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        yield file


def _await_deployment(aws: Emulator, deploys: bool, progress: Callable[[str], object]) -> None:
    assert aws.process.stdout is not None  # noqa: S101  # it is a pipe
    for line in aws.process.stdout:
        message: dict[str, Any] = json.loads(line)
        if "error" in message:
            raise CliError(message["error"])
        if "progress" in message:
            progress(message["progress"])
        if "port" in message:
            aws.endpoint = f"http://127.0.0.1:{message['port']}"
            aws.environ = aws_environ(aws.endpoint)
        if "deployed" in message:
            deployed = message["deployed"]
            aws.outputs, aws.resources = deployed["outputs"], deployed["resources"]
            aws.environ |= deployed["environment"]
        if "deployed" in message or (aws.endpoint and not deploys):
            threading.Thread(target=aws.process.stdout.read, daemon=True).start()  # never block it
            return
    raise CliError(f"the emulator ended with code {aws.process.wait()} before it was ready")


def stop(process: subprocess.Popen[bytes]) -> None:
    """Let a child end by itself (it sees its input close), then make it."""
    if process.stdin:
        process.stdin.close()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout:
        process.stdout.close()
