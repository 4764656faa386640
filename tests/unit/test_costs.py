"""The cost model, against sums done by hand and against the templates."""

from __future__ import annotations

import fnmatch
import json
import re
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from costs import services
from costs.__main__ import main
from costs.model import (
    ACCESS_LOG_KB,
    ALARM_METRICS,
    COMPOSITE_ALARMS,
    CUSTOM_METRICS,
    FARGATE_SIZES,
    INTERFACE_ENDPOINTS,
    RUNTIME_COSTS,
    TARGET_REQUESTS,
    TARGET_UTILIZATION,
    Measured,
    Prices,
    Setup,
    Traffic,
    break_even,
    fargate_costs,
    lambda_costs,
    load_measured,
    monthly,
    shared,
    tasks_for,
)
from fastapi import FastAPI
from scripts.whole_stack import all_resources
from tests.builders import AN_ORDER, METRICS, a_settings, an_app
from tests.template.templates import PSEUDO, Evaluator, of_type, template
from tests.template.test_alarms import alarms
from tests.transports import LambdaTransport, ServerTransport

from app.core.telemetry import metric_definition
from app.orders.service import OrderService

ROOT = Path(__file__).parents[2]
PRICES = Prices.load()
MEASURED = Measured(
    lambda_cpu_ms=2,
    lambda_wait_ms=6,
    cold_start_cpu_ms=1000,
    server_cpu_ms=1,
    worker_billed_ms=10,
    source="a test",
)
FLAT = Traffic(requests=0, peak_factor=1)


class TestLambda:
    def test_ten_million_requests_at_one_vcpu(self) -> None:
        items = lambda_costs(
            replace(FLAT, requests=10e6, cold_share=0), Setup(lambda_memory_mb=1769), MEASURED, PRICES
        )
        assert items["API: HTTP API"] == pytest.approx(10.00)
        assert items["Compute: Lambda requests"] == pytest.approx(2.00)
        # 10e6 x 8 ms = 80,000 s, x 1769/1024 GB = 138,203 GB-s, x 0.0000166667
        assert items["Compute: Lambda GB-seconds"] == pytest.approx(2.3034, rel=1e-4)

    def test_half_a_vcpu_computes_twice_as_long_and_waits_no_longer(self) -> None:
        assert MEASURED.lambda_billed_ms(1769) == pytest.approx(8)
        assert MEASURED.lambda_billed_ms(885) == pytest.approx(2 * 1769 / 885 + 6)
        assert MEASURED.lambda_billed_ms(4000) == pytest.approx(8)

    def test_cold_starts_are_billed(self) -> None:
        warm = lambda_costs(replace(FLAT, requests=1e6, cold_share=0), Setup(), MEASURED, PRICES)
        cold = lambda_costs(replace(FLAT, requests=1e6, cold_share=0.01), Setup(), MEASURED, PRICES)
        # 10,000 cold starts x 1 s x 1769/1024 (less than one vCPU) x 1 GB x 0.0000166667
        assert sum(cold.values()) - sum(warm.values()) == pytest.approx(0.28793, rel=1e-3)

    def test_the_http_api_is_cheaper_above_300_million(self) -> None:
        items = lambda_costs(replace(FLAT, requests=1e9), Setup(), MEASURED, PRICES)
        assert items["API: HTTP API"] == pytest.approx(300 * 1.00 + 700 * 0.90)

    def test_a_call_a_second_is_traced_and_a_twentieth_of_the_others(self) -> None:
        def traced(requests: float, peak_factor: float = 1) -> float:
            traffic = replace(FLAT, requests=requests, peak_factor=peak_factor)
            return lambda_costs(traffic, Setup(), MEASURED, PRICES)["X-Ray: API function"]

        month = 730 * 3600
        assert traced(1e6) == pytest.approx(5.00)
        # 21 a second: 1 + 20 x 0.05 = 2 are traced
        assert traced(21 * month) == pytest.approx(2 * month / 1e6 * 5.00)
        # The same in a quarter of the hours, at 84 a second: 1 + 83 x 0.05, and nothing in the others
        assert traced(21 * month, 4) == pytest.approx((1 + 83 * 0.05) * month / 4 / 1e6 * 5.00)

    def test_the_http_api_has_a_log_of_its_own(self) -> None:
        items = lambda_costs(replace(FLAT, requests=1e6), Setup(), MEASURED, PRICES)
        assert items["Logs of the HTTP API"] == pytest.approx(1e6 * ACCESS_LOG_KB / 1024**2 * 0.50)


