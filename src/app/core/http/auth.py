"""Who is calling, and may they? Every path asks for a token but those that are listed as public."""

from __future__ import annotations

import re
from collections.abc import Iterable

from starlette.requests import Request
from starlette.types import Scope

from app.core.auth.caller import AnonymousAuthenticator, Authenticator, Caller
from app.core.errors import NotAuthenticated


class Authentication:
    """Finds the caller of every request, before anything else looks at it."""

    def __init__(self, authenticator: Authenticator, public: Iterable[str]) -> None:
        self.is_required = not isinstance(authenticator, AnonymousAuthenticator)
        self._authenticator = authenticator
        patterns = [re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path)) for path in public]
        self._is_public = re.compile("|".join(patterns)).fullmatch

    def is_public(self, path: str) -> bool:
        """Whether anyone may ask for the path."""
        return self._is_public(path) is not None

    async def authenticate(self, scope: Scope, path: str) -> None:
        """Put the caller into the scope, and count the request for that caller. Raises `NotAuthenticated`."""
        if self._is_public(path):
            return
        exchange = scope["app.exchange"]  # of core.http.middleware, which joins headers that were repeated
        authorization: bytes = exchange.headers.get(b"authorization", b"")
        scope["app.caller"] = caller = await self._authenticator.caller(
            authorization.decode("latin-1") or None
        )
        if caller.subject is not None:
            exchange.belongs_to(caller.subject)


class RequireScope:
    """A dependency: the caller, who needs this scope.

        CanRead = Annotated[Caller, Depends(RequireScope("orders:read"))]

    It is checked before the body is read, wherever it was declared: on the route, a router, a parameter.
    """

    def __init__(self, scope: str) -> None:
        self.scope = scope

    async def __call__(self, request: Request) -> Caller:
        """Return the caller. Raises `NotPermitted`; `NotAuthenticated` on a public path."""
        return self.caller_in(request.scope)

    def caller_in(self, scope: Scope) -> Caller:
        """Return the caller of the request with this ASGI scope, as a call does."""
        caller: Caller | None = scope.get("app.caller")
        if caller is None:  # the path is public
            raise NotAuthenticated
        caller.require_scope(self.scope)
        return caller
