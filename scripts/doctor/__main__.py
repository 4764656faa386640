"""Print one table: this machine by the Python that runs, this account by that of .venv, which has the SDK.

Nothing is changed: commands are asked for their versions, AWS by calls that only read. Exit code 1 if
anything blocks a first deployment, 2 if misused.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from scripts.doctor import FIX, NOTE, OK, UNKNOWN, Row
from scripts.doctor.machine import Machine

ROOT = Path(__file__).resolve().parents[2]
_ACCOUNT_SECONDS = 60
_COLOURS = {OK: "32", NOTE: "33", FIX: "31", UNKNOWN: "36"}


def account_rows(environ: Mapping[str, str], python: Path) -> list[Row]:
    """Return what the account has, as the Python of .venv sees it."""
    what = "environment"
    if not python.exists():
        return [Row(FIX, what, "there is no .venv with the SDK: the account was not looked at", "make setup")]
    try:
        done = subprocess.run(
            [str(python), "-m", "scripts.doctor.account"],
            cwd=ROOT,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            text=True,
            timeout=_ACCOUNT_SECONDS,
        )
        return [Row(*row) for row in json.loads(done.stdout)]
    except subprocess.TimeoutExpired:
        return [Row(UNKNOWN, "account", f"no answer within {_ACCOUNT_SECONDS} s")]
    except (OSError, TypeError, ValueError):
        return [Row(FIX, what, ".venv is damaged, or not this project's", "make clean setup")]


def table(machine: Sequence[Row], account: Sequence[Row], *, colour: bool) -> str:
    """Return both parts as one table, and what it comes to."""
    width = max(len(row.what) for row in [*machine, *account])
    lines = []
    for title, rows in (("This machine", machine), ("This account", account)):
        lines.append(title)
        for row in rows:
            state = f"{row.state:7}"
            shown = f"\033[{_COLOURS[row.state]}m{state}\033[0m" if colour else state
            lines.append(f"  {shown}  {row.what:{width}}  {row.found}")
            if row.fix:
                lines.append(f"{'':11}{'':{width}}  -> {row.fix}")
        lines.append("")
    counts = {state: sum(row.state == state for row in [*machine, *account]) for state in _COLOURS}
    lines.append(
        f"{counts[FIX]} to fix before a first deployment, {counts[NOTE]} to note (some paths need them), "
        f"{counts[UNKNOWN]} unknown. Nothing was changed."
    )
    return "\n".join(lines)


def main(environ: Mapping[str, str] = os.environ, python: Path = ROOT / ".venv" / "bin" / "python") -> int:
    """Print the table; return the exit code."""
    if environ.get("RUNTIME", "") not in ("", "lambda", "fargate"):
        print(f"error: RUNTIME is lambda or fargate, not {environ['RUNTIME']!r}", file=sys.stderr)
        return 2
    machine, account = Machine(environ, ROOT).rows(), account_rows(environ, python)
    colour = sys.stdout.isatty() and not environ.get("NO_COLOR")
    print(table(machine, account, colour=colour))
    return int(any(row.state == FIX for row in [*machine, *account]))


if __name__ == "__main__":
    sys.exit(main())
