"""`make bench-aws` over answers as AWS gives them; botocore holds both ways to the services' models.

tests/local/test_bench_aws.py runs it whole.
"""

from __future__ import annotations

import asyncio
import base64
import io
import itertools
import json
import re
import signal
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from bench.aws import __main__ as command
from bench.aws import bill, report, starts
from bench.aws.callers import ENDPOINTS, STEPS, WARM_UP, Budget, Callers, Spent, percentile
from bench.aws.target import EntryPoint, Target, find
from botocore.exceptions import ClientError
from botocore.response import StreamingBody
from botocore.stub import ANY, Stubber
from costs.model import Measured, Prices, Setup
from scripts.cli import CliError
from tests.template.templates import template

from app.core.telemetry import NAMESPACE, metric_definition

ROOT = Path(__file__).parents[2]
PRICES = Prices.load()
MEASURED = Measured(2, 5, 1000, 1, 25, "a test")
BALANCER = "arn:aws:elasticloadbalancing:eu-central-1:111122223333:loadbalancer/app/orders/0123456789abcdef"
RESOURCES = {
    "ApiFunction": "orders-dev-api",
    "RelayFunction": "orders-dev-relay",
    "OrdersTable": "orders-dev-OrdersTable-1",
    "HttpApi": "abcdefghij",
    "LoadBalancer": BALANCER,
    "Cluster": "cluster",
    "Service": "service",
}
LAMBDA = EntryPoint("lambda", "https://abcdefghij.execute-api.eu-central-1.amazonaws.com")
FARGATE = EntryPoint("fargate", "http://orders.elb.amazonaws.com")
EDGE = EntryPoint("edge", "https://d1.cloudfront.net", limited=True)
CONSUMERS = {"receipts": "https://sqs.eu-central-1.amazonaws.com/111122223333/orders-dev-receipts-0f1e2d3c"}
TARGET = Target(
    "orders-dev", "eu-central-1", False, {"Stage": "dev"}, RESOURCES, (LAMBDA, FARGATE), CONSUMERS
)
PROD = replace(TARGET, stack="orders-prod", parameters={"Stage": "prod"})
BEGAN = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
INTERVAL = bill.Interval(BEGAN, BEGAN + timedelta(minutes=2), 2000, 200, 200, 2_000_000)


def client(service: str) -> Any:
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    return boto3.client(service, region_name="eu-central-1", **keys)


# Text as https://docs.aws.amazon.com/lambda/latest/dg/python-logging.html has it, SnapStart's fields as
# https://docs.aws.amazon.com/lambda/latest/dg/snapstart-monitoring.html; records as
# https://docs.aws.amazon.com/lambda/latest/dg/telemetry-schema-reference.html
COLD_LINE = (
    "REPORT RequestId: 8f507cfc-xmpl-4697-b07a-ac58fc914c95\tDuration: 15.74 ms\tBilled Duration: 147 ms\t"
    "Memory Size: 1024 MB\tMax Memory Used: 56 MB\tInit Duration: 130.49 ms\t"
)
RESTORED_LINE = (
    "REPORT RequestId: 8f507cfc-xmpl-4697-b07a-ac58fc914c95\tDuration: 20.70 ms\tBilled Duration: 166 ms\t"
    "Memory Size: 1024 MB\tMax Memory Used: 98 MB\tRestore Duration: 476.48 ms\t"
    "Billed Restore Duration: 145 ms\t\n"
    "XRAY TraceId: 1-5e34a614-10bdxmplf1fb44f07bc535a1\tSegmentId: 07f5xmpl2d1f6f85\tSampled: true\t"
)


def record(**metrics: float) -> str:
    return json.dumps(
        {
            "time": "2022-10-12T00:01:15.000Z",
            "type": "platform.report",
            "record": {
                "metrics": metrics,
                "requestId": "6d68ca91-49c9-448d-89b8-7ca3e6dc66aa",
                "status": "success",
            },
        }
    )


INIT_RECORD = json.dumps(
    {
        "time": "2022-10-12T00:01:15.000Z",
        "type": "platform.initReport",
        "record": {
            "initializationType": "on-demand",
            "status": "success",
            "phase": "init",
            "metrics": {"durationMs": 125.33},
        },
    }
)
COLD = {
    "billedDurationMs": 694,
    "durationMs": 693.92,
    "initDurationMs": 397.68,
    "maxMemoryUsedMB": 84,
    "memorySizeMB": 128,
}
WARM = {"billedDurationMs": 3, "durationMs": 2.11, "maxMemoryUsedMB": 85, "memorySizeMB": 128}


class TestReports:
    def test_a_line_of_text(self) -> None:
        assert list(starts.reports(f"START RequestId: 1 Version: $LATEST\n{COLD_LINE}")) == [
            {"duration_ms": 15.74, "billed_ms": 147, "memory_mb": 1024, "used_mb": 56, "init_ms": 130.49}
        ]

    def test_a_restored_one(self) -> None:
        [found] = starts.reports(RESTORED_LINE)
        assert found["restore_ms"] == 476.48
        assert found["billed_ms"] == 166
        assert "init_ms" not in found

    def test_a_record(self) -> None:
        log = "\n".join([INIT_RECORD, '{"level": "INFO", "message": "request"}', record(**COLD)])
        assert list(starts.reports(log)) == [
            {"duration_ms": 693.92, "billed_ms": 694, "memory_mb": 128, "used_mb": 84, "init_ms": 397.68}
        ]

    def test_a_restored_record(self) -> None:
        [found] = starts.reports(record(**WARM, restoreDurationMs=556.313))
        assert found["restore_ms"] == 556.313

    @pytest.mark.parametrize(
        "log",
        ["", "REPORT RequestId: 1", record(**COLD)[20:], "7", "[]", '{"type": "platform.report"}'],
        ids=["nothing", "no figures", "torn", "a number", "a list", "no record"],
    )
    def test_what_is_none_is_passed_over(self, log: str) -> None:
        assert [each for each in starts.reports(log) if each] == []


