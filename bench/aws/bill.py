"""What the run costs before it begins, and what a million requests cost by what CloudWatch counted of it.

Prices and the lines of the bill are those of `costs/`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple

from costs.model import (
    TARGET_REQUESTS,
    TARGET_UTILIZATION,
    Measured,
    Prices,
    Setup,
    Traffic,
    monthly,
    task_hour,
)

from app.core.dynamodb.repository import INDEXES
from bench.aws.callers import ENDPOINTS, percentile
from bench.aws.target import Target

_PERIOD = 60  # of every metric that is read; the measured interval is whole minutes
_METRICS_A_CALL = (
    500  # https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_GetMetricData.html
)
LOOKS = 12  # at CloudWatch
_WHOLE = 0.98  # of the requests: a few may have failed on their way
_COLD_CALL_SECONDS = 4.0  # billed, on the careful side
_ADDED_TASK_HOURS = (
    0.5  # should scaling answer the load: it takes a task back after 15 minutes at the earliest
)


class Metric(NamedTuple):
    """One series of CloudWatch."""

    namespace: str
    name: str
    dimensions: Mapping[str, str]
    statistic: str = "Sum"


@dataclass(frozen=True)
class Interval:
    """Whole minutes in which one entry point was given the mix, and what was sent."""

    began: datetime
    ended: datetime
    sent: int
    placed: int
    changed: int
    received_bytes: int


def setup_of(target: Target) -> Setup:
    """Return the sizes that the stack was deployed with, for the cost model."""
    given, default = target.parameters, Setup()

    def number(name: str, otherwise: int) -> int:
        return int(float(given.get(name) or otherwise))

    return Setup(
        fargate_cpu_units=number("FargateCpuUnits", default.fargate_cpu_units),
        fargate_min_tasks=number("FargateMinTasks", default.fargate_min_tasks),
        network_egress=given.get("NetworkEgress") or default.network_egress,
        architecture=given.get("Architecture") or default.architecture,
    )


def variable(
    runtime: str, traffic: Traffic, setup: Setup, measured: Measured, prices: Prices
) -> dict[str, float]:
    """Return what these requests add to a month's bill, by line."""
    with_them, without = (
        monthly(runtime, replace(traffic, requests=n), setup, measured, prices)
        for n in (traffic.requests, 0.0)
    )
    return {line: usd - without[line] for line, usd in with_them.items() if usd - without[line] > 1e-12}


def estimate(
    requests: Mapping[str, tuple[int, int]],
    calls: int,
    metrics: int,
    setup: Setup,
    measured: Measured,
    prices: Prices,
) -> float:
    """Return the USD that a run costs at most. `requests` and orders placed among them, by entry point."""
    usd = 0.0
    for entry_point, (count, placed) in requests.items():
        share = placed / count
        traffic = Traffic(
            float(count),
            place_share=share,
            change_share=share,
            list_share=min(0.3, 1 - 2 * share),
            cold_share=0.01,
        )
        at_edge = replace(setup, cloudfront=entry_point == "edge")
        usd += sum(
            variable(
                "lambda" if entry_point == "edge" else entry_point, traffic, at_edge, measured, prices
            ).values()
        )
    usd += (
        calls
        * _COLD_CALL_SECONDS
        * setup.lambda_memory_mb
        / 1024
        * prices[f"lambda_gb_second_{setup.architecture}"]
    )
    usd += metrics / 1e3 * prices["thousand_metrics_read"] + 1000 / 1e6 * prices["xray_million_traces_read"]
    if "fargate" in requests:
        usd += _ADDED_TASK_HOURS * task_hour(setup, prices)
    return usd


def metrics(target: Target, entry_point: str) -> dict[str, Metric]:
    """Return what is read of CloudWatch for one entry point's interval."""
    service, table = {"service": target.stack}, target.resources.get("OrdersTable", "")
    found: dict[str, Metric] = {}
    for each, name in (target.functions if entry_point == "lambda" else target.workers).items():
        function = {"FunctionName": name}
        found[f"{each}.calls"] = Metric("AWS/Lambda", "Invocations", function)
        found[f"{each}.ms"] = Metric("AWS/Lambda", "Duration", function)
    for index in ("", *INDEXES):
        of_index = {"TableName": table} | ({"GlobalSecondaryIndexName": index} if index else {})
        for kind in ("Write", "Read"):
            found[f"{kind}.{index}"] = Metric("AWS/DynamoDB", f"Consumed{kind}CapacityUnits", of_index)
    for consumer, url in target.consumers.items():
        queue = {"QueueName": url.rpartition("/")[2]}
        for name in ("Sent", "Received", "Deleted"):
            found[f"queue.{consumer}.{name}"] = Metric("AWS/SQS", f"NumberOfMessages{name}", queue)
        found[f"consumed.{consumer}"] = Metric("Orders", "ConsumedEvents", service | {"location": consumer})
    for group in ("api", "functions"):
        of_group = {"LogGroupName": f"/{target.stack}/{group}"}
        found[f"log.{group}"] = Metric("AWS/Logs", "IncomingBytes", of_group)
    found["EventsRelayed"] = Metric("Orders", "EventsRelayed", service)
    found["lag.p50"] = Metric("Orders", "RelayLag", service, "p50")
    found["lag.p99"] = Metric("Orders", "RelayLag", service, "p99")
    for endpoint in ENDPOINTS:
        method, _, route = endpoint.partition(" ")
        for statistic in ("p50", "p99"):
            of_route = service | {"method": method, "route": route}
            found[f"{endpoint}.{statistic}"] = Metric("Orders", "Latency", of_route, statistic)
    return found | _entry_point_metrics(target, entry_point)


