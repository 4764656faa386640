"""Orders, their states and who may see them. Pure standard library, no I/O."""

from __future__ import annotations

import hashlib
import os
import re
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple


class OrderStatus(StrEnum):
    """The states of an order; `TRANSITIONS` says which may follow which."""

    PENDING = "pending"
    PROCESSING = "processing"
    SHIPPED = "shipped"
    DELIVERED = "delivered"
    CANCELLED = "cancelled"


class AttachmentType(StrEnum):
    """What may be attached to an order: nothing that a browser would run."""

    PDF = "application/pdf"
    PNG = "image/png"
    JPEG = "image/jpeg"
    TEXT = "text/plain"
    CSV = "text/csv"


# The name decides what opens a file once it is saved, so its ending goes with its type.
FILE_ENDINGS: dict[AttachmentType, tuple[str, ...]] = {
    AttachmentType.PDF: ("pdf",),
    AttachmentType.PNG: ("png",),
    AttachmentType.JPEG: ("jpg", "jpeg"),
    AttachmentType.TEXT: ("txt",),
    AttachmentType.CSV: ("csv",),
}
MAX_FILE_NAME = 100
# Names that Windows keeps for devices, whatever follows a dot.
# https://learn.microsoft.com/windows/win32/fileio/naming-a-file#naming-conventions
_DEVICES = ("con", "prn", "aux", "nul", "com[0-9]", "lpt[0-9]")


def file_name_pattern(content_type: AttachmentType) -> str:
    """Return the pattern of an attachment's name, in the words that Python and JSON Schema share.

    It becomes the end of the document's key and the name under which it is saved, so: no slash, no quote, no
    "${filename}" (which S3 would fill in), no hidden file, nothing beyond ASCII (which may be drawn from
    right to left, or not at all), no device; and its last ending, which is what decides, is that of its type.
    """
    ending = "|".join(_in_any_case(each) for each in FILE_ENDINGS[content_type])
    device = "|".join(_in_any_case(each) for each in _DEVICES)
    return f"^(?!({device}) *[.])[A-Za-z0-9][A-Za-z0-9 ._-]*[.]({ending})$"


def _in_any_case(word: str) -> str:
    return re.sub("[a-z](?!-|])", lambda letter: f"[{letter[0]}{letter[0].upper()}]", word)


TRANSITIONS: dict[OrderStatus, frozenset[OrderStatus]] = {
    OrderStatus.PENDING: frozenset({OrderStatus.PROCESSING, OrderStatus.SHIPPED, OrderStatus.CANCELLED}),
    OrderStatus.PROCESSING: frozenset({OrderStatus.SHIPPED, OrderStatus.CANCELLED}),
    OrderStatus.SHIPPED: frozenset({OrderStatus.DELIVERED}),
    OrderStatus.DELIVERED: frozenset(),
    OrderStatus.CANCELLED: frozenset(),
}


def sources_of(target: OrderStatus) -> frozenset[OrderStatus]:
    """Return the states from which `target` may be entered."""
    return frozenset(state for state, following in TRANSITIONS.items() if target in following)


class Order(NamedTuple):
    """One order. `version` starts at 1 and grows with every change (a restore skips some); times are UTC.

    A named tuple, because a frozen dataclass takes four times as long to make, and a list makes fifty.
    """

    id: str
    customer: str
    product: str
    quantity: int
    status: OrderStatus
    version: int
    created_at: datetime
    updated_at: datetime
    owner: str | None = None  # the caller's `sub`; None when the API runs without authentication

    @property
    def position(self) -> str:
        """The order's place in every list: newest first is this key, descending."""
        return f"{timestamp(self.created_at)}#{self.id}"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `subject` is None when the API runs without authentication."""

    subject: str | None = None
    scopes: frozenset[str] = frozenset()

    @property
    def sees_all(self) -> bool:
        """Whether lists and look-ups are not limited to the caller's own orders."""
        return self.subject is None or "orders:admin" in self.scopes

    def may_see(self, order: Order) -> bool:
        """Whether `order` exists as far as this caller is concerned."""
        return self.sees_all or order.owner == self.subject


ANYONE = Caller()


def now() -> datetime:
    """Return the present moment, UTC, cut to the microseconds that are stored."""
    return datetime.now(UTC)


def timestamp(moment: datetime) -> str:
    """Format a UTC moment with a fixed width, so that text order is time order."""
    return moment.isoformat(timespec="microseconds")[:26] + "Z"


def new_order_id() -> str:
    """Return a fresh UUIDv7 (RFC 9562, section 5.7): its first 48 bits are Unix milliseconds."""
    milliseconds = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10))
    value = (milliseconds & (1 << 48) - 1) << 80 | 0x7 << 76 | (random >> 68) << 64 | 0b10 << 62
    return str(uuid.UUID(int=value | random & (1 << 62) - 1))


_ORDER_ID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def is_order_id(text: str) -> bool:
    """Whether `text` is spelled as every order's id is."""
    return _ORDER_ID.fullmatch(text) is not None


def order_id_for(caller: Caller, idempotency_key: str) -> str:
    """Derive the order's id from the caller and the key: a UUIDv8 (RFC 9562, section 5.8).

    The same caller and key give the same id, so one conditional put finds the twin; another
    caller's equal key gives another id.
    """
    subject = caller.subject or ""
    digest = hashlib.sha256(f"{len(subject)}:{subject}:{idempotency_key}".encode()).digest()
    value = int.from_bytes(digest[:16])
    value = value & ~(0xF << 76) | 0x8 << 76
    return str(uuid.UUID(int=value & ~(0b11 << 62) | 0b10 << 62))
