"""`make generate`: write what follows from the declarations in src/app and from the templates.

    docs/openapi.json                 from the routes
    docs/events/<detail type>.json    from the event structs of every resource
    docs/generated/architecture.md    from the templates
    docs/generated/permissions.md     from the templates, and the steps of tests/privileges
    docs/generated/settings.md        from app.core.settings, and from the template
    docs/generated/costs.md, .svg     from the model in costs/ and the templates
    bootstrap/terraform/policies.json.tftpl    from bootstrap/template.yaml

Consumers fetch the first two by their paths, so these stay where they are. Nobody needs to read the others
in a change, nor edit any: what they say stands in their sources.

Events only grow within a schema version. This fails before it writes a schema that takes back what the
committed one promises, or that has a new field without a default: older items do not have it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import msgspec
from costs import report
from costs.services import UnknownCost
from scripts import diagram, permissions, settings_page, terraform_policies
from tests.privileges import scenario

from app.core.events.event import Event
from app.core.events.stream import Source
from app.core.models import NOT_WHITE_SPACE, split, type_hints
from app.core.settings import Settings
from app.main import create_app
from app.resources import RESOURCES, load

ROOT = Path(__file__).parents[1]
EVENTS = ROOT / "docs" / "events"
OPENAPI = ROOT / "docs" / "openapi.json"
GENERATED = ROOT / "docs" / "generated"
TERRAFORM = ROOT / "bootstrap" / "terraform" / "policies.json.tftpl"

# Bounds of input. An event does not promise them, for they may grow.
_INPUT_ONLY = ("default", "maxLength", "maximum", "exclusiveMaximum", "maxItems")
_MOMENT = {
    "type": "string",
    "format": "date-time",
    "pattern": r"^(?!0000)[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-5][0-9]\.[0-9]{6}Z$",
    "description": "UTC, of fixed width: texts sort as times do.",
}
_MADE_AT = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
_TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
_ID = "0199a6f5-1c00-7000-8000-000000000001"

Schema = dict[str, Any]


class CannotGenerate(Exception):
    """Why not, in one line."""


def pages() -> dict[Path, str]:
    """Return every generated file and what belongs in it. Raises `CannotGenerate`."""
    costs, plot = report.pages()
    found = {
        OPENAPI: _text(openapi()),
        GENERATED / "architecture.md": diagram.page(),
        GENERATED / "permissions.md": permissions.page(scenario.step_names()),
        GENERATED / "settings.md": settings_page.page(),
        GENERATED / "costs.md": costs,
        GENERATED / "costs.svg": plot,
        TERRAFORM: terraform_policies.page(),
    }
    for event, source in events():
        found[EVENTS / f"{event.__name__}.json"] = _text(event_schema(event, source))
    return found


def openapi() -> Schema:
    """Return the OpenAPI document of the API as it is with an issuer of tokens."""
    settings = Settings(
        "table", "bucket", "bus", "key", "key", auth_issuer="https://issuer", auth_audience="api"
    )
    services = {name: SimpleNamespace(check_dependencies=None) for name in RESOURCES}
    authenticator: Any = SimpleNamespace()
    document: Schema = create_app(services, settings, authenticator).openapi()
    return document


def events() -> Iterator[tuple[type[Event], Source]]:
    """Yield the events of every resource."""
    for module in load("events").values():
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Event) and value is not Event:
                yield value, module.source


def event_schema(event: type[Event], source: Source) -> Schema:
    """Return the JSON Schema of an event's detail. Every field is required, for the relay writes them all."""
    schema = _plain(msgspec.json.schema(event))
    definitions = schema["$defs"]
    body = definitions.pop(event.__name__)
    version: int = get_args(type_hints(event)["schema_version"])[0]
    properties = body["properties"]
    properties = {name: properties.pop(name) for name in Event.__struct_fields__} | properties
    properties["schema_version"] = {"const": version}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:orders:event:{event.__name__}:{version}",
        "title": event.__name__,
        "description": body["description"],
        "type": "object",
        "required": [*properties],
        "properties": properties,
        "$defs": {"Moment": _MOMENT} | dict(sorted(definitions.items())),
        "examples": [example(event, source).detail],
    }


