"""Log entries: one JSON object a line on standard output, with its metrics in it.

Each request, and each record of a batch, writes one canonical log entry (https://stripe.com/blog/canonical-log-lines).
An entry has the field names of Powertools' Logger and ours. Where a metric was added, it has the embedded
metric format (EMF) too, from which CloudWatch makes metrics without a call of ours:

    {"level": "INFO", "location": "api", "message": "request", "timestamp": "2026-01-02T03:04:05.678Z",
     "service": "orders-prod", "stage": "prod", "runtime": "lambda", "cold_start": false,
     "request_id": "...", "correlation_id": "...", "trace_id": "<32 hex>", "xray_trace_id": "1-...-...",
     "method": "POST", "route": "/orders", "status": 201, "latency_ms": 8.1, "order_id": "...",
     "Requests": 1, "ServerErrors": 0, "Latency": 8.1, "OrdersPlaced": 1, "_aws": {...}}

Usage:

    with telemetry.log_operation("relay", "event", request_id, failures="RelayFailures"):
        add_log_fields(event_id=event.id)
        add_metric("EventsRelayed")

Why not Powertools itself: `docs/decisions/` has the figures. No value of a header, body or query gets
into an entry unless its name is known to be harmless; free text (errors) passes through `redact`.
"""

from __future__ import annotations

import functools
import logging
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Self

import msgspec

from app.core import context
from app.core.settings import Settings

NAMESPACE = "Orders"

_RUNTIME = (("service",), ("service", "runtime"))
_ROUTE = (("service",), ("service", "method", "route"))
_CONSUMER = (("service", "location"),)
_METRICS: dict[str, tuple[str, tuple[tuple[str, ...], ...]]] = {
    "Requests": ("Count", _RUNTIME),
    "ServerErrors": ("Count", _RUNTIME),
    "VersionErrors": ("Count", (("service", "function_version"),)),  # 5xx on Lambda, by its version
    "Latency": ("Milliseconds", _ROUTE),
    "RelayLag": ("Milliseconds", (("service",),)),
    "ConsumedEvents": ("Count", _CONSUMER),
    "ConsumerFailures": ("Count", _CONSUMER),
}

_encode = msgspec.json.Encoder().encode
_RECORD_FIELDS = logging.makeLogRecord({}).__dict__.keys() | {"message", "asctime", "color_message"}
_SECRET_NAMES = re.compile("(?i)authorization|cookie|password|secret|token|idempotency.key")
_SECRETS = re.compile(
    r"eyJ[\w-]{5,}\.[\w-]+\.[\w-]*"  # a JWT
    r"|(?i:bearer|basic)\s+[\w.~+/=-]+"
    r"|(?:AKIA|ASIA)[A-Z0-9]{16}"
    r"|(?i:x-amz-(?:signature|credential|security-token)|authorization|password|secret|token|cookie)"
    r"[\"']?\s*[=:]\s*[\"']?(?i:(?:bearer|basic)\s+)?[^\s\"'&,}]+"
)


class LogContext:
    """What the log entry of one request, or of one record of a batch, will say."""

    __slots__ = ("calls", "calls_seconds", "debug", "fields", "identity", "metrics")

    def __init__(self, request_id: str) -> None:
        self.identity = {"request_id": request_id}
        self.debug = False
        self.fields: dict[str, Any] = {}
        self.metrics: dict[str, float] = {}
        self.calls = 0
        self.calls_seconds = 0.0


_log_context: ContextVar[LogContext | None] = ContextVar("log_context", default=None)


def add_log_fields(**fields: Any) -> None:
    """Add fields to the present log entry. Outside of a request, do nothing."""
    log_context = _log_context.get()
    if log_context is not None:
        log_context.fields.update(fields)


def add_metric(metric: str, value: float = 1) -> None:
    """Add `value` to a metric of the present log entry. Outside of a request, do nothing."""
    log_context = _log_context.get()
    if log_context is not None:
        log_context.metrics[metric] = log_context.metrics.get(metric, 0) + value


def metric_definition(metric: str) -> tuple[str, tuple[tuple[str, ...], ...]]:
    """Return a metric's unit and sets of dimensions; any that is not in `_METRICS` is a count of the service.

    CloudWatch bills one custom metric for each set, and value of its dimensions, that is written.
    """
    return _METRICS.get(metric, ("Count", (("service",),)))


def record_call(operation: str, seconds: float) -> None:
    """Add a call to a service to the present log entry. Outside of a request, do nothing."""
    log_context = _log_context.get()
    if log_context is not None:
        log_context.calls += 1
        log_context.calls_seconds += seconds
        if log_context.debug:
            log_context.fields.setdefault("calls", []).append(f"{operation} {seconds * 1000:.1f} ms")


def redact(text: str) -> str:
    """Return `text` without what looks like a secret."""
    return _SECRETS.sub("[redacted]", text)