class Functions:
    """Lambda with one function whose answers are given, checked against the service's model."""

    LOGGING = {
        "LogFormat": "JSON",
        "ApplicationLogLevel": "DEBUG",
        "SystemLogLevel": "WARN",
        "LogGroup": "/o/api",
    }

    def __init__(self, name: str = "orders-dev-api") -> None:
        self.client = client("lambda")
        self.stub, self.name = Stubber(self.client), name

    def expect_configuration(self) -> None:
        answer = {"FunctionName": self.name, "LoggingConfig": self.LOGGING}
        self.stub.add_response("get_function_configuration", answer, {"FunctionName": self.name})

    def expect_wait_until_updated(self) -> None:
        answer = {"Configuration": {"LastUpdateStatus": "Successful"}}
        self.stub.add_response("get_function", answer, {"FunctionName": self.name})

    def expect_change(self, level: str) -> None:
        self.expect_wait_until_updated()
        expected = {"FunctionName": self.name, "LoggingConfig": self.LOGGING | {"SystemLogLevel": level}}
        self.stub.add_response("update_function_configuration", {}, expected)

    def expect_level(self, level: str) -> None:
        self.expect_change(level)
        self.expect_wait_until_updated()

    def expect_call(self, log: str, error: str = "") -> None:
        answer: dict[str, Any] = {
            "StatusCode": 200,
            "LogResult": base64.b64encode(log.encode()).decode(),
            "Payload": StreamingBody(io.BytesIO(b"{}"), 2),
        }
        if error:
            answer["FunctionError"] = error
        expected = {"FunctionName": self.name, "LogType": "Tail", "Payload": ANY}  # no Qualifier: $LATEST
        self.stub.add_response("invoke", answer, expected)


class TestColdStarts:
    target = replace(TARGET, resources={"ApiFunction": "orders-dev-api"}, consumers={})

    def ends(self, functions: Functions, error: type[BaseException], why: str | None = None) -> None:
        """All that is expected of Lambda comes, and then the error."""
        with functions.stub:
            with pytest.raises(error, match=why):
                starts.cold_starts(functions.client, self.target, 2, "")
            functions.stub.assert_no_pending_responses()

    def test_each_change_of_the_level_is_a_start_and_the_last_puts_back(self) -> None:
        functions = Functions()
        functions.expect_configuration()
        for level in ("DEBUG", "INFO"):
            functions.expect_level(level)
            functions.expect_call(record(**COLD))
            functions.expect_call(record(**WARM))
        functions.expect_level("WARN")
        with functions.stub:
            found = starts.cold_starts(functions.client, self.target, 2, "")["ApiFunction"]
            functions.stub.assert_no_pending_responses()
        assert (found["calls"], found["cold"]) == (4, 2)
        assert found["cold_init_ms"] == {"median": 397.68, "max": 397.68}
        assert found["cold_billed_ms"]["median"] == 694
        assert found["warm_duration_ms"]["median"] == 2.11

    def test_a_function_that_fails_is_put_back_too(self) -> None:
        functions = Functions()
        functions.expect_configuration()
        functions.expect_level("DEBUG")
        functions.expect_call(record(**COLD), error="Unhandled")
        functions.expect_level("WARN")
        self.ends(functions, CliError, "fails when it is called")

    def test_ctrl_c_puts_back_too(self) -> None:
        functions = Functions()
        functions.expect_configuration()
        functions.expect_level("DEBUG")
        functions.expect_level("WARN")

        def interrupt(**_: Any) -> None:
            raise KeyboardInterrupt

        functions.client.meta.events.register("provide-client-params.lambda.Invoke", interrupt)
        self.ends(functions, KeyboardInterrupt)

    @pytest.mark.parametrize("nth", [1, 2])
    def test_ctrl_c_in_the_midst_of_a_change_counts_after_it(self, nth: int) -> None:
        functions = Functions()
        functions.expect_configuration()
        functions.expect_change("DEBUG")
        if nth == 2:  # as it is put back
            functions.expect_wait_until_updated()
            functions.expect_call(record(**COLD), error="Unhandled")
        functions.expect_level("WARN")
        changes: list[None] = []

        def interrupt(**_: Any) -> None:
            changes.append(None)
            if len(changes) == nth:
                signal.raise_signal(signal.SIGINT)

        event = "provide-client-params.lambda.UpdateFunctionConfiguration"
        functions.client.meta.events.register(event, interrupt)
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # as main() sets it
        try:
            self.ends(functions, KeyboardInterrupt)
        finally:
            signal.signal(signal.SIGINT, before)

    def test_without_the_right_nothing_is_changed(self) -> None:
        functions = Functions()
        functions.expect_configuration()
        functions.expect_wait_until_updated()
        functions.stub.add_client_error("update_function_configuration", "AccessDeniedException")
        self.ends(functions, ClientError, "AccessDenied")

    def test_what_cannot_be_put_back_is_told_with_the_command_that_does(self) -> None:
        functions = Functions()
        functions.expect_configuration()
        functions.expect_level("DEBUG")
        functions.expect_call(record(**COLD), error="Unhandled")
        functions.expect_wait_until_updated()
        functions.stub.add_client_error("update_function_configuration", "AccessDeniedException")
        by_hand = f'--function-name {functions.name} --logging-config \'.*"SystemLogLevel": "WARN"'
        self.ends(functions, CliError, by_hand)

    def test_functions_of_prod_are_left_alone(self) -> None:
        bench = command.Bench(None, PROD, command.Plan(), "", PRICES, MEASURED)
        assert bench._starts(print) == {}
        assert "left as they are" in bench.missing[0]
        assert "system log level" not in bench.announcement()


