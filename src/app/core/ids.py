"""Ids of entities: UUIDs that sort by time, or follow from an idempotency key."""

from __future__ import annotations

import hashlib
import os
import re
import time
import uuid

_is_id = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch


def new_id() -> str:
    """Return a fresh UUIDv7 (RFC 9562, section 5.7): its first 48 bits are Unix milliseconds."""
    milliseconds = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10))
    value = (milliseconds & (1 << 48) - 1) << 80 | 0x7 << 76 | (random >> 68) << 64 | 0b10 << 62
    return str(uuid.UUID(int=value | random & (1 << 62) - 1))


def is_id(text: str) -> bool:
    """Whether `text` is spelled as every id is."""
    return _is_id(text) is not None


def id_for(subject: str | None, idempotency_key: str) -> str:
    """Derive an id from the caller's `sub` and the key: a UUIDv8 (RFC 9562, section 5.8).

    The same caller and key give the same id, so one conditional put finds what is there; another
    caller's equal key gives another id.
    """
    subject = subject or ""
    digest = hashlib.sha256(f"{len(subject)}:{subject}:{idempotency_key}".encode()).digest()
    value = int.from_bytes(digest[:16])
    value = value & ~(0xF << 76) | 0x8 << 76
    return str(uuid.UUID(int=value & ~(0b11 << 62) | 0b10 << 62))
