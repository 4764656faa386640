"""Look our pinned packages up in the advisory database; say loudly when it cannot be reached.

    python scripts/audit.py requirements.txt [more files]

pip-audit calls a package that it cannot look up "skipped", and is content. Here that is a warning that names
the packages; with AUDIT=required it is a failure.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 60
# Advisories that do not concern us, each with its reason: {"GHSA-...": "the function is not used"}
ACCEPTED: dict[str, str] = {}

_PIN = re.compile(r"^([a-z0-9][a-z0-9-]*)(?:\[[^]]*\])?==([^\s;]+)", re.MULTILINE)


def main(files: list[str]) -> int:
    """Return 1 when a package has a known vulnerability (or, if required, was not looked up)."""
    pins = {pin for file in files for pin in _PIN.findall(Path(file).read_text())}
    found, problem = [], ""
    for group in groups(pins):
        answer, problem = audit(group)
        found += answer
        if problem:
            break
    vulnerable = vulnerabilities(found)
    for line in vulnerable:
        print(f"VULNERABLE  {line}")
    unseen = sorted({each["name"] for each in found if "skip_reason" in each})
    if unseen and not problem:
        problem = f"{len(unseen)} of {len(pins)} packages cannot be looked up ({', '.join(unseen[:3])} ...)"
    if problem:
        print(f"SKIPPED  the audit of our packages: {problem}. They are NOT known to be free of flaws.")
    else:
        print(f"{len(pins)} packages looked up, {len(vulnerable)} vulnerabilities known")
    return int(bool(vulnerable or (problem and os.environ.get("AUDIT") == "required")))


def groups(pins: set[tuple[str, str]]) -> list[list[str]]:
    """Share the pins out so that none of the groups names a package twice, which pip-audit rejects."""
    shared: list[dict[str, str]] = []
    for name, version in sorted(pins):
        free = next((group for group in shared if name not in group), None)
        if free is None:
            shared.append(free := {})
        free[name] = version
    return [[f"{name}=={version}" for name, version in group.items()] for group in shared]


def vulnerabilities(found: list[dict]) -> list[str]:
    """Return a line for each flaw that is not accepted."""
    return sorted(
        f"{each['name']} {each['version']}: {flaw['id']}, fixed in {', '.join(flaw['fix_versions']) or '-'}"
        for each in found
        for flaw in each.get("vulns", [])
        if not {flaw["id"], *flaw["aliases"]} & ACCEPTED.keys()
    )


def audit(lines: list[str]) -> tuple[list[dict], str]:
    """Return what pip-audit says of every package, or else why it says nothing."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(lines))
        file.flush()
        command = [str(ROOT / ".venv-tools/bin/pip-audit"), "--requirement", file.name, "--disable-pip"]
        command += ["--no-deps", "--format", "json", "--progress-spinner", "off", "--timeout", "5"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
            return json.loads(done.stdout)["dependencies"], ""
        except subprocess.TimeoutExpired:
            return [], f"no answer within {SECONDS} s"
        except (json.JSONDecodeError, KeyError):
            return [], (done.stderr.strip().splitlines() or ["no answer"])[-1]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
