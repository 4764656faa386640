"""The stores of orders in memory: first-class implementations, held to the same contract."""

from __future__ import annotations

from datetime import date

from app.core.memory import MemoryRepository
from app.core.times import now
from app.orders.models import Attachment, AttachmentType, Order, Upload


class MemoryOrderRepository(MemoryRepository[Order]):
    """An `OrderRepository` in dictionaries, for one event loop."""

    def __init__(self) -> None:
        super().__init__(Order)
        self._attachments: dict[str, set[str]] = {}
        self._uploads: dict[tuple[str | None, date], int] = {}

    async def add_attachment(self, order_id: str, name: str, limit: int) -> bool:
        """Add the name if there is room."""
        names = self._attachments.setdefault(order_id, set())
        if len(names) < limit:
            names.add(name)
        return name in names

    async def reserve_upload(self, owner: str | None, day: date, size_bytes: int, limit_bytes: int) -> bool:
        """Count the bytes if there is room."""
        reserved = self._uploads.get((owner, day), 0) + size_bytes
        if reserved > limit_bytes:
            return False
        self._uploads[owner, day] = reserved
        return True


class MemoryDocumentStore:
    """A `DocumentStore` in a dictionary; its links lead nowhere."""

    def __init__(self, max_bytes: int = 10_000_000) -> None:
        self.max_bytes = max_bytes
        self.receipts: dict[str, bytes] = {}
        self.uploads: dict[str, dict[str, bytes]] = {}

    async def presign_upload(
        self, order_id: str, name: str, content_type: AttachmentType, max_bytes: int
    ) -> Upload:
        """Return an upload that nothing will accept."""
        fields = {"key": f"attachments/{order_id}/{name}", "Content-Type": content_type}
        return Upload(
            url="https://documents.invalid/", fields=fields, max_bytes=max_bytes, expires_in_seconds=300
        )

    async def attachments(self, order_id: str) -> list[Attachment]:
        """Return what a test put into `uploads`."""
        return [
            Attachment(
                name=name,
                size_bytes=len(body),
                uploaded_at=now(),
                url=f"https://documents.invalid/{order_id}/{name}",
            )
            for name, body in sorted(self.uploads.get(order_id, {}).items())
        ]

    async def put_receipt(self, order_id: str, html: bytes) -> bool:
        """Keep the first receipt."""
        if order_id in self.receipts:
            return False
        self.receipts[order_id] = html
        return True

    async def receipt_url(self, order_id: str) -> str | None:
        """Return a link when there is a receipt."""
        return f"https://documents.invalid/receipts/{order_id}.html" if order_id in self.receipts else None
