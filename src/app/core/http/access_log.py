"""The log entry of each request, with its metrics (see `app.core.telemetry`)."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from urllib.parse import parse_qsl

from starlette.types import Scope

from app.core.telemetry import LogContext, Telemetry

# An id that we take from a caller goes into logs, into the table and back into a header.
_harmless = re.compile(rb"[\w.:/+=@-]{1,128}", re.ASCII).fullmatch
# The headers whose values a debug line shows. Any other may be a secret until it is added here.
_SHOWN = frozenset(
    {b"accept", b"content-type", b"content-length", b"if-match", b"if-none-match", b"user-agent"}
)

Headers = list[tuple[bytes, bytes]]


def begin(telemetry: Telemetry, scope: Scope, headers: Mapping[bytes, bytes]) -> LogContext:
    """Read who calls, and in which trace."""
    theirs = headers.get(b"x-correlation-id") or headers.get(b"x-request-id") or b""
    # Mangum hands over the invocation; the platform's own log entries carry its id.
    invocation = scope.get("aws.context")
    return telemetry.begin(
        invocation.aws_request_id if invocation else os.urandom(16).hex(),
        theirs.decode() if _harmless(theirs) else "",
        headers.get(b"traceparent", b"").decode("latin-1"),
        headers.get(b"x-amzn-trace-id", b"").decode("latin-1"),
    )


def ids(work: LogContext) -> Headers:
    """Return the headers that tell the caller what to quote when asking about this request."""
    identity = work.identity
    return [
        (b"x-request-id", identity["request_id"].encode()),
        (b"x-correlation-id", identity["correlation_id"].encode()),
    ]


def end(
    telemetry: Telemetry,
    work: LogContext,
    scope: Scope,
    status: int,
    seconds: float,
    receive_seconds: float | None,
    served: bool,
) -> None:
    """Write the log entry, and count what the answer says. Health checks are no traffic: they count nothing.

    `seconds` are ours, without those that the client took to send the body (`receive_seconds`) or to read the
    answer. A request that was not served, because it was rejected or broke off, says nothing about latency.
    """
    latency = round(seconds * 1000, 2)
    path = getattr(scope.get("route"), "path", "")
    fields, method = work.fields, scope.get("asked_method") or scope["method"]
    fields["method"] = method
    fields["route"] = path or "unmatched"
    fields["status"] = status
    fields["latency_ms"] = latency
    if receive_seconds is not None:
        fields["receive_ms"] = round(receive_seconds * 1000, 2)
    level = logging.INFO if status < 500 else logging.ERROR
    if path.startswith("/health"):
        level = logging.DEBUG if status < 500 else logging.WARNING
        work.metrics.clear()
    else:
        metrics = work.metrics
        metrics["Requests"] = 1
        metrics["ServerErrors"] = int(status >= 500)
        if served and path and status != 405:  # only a route that exists becomes a dimension
            metrics["Latency"] = latency
        if status >= 400:
            _count_error(work, scope, status)
        if status in (409, 412):
            metrics["Conflicts"] = 1
        if telemetry.cold_start:
            metrics["ColdStarts"] = 1
    for name, value in scope.get("path_params", {}).items():
        if name.endswith("_id"):
            fields[name] = value[:64]
    if work.debug:
        fields["headers"] = {
            name.decode("latin-1"): value.decode("latin-1") if name in _SHOWN else "[redacted]"
            for name, value in scope["headers"]
        }
        fields["query"] = [name for name, _ in parse_qsl(scope["query_string"].decode("latin-1"))]
    telemetry.write(work, "api", "request", level)
    telemetry.cold_start = False


def _count_error(work: LogContext, scope: Scope, status: int) -> None:
    """Count whose error it was. On Lambda ours count for the version too, whose deployment they stop."""
    if status >= 500:
        if invocation := scope.get("aws.context"):
            work.fields["function_version"] = invocation.function_version
            work.metrics["VersionErrors"] = 1
    elif status != 499:  # that was no answer
        work.metrics["ClientErrors"] = 1
