"""Who is calling, and what may they do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from fastapi import Request

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


def caller_with(scope: str) -> Callable[[Request], Awaitable[Caller]]:
    """Return a dependency: the caller, refused without `scope` (`orders:admin` includes them all)."""

    async def caller(request: Request) -> Caller:
        authenticator: Authenticator = request.app.state.authenticator
        found = await authenticator.caller(request.headers.get("authorization"))
        if found is not ANYONE and not found.scopes & {scope, ADMIN}:
            raise NotPermitted(scope)
        return found

    return caller
