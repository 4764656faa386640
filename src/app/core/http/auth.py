"""How FastAPI's routes ask who is calling."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.openapi.models import HTTPBearer
from fastapi.security.base import SecurityBase
from starlette.responses import Response

from app.core.http.callers import caller_of, require
from app.core.http.json_route import JsonRoute
from app.orders.models import Caller


class AuthenticatedRoute(JsonRoute):
    """A route that asks who is calling, and for the scopes, first: FastAPI would read the body before."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap the route's own handler."""
        handle = super().get_route_handler()
        scopes = [*_scopes(self.dependant)]

        async def authenticate(request: Request) -> Response:
            request.state.caller = caller = await caller_of(request, request.app.state.authenticator)
            for scope in scopes:
                require(caller, scope)
            return await handle(request)

        return authenticate


class Token(SecurityBase):
    """Says in the OpenAPI document that a token is asked for; `AuthenticatedRoute` does the asking."""

    scheme_name = "token"
    model = HTTPBearer(bearerFormat="JWT")

    async def __call__(self) -> None:
        """Do nothing."""


class caller_with:  # noqa: N801  # read as a call: Depends(caller_with(READ))
    """A dependency: the caller, who is rejected without `scope`."""

    def __init__(self, scope: str) -> None:
        self.scope = scope

    async def __call__(self, request: Request) -> Caller:
        """Return the caller. A scope that `include_router` asks for is checked here only."""
        found: Caller = request.state.caller
        require(found, self.scope)
        return found


def _scopes(dependant: Dependant) -> Iterator[str]:
    for each in dependant.dependencies:
        if isinstance(each.call, caller_with):
            yield each.call.scope
        yield from _scopes(each)
