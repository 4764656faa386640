"""Who is calling, and what may they do. Knows no FastAPI: the front asks before it is imported."""

from __future__ import annotations

from typing import Protocol

from starlette.requests import HTTPConnection

from app.core.errors import NotPermitted
from app.orders.models import ANYONE, Caller

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


async def caller_of(request: HTTPConnection, authenticator: Authenticator) -> Caller:
    """Return who sends the request, and count it for that caller. Raises `NotAuthenticated`."""
    exchange = request.scope["app.exchange"]  # of api.middleware, which joins headers that were repeated
    authorization: bytes = exchange.headers.get(b"authorization", b"")
    caller = await authenticator.caller(authorization.decode("latin-1") or None)
    if caller.subject is not None:
        exchange.belongs_to(caller.subject)
    return caller


def require(caller: Caller, scope: str) -> None:
    """Return if the caller has `scope` (`orders:admin` includes them all). Raises `NotPermitted`."""
    if caller is not ANYONE and not caller.scopes & {scope, ADMIN}:
        raise NotPermitted(scope)
