"""Behind a real proxy that keeps its connections to the server, and shares them among its callers.

It needs nginx (apt-get install nginx-light). Without it the tests are skipped, but fail in CI.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from localcloud.issuer import Issuer
from localcloud.running import free_port
from tests.api.wire import Answer, await_listener, exchange, serving
from tests.builders import AN_ORDER, a_settings, an_app

from app.orders.service import OrderService

ISSUER = Issuer("https://issuer.test")
bearer = ISSUER.bearer
ROUNDS = 10
PLAIN = 'proxy_set_header Connection "";'
# https://nginx.org/en/docs/http/websocket.html, but it keeps the connection of who asks for no upgrade.
WEBSOCKETS = "proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;"
CONFIG = """
daemon off;
master_process off;
pid {home}/pid;
error_log stderr;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path {home}/1; proxy_temp_path {home}/2; fastcgi_temp_path {home}/3;
  uwsgi_temp_path {home}/4; scgi_temp_path {home}/5;
  map $http_upgrade $connection_upgrade {{ default upgrade; "" ""; }}
  upstream api {{ server 127.0.0.1:{server}; keepalive 1; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://api; proxy_http_version 1.1; proxy_request_buffering {buffering};
      {passes}
    }}
  }}
}}
"""


@pytest.fixture(params=[PLAIN, WEBSOCKETS], ids=["plain", "websockets"])
def passes(request: pytest.FixtureRequest) -> str:
    """The headers that the proxy sends."""
    return str(request.param)


@pytest.fixture(params=["on", "off"], ids=["buffered", "unbuffered"])
def port(request: pytest.FixtureRequest, passes: str, service: OrderService, tmp_path: Path) -> Iterator[int]:
    """The application behind nginx, which has one connection to it."""
    nginx = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if nginx is None:
        if os.environ.get("CI"):
            pytest.fail("nginx is not installed: apt-get install nginx-light")
        pytest.skip("nginx is not installed (apt-get install nginx-light): NOT tried behind a proxy")
    with serving(an_app(service, a_settings(), ISSUER.authenticator())) as server:
        port = free_port()
        config = tmp_path / "nginx.conf"
        config.write_text(
            CONFIG.format(home=tmp_path, server=server, port=port, buffering=request.param, passes=passes)
        )
        with subprocess.Popen([nginx, "-p", str(tmp_path), "-c", str(config)]) as process:
            try:
                await_listener(port)
                yield port
            finally:
                process.terminate()


def ask(port: int, start: str, body: bytes = b"", **headers: str) -> list[Answer]:
    """Send one request on a connection of its own."""
    fields = {"host": "a", "connection": "close"} | {k.replace("_", "-"): v for k, v in headers.items()}
    if body:
        fields |= {"content-type": "application/json", "content-length": str(len(body))}
    lines = [f"{start} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return exchange(port, "\r\n".join(lines).encode() + body)


def test_a_stranger_gets_no_request_in_before_that_of_another_caller(port: int) -> None:
    """The request in the body would take the next one for its header; empty lines before it are skipped."""
    body = b"\r\n" * 150_000 + b"GET /nothing HTTP/1.1\r\nX: "
    alice = bearer("alice")
    (placed,) = ask(port, "POST /orders", json.dumps(AN_ORDER).encode(), **alice)
    assert placed.status == 201
    for _ in range(ROUNDS):
        (refused,) = ask(port, "POST /orders", body, connection="close, upgrade", upgrade="x")
        assert refused.status == 401
        (listed,) = ask(port, "GET /orders", **alice)
        assert listed.status == 200
        assert [order["id"] for order in json.loads(listed.body)["items"]] == [json.loads(placed.body)["id"]]


def test_an_order_is_placed_though_the_client_asks_for_another_protocol(port: int) -> None:
    for _ in range(ROUNDS):
        (placed,) = ask(
            port,
            "POST /orders",
            json.dumps(AN_ORDER).encode(),
            connection="close, Upgrade, HTTP2-Settings",
            upgrade="h2c",
            http2_settings="AAMAAABkAAQCAAAAAAIAAAAA",
            **bearer("alice"),
        )
        assert placed.status == 201
