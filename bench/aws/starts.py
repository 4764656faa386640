"""Cold starts, as Lambda itself reports them.

Each call of a function ends with a report: a line of text, or the record `platform.report` where the log
format is JSON (https://docs.aws.amazon.com/lambda/latest/dg/telemetry-schema-reference.html#platform-report).
The templates set the system log level to WARN, at which Lambda writes it of failed calls only: the report of a
good call is INFO, that of an initialization DEBUG
(https://docs.aws.amazon.com/lambda/latest/dg/monitoring-cloudwatchlogs-log-level.html). So `$LATEST` is set to INFO and
DEBUG in turn and put back. Callers of the API do not notice, for its alias `live` serves them; relay and consumers run
`$LATEST`, and what they do meanwhile starts anew too. Each change makes Lambda start `$LATEST` anew, and the tail of the
log comes with the answer, so nothing is read from the log group.

X-Ray has the cold starts that callers saw during the run, for the calls that it sampled.
"""

from __future__ import annotations

import base64
import contextlib
import json
import signal
from collections.abc import Iterator, Mapping
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError, WaiterError
from scripts.cli import CliError

from bench.aws.callers import percentile
from bench.aws.target import Target
from bench.child import event_of

LEVELS = ("DEBUG", "INFO")  # at both of them reports are written, and each change is a new start
TRACES = 500  # read back at most
_TRACES_A_CALL = 5  # https://docs.aws.amazon.com/xray/latest/devguide/xray-api-gettingdata.html
_FIELDS = {
    "duration_ms": ("durationMs", "Duration"),
    "billed_ms": ("billedDurationMs", "Billed Duration"),
    "memory_mb": ("memorySizeMB", "Memory Size"),
    "used_mb": ("maxMemoryUsedMB", "Max Memory Used"),
    "init_ms": ("initDurationMs", "Init Duration"),
    # Of SnapStart, which takes neither container images nor $LATEST; for a function that was made over to it.
    # https://docs.aws.amazon.com/lambda/latest/dg/snapstart.html
    "restore_ms": ("restoreDurationMs", "Restore Duration"),
}
Report = dict[str, float]
"""Figures of one call, by the names of `_FIELDS`; those that the report has."""


class CallFailed(CliError):
    """A function failed when it was called for its report."""


def reports(log: str) -> Iterator[Report]:
    """Read the reports in a piece of log, of either format; other lines, also torn ones, are passed over."""
    for line in log.splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            if line.startswith("REPORT RequestId: "):
                parts = dict(part.split(": ", 1) for part in line.split("\t") if ": " in part)
                values = {
                    name: parts[title].split()[0] for name, (_, title) in _FIELDS.items() if title in parts
                }
            else:
                event = json.loads(line)
                if event["type"] != "platform.report":
                    continue
                metrics = event["record"]["metrics"]
                values = {name: metrics[key] for name, (key, _) in _FIELDS.items() if key in metrics}
            yield {name: float(value) for name, value in values.items()}


def cold_starts(functions: Any, target: Target, rounds: int, token: str) -> dict[str, Any]:
    """Start each function anew `rounds` times, call it twice each time; return what its reports say."""
    found = {}
    for logical_id, name in target.functions.items():
        payload = json.dumps(event_for(logical_id, target, token)).encode()
        calls: list[Report] = []
        with _reporting(functions, name) as change:
            for number in range(rounds):
                change(LEVELS[number % 2])
                calls += _call(functions, name, payload)
                calls += _call(functions, name, payload)
        found[logical_id] = _figures(calls)
    return found


# A removed item, of which no event is made, and an event that is for no consumer.
_REMOVED = {
    "eventSource": "aws:dynamodb",
    "eventName": "REMOVE",
    "dynamodb": {"SequenceNumber": "1", "Keys": {"pk": {"S": "order#bench"}}},
}
_OF_NO_TYPE = {
    "eventSource": "aws:sqs",
    "messageId": "bench",
    "body": json.dumps({"detail-type": "Bench", "detail": {}}),
}


def event_for(function: str, target: Target, token: str) -> dict[str, Any]:
    """Return what a function is called with: a read of one order, or a record that it has nothing to do for."""
    if function in target.workers:
        return {"Records": [_OF_NO_TYPE if function in target.consumers else _REMOVED]}
    event: dict[str, Any] = event_of("get", "v2")
    entry_point = target.entry_point("lambda")
    headers = event["headers"] | (dict(entry_point.headers) if entry_point else {})
    if token:
        headers["authorization"] = f"Bearer {token}"
    return event | {"headers": headers}


