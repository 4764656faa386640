"""The smoke test passes on the application, and fails on every way in which it can be broken."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from scripts.cli import CliError
from scripts.smoke import Api, smoke
from tests.api.wire import serving

LOOPBACK = "http://127.0.0.1"
Faults = Callable[[str, str, int, bytes], tuple[int, bytes]]


class Faulty:
    """The application with its answers changed: `change(method, path, status, body)`."""

    def __init__(self, app: FastAPI, change: Faults) -> None:
        self._app, self._change = app, change

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, body = 500, b""

        async def collect(message: Any) -> None:
            nonlocal status, body
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                body += message.get("body", b"")

        await self._app(scope, receive, collect)
        path = scope["path"] + ("?" if scope["query_string"] else "")
        status, body = self._change(scope["method"], path, status, body)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _unchanged(_method: str, _path: str, status: int, body: bytes) -> tuple[int, bytes]:
    return status, body


def test_passes_on_the_application(app: FastAPI) -> None:
    said: list[str] = []
    with serving(Faulty(app, _unchanged)) as port:
        smoke(Api(f"{LOOPBACK}:{port}/"), access="open", ready_seconds=5, say=said.append)
    steps = ("ready", "version", "placed", "placed again", "read", "listed", "cancelled")
    assert len(said) == len(steps)
    assert all(step in line for step, line in zip(steps, said, strict=True))


def _changed(body: bytes, changes: dict[str, Any]) -> bytes:
    new = {name: value() if callable(value) else value for name, value in changes.items()}
    return json.dumps(json.loads(body) | new).encode()


# what is broken -> the request it shows in (a path ending in / or ? stands for all that begin so), the status
# it answers (None: as before), and its body or what changes in it
FAULTS: dict[str, tuple[str, str, int | None, bytes | dict[str, Any]]] = {
    "never ready": ("GET", "/health/ready", 503, b"{}"),
    "no version": ("GET", "/", 200, b"{}"),
    "orders rejected": ("POST", "/orders", 500, b"{}"),
    "asks for tokens": ("POST", "/orders", 401, b"{}"),
    "another order": ("POST", "/orders", None, {"quantity": 2}),
    "twins": ("POST", "/orders", None, {"id": time.monotonic_ns}),
    "lost": ("GET", "/orders/", 404, b"{}"),
    "read differs": ("GET", "/orders/", None, {"product": "other"}),
    "not listed": ("GET", "/orders?", 200, b'{"items": []}'),
    "list fails": ("GET", "/orders?", 502, b"<html>"),
    "cannot cancel": ("PUT", "/orders/", 409, b"{}"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fails_on(fault: str, app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    method, prefix, status, body = FAULTS[fault]
    monkeypatch.setattr("scripts.smoke.LIST_SECONDS", 0.2)

    def change(sent: str, path: str, real_status: int, real_body: bytes) -> tuple[int, bytes]:
        begins = prefix.endswith(("/", "?")) and prefix != "/"
        if sent != method or not (path.startswith(prefix) if begins else path == prefix):
            return real_status, real_body
        return status or real_status, body if isinstance(body, bytes) else _changed(real_body, body)

    with serving(Faulty(app, change)) as port, pytest.raises(CliError) as failed:
        smoke(Api(f"{LOOPBACK}:{port}"), access="open", ready_seconds=0.2, say=lambda _: None)
    assert "\n" not in str(failed.value)


def test_fails_where_nothing_answers() -> None:
    said: list[str] = []
    with pytest.raises(CliError, match="no answer"):
        smoke(Api("http://127.0.0.1:9"), ready_seconds=1, say=said.append)
    (waiting,) = said
    assert "waiting up to 1 s: GET /health/ready: no answer from http://127.0.0.1:9: " in waiting


def test_a_closed_api_must_be_closed_everywhere(app: FastAPI) -> None:
    def closed(method: str, path: str, status: int, body: bytes) -> tuple[int, bytes]:
        return (401, b"{}") if path.startswith("/orders") else (status, body)

    def half(method: str, path: str, status: int, body: bytes) -> tuple[int, bytes]:
        return (401, b"{}") if method == "POST" else (status, body)

    with serving(Faulty(app, closed)) as port:
        smoke(Api(f"{LOOPBACK}:{port}"), access="closed", ready_seconds=5, say=lambda _: None)
    with serving(Faulty(app, half)) as port, pytest.raises(CliError, match="list of orders is open"):
        smoke(Api(f"{LOOPBACK}:{port}"), access="closed", ready_seconds=5, say=lambda _: None)
    with serving(Faulty(app, _unchanged)) as port, pytest.raises(CliError, match="must be 401"):
        smoke(Api(f"{LOOPBACK}:{port}"), access="closed", ready_seconds=5, say=lambda _: None)
