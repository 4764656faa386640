"""Orders and their states, and what may be attached to them."""

import re
from datetime import datetime
from enum import StrEnum
from typing import Annotated, ClassVar

from msgspec import Meta

from app.core.models import FieldError, Id, Model, Name, Owner, UtcTime, Version


class OrderStatus(StrEnum):
    """The states of an order; `TRANSITIONS` says which may follow which."""

    PENDING = "pending"
    PROCESSING = "processing"
    SHIPPED = "shipped"
    DELIVERED = "delivered"
    CANCELLED = "cancelled"


TRANSITIONS: dict[OrderStatus, frozenset[OrderStatus]] = {
    OrderStatus.PENDING: frozenset({OrderStatus.PROCESSING, OrderStatus.SHIPPED, OrderStatus.CANCELLED}),
    OrderStatus.PROCESSING: frozenset({OrderStatus.SHIPPED, OrderStatus.CANCELLED}),
    OrderStatus.SHIPPED: frozenset({OrderStatus.DELIVERED}),
    OrderStatus.DELIVERED: frozenset(),
    OrderStatus.CANCELLED: frozenset(),
}


def allowed_from(target: OrderStatus) -> frozenset[OrderStatus]:
    """Return the states from which `target` may be entered."""
    return frozenset(state for state, following in TRANSITIONS.items() if target in following)


class OrderCreate(Model, forbid_unknown_fields=True):
    """The order to place."""

    json_schema_extra: ClassVar = {"examples": [{"customer": "John Doe", "product": "Widget", "quantity": 5}]}

    customer: Name
    product: Name
    quantity: Annotated[int, Meta(ge=1, le=1_000_000)]


class Order(OrderCreate, forbid_unknown_fields=False):
    """An order. Times are UTC."""

    id: Id
    status: OrderStatus
    version: Version
    created_at: UtcTime
    updated_at: UtcTime
    owner: Owner = None


class OrderFilters(Model):
    """What a list of orders can be filtered by."""

    customer: Name | None = None
    status: OrderStatus | None = None


class OrderList(Model):
    """One page of orders, newest first; it may be short and still have a next one."""

    items: list[Order]
    next_cursor: str | None


class StatusUpdate(Model, forbid_unknown_fields=True):
    """The status to move the order to."""

    json_schema_extra: ClassVar = {"examples": [{"status": "shipped"}]}

    status: OrderStatus


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
# The most that the setting attachment_max_bytes may be.
MAX_UPLOAD_BYTES = 1_000_000_000
# Names that Windows keeps for devices, whatever follows a dot.
# https://learn.microsoft.com/windows/win32/fileio/naming-a-file#naming-conventions
_DEVICES = ("con", "prn", "aux", "nul", "com[0-9]", "lpt[0-9]")


def file_name_pattern(content_type: AttachmentType) -> str:
    """Return the pattern of an attachment's name, in the words that Python and JSON Schema share.

    It becomes the end of the document's key and the name under which it is saved, so: no slash, no quote, no
    "${filename}" (which S3 would fill in), no hidden file, nothing beyond ASCII (which may be drawn from
    right to left, or not at all), no device; and its last ending, which is what decides, is that of its type.
    """
    ending = "|".join(_in_any_case(ending) for ending in FILE_ENDINGS[content_type])
    device = "|".join(_in_any_case(device) for device in _DEVICES)
    return f"^(?!({device}) *[.])[A-Za-z0-9][A-Za-z0-9 ._-]*[.]({ending})$"


def _in_any_case(word: str) -> str:
    return re.sub("[a-z](?!-|])", lambda letter: f"[{letter[0]}{letter[0].upper()}]", word)


class NewAttachment(Model, forbid_unknown_fields=True):
    """The attachment to upload. Its name ends as its type does."""

    json_schema_extra: ClassVar = {
        "examples": [{"name": "invoice.pdf", "content_type": "application/pdf", "size_bytes": 54321}],
        "anyOf": [
            {
                "properties": {
                    "content_type": {"const": content_type},
                    "name": {"pattern": file_name_pattern(content_type)},
                }
            }
            for content_type in AttachmentType
        ],
    }

    content_type: AttachmentType
    name: Annotated[str, Meta(max_length=MAX_FILE_NAME)]
    size_bytes: Annotated[
        Annotated[int, Meta(ge=1, le=MAX_UPLOAD_BYTES)] | None,
        Meta(description="The size of the file: the upload takes no more, and counts no more"),
    ] = None

    def __post_init__(self) -> None:
        """Reject a name that is not one for the type."""
        if not re.fullmatch(file_name_pattern(self.content_type), self.name):
            endings = " or ".join(f".{ending}" for ending in FILE_ENDINGS[self.content_type])
            raise FieldError(
                "name",
                "A file name has letters, digits, spaces and . _ - in it, begins with a letter or digit, ends"
                f" in {endings} for {self.content_type}, and is no name of a device (CON, NUL, COM1, ...)",
            )


class Upload(Model):
    """How to upload: POST all of `fields`, and last the part `file`, to `url` as multipart/form-data."""

    url: str
    fields: dict[str, str]
    max_bytes: int
    expires_in_seconds: int


class Attachment(Model):
    """An attachment; `url` downloads it and is valid for some minutes."""

    name: str
    size_bytes: int
    uploaded_at: datetime
    url: str


class AttachmentList(Model):
    """The order's attachments by name, a thousand at most."""

    items: list[Attachment]
