"""The monthly cost of the stack by line item, from measured figures, a traffic shape and list prices.

All amounts are USD a month of 730 hours; free tiers are left out, so that the figures hold for an
account that has used them up. What is shared by both runtimes is counted for both.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Self

from app.core.dynamodb.repository import INDEXES

HOURS = 730.0
# Not measured here, for there is no AWS here: a DynamoDB call as its users commonly see it, and a consumer
# that makes one slower call to S3 or EventBridge, batched or not. Both are on the careful side.
DATABASE_WAIT_MS = 5.0
WORKER_BILLED_MS = 25.0
SECONDS = HOURS * 3600
PRICES = Path(__file__).with_name("prices.toml")
MEASURED = Path(__file__).parents[1] / "bench" / "results" / "results.json"

# What the templates make, and the log lines they lead to (tests compare).
COPIES = 1 + len(INDEXES)  # of an item whose caller is known: the table's, and one in each index
INTERFACE_ENDPOINTS = ("ecr.api", "ecr.dkr", "logs", "kms")  # NetworkEgress=endpoints
ACCESS_LOG_KB = 0.3  # one line of the HTTP API; the load balancer's go to S3, for next to nothing
CUSTOM_METRICS = 31  # of our own, once each of them was written
ALARM_METRICS = 40  # looked at by alarms, with either runtime
COMPOSITE_ALARMS = 4
FARGATE_SIZES = {256: 512, 512: 1024, 1024: 2048}  # memory in MB by FargateCpuUnits
# Where scaling holds a task: this share of its processor, or requests a second for a quarter of a vCPU.
TARGET_UTILIZATION, TARGET_REQUESTS = 0.5, 200.0
# Container Insights with enhanced observability, for one service with one container: 24 metrics for each of
# cluster, service and task definition and twice for each task, 5 of the service, 2 of the cluster.
# https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/Container-Insights-enhanced-observability-metrics-ECS.html
INSIGHTS_METRICS, INSIGHTS_METRICS_OF_A_TASK = 3 * 24 + 5 + 2, 2 * 24
# Lambda's sampling for X-Ray, which it lets nobody change: one call a second, and of the others a share.
# https://docs.aws.amazon.com/lambda/latest/dg/services-xray.html
TRACED_A_SECOND, TRACED_SHARE = 1.0, 0.05

Items = dict[str, float]
"""Line item -> USD a month."""


@dataclass(frozen=True)
class Prices:
    """List prices of one region, by the keys of prices.toml."""

    region: str
    as_of: str
    usd: dict[str, float]

    @classmethod
    def load(cls, path: Path = PRICES) -> Self:
        """Read a table like prices.toml. Raises `ValueError` when it lacks something."""
        try:
            data = tomllib.loads(path.read_text())
            found = cls(data["region"], data["as_of"], {n: each["usd"] for n, each in data["prices"].items()})
        except (tomllib.TOMLDecodeError, KeyError, TypeError) as lacking:
            raise ValueError(f"{path.name} is no table of prices: {lacking}") from None
        if path != PRICES and (missing := cls.load().usd.keys() - found.usd.keys()):
            raise ValueError(f"{path.name} lacks {', '.join(sorted(missing))}")
        return found

    def __getitem__(self, name: str) -> float:
        return self.usd[name]


@dataclass(frozen=True)
class Measured:
    """What this build needs for one request, and where the figures come from.

    `*_billed_ms` hold at `at_memory_mb`; Lambda's processor share grows with memory up to one vCPU
    at 1,769 MB (https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html), and so the
    time spent computing shrinks, but not the time spent waiting for the database.
    """

    lambda_cpu_ms: float  # computing, at one full vCPU
    lambda_wait_ms: float  # waiting for DynamoDB
    cold_start_cpu_ms: float
    server_cpu_ms: float
    worker_billed_ms: float  # relay or receipts, per event
    source: str

    def lambda_billed_ms(self, memory_mb: int) -> float:
        """Return the billed time of one warm request."""
        return self.lambda_cpu_ms / _vcpus(memory_mb) + self.lambda_wait_ms


@dataclass(frozen=True)
class Traffic:
    """The user's traffic. Shares are of all requests; the rest are reads of one order."""

    requests: float  # a month
    peak_factor: float = 4.0  # busiest rate over mean rate
    place_share: float = 0.10
    change_share: float = 0.10
    list_share: float = 0.10
    response_kb: float = 0.6  # of a whole answer, headers included; a list weighs its items on top
    list_items: float = 20.0
    item_kb: float = 1.0
    stored_million_orders: float = 1.0
    log_kb: float = 0.92  # one line for each request, event and receipt, log and metrics in one
    cold_share: float = 0.001  # of requests that meet a cold start

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not math.isfinite(value) or value < 0:
                raise ValueError(f"{field.name} must be a number of 0 or more, not {value}")
        if self.peak_factor < 1:
            raise ValueError(f"peak_factor must be 1 or more, not {self.peak_factor}")
        if self.place_share + self.change_share + self.list_share > 1:
            raise ValueError("place_share, change_share and list_share must not exceed 1 together")

    @property
    def events(self) -> float:
        """Events a month: one for each order placed and each status changed."""
        return self.requests * (self.place_share + self.change_share)

    @property
    def transfer_gb(self) -> float:
        """GB a month out to the internet."""
        return self.requests * (self.response_kb + self.list_share * self.list_items * 0.25) / 1024**2

    def rates(self) -> Iterator[tuple[float, float]]:
        """Yield (hours, requests a second): some hours at the peak, the others so that the mean holds."""
        mean = self.requests / SECONDS
        peak_hours = HOURS * min(0.25, 1 / self.peak_factor)
        yield peak_hours, mean * self.peak_factor
        rest = HOURS - peak_hours
        if rest > 0:
            yield rest, max(0.0, (self.requests / 3600 - peak_hours * mean * self.peak_factor) / rest)


