"""The page of the settings, from their declaration and from what the stack hands over."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

import msgspec
from scripts.permissions import BANNER, table
from scripts.templates import template
from scripts.whole_stack import text_of

from app.core.models import split, type_hints
from app.core.settings import Settings

_BOUNDS = {"ge": "from", "le": "to"}


def page() -> str:
    """Return docs/generated/settings.md."""
    given = template()["Resources"]["Settings"]["Properties"]["Values"]
    rows = []
    hints = type_hints(Settings)
    for field in msgspec.structs.fields(Settings):
        kind, notes, _ = split(hints[field.name])
        bounds = [
            f"{word} {found}" for name, word in _BOUNDS.items() if (found := _note(notes, name)) is not None
        ]
        what = " ".join([_type_name(kind), *bounds])
        default = (
            "required"
            if field.required
            else f"`{field.default!r}`"
            if field.default not in ("", ())
            else "none"
        )
        stack = f"`{text_of(given[field.name])}`" if field.name in given else ""
        rows.append([f"`{field.name}`", _note(notes, "description"), what, default, stack])
    return "\n\n".join(
        [
            "# Settings",
            BANNER,
            "Declared in `src/app/core/settings.py`.\n"
            "The stack hands over those of `Settings` in `template.yaml`, as one JSON in `APP_SETTINGS`; "
            "a variable `APP_` with the setting's name wins over it.\n"
            "To change another one for a stack, add its line there: "
            "a value that the application does not take fails the deployment.",
            table(["setting", "what", "type", "default", "in the stack"], rows) + "\n",
        ]
    )


def _note(notes: list[Any], name: str) -> Any:
    return next((found for note in notes if (found := getattr(note, name, None)) is not None), None)


def _type_name(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return ", ".join(get_args(kind))
    return "texts" if get_origin(kind) is tuple else {str: "text", int: "number", float: "number"}[kind]
