"""What ministack 1.5.33, the local AWS emulator, does otherwise than AWS, and our templates or tests need.

A patch is a function with the decorator `patch`, in the module of its service.
Three lines of its docstring say what AWS does, what the emulator does, and where that is reported.
"Not reported" means that we found nothing in ministack's issues in November 2026.
A patch replaces functions of ministack's by name, so the version is pinned.
Delete a patch when ministack no longer needs it. `coverage.py` says how far each resource type works.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_PATCHES: list[Callable[[], None]] = []


def patch(apply: Callable[[], None]) -> Callable[[], None]:
    """Register a patch; `install` applies it."""
    _PATCHES.append(apply)
    return apply


def install() -> Any:
    """Apply every patch and return ministack's ASGI app."""
    from ministack.app import app

    from localcloud.patches import (  # noqa: F401  # each registers its patches
        cloudformation,
        cloudfront,
        cloudwatch,
        ec2,
        ecs,
        events,
        http_api,
        iam,
        images,
        lambda_,
        load_balancing,
        streams,
    )

    for apply in _PATCHES:
        apply()
    return app
