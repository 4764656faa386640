"""How FastAPI's routes ask who is calling."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.openapi.models import HTTPBearer
from fastapi.security.base import SecurityBase
from starlette.responses import Response

from orders.api.callers import caller_of, require
from orders.api.json_route import JsonRoute
from orders.domain import Caller


class AuthenticatedRoute(JsonRoute):
    """A route that asks who is calling first: FastAPI would read and check the body before."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap the route's own handler."""
        handle = super().get_route_handler()

        async def authenticate(request: Request) -> Response:
            request.state.caller = await caller_of(request, request.app.state.authenticator)
            return await handle(request)

        return authenticate


class Token(SecurityBase):
    """Says in the OpenAPI document that a token is asked for; `AuthenticatedRoute` does the asking."""

    scheme_name = "token"
    model = HTTPBearer(bearerFormat="JWT")

    async def __call__(self) -> None:
        """Do nothing."""


def caller_with(scope: str) -> Callable[[Request], Awaitable[Caller]]:
    """Return a dependency: the caller, refused without `scope`."""

    async def caller(request: Request) -> Caller:
        found: Caller = request.state.caller
        require(found, scope)
        return found

    return caller