class TestFargate:
    def test_two_small_tasks_that_idle(self) -> None:
        items = fargate_costs(FLAT, Setup(), MEASURED, PRICES)
        # 2 x 730 h x (0.25 x 0.04048 + 0.5 x 0.004445)
        assert items["Compute: Fargate"] == pytest.approx(18.0201, rel=1e-4)
        assert items["API: load balancer"] == pytest.approx(730 * 0.0225)
        assert items["Network: NAT"] == pytest.approx(730 * 0.045)
        assert items["Network: public addresses"] == pytest.approx(730 * 3 * 0.005)
        # 79 metrics, and 48 for each task
        assert items["Container Insights"] == pytest.approx((79 + 2 * 48) * 0.07)

    def test_tasks_follow_the_rate(self) -> None:
        # 1 ms a request: a quarter of a vCPU at 50 % holds 125 a second
        assert tasks_for(125, Setup(), MEASURED) == 2
        assert tasks_for(250, Setup(), MEASURED) == 2
        assert tasks_for(251, Setup(), MEASURED) == 3
        assert tasks_for(1500, Setup(fargate_cpu_units=1024), MEASURED) == 3

    def test_however_fast_a_task_is_it_is_given_no_more_than_its_share(self) -> None:
        fast = replace(MEASURED, server_cpu_ms=0.1)
        assert tasks_for(600, Setup(), fast) == 3
        assert tasks_for(601, Setup(), fast) == 4
        assert tasks_for(2400, Setup(fargate_cpu_units=1024), fast) == 3

    def test_spot_spares_all_but_the_first_task(self) -> None:
        full = fargate_costs(FLAT, Setup(), MEASURED, PRICES)["Compute: Fargate"]
        spot = fargate_costs(FLAT, Setup(fargate_spot_percent=100), MEASURED, PRICES)["Compute: Fargate"]
        assert spot == pytest.approx(full * (1 + 0.3) / 2)

    def test_egress_by_choice(self) -> None:
        per_zone = fargate_costs(FLAT, Setup(network_egress="nat-per-az"), MEASURED, PRICES)
        endpoints = fargate_costs(FLAT, Setup(network_egress="endpoints"), MEASURED, PRICES)
        assert per_zone["Network: NAT"] == pytest.approx(2 * 730 * 0.045)
        assert "Network: NAT" not in endpoints
        assert endpoints["Network: interface endpoints"] == pytest.approx(4 * 2 * 730 * 0.01)


class TestShared:
    def test_dynamodb_by_hand(self) -> None:
        traffic = replace(FLAT, requests=1e6, place_share=0.5, change_share=0, list_share=0)
        # 500,000 placed x 4 writes x 0.625 a million + 500,000 reads x 0.125 a million
        assert shared(traffic, Setup(), MEASURED, PRICES)["DynamoDB: requests"] == pytest.approx(
            1.25 + 0.0625
        )

    def test_events_by_hand(self) -> None:
        traffic = replace(FLAT, requests=1e6, place_share=0.5, change_share=0.5, list_share=0)
        items = shared(traffic, Setup(), MEASURED, PRICES)
        assert items["EventBridge: bus and archive"] == pytest.approx(1.00 + 1e6 / 1024**2 * 0.10)
        assert items["SQS"] == pytest.approx(0.5 * 3 * 0.40)
        # A million events through the relay, and half of them to receipts
        assert items["Lambda: relay and receipts"] == pytest.approx(
            1.5e6 * (0.20 / 1e6 + 10 / 1000 * 0.0000166667), rel=1e-4
        )

    def test_every_request_event_and_receipt_leaves_a_line(self) -> None:
        traffic = replace(FLAT, requests=1e6, place_share=0.5, change_share=0.5, list_share=0, log_kb=1)
        items = shared(traffic, Setup(), MEASURED, PRICES)
        assert items["CloudWatch: logs"] == pytest.approx(2.5e6 / 1024**2 * 0.50)
        assert items["X-Ray: relay and receipts"] == pytest.approx(1.5 * 5.00)

    def test_watching_costs_the_same_at_every_size(self) -> None:
        for requests in (0.0, 1e9):
            items = shared(replace(FLAT, requests=requests), Setup(), MEASURED, PRICES)
            assert items["CloudWatch: metrics, alarms, dashboard"] == pytest.approx(
                31 * 0.30 + 40 * 0.10 + 4 * 0.50 + 3.00
            )

    def test_cloudfront_replaces_the_transfer(self) -> None:
        traffic = replace(FLAT, requests=1e6)
        plain, edge = (shared(traffic, Setup(cloudfront=on), MEASURED, PRICES) for on in (False, True))
        assert "Transfer to the internet" not in edge
        assert edge["CloudFront"] == pytest.approx(1.00 + traffic.transfer_gb * 0.085)
        assert plain["Transfer to the internet"] == pytest.approx(traffic.transfer_gb * 0.09)


