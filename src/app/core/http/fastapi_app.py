"""The whole API as a FastAPI application. It documents the API and explains validation errors.

Imported when first needed: no module that serves a canonical request may import it (see `fast_path`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from app.core.errors import AppError
from app.core.http import docs, errors
from app.core.http.auth import Authentication
from app.core.http.routing import APIRouter, translate


def build(
    routers: Iterable[Any], authentication: Authentication, overrides: dict[Any, Any], options: dict[str, Any]
) -> FastAPI:
    """Build it. `options` are FastAPI's own."""
    handlers = {
        AppError: errors.app_error,
        RequestValidationError: errors.invalid_request,
        HTTPException: errors.http_error,
        # Starlette raises an unexpected error again after this; the middleware responds to it.
        Exception: _no_response,
        **(options.pop("exception_handlers", None) or {}),
    }
    app = _Documented(
        # Behind a proxy that terminates TLS, a redirect for a missing slash would lead to http.
        redirect_slashes=False,
        # FastAPI's own pages load from third-party hosts; `docs` does not.
        docs_url=None,
        redoc_url=None,
        exception_handlers=handlers,
        **translate(options),
    )
    app.authentication = authentication
    app.dependency_overrides = overrides
    docs.install(app)
    for router in routers:
        app.include_router(router.to_fastapi() if isinstance(router, APIRouter) else router)
    return app


class _Documented(FastAPI):
    """Adds security requirements to the OpenAPI document; `fast_path` authenticates requests."""

    authentication: Authentication

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document."""
        if self.openapi_schema is None and self.authentication.is_required:
            document = super().openapi()
            schemes = document.setdefault("components", {}).setdefault("securitySchemes", {})
            schemes["token"] = {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
            for path, operations in document["paths"].items():
                if not self.authentication.is_public(path):
                    for operation in operations.values():
                        operation.setdefault("security", [{"token": []}])
        return super().openapi()


async def _no_response(_request: Request, _error: Exception) -> ASGIApp:
    async def send_nothing(_scope: Scope, _receive: Receive, _send: Send) -> None: ...

    return send_nothing
