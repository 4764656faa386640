"""The resources of the application. A new one is one name here, and its package beside this file.

Each package has `endpoints.router`, `service.build` and `events.source`, and is used by these alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

RESOURCES = ("orders", "products")


def load(part: str) -> dict[str, Any]:
    """Import one module of every package. Each process imports the parts that it needs."""
    return {name: import_module(f"app.{name}.{part}") for name in RESOURCES}