def _entry_point_metrics(target: Target, entry_point: str) -> dict[str, Metric]:
    if entry_point == "lambda":
        group = f"/aws/vendedlogs/{target.stack}/api-gateway"
        return {
            "requests": Metric("AWS/ApiGateway", "Count", {"ApiId": target.resources.get("HttpApi", "")}),
            "log.api-gateway": Metric("AWS/Logs", "IncomingBytes", {"LogGroupName": group}),
        }
    # The last three parts of its ARN: app/<name>/<id>
    balancer = {"LoadBalancer": "/".join(target.resources.get("LoadBalancer", "").split("/")[-3:])}
    return {
        "requests": Metric("AWS/ApplicationELB", "RequestCount", balancer),
        "connections.new": Metric("AWS/ApplicationELB", "NewConnectionCount", balancer),
        "connections.active": Metric("AWS/ApplicationELB", "ActiveConnectionCount", balancer),
        "balancer.bytes": Metric("AWS/ApplicationELB", "ProcessedBytes", balancer),
    }


def read(
    cloudwatch: Any, wanted: Mapping[str, Metric], began: datetime, ended: datetime
) -> dict[str, list[float]]:
    """Return the values of each series, one a minute; none where nothing was counted."""
    names = list(wanted)
    values: dict[str, list[float]] = {name: [] for name in names}
    for first in range(0, len(names), _METRICS_A_CALL):
        queries = [
            {
                "Id": f"m{number}",
                "MetricStat": {
                    "Metric": {
                        "Namespace": metric.namespace,
                        "MetricName": metric.name,
                        "Dimensions": [{"Name": k, "Value": v} for k, v in metric.dimensions.items()],
                    },
                    "Period": _PERIOD,
                    "Stat": metric.statistic,
                },
            }
            for number, metric in enumerate(list(wanted.values())[first : first + _METRICS_A_CALL], first)
        ]
        pages = cloudwatch.get_paginator("get_metric_data").paginate(
            MetricDataQueries=queries, StartTime=began, EndTime=ended
        )
        for page in pages:
            for result in page["MetricDataResults"]:
                values[names[int(result["Id"][1:])]] += result["Values"]
    return values


def complete(
    cloudwatch: Any,
    wanted: Mapping[str, Metric],
    interval: Interval,
    pause_seconds: float,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, list[float]] | None:
    """Read until all that was sent is counted and nothing changes any more; None when that never happens.

    CloudWatch is minutes late, and not equally late for all services.
    """
    before: dict[str, list[float]] = {}
    for look in range(LOOKS):
        if look:
            sleep(pause_seconds)
        counted = read(cloudwatch, wanted, interval.began, interval.ended)
        if sum(counted["requests"]) >= _WHOLE * interval.sent and counted == before:
            return counted
        before = counted
    return None


Line = tuple[str, float, str, float]
"""Line of the bill, amount in its unit for a million requests, unit, USD for a million requests."""


