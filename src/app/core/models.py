"""What a resource is declared with: a struct of what a caller sends, and one, made from it, of what is kept.

    class OrderCreate(Model, forbid_unknown_fields=True):
        customer: Name
        priority: Priority = Priority.NORMAL

    class Order(OrderCreate, forbid_unknown_fields=False):
        id: Id
        status: OrderStatus
        version: Version
        created_at: UtcTime
        updated_at: UtcTime
        owner: Owner = None

Everything else follows from these: the validation of requests, responses, stored items, events, the OpenAPI
document. A field that is added to what is stored needs a default: older items do not have it.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import (
    Annotated,
    Any,
    ClassVar,
    Protocol,
    TypeVar,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec
from msgspec import Meta

# White space is what Python strips, spelled so that every dialect of regular expressions means the same.
NOT_WHITE_SPACE = (
    r"[^\u0009-\u000d\u001c-\u0020\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"
)
# Short enough for a partition key: an index key holds 2,048 bytes and a character up to 4.
# https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/ServiceQuotas.html#limits-partition-sort-keys
Name = Annotated[str, Meta(min_length=1, max_length=200, pattern=NOT_WHITE_SPACE, extra={"strip": True})]
Id = Annotated[
    str,
    Meta(pattern="^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", extra_json_schema={"format": "uuid"}),
]
Version = Annotated[int, Meta(ge=1)]
UtcTime = Annotated[datetime, Meta(tz=True)]
# Stored and published, never in a response.
PRIVATE = Meta(extra={"private": True})
# The caller's `sub`; None when the API runs without authentication.
Owner = Annotated[
    str | None, PRIVATE, Meta(description="The caller who created it; null when the API is open to anyone.")
]


class _ModelMeta(msgspec.StructMeta):
    """Makes the options of `Model` those of every struct made from it: msgspec's are of one class each."""

    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **options: Any) -> Any:
        return super().__new__(
            mcs, name, bases, namespace, **{"kw_only": True, "frozen": True, "gc": False, **options}
        )


@dataclass_transform(kw_only_default=True)
class Model(msgspec.Struct, metaclass=_ModelMeta):
    """The base of every declared struct."""

    # More of its JSON Schema, such as examples.
    json_schema_extra: ClassVar[dict[str, Any]] = {}


class FieldError(ValueError):
    """A field does not go with the others: raised by a struct's `__post_init__`."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class Entity(Protocol):
    """What every stored struct has. `version` starts at 1 and grows with a change; a restore skips some."""

    @property
    def id(self) -> str:
        """Its id, in the spelling of `ids`."""

    @property
    def version(self) -> int:
        """Counts its states."""

    @property
    def created_at(self) -> datetime:
        """When it was created, UTC."""

    @property
    def updated_at(self) -> datetime:
        """When it was changed last, UTC."""

    @property
    def owner(self) -> str | None:
        """The `sub` of the caller who created it."""


E = TypeVar("E", bound=Entity)


_F = TypeVar("_F", bound=Callable[..., Any])


def _cache(function: _F) -> _F:
    """`functools.cache`, for mypy does not see that types are hashable."""
    return functools.cache(function)  # type: ignore[return-value]


@_cache
def type_hints(declared: Any) -> dict[str, Any]:
    """Return the types of a struct's fields or a function's parameters, with what `Annotated` adds."""
    return get_type_hints(declared, include_extras=True)


def split(hint: Any) -> tuple[Any, list[Any], bool]:
    """Return the bare type of a hint, what `Annotated` says of it, and whether it may be None."""
    notes: list[Any] = []
    optional = False
    while True:
        if get_origin(hint) is Annotated:
            hint, *more = get_args(hint)
            notes += more
        elif type(None) in (choices := get_args(hint)) and len(choices) == 2:
            optional = True
            hint = next(choice for choice in choices if choice is not type(None))
        else:
            return hint, notes, optional


def has_note(hint: Any, name: str) -> bool:
    """Whether a `Meta` of the hint has this name in its `extra`."""
    return any(isinstance(note, Meta) and (note.extra or {}).get(name) for note in split(hint)[1])


@_cache
def defaults(struct: type[Any]) -> Mapping[str, Any]:
    """Return the defaults of the fields that have one."""
    return {field.name: field.default for field in msgspec.structs.fields(struct) if not field.required}


def fingerprint(body: Any) -> str:
    """Return the SHA-256 of what a caller sent, in hexadecimal.

    What is the default counts as not sent: a request is still the same after a field was added to its struct.
    """
    given = {name: getattr(body, name) for name in body.__struct_fields__}
    for name, default in defaults(type(body)).items():
        if given[name] == default:
            del given[name]
    return hashlib.sha256(msgspec.json.encode(given)).hexdigest()


def public_fields(entity: type[Any]) -> list[str]:
    """Return the names of the fields that callers may see, the id first."""
    hints = type_hints(entity)
    names = [name for name in entity.__struct_fields__ if not has_note(hints[name], "private")]
    return sorted(names, key=lambda name: name != "id")


@_cache
def public_view(entity: type[Any]) -> Callable[[Any], msgspec.Struct]:
    """Return the function that makes of an entity what callers see of it.

    It is made as source code, as dataclasses make theirs: a loop over the fields takes three times as long.
    """
    names = public_fields(entity)
    fields = [(name, type_hints(entity)[name]) for name in names]
    view = msgspec.defstruct(entity.__name__, fields, kw_only=True, gc=False)
    return compiled(f"lambda entity: view({', '.join(f'{name}=entity.{name}' for name in names)})", view=view)  # type: ignore[no-any-return]


def compiled(source: str, **names: Any) -> Any:
    """Evaluate source code that was made from names of fields of ours, and of nothing else."""
    return eval(source, names)  # noqa: S307
