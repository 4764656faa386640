"""Traceparents, as W3C's Trace Context has them, wherever we read one."""

from __future__ import annotations

import re
from typing import Any

import pytest
from tests.builders import a_record, an_order

from app.core import context
from app.core.events.publisher import xray_header
from app.entrypoints.lambda_relay import event_reader

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def flags_of_child(parent: str) -> str | None:
    """The flags that a traceparent leads to, None when a new trace begins."""
    child = context.child_span(parent)
    found = re.fullmatch("00-([0-9a-f]{32})-([0-9a-f]{16})-(0[01])", child)
    assert found, child
    assert found[2] != PARENT
    return found[3] if found[1] == TRACE else None


def flags_of_event(parent: str) -> str | None:
    """The same of one that was stored with an order."""
    event = event_reader().to_event(a_record(an_order(), traceparent=parent))
    assert event is not None
    sent: str = event.detail["traceparent"]
    assert sent in ("", f"00-{TRACE}-{PARENT}-{sent[-2:]}")
    return sent[-2:] or None


def flags_of_xray(parent: str) -> str | None:
    """The same of X-Ray's header."""
    header = xray_header(parent)
    sampled = {"1": "01", "0": "00"}
    assert header in ("", f"Root=1-{TRACE[:8]}-{TRACE[8:]};Parent={PARENT};Sampled={header[-1:]}")
    return sampled[header[-1]] if header else None


@pytest.mark.parametrize("flags_of", [flags_of_child, flags_of_event, flags_of_xray])
@pytest.mark.parametrize(
    ("parent", "flags"),
    [
        (f"00-{TRACE}-{PARENT}-01", "01"),
        (f"00-{TRACE}-{PARENT}-00", "00"),
        (f"00-{TRACE}-{PARENT}-ff", "01"),  # flags that version 00 does not know are zeroed
        (f"00-{TRACE}-{PARENT}-fe", "00"),
        (f"00-{TRACE}-{PARENT}-03", "01"),
        # A later version: what we know of it is in its place, and more may follow.
        (f"01-{TRACE}-{PARENT}-01", "01"),
        (f"cc-{TRACE}-{PARENT}-00-what-the-future-will-be", "00"),
        (f"fe-{TRACE}-{PARENT}-09-", "01"),
        (f"01-{TRACE}-{PARENT}-01.more", None),
        (f"01-{TRACE}-{PARENT}-0", None),
        (f"00-{TRACE}-{PARENT}-01-more", None),
        (f"00-{TRACE}-{PARENT}-01-", None),
        (f"ff-{TRACE}-{PARENT}-01", None),
        (f"0-{TRACE}-{PARENT}-01", None),
        (f"00-{TRACE.upper()}-{PARENT}-01", None),
        (f"00-{TRACE}-{PARENT.upper()}-01", None),
        (f"00-{TRACE}-{PARENT}-0A", None),
        (f"0A-{TRACE}-{PARENT}-01", None),
        (f"00-{'0' * 32}-{PARENT}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE}-{PARENT}-01,00-{TRACE}-{PARENT}-01", None),
        (f"00-{TRACE}-{PARENT}-01\n", None),
        (f" 00-{TRACE}-{PARENT}-01", None),
        (f"00-{TRACE}-{PARENT}", None),
        ("", None),
    ],
)
def test_a_traceparent_is_read_alike_everywhere(flags_of: Any, parent: str, flags: str | None) -> None:
    assert flags_of(parent) == flags
