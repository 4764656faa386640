"""`make run`: the API on http://localhost:8000 with its table, bus, queues and functions.

No Docker, no account: the stack is template.yaml, deployed to the emulator through CloudFormation. State is
kept under .local/; delete that directory to begin again. Ends with 0 on Ctrl-C, and with 1 and one line when
it cannot work.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from scripts.cli import CliError

from localcloud.running import ROOT, Emulator, is_healthy, running_emulator, stop

STATE = Path(os.environ.get("LOCALCLOUD_STATE", ROOT / ".local"))  # the tests keep theirs apart
_START_SECONDS = 30


def main() -> int:
    """Run until Ctrl-C."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        port = _port(os.environ.get("PORT", "8000"))
        with _only_one(), _issuer() as auth, _aws() as aws, application(aws, port, auth) as process:
            print(_panel(aws, port, auth), flush=True)
            _watch(aws, process)
    except KeyboardInterrupt:
        print("\nStopped. Your orders are kept in .local/ for the next start.")
        return 0
    except CliError as error:
        print(f"make run: {error}", file=sys.stderr)
        return 1
    return 0


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # nothing may cut the orderly stop short
    raise KeyboardInterrupt


def _port(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) < 65536:
        raise CliError(f"PORT must be a number from 1 to 65535, not {text!r}")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", int(text)))
        except OSError as error:
            hint = f"choose another: make run PORT={int(text) % 65535 + 1}"
            raise CliError(f"port {text} is not free ({error.strerror}); {hint}") from error
    return int(text)


@contextlib.contextmanager
def _only_one() -> Iterator[None]:
    """Hold .local/ for this process: two emulators would write over each other's state."""
    try:
        STATE.mkdir(parents=True, exist_ok=True)
        with (STATE / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
    except BlockingIOError as error:
        raise CliError("another `make run` works in this directory; stop that one first") from error
    except PermissionError as error:
        raise CliError(f"cannot write to {STATE}: {error.strerror}") from error


@contextlib.contextmanager
def _aws() -> Iterator[Emulator]:
    started = time.monotonic()
    deployed: list[str] = []

    def progress(resource: str) -> None:
        deployed.append(resource)
        if sys.stdout.isatty():
            print(f"\r\033[K  {len(deployed)} resources, {resource}", end="", flush=True)

    _say("Starting the local AWS emulator and deploying template.yaml to it ...")
    try:
        with running_emulator(state=STATE / "aws", log=STATE / "aws.log", progress=progress) as aws:
            if deployed and sys.stdout.isatty():
                print("\r\033[K", end="")
            what = f"{len(deployed)} resources deployed" if deployed else "nothing to deploy"
            _say(f"Ready after {time.monotonic() - started:.1f} s ({what}). Starting the API ...")
            yield aws
    except CliError as error:
        raise CliError(f"{error} (log: {STATE / 'aws.log'})") from error


@contextlib.contextmanager
def _issuer() -> Iterator[dict[str, str]]:
    """With AUTH=1, serve the development issuer, and yield what makes the API ask for its tokens."""
    given = os.environ.get("AUTH") or "0"
    if given not in {"0", "1"}:
        raise CliError(f"AUTH is 0 or 1, which asks for tokens, not {given!r}")
    if given == "0":
        yield {}
        return
    from localcloud.issuer import AUDIENCE, HOME, Issuer  # needs the token library, `make run` alone does not

    issuer = Issuer.load(STATE / HOME.name)
    try:
        server = issuer.serve()
    except OSError as error:
        raise CliError(f"the issuer's address {issuer.url} is not free ({error.strerror})") from error
    with contextlib.closing(server.socket):
        yield {"APP_AUTH_ISSUER": issuer.url, "APP_AUTH_AUDIENCE": AUDIENCE}
        server.shutdown()


@contextlib.contextmanager
def application(
    aws: Emulator, port: int, auth: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Serve the API and the console on `port` of loopback over `aws`."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "APP_"))}
    environ |= {
        **aws.environ,
        **(auth or {}),
        "APP_RUNTIME": "local",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "localcloud.web", str(port)],
        cwd=ROOT,
        env=environ,
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not is_healthy(f"http://127.0.0.1:{port}", seconds=1):
            if process.poll() is not None or time.monotonic() > deadline:
                raise CliError("the API did not start; its error stands above")
            time.sleep(0.05)
        yield process
    finally:
        stop(process)


def _panel(aws: Emulator, port: int, auth: dict[str, str]) -> str:
    lines = [
        ("API", f"http://localhost:{port}"),
        ("Docs", f"http://localhost:{port}/docs"),
        ("Console", f"http://localhost:{port}/console/"),
        (
            "Tokens",
            'make token SUB=alice SCOPES="orders:read orders:write"'
            if auth
            else "none: AUTH=1 asks for them",
        ),
        ("AWS", f"{aws.endpoint} (AWS_ENDPOINT_URL for the aws command line; any credentials)"),
        ("Stop", "Ctrl-C; orders are kept in .local/"),
    ]
    return "\n".join(["", *(f"  {name:<8}{value}" for name, value in lines), ""])


def _watch(aws: Emulator, application: subprocess.Popen[bytes]) -> None:
    while True:
        if aws.process.poll() is not None:
            raise CliError(f"the local AWS emulator ended by itself (log: {STATE / 'aws.log'})")
        if application.poll() is not None:
            raise CliError("the API ended by itself; its error stands above")
        time.sleep(0.3)


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
