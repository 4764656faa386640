"""What can go wrong with orders, beside what can go wrong with any resource (`core.errors`)."""

from __future__ import annotations

from app.core.errors import AppError
from app.orders.models import Order, OrderStatus


class IllegalTransition(AppError):
    """The present status does not allow the requested one."""

    status = 409

    def __init__(self, current: Order, target: OrderStatus) -> None:
        super().__init__(f"The status cannot change from {current.status} to {target}.")
        self.current = current


class ReceiptNotReady(AppError):
    """The order's receipt has not been written yet."""

    status = 404

    def __init__(self, order_id: str) -> None:
        super().__init__(f"Order {order_id} has no receipt yet.")


class AttachmentTooLarge(AppError):
    """The attachment is larger than any may be."""

    status = 422

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"The attachment is larger than {max_bytes} bytes.")


class TooManyAttachments(AppError):
    """The order has as many attachments as it may have. One of them can still be replaced."""

    status = 409

    def __init__(self, limit: int) -> None:
        super().__init__(f"An order can have {limit} attachments. One with the name of another replaces it.")


class UploadQuotaExceeded(AppError):
    """The caller was offered as many bytes of uploads as a day allows."""

    status = 429

    def __init__(self, retry_after_seconds: int) -> None:
        detail = "The daily upload quota is used up. It resets at midnight UTC."
        super().__init__(detail, retry_after=str(retry_after_seconds))
