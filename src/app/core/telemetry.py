"""What happens, as one JSON line each on standard output, with its metrics inside: the same everywhere.

A line has the field names of Powertools' Logger and ours, and, where something was counted, the
embedded metric format (EMF), from which CloudWatch makes metrics without a call of ours:

    {"level": "INFO", "location": "api", "message": "request", "timestamp": "2026-01-02T03:04:05.678Z",
     "service": "orders-prod", "stage": "prod", "runtime": "lambda", "cold_start": false,
     "request_id": "...", "correlation_id": "...", "trace_id": "<32 hex>", "xray_trace_id": "1-...-...",
     "method": "POST", "route": "/orders", "status": 201, "latency_ms": 8.1, "order_id": "...",
     "Requests": 1, "ServerErrors": 0, "Latency": 8.1, "OrdersPlaced": 1, "_aws": {...}}

Why not Powertools itself: `docs/decisions/` has the figures. No value of a header, body or query gets
here unless its name is known to be harmless; free text (errors) passes through `redact`.
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
from typing import Any

import msgspec

from app.core import context
from app.core.settings import Settings

NAMESPACE = "Orders"

_SERVICE = (("service",),)
_RUNTIME = (("service",), ("service", "runtime"))
_ROUTE = (("service",), ("service", "method", "route"))
# Every metric: unit and dimension sets. Each name in each set is one custom metric on the bill.
METRICS: dict[str, tuple[str, tuple[tuple[str, ...], ...]]] = {
    "Requests": ("Count", _RUNTIME),
    "ServerErrors": ("Count", _RUNTIME),
    "VersionErrors": ("Count", (("service", "function_version"),)),  # 5xx on Lambda, by its version
    "ClientErrors": ("Count", _SERVICE),
    "RejectedRequests": ("Count", _SERVICE),
    "Latency": ("Milliseconds", _ROUTE),
    "ColdStarts": ("Count", _SERVICE),
    "OrdersPlaced": ("Count", _SERVICE),
    "IdempotentReplays": ("Count", _SERVICE),
    "Conflicts": ("Count", _SERVICE),
    "Throttles": ("Count", _SERVICE),
    "EventsRelayed": ("Count", _SERVICE),
    "RelayFailures": ("Count", _SERVICE),
    "RelayLag": ("Milliseconds", _SERVICE),
    "ReceiptsWritten": ("Count", _SERVICE),
    "ReceiptFailures": ("Count", _SERVICE),
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


class Work:
    """One request, or one record of a batch: who it belongs to, and what is to be said of it."""

    __slots__ = ("calls", "calls_seconds", "debug", "fields", "identity", "metrics")

    def __init__(self, request_id: str) -> None:
        self.identity = {"request_id": request_id}
        self.debug = False
        self.fields: dict[str, Any] = {}
        self.metrics: dict[str, float] = {}
        self.calls = 0
        self.calls_seconds = 0.0


_work: ContextVar[Work | None] = ContextVar("work", default=None)


def note(**fields: Any) -> None:
    """Add fields to the line of the work in hand; without any, do nothing."""
    work = _work.get()
    if work is not None:
        work.fields.update(fields)


def count(metric: str, value: float = 1) -> None:
    """Add to a metric of the work in hand; without any, do nothing."""
    work = _work.get()
    if work is not None:
        work.metrics[metric] = work.metrics.get(metric, 0) + value


def called(operation: str, seconds: float) -> None:
    """Add a call to a service to the line of the work in hand; without any, do nothing."""
    work = _work.get()
    if work is not None:
        work.calls += 1
        work.calls_seconds += seconds
        if work.debug:
            work.fields.setdefault("calls", []).append(f"{operation} {seconds * 1000:.1f} ms")


def redact(text: str) -> str:
    """Return `text` without what looks like a secret."""
    return _SECRETS.sub("[redacted]", text)


class Telemetry:
    """Writes the lines of one process."""

    def __init__(self, settings: Settings) -> None:
        self._about = {
            "service": settings.service_name,
            "stage": settings.stage,
            "runtime": settings.runtime,
        }
        self._level = logging.getLevelNamesMapping().get(settings.log_level.upper(), logging.INFO)
        # Of 2^32, as the share of trace ids: all hops of a sampled trace say more, the others nothing.
        # A caller who makes up the trace id can have its lines say more: that costs log, and shows no secret.
        self._sampled_below = (
            1 << 32 if self._level <= logging.DEBUG else int(settings.debug_sample_percent / 100 * (1 << 32))
        )
        self.cold_start = True

    def begin(
        self, request_id: str, correlation_id: str = "", traceparent: str = "", xray_trace: str = ""
    ) -> Work:
        """Start a unit of work: continue the caller's trace, and let everything below know it."""
        work = Work(request_id)
        self.follow(work, correlation_id, traceparent, xray_trace)
        _work.set(work)
        return work

    def follow(
        self, work: Work, correlation_id: str = "", traceparent: str = "", xray_trace: str = ""
    ) -> None:
        """Let the work belong to this trace, or to a new one when none is given."""
        parent = context.child_span(traceparent, xray_trace)
        trace_id = parent[3:35]
        # The platform's segments may be in another trace than the one that the caller asked for.
        platform = context.xray_trace_id(xray_trace) if traceparent and xray_trace else ""
        identity = work.identity
        identity["correlation_id"] = correlation_id = correlation_id or identity["request_id"]
        identity["trace_id"] = trace_id
        identity["xray_trace_id"] = platform or f"1-{trace_id[:8]}-{trace_id[8:]}"
        work.debug = self._sampled_below > 0 and int(trace_id[-8:], 16) < self._sampled_below
        context.traceparent.set(parent)
        context.correlation_id.set(correlation_id)

    def write(self, work: Work, location: str, message: str, level: int = logging.INFO) -> None:
        """Write the line of a piece of work, with all that was noted and counted.

        Metrics are made of lines, so a line that counts is written whatever the level: a service whose
        good requests are not counted looks as if all of them failed.
        """
        if level < self._level and not work.debug and not work.metrics:
            return
        now = time.time()
        line: dict[str, Any] = {
            "level": logging.getLevelName(level),
            "location": location,
            "message": message,
            "timestamp": _timestamp(now),
            **self._about,
            "cold_start": self.cold_start,
            **work.identity,
            **work.fields,
        }
        if work.calls:
            line["dependency_calls"] = work.calls
            line["dependency_ms"] = round(work.calls_seconds * 1000, 2)
        if work.metrics:
            line |= work.metrics
            line["_aws"] = {
                "Timestamp": int(now * 1000),
                "CloudWatchMetrics": _directives(tuple(work.metrics)),
            }
        _print(line)

    @contextmanager
    def record(
        self, location: str, message: str, request_id: str, *, failures: str = "", **trace: str
    ) -> Iterator[Work]:
        """Begin work, and write its line at the end, however it ends; errors go on to the caller.

        An error counts in the metric `failures`. `trace` is what `begin` takes.
        """
        work = self.begin(request_id, **trace)
        begun = time.perf_counter()
        level = logging.INFO
        try:
            yield work
        except Exception as error:
            level = logging.ERROR
            note(error=type(error).__name__, cause=redact(str(error)))
            if failures:
                count(failures)
            raise
        finally:
            work.fields["latency_ms"] = round((time.perf_counter() - begun) * 1000, 2)
            self.write(work, location, message, level)
            self.cold_start = False
            _work.set(None)

    def install(self) -> None:
        """Let everything that uses `logging` write lines with the same fields."""
        handler = logging.StreamHandler(_Stdout())
        handler.setFormatter(_Formatter(self._about))
        root = logging.getLogger()
        root.handlers = [handler]  # in place of what the Lambda runtime put there
        # Libraries say what matters at WARNING; their DEBUG may hold secrets (botocore's headers).
        root.setLevel(max(self._level, logging.WARNING))
        logging.getLogger("orders").setLevel(self._level)
        logging.getLogger("uvicorn").setLevel(self._level)