class TestTraces:
    def test_initializations_of_a_function_are_told_from_other_segments(self) -> None:
        # https://docs.aws.amazon.com/xray/latest/devguide/xray-api-segmentdocuments.html
        name = RESOURCES["ApiFunction"]
        init = {"id": "1", "name": "Initialization", "start_time": 1767323045.25, "end_time": 1767323045.75}
        call = {"id": "2", "name": "Invocation", "start_time": 1767323045.75, "end_time": 1767323045.8}
        function = {"id": "3", "name": name, "origin": "AWS::Lambda::Function", "subsegments": [init, call]}
        segments = [
            {"id": "4", "name": name, "origin": "AWS::Lambda", "start_time": 1767323045.0},
            function,
            function | {"name": "another"},
        ]
        ids = [f"1-58406520-{number:024d}" for number in range(7)]
        xray = client("xray")
        target = replace(TARGET, resources={"ApiFunction": name}, consumers={})
        with Stubber(xray) as stub:
            stub.add_response(
                "get_trace_summaries",
                {"TraceSummaries": [{"Id": each} for each in ids], "TracesProcessedCount": 7},
                {
                    "StartTime": BEGAN,
                    "EndTime": ANY,
                    "Sampling": False,
                    "FilterExpression": f'service("{name}")',
                },
            )
            for few in (ids[:5], ids[5:]):  # as many as are given at once
                traces = [
                    {"Id": each, "Segments": [{"Id": s["id"], "Document": json.dumps(s)} for s in segments]}
                    for each in few
                ]
                stub.add_response("batch_get_traces", {"Traces": traces}, {"TraceIds": few})
            found = starts.traced(xray, target, BEGAN, datetime.now(UTC))
        assert found == {"ApiFunction": {"traces": 7, "cold": 7, "init_p50_ms": 500, "init_max_ms": 500}}


class TestMetrics:
    def ask(self, cloudwatch: Any) -> dict[str, list[float]]:
        wanted = {
            "requests": bill.metrics(TARGET, "lambda")["requests"],
            "lag": bill.metrics(TARGET, "lambda")["lag.p99"],
        }
        return bill.read(cloudwatch, wanted, INTERVAL.began, INTERVAL.ended)

    def test_are_read_by_the_minute_over_all_pages(self) -> None:
        cloudwatch = client("cloudwatch")

        def query(
            number: int, namespace: str, name: str, dimension: tuple[str, str], stat: str
        ) -> dict[str, Any]:
            metric = {
                "Namespace": namespace,
                "MetricName": name,
                "Dimensions": [{"Name": dimension[0], "Value": dimension[1]}],
            }
            return {"Id": f"m{number}", "MetricStat": {"Metric": metric, "Period": 60, "Stat": stat}}

        expected = {
            "MetricDataQueries": [
                query(0, "AWS/ApiGateway", "Count", ("ApiId", "abcdefghij"), "Sum"),
                query(1, "Orders", "RelayLag", ("service", "orders-dev"), "p99"),
            ],
            "StartTime": INTERVAL.began,
            "EndTime": INTERVAL.ended,
        }
        first = {
            "Id": "m0",
            "Label": "Count",
            "Values": [1200.0],
            "Timestamps": [BEGAN],
            "StatusCode": "PartialData",
        }
        second = first | {"Values": [800.0], "StatusCode": "Complete"}
        with Stubber(cloudwatch) as stub:
            stub.add_response(
                "get_metric_data", {"MetricDataResults": [first], "NextToken": "more"}, expected
            )
            stub.add_response(
                "get_metric_data", {"MetricDataResults": [second]}, expected | {"NextToken": "more"}
            )
            assert self.ask(cloudwatch) == {"requests": [1200.0, 800.0], "lag": []}

    @pytest.mark.parametrize(
        ("looks", "complete"),
        [
            ([0, 1200, 2000, 2000], True),  # late, then whole and at rest
            ([1990, 1990], True),  # ten never arrived
            ([1200] * bill.LOOKS, False),
            ([*range(2000, 2000 + bill.LOOKS)], False),
        ],
        ids=["late", "nearly all", "never whole", "never at rest"],
    )
    def test_are_taken_once_they_are_whole_and_at_rest(
        self, monkeypatch: pytest.MonkeyPatch, looks: list[float], complete: bool
    ) -> None:
        answers, slept = iter(looks), list[float]()
        monkeypatch.setattr(bill, "read", lambda *_: {"requests": [next(answers)]})
        found = bill.complete(None, {}, INTERVAL, 30, slept.append)
        assert (found is not None) == complete
        assert slept == [30.0] * (len(looks) - 1)
        assert next(answers, None) is None

    @pytest.mark.parametrize("entry_point", ["lambda", "fargate"])
    def test_are_those_that_the_application_and_the_template_make(self, entry_point: str) -> None:
        wanted = bill.metrics(TARGET, entry_point)
        own = [each for each in wanted.values() if each.namespace == NAMESPACE]
        assert own
        for each in own:
            assert tuple(each.dimensions) in metric_definition(each.name)[1]
        source = template()
        groups = {
            re.sub(r"\$\{\S+?\}", "orders-dev", each["Properties"]["LogGroupName"]["Fn::Sub"])
            for resources in (source["Resources"], template("lambda/template.yaml")["Resources"])
            for each in resources.values()
            if each["Type"] == "AWS::Logs::LogGroup"
        }
        logged = [each for each in wanted.values() if each.namespace == "AWS/Logs"]
        assert {each.dimensions["LogGroupName"] for each in logged} <= groups

    def test_a_load_balancer_is_named_by_the_end_of_its_arn(self) -> None:
        assert bill.metrics(TARGET, "fargate")["requests"].dimensions == {
            "LoadBalancer": "app/orders/0123456789abcdef"
        }


