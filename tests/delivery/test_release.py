"""Releases: one version everywhere, notes from the changelog, a valid bill of materials."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from scripts import release
from scripts.cli import CliError
from scripts.delivery.__main__ import github_pull_requests
from scripts.release import CYCLONEDX, notes_of, version_of, write_files, write_sbom
from tests.delivery.conftest import ROOT

from app import __version__

CHANGELOG = """# Changelog

## [Unreleased]

## [1.2.0] - 2026-01-02

### Added

- Something.

## [1.1.0] - 2026-01-01
"""


class TestVersion:
    def test_the_project_has_one(self) -> None:
        assert version_of() == __version__

    def test_two_are_rejected(self, tmp_path: Path) -> None:
        (tmp_path / "src/app").mkdir(parents=True)
        (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.0.0"\n')
        (tmp_path / "src/app/__init__.py").write_text('__version__ = "1.0.1"\n')
        with pytest.raises(CliError, match=r"1\.0\.0.*1\.0\.1"):
            version_of(tmp_path)

    def test_another_tag_is_rejected(self) -> None:
        for tag in ("", "v0.0.0", version_of()):
            with pytest.raises(CliError, match="tag"):
                write_files(tag)


class TestNotes:
    def test_are_the_section_of_the_version(self) -> None:
        assert notes_of(CHANGELOG, "1.2.0") == "### Added\n\n- Something.\n"

    @pytest.mark.parametrize("version", ["1.1.0", "1.2", "Unreleased", "2.0.0"])
    def test_missing_or_empty_are_rejected(self, version: str) -> None:
        with pytest.raises(CliError, match="CHANGELOG"):
            notes_of(CHANGELOG, version)


needs_tools = pytest.mark.skipif(not CYCLONEDX.exists(), reason="cyclonedx-py is missing (make setup)")


@needs_tools
def test_the_bill_of_materials_has_every_requirement_with_its_hashes(tmp_path: Path) -> None:
    requirements = (ROOT / "requirements.txt").read_text()
    write_sbom(tmp_path / "1.json")
    write_sbom(tmp_path / "2.json")
    assert (tmp_path / "1.json").read_text() == (tmp_path / "2.json").read_text()
    sbom = json.loads((tmp_path / "1.json").read_text())
    subject = sbom["metadata"]["component"]
    assert (subject["name"], subject["version"]) == ("orders", __version__)
    found = {f"{each['name']}=={each['version']}" for each in sbom["components"]}
    assert found == set(re.findall(r"(?m)^[\w.-]+==[^ ;]+", requirements))
    distributions = [each["externalReferences"] for each in sbom["components"]]
    hashes = {found["content"] for some in distributions for each in some for found in each["hashes"]}
    assert hashes == set(re.findall(r"--hash=sha256:(\w+)", requirements))


@needs_tools
def test_the_files_of_a_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release, "OUT", tmp_path / "release")
    monkeypatch.setattr(release, "notes_of", lambda _, version: f"notes of {version}\n")
    names = [path.name for path in write_files(f"v{__version__}")]
    assert names == [f"orders-{__version__}.tar.gz", f"orders-{__version__}.cdx.json", "SHA256SUMS"]
    check = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    subprocess.run(check, cwd=tmp_path / "release", check=True, capture_output=True, timeout=30)
    assert (tmp_path / "release-notes.md").read_text() == f"notes of {__version__}\n"


class TestOpenPullRequests:
    @pytest.mark.parametrize(("said", "found"), [("3\n14\n", "3 14"), ("", "none")])
    def test_are_asked_of_github(
        self, said: str, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.gh(f'echo "$@" > {tmp_path}/asked; printf "{said}"', tmp_path, monkeypatch)
        assert github_pull_requests({"GITHUB_REPOSITORY": "acme/orders"}) == found
        asked = (tmp_path / "asked").read_text()
        assert asked.startswith("api --paginate repos/acme/orders/pulls?state=open")

    def test_a_listing_that_failed_is_not_none(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gh("echo 3; exit 1", tmp_path, monkeypatch)
        with pytest.raises(CliError, match="gh api failed"):
            github_pull_requests({"GITHUB_REPOSITORY": "acme/orders"})

    def gh(self, script: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Put a `gh` on the PATH that does this."""
        (folder / "gh").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "gh").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def test_outside_a_workflow_they_must_be_named(self) -> None:
        with pytest.raises(CliError, match="OPEN"):
            github_pull_requests({})
