"""What can be done with orders, beside what can be done with any resource (`core.service`)."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from typing import Protocol

from app.core.auth.caller import Caller
from app.core.service import CursorKey, Service
from app.core.times import now
from app.core.wiring import Core
from app.orders.documents import S3DocumentStore
from app.orders.errors import (
    AttachmentTooLarge,
    IllegalTransition,
    ReceiptNotReady,
    TooManyAttachments,
    UploadQuotaExceeded,
)
from app.orders.models import (
    Attachment,
    AttachmentType,
    NewAttachment,
    Order,
    OrderStatus,
    Upload,
    allowed_from,
)
from app.orders.repository import DynamoOrderRepository, OrderRepository

MAX_ATTACHMENTS = 20  # of an order; one of the same name replaces, and is none more
# What a caller is offered in a day (UTC): as many bytes as this number of the largest attachments.
DAILY_UPLOADS = 100


class DocumentStore(Protocol):
    """Receipts and attachments. Raises `DependencyUnavailable` when the storage does not answer."""

    max_bytes: int  # of an attachment

    async def presign_upload(
        self, order_id: str, name: str, content_type: AttachmentType, max_bytes: int
    ) -> Upload:
        """Return a presigned POST for one attachment of the order, bound to its type and size."""

    async def attachments(self, order_id: str) -> list[Attachment]:
        """Return the order's attachments, by name."""

    async def put_receipt(self, order_id: str, html: bytes) -> bool:
        """Store the receipt unless there is one; return whether it was stored."""

    async def receipt_url(self, order_id: str) -> str | None:
        """Return a link to the receipt, or None when there is none yet."""


class OrderService(Service[Order]):
    """The use cases of orders, over the stores they are given."""

    _repository: OrderRepository

    def __init__(self, orders: OrderRepository, documents: DocumentStore, cursor_key: CursorKey) -> None:
        super().__init__("orders", orders, cursor_key, status=OrderStatus.PENDING)
        self._documents = documents

    async def change_status(
        self, caller: Caller, order_id: str, target: OrderStatus, version: int | None = None
    ) -> Order:
        """Move the order to `target`; asking for the present status changes nothing.

        Raises `NotFound`; `VersionConflict` when `version` is given and stale;
        `IllegalTransition` when the present status does not lead there.
        """
        order, changed = await self.update(
            caller, order_id, {"status": target}, allowed={"status": allowed_from(target)}, version=version
        )
        if not changed and order.status != target:
            raise IllegalTransition(order, target)
        return order

    async def offer_upload(self, caller: Caller, order_id: str, attachment: NewAttachment) -> Upload:
        """Return a presigned upload for an attachment, of its size at most if that is given.

        Raises `NotFound`, `AttachmentTooLarge`, `TooManyAttachments` or `UploadQuotaExceeded`.
        """
        await self.get(caller, order_id)
        largest = self._documents.max_bytes
        size = attachment.size_bytes or largest
        if size > largest:
            raise AttachmentTooLarge(largest)
        if not await self._repository.add_attachment(order_id, attachment.name, MAX_ATTACHMENTS):
            raise TooManyAttachments(MAX_ATTACHMENTS)
        moment = now()
        if not await self._repository.reserve_upload(
            caller.subject, moment.date(), size, DAILY_UPLOADS * largest
        ):
            tomorrow = datetime.combine(moment.date() + timedelta(days=1), time(), UTC)
            raise UploadQuotaExceeded(int((tomorrow - moment).total_seconds()) + 1)
        return await self._documents.presign_upload(order_id, attachment.name, attachment.content_type, size)

    async def list_attachments(self, caller: Caller, order_id: str) -> list[Attachment]:
        """Return the order's attachments. Raises `NotFound`."""
        await self.get(caller, order_id)
        return await self._documents.attachments(order_id)

    async def receipt_url(self, caller: Caller, order_id: str) -> str:
        """Return a link to the receipt. Raises `NotFound` or `ReceiptNotReady`."""
        await self.get(caller, order_id)
        url = await self._documents.receipt_url(order_id)
        if url is None:
            raise ReceiptNotReady(order_id)
        return url


def build(core: Core) -> OrderService:
    """Return the use cases over the table and the bucket."""
    settings = core.settings
    documents = S3DocumentStore(
        settings.bucket_name, settings.kms_key_arn, settings.attachment_max_bytes, core.credentials
    )
    return OrderService(DynamoOrderRepository(core.table), documents, core.cursor_key)
