"""`make doctor`: what this machine and this account have and lack before a first deployment."""

from __future__ import annotations

import re
from typing import NamedTuple

# Fine; only some paths need it; blocks a first deployment; could not look.
OK, NOTE, FIX, UNKNOWN = "ok", "note", "fix", "unknown"


class Row(NamedTuple):
    """One line of the table. `fix` is the one command that fixes it."""

    state: str
    what: str
    found: str
    fix: str = ""


def default_of(template: str, parameter: str) -> str:
    """Return the default of a parameter of template.yaml; nothing that reads YAML is installed yet."""
    found = re.search(rf'^  {parameter}:\n(?:    .*\n)*?    Default: "?([^"\n]*)"?$', template, re.MULTILINE)
    return found[1] if found else ""
