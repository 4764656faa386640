"""The ports in memory: first-class implementations for the unit suite, held to the same contract."""

from __future__ import annotations

from datetime import date, datetime

from app.orders.models import AttachmentType, Order, OrderStatus, now
from app.orders.ports import Attachment, Event, OrderPage, OrderQuery, Placed, StatusChange, Upload


class MemoryOrderStore:
    """An `OrderStore` in a dictionary, for one event loop."""

    def __init__(self) -> None:
        self._orders: dict[str, tuple[Order, str]] = {}
        self._attachments: dict[str, set[str]] = {}
        self._uploads: dict[tuple[str | None, date], int] = {}

    async def place(self, order: Order, fingerprint: str) -> Placed:
        """Store the order unless its id is taken."""
        stored, first = self._orders.setdefault(order.id, (order, fingerprint))
        return Placed(stored, created=stored is order, fingerprint=first)

    async def get(self, order_id: str) -> Order | None:
        """Return the order, or None."""
        entry = self._orders.get(order_id)
        return entry[0] if entry else None

    async def change_status(
        self,
        order_id: str,
        target: OrderStatus,
        *,
        sources: frozenset[OrderStatus],
        at: datetime,
        owner: str | None = None,
        version: int | None = None,
    ) -> StatusChange:
        """Set the status if everything matches."""
        entry = self._orders.get(order_id)
        if entry is None:
            return StatusChange(None, changed=False)
        order, fingerprint = entry
        if (
            order.status not in sources
            or (owner is not None and order.owner != owner)
            or (version is not None and order.version != version)
        ):
            return StatusChange(order, changed=False)
        changed = order._replace(status=target, version=order.version + 1, updated_at=at)
        self._orders[order_id] = (changed, fingerprint)
        return StatusChange(changed, changed=True)

    async def page(self, query: OrderQuery) -> OrderPage:
        """Return one page of the sorted whole."""
        matching = sorted(
            (
                order
                for order, _ in self._orders.values()
                if (query.owner is None or order.owner == query.owner)
                and (query.customer is None or order.customer == query.customer)
                and (query.status is None or order.status == query.status)
                and (query.before is None or order.position < query.before)
            ),
            key=lambda order: order.position,
            reverse=True,
        )
        page = matching[: query.limit]
        return OrderPage(page, page[-1].position if len(matching) > len(page) else None)

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

    async def ping(self) -> None:
        """Memory always answers."""


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
        return Upload("https://documents.invalid/", fields, max_bytes, 300)

    async def attachments(self, order_id: str) -> list[Attachment]:
        """Return what a test put into `uploads`."""
        return [
            Attachment(name, len(body), now(), f"https://documents.invalid/{order_id}/{name}")
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


class MemoryEventPublisher:
    """An `EventPublisher` that keeps what it is given."""

    def __init__(self) -> None:
        self.published: list[Event] = []

    def publish(self, events: list[Event]) -> list[Event]:
        """Keep the events; none is refused."""
        self.published.extend(events)
        return []


class FixedCursorKey:
    """A `CursorKey` known to the test."""

    def __init__(self, key: bytes = b"k" * 32) -> None:
        self._key = key

    async def cursor_key(self) -> bytes:
        """Return the key."""
        return self._key