def counted(entry_point: str) -> dict[str, list[float]]:
    """2,000 requests in two minutes, in round figures."""
    found: dict[str, list[float]] = {name: [] for name in bill.metrics(TARGET, entry_point)}
    found |= {
        "requests": [1200.0, 800.0],
        "ApiFunction.calls": [1200.0, 800.0],
        "ApiFunction.ms": [9000.0, 6000.0],
        "RelayFunction.calls": [200.0],
        "RelayFunction.ms": [3900.0],
        "receipts.calls": [100.0],
        "receipts.ms": [5950.0],
        "Write.": [400.0],
        "Write.by-shard": [400.0],
        "Write.by-filter": [400.0],
        "Read.": [1400.0],
        "Read.by-shard": [600.0],
        "queue.receipts.Sent": [200.0],
        "queue.receipts.Received": [200.0],
        "queue.receipts.Deleted": [200.0],
        "EventsRelayed": [400.0],
        "consumed.receipts": [200.0],
        "log.api": [2048.0 * 1024],
        "log.functions": [552.0 * 1024],
        "log.api-gateway": [600.0 * 1024],
        "connections.new": [30.0, 30.0],
        "connections.active": [60.0, 60.0],
        "balancer.bytes": [1024.0**3 / 60],
        "GET /orders.p50": [10.0, 12.0, 14.0],
        "GET /orders.p99": [40.0, 90.0, 50.0],
    }
    return found


class TestBill:
    def lines(self, entry_point: str, borne: float | None = None) -> dict[str, tuple[float, float]]:
        traces = {"ApiFunction": 215, "RelayFunction": 120, "receipts": 100}
        found = bill.lines(counted(entry_point), INTERVAL, TARGET, entry_point, traces, borne, PRICES)
        return {title: (amount, usd) for title, amount, _, usd in found}

    def test_of_lambda(self) -> None:
        found = self.lines("lambda")
        assert found["API: HTTP API"] == (pytest.approx(1e6), pytest.approx(1.00))
        # 15,000 ms and half a ms for each of 2,000 calls, at 1 GB: 16 GB-s of 2,000 requests
        assert found["Compute: Lambda GB-seconds"] == (pytest.approx(8000), pytest.approx(0.13333, rel=1e-3))
        assert found["X-Ray: API function"] == (pytest.approx(107_500), pytest.approx(0.5375))
        # 1,200 units of 2,000 requests
        assert found["DynamoDB: writes"] == (pytest.approx(600_000), pytest.approx(0.375))
        assert found["DynamoDB: reads"] == (pytest.approx(1_000_000), pytest.approx(0.125))
        assert found["S3: receipts"] == (pytest.approx(100_000), pytest.approx(0.50))
        # 2,600 KB of 2,000 requests: 1,300,000 KB
        assert found["CloudWatch: logs"] == (pytest.approx(1.2398, rel=1e-4), pytest.approx(0.6199, rel=1e-4))
        # 1,000 bytes each
        assert found["Transfer to the internet"][0] == pytest.approx(1e9 / 1024**3)

    def test_of_fargate(self) -> None:
        found = self.lines("fargate", borne=300.0)
        # 1/60 GB in two minutes is half a GB an hour, the most used dimension: 1/60 LCU-hour
        assert found["API: load balancer"] == (pytest.approx(500 / 60), pytest.approx(500 / 60 * 0.008))
        # Scaling keeps half of what a task bears, 150 a second: 1.85 hours of 0.01234 USD
        assert found["Compute: Fargate"] == (
            pytest.approx(1.85185, rel=1e-4),
            pytest.approx(0.022863, rel=1e-3),
        )
        assert "Compute: Lambda GB-seconds" not in found

    def test_scaling_keeps_a_task_at_no_more_than_its_target_of_requests(self) -> None:
        assert self.lines("fargate", borne=5000.0) == self.lines("fargate", borne=None)

    def test_what_the_model_takes_for_granted_is_set_beside(self) -> None:
        found = {
            each[0]: each[1:]
            for each in bill.assumptions(counted("lambda"), INTERVAL, TARGET, "lambda", MEASURED)
        }
        assert found["write units of an order placed or changed"] == (3.0, 4.0)
        assert found["KB of log for a request or event"] == (1.0, 0.92)
        assert found["ms of relay and consumers for an event"] == (pytest.approx(9850 / 600), 25.0)
        assert found["ms of the API function for a request"][0] == 7.5

    def test_the_log_says_how_fast_the_server_was(self) -> None:
        assert bill.server_side(counted("lambda")) == {"GET /orders": {"p50_ms": 12.0, "p99_ms": 90.0}}


class TestEstimate:
    plan = command.Plan()

    def usd(self, prices: Prices = PRICES, target: Target = TARGET) -> float:
        return command.Bench(None, target, self.plan, "", prices, MEASURED).estimate()

    def test_is_some_cents_and_follows_the_prices(self) -> None:
        assert 0.02 < self.usd() < 0.30
        doubled = replace(PRICES, usd={name: 2 * usd for name, usd in PRICES.usd.items()})
        assert self.usd(doubled) == pytest.approx(2 * self.usd())

    def test_has_the_task_that_scaling_may_add(self) -> None:
        # Half an hour of a quarter of a vCPU and half a GB, on top of the requests
        alone = self.usd(target=replace(TARGET, entry_points=(LAMBDA,)))
        with_tasks = self.usd()
        assert with_tasks - alone > 0.5 * (0.25 * 0.04048 + 0.5 * 0.004445)

    def test_of_requests_is_the_cost_models(self) -> None:
        free = replace(PRICES, usd=dict.fromkeys(PRICES.usd, 0.0) | {"http_api_million_requests": 1.0})
        assert bill.estimate({"lambda": (10_000, 1_000)}, 0, 0, Setup(), MEASURED, free) == pytest.approx(
            0.01
        )

    def test_is_said_before_anything_is_sent(self) -> None:
        said = command.Bench(None, TARGET, self.plan, "", PRICES, MEASURED).announcement()
        assert (
            f"{sum(self.plan.requests(entry_point)[0] for entry_point in TARGET.entry_points):,} requests"
            in said
        )
        assert f"{self.usd():.2f}"[:3] in said  # rounded up to the cent
        assert "eu-central-1" in said


