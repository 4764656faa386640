"""What a request costs: the calls to AWS that it makes, counted on the wire."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from localcloud.running import Emulator
from tests.builders import AN_ORDER
from tests.local.running import api_client

from app.core.settings import Settings


class CountingProxy(ThreadingHTTPServer):
    """Passes every call on to the local AWS emulator, and keeps a list of them."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        self.calls: list[str] = []
        calls = self.calls

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one(self) -> None:
                operation = self.headers.get("x-amz-target", "").rpartition(".")[2]
                calls.append(operation or f"{self.command} {self.path.partition('?')[0]}")
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
                connection.request(self.command, self.path, body, dict(self.headers))
                answer = connection.getresponse()
                content = answer.read()
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                        self.send_header(name, value)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
                connection.close()

            do_GET = do_HEAD = do_POST = do_PUT = handle_one  # noqa: N815  # http.server's names

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # http.server's name
                """Say nothing."""

        super().__init__(("127.0.0.1", 0), Handler)


@pytest.fixture
def proxy(aws: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[CountingProxy]:
    for name, value in aws.environ.items():
        monkeypatch.setenv(name, value)
    proxy = CountingProxy(aws.port)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.server_port}")
    thread = threading.Thread(target=proxy.serve_forever)
    thread.start()
    yield proxy
    proxy.shutdown()
    thread.join()
    proxy.server_close()


async def test_a_request_makes_as_few_calls_as_can_be(proxy: CountingProxy, aws: Emulator) -> None:
    calls: Callable[[], list[str]] = lambda: [proxy.calls.pop(0) for _ in range(len(proxy.calls))]  # noqa: E731
    async with api_client(Settings.from_env()) as client:
        assert calls() == []  # starting up

        key = {"idempotency-key": "calls"}
        placed = await client.post("/orders", json=AN_ORDER, headers=key)
        assert (placed.status_code, calls()) == (201, ["PutItem"])
        path = f"/orders/{placed.json()['id']}"
        assert (await client.post("/orders", json=AN_ORDER, headers=key)).status_code == 201
        assert calls() == ["PutItem"]  # a replay costs no more

        assert (await client.get(path)).status_code == 200
        assert calls() == ["GetItem"]

        assert (await client.put(f"{path}/status", json={"status": "shipped"})).status_code == 200
        assert calls() == ["UpdateItem"]
        assert (await client.put(f"{path}/status", json={"status": "pending"})).status_code == 409
        assert calls() == ["UpdateItem"]  # the rejection itself brings the present state

        note = {"name": "note.txt", "content_type": "text/plain"}
        assert (await client.post(f"{path}/attachments", json=note)).status_code == 200
        # The order, its attachments, the caller's day; signing makes none.
        assert calls() == ["GetItem", "UpdateItem", "UpdateItem"]

        assert (await client.get(f"{path}/attachments")).status_code == 200
        assert calls() == ["GetItem", f"GET /{aws.outputs['DocumentsBucketName']}"]

        assert (await client.post("/orders", json=AN_ORDER)).status_code == 201
        assert calls() == ["PutItem"]
        # One for each shard of the list; a process's first cursor asks KMS for the key that encrypts it.
        # (A longer page may ask a shard again that holds more than its share of it.)
        assert (await client.get("/orders?limit=1")).json()["next_cursor"]
        assert calls() == ["Query"] * 4 + ["GenerateMac"]
        assert (await client.get("/orders?limit=1")).json()["next_cursor"]
        assert calls() == ["Query"] * 4
