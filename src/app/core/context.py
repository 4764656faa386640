"""The trace and the correlation id of the request that is served.

The HTTP middleware sets them for each request, and the handlers for each record. The log reads them. The
store writes them beside the order, so that relay and consumers continue the same trace.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from contextvars import ContextVar

# A later version may have more after the flags, never less before. The trace id is split as X-Ray splits it.
# https://www.w3.org/TR/trace-context-1/#versioning-of-traceparent
TRACEPARENT = re.compile(
    "(?:00|(?P<later>(?!00|ff)[0-9a-f]{2}))-(?!0{32})(?P<time>[0-9a-f]{8})(?P<rest>[0-9a-f]{24})"
    "-(?!0{16})(?P<parent>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})(?(later)(?:-.*)?)"
)
# https://docs.aws.amazon.com/xray/latest/devguide/xray-concepts.html#xray-concepts-tracingheader
_XRAY = re.compile("(?:^|; ?)Root=1-([0-9a-f]{8})-([0-9a-f]{24})(?=;|$)")

traceparent: ContextVar[str] = ContextVar("traceparent", default="")
correlation_id: ContextVar[str] = ContextVar("correlation_id", default="")


def child_span(parent: str = "", xray: str = "") -> str:
    """Return a traceparent for work of ours: in the trace of `parent`, else of `xray`, else in a new one.

    `parent` is W3C's header and `xray` is X-Ray's. A caller's own header comes before the one that a
    load balancer or gateway adds. A new trace id begins with the time, so that X-Ray takes it too.
    """
    span = os.urandom(8).hex()
    if known := known_parent(parent):
        return f"{known[:35]}-{span}-{known[53:]}"
    if xray and (found := _XRAY.search(xray)):
        return f"00-{found[1]}{found[2]}-{span}-{'00' if 'Sampled=0' in xray else '01'}"
    return f"00-{int(time.time()):08x}{os.urandom(12).hex()}-{span}-01"


def known_parent(traceparent: str) -> str:
    """Return a traceparent as version 00 spells it, with the flags that it knows; "" if it is none.

    https://www.w3.org/TR/trace-context-1/#other-flags
    """
    found = TRACEPARENT.fullmatch(traceparent) if traceparent else None
    return f"00{found[0][2:53]}{int(found['flags'], 16) & 1:02x}" if found else ""


def xray_trace_id(xray: str) -> str:
    """Return the trace id in X-Ray's header, or nothing."""
    found = _XRAY.search(xray)
    return f"1-{found[1]}-{found[2]}" if found else ""


def invocation_xray(environ: Mapping[str, str] = os.environ) -> str:
    """Return X-Ray's header of the present Lambda invocation, or "". It differs each time.

    https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html#configuration-envvars-runtime
    """
    return environ.get("_X_AMZN_TRACE_ID", "")