class Wire(asyncio.Protocol):
    """One connection of an API whose answers are given; a request arrives in one piece."""

    def __init__(
        self, answer: Callable[[str, str], tuple[int, bytes]], all_wires: set[Wire], delay_seconds: float
    ) -> None:
        self.answer, self.all_wires, self.delay_seconds = answer, all_wires, delay_seconds

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.all_wires.add(self)

    def data_received(self, data: bytes) -> None:
        method, path = data.decode().split()[:2]
        status, body = self.answer(method, path)
        response = b"HTTP/1.1 %d OK\r\ncontent-length: %d\r\n\r\n" % (status, len(body)) + body
        asyncio.get_running_loop().call_later(self.delay_seconds, self.transport.write, response)

    def connection_lost(self, exc: Exception | None) -> None:
        self.all_wires.discard(self)


@asynccontextmanager
async def an_api(
    answer: Callable[[str, str], tuple[int, bytes]],
    wires: set[Wire] | None = None,
    delays: Iterable[float] = itertools.repeat(0.0),
) -> AsyncIterator[str]:
    """Serve on loopback what `answer` gives for method and path; each connection has a delay of its own."""
    wires, each = set() if wires is None else wires, iter(delays)
    server = await asyncio.get_running_loop().create_server(
        lambda: Wire(answer, wires, next(each)), "127.0.0.1", 0
    )
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for wire in list(wires):
            wire.transport.abort()
        for _ in range(3):  # in which the connections go
            await asyncio.sleep(0)


class Orders:
    """Just enough of the API; receipts come only if they are to."""

    def __init__(self, receipts: bool = True) -> None:
        self.asked: list[str] = []
        self.open: set[str] = set()
        self.receipts = receipts

    def __call__(self, method: str, path: str) -> tuple[int, bytes]:
        self.asked.append(f"{method} {path}")
        if (method, path) == ("POST", "/orders"):
            order_id = f"order-{len(self.asked)}"
            self.open.add(order_id)
            return 201, json.dumps({"id": order_id}).encode()
        if method == "PUT":
            self.open.discard(path.split("/")[2])
        if path.endswith("/receipt"):
            return (303, b"") if self.receipts else (404, b"{}")
        return 200, b"{}"


def run_entry_point(
    api: Callable[[str, str], tuple[int, bytes]], plan: command.Plan, name: str
) -> tuple[Any, Budget, list[str]]:
    async def run() -> tuple[Any, Budget, list[str]]:
        async with an_api(api) as url:
            entry_point = EntryPoint(name, url, limited=name == "edge")
            bench = command.Bench(
                None, replace(TARGET, entry_points=(entry_point,), resources={}), plan, "", PRICES, MEASURED
            )
            budget = Budget(plan.requests(entry_point)[0])
            return await bench._entry_point(entry_point, budget, lambda _: None), budget, bench.missing

    return asyncio.run(run())


SMALL = command.Plan(
    minutes=1,
    rate=20,
    samples=5,
    events=2,
    step_seconds=0.05,
    step_requests=200,
    polls=3,
    drain_seconds=59,
    whole_minutes=False,
)


