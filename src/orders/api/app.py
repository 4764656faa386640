"""The application object: the same in both runtimes."""

from __future__ import annotations

import asyncio

from fastapi import Depends, FastAPI, Request
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from orders import __version__
from orders.api import docs, errors
from orders.api.auth import Authenticator, OpenToAll, Token
from orders.api.middleware import RequestBoundary
from orders.api.responses import json_response
from orders.api.routes import problems, router
from orders.api.schemas import About, Health
from orders.errors import DependencyUnavailable, Overloaded
from orders.service import OrderService
from orders.settings import Settings
from orders.telemetry import Telemetry

# Shorter than the 5 s after which a load balancer's health check gives up.
_READY_TIMEOUT_SECONDS = 2.0


def create_app(
    service: OrderService, settings: Settings, authenticator: Authenticator | None = None
) -> FastAPI:
    """Build the application over the use cases. Without an authenticator it is open to anyone."""
    app = FastAPI(
        title="Orders",
        version=__version__,
        description="Places orders and follows them to the customer.",
        # A redirect for a missing slash would leave by http behind a proxy that ends TLS.
        redirect_slashes=False,
        # FastAPI's own pages load from third-party hosts; `docs` does not.
        docs_url=None,
        redoc_url=None,
    )
    app.state.service = service
    app.state.authenticator = authenticator or OpenToAll()
    app.state.draining = False  # the server sets it when it is about to stop
    errors.install(app)
    docs.install(app)
    app.include_router(router, dependencies=[Depends(Token())] if authenticator else [])

    @app.get("/", response_model=About, tags=["service"], summary="What answers here")
    async def about(request: Request) -> Response:
        """Say what answers here."""
        base = request.scope.get("root_path", "")
        return json_response(
            {
                "name": app.title,
                "version": app.version,
                "runtime": settings.runtime,
                "authentication": "none" if authenticator is None else "jwt",
                "links": {
                    "orders": f"{base}/orders",
                    "docs": f"{base}/docs",
                    "openapi": f"{base}/openapi.json",
                    "health": f"{base}/health",
                },
            }
        )

    @app.get("/health", response_model=Health, tags=["service"], summary="Is the process alive?")
    async def health() -> Response:
        """Answer without touching anything."""
        return json_response({"status": "ok"}, headers={"cache-control": "no-store"})

    @app.get(
        "/health/ready",
        response_model=Health,
        responses={503: problems()[503]},
        tags=["service"],
        summary="Can it serve?",
    )
    async def ready() -> Response:
        """Ask the dependencies, briefly; say no while the server drains."""
        if app.state.draining:
            raise Overloaded
        try:
            async with asyncio.timeout(_READY_TIMEOUT_SECONDS):
                await service.check_dependencies()
        except TimeoutError as late:
            raise DependencyUnavailable("database") from late
        return json_response({"status": "ready"}, headers={"cache-control": "no-store"})

    app.add_middleware(
        RequestBoundary,
        root_path=settings.root_path,
        telemetry=Telemetry(settings),
        origin_secrets=settings.origin_secrets,
    )
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "PUT"],
            allow_headers=[
                "authorization",
                "content-type",
                "idempotency-key",
                "if-match",
                "if-none-match",
                "traceparent",
                "x-correlation-id",
            ],
            expose_headers=[
                "etag",
                "location",
                "idempotent-replayed",
                "retry-after",
                "x-correlation-id",
                "x-request-id",
            ],
            max_age=600,
        )
    return app
