"""The error tree. Errors carry facts and know no HTTP; `core/http/errors.py` maps each to a status.

OrderError
├── OrderNotFound            the order does not exist for this caller
├── IllegalTransition        the present status does not allow the asked one
├── VersionConflict          the stored version is not one that the caller allows
├── IdempotencyKeyReused     the key was used before with another body
├── InvalidCursor            the cursor was not issued for this list and caller
├── ReceiptNotReady          the order has no receipt yet
├── AttachmentTooLarge       the attachment is larger than any may be
├── TooManyAttachments       the order has as many attachments as it may have
├── UploadQuotaExceeded      the caller was offered as many bytes of uploads as a day allows
├── NotAuthenticated         no valid token
├── NotPermitted             the token lacks the scope
├── Overloaded               this process has all it can serve, or is about to stop (retryable)
└── DependencyUnavailable    a service we need did not answer (retryable)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.orders.models import Order, OrderStatus


class OrderError(Exception):
    """Base of every error that a use case raises on purpose."""


class OrderNotFound(OrderError):
    """The order does not exist, or not for this caller."""

    def __init__(self, order_id: str) -> None:
        super().__init__(f"There is no order {order_id}.")
        self.order_id = order_id


class IllegalTransition(OrderError):
    """The present status does not allow the asked one."""

    def __init__(self, current: Order, target: OrderStatus) -> None:
        super().__init__(f"A {current.status} order cannot become {target}.")
        self.current = current
        self.target = target


class VersionConflict(OrderError):
    """The stored version is not one that the caller allows."""

    def __init__(self, current: Order) -> None:
        super().__init__(f"The order is at version {current.version}, which the request does not allow.")
        self.current = current


class IdempotencyKeyReused(OrderError):
    """The same idempotency key came with another body."""

    def __init__(self) -> None:
        super().__init__("This Idempotency-Key was used before with another body.")


class InvalidCursor(OrderError):
    """The cursor was tampered with, or issued for another list or caller."""

    def __init__(self) -> None:
        super().__init__("The cursor is not valid for this list.")


class ReceiptNotReady(OrderError):
    """The order's receipt has not been written yet."""

    def __init__(self, order_id: str) -> None:
        super().__init__(f"Order {order_id} has no receipt yet.")
        self.order_id = order_id


class AttachmentTooLarge(OrderError):
    """The attachment is larger than any may be."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"An attachment has {max_bytes} bytes at most.")
        self.max_bytes = max_bytes


class TooManyAttachments(OrderError):
    """The order has as many attachments as it may have. One of them can still be replaced."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"An order has {limit} attachments at most; one of the same name is replaced.")
        self.limit = limit


class UploadQuotaExceeded(OrderError):
    """The caller was offered as many bytes of uploads as a day allows."""

    def __init__(self, retry_after_seconds: int) -> None:
        super().__init__("You have been offered as many bytes of uploads as a day (UTC) allows.")
        self.retry_after_seconds = retry_after_seconds


class NotAuthenticated(OrderError):
    """The request carries no valid token. `reason` is None when it carries none at all."""

    def __init__(self, reason: str | None = None) -> None:
        super().__init__(reason or "A bearer token is required.")
        self.reason = reason


class NotPermitted(OrderError):
    """The caller's token lacks the scope that this operation needs."""

    def __init__(self, scope: str) -> None:
        super().__init__(f"This needs the scope {scope}.")
        self.scope = scope


class Overloaded(OrderError):
    """This process has as many requests as it can serve, or is about to stop. Another one may be free."""

    def __init__(self) -> None:
        super().__init__("This server has all the requests it can take; try again shortly.")


class DependencyUnavailable(OrderError):
    """A service that we need did not answer in time, or is overloaded. Trying again may help."""

    def __init__(self, dependency: str) -> None:
        super().__init__("A service that this needs is not available; try again shortly.")
        self.dependency = dependency
