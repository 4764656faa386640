"""End a child process when its parent is gone, however the parent went."""

from __future__ import annotations

import os
import signal
import sys
import threading


def end_with_parent() -> None:
    """Send this process SIGTERM when its standard input, a pipe from the parent, reaches its end."""

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()


def say(**message: object) -> None:
    """Tell the parent something: one JSON line on standard output."""
    import json

    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()
