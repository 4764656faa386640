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

import pytest
from tests.api.wire import answers, connect, received

SRC = Path(__file__).parents[2] / "src"
ORDER_ID = "0199a6f5-1c00-7000-8000-000000000001"
# As `python -m app.entrypoints.server`, with less time.
PROGRAM = """
from app.entrypoints import server
server.DRAIN_SECONDS = server.FINISH_SECONDS = 0.5
server.main()
"""


@pytest.fixture
def database() -> Iterator[socket.socket]:
    """A DynamoDB that takes requests and answers none."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


@pytest.fixture
def process(database: socket.socket) -> Iterator[tuple[subprocess.Popen[str], int]]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
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
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as process:
        try:
            for _ in range(200):
                try:
                    connect(port).close()
                    break
                except ConnectionRefusedError:
                    time.sleep(0.1)
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
