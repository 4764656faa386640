"""Serve the emulator: ministack with our patches, on loopback, with state that outlives a kill.

    .venv-local/bin/python -m localcloud.emulator --port 0 [--state DIR] [--source DIR --python PATH]
        [--template template.yaml --stack NAME --parameters JSON]

Speaks JSON lines on standard output: {"port"}, {"progress"} for each resource, {"deployed"}, or {"error"}.
Ends, saving its state, on SIGTERM or when standard input closes (when the parent is gone).

Persistence. ministack saves at a graceful stop only. Here every change of an item goes to a journal
before the request is answered, and a snapshot of everything is taken some seconds after a change. A
start loads the snapshot and plays the journal, so that no answered write is lost by `kill -9`; played
writes enter the table's stream again, as the relay's at-least-once delivery allows.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

from localcloud.parent_watch import end_with_parent, say

_SNAPSHOT_SECONDS = 5  # after a change; a snapshot that takes long spaces out the next
_READS = re.compile(r"\.(BatchGet|Describe|Get|List|Query|Scan|Head)")


def main() -> int:
    """Run until told to stop."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--also-bind", default="", help="one more address, the one that containers reach")
    parser.add_argument("--detached", action="store_true", help="outlive the parent; end on SIGTERM only")
    parser.add_argument("--state", type=Path)
    parser.add_argument("--source", default="", help="run image functions from this directory, not in Docker")
    parser.add_argument("--python", default="", help="the interpreter for --source")
    parser.add_argument("--template", type=Path)
    parser.add_argument("--stack", default="orders-local")
    parser.add_argument("--parameters", type=json.loads, default={})
    arguments = parser.parse_args()

    if not arguments.detached:
        end_with_parent()
    sockets = _listen(arguments.port, arguments.also_bind, arguments.state)
    if not sockets:
        say(error=f"port {arguments.port} is taken by another program")
        return 1
    port = sockets[0].getsockname()[1]
    _configure(port, arguments)
    asyncio.run(_serve(sockets, port, arguments))
    return 0


def _listen(port: int, also: str, state: Path | None) -> list[socket.socket]:
    """Bind before anything is imported, on the port of the last run if it is free: state names it."""
    remembered = state / "port" if state else None
    candidates = [port]
    if not port and remembered and remembered.exists():
        candidates = [int(remembered.read_text()), 0]
    for candidate in candidates:
        try:
            sockets = [_bound("127.0.0.1", candidate)]
            if also:
                sockets.append(_bound(also, sockets[0].getsockname()[1]))
        except OSError:
            continue
        if state and remembered:
            _readdress(state, remembered, sockets[0].getsockname()[1])
        return sockets
    return []


def _bound(host: str, port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    return listener


def _readdress(state: Path, remembered: Path, port: int) -> None:
    """Rewrite the port in saved state: queue addresses carry it."""
    state.mkdir(parents=True, exist_ok=True)
    old = remembered.read_text() if remembered.exists() else ""
    if old and old != str(port):
        for file in state.glob("*.json"):
            file.write_text(
                file.read_text().replace(f":{old}/", f":{port}/").replace(f':{old}"', f':{port}"')
            )
    remembered.write_text(str(port))


def _configure(port: int, arguments: argparse.Namespace) -> None:
    """Set what ministack reads from the environment while it is imported."""
    environment = {
        "GATEWAY_PORT": str(port),
        # Where functions and tasks call back; the fault suite puts a proxy in between.
        "AWS_ENDPOINT_URL": os.environ.get("LOCALCLOUD_FUNCTIONS_ENDPOINT")
        or f"http://{arguments.also_bind or '127.0.0.1'}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_EC2_METADATA_DISABLED": "true",
        "IOT_MTLS_ENABLED": "0",  # it would listen on 0.0.0.0
        "SFTP_ENABLED": "0",
        "LOG_LEVEL": os.environ.get("LOCALCLOUD_LOG_LEVEL", "WARNING"),
        "LOCALCLOUD_SOURCE": arguments.source,
        "LOCALCLOUD_PYTHON": arguments.python,
    }
    if arguments.also_bind:
        environment["MINISTACK_HOST"] = arguments.also_bind
    if arguments.source:
        environment["DOCKER_HOST"] = "unix:///nonexistent"  # no Docker here means none at all
    if arguments.state:
        environment |= {
            "PERSIST_STATE": "1",
            "STATE_DIR": str(arguments.state),
            "S3_PERSIST": "1",
            "S3_DATA_DIR": str(arguments.state / "s3"),
        }
    os.environ.update(environment)
    # A profile of the user's must not lead our calls to a real account.
    os.environ.pop("AWS_PROFILE", None)
    os.environ.update(AWS_CONFIG_FILE=os.devnull, AWS_SHARED_CREDENTIALS_FILE=os.devnull)


async def _serve(sockets: list[socket.socket], port: int, arguments: argparse.Namespace) -> None:
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    from localcloud import patches

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    app: Any = patches.install()
    persistence = Persistence(arguments.state) if arguments.state else None
    if persistence:
        app = persistence.around(app)
    config = Config()
    config.bind = [f"fd://{listener.detach()}" for listener in sockets]
    config.keep_alive_timeout = 75
    config.graceful_timeout = 1
    config.loglevel = "WARNING"
    config.errorlog = config.accesslog = None
    serving = asyncio.create_task(serve(app, config, shutdown_trigger=stop.wait))  # type: ignore[arg-type]
    await _accepting(port)
    say(port=port)
    if arguments.template:
        await asyncio.to_thread(_deploy, port, arguments, persistence)
    await serving


async def _accepting(port: int) -> None:
    for _ in range(1000):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.01)
        else:
            writer.close()
            return
    raise TimeoutError("the emulator did not start to listen")


