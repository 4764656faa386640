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
from app.core.http.middleware import RequestMiddleware
from app.core.http.routing import LIFESPAN, APIRouter
from app.core.settings import Settings
from app.core.telemetry import Telemetry

if TYPE_CHECKING:
    from fastapi import FastAPI

# These paths need no token; every other path needs one, whether a route has it or not.
PUBLIC = ("/", "/docs", "/docs/{name}", "/health", "/health/ready", "/openapi.json")
# With one of these, every request goes through FastAPI.
_AROUND_EVERY_ROUTE = ("dependencies", "exception_handlers", "middleware")


class _State(State):
    """Starlette's `State`, with real attributes: its `__getattr__` takes a microsecond for each."""

    def __setattr__(self, key: str, value: Any) -> None:
        object.__setattr__(self, key, value)


class App:
    """From the outside in: the middleware of every request, the fast path, and FastAPI once it is needed.

    `routers` are those of `routing`, or FastAPI's own; `fastapi_options` are what FastAPI takes, such as
    `lifespan`, `dependencies`, `middleware` and `exception_handlers`. Without an authenticator, the API is
    open to anyone. CORS adds one layer around the middleware and one inside it (`cors`).
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
        cors = None
        if settings.cors_origins:
            from app.core.http.cors import Cors

            cors = Cors(settings.cors_origins)
            served = cors.preflights(served)
        served = RequestMiddleware(served, settings.root_path, Telemetry(settings), settings.origin_secrets)
        self._outermost = cors.readable(served) if cors else served

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan of the application."""
        scope["app"] = self
        if scope["type"] == "lifespan":
            await (self._fastapi_app if self.has_lifespan else _no_lifespan)(scope, receive, send)
            return
        if scope["type"] == "websocket" and self._authentication.is_required:
            await send({"type": "websocket.close", "code": 1008})  # no code validates its token
            return
        if scope.get("method") == "HEAD":
            scope, send = {**scope, "method": "GET", "asked_method": "HEAD"}, _without_content(send)
        await self._outermost(scope, receive, send)

    @property
    def has_lifespan(self) -> bool:
        """Whether start-up or shutdown of the process may have anything to run."""
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
        if self._built is None:  # half a second of CPU: a thread, so that other requests continue
            await asyncio.to_thread(lambda: self.fastapi)
        await self.fastapi(scope, receive, send)

    def _allows_fast_path(self) -> bool:
        """Whether FastAPI has no application-wide dependency, middleware, handler or override."""
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
    """Return what changes when something is added to an application after it was built."""
    return len(built.router.routes), len(built.user_middleware), built.exception_handlers


async def _no_lifespan(_scope: Scope, receive: Receive, send: Send) -> None:
    """Confirm start-up and shutdown. https://asgi.readthedocs.io/en/latest/specs/lifespan.html"""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def _without_content(send: Send) -> Send:
    """Send the response to a GET without its content, for HEAD.

    https://www.rfc-editor.org/rfc/rfc9110.html#section-9.3.2
    """

    async def send_head(message: Message) -> None:
        await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

    return send_head
