"""Whatever the documentation names exists: targets, files, parameters, outputs, variables, links."""

from __future__ import annotations

import re
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest
from cfnlint.decode import decode
from scripts import diagram

from orders.settings import Settings

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / ".github").rglob("*.md")]
    if page.name != "CHANGELOG.md"
)
TRACKED = subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
    cwd=ROOT,
    capture_output=True,
    check=True,
    text=True,
).stdout.splitlines()
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.MULTILINE))
TEMPLATES = [*ROOT.glob("*.yaml"), *(ROOT / "fargate").glob("*.yaml"), *ROOT.glob("*/template.yaml")]


def named(section: str) -> set[str]:
    """Return the keys of a section over all templates."""
    return {key for path in TEMPLATES for key in (decode(str(path))[0].get(section) or {})}


def identify(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=identify)
class TestPage:
    def test_every_make_target_exists(self, page: Path) -> None:
        text = page.read_text()
        used = set(re.findall(r"`make ([a-z][a-z-]*)", text)) | set(
            re.findall(r"^ *make ([a-z][a-z-]*)", text, re.M)
        )
        assert used <= TARGETS

    def test_every_link_leads_somewhere(self, page: Path) -> None:
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
            if not re.match(r"[a-z]+:", link):
                assert (page.parent / link).exists(), link

    def test_every_link_to_a_section_finds_it(self, page: Path) -> None:
        for link, anchor in re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", page.read_text()):
            if re.match(r"[a-z]+:", link):
                continue
            target = page.parent / link if link else page
            headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{link}#{anchor}"

    def test_every_file_exists(self, page: Path) -> None:
        tops = "|".join(sorted({re.escape(name.split("/")[0]) for name in TRACKED}))
        for name in re.findall(rf"`((?:{tops})(?:/[\w./*-]*)?)`", page.read_text()):
            assert any(ROOT.glob(name.rstrip("/"))) or any(page.parent.glob(name.rstrip("/"))), name

    def test_every_variable_is_a_setting(self, page: Path) -> None:
        settings = {f"ORDERS_{field.name.upper()}" for field in fields(Settings)}
        assert set(re.findall(r"\bORDERS_[A-Z_]+\b", page.read_text())) <= settings

    def test_every_parameter_exists(self, page: Path) -> None:
        # As it is set in a sentence, `Runtime=fargate`; in capitals it is make's, `RUNTIME=fargate`.
        used = set(re.findall(r"`([A-Z][A-Za-z]+)=[^`]*`", page.read_text()))
        assert {name for name in used if not name.isupper()} <= named("Parameters")
        for name in used:
            assert not name.isupper() or f"$({name})" in MAKEFILE, name


def test_every_test_that_a_page_names_exists() -> None:
    for page in PAGES:
        for path, test in re.findall(r"(tests/[\w/]+\.py)::(\w+)", page.read_text()):
            assert f"def {test}(" in (ROOT / path).read_text() or f"class {test}" in (ROOT / path).read_text()


def test_the_diagrams_are_those_of_the_templates() -> None:
    assert diagram.PAGE.read_text() == diagram.page(), "run make diagram"
