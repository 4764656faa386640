"""What follows one request through every layer: its trace and its correlation id.

Set once at the front door (`api`) or per record (the handlers); read by the log, and by the
store, which writes it beside the order so that relay and consumers continue the same trace.
"""

from __future__ import annotations

from contextvars import ContextVar

# W3C Trace Context, section 3.2: "00-<32 hex trace id>-<16 hex parent id>-<2 hex flags>"
traceparent: ContextVar[str] = ContextVar("traceparent", default="")
correlation_id: ContextVar[str] = ContextVar("correlation_id", default="")
