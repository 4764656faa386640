"""The application object: the same in both runtimes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

from starlette.datastructures import State
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import __version__
from app.core.auth.caller import AnonymousAuthenticator, Authenticator
from app.core.http import service_routes
from app.core.http.auth import Authentication
from app.core.http.fast_path import FastPath
from app.core.http.middleware import RequestBoundary
from app.core.http.routing import LIFESPAN, APIRouter
from app.core.settings import Settings
from app.core.telemetry import Telemetry

if TYPE_CHECKING:
    from fastapi import FastAPI

    from app.core.http.cors import Cors

# What may be asked for without a token; every other path needs one, known or not.
PUBLIC = ("/", "/docs", "/docs/{name}", "/health", "/health/ready", "/openapi.json")
# With one of these, every request goes through FastAPI.
_AROUND_EVERY_ROUTE = ("dependencies", "exception_handlers", "middleware")


class _State(State):
    """Starlette's, but with attributes of its own: by `__getattr__`, each look at one takes a microsecond."""

    def __setattr__(self, key: str, value: Any) -> None:
        object.__setattr__(self, key, value)


class App:
    """From the outside in: the middleware of every request, the fast path, and FastAPI once it is needed.

    `routers` are those of `routing`, or FastAPI's own; `fastapi_options` are what FastAPI takes, such as
    `lifespan`, `dependencies`, `middleware` and `exception_handlers`. Without an authenticator it is open to
    anyone. For pages of other origins there is a layer around the middleware and one in it (`cors`).
    """

    def __init__(
        self,
        routers: Iterable[Any],
        settings: Settings,
        check_dependencies: Callable[[], Awaitable[None]],
        authenticator: Authenticator | None = None,
        *,
        title: str,
        public: Iterable[str] = PUBLIC,
        **fastapi_options: Any,
    ) -> None:
        self._routers = [*routers, service_routes.router]
        self._options = {"title": title, "version": __version__, **fastapi_options}
        self._authentication = Authentication(authenticator or AnonymousAuthenticator(), public)
        self._built: FastAPI | None = None
        self._as_built: tuple[Any, ...] = ()
        self._building = threading.Lock()
        self._overrides: dict[Callable[..., Any], Callable[..., Any]] = {}
        self._is_plain = not any(fastapi_options.get(name) for name in _AROUND_EVERY_ROUTE)
        self.state = _State()
        self.state.draining = False  # the server sets it when it is about to stop
        self.state.check_dependencies = check_dependencies
        resources = {router.prefix[1:]: router.prefix for router in self._routers if router.prefix}
        self.state.about = {
            "name": title,
            "version": __version__,
            "runtime": settings.runtime,
            "authentication": "jwt" if self._authentication.is_required else "none",
            "links": resources | {"docs": "/docs", "openapi": "/openapi.json", "health": "/health"},
        }
        served: ASGIApp = FastPath(
            self._fastapi_app, self._routers, self._authentication, self._allows_fast_path
        )
        cors = _cors(settings)
        if cors:
            served = cors.preflights(served)
        middleware = RequestBoundary(served, settings.root_path, Telemetry(settings), settings.origin_secrets)
        self._outermost: ASGIApp = cors.readable(middleware) if cors else middleware

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan of the application."""
        scope["app"] = self
        if scope["type"] == "lifespan":
            await (self._fastapi_app if self.has_lifespan else _no_lifespan)(scope, receive, send)
            return
        if scope["type"] == "websocket" and self._authentication.is_required:
            await send({"type": "websocket.close", "code": 1008})  # nobody reads its token
            return
        if scope.get("method") == "HEAD":
            scope, send = {**scope, "method": "GET", "asked_method": "HEAD"}, _without_content(send)
        await self._outermost(scope, receive, send)

    @property
    def has_lifespan(self) -> bool:
        """Whether there may be anything to do when the process starts and stops."""
        return (
            self._built is not None
            or any(self._options.get(name) for name in LIFESPAN)
            or any(not isinstance(router, APIRouter) or router.has_lifespan for router in self._routers)
        )

    @property
    def dependency_overrides(self) -> dict[Callable[..., Any], Callable[..., Any]]:
        """As FastAPI's: https://fastapi.tiangolo.com/advanced/testing-dependencies/."""
        return self._overrides if self._built is None else self._built.dependency_overrides

    @dependency_overrides.setter
    def dependency_overrides(self, overrides: dict[Callable[..., Any], Callable[..., Any]]) -> None:
        self._overrides = overrides
        if self._built is not None:
            self._built.dependency_overrides = overrides

    async def _fastapi_app(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._built is None:  # half a second of CPU: in a thread, so that other requests go on
            await asyncio.to_thread(lambda: self.fastapi)
        await self.fastapi(scope, receive, send)

    def _allows_fast_path(self) -> bool:
        """Whether nothing was declared around the routes, in the constructor or since."""
        built = self._built
        if built is None:
            return self._is_plain and not self._overrides
        return self._is_plain and not built.dependency_overrides and _around(built) == self._as_built

    @property
    def fastapi(self) -> FastAPI:
        """The whole API, as FastAPI serves and documents it; imported and built on first use."""
        with self._building:
            if self._built is None:
                from app.core.http.fastapi_app import build

                built = build(self._routers, self._authentication, self._overrides, {**self._options})
                built.state = self.state
                *counts, handlers = _around(built)
                self._as_built = (*counts, {**handlers})
                self._built = built
            return self._built

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document."""
        return self.fastapi.openapi()


def _around(built: FastAPI) -> tuple[int, int, dict[Any, Any]]:
    """Return what tells whether anything was added to an application since it was built."""
    return len(built.router.routes), len(built.user_middleware), built.exception_handlers


async def _no_lifespan(_scope: Scope, receive: Receive, send: Send) -> None:
    """Start and stop without anything to do. https://asgi.readthedocs.io/en/latest/specs/lifespan.html"""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


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