class TestCallers:
    @pytest.mark.parametrize("name", ["lambda", "fargate", "edge"])
    @pytest.mark.parametrize("receipts", [True, False], ids=["receipts", "no receipts"])
    def test_send_no_more_than_was_said_and_leave_no_order_open(self, name: str, receipts: bool) -> None:
        orders = Orders(receipts)
        (figures, interval, placed), budget, missing = run_entry_point(orders, SMALL, name)
        most, most_placed = SMALL.requests(EntryPoint(name, "", limited=name == "edge"))
        assert len(orders.asked) == budget.sent <= most
        assert placed == orders.asked.count("POST /orders") <= most_placed
        assert not orders.open
        assert not any("ended early" in each for each in missing)
        assert (interval is None) == (name == "edge")
        assert ("steps" in figures) == (name == "fargate")
        without = set() if receipts else {"GET /orders/{order_id}/receipt"}
        assert set(figures["endpoints"]) == set(ENDPOINTS) - without
        assert any("receipt" in each for each in missing) != receipts
        assert {each["count"] for each in figures["endpoints"].values()} == {5.0}
        assert figures["events"]["count"] == (2 if receipts else 0)

    def test_the_mix_is_the_cost_models_traffic(self) -> None:
        (_, interval, _), _, _ = run_entry_point(Orders(), replace(SMALL, rate=100), "lambda")
        assert (interval.sent, interval.placed, interval.changed) == (100, 10, 10)
        assert interval.received_bytes > 0

    @pytest.mark.parametrize(
        ("endpoint", "times"),
        [("POST /orders", 7), ("GET /orders", 3), ("PUT ", 5), ("PUT ", 16), ("POST /orders", 30)],
        ids=["placing", "listing", "cancelling", "after the endpoints", "in the mix"],
    )
    async def test_ctrl_c_cancels_what_was_placed(self, endpoint: str, times: int) -> None:
        orders = Orders()
        running: list[asyncio.Task[Any]] = []

        def answer(method: str, path: str) -> tuple[int, bytes]:
            asked = [each for each in orders.asked if each.startswith(endpoint)]
            if len(asked) == times and f"{method} {path}".startswith(endpoint):  # as a signal does it
                running[0].cancel()
            return orders(method, path)

        async with an_api(answer, delays=itertools.cycle([0.0, 0.02, 0.04, 0.06])) as url:
            entry_point = EntryPoint("lambda", url)
            target = replace(TARGET, entry_points=(entry_point,))
            bench = command.Bench(None, target, SMALL, "", PRICES, MEASURED)
            budget = Budget(SMALL.requests(entry_point)[0])
            running.append(asyncio.create_task(bench._entry_point(entry_point, budget, lambda _: None)))
            with pytest.raises(asyncio.CancelledError):
                await running[0]
        assert orders.asked.count("POST /orders") > 3
        assert not orders.open

    def test_a_bound_that_is_reached_ends_it(self) -> None:
        with pytest.raises(Spent):
            Budget(0).take()

    def test_every_endpoint_of_the_documentation_is_asked_for(self) -> None:
        paths = json.loads((ROOT / "docs/openapi.json").read_text())["paths"]
        documented = {f"{method.upper()} {path}" for path, item in paths.items() for method in item}
        assert {endpoint for endpoint in documented if "/products" not in endpoint} == set(ENDPOINTS)
        for endpoint, status in ENDPOINTS.items():
            method, _, path = endpoint.partition(" ")
            assert str(status) in paths[path][method.lower()]["responses"]

    def rejecting(self, *statuses: int) -> tuple[command.Bench, Callable[[], list[EntryPoint]]]:
        """A stack with an address for each status, which answers every POST with that status."""

        async def ask() -> list[EntryPoint]:
            async with AsyncExitStack() as stack:
                urls = []
                for status in statuses:
                    answer = (status, b'{"id": "order-1"}')
                    urls.append(await stack.enter_async_context(an_api(lambda *_, answer=answer: answer)))
                entry_points = [EntryPoint(f"entry_point-{n}", url) for n, url in enumerate(urls)]
                budgets = {entry_point: Budget(9) for entry_point in entry_points}
                return await asyncio.to_thread(bench._that_take_orders, budgets, lambda _: None)

        bench = command.Bench(None, TARGET, SMALL, "", PRICES, MEASURED)
        return bench, lambda: asyncio.run(ask())

    @pytest.mark.parametrize(
        ("status", "said"), [(401, "asks for a token: TOKEN="), (503, "places no order: 503")]
    )
    def test_an_api_that_takes_no_order_is_told_in_one_line(self, status: int, said: str) -> None:
        _, ask = self.rejecting(status)
        with pytest.raises(CliError, match=said) as why:
            ask()
        assert "\n" not in str(why.value)

    def test_one_address_that_takes_none_does_not_keep_the_others_from_it(self) -> None:
        bench, ask = self.rejecting(503, 201)
        assert [entry_point.name for entry_point in ask()] == ["entry_point-1"]
        assert bench.missing[0].startswith("entry_point-0: POST http://")

    async def test_nobody_there(self) -> None:
        async with Callers(EntryPoint("lambda", "http://127.0.0.1:9"), "", Budget(9), "me") as callers:
            with pytest.raises(CliError, match="places no order"):
                await callers.begin()

    async def test_the_rate_of_a_task_is_the_last_that_was_borne(self) -> None:
        """Its service fails once more than a few connections ask at once."""
        wires: set[Wire] = set()
        async with (
            an_api(lambda *_: (200 if len(wires) <= 4 else 503, b""), wires) as url,
            Callers(EntryPoint("fargate", url), "", Budget(10**6), "me") as callers,
        ):
            callers.placed = ["one"]
            callers.busy_client = 2.0  # here the client and the server share a process
            callers.late_ms = 1e9  # and the machine may be busy
            found = await callers.steps(0.1, 10**6)
        assert [step["connections"] for step in found] == [1, 2, 4, 8]
        assert [step["borne"] for step in found] == [1, 1, 1, 0]
        assert found[-1]["failed"] > 0
        assert list(STEPS) == sorted(STEPS)

    def test_percentiles_are_values_that_were_measured(self) -> None:
        values = [float(n) for n in range(1, 201)]
        assert (percentile(values, 0.5), percentile(values, 0.99), percentile([7.0], 0.99)) == (100, 198, 7)


