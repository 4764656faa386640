"""Releases: one version everywhere, notes from the changelog, a valid bill of materials."""

from __future__ import annotations

import json
import subprocess
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from scripts import release
from scripts.delivery.__main__ import github_pull_requests
from scripts.delivery.decide import DeliveryError
from scripts.release import ReleaseError, notes_of, sbom_of, version_of, write_files
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

    def test_two_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "src/app").mkdir(parents=True)
        (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.0.0"\n')
        (tmp_path / "src/app/__init__.py").write_text('__version__ = "1.0.1"\n')
        with pytest.raises(ReleaseError, match=r"1\.0\.0.*1\.0\.1"):
            version_of(tmp_path)

    def test_another_tag_is_refused(self) -> None:
        for tag in ("", "v0.0.0", version_of()):
            with pytest.raises(ReleaseError, match="tag"):
                write_files(tag)


class TestNotes:
    def test_are_the_section_of_the_version(self) -> None:
        assert notes_of(CHANGELOG, "1.2.0") == "### Added\n\n- Something.\n"

    @pytest.mark.parametrize("version", ["1.1.0", "1.2", "Unreleased", "2.0.0"])
    def test_missing_or_empty_are_refused(self, version: str) -> None:
        with pytest.raises(ReleaseError, match="CHANGELOG"):
            notes_of(CHANGELOG, version)


class TestBillOfMaterials:
    def test_names_every_requirement_with_its_hashes(self) -> None:
        requirements = (ROOT / "requirements.txt").read_text()
        sbom = sbom_of(requirements, "1.0.0")
        pinned = [line for line in requirements.splitlines() if "==" in line and not line.startswith(" ")]
        assert len(sbom["components"]) == len(pinned)
        hashes = [r["hashes"][0]["content"] for c in sbom["components"] for r in c["externalReferences"]]
        assert len(hashes) == requirements.count("--hash=sha256:")
        names = {c["name"] for c in sbom["components"]}
        assert {"fastapi", "mangum", "boto3"} <= names

    def test_is_the_same_for_the_same_requirements(self) -> None:
        assert sbom_of("a==1\n", "1.0.0") == sbom_of("a==1\n", "1.0.0")
        assert sbom_of("a==1\n", "1.0.0") != sbom_of("a==2\n", "1.0.0")

    def test_is_valid_cyclonedx(self, tmp_path: Path) -> None:
        tools = ROOT / ".venv-tools" / "bin" / "python"
        if not tools.exists():
            pytest.skip(
                "the tools environment is missing (make setup): the bill of materials is NOT validated"
            )
        path = tmp_path / "sbom.json"
        sbom = sbom_of((ROOT / "requirements.txt").read_text(), "1.0.0")
        code = (
            "import sys; from cyclonedx.validation.json import JsonStrictValidator as V;"
            "from cyclonedx.schema import SchemaVersion as S;"
            "error = V(S.V1_5).validate_str(open(sys.argv[1]).read()); print(error); sys.exit(bool(error))"
        )
        path.write_text(json.dumps(sbom))
        done = subprocess.run([str(tools), "-c", code, str(path)], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        path.write_text(json.dumps(sbom | {"components": [{"name": "no type"}]}))
        done = subprocess.run([str(tools), "-c", code, str(path)], capture_output=True, text=True, timeout=60)
        assert done.returncode == 1, "the validator accepts anything"


def test_the_files_of_a_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release, "OUT", tmp_path / "release")
    monkeypatch.setattr(release, "notes_of", lambda _, version: f"notes of {version}\n")
    names = [path.name for path in write_files(f"v{__version__}")]
    assert names == [f"orders-{__version__}.tar.gz", f"orders-{__version__}.cdx.json", "SHA256SUMS"]
    check = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    subprocess.run(check, cwd=tmp_path / "release", check=True, capture_output=True, timeout=30)
    assert (tmp_path / "release-notes.md").read_text() == f"notes of {__version__}\n"


class TestOpenPullRequests:
    def test_are_asked_of_github_page_by_page(self) -> None:
        pulls = [{"number": n} for n in range(1, 151)]
        asked: list[str] = []

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                page = int(self.path.rsplit("page=", 1)[1])
                body = json.dumps(pulls[(page - 1) * 100 : page * 100]).encode()
                self.send_response(200 if self.headers["Authorization"] == "Bearer secret" else 401)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Answer)
        Thread(target=server.serve_forever, daemon=True).start()
        environ = {
            "GITHUB_API_URL": f"http://127.0.0.1:{server.server_port}",
            "GITHUB_REPOSITORY": "acme/orders",
            "GITHUB_TOKEN": "secret",
        }
        try:
            assert github_pull_requests(environ) == " ".join(str(n) for n in range(1, 151))
            assert asked[0].startswith("/repos/acme/orders/pulls?state=open")
            pulls.clear()
            assert github_pull_requests(environ) == "none"
            with pytest.raises(DeliveryError, match="did not list"):
                github_pull_requests(environ | {"GITHUB_TOKEN": "wrong"})
        finally:
            server.shutdown()
            server.server_close()

    def test_outside_a_workflow_they_must_be_named(self) -> None:
        with pytest.raises(DeliveryError, match="OPEN"):
            github_pull_requests({})