def _deploy(port: int, arguments: argparse.Namespace, persistence: Persistence | None) -> None:
    from localcloud import deploy

    done: Path | None = arguments.state / "deployed.json" if arguments.state else None
    try:
        wanted = deploy.fingerprint(arguments.template, arguments.parameters)
        if done and done.exists():
            found = json.loads(done.read_text())
            if found.pop("fingerprint") == wanted and found.pop("port") == port:
                say(deployed=found)
                return
        found = deploy.deploy(
            f"http://127.0.0.1:{port}",
            arguments.template,
            arguments.stack,
            arguments.parameters,
            lambda text: say(progress=text),
        )
    except Exception as error:
        say(error=f"{arguments.template} was not deployed: {error}")
        return
    if done and persistence:
        persistence.snapshot()  # first: the file says that the saved state has the stack
        done.write_text(json.dumps({**found, "fingerprint": wanted, "port": port}))
    say(deployed=found)


class Persistence:
    """The journal and the snapshots described above."""

    def __init__(self, directory: Path) -> None:
        from ministack.services import dynamodb

        self._journal_path = directory / "journal.jsonl"
        self._older_path = directory / "journal.older.jsonl"
        self._journal: Any = None
        self._dirty = threading.Event()
        self._saving = threading.Lock()
        self._dynamodb = dynamodb
        self._emit = dynamodb._emit_stream_event
        dynamodb._emit_stream_event = self._record

    def around(self, app: Any) -> Any:
        """Return `app` with the journal played after its start and a last snapshot before its end."""

        async def wrapped(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "lifespan":

                async def saving_receive() -> Any:
                    message = await receive()
                    if message["type"] == "lifespan.shutdown":
                        self.snapshot()
                    return message

                async def starting_send(message: Any) -> None:
                    if message["type"] == "lifespan.startup.complete":
                        self._start()
                    await send(message)

                await app(scope, saving_receive, starting_send)
                return
            await app(scope, receive, send)
            if scope["type"] == "http" and self._writes(scope):
                self._dirty.set()

        return wrapped

    @staticmethod
    def _writes(scope: Any) -> bool:
        target = dict(scope["headers"]).get(b"x-amz-target", b"").decode()
        return scope["method"] not in ("GET", "HEAD") and not _READS.search(target)

    def _start(self) -> None:
        for path in (self._older_path, self._journal_path):
            for line in path.read_text().splitlines() if path.exists() else ():
                self._play(line)
        self._journal = self._journal_path.open("a")
        threading.Thread(target=self._loop, daemon=True, name="snapshots").start()

    def _play(self, line: str) -> None:
        from ministack.core.responses import set_request_account_id, set_request_region

        try:
            account, region, table, keys, item = json.loads(line)
        except ValueError:
            return  # the last line, cut off by the kill
        set_request_account_id(account)
        set_request_region(region)
        if item is None:
            self._dynamodb._delete_item({"TableName": table, "Key": keys})
        else:
            self._dynamodb._put_item({"TableName": table, "Item": item})

    def _record(self, table: str, event: str, old: Any, new: Any, replicate: bool = True) -> None:
        if self._journal:
            from ministack.core.responses import get_account_id, get_region

            names = self._dynamodb._tables[table]
            keys = {k: (new or old)[k] for k in (names["pk_name"], names["sk_name"]) if k}
            self._journal.write(json.dumps([get_account_id(), get_region(), table, keys, new]) + "\n")
            self._journal.flush()
            self._dirty.set()
        self._emit(table, event, old, new, replicate)

    def _loop(self) -> None:
        while self._dirty.wait():
            time.sleep(_SNAPSHOT_SECONDS)
            started = time.monotonic()
            self.snapshot()
            time.sleep(10 * (time.monotonic() - started))

    def snapshot(self) -> None:
        """Save everything; then the journal up to the beginning of the snapshot is not needed."""
        from ministack import app
        from ministack.core.persistence import save_state

        with self._saving:
            self._dirty.clear()
            if not self._older_path.exists() and self._journal_path.exists():
                self._journal_path.rename(self._older_path)
                fresh = self._journal_path.open("a")
                self._journal, stale = fresh, self._journal
                stale.close()
            complete = True
            for name, get_state in app._build_persistence_save_dict().items():
                copied, state = _copied(get_state)
                complete &= copied
                if state is not None:  # a service without state must not overwrite what is saved
                    save_state(name, state)
            if complete:
                self._older_path.unlink(missing_ok=True)
            else:
                self._dirty.set()


def _copied(get_state: Any) -> tuple[bool, Any]:
    """Return a service's state, and whether that worked: a request may change it in the middle."""
    for _ in range(20):
        try:
            return True, get_state()
        except RuntimeError:
            time.sleep(0.02)
    return False, None


if __name__ == "__main__":
    sys.exit(main())
