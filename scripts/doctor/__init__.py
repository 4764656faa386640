"""`make doctor`: what this machine and this account have and lack before a first deployment."""

from __future__ import annotations

from typing import NamedTuple

# Fine; only some paths need it; blocks a first deployment; could not look.
OK, NOTE, FIX, UNKNOWN = "ok", "note", "fix", "unknown"


class Row(NamedTuple):
    """One line of the table. `mend` is the one command that mends it."""

    state: str
    what: str
    found: str
    mend: str = ""
