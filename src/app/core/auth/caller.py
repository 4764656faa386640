"""Who calls, and what the caller may do."""

from __future__ import annotations

from typing import Protocol

import msgspec

from app.core.errors import NotPermitted


class Caller(msgspec.Struct, frozen=True):
    """Who asks. `subject` is None when the API runs without authentication.

    A scope is `<resource>:<verb>`; `<resource>:admin` includes all of a resource's, and what others own.
    """

    subject: str | None = None
    scopes: frozenset[str] = frozenset()

    def is_admin(self, resource: str) -> bool:
        """Whether lists and look-ups are not limited to what the caller owns."""
        return self.subject is None or f"{resource}:admin" in self.scopes

    def require_scope(self, scope: str) -> None:
        """Return if the caller has `scope`. Raises `NotPermitted`."""
        if self is not ANONYMOUS and scope not in self.scopes:
            resource = scope.partition(":")[0]
            if f"{resource}:admin" not in self.scopes:
                raise NotPermitted(scope)


ANONYMOUS = Caller()


class Authenticator(Protocol):
    """Tells the caller from the Authorization header."""

    async def caller(self, authorization: str | None) -> Caller:
        """Return the caller. Raises `NotAuthenticated`."""


class AnonymousAuthenticator:
    """No issuer is configured: everyone is the same anonymous caller, who may do everything."""

    async def caller(self, authorization: str | None) -> Caller:
        """Return the anonymous caller."""
        return ANONYMOUS
