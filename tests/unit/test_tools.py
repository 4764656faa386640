"""No tool is older than a year: what was right of AWS, GitHub or Docker then is what it checks by."""

from __future__ import annotations

import json
import re
import tomllib
from datetime import date, timedelta
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
YEAR = timedelta(days=365)
LINES = [
    line.split()
    for line in (ROOT / "scripts/tool-dates.txt").read_text().splitlines()
    if not line.startswith("#")
]
# When the package indexes were asked, and what they said: version, day of publication, "newest" if it was.
ASKED = next(date.fromisoformat(day) for name, day, *_ in LINES if name == "asked")
DATES = {name: (version, *rest) for name, version, *rest in LINES if name != "asked"}


def pins() -> dict[str, str]:
    """Return the pinned version of every tool. The baselines that `make bench` measures are none."""
    found = {}
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    for group in sorted(groups.keys() - {"bench"}):
        locked = (ROOT / f"requirements-{group}.txt").read_text()
        for each in groups[group]:
            name = re.split(r"[^\w.-]", each)[0].lower()
            found[name] = re.findall(rf"(?m)^{name}==(\S+)", locked)[-1]
    found |= json.loads((ROOT / "scripts/preflight/package.json").read_text())["dependencies"]
    workflow = (ROOT / ".github/workflows/ci.yml").read_text()
    found["terraform"] = re.findall(r'terraform_version: "(.+)"', workflow)[0]
    return found


PINS = pins()


@pytest.mark.parametrize("name", PINS)
def test_a_tool_is_not_older_than_a_year(name: str) -> None:
    """Fix it with `make lock ARGS="--upgrade-package NAME"`, or in scripts/preflight/package.json."""
    assert name in DATES, "it has no date: make lock"
    version, day, *newest = DATES[name]
    assert version == PINS[name], "the date is that of another version: make lock"
    if newest != ["newest"]:
        assert date.today() - date.fromisoformat(day) <= YEAR


def test_the_dates_are_not_older_than_a_year_either() -> None:
    """What was the newest version then need not be now."""
    assert date.today() - ASKED <= YEAR


def test_no_date_is_of_what_is_no_tool() -> None:
    assert DATES.keys() == PINS.keys()


def test_the_translator_is_the_one_that_deploys() -> None:
    """Checks and tests translate template.yaml by that of the local AWS emulator, `sam` by its own."""
    versions = {
        re.findall(r"(?m)^aws-sam-translator==(\S+)", (ROOT / f"requirements-{group}.txt").read_text())[0]
        for group in ("local", "tools")
    }
    assert len(versions) == 1


def test_the_packages_of_node_are_pinned_by_hash_and_name_no_address() -> None:
    text = (ROOT / "scripts/preflight/package-lock.json").read_text()
    assert "://" not in text
    lock = json.loads(text)["packages"]
    own = {name: each for name, each in lock.items() if name and not each.get("inBundle")}
    assert own
    assert all(each["integrity"].startswith("sha512-") for each in own.values())
    assert not [name for name, each in lock.items() if "resolved" in each]
    assert lock[""]["dependencies"] == {
        name: own[f"node_modules/{name}"]["version"] for name in lock[""]["dependencies"]
    }