class TestTarget:
    OUTPUTS = {"OrdersTableName": "t", "LambdaApiUrl": "https://l", "FargateApiUrl": "https://f"}

    def stack(
        self, status: str = "UPDATE_COMPLETE", outputs: Any = None, **parameters: str
    ) -> dict[str, Any]:
        return {
            "StackName": "orders-dev",
            "CreationTime": BEGAN,
            "StackStatus": status,
            "Parameters": [{"ParameterKey": k, "ParameterValue": v} for k, v in parameters.items()],
            "Outputs": [{"OutputKey": k, "OutputValue": v} for k, v in (outputs or {}).items()],
        }

    def find(self, stack: dict[str, Any] | None, edge: dict[str, Any] | None = None) -> Target:
        cloudformation, secrets = client("cloudformation"), client("secretsmanager")
        stub, secret_stub = Stubber(cloudformation), Stubber(secrets)

        def described(name: str, found: dict[str, Any] | None) -> None:
            expected = {"StackName": name}
            if found:
                stub.add_response("describe_stacks", {"Stacks": [found]}, expected)
            else:
                message = f"Stack with id {name} does not exist"
                stub.add_client_error("describe_stacks", "ValidationError", message, expected_params=expected)

        def resources(stack: str, **found: str) -> None:
            summaries = [
                {
                    "LogicalResourceId": logical,
                    "PhysicalResourceId": physical,
                    "ResourceType": "AWS::CloudFormation::Stack"
                    if physical.startswith("arn:")
                    else "AWS::X::Y",
                    "LastUpdatedTimestamp": BEGAN,
                    "ResourceStatus": "CREATE_COMPLETE",
                }
                for logical, physical in found.items()
            ]
            stub.add_response(
                "list_stack_resources", {"StackResourceSummaries": summaries}, {"StackName": stack}
            )

        described("orders-dev", stack)
        root = {
            "FargateStack": "arn:nested",
            "ReceiptsConsumer": "arn:receipts",
            "CarriersConsumer": "arn:carriers",
        }
        resources("orders-dev", **root)
        resources("arn:nested", Cluster="cluster")
        resources("arn:receipts", Queue="https://sqs/1/orders-dev-receipts-1")
        resources("arn:carriers", Queue="https://sqs/1/orders-dev-carriers-1")
        described("orders-dev-edge", edge)
        resources("orders-dev", **root)
        described("arn:nested", self.stack(outputs={"Url": "https://f"}))
        for name in ("receipts", "carriers"):
            urls = {"QueueUrl": f"https://sqs/1/orders-dev-{name}-1", "DeadLetterQueueUrl": "d"}
            described(f"arn:{name}", self.stack(outputs={"Name": name, "Handler": "h", **urls}))
        secret_stub.add_response(
            "get_secret_value", {"SecretString": '{"current": "s3cret"}'}, {"SecretId": "arn"}
        )

        class Session:
            def client(self, service: str) -> Any:
                return {"cloudformation": cloudformation, "secretsmanager": secrets}[service]

        with stub, secret_stub:
            return find(Session(), "orders-dev")

    def test_is_found_with_what_is_nested_in_it(self) -> None:
        found = self.find(self.stack(outputs=self.OUTPUTS, Stage="dev", DomainName="orders.example.com"))
        assert [entry_point.name for entry_point in found.entry_points] == ["lambda", "fargate"]
        assert found.resources["Cluster"] == "cluster"
        assert found.functions == {"receipts": "orders-dev-receipts", "carriers": "orders-dev-carriers"}
        assert found.consumers["carriers"].endswith("orders-dev-carriers-1")
        assert (found.stage, found.local) == ("dev", False)
        assert found.entry_points[1].server_name == "orders.example.com"  # what the certificate names

    def test_behind_an_edge_the_secret_opens_its_own_addresses(self) -> None:
        edge = self.stack(outputs={"EdgeUrl": "https://e"}, FargateOriginName="origin.example.com")
        found = self.find(self.stack(outputs=self.OUTPUTS, OriginSecretArn="arn", WebAclArn="acl"), edge)
        assert [entry_point.name for entry_point in found.entry_points] == ["lambda", "fargate", "edge"]
        assert found.entry_points[0].headers == {"X-Origin-Secret": "s3cret"}
        assert found.entry_points[1].server_name == "origin.example.com"
        assert not found.entry_points[2].headers
        assert [entry_point.limited for entry_point in found.entry_points] == [False, True, True]

    @pytest.mark.parametrize(
        ("status", "outputs", "said"),
        [
            ("UPDATE_IN_PROGRESS", OUTPUTS, "is UPDATE_IN_PROGRESS"),
            ("ROLLBACK_COMPLETE", OUTPUTS, "is ROLLBACK_COMPLETE"),
            ("CREATE_COMPLETE", {"Other": "x"}, "no stack of this project"),
            ("CREATE_COMPLETE", {"OrdersTableName": "t"}, "neither output"),
        ],
    )
    def test_what_cannot_be_measured_is_rejected(
        self, status: str, outputs: dict[str, str], said: str
    ) -> None:
        with pytest.raises(CliError, match=said):
            self.find(self.stack(status, outputs))

    def test_an_unknown_stack(self) -> None:
        with pytest.raises(CliError, match="there is no stack orders-dev in eu-central-1"):
            self.find(None)