@contextlib.contextmanager
def _reporting(functions: Any, name: str) -> Iterator[Any]:
    """Give what sets the system log level of `$LATEST`; put back at the end, whatever happens."""
    before = functions.get_function_configuration(FunctionName=name)["LoggingConfig"]
    changed = False

    def change(level: str) -> None:
        nonlocal changed
        _wait_until_updated(functions, name)
        with _uninterrupted():
            functions.update_function_configuration(
                FunctionName=name, LoggingConfig=before | {"LogFormat": "JSON", "SystemLogLevel": level}
            )
            changed = True
        _wait_until_updated(functions, name)

    try:
        yield change
    finally:
        if changed:
            with _uninterrupted():
                _put_back(functions, name, before)


def _put_back(functions: Any, name: str, logging: Mapping[str, str]) -> None:
    try:
        with contextlib.suppress(WaiterError):
            _wait_until_updated(functions, name)
        functions.update_function_configuration(FunctionName=name, LoggingConfig=logging)
        _wait_until_updated(functions, name)
    except (BotoCoreError, ClientError) as error:
        by_hand = f"aws lambda update-function-configuration --function-name {name} --logging-config"
        raise CliError(
            f"{name} could not be put back ({error}); do so by: {by_hand} '{json.dumps(logging)}'"
        ) from None


def _wait_until_updated(functions: Any, name: str) -> None:
    """Wait until the last update is done: during one Lambda rejects another."""
    functions.get_waiter("function_updated_v2").wait(
        FunctionName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 120}
    )


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let Ctrl-C wait until the end, and count then."""
    came: list[int] = []
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def _call(functions: Any, name: str, payload: bytes) -> list[Report]:
    """Call `$LATEST` once; return the reports in its tail, which is the last 4 KB of the call's log."""
    answer = functions.invoke(FunctionName=name, LogType="Tail", Payload=payload)
    body = answer["Payload"].read()
    if "FunctionError" in answer:
        raise CallFailed(f"{name} fails when it is called: {body[:300].decode(errors='replace')}")
    return list(reports(base64.b64decode(answer.get("LogResult", "")).decode(errors="replace")))


def _figures(calls: list[Report]) -> dict[str, Any]:
    """Return medians and extremes of cold and warm calls; `calls` is how many of either were reported."""
    cold = [call for call in calls if "init_ms" in call or "restore_ms" in call]
    found: dict[str, Any] = {"calls": len(calls), "cold": len(cold)}
    for kind, of_kind in (("cold", cold), ("warm", [call for call in calls if call not in cold])):
        for name in _FIELDS:
            values = [call[name] for call in of_kind if name in call]
            if values:
                found[f"{kind}_{name}"] = {"median": percentile(values, 0.5), "max": max(values)}
    return found


def traced(xray: Any, target: Target, began: Any, ended: Any) -> dict[str, Any]:
    """Return what X-Ray recorded of each function: traces, and how long `live` was initialized.

    The segment of a function, origin `AWS::Lambda::Function`, has a subsegment Initialization after a cold
    start. https://docs.aws.amazon.com/lambda/latest/dg/services-xray.html
    """
    found = {}
    for logical_id, name in target.functions.items():
        ids = _trace_ids(xray, name, began, ended)
        took: list[float] = []
        for first in range(0, min(len(ids), TRACES), _TRACES_A_CALL):
            answer = xray.batch_get_traces(TraceIds=ids[first : first + _TRACES_A_CALL])
            took += [each for trace in answer["Traces"] for each in _initializations(trace, name)]
        figures: dict[str, float] = {"traces": len(ids), "cold": len(took)}
        if took:
            figures |= {"init_p50_ms": percentile(took, 0.5), "init_max_ms": max(took)}
        found[logical_id] = figures
    return found


def _trace_ids(xray: Any, name: str, began: Any, ended: Any) -> list[str]:
    pages = xray.get_paginator("get_trace_summaries").paginate(
        StartTime=began, EndTime=ended, Sampling=False, FilterExpression=f'service("{name}")'
    )
    return [summary["Id"] for page in pages for summary in page["TraceSummaries"]]


def _initializations(trace: Mapping[str, Any], name: str) -> Iterator[float]:
    for segment in trace["Segments"]:
        document = json.loads(segment["Document"])
        if document.get("origin") != "AWS::Lambda::Function" or document.get("name") != name:
            continue
        for part in document.get("subsegments", []):
            if part["name"] in ("Initialization", "Restore"):
                yield (part["end_time"] - part["start_time"]) * 1e3


def recorded(xray: Any, target: Target, began: Any, ended: Any) -> dict[str, int]:
    """Return how many traces X-Ray recorded of each function."""
    return {each: len(_trace_ids(xray, name, began, ended)) for each, name in target.functions.items()}
