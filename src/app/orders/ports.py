"""What the use cases need from outside. `adapters/` implements each; `tests/contract` holds them to it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Protocol

from app.orders.models import AttachmentType, Order, OrderStatus


@dataclass(frozen=True, slots=True)
class Placed:
    """The outcome of `OrderStore.place`: the order as stored, and whether this call stored it."""

    order: Order
    created: bool
    fingerprint: str  # of the body that the stored order was placed with


@dataclass(frozen=True, slots=True)
class StatusChange:
    """The outcome of `OrderStore.change_status`: the order as it now is (None: there is none)."""

    order: Order | None
    changed: bool


@dataclass(frozen=True, slots=True)
class OrderQuery:
    """One page of orders, newest first. `before` is the position to go on from, not included.

    With an owner, what the page costs depends on that owner's orders only, whatever the filters.
    """

    limit: int
    owner: str | None = None
    customer: str | None = None
    status: OrderStatus | None = None
    before: str | None = None


@dataclass(frozen=True, slots=True)
class OrderPage:
    """The orders of one page, and the position to go on from (None: this was the last page)."""

    orders: list[Order]
    next_before: str | None


class OrderStore(Protocol):
    """The orders. Raises `DependencyUnavailable` when the database does not answer."""

    async def place(self, order: Order, fingerprint: str) -> Placed:
        """Store `order` unless its id is taken; then return the one that is there. One call."""

    async def get(self, order_id: str) -> Order | None:
        """Return the order, or None. Reads its own writes. One call."""

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
        """Set `target` if the present status is in `sources`, and owner and version match if given.

        One call. Refused: `changed` is False and `order` is what is stored.
        """

    async def page(self, query: OrderQuery) -> OrderPage:
        """Return one page. It may be short, even empty, with more to follow, when filters match little."""

    async def add_attachment(self, order_id: str, name: str, limit: int) -> bool:
        """Add the name to those of the order's attachments, `limit` at most; return whether it is there."""

    async def reserve_upload(self, owner: str | None, day: date, size_bytes: int, limit_bytes: int) -> bool:
        """Count the bytes to what the owner uploads that day, unless they go beyond the limit."""

    async def ping(self) -> None:
        """Return if the database answers."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A presigned POST: send `fields` and then the file, as multipart/form-data, to `url`."""

    url: str
    fields: dict[str, str]
    max_bytes: int
    expires_in_seconds: int


@dataclass(frozen=True, slots=True)
class Attachment:
    """A stored attachment, with a link that lets its holder read it for a while."""

    name: str
    size_bytes: int
    uploaded_at: datetime
    url: str


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


@dataclass(frozen=True, slots=True)
class Event:
    """One entry for the bus. `detail` follows `docs/events/<detail_type>.json`."""

    detail_type: str
    detail: dict[str, Any]

    @property
    def id(self) -> str:
        """The same for every publication of the same fact."""
        return str(self.detail["event_id"])


class EventPublisher(Protocol):
    """The event bus."""

    def publish(self, events: list[Event]) -> list[Event]:
        """Publish; return those that the bus did not take, after retries."""


class CursorKey(Protocol):
    """Where the key that encrypts cursors comes from; the same for every task and function."""

    async def cursor_key(self) -> bytes:
        """Return the 32-byte key."""
