"""Who is calling, and what may they do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

from fastapi import Request
from fastapi.openapi.models import HTTPBearer
from fastapi.routing import APIRoute
from fastapi.security.base import SecurityBase
from starlette.responses import Response

from orders.domain import ANYONE, Caller
from orders.errors import NotPermitted

READ, WRITE, ADMIN = "orders:read", "orders:write", "orders:admin"


class Authenticator(Protocol):
    """Tells the caller from the Authorization header."""

    async def caller(self, authorization: str | None) -> Caller:
        """Return the caller. Raises `NotAuthenticated`."""


class OpenToAll:
    """No issuer is configured: everyone is the same anonymous caller, who may do everything."""

    async def caller(self, authorization: str | None) -> Caller:
        """Return the anonymous caller."""
        return ANYONE


class AuthenticatedRoute(APIRoute):
    """A route that asks who is calling first: FastAPI would read and check the body before."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap the route's own handler."""
        handle = super().get_route_handler()

        async def authenticate(request: Request) -> Response:
            authenticator: Authenticator = request.app.state.authenticator
            # The API Gateway joins repeated headers with a comma, uvicorn does not: refused either way.
            authorization = ",".join(request.headers.getlist("authorization")) or None
            request.state.caller = await authenticator.caller(authorization)
            return await handle(request)

        return authenticate


class Token(SecurityBase):
    """Says in the OpenAPI document that a token is asked for; `AuthenticatedRoute` does the asking."""

    scheme_name = "token"
    model = HTTPBearer(bearerFormat="JWT")

    async def __call__(self) -> None:
        """Do nothing."""


def caller_with(scope: str) -> Callable[[Request], Awaitable[Caller]]:
    """Return a dependency: the caller, refused without `scope` (`orders:admin` includes them all)."""

    async def caller(request: Request) -> Caller:
        found: Caller = request.state.caller
        if found is not ANYONE and not found.scopes & {scope, ADMIN}:
            raise NotPermitted(scope)
        return found

    return caller
