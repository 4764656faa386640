"""The application object: the same in both runtimes."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

from starlette.datastructures import State
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.http.callers import Authenticator, OpenToAll
from app.core.http.fast_path import Front
from app.core.http.middleware import RequestBoundary
from app.core.settings import Settings
from app.core.telemetry import Telemetry
from app.orders.service import OrderService

if TYPE_CHECKING:
    from fastapi import FastAPI

    from app.core.http.cors import Cors


def create_app(service: OrderService, settings: Settings, authenticator: Authenticator | None = None) -> App:
    """Build the application over the use cases. Without an authenticator it is open to anyone."""
    return App(service, settings, authenticator)


class _State(State):
    """Starlette's, but with attributes of its own: by `__getattr__`, each look at one takes a microsecond."""

    def __setattr__(self, key: str, value: Any) -> None:
        object.__setattr__(self, key, value)


class App:
    """From the outside in: the boundary of every request, the front, and FastAPI once it is needed.

    For pages of other origins there is a layer around the boundary and one in it (`cors`).
    """

    def __init__(
        self, service: OrderService, settings: Settings, authenticator: Authenticator | None
    ) -> None:
        self.state = _State()
        self.state.service = service
        self.state.authenticator = authenticator or OpenToAll()
        self.state.draining = False  # the server sets it when it is about to stop
        self._settings = settings
        self._built: FastAPI | None = None
        self._building = threading.Lock()
        served: ASGIApp = Front(self._behind, self.state)
        cors = _cors(settings)
        if cors:
            served = cors.preflights(served)
        boundary = RequestBoundary(served, settings.root_path, Telemetry(settings), settings.origin_secrets)
        self._outermost: ASGIApp = cors.readable(boundary) if cors else boundary

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        scope["app"] = self
        if scope.get("method") == "HEAD":
            scope, send = {**scope, "method": "GET", "asked_method": "HEAD"}, _without_content(send)
        await self._outermost(scope, receive, send)

    async def _behind(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._built is None:  # half a second of CPU: in a thread, so that other requests go on
            await asyncio.to_thread(lambda: self.fastapi)
        await self.fastapi(scope, receive, send)

    @property
    def fastapi(self) -> FastAPI:
        """The whole API, as FastAPI serves and documents it; imported and built on first use."""
        with self._building:
            if self._built is None:
                from app.core.http.fastapi_app import build

                self._built = build(self.state, self._settings)
            return self._built

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document."""
        return self.fastapi.openapi()


def _without_content(send: Send) -> Send:
    """Send what answers a GET, but for its content.

    https://www.rfc-editor.org/rfc/rfc9110.html#section-9.3.2
    """

    async def send_head(message: Message) -> None:
        await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

    return send_head


def _cors(settings: Settings) -> Cors | None:
    if not settings.cors_origins:
        return None
    from app.core.http.cors import Cors

    return Cors(settings.cors_origins)
