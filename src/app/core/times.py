"""Moments: UTC, in microseconds, which is what is stored."""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> datetime:
    """Return the present moment, UTC."""
    return datetime.now(UTC)


def timestamp(moment: datetime) -> str:
    """Format a UTC moment with a fixed width, so that texts sort as times do."""
    return moment.isoformat(timespec="microseconds")[:26] + "Z"