def lines(
    counted: Mapping[str, Sequence[float]],
    interval: Interval,
    target: Target,
    entry_point: str,
    traces: Mapping[str, float],
    borne: float | None,
    prices: Prices,
) -> list[Line]:
    """Return the bill of a million requests like the interval's. `borne` is the rate that one task bore."""
    setup = setup_of(target)
    total = {name: sum(values) for name, values in counted.items()}
    requests = total["requests"]
    found: list[Line] = []

    def line(title: str, amount: float, unit: str, price: float) -> None:
        found.append((title, amount / requests * 1e6, unit, amount / requests * 1e6 * price))

    def gb_seconds(*functions: str) -> float:
        # Billed in whole milliseconds, rounded up: half of one a call, on average.
        ms = sum(total[f"{each}.ms"] + total[f"{each}.calls"] / 2 for each in functions)
        return ms / 1e3 * setup.lambda_memory_mb / 1024

    gb_second = prices[f"lambda_gb_second_{setup.architecture}"]
    if entry_point == "lambda":
        line("API: HTTP API", requests, "requests", prices["http_api_million_requests"] / 1e6)
        calls = total["ApiFunction.calls"]
        line("Compute: Lambda requests", calls, "requests", prices["lambda_million_requests"] / 1e6)
        line("Compute: Lambda GB-seconds", gb_seconds("ApiFunction"), "GB-s", gb_second)
        line("Logs of the HTTP API", total["log.api-gateway"] / 1024**3, "GB", prices["logs_gb"])
        line(
            "X-Ray: API function", traces.get("ApiFunction", 0), "traces", prices["xray_million_traces"] / 1e6
        )
    else:
        seconds = (interval.ended - interval.began).total_seconds()
        # https://aws.amazon.com/elasticloadbalancing/pricing/ : the dimension that is used most counts.
        lcu = max(
            total["connections.new"] / seconds / 25,
            total["connections.active"] / (seconds / 60) / 3000,
            total["balancer.bytes"] / 1024**3 / (seconds / 3600),
        )
        line("API: load balancer", lcu * seconds / 3600, "LCU-hours", prices["alb_lcu_hour"])
        # Not what ran, which is a matter of the rate, but what scaling would keep: see costs/model.py.
        kept = TARGET_REQUESTS * setup.fargate_cpu_units / 256
        kept = min(kept, borne * TARGET_UTILIZATION) if borne else kept
        found.append(
            (
                "Compute: Fargate",
                1e6 / kept / 3600,
                "task-hours",
                1e6 / kept / 3600 * task_hour(setup, prices),
            )
        )
    writes, reads = (sum(total[f"{kind}.{index}"] for index in ("", *INDEXES)) for kind in ("Write", "Read"))
    line("DynamoDB: writes", writes, "units", prices["dynamodb_million_writes"] / 1e6)
    line("DynamoDB: reads", reads, "units", prices["dynamodb_million_reads"] / 1e6)
    events = total["EventsRelayed"]
    line("EventBridge: bus", events, "events", prices["eventbridge_million_events"] / 1e6)
    messages = sum(count for name, count in total.items() if name.startswith("queue."))
    line("SQS", messages, "requests", prices["sqs_million_requests"] / 1e6)
    calls = sum(total[f"{each}.calls"] for each in target.workers)
    line("Lambda: relay and consumers, requests", calls, "requests", prices["lambda_million_requests"] / 1e6)
    line("Lambda: relay and consumers, GB-seconds", gb_seconds(*target.workers), "GB-s", gb_second)
    line("S3: receipts", total.get("consumed.receipts", 0.0), "PUTs", prices["s3_thousand_puts"] / 1e3)
    behind = sum(traces.get(each, 0) for each in target.workers)
    line("X-Ray: relay and consumers", behind, "traces", prices["xray_million_traces"] / 1e6)
    logged = total["log.api"] + total["log.functions"]
    line("CloudWatch: logs", logged / 1024**3, "GB", prices["logs_gb"])
    # What the client received, for no metric counts the transfer alone; all callers' share of it.
    sent_out = interval.received_bytes / interval.sent * requests
    line("Transfer to the internet", sent_out / 1024**3, "GB", prices["transfer_out_gb"])
    return found


def server_side(counted: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """Return what the application logged of each endpoint: the median minute's p50, the worst minute's p99."""
    found = {}
    for name in [*ENDPOINTS, "lag"]:
        if middle := counted.get(f"{name}.p50"):
            found[name] = {"p50_ms": percentile(middle, 0.5), "p99_ms": max(counted[f"{name}.p99"])}
    return found


def assumptions(
    counted: Mapping[str, Sequence[float]],
    interval: Interval,
    target: Target,
    entry_point: str,
    measured: Measured,
) -> list[tuple[str, float, float]]:
    """Return what the cost model takes for granted: its name, as counted here, as the model has it."""
    total = {name: sum(values) for name, values in counted.items()}
    memory = setup_of(target).lambda_memory_mb
    worker_ms = sum(total[f"{each}.ms"] for each in target.workers)
    handled = total["EventsRelayed"] + sum(total[f"consumed.{each}"] for each in target.consumers)
    logged = total["log.api"] + total["log.functions"]
    writes = sum(total[f"Write.{index}"] for index in ("", *INDEXES))
    found = [
        ("write units of an order placed or changed", writes / (interval.placed + interval.changed), 4.0),
        (
            "KB of log for a request or event",
            logged / (total["requests"] + handled) / 1024,
            Traffic(0).log_kb,
        ),
    ]
    if handled:
        found.append(
            ("ms of relay and consumers for an event", worker_ms / handled, measured.worker_billed_ms)
        )
    if entry_point == "lambda" and total["ApiFunction.calls"]:
        mean = total["ApiFunction.ms"] / total["ApiFunction.calls"]
        found.append(("ms of the API function for a request", mean, measured.lambda_billed_ms(memory)))
    return found
