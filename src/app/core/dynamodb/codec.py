"""Between an entity and its DynamoDB item: one attribute for each field, under the field's name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from enum import Enum
from functools import cache
from typing import Any, Generic

import msgspec

from app.core.models import E, compiled, defaults, split, type_hints
from app.core.times import timestamp

Item = dict[str, dict[str, Any]]


class S(msgspec.Struct, gc=False, rename="upper"):
    """A text attribute."""

    s: str


class Codec(Generic[E]):
    """Writes and reads the items of one entity type.

    Both directions are generated from the fields, once: reading is half the cost of a list, and code for just
    these fields reads a page in half the time of a loop over them.
    `absent` has what fields without an attribute read as: their default, or None.
    Raises `TypeError` for a field of a type that it does not know (add such a type to `_attribute`), and for
    one that may be None and has another default.
    """

    def __init__(self, entity: type[E]) -> None:
        hints = type_hints(entity)
        self.absent = dict(defaults(entity))
        attributes: list[Any] = []
        arguments = []
        self._writers: dict[str, Callable[[Any], dict[str, Any]]] = {}
        for name in entity.__struct_fields__:  # type: ignore[attr-defined]  # an Entity is a Struct
            bare, _, is_optional = split(hints[name])
            if is_optional and self.absent.setdefault(name, None) is not None:
                raise TypeError(f"{name} may be None, so its default has to be None")
            attribute, self._writers[name], value = _attribute(name, bare)
            if name not in self.absent:
                attributes.append((name, attribute))
            else:  # it is None, or the item is older than the field
                attributes.append((name, attribute | None, None))
                value = f"{value} if item.{name} else absent[{name!r}]"
            arguments.append(f"{name}={value}")
        listed: Any = msgspec.defstruct("ListedItem", [*attributes, ("sort_key", S)], kw_only=True, gc=False)
        self.stored: Any = msgspec.defstruct(
            "StoredItem", [("fingerprint", S), ("write_id", S)], bases=(listed,), kw_only=True, gc=False
        )
        self.read: Callable[[Any], E] = compiled(
            f"lambda item: entity({', '.join(arguments)})", entity=entity, absent=self.absent
        )
        self.names = {f"#{name}": name for name in listed.__struct_fields__}
        self.projection = ", ".join(self.names)
        self.get_output = _output("GetItemOutput", ("item", self.stored | None, None))
        self.update_output = _output("UpdateItemOutput", ("attributes", self.stored))
        last_key = ("last_evaluated_key", Item | None, None)
        self.query_output = _output("QueryOutput", ("items", list[listed]), last_key)

    def write(self, values: Mapping[str, Any]) -> Item:
        """Return the attributes of these fields; a None is left out."""
        return {name: self._writers[name](value) for name, value in values.items() if value is not None}

    def from_item(self, item: Item) -> E:
        """Read a whole item, as the stream brings it. Raises `msgspec.ValidationError`."""
        return self.read(msgspec.convert(item, self.stored))


def _attribute(name: str, bare: Any) -> tuple[Any, Callable[[Any], dict[str, Any]], str]:
    """Return the struct of the attribute, what writes it, and the source code that reads it."""
    if bare is bool:
        return _struct("bool", bool), lambda value: {"BOOL": value}, f"item.{name}.bool"
    if bare is int:  # a whole number never passes through a float
        return _struct("n", str), lambda value: {"N": str(value)}, f"int(item.{name}.n)"
    if bare is datetime:
        return _struct("s", datetime), lambda value: {"S": timestamp(value)}, f"item.{name}.s"
    if bare is str or (isinstance(bare, type) and issubclass(bare, Enum) and issubclass(bare, str)):
        return _struct("s", bare), lambda value: {"S": str(value)}, f"item.{name}.s"
    raise TypeError(f"{name}: no attribute is known for {bare}")


@cache
def _struct(kind: str, value: Any) -> Any:
    return msgspec.defstruct("Attribute", [(kind, value)], rename="upper", gc=False)


def _output(name: str, *fields: Any) -> Any:
    """Return the type of an operation's response, named as the API reference names it."""
    return msgspec.defstruct(name, fields, rename="pascal")