class TestTraffic:
    @pytest.mark.parametrize("peak_factor", [1, 2, 4, 10, 100])
    def test_the_hours_and_the_requests_add_up(self, peak_factor: float) -> None:
        rates = list(Traffic(requests=1e8, peak_factor=peak_factor).rates())
        assert sum(hours for hours, _ in rates) == pytest.approx(730)
        assert sum(hours * 3600 * rate for hours, rate in rates) == pytest.approx(1e8)
        assert max(rate for _, rate in rates) == pytest.approx(1e8 / (730 * 3600) * peak_factor)


class TestBreakEven:
    def test_costs_the_same_there(self) -> None:
        traffic = Traffic(requests=0)
        at = break_even(traffic, Setup(), MEASURED, PRICES)
        assert at is not None
        fronts = [
            sum(front(replace(traffic, requests=at), Setup(), MEASURED, PRICES).values())
            for front in (lambda_costs, fargate_costs)
        ]
        assert fronts[0] == pytest.approx(fronts[1], rel=0.01)

    def test_there_is_none_when_the_server_is_slow_enough(self) -> None:
        assert break_even(Traffic(requests=0), Setup(), replace(MEASURED, server_cpu_ms=1000), PRICES) is None


class TestMeasured:
    def test_figures_of_a_bench_are_weighed_by_the_traffic(self, tmp_path: Path) -> None:
        ours = {
            "cold": {"cpu_ms": 300},
            "warm": {"get": 1000, "post": 2000, "list": 5000},
            "server": {"get_16": 1000, "post_16": 500, "list_16": 100},
        }
        found = {part: {"orders (this project)": figures} for part, figures in ours.items()}
        machine = {"python": "3.13", "machine": "x86_64", "quick": False}
        path = tmp_path / "results.json"
        path.write_text(json.dumps(found | {"machine": machine}))
        measured = load_measured(path)
        # 70 % reads, 20 % writes, 10 % lists
        assert measured.lambda_cpu_ms == pytest.approx(0.7 * 1 + 0.2 * 2 + 0.1 * 5)
        assert measured.server_cpu_ms == pytest.approx(0.7 * 1 + 0.2 * 2 + 0.1 * 10)
        assert measured.cold_start_cpu_ms == 300

    def test_a_file_that_lacks_one_is_rejected(self, tmp_path: Path) -> None:
        path = tmp_path / "results.json"
        path.write_text("{}")
        with pytest.raises(ValueError, match="make bench writes it"):
            load_measured(path)


