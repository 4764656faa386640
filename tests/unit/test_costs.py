"""The cost model, against sums done by hand, and the page that it writes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from costs.__main__ import main
from costs.model import (
    Measured,
    Prices,
    Setup,
    Traffic,
    break_even,
    fargate_front,
    lambda_front,
    load_measured,
    shared,
    tasks_for,
)
from costs.report import page, plot

ROOT = Path(__file__).parents[2]
PRICES = Prices.load("us-east-1")
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
        items = lambda_front(
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
        warm = lambda_front(replace(FLAT, requests=1e6, cold_share=0), Setup(), MEASURED, PRICES)
        cold = lambda_front(replace(FLAT, requests=1e6, cold_share=0.01), Setup(), MEASURED, PRICES)
        # 10,000 cold starts x 1 s x 1769/1024 (less than one vCPU) x 1 GB x 0.0000166667
        assert sum(cold.values()) - sum(warm.values()) == pytest.approx(0.28793, rel=1e-3)

    def test_the_http_api_is_cheaper_above_300_million(self) -> None:
        items = lambda_front(replace(FLAT, requests=1e9), Setup(), MEASURED, PRICES)
        assert items["API: HTTP API"] == pytest.approx(300 * 1.00 + 700 * 0.90)


class TestFargate:
    def test_two_small_tasks_that_idle(self) -> None:
        items = fargate_front(FLAT, Setup(), MEASURED, PRICES)
        # 2 x 730 h x (0.25 x 0.04048 + 0.5 x 0.004445)
        assert items["Compute: Fargate"] == pytest.approx(18.0201, rel=1e-4)
        assert items["API: load balancer"] == pytest.approx(730 * 0.0225)
        assert items["Network: NAT"] == pytest.approx(730 * 0.045)
        assert items["Network: public addresses"] == pytest.approx(730 * 3 * 0.005)

    def test_tasks_follow_the_rate(self) -> None:
        # 1 ms a request: a quarter of a vCPU at 60 % holds 150 a second
        assert tasks_for(150, Setup(), MEASURED) == 2
        assert tasks_for(300, Setup(), MEASURED) == 2
        assert tasks_for(301, Setup(), MEASURED) == 3
        assert tasks_for(1500, Setup(fargate_cpu_units=1024), MEASURED) == 3

    def test_spot_spares_all_but_the_first_task(self) -> None:
        full = fargate_front(FLAT, Setup(), MEASURED, PRICES)["Compute: Fargate"]
        spot = fargate_front(FLAT, Setup(fargate_spot_percent=100), MEASURED, PRICES)["Compute: Fargate"]
        assert spot == pytest.approx(full * (1 + 0.3) / 2)

    def test_egress_by_choice(self) -> None:
        per_zone = fargate_front(FLAT, Setup(network_egress="nat-per-az"), MEASURED, PRICES)
        endpoints = fargate_front(FLAT, Setup(network_egress="endpoints"), MEASURED, PRICES)
        assert per_zone["Network: NAT"] == pytest.approx(2 * 730 * 0.045)
        assert "Network: NAT" not in endpoints
        assert endpoints["Network: interface endpoints"] % (2 * 730 * 0.01) == pytest.approx(0)


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
            for front in (lambda_front, fargate_front)
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

    def test_a_file_that_lacks_one_is_refused(self, tmp_path: Path) -> None:
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
            (["--region", "mars-1"], "mars-1"),
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


def test_the_page_in_docs_is_what_the_command_writes() -> None:
    arguments: tuple[Any, ...] = (
        Traffic(requests=0),
        Setup(),
        load_measured(ROOT / "bench/results/results.json"),
        PRICES,
    )
    assert (ROOT / "docs/costs.md").read_text() == page(*arguments), "run make cost"
    assert (ROOT / "docs/costs.svg").read_text() == plot(*arguments), "run make cost"


def test_every_price_has_a_source_on_the_vendors_pages() -> None:
    import tomllib

    data = tomllib.loads((ROOT / "costs/prices.toml").read_text())
    for entry in data["us-east-1"].values():
        assert entry["usd"] > 0
        assert entry["per"]
        assert entry["source"].startswith("https://aws.amazon.com/")
