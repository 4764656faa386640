"""What follows one request through every layer: its trace and its correlation id.

Set once at the front door (`api`) or per record (the handlers); read by the log, and by the
store, which writes it beside the order so that relay and consumers continue the same trace.
"""

from __future__ import annotations

import re
from contextvars import ContextVar

# W3C Trace Context, section 3.2. The trace id is split as X-Ray splits it.
TRACEPARENT = re.compile(
    "00-(?P<time>[0-9a-f]{8})(?P<rest>[0-9a-f]{24})-(?P<parent>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})"
)

traceparent: ContextVar[str] = ContextVar("traceparent", default="")
correlation_id: ContextVar[str] = ContextVar("correlation_id", default="")
