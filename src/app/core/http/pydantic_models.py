"""pydantic models of the declared structs: FastAPI validates requests by them, and documents responses.

Imported with FastAPI only. All validation errors are pydantic's: the fast path never explains one.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import msgspec
from msgspec import Meta
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    create_model,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from app.core.models import FieldError, defaults, public_fields, type_hints

# Names that `Meta` and `Field` share.
_BOUNDS = ("ge", "gt", "le", "lt", "multiple_of", "min_length", "max_length", "pattern")
_CONSTRAINTS = (*_BOUNDS, "title", "description", "examples")
_MAX_UNKNOWN_NAMES = 5


def request_type(hint: Any) -> Any:
    """Return the type by which FastAPI reads a parameter: a struct is the body."""
    if _has_struct(hint):
        return Annotated[_type(hint, strict=True), AfterValidator(_plain)]
    return _type(hint, strict=False)


def response_type(hint: Any) -> Any:
    """Return the type by which FastAPI documents and sends what an endpoint returns."""
    return _type(hint, strict=False)


def _has_struct(hint: Any) -> bool:
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return True
    return any(map(_has_struct, get_args(hint)))


@functools.cache
def request_model(struct: type[Any]) -> type[BaseModel]:
    """Return the model of a request body: unknown fields are rejected, and nothing is silently converted."""

    class Request(BaseModel):
        model_config = ConfigDict(
            extra="forbid", strict=True, json_schema_extra=getattr(struct, "json_schema_extra", None)
        )
        _struct: Any = PrivateAttr(None)

        def to_struct(self) -> Any:
            return self._struct

        @model_validator(mode="before")
        @classmethod
        def has_few_names(cls, body: Any) -> Any:
            """Reject many unknown names at once: to explain each costs more than to serve a valid request."""
            if isinstance(body, dict) and len(body) > len(cls.model_fields) + _MAX_UNKNOWN_NAMES:
                raise PydanticCustomError("too_many_names", "Most of these fields are unknown")
            return body

        @model_validator(mode="after")
        def is_a_struct(self) -> Request:
            try:
                self._struct = struct(
                    **{name: _plain(getattr(self, name)) for name in struct.__struct_fields__}
                )
            except FieldError as error:
                found = PydanticCustomError("value_error", "{message}", {"message": str(error)})
                details = InitErrorDetails(type=found, loc=(error.field,), input=getattr(self, error.field))
                raise ValidationError.from_exception_data(struct.__name__, [details]) from error
            return self

    return _model(struct, struct.__struct_fields__, defaults(struct), strict=True, __base__=Request)


@functools.cache
def query_type(struct: type[Any]) -> Any:
    """Return the type by which FastAPI reads query parameters, one for each field of the struct."""
    model = _model(struct, struct.__struct_fields__, defaults(struct), strict=False)
    return Annotated[model, AfterValidator(lambda found: struct(**dict(found)))]


@functools.cache
def response_model(struct: type[Any]) -> type[BaseModel]:
    """Return the model of a response: the public fields of the struct, all of them present."""
    omitted = defaults(struct) if struct.__struct_config__.omit_defaults else {}
    return _model(struct, public_fields(struct), omitted, strict=False)


def _model(
    struct: type[Any], names: Iterable[str], known: Mapping[str, Any], *, strict: bool, **options: Any
) -> type[BaseModel]:
    """Return a model with these fields of the struct; those without a known default are required."""
    hints = type_hints(struct)
    fields: Any = {name: (_type(hints[name], strict=strict), known.get(name, ...)) for name in names}
    made: type[BaseModel] = create_model(
        struct.__name__, __doc__=struct.__doc__, __module__=struct.__module__, **options, **fields
    )
    return made


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [*map(_plain, value)]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value.to_struct() if isinstance(value, BaseModel) else value  # type: ignore[attr-defined]  # by `request_model`


def _type(hint: Any, *, strict: bool) -> Any:
    """Return the type hint as pydantic writes it."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        inner, *notes = arguments
        found = [annotation for note in notes for annotation in _annotations(note)]
        if inner is int and strict:  # after its bounds, or the OpenAPI document would lack them
            return Annotated[(int, *found, _WHOLE)]
        inner = _type(inner, strict=strict)
        return Annotated[(inner, *found)] if found else inner
    if origin is not None:
        arguments = tuple(_type(argument, strict=strict) for argument in arguments)
        return Union[arguments] if origin in (Union, UnionType) else origin[arguments]  # noqa: UP007
    if not isinstance(hint, type):
        return hint
    if issubclass(hint, msgspec.Struct):
        return request_model(hint) if strict else response_model(hint)
    if hint is int and strict:
        return Annotated[int, _WHOLE]
    if strict and issubclass(hint, Enum):  # JSON has strings instead
        return Annotated[hint, Field(strict=False)]
    return hint


def _annotations(note: Any) -> Iterator[Any]:
    """Return pydantic's annotations for one of ours."""
    if not isinstance(note, Meta):
        yield note
        return
    values = {name: value for name in _CONSTRAINTS if (value := getattr(note, name)) is not None}
    if values:
        yield Field(**values)
    if (note.extra or {}).get("strip"):
        yield AfterValidator(str.strip)


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


# A number without a fraction, as JSON Schema means it: 5.0 is one.
# https://json-schema.org/draft/2020-12/json-schema-core#section-4.2.3
_WHOLE = BeforeValidator(_whole)
