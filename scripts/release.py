"""`make release-files TAG=v1.2.3` writes a release into reports/release, `make release-publish` publishes it.

The version stands in `src/app/__init__.py` and pyproject.toml, which must agree with each other, with the
tag and with a section of CHANGELOG.md. The bill of materials is CycloneDX, from the hashed requirements: it
and the signed provenance lie beside the image, never in its index, which Lambda would refuse.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tomllib
import uuid
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "reports" / "release"
NAME = "orders"
_PINNED = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)(\[[^]]*\])?==(?P<version>[^\s;\\]+)")


class ReleaseError(Exception):
    """The release cannot be made; the message is one line."""


def version_of(root: Path = ROOT) -> str:
    """Return the version. Raises ReleaseError if the two places differ."""
    project = str(tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"])
    found = re.search(r'^__version__ = "([^"]+)"', (root / "src/app/__init__.py").read_text(), re.M)
    package = found[1] if found else "none"
    if project != package:
        raise ReleaseError(f"pyproject.toml says version {project}, src/app/__init__.py says {package}")
    return project


def notes_of(changelog: str, version: str) -> str:
    """Return the changelog's section of a version. Raises ReleaseError if it has none."""
    sections = re.split(r"^## ", changelog, flags=re.M)
    for section in sections[1:]:
        title, _, body = section.partition("\n")
        if title.startswith(f"[{version}]") and body.strip():
            return body.strip() + "\n"
    raise ReleaseError(f"CHANGELOG.md has no section [{version}]: move what is under [Unreleased] into one")


def sbom_of(requirements: str, version: str) -> dict[str, Any]:
    """Return the CycloneDX bill of materials of the application, the same for the same requirements."""
    components: list[dict[str, Any]] = []
    for line in requirements.splitlines():
        if pinned := _PINNED.match(line):
            name = re.sub(r"[-_.]+", "-", pinned["name"]).lower()
            purl = f"pkg:pypi/{name}@{pinned['version']}"
            components.append(
                {
                    "type": "library",
                    "bom-ref": purl,
                    "name": name,
                    "version": pinned["version"],
                    "purl": purl,
                    "externalReferences": [],
                }
            )
        elif (hashed := re.search(r"--hash=sha256:([0-9a-f]{64})", line)) and components:
            # A distribution for each platform, any of which may be installed.
            reference = {"type": "distribution", "url": f"{components[-1]['purl']}#{hashed[1][:12]}"}
            reference |= {"hashes": [{"alg": "SHA-256", "content": hashed[1]}]}  # type: ignore[dict-item]
            components[-1]["externalReferences"].append(reference)
    subject = f"pkg:generic/{NAME}@{version}"
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, subject + requirements)}",
        "version": 1,
        "metadata": {
            "component": {"type": "application", "bom-ref": subject, "name": NAME, "version": version}
        },
        "components": components,
        "dependencies": [{"ref": subject, "dependsOn": [c["bom-ref"] for c in components]}],
    }


def write_files(tag: str) -> list[Path]:
    """Write the files of a release. Raises ReleaseError."""
    version = version_of()
    if tag != f"v{version}":
        raise ReleaseError(f"the tag is {tag or 'missing'}, the version {version}: tag it v{version}")
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT.parent / "release-notes.md").write_text(notes_of((ROOT / "CHANGELOG.md").read_text(), version))
    sbom = OUT / f"{NAME}-{version}.cdx.json"
    sbom.write_text(json.dumps(sbom_of((ROOT / "requirements.txt").read_text(), version), indent=2) + "\n")
    archive = OUT / f"{NAME}-{version}.tar.gz"
    command = ["git", "archive", f"--prefix={NAME}-{version}/", f"--output={archive}", "HEAD"]
    subprocess.run(command, cwd=ROOT, check=True)
    files = [archive, sbom]
    lines = [f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.name}\n" for f in files]
    (OUT / "SHA256SUMS").write_text("".join(lines))
    return [*files, OUT / "SHA256SUMS"]


def publish(tag: str) -> None:
    """Make the GitHub release of what `write_files` wrote. Raises ReleaseError."""
    files = sorted(str(f) for f in OUT.glob("*"))
    if not tag or not files:
        raise ReleaseError("nothing to publish: run make release-files first")
    command = ["gh", "release", "create", tag, "--verify-tag", "--title", tag]
    try:
        subprocess.run(
            [*command, "--notes-file", str(OUT.parent / "release-notes.md"), *files], cwd=ROOT, check=True
        )
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        raise ReleaseError(f"gh could not make the release: {error}") from None


def main() -> int:
    """Run one command; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", choices=["files", "publish"])
    parser.add_argument("tag")
    given = parser.parse_args()
    try:
        if given.command == "publish":
            publish(given.tag)
        else:
            for path in write_files(given.tag):
                print(path.relative_to(ROOT))
    except (ReleaseError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