class TestCommand:
    """Rejected, or declined: one line, and nothing is sent."""

    @pytest.fixture(autouse=True)
    def _nowhere(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
        for name in (
            "AWS_PROFILE",
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_REGION",
            "AWS_DEFAULT_REGION",
        ):
            monkeypatch.delenv(name, raising=False)
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            monkeypatch.setenv(name, str(tmp_path / "none"))
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setattr(command.Bench, "run", lambda *_: pytest.fail("it began"))
        return

    def said(self, capsys: pytest.CaptureFixture[str], code: int, *arguments: str) -> str:
        assert command.main(["--stack", *arguments]) == code
        [line] = capsys.readouterr().err.splitlines()
        return line

    def test_without_a_stack(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit, match="2"):
            command.main(["--stack", ""])
        assert "STACK=orders-dev" in capsys.readouterr().err

    def test_without_a_region(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "AWS_REGION=" in self.said(capsys, 1, "orders-dev")

    @pytest.mark.parametrize("variable", ["AWS_REGION", "AWS_DEFAULT_REGION"])
    def test_without_credentials(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, variable: str
    ) -> None:
        monkeypatch.setenv(variable, "eu-central-1")
        assert "no credentials were found: `aws sso login`" in self.said(capsys, 1, "orders-dev")

    @pytest.mark.parametrize(
        ("target", "arguments", "typed"),
        [
            (TARGET, [], "n"),
            (TARGET, [], ""),
            (PROD, ["--yes"], "y"),
            (PROD, ["--yes"], "orders-dev"),
        ],
        ids=["no", "nothing", "prod is not begun by YES=1", "prod is named"],
    )
    def test_declined(
        self,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        target: Target,
        arguments: list[str],
        typed: str,
    ) -> None:
        monkeypatch.setattr(command, "session", boto3.Session)
        monkeypatch.setattr(command, "find", lambda *_: target)
        monkeypatch.setattr("builtins.input", lambda _: typed)
        assert "nothing was sent" in self.said(capsys, 1, target.stack, *arguments)

    @pytest.mark.parametrize(
        ("target", "yes", "typed"), [(TARGET, True, None), (TARGET, False, "y"), (PROD, False, "orders-prod")]
    )
    def test_agreed(
        self, monkeypatch: pytest.MonkeyPatch, target: Target, yes: bool, typed: str | None
    ) -> None:
        monkeypatch.setattr("builtins.input", lambda _: typed if typed else pytest.fail("it asked"))
        assert command.agreed(target, yes)

    def test_ctrl_c(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupted(*_: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(command, "session", boto3.Session)
        monkeypatch.setattr(command, "find", lambda *_: TARGET)
        monkeypatch.setattr(command.Bench, "run", interrupted)
        assert command.main(["--stack", "orders-dev", "--yes"]) == 130
        assert "interrupted" in capsys.readouterr().err


def found(**changes: Any) -> dict[str, Any]:
    """All that a run may find."""
    endpoints = {each: {"count": 200.0, "failed": 0.0, "p50_ms": 21.0, "p99_ms": 48.5} for each in ENDPOINTS}
    events = {"count": 20, "missing": 0, "p50_ms": 640.0, "p99_ms": 2100.0, "max_ms": 2100.0}
    calls = [
        {"init_ms": 640.5, "duration_ms": 51.0, "billed_ms": 692.0, "used_mb": 97.0, "memory_mb": 1024.0}
    ]
    entry_points = {
        name: {
            "endpoints": endpoints,
            "events": events,
            "bill": bill.lines(counted(name), INTERVAL, TARGET, name, {}, 300.0, PRICES),
            "assumptions": bill.assumptions(counted(name), INTERVAL, TARGET, name, MEASURED),
            "server": bill.server_side(counted(name)) | {"lag": {"p50_ms": 400.0, "p99_ms": 1200.0}},
        }
        for name in ("lambda", "fargate")
    }
    step = {
        "connections": 16.0,
        "rate": 512.0,
        "p50_ms": 30.0,
        "p99_ms": 90.0,
        "failed": 0.0,
        "client_busy": 0.2,
        "borne": 1.0,
    }
    return {
        "starts": {"ApiFunction": starts._figures([*calls, {"duration_ms": 7.0}])},
        "traced": {"ApiFunction": {"traces": 300, "cold": 4, "init_p50_ms": 655.0, "init_max_ms": 702.0}},
        "entry_points": entry_points,
        "throughput": {"steps": [step], "seconds": 5.0, "tasks": 2, "rate": 256.0, "client_bound": False},
        "missing": ["requests to KMS: they have no metric by key"],
        "about": {
            "stack": "orders-dev",
            "region": "eu-central-1",
            "local": False,
            "began": "2026-11-30 12:00 UTC",
            "minutes": 11.2,
            "requests": 31_234,
            "orders": 941,
            "sizes": {"Architecture": "x86_64"},
            "nearest_ms": 8.2,
            "mix_minutes": 2,
            "rate": 20.0,
            "prices": "us-east-1 of 2026-11-22",
        },
    } | changes


class TestPage:
    def test_holds_every_figure(self) -> None:
        page = re.sub(" +", " ", report.page(found(), "plot.svg"))
        for figure in (
            "640 (640) | - | 51 (51) | 692 (692)",  # init, no restore, first call, billed
            "| 300 | 4 | 655 | 702 |",
            "`GET /orders` | 21 | 48.5 | 21 | 48.5 | 12 | 90 |",
            "One task bore 256 requests a second.",
            "20 receipts, p50 640 ms",
            "DynamoDB: writes | 600,000 | units | 0.375",
            "write units of an order placed or changed | 3 | 4",
            "requests to KMS",
            "(plot.svg)",
        ):
            assert figure in page, figure
        assert "local AWS emulator" not in page
        lines = page.splitlines()
        starts_of_lists = [
            n for n, line in enumerate(lines) if line.startswith("- ") and lines[n - 1][:2] != "- "
        ]
        assert starts_of_lists
        assert not any(lines[n - 1] for n in starts_of_lists)  # or Markdown takes it for text

    def test_says_what_it_could_not_see_and_makes_up_nothing(self) -> None:
        entry_points = {"lambda": {"endpoints": {}, "events": None}}
        about = found()["about"] | {"local": True}
        page = report.page(
            found(entry_points=entry_points, about=about, starts={}, traced={}, throughput=None), "plot.svg"
        )
        assert page.count("Not measured; see the end.") == 4
        assert "shows that the command works, and nothing of AWS" in page

    def test_the_plot_has_a_bar_for_each_address_and_endpoint(self) -> None:
        svg = ET.fromstring(report.plot(found()))  # noqa: S314 - our own
        bars = svg.findall("{http://www.w3.org/2000/svg}rect[@height='12']")
        assert len(bars) == 2 * 2 * len(ENDPOINTS)  # p50 over p99, two addresses

    def test_is_written_with_its_plot_and_figures(self, tmp_path: Path) -> None:
        page = command.write(found(), tmp_path)
        assert page.name == "orders-dev-eu-central-1-2026-11-30.md"
        assert {each.suffix for each in tmp_path.iterdir()} == {".md", ".svg", ".json"}
        assert json.loads(page.with_suffix(".json").read_text())["about"]["orders"] == 941


def test_the_warm_up_reaches_every_connection() -> None:
    assert WARM_UP >= 2 * 4
