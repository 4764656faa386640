"""`make cost`: the monthly cost of both runtimes, and where they break even."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from costs.model import MEASURED, PRICES, Prices, Setup, Traffic, load_measured
from costs.report import SIZES, table, verdict


def main(argv: list[str]) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="make cost", description=__doc__)
    parser.add_argument("--requests", type=float, help="a month; default: three sizes")
    parser.add_argument(
        "--prices", type=Path, default=PRICES, help="of another region: a copy of costs/prices.toml"
    )
    parser.add_argument("--measured", type=Path, default=MEASURED, help="what make bench wrote")
    parser.add_argument(
        "--peak-factor", type=float, default=Traffic.peak_factor, help="busiest rate over the mean"
    )
    parser.add_argument(
        "--response-kb", type=float, default=Traffic.response_kb, help="an answer, headers included"
    )
    parser.add_argument("--item-kb", type=float, default=Traffic.item_kb, help="an order in the table")
    parser.add_argument("--memory", type=int, default=Setup.lambda_memory_mb, help="MemorySize in lambda/")
    parser.add_argument("--cpu", type=int, default=Setup.fargate_cpu_units, help="FargateCpuUnits")
    parser.add_argument("--min-tasks", type=int, default=Setup.fargate_min_tasks, help="FargateMinTasks")
    parser.add_argument(
        "--spot", type=int, default=Setup.fargate_spot_percent, help="SpotPercent in fargate/"
    )
    parser.add_argument("--egress", default=Setup.network_egress, help="NetworkEgress")
    parser.add_argument("--arch", default=Setup.architecture, help="Architecture: x86_64 or arm64")
    parser.add_argument("--cloudfront", action="store_true", help="with the CDN stack in front")
    asked = parser.parse_args(argv)
    try:
        prices, measured = Prices.load(asked.prices), load_measured(asked.measured)
        traffic = Traffic(
            asked.requests or 0.0,
            peak_factor=asked.peak_factor,
            response_kb=asked.response_kb,
            item_kb=asked.item_kb,
        )
        setup = Setup(
            lambda_memory_mb=asked.memory,
            fargate_cpu_units=asked.cpu,
            fargate_min_tasks=asked.min_tasks,
            fargate_spot_percent=asked.spot,
            network_egress=asked.egress,
            architecture=asked.arch,
            cloudfront=asked.cloudfront,
        )
    except (ValueError, OSError) as wrong:
        print(f"make cost: {wrong}", file=sys.stderr)
        return 2
    for size in [asked.requests] if asked.requests else SIZES:
        print(table(replace(traffic, requests=size), setup, measured, prices), end="\n\n")
    print(verdict(traffic, setup, measured, prices))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
