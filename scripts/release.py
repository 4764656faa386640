"""`make release-files TAG=v1.2.3` writes a release into reports/release, `make release-publish` publishes it.

The version stands in `src/app/__init__.py` and pyproject.toml, which must agree with each other, with the
tag and with a section of CHANGELOG.md. The bill of materials is CycloneDX, from the hashed requirements: it
and the signed provenance lie beside the image, never in its index, which Lambda would reject.
"""

from __future__ import annotations

import hashlib
import re
import sys
import tomllib
from pathlib import Path

from scripts.cli import Arguments, CliError, run_command, run_program

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "reports" / "release"
NAME = "orders"
CYCLONEDX = ROOT / ".venv-tools" / "bin" / "cyclonedx-py"


def version_of(root: Path = ROOT) -> str:
    """Return the version. Raises CliError if the two places differ."""
    project = str(tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"])
    found = re.search(r'^__version__ = "([^"]+)"', (root / "src/app/__init__.py").read_text(), re.M)
    package = found[1] if found else "none"
    if project != package:
        raise CliError(f"pyproject.toml says version {project}, src/app/__init__.py says {package}")
    return project


def notes_of(changelog: str, version: str) -> str:
    """Return the changelog's section of a version. Raises CliError if it has none."""
    sections = re.split(r"^## ", changelog, flags=re.M)
    for section in sections[1:]:
        title, _, body = section.partition("\n")
        if title.startswith(f"[{version}]") and body.strip():
            return body.strip() + "\n"
    raise CliError(f"CHANGELOG.md has no section [{version}]: move what is under [Unreleased] into one")


def write_sbom(path: Path) -> None:
    """Write the CycloneDX bill of materials of the application, the same for the same requirements.

    Each package has the hashes of its distributions, one for each platform.
    """
    if not CYCLONEDX.exists():
        raise CliError(f"{CYCLONEDX.name} is missing: run `make setup`")
    words = ["requirements", "requirements.txt", "--pyproject", "pyproject.toml", "--spec-version", "1.5"]
    # It warns that requirements do not say which package needs which.
    run_program(
        *(str(CYCLONEDX), *words, "--output-reproducible", "--validate", "--output-file", str(path)),
        cwd=ROOT,
        PYTHONWARNINGS="ignore",
    )


def write_files(tag: str) -> list[Path]:
    """Write the files of a release. Raises CliError."""
    version = version_of()
    if tag != f"v{version}":
        raise CliError(f"the tag is {tag or 'missing'}, the version {version}: tag it v{version}")
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT.parent / "release-notes.md").write_text(notes_of((ROOT / "CHANGELOG.md").read_text(), version))
    sbom = OUT / f"{NAME}-{version}.cdx.json"
    write_sbom(sbom)
    archive = OUT / f"{NAME}-{version}.tar.gz"
    command = ["git", "archive", f"--prefix={NAME}-{version}/", f"--output={archive}", "HEAD"]
    run_program(*command, cwd=ROOT)
    files = [archive, sbom]
    lines = [f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.name}\n" for f in files]
    (OUT / "SHA256SUMS").write_text("".join(lines))
    return [*files, OUT / "SHA256SUMS"]


def publish(tag: str) -> None:
    """Make the GitHub release of what `write_files` wrote. Raises CliError."""
    files = sorted(str(f) for f in OUT.glob("*"))
    if not tag or not files:
        raise CliError("nothing to publish: run make release-files first")
    notes = str(OUT.parent / "release-notes.md")
    words = ["gh", "release", "create", tag, "--verify-tag", "--title", tag, "--notes-file", notes, *files]
    run_program(*words, cwd=ROOT)


def main() -> int:
    """Run one command; return the exit code."""
    parser = Arguments(prog="make release", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", choices=["files", "publish"])
    parser.add_argument("tag")
    given = parser.parse_args()
    return run_command(f"make release-{given.command}", lambda: _run(given.command, given.tag))


def _run(command: str, tag: str) -> int:
    if command == "publish":
        publish(tag)
    else:
        for path in write_files(tag):
            print(path.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