@dataclass(frozen=True)
class Setup:
    """The sizes and choices, as the templates name them."""

    lambda_memory_mb: int = 1024
    fargate_cpu_units: int = 256
    fargate_min_tasks: int = 2
    fargate_spot_percent: int = 0
    network_egress: str = "single-nat"
    architecture: str = "x86_64"
    zones: int = 2
    cloudfront: bool = False

    def __post_init__(self) -> None:
        allowed = {
            "network_egress": ("nat-per-az", "single-nat", "endpoints"),
            "architecture": ("x86_64", "arm64"),
            "fargate_cpu_units": tuple(FARGATE_SIZES),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ValueError(
                    f"{name} must be one of {', '.join(map(str, values))}, not {getattr(self, name)}"
                )
        if not 128 <= self.lambda_memory_mb <= 10240:
            raise ValueError(f"lambda_memory_mb must be 128 to 10240, not {self.lambda_memory_mb}")
        if not 0 <= self.fargate_spot_percent <= 100:
            raise ValueError(f"fargate_spot_percent must be 0 to 100, not {self.fargate_spot_percent}")
        if self.fargate_min_tasks < 1:
            raise ValueError(f"fargate_min_tasks must be 1 or more, not {self.fargate_min_tasks}")


def lambda_costs(traffic: Traffic, setup: Setup, measured: Measured, prices: Prices) -> Items:
    """Return what the Lambda runtime costs."""
    millions = traffic.requests / 1e6
    first = min(millions, 300.0)
    billed_ms = measured.lambda_billed_ms(setup.lambda_memory_mb)
    cold_ms = measured.cold_start_cpu_ms / _vcpus(setup.lambda_memory_mb)
    seconds = traffic.requests * (billed_ms + traffic.cold_share * cold_ms) / 1000
    gb_seconds = seconds * setup.lambda_memory_mb / 1024
    return {
        "API: HTTP API": first * prices["http_api_million_requests"]
        + (millions - first) * prices["http_api_million_requests_above"],
        "Compute: Lambda requests": millions * prices["lambda_million_requests"],
        "Compute: Lambda GB-seconds": gb_seconds * prices[f"lambda_gb_second_{setup.architecture}"],
        "Logs of the HTTP API": traffic.requests * ACCESS_LOG_KB / 1024**2 * prices["logs_gb"],
        "X-Ray: API function": _traces(traffic, 1.0) / 1e6 * prices["xray_million_traces"],
    }


def _traces(traffic: Traffic, share: float) -> float:
    """Return how many traces a month X-Ray records of a function that a share of the requests calls."""

    def sampled(rate: float) -> float:
        reservoir = min(rate, TRACED_A_SECOND)
        return reservoir + TRACED_SHARE * (rate - reservoir)

    return sum(hours * 3600 * sampled(rate * share) for hours, rate in traffic.rates())


def tasks_for(rate: float, setup: Setup, measured: Measured) -> int:
    """Return how many tasks scaling keeps for `rate` requests a second."""
    by_processor = setup.fargate_cpu_units / 1024 * TARGET_UTILIZATION / (measured.server_cpu_ms / 1000)
    needed = rate / min(by_processor, setup.fargate_cpu_units / 256 * TARGET_REQUESTS)
    return max(setup.fargate_min_tasks, math.ceil(round(needed, 9)))


def task_hour(setup: Setup, prices: Prices) -> float:
    """Return the USD of one task for an hour, on demand."""
    return (
        setup.fargate_cpu_units / 1024 * prices[f"fargate_vcpu_hour_{setup.architecture}"]
        + FARGATE_SIZES[setup.fargate_cpu_units] / 1024 * prices[f"fargate_gb_hour_{setup.architecture}"]
    )


def fargate_costs(traffic: Traffic, setup: Setup, measured: Measured, prices: Prices) -> Items:
    """Return what the Fargate runtime costs."""
    # The first task is always on demand: the template's base of the capacity provider strategy.
    task_hours = sum(hours * tasks_for(rate, setup, measured) for hours, rate in traffic.rates())
    spot = (task_hours - HOURS) * setup.fargate_spot_percent / 100
    paid_hours = task_hours - spot + spot * prices["fargate_spot_share"]
    lcu_hours = sum(hours * _lcus(rate, traffic) for hours, rate in traffic.rates())
    # DynamoDB and S3 go through free gateway endpoints; what is left for a NAT gateway is logs, mostly.
    egress_gb = traffic.requests * traffic.log_kb / 1024**2
    gateways = {"nat-per-az": setup.zones, "single-nat": 1, "endpoints": 0}[setup.network_egress]
    items = {
        "API: load balancer": HOURS * prices["alb_hour"] + lcu_hours * prices["alb_lcu_hour"],
        "Compute: Fargate": paid_hours * task_hour(setup, prices),
        "Container Insights": (INSIGHTS_METRICS + INSIGHTS_METRICS_OF_A_TASK * task_hours / HOURS)
        * prices["insights_metric_month"],
        "Network: public addresses": HOURS * (setup.zones + gateways) * prices["public_ipv4_hour"],
    }
    if gateways:
        items["Network: NAT"] = gateways * HOURS * prices["nat_hour"] + egress_gb * prices["nat_gb"]
    else:
        items["Network: interface endpoints"] = (
            len(INTERFACE_ENDPOINTS) * setup.zones * HOURS * prices["endpoint_hour"]
            + egress_gb * prices["endpoint_gb"]
        )
    return items


def shared(traffic: Traffic, setup: Setup, measured: Measured, prices: Prices) -> Items:
    """Return what both runtimes need besides."""
    placed = traffic.requests * traffic.place_share
    changed = traffic.requests * traffic.change_share
    listed = traffic.requests * traffic.list_share
    read = traffic.requests - placed - changed - listed
    size = math.ceil(traffic.item_kb)
    writes = (placed + changed) * COPIES * size
    # Reads of one order are consistent: a unit for 4 KB. Lists are not: half of one.
    reads = read * math.ceil(traffic.item_kb / 4) + listed * max(
        1.0, traffic.list_items * 1.5 * traffic.item_kb / 8
    )
    stored_gb = traffic.stored_million_orders * 1e6 * traffic.item_kb * COPIES / 1024**2
    event_gb = traffic.events * 1.0 / 1024**2
    handled = traffic.events + placed  # by the relay, and by the receipts function
    worker_seconds = handled * measured.worker_billed_ms / 1000
    traces = _traces(traffic, traffic.place_share + traffic.change_share) + _traces(
        traffic, traffic.place_share
    )
    items = {
        "DynamoDB: requests": writes / 1e6 * prices["dynamodb_million_writes"]
        + reads / 1e6 * prices["dynamodb_million_reads"],
        "DynamoDB: storage and recovery": stored_gb * prices["dynamodb_gb_month"]
        + stored_gb / COPIES * prices["dynamodb_pitr_gb_month"],
        # With bucket keys and DynamoDB's own key cache, requests to KMS grow with time, not with traffic.
        "KMS": 2 * prices["kms_key_month"] + HOURS * 12 / 1e4 * prices["kms_ten_thousand_requests"],
        "EventBridge: bus and archive": traffic.events / 1e6 * prices["eventbridge_million_events"]
        + event_gb * prices["eventbridge_archive_gb"],
        # Sent, received and deleted.
        "SQS": placed * 3 / 1e6 * prices["sqs_million_requests"],
        "Lambda: relay and receipts": handled / 1e6 * prices["lambda_million_requests"]
        + worker_seconds * setup.lambda_memory_mb / 1024 * prices[f"lambda_gb_second_{setup.architecture}"],
        "S3: receipts": placed / 1000 * prices["s3_thousand_puts"]
        + traffic.stored_million_orders * 1e6 * 2 / 1024**2 * prices["s3_gb_month"],
        "X-Ray: relay and receipts": traces / 1e6 * prices["xray_million_traces"],
        "CloudWatch: logs": (traffic.requests + handled) * traffic.log_kb / 1024**2 * prices["logs_gb"],
        "CloudWatch: metrics, alarms, dashboard": CUSTOM_METRICS * prices["metric_month"]
        + ALARM_METRICS * prices["alarm_metric_month"]
        + COMPOSITE_ALARMS * prices["composite_alarm_month"]
        + prices["dashboard_month"],
    }
    if setup.cloudfront:  # transfer from AWS to CloudFront is free
        items["CloudFront"] = (
            traffic.requests / 1e4 * prices["cloudfront_ten_thousand_requests"]
            + traffic.transfer_gb * prices["cloudfront_gb"]
        )
    else:
        items["Transfer to the internet"] = traffic.transfer_gb * prices["transfer_out_gb"]
    return items


RUNTIME_COSTS = {"lambda": lambda_costs, "fargate": fargate_costs}


def monthly(runtime: str, traffic: Traffic, setup: Setup, measured: Measured, prices: Prices) -> Items:
    """Return every line item of one runtime."""
    return RUNTIME_COSTS[runtime](traffic, setup, measured, prices) | shared(traffic, setup, measured, prices)


def break_even(traffic: Traffic, setup: Setup, measured: Measured, prices: Prices) -> float | None:
    """Return the requests a month from which Fargate is the cheaper runtime, or None up to 10^12."""

    def dearer(requests: float) -> bool:
        at = replace(traffic, requests=requests)
        totals = [sum(costs(at, setup, measured, prices).values()) for costs in RUNTIME_COSTS.values()]
        return totals[0] > totals[1]

    low, high = 1.0, 1e12
    if not dearer(high):
        return None
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if dearer(middle) else (middle, high)
    return high


def _vcpus(memory_mb: int) -> float:
    return min(1.0, memory_mb / 1769)


def _lcus(rate: float, traffic: Traffic) -> float:
    """Load balancer capacity units: the dimension that is used most counts.

    https://aws.amazon.com/elasticloadbalancing/pricing/ : 25 new connections a second, 3,000 active
    a minute, 1 GB an hour, 1,000 rule evaluations a second beyond ten rules. Ten requests share a connection.
    """
    gb_per_hour = rate * 3600 * traffic.transfer_gb / traffic.requests if traffic.requests else 0.0
    return max(rate / 10 / 25, rate * 3 / 3000, gb_per_hour)


def load_measured(path: Path = MEASURED) -> Measured:
    """Read what `make bench` wrote. Raises `ValueError` when the file lacks a figure."""
    try:
        found = json.loads(path.read_text())
        ours = {part: found[part]["orders (this project)"] for part in ("cold", "warm", "server")}
        machine = found["machine"]
        get, post, of_50 = (float(ours["warm"][name]) / 1000 for name in ("get", "post", "list"))
        rates = [float(ours["server"][name]) for name in ("get_16", "post_16", "list_16")]
        cold = float(ours["cold"]["cpu_ms"])
    except (KeyError, TypeError, json.JSONDecodeError) as lacking:
        raise ValueError(f"{path.name} lacks {lacking}; make bench writes it") from None
    weights = Traffic.place_share + Traffic.change_share, Traffic.list_share
    shares = (1 - sum(weights), *weights)

    def mean(values: Sequence[float]) -> float:
        return sum(share * value for share, value in zip(shares, values, strict=True))

    return Measured(
        lambda_cpu_ms=mean((get, post, of_50)),
        lambda_wait_ms=DATABASE_WAIT_MS,
        cold_start_cpu_ms=cold,
        server_cpu_ms=mean([1000 / rate for rate in rates]),
        worker_billed_ms=WORKER_BILLED_MS,
        source=f"`make bench`, Python {machine['python']} on {machine['machine']}",
    )
