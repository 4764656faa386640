"""Evaluates alarms as CloudWatch does, on series of raw samples: as much of it as our alarms use.

https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/using-metric-math.html
https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/alarm-evaluation.html

Left out: the few more points that CloudWatch looks at when some are missing, and partial periods.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

Key = tuple[str, str, frozenset[tuple[str, str]]]  # namespace, name, dimensions
Samples = list[list[float]]  # of each minute, the last one now
Points = list[float | None]  # of each period; None: no data


def key(namespace: str, name: str, **dimensions: str) -> Key:
    """Name a metric."""
    return namespace, name, frozenset(dimensions.items())


class Metrics:
    """What CloudWatch knows: the samples of each metric."""

    def __init__(self, series: Mapping[Key, Samples]) -> None:
        self._series = series

    def points(self, metric: dict[str, Any], period: int, stat: str, count: int) -> Points:
        """Return the last `count` points of a metric."""
        dimensions = frozenset(
            (dimension["Name"], dimension["Value"]) for dimension in metric.get("Dimensions", [])
        )
        samples = self._series.get((metric["Namespace"], metric["MetricName"], dimensions), [])
        minutes = period // 60
        points: Points = []
        for n in range(count, 0, -1):
            start, end = len(samples) - n * minutes, len(samples) - (n - 1) * minutes
            found = [value for minute in samples[max(start, 0) : max(end, 0)] for value in minute]
            points.append(statistic(stat, found) if found else None)
        return points


def statistic(stat: str, values: list[float]) -> float:
    """Return one statistic of a period's samples."""
    if stat == "Sum":
        return sum(values)
    if stat == "Average":
        return sum(values) / len(values)
    if stat == "Maximum":
        return max(values)
    if stat == "SampleCount":
        return len(values)
    if percentile := re.fullmatch(r"p([0-9.]+)", stat):
        return sorted(values)[math.ceil(float(percentile[1]) / 100 * len(values)) - 1]
    if rank := re.fullmatch(r"PR\(:([0-9.]+)\)", stat):
        return 100 * sum(value <= float(rank[1]) for value in values) / len(values)
    raise NotImplementedError(stat)


def state(alarm: dict[str, Any], metrics: Metrics, before: str = "OK") -> str:
    """Return the state of a metric alarm."""
    count = alarm["EvaluationPeriods"]
    needed = alarm.get("DatapointsToAlarm", count)
    breaches = _COMPARISONS[alarm["ComparisonOperator"]]
    missing = alarm.get("TreatMissingData", "missing")
    points = _alarm_points(alarm, metrics, count)
    if all(point is None for point in points):
        match missing:
            case "ignore":
                return before
            case "missing":
                return "INSUFFICIENT_DATA"
    bad = sum(
        missing == "breaching" if point is None else breaches(point, float(alarm["Threshold"]))
        for point in points
    )
    return "ALARM" if bad >= needed else "OK"


def composite_state(alarm: dict[str, Any], state_of: Callable[[str], str]) -> str:
    """Return the state of a composite alarm, of whose rules we know ALARM("x") joined by AND."""
    parts = [re.fullmatch(r'ALARM\("([\w.]+)"\)', part) for part in alarm["AlarmRule"].split(" AND ")]
    assert all(parts), alarm["AlarmRule"]
    return "ALARM" if all(state_of(part[1]) == "ALARM" for part in parts if part) else "OK"


_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "GreaterThanThreshold": lambda value, threshold: value > threshold,
    "LessThanThreshold": lambda value, threshold: value < threshold,
    "GreaterThanOrEqualToThreshold": lambda value, threshold: value >= threshold,
}


def _alarm_points(alarm: dict[str, Any], metrics: Metrics, count: int) -> Points:
    if "Metrics" not in alarm:
        stat = alarm.get("Statistic") or alarm["ExtendedStatistic"]
        return metrics.points(alarm, alarm["Period"], stat, count)
    queries = {query["Id"]: query for query in alarm["Metrics"]}
    (wanted,) = (query for query in queries.values() if query.get("ReturnData", True))
    periods = {query["MetricStat"]["Period"] for query in queries.values() if "MetricStat" in query}
    assert len(periods) == 1, "the metrics of one alarm share a period"

    def series(name: str) -> Points:
        query = queries[name]
        if "Expression" in query:
            return _evaluate(ast.parse(query["Expression"], mode="eval").body, series, count)
        measured = query["MetricStat"]
        return metrics.points(measured["Metric"], measured["Period"], measured["Stat"], count)

    return series(wanted["Id"])


def _evaluate(node: ast.expr, series: Callable[[str], Points], count: int) -> Points:
    """Evaluate an expression of metric math, whose syntax is a part of Python's."""

    def of(operand: ast.expr) -> Points:
        return _evaluate(operand, series, count)

    match node:
        case ast.Constant(value=int() | float() as number):
            return [float(number)] * count
        case ast.Name(id=name):
            return series(name)
        case ast.BinOp(left=left, op=operator, right=right):
            return [_apply(type(operator), a, b) for a, b in zip(of(left), of(right), strict=True)]
        case ast.Compare(left=left, ops=[operator], comparators=[right]):
            return [_apply(type(operator), a, b) for a, b in zip(of(left), of(right), strict=True)]
        case ast.Call(func=ast.Name(id="FILL"), args=[inner, value]):
            return [b if a is None else a for a, b in zip(of(inner), of(value), strict=True)]
        case ast.Call(func=ast.Name(id="IF"), args=[condition, then, otherwise]):
            chosen = zip(of(condition), of(then), of(otherwise), strict=True)
            return [None if c is None else (a if c else b) for c, a, b in chosen]
    raise NotImplementedError(ast.unparse(node))


def _apply(operator: type[ast.AST], a: float | None, b: float | None) -> float | None:
    if a is None or b is None or (operator is ast.Div and b == 0):
        return None
    return float(_OPERATORS[operator](a, b))


_OPERATORS: dict[type[ast.AST], Callable[[float, float], float]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.GtE: lambda a, b: a >= b,
}
