"""The log entry of each request, with its metrics (see `app.core.telemetry`)."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from starlette.types import Scope

from app.core.telemetry import LogContext, Telemetry

if TYPE_CHECKING:
    from app.core.http.middleware import Exchange

# An id that a caller sends goes into logs, into the table and back into a header.
_is_safe_id = re.compile(rb"[\w.:/+=@-]{1,128}", re.ASCII).fullmatch
# A debug entry shows the values of these headers only: any other header may hold a secret.
_LOGGED_HEADERS = frozenset(
    {b"accept", b"content-type", b"content-length", b"if-match", b"if-none-match", b"user-agent"}
)

Headers = list[tuple[bytes, bytes]]


def begin(telemetry: Telemetry, scope: Scope, headers: Mapping[bytes, bytes]) -> LogContext:
    """Start the log context with the ids that the caller and AWS sent."""
    correlation_id = headers.get(b"x-correlation-id") or headers.get(b"x-request-id") or b""
    # Mangum passes the Lambda context on; Lambda's own log entries carry its request id.
    invocation = scope.get("aws.context")
    return telemetry.begin(
        invocation.aws_request_id if invocation else os.urandom(16).hex(),
        correlation_id.decode() if _is_safe_id(correlation_id) else "",
        headers.get(b"traceparent", b"").decode("latin-1"),
        headers.get(b"x-amzn-trace-id", b"").decode("latin-1"),
    )


def ids(log_context: LogContext) -> Headers:
    """Return the headers that tell the caller what to quote when asking about this request."""
    identity = log_context.identity
    return [
        (b"x-request-id", identity["request_id"].encode()),
        (b"x-correlation-id", identity["correlation_id"].encode()),
    ]


def end(telemetry: Telemetry, exchange: Exchange) -> None:
    """Write the log entry, and count the metrics of the response. Health checks count nothing.

    The latency excludes the time that the client took to send the body and to read the response. A request
    that was not served, because it was rejected or broke off, has no latency metric.
    """
    scope, log_context, status = exchange.scope, exchange.log_context, exchange.status or 500
    latency = round(((exchange.responded_at or time.perf_counter()) - exchange.begun) * 1000, 2)
    path = getattr(scope.get("route"), "path", "")
    fields = log_context.fields
    fields["method"] = scope.get("asked_method") or scope["method"]
    fields["route"] = path or "unmatched"
    fields["status"] = status
    fields["latency_ms"] = latency
    if exchange.receive_seconds is not None:
        fields["receive_ms"] = round(exchange.receive_seconds * 1000, 2)
    level = logging.INFO if status < 500 else logging.ERROR
    if path.startswith("/health"):
        level = logging.DEBUG if status < 500 else logging.WARNING
        log_context.metrics.clear()
    else:
        metrics = log_context.metrics
        metrics["Requests"] = 1
        metrics["ServerErrors"] = int(status >= 500)
        if exchange.served and path and status != 405:  # only a route that exists becomes a dimension
            metrics["Latency"] = latency
        if status >= 400:
            _count_error(log_context, scope, status)
        if status in (409, 412):
            metrics["Conflicts"] = 1
        if telemetry.cold_start:
            metrics["ColdStarts"] = 1
    for name, value in scope.get("path_params", {}).items():
        if name.endswith("_id"):
            fields[name] = value[:64]
    if log_context.debug:
        fields["headers"] = {
            name.decode("latin-1"): value.decode("latin-1") if name in _LOGGED_HEADERS else "[redacted]"
            for name, value in scope["headers"]
        }
        fields["query"] = [name for name, _ in parse_qsl(scope["query_string"].decode("latin-1"))]
    telemetry.write(log_context, "api", "request", level)
    telemetry.cold_start = False


def _count_error(log_context: LogContext, scope: Scope, status: int) -> None:
    """Count a client or server error. On Lambda, server errors of a new version stop its deployment."""
    if status >= 500:
        if invocation := scope.get("aws.context"):
            log_context.fields["function_version"] = invocation.function_version
            log_context.metrics["VersionErrors"] = 1
    elif status != 499:  # the client closed the connection
        log_context.metrics["ClientErrors"] = 1