def _plain(schema: Any) -> Any:
    """Return msgspec's schema as that of what is written."""
    if isinstance(schema, list):
        return [_plain(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("format") == "date-time":
        return {"$ref": "#/$defs/Moment"}
    plain = {name: _plain(value) for name, value in schema.items() if name not in _INPUT_ONLY}
    if plain.get("pattern") == NOT_WHITE_SPACE:
        del plain["pattern"]
    if plain.get("type") == "object" and "properties" in plain:
        plain["required"] = [*plain["properties"]]
    choices = plain.get("anyOf", [])
    if choices and all(choice.keys() == {"type"} for choice in choices):
        del plain["anyOf"]
        plain["type"] = [choice["type"] for choice in choices]
    return plain


def example(event: type[Event], source: Source) -> Event:
    """Return an event of an entity that is made of its struct's own example."""
    entity = source.entity
    hints = type_hints(entity)
    given: Schema = next(iter(entity.json_schema_extra.get("examples", [])), {})
    old = msgspec.convert({name: _example(hints[name]) for name in _needed(entity)} | given, entity)
    changes = [(None, old)]
    moved = {"version": 2, "updated_at": _MADE_AT + timedelta(hours=6)}
    for name, hint in hints.items():
        bare, _, _ = split(hint)
        if isinstance(bare, type) and issubclass(bare, Enum):
            others = [choice for choice in bare if choice != getattr(old, name)]
            changes += [(old, msgspec.structs.replace(old, **moved, **{name: choice})) for choice in others]
    for before, after in changes:
        made = source.changed(before, after)
        if type(made) is event:
            return made.about(after, _TRACE, "checkout-42")
    raise CannotGenerate(f"no change of the example of {entity.__name__} makes an {event.__name__}")


def _needed(struct: type[Any]) -> list[str]:
    return [field.name for field in msgspec.structs.fields(struct) if field.required]


def _example(hint: Any) -> Any:
    bare, notes, _ = split(hint)
    if isinstance(bare, type) and issubclass(bare, Enum):
        return next(iter(bare))
    if any((getattr(note, "extra_json_schema", None) or {}).get("format") == "uuid" for note in notes):
        return _ID
    return {str: "text", int: 1, bool: False, datetime: _MADE_AT}[bare]


def breaks(committed: Schema, generated: Schema, entities: dict[str, type[Any]]) -> list[str]:
    """Return what a schema takes back of the committed one, within its version."""
    if committed["$id"] != generated["$id"]:
        return []
    found = []
    before, after = _objects(committed), _objects(generated)
    for name, old in before.items():
        new = after.get(name, {"properties": {}, "required": []})
        for field, was in old["properties"].items():
            if field not in new["required"] and field in old["required"]:
                found.append(f"{name}.{field} is gone")
            elif _kind(was, committed) != _kind(new["properties"][field], generated):
                found.append(f"{name}.{field} is of another type")
        needed = _needed(entities[name]) if name in entities else []
        found += [
            f"{name}.{field} is new and has no default: items that are stored do not have it"
            for field in needed
            if field not in old["properties"]
        ]
    return found


def _objects(schema: Schema) -> dict[str, Schema]:
    found = {name: each for name, each in schema["$defs"].items() if "properties" in each}
    return {"detail": schema} | found


def _kind(field: Schema, schema: Schema) -> Any:
    """Return what sort of value a field has; an enum may have more values one day."""
    if "$ref" in field:
        field = schema["$defs"][field["$ref"].rpartition("/")[2]]
    if "enum" in field or "const" in field:
        return type(field.get("enum", [field.get("const")])[0])
    return field.get("type"), field.get("format")


def check_growth(written: dict[Path, str]) -> None:
    """Raise `CannotGenerate` when an event would take back what its committed schema promises."""
    for event, source in events():
        path = EVENTS / f"{event.__name__}.json"
        if not path.exists():
            continue
        structs = {source.entity.__name__: source.entity}
        if faults := breaks(json.loads(path.read_text()), json.loads(written[path]), structs):
            raise CannotGenerate(f"{path.relative_to(ROOT)}: {'; '.join(faults)}")
    for path in EVENTS.glob("*.json"):
        if path not in written:
            raise CannotGenerate(
                f"{path.relative_to(ROOT)} is of no event: delete it if nobody consumes that"
            )


def _text(document: Schema) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def main() -> int:
    """Write every page that is not as it should be."""
    try:
        written = pages()
        check_growth(written)
    except (CannotGenerate, UnknownCost) as fault:
        print(f"make generate: {fault}", file=sys.stderr)
        return 1
    stale = [path for path, text in written.items() if not path.exists() or path.read_text() != text]
    for path in stale:
        path.parent.mkdir(exist_ok=True)
        path.write_text(written[path])
        print(f"Wrote {path.relative_to(ROOT)}.")
    if not stale:
        print("All generated files are up to date.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
