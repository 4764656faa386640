"""The whole API as a FastAPI application: what documents it, and explains what is wrong with a request.

Imported when first needed (see `front`): nothing that a good request passes through may import it.
"""

from __future__ import annotations

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import State
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app import __version__
from app.core.errors import OrderError
from app.core.http import docs, errors
from app.core.http.auth import Token
from app.core.http.callers import OpenToAll
from app.core.http.responses import json_response
from app.core.settings import Settings
from app.orders import endpoints
from app.orders.routes import problems, router
from app.orders.schemas import About, Health


def build(state: State, settings: Settings) -> FastAPI:
    """Build it over the state of the application."""
    guarded = not isinstance(state.authenticator, OpenToAll)
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
    app.state = state
    app.add_exception_handler(OrderError, errors.order_error)
    app.add_exception_handler(RequestValidationError, errors.invalid_request)
    app.add_exception_handler(HTTPException, errors.http_error)
    # What nobody expected is answered by the boundary: Starlette passes it on after this.
    app.add_exception_handler(Exception, _nothing)
    docs.install(app)
    app.include_router(router, dependencies=[Depends(Token())] if guarded else [])

    @app.get("/", response_model=About, tags=["service"], summary="What answers here")
    async def about(request: Request) -> Response:
        """Say what answers here."""
        base = request.scope.get("root_path", "")
        return json_response(
            {
                "name": app.title,
                "version": app.version,
                "runtime": settings.runtime,
                "authentication": "jwt" if guarded else "none",
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
        return await endpoints.health()

    @app.get(
        "/health/ready",
        response_model=Health,
        responses={503: problems()[503]},
        tags=["service"],
        summary="Can it serve?",
    )
    async def ready() -> Response:
        """Ask the dependencies, briefly; say no while the server drains."""
        return await endpoints.ready(state.service, state)

    state.routes = [*app.routes, *router.routes]
    return app


async def _nothing(_request: Request, _error: Exception) -> Response:
    return Nothing()


class Nothing(Response):
    """Answers nothing at all."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send nothing."""