class TestCommand:
    @pytest.mark.parametrize(
        ("arguments", "word"),
        [
            (["--memory", "5"], "lambda_memory_mb"),
            (["--egress", "pigeon"], "network_egress"),
            (["--arch", "z80"], "architecture"),
            (["--cpu", "2048"], "fargate_cpu_units"),
            (["--prices", "nowhere.toml"], "nowhere.toml"),
            (["--prices", "pyproject.toml"], "no table of prices"),
            (["--item-kb", "-1"], "item_kb"),
            (["--requests", "-1"], "requests"),
            (["--requests", "nan"], "requests"),
            (["--peak-factor", "0.5"], "peak_factor"),
            (["--measured", "nowhere.json"], "nowhere.json"),
        ],
    )
    def test_bad_input_gets_one_line(
        self, arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert word in error

    def test_prints_both_runtimes(self) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "costs", "--requests", "5e6"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert "5 million" in done.stdout
        assert "Break-even: " in done.stdout


class TestAgainstTheTemplates:
    """What the model takes from the templates is what they say."""

    def test_every_resource_type_has_its_cost_and_every_line_item_a_resource(self) -> None:
        used = {each.type for each in all_resources().values()}
        assert all(map(services.cost_of, used))
        patterns = {pattern for types in services.WITHOUT_PRICE.values() for pattern in types}
        assert all(fnmatch.filter(used, name) for name in services.COUNTED.keys() | patterns)
        assert services.NOT_COUNTED.keys() <= used
        setups = (Setup(), Setup(cloudfront=True), Setup(network_egress="endpoints"))
        items = {
            item
            for setup in setups
            for runtime in RUNTIME_COSTS
            for item in monthly(runtime, FLAT, setup, MEASURED, PRICES)
        }
        assert {item for named in services.COUNTED.values() for item in named} | services.BESIDE == items

    def test_a_new_resource_type_has_to_be_named(self) -> None:
        with pytest.raises(services.UnknownCost, match="AWS::RDS::DBInstance"):
            services.cost_of("AWS::RDS::DBInstance")

    def test_a_task_has_the_size_of_the_stack(self) -> None:
        sizes = template("fargate/template.yaml")["Mappings"]["TaskSizes"]
        assert {int(cpu): int(size["MemoryMb"]) for cpu, size in sizes.items()} == FARGATE_SIZES
        assert list(FARGATE_SIZES) == template()["Parameters"]["FargateCpuUnits"]["AllowedValues"]

    def test_scaling_holds_tasks_where_the_model_does(self) -> None:
        source = template("fargate/template.yaml")
        policies = [
            policy["Properties"]["TargetTrackingScalingPolicyConfiguration"]
            for policy in of_type(source["Resources"], "AWS::ApplicationAutoScaling::ScalingPolicy").values()
        ]
        targets = {
            policy["PredefinedMetricSpecification"]["PredefinedMetricType"]: policy["TargetValue"]
            for policy in policies
        }
        assert targets["ECSServiceAverageCPUUtilization"] == 100 * TARGET_UTILIZATION
        sizes, unit, name = targets["ALBRequestCountPerTarget"]["Fn::FindInMap"]
        assert unit == {"Ref": "CpuUnits"}
        assert {int(cpu): values[name] for cpu, values in source["Mappings"][sizes].items()} == {
            cpu: cpu / 256 * TARGET_REQUESTS * 60 for cpu in FARGATE_SIZES
        }

    def test_interface_endpoints(self) -> None:
        source = template("fargate/network.yaml")
        endpoints = [
            endpoint["Properties"]
            for endpoint in of_type(source["Resources"], "AWS::EC2::VPCEndpoint").values()
            if endpoint.get("Condition") == "HasEndpoints"  # one more, behind the CDN
        ]
        prefix = f"com.amazonaws.{PSEUDO['AWS::Region']}."
        names = [Evaluator(source).resolved(found["ServiceName"]).removeprefix(prefix) for found in endpoints]
        assert names == list(INTERFACE_ENDPOINTS)
        assert {len(endpoint["SubnetIds"]) for endpoint in endpoints} == {Setup().zones}

    def test_functions_are_traced_and_tasks_are_not(self) -> None:
        found = all_resources().items()
        traced = {name for name, each in found if each.properties.get("Tracing") == "Active"}
        names = ("LambdaStack.ApiFunction", "RelayStack.RelayFunction", "ReceiptsConsumer.ConsumerFunction")
        assert traced == {*names}
        assert "xray" not in (ROOT / "fargate/template.yaml").read_text().lower()

    def test_tasks_are_watched_by_container_insights(self) -> None:
        resources = template("fargate/template.yaml")["Resources"]
        settings = resources["Cluster"]["Properties"]["ClusterSettings"]
        assert settings == [{"Name": "containerInsights", "Value": "enhanced"}]
        assert len(resources["TaskDefinition"]["Properties"]["ContainerDefinitions"]) == 1

    @pytest.mark.parametrize("runtime", ["lambda", "fargate"])
    def test_alarms(self, runtime: str) -> None:
        found = alarms(runtime).values()
        assert sum("AlarmRule" in each for each in found) == COMPOSITE_ALARMS
        looked_at = [
            sum("MetricStat" in query for query in each.get("Metrics", [])) or 1
            for each in found
            if "AlarmRule" not in each
        ]
        assert sum(looked_at) == pytest.approx(ALARM_METRICS, rel=0.1)

    def test_custom_metrics(self, app: FastAPI) -> None:
        routes = sum(len(methods) for methods in app.fastapi.openapi()["paths"].values())
        found = [
            routes if "route" in dimensions else 1
            for metric in METRICS
            for dimensions in metric_definition(metric)[1]
        ]
        assert sum(found) == pytest.approx(CUSTOM_METRICS, rel=0.1)


@pytest.mark.parametrize("runtime", ["lambda", "fargate"])
def test_a_line_of_the_log_is_as_long_as_counted(
    runtime: str, service: OrderService, loop: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    app = an_app(service, a_settings(service_name="orders-prod", stage="prod", runtime=runtime))
    transport = LambdaTransport(app) if runtime == "lambda" else ServerTransport(app, loop)
    trace = {"x-amzn-trace-id": "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"}
    with httpx.Client(transport=transport, base_url="https://api.test", headers=trace) as client:
        client.get("/")  # the first line tells of a cold start
        capsys.readouterr()
        order = client.post("/orders", json=AN_ORDER).headers["location"]
        client.put(f"{order}/status", json={"status": "shipped"})
        client.get("/orders")
        client.get(order)
    called = ',"dependency_calls":1,"dependency_ms":5.12'  # which a store in memory does not say
    placed, changed, listed, read = (len(line + called) for line in capsys.readouterr().out.splitlines())
    shares = Traffic.place_share, Traffic.change_share, Traffic.list_share
    mean = (1 - sum(shares)) * read + sum(
        share * size for share, size in zip(shares, (placed, changed, listed), strict=True)
    )
    assert mean / 1024 == pytest.approx(Traffic.log_kb, rel=0.1)


def test_a_line_of_the_http_api_is_as_long_as_counted() -> None:
    api = template("lambda/template.yaml")["Resources"]["HttpApi"]["Properties"]
    line = api["AccessLogSettings"]["Format"]
    values = {
        "requestId": "JKJaXmPLvHcESHA=",
        "requestTimeEpoch": "1767323045678",
        "identity.sourceIp": "203.0.113.77",
        "httpMethod": "GET",
        "path": "/orders/0199a6f5-1c00-7000-8000-000000000001",
        "status": "200",
        "responseLength": "286",
        "responseLatency": "12",
        "integrationLatency": "10",
        "integrationErrorMessage": "-",
        "identity.userAgent": "python-httpx/0.28.1",
    }
    written = re.sub(r"\$context\.([\w.]+)", lambda found: values[found[1]], line)
    assert len(written) / 1024 == pytest.approx(ACCESS_LOG_KB, rel=0.1)


def test_the_figures_of_the_readme_are_the_model_s() -> None:
    readme = " ".join((ROOT / "README.md").read_text().split())
    measured = load_measured()
    at = break_even(Traffic(requests=0), Setup(), measured, PRICES)
    assert at is not None
    assert f"Below {at / 1e6:.0f} million requests a month Lambda is the cheaper runtime" in readme
    idle = sum(fargate_costs(Traffic(requests=0), Setup(), measured, PRICES).values())
    assert f"idles at about {round(idle, -1):.0f} USD a month" in readme


def test_every_price_has_a_source_on_the_vendors_pages() -> None:
    data = tomllib.loads((ROOT / "costs/prices.toml").read_text())
    for entry in data["prices"].values():
        assert entry["usd"] > 0
        assert entry["per"]
        assert entry["source"].startswith("https://aws.amazon.com/")