class Telemetry:
    """Writes the log entries of one process."""

    def __init__(self, settings: Settings) -> None:
        self._about = {
            "service": settings.service_name,
            "stage": settings.stage,
            "runtime": settings.runtime,
        }
        self._level = logging.getLevelNamesMapping().get(settings.log_level.upper(), logging.INFO)
        # Of 2^32, as the share of trace ids: all services log a sampled trace at DEBUG, and no other one.
        # A caller who makes up the trace id can have itself sampled: that costs log, and shows no secret.
        self._sampled_below = (
            1 << 32 if self._level <= logging.DEBUG else int(settings.debug_sample_percent / 100 * (1 << 32))
        )
        self.cold_start = True

    def begin(
        self, request_id: str, correlation_id: str = "", traceparent: str = "", xray_trace: str = ""
    ) -> LogContext:
        """Start a log context, which continues the caller's trace."""
        log_context = LogContext(request_id)
        self.set_trace_context(log_context, correlation_id, traceparent, xray_trace)
        _log_context.set(log_context)
        return log_context

    def set_trace_context(
        self, log_context: LogContext, correlation_id: str = "", traceparent: str = "", xray_trace: str = ""
    ) -> None:
        """Set the trace of a log context: the given one, or a new one."""
        parent = context.child_span(traceparent, xray_trace)
        trace_id = parent[3:35]
        identity = log_context.identity
        identity["correlation_id"] = correlation_id = correlation_id or identity["request_id"]
        identity["trace_id"] = trace_id
        # The platform's segments may be in another trace than the one that the caller asked for.
        platform = context.xray_trace_id(xray_trace) if traceparent else ""  # else both are the same
        identity["xray_trace_id"] = platform or f"1-{trace_id[:8]}-{trace_id[8:]}"
        log_context.debug = self._sampled_below > 0 and int(trace_id[-8:], 16) < self._sampled_below
        context.traceparent.set(parent)
        context.correlation_id.set(correlation_id)

    def write(self, log_context: LogContext, location: str, message: str, level: int = logging.INFO) -> None:
        """Write the log entry of a context, with its fields and metrics.

        CloudWatch makes metrics of log entries, so an entry with metrics is written whatever the level:
        a service whose good requests are not counted looks as if all of them failed.
        """
        if level < self._level and not log_context.debug and not log_context.metrics:
            return
        now = time.time()
        entry: dict[str, Any] = {
            "level": logging.getLevelName(level),
            "location": location,
            "message": message,
            "timestamp": _timestamp(now),
            **self._about,
            "cold_start": self.cold_start,
            **log_context.identity,
            **log_context.fields,
        }
        if log_context.calls:
            entry["dependency_calls"] = log_context.calls
            entry["dependency_ms"] = round(log_context.calls_seconds * 1000, 2)
        if log_context.metrics:
            entry |= log_context.metrics
            entry["_aws"] = {
                "Timestamp": int(now * 1000),
                "CloudWatchMetrics": _directives(tuple(log_context.metrics)),
            }
        _print(entry)

    @contextmanager
    def log_operation(
        self, location: str, message: str, request_id: str, *, failures: str = "", **trace: str
    ) -> Iterator[LogContext]:
        """Write one log entry for the block, also when it raises.

        An error adds 1 to the metric `failures`, and is raised again. `trace` is what `begin` takes.
        """
        log_context = self.begin(request_id, **trace)
        begun = time.perf_counter()
        level = logging.INFO
        try:
            yield log_context
        except Exception as error:
            level = logging.ERROR
            add_log_fields(error=type(error).__name__, cause=redact(str(error)))
            if failures:
                add_metric(failures)
            raise
        finally:
            log_context.fields["latency_ms"] = round((time.perf_counter() - begun) * 1000, 2)
            self.write(log_context, location, message, level)
            self.cold_start = False
            _log_context.set(None)

    def install(self) -> Self:
        """Let everything that uses `logging` write log entries with the same fields."""
        handler = logging.StreamHandler(_Stdout())
        handler.setFormatter(_Formatter(self._about))
        root = logging.getLogger()
        root.handlers = [handler]  # in place of what the Lambda runtime put there
        # Libraries say what matters at WARNING; their DEBUG may hold secrets (botocore's headers).
        root.setLevel(max(self._level, logging.WARNING))
        for name in ("app", "uvicorn"):
            logging.getLogger(name).setLevel(self._level)
        return self


class _Formatter(logging.Formatter):
    """Formats a `logging` record as a log entry, with the identity of the present context."""

    def __init__(self, about: Mapping[str, str]) -> None:
        super().__init__()
        self._about = about

    def format(self, record: logging.LogRecord) -> str:
        log_context = _log_context.get()
        entry: dict[str, Any] = {
            "level": record.levelname,
            "location": f"{record.name}:{record.funcName}:{record.lineno}",
            "message": redact(record.getMessage()),
            "timestamp": _timestamp(record.created),
            **self._about,
            **(log_context.identity if log_context else {}),
        }
        for name in record.__dict__.keys() - _RECORD_FIELDS:
            entry[name] = "[redacted]" if _SECRET_NAMES.search(name) else redact(str(record.__dict__[name]))
        if record.exc_info and record.exc_info[0]:
            entry["exception_name"] = record.exc_info[0].__name__
            entry["exception"] = redact(self.formatException(record.exc_info))
        return _encode(entry).decode()


class _Stdout:
    """Today's standard output, whatever it was when logging was set up."""

    def write(self, text: str) -> int:
        return sys.stdout.write(text)

    def flush(self) -> None:
        sys.stdout.flush()


def _print(entry: Mapping[str, Any]) -> None:
    sys.stdout.write(_encode(entry).decode() + "\n")
    sys.stdout.flush()


def _timestamp(seconds: float) -> str:
    return f"{_second(int(seconds))}.{int(seconds * 1000) % 1000:03d}Z"


@functools.lru_cache(2)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


@functools.cache
def _directives(names: tuple[str, ...]) -> msgspec.Raw:
    """Return the EMF directives for these metrics, encoded once for each set of names that occurs.

    Source: https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
    """
    by_dimensions: dict[tuple[tuple[str, ...], ...], list[dict[str, str]]] = {}
    for name in names:
        unit, dimensions = metric_definition(name)
        by_dimensions.setdefault(dimensions, []).append({"Name": name, "Unit": unit})
    return msgspec.Raw(
        _encode(
            [
                {"Namespace": NAMESPACE, "Dimensions": dimensions, "Metrics": metrics}
                for dimensions, metrics in by_dimensions.items()
            ]
        )
    )
