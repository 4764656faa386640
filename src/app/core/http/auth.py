"""Authentication and scopes. Every path needs a token, except those that are listed as public."""

from __future__ import annotations

import re
from collections.abc import Iterable

from starlette.requests import Request
from starlette.types import Scope

from app.core.auth.caller import AnonymousAuthenticator, Authenticator, Caller
from app.core.errors import NotAuthenticated


class Authentication:
    """Authenticates every request, before any other code reads it."""

    def __init__(self, authenticator: Authenticator, public: Iterable[str]) -> None:
        self.is_required = not isinstance(authenticator, AnonymousAuthenticator)
        self._authenticator = authenticator
        patterns = [re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path)) for path in public]
        self._is_public = re.compile("|".join(patterns)).fullmatch

    def is_public(self, path: str) -> bool:
        """Whether the path needs no token."""
        return self._is_public(path) is not None

    async def authenticate(self, scope: Scope, path: str) -> None:
        """Put the caller into the scope, and count the request for that caller. Raises `NotAuthenticated`."""
        if self._is_public(path):
            return
        exchange = scope["app.exchange"]  # of `middleware`, which joins repeated headers
        authorization: bytes = exchange.headers.get(b"authorization", b"")
        scope["app.caller"] = caller = await self._authenticator.caller(
            authorization.decode("latin-1") or None
        )
        if caller.subject is not None:
            exchange.set_subject(caller.subject)


class RequireScope:
    """A dependency that returns the caller, and requires this scope of it.

        CanRead = Annotated[Caller, Depends(RequireScope("orders:read"))]

    The scope is checked before the body is read, whether a route, a router or a parameter declares it.
    """

    def __init__(self, scope: str) -> None:
        self.scope = scope

    async def __call__(self, request: Request) -> Caller:
        """Return the caller. Raises `NotPermitted`; `NotAuthenticated` on a public path."""
        return self.caller_in(request.scope)

    def caller_in(self, scope: Scope) -> Caller:
        """Return the caller in this ASGI scope. Raises as a call does."""
        caller: Caller | None = scope.get("app.caller")
        if caller is None:  # the path is public
            raise NotAuthenticated
        caller.require_scope(self.scope)
        return caller
