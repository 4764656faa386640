"""What `make generate` writes is up to date, and events only grow."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
from scripts import generate
from scripts.permissions import BANNER

from app.core.events.event import Event
from app.core.events.stream import Source
from app.core.models import Id, Model, Owner, UtcTime, Version


def test_every_generated_file_is_up_to_date_and_events_have_only_grown() -> None:
    pages = generate.pages()
    generate.check_growth(pages)
    for path, text in pages.items():
        assert path.exists(), f"{path.name}: make generate"
        # A renamed clone has the same names in another alphabetical sequence.
        read = json.loads if path.suffix == ".json" else str
        assert read(path.read_text()) == read(text), f"{path.name}: make generate"
    assert set(generate.GENERATED.iterdir()) <= pages.keys(), "a page that nothing generates"
    assert all(BANNER in text for path, text in pages.items() if path.suffix == ".md")


class Parcel(Model):
    """A parcel."""

    json_schema_extra: ClassVar = {"examples": [{"label": "P"}]}

    label: str
    id: Id
    version: Version
    created_at: UtcTime
    updated_at: UtcTime
    owner: Owner = None


class ParcelSent(Event):
    """A parcel was sent."""

    parcel: Parcel


class _Larger(Parcel):
    """A parcel."""

    weight: int


_Larger.__name__ = "Parcel"


class _LargerSent(Event):
    """A parcel was sent."""

    parcel: _Larger


_LargerSent.__name__ = "ParcelSent"
PARCELS = Source("parcel", Parcel, lambda _old, new: ParcelSent(parcel=new))
LARGER = Source("parcel", _Larger, lambda _old, new: _LargerSent(parcel=new))


class TestGrowth:
    """Of an event within its version, against the committed schema."""

    committed = generate.event_schema(ParcelSent, PARCELS)

    def changed(self, change: Any) -> list[str]:
        schema = copy.deepcopy(self.committed)
        change(schema)
        return generate.breaks(self.committed, schema, {"Parcel": Parcel})

    def test_nothing_changed(self) -> None:
        assert self.changed(lambda _schema: None) == []

    def test_a_field_that_goes_is_rejected(self) -> None:
        def drop(schema: dict[str, Any]) -> None:
            parcel = schema["$defs"]["Parcel"]
            del parcel["properties"]["label"]
            parcel["required"].remove("label")

        assert self.changed(drop) == ["Parcel.label is gone"]

    def test_another_type_is_rejected(self) -> None:
        def retype(schema: dict[str, Any]) -> None:
            schema["$defs"]["Parcel"]["properties"]["label"] = {"type": "integer"}

        assert self.changed(retype) == ["Parcel.label is of another type"]

    def test_a_new_version_may_do_both(self) -> None:
        def renew(schema: dict[str, Any]) -> None:
            schema["$id"] = schema["$id"].replace(":1", ":2")
            schema["properties"].clear()
            schema["required"].clear()

        assert self.changed(renew) == []

    def test_a_new_field_of_the_entity_needs_a_default(self) -> None:
        larger = copy.deepcopy(self.committed)
        larger["$defs"]["Parcel"]["properties"]["weight"] = {"type": "integer"}
        found = generate.breaks(self.committed, larger, {"Parcel": _Larger})
        assert found == ["Parcel.weight is new and has no default: items that are stored do not have it"]

    def test_a_file_is_not_overwritten_by_less(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The command itself: one line, and the committed schema stays."""
        events = tmp_path / "docs" / "events"
        events.mkdir(parents=True)
        schema = events / "ParcelSent.json"
        schema.write_text(json.dumps(self.committed))
        monkeypatch.setattr(generate, "ROOT", tmp_path)
        monkeypatch.setattr(generate, "EVENTS", events)
        monkeypatch.setattr(generate, "OPENAPI", tmp_path / "docs" / "openapi.json")
        monkeypatch.setattr(generate, "GENERATED", tmp_path / "docs" / "generated")
        monkeypatch.setattr(generate, "events", lambda: iter([(_LargerSent, LARGER)]))
        assert generate.main() == 1
        assert "Parcel.weight is new and has no default" in capsys.readouterr().err
        assert json.loads(schema.read_text()) == self.committed
        monkeypatch.setattr(generate, "events", lambda: iter([(ParcelSent, PARCELS)]))
        assert generate.main() == 0
        assert (events / "ParcelSent.json").exists()


def test_input_bounds_are_no_promise_of_an_event() -> None:
    """They may grow, and then what was a valid event would not be one."""
    for event, source in generate.events():
        text = json.dumps(generate.event_schema(event, source))
        assert '"maxLength"' not in text
        assert '"maximum"' not in text
        assert '"minLength"' in text
