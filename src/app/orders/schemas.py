"""The request and response bodies. Requests are checked by these; responses are documented by them."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from app.orders.models import FILE_ENDINGS, MAX_FILE_NAME, AttachmentType, OrderStatus, file_name_pattern

# White space is what Python strips, spelled so that every dialect of regular expressions means the same.
NOT_WHITE_SPACE = (
    r"[^\u0009-\u000d\u001c-\u0020\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"
)
# Short enough for a partition key: an index key holds 2,048 bytes and a character up to 4.
# https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/ServiceQuotas.html#limits-partition-sort-keys
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=NOT_WHITE_SPACE), AfterValidator(str.strip)]


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


# A number without a fraction, as JSON Schema means it: 5.0 is one. Comes after the bounds of a field, or the
# document would lack them. https://json-schema.org/draft/2020-12/json-schema-core#section-4.2.3
WHOLE = BeforeValidator(_whole)

_FILE_NAMES = {each: re.compile(file_name_pattern(each)) for each in AttachmentType}
# The most that template.yaml lets AttachmentMaxBytes be.
MAX_UPLOAD_BYTES = 1_000_000_000

_MAX_UNKNOWN_NAMES = 5


class Body(BaseModel):
    """A request body: fields we do not know are refused, and nothing is silently converted."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _has_few_names(cls, body: Any) -> Any:
        """Reject many unknown names at once: to explain each costs more than to serve a good request."""
        if isinstance(body, dict) and len(body) > len(cls.model_fields) + _MAX_UNKNOWN_NAMES:
            raise PydanticCustomError("too_many_names", "Most of these fields are not known")
        return body


class PlaceOrder(Body):
    """The order to place."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"customer": "John Doe", "product": "Widget", "quantity": 5}]}
    )

    customer: Name
    product: Name
    quantity: Annotated[int, Field(ge=1, le=1_000_000), WHOLE]


class ChangeStatus(Body):
    """The status to move the order to."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "shipped"}]})

    # JSON has no enums, so strictness would refuse every string.
    status: Annotated[OrderStatus, Field(strict=False)]


class NewAttachment(Body):
    """The attachment to upload. Its name ends as its type does."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"name": "invoice.pdf", "content_type": "application/pdf", "size_bytes": 54321}],
            "anyOf": [
                {
                    "properties": {
                        "content_type": {"const": each},
                        "name": {"pattern": file_name_pattern(each)},
                    }
                }
                for each in AttachmentType
            ],
        }
    )

    content_type: Annotated[AttachmentType, Field(strict=False)]
    name: Annotated[str, StringConstraints(max_length=MAX_FILE_NAME)]
    size_bytes: Annotated[
        Annotated[int, Field(ge=1, le=MAX_UPLOAD_BYTES), WHOLE] | None,
        Field(description="The size of the file: the upload takes no more, and counts no more"),
    ] = None

    @field_validator("name")
    @classmethod
    def ends_as_its_type_does(cls, name: str, info: ValidationInfo) -> str:
        """Refuse a name that is not one for the type; of a type that is refused itself, any."""
        content_type = info.data.get("content_type")
        if content_type is not None and not _FILE_NAMES[content_type].fullmatch(name):
            endings = " or ".join(f".{each}" for each in FILE_ENDINGS[content_type])
            raise PydanticCustomError(
                "file_name",
                "A file name has letters, digits, spaces and . _ - in it, begins with a letter or digit, ends"
                " in {endings} for {content_type}, and is no name of a device (CON, NUL, COM1, ...)",
                {"endings": endings, "content_type": content_type.value},
            )
        return name


class OrderOut(BaseModel):
    """An order. Times are UTC."""

    id: str
    customer: str
    product: str
    quantity: int
    status: OrderStatus
    version: int
    created_at: datetime
    updated_at: datetime


class OrderList(BaseModel):
    """One page of orders, newest first; it may be short and still have a next one."""

    items: list[OrderOut]
    next_cursor: str | None


class UploadOut(BaseModel):
    """How to upload: POST all of `fields`, and last the part `file`, to `url` as multipart/form-data."""

    url: str
    fields: dict[str, str]
    max_bytes: int
    expires_in_seconds: int


class AttachmentOut(BaseModel):
    """An attachment; `url` downloads it and is valid for some minutes."""

    name: str
    size_bytes: int
    uploaded_at: datetime
    url: str


class AttachmentList(BaseModel):
    """The order's attachments by name, a thousand at most."""

    items: list[AttachmentOut]


class Links(BaseModel):
    """Where to go from here."""

    orders: str
    docs: str
    openapi: str
    health: str


class About(BaseModel):
    """What answers here."""

    name: str
    version: str
    runtime: str
    authentication: str
    links: Links


class Health(BaseModel):
    """How the service is."""

    status: str


class Problem(BaseModel):
    """A problem (RFC 9457). `current` is the order as it is, where that explains the refusal."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    current: OrderOut | None = None
    errors: list[dict[str, Any]] | None = None
