"""The server process is told to stop while requests are under way."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from localcloud.running import free_port
from tests.api.wire import answers, await_listener, connect, received

SRC = Path(__file__).parents[2] / "src"
ORDER_ID = "0199a6f5-1c00-7000-8000-000000000001"
# As `python -m app.entrypoints.server`, with less time.
PROGRAM = """
from app.entrypoints import server
server.DRAIN_SECONDS, server.FINISH_SECONDS = {drain_seconds}, 0.5
server.main()
"""


@pytest.fixture
def database() -> Iterator[socket.socket]:
    """A DynamoDB that takes requests and answers none."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


@pytest.fixture
def process(
    database: socket.socket, request: pytest.FixtureRequest
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    port = free_port()
    environ = os.environ | {
        "PYTHONPATH": str(SRC),
        "PORT": str(port),
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "eu-west-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{database.getsockname()[1]}",
        **{
            f"APP_{name}": "x"
            for name in ("TABLE_NAME", "BUCKET_NAME", "EVENT_BUS_NAME", "KMS_KEY_ARN", "CURSOR_KEY_ARN")
        },
    }
    command = [sys.executable, "-c", PROGRAM.format(drain_seconds=getattr(request, "param", 0.5))]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as process:
        try:
            await_listener(port)
            yield process, port
        finally:
            process.kill()


def test_every_request_that_is_cut_is_answered_and_logged(
    process: tuple[subprocess.Popen[str], int], database: socket.socket
) -> None:
    server, port = process
    with connect(port) as waiting, connect(port) as half_body, connect(port) as half_head:
        half_body.sendall(b"POST /orders HTTP/1.1\r\nHost: a\r\nContent-Length: 60\r\n\r\n{")
        half_head.sendall(b"PUT /orders/x HTTP/1.1\r\nHost: a\r\n")
        waiting.sendall(f"GET /orders/{ORDER_ID} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        with database.accept()[0] as call:
            call.settimeout(30)
            assert call.recv(1)  # so the request is under way
            server.send_signal(signal.SIGTERM)
            for connection in (waiting, half_body, half_head):
                (cut,) = answers(received(connection))
                assert cut.status == 503
                assert cut.headers["content-type"] == "application/problem+json"
                assert cut.headers["retry-after"] == "1"
            output, _ = server.communicate(timeout=30)
    assert server.returncode == -signal.SIGTERM
    assert "Traceback" not in output
    assert "uvicorn.access" not in output
    cut_lines: list[dict[str, Any]] = [
        line for line in map(json.loads, output.splitlines()) if line["message"] == "request"
    ]
    found = sorted(
        (line["method"], line["route"], line["status"], line["ServerErrors"]) for line in cut_lines
    )
    assert found == [
        ("GET", "/orders/{order_id}", 503, 1),
        ("POST", "/orders", 503, 1),
        ("PUT", "unmatched", 503, 1),
    ]


@pytest.mark.parametrize("process", [600], indirect=True)  # longer than any test
def test_at_first_it_goes_on_as_not_ready_and_when_told_again_it_stops(
    process: tuple[subprocess.Popen[str], int],
) -> None:
    server, port = process
    server.send_signal(signal.SIGTERM)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        for _ in range(200):
            alive = client.get("/health")
            if "connection" in alive.headers:
                break
            time.sleep(0.1)
        assert (alive.status_code, alive.headers["connection"]) == (200, "close")
        assert "server" not in alive.headers
        assert client.get("/health/ready").status_code == 503
    server.send_signal(signal.SIGTERM)
    server.communicate(timeout=30)
    assert server.returncode == -signal.SIGTERM
