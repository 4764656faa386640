"""Expected errors, each with the status of its response.

A resource adds its own in its `errors.py`. The class name becomes `title` and `type` of the problem
(RFC 9457), so it is part of the API.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar


class AppError(Exception):
    """The base class. `current`: the state that explains the error, sent to the caller."""

    status: ClassVar[int]
    current: Any = None
    headers: dict[str, str]

    def __init__(self, detail: str, **headers: str) -> None:
        super().__init__(detail)
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    @property
    def code(self) -> str:
        """The error's name for programs: its class name in lower case, with hyphens."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", type(self).__name__).lower()


class NotFound(AppError):
    """The entity does not exist, or belongs to another caller."""

    status = 404

    def __init__(self, kind: str, entity_id: str) -> None:
        super().__init__(f"There is no {kind} {entity_id}.")
        self.kind = kind

    @property
    def code(self) -> str:
        """Name what was not found."""
        return f"{self.kind}-not-found"


class VersionConflict(AppError):
    """The stored version does not match the one that the caller requires."""

    status = 412

    def __init__(self, current: Any) -> None:
        super().__init__(f"Version conflict: the current version is {current.version}.")
        self.current = current


class IdempotencyKeyReused(AppError):
    """The idempotency key was used before with another body."""

    status = 422

    def __init__(self) -> None:
        super().__init__("This Idempotency-Key was used before with another body.")


class InvalidCursor(AppError):
    """The cursor was tampered with, or issued for another list or caller."""

    status = 400

    def __init__(self) -> None:
        super().__init__("The cursor is not valid for this list.")


class NotAuthenticated(AppError):
    """The request carries no valid token. `reason` is None when it carries none at all."""

    status = 401

    def __init__(self, reason: str | None = None) -> None:
        # RFC 6750, section 3: no error code when no token was sent
        challenge = 'Bearer error="invalid_token"' if reason else "Bearer"
        super().__init__(reason or "A bearer token is required.", www_authenticate=challenge)
        self.reason = reason


class NotPermitted(AppError):
    """The caller's token lacks the scope that this operation needs."""

    status = 403

    def __init__(self, scope: str) -> None:
        challenge = f'Bearer error="insufficient_scope", scope="{scope}"'
        super().__init__(f"Missing scope: {scope}.", www_authenticate=challenge)
        self.scope = scope


# Seconds until a retry makes sense: longer than a throttled partition or a failed-over node needs.
_RETRY_AFTER = "2"


class Overloaded(AppError):
    """This process has as many requests as it can serve, or is about to stop. Another may have capacity."""

    status = 503

    def __init__(self) -> None:
        super().__init__("Server overloaded. Retry later.", retry_after=_RETRY_AFTER)


class DependencyUnavailable(AppError):
    """A service that we depend on did not respond in time, or is overloaded. A retry may help."""

    status = 503

    def __init__(self, dependency: str) -> None:
        super().__init__("A dependency is unavailable. Retry later.", retry_after=_RETRY_AFTER)
        self.dependency = dependency