class _Formatter(logging.Formatter):
    """A `logging` record as a line, within the work in hand if there is any."""

    def __init__(self, about: Mapping[str, str]) -> None:
        super().__init__()
        self._about = about

    def format(self, record: logging.LogRecord) -> str:
        work = _work.get()
        line: dict[str, Any] = {
            "level": record.levelname,
            "location": f"{record.name}:{record.funcName}:{record.lineno}",
            "message": redact(record.getMessage()),
            "timestamp": _timestamp(record.created),
            **self._about,
            **(work.identity if work else {}),
        }
        for name in record.__dict__.keys() - _RECORD_FIELDS:
            line[name] = "[redacted]" if _SECRET_NAMES.search(name) else redact(str(record.__dict__[name]))
        if record.exc_info and record.exc_info[0]:
            line["exception_name"] = record.exc_info[0].__name__
            line["exception"] = redact(self.formatException(record.exc_info))
        return _encode(line).decode()


class _Stdout:
    """Today's standard output, whatever it was when logging was set up."""

    def write(self, text: str) -> int:
        return sys.stdout.write(text)

    def flush(self) -> None:
        sys.stdout.flush()


def _print(line: Mapping[str, Any]) -> None:
    sys.stdout.write(_encode(line).decode() + "\n")
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
        unit, dimensions = METRICS[name]
        by_dimensions.setdefault(dimensions, []).append({"Name": name, "Unit": unit})
    return msgspec.Raw(
        _encode(
            [
                {"Namespace": NAMESPACE, "Dimensions": dimensions, "Metrics": metrics}
                for dimensions, metrics in by_dimensions.items()
            ]
        )
    )
