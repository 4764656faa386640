"""The model's answers as text: tables for the terminal, the page docs/generated/costs.md, and its plot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from scripts.permissions import BANNER
from scripts.whole_stack import all_resources

from costs.model import (
    RUNTIME_COSTS,
    TARGET_REQUESTS,
    TARGET_UTILIZATION,
    Measured,
    Prices,
    Setup,
    Traffic,
    break_even,
    load_measured,
    monthly,
)
from costs.services import rows

SIZES = (1e5, 1e7, 1e9)
_VARIANTS: dict[str, Setup] = {
    "as it stands": Setup(),
    "arm64": Setup(architecture="arm64"),
    "MemorySize: 512": Setup(lambda_memory_mb=512),
    "MemorySize: 1769": Setup(lambda_memory_mb=1769),
    "FargateMinTasks=1": Setup(fargate_min_tasks=1),
    "SpotPercent: 75": Setup(fargate_spot_percent=75),
    "NetworkEgress=nat-per-az": Setup(network_egress="nat-per-az"),
    "NetworkEgress=endpoints": Setup(network_egress="endpoints"),
}


def money(usd: float) -> str:
    """Format an amount so that small ones keep their digits."""
    return f"{usd:,.0f}" if usd >= 1000 else f"{usd:,.2f}"


def count(requests: float) -> str:
    """Format a number of requests with three digits: 1.23 million."""
    for size, word in ((1e9, "billion"), (1e6, "million"), (1e3, "thousand")):
        if requests >= size:
            return f"{requests / size:.3g} {word}"
    return f"{requests:.3g}"


def table(traffic: Traffic, setup: Setup, measured: Measured, prices: Prices) -> str:
    """Return the line items of both runtimes side by side, in Markdown that also reads on a terminal."""
    costs = {runtime: monthly(runtime, traffic, setup, measured, prices) for runtime in RUNTIME_COSTS}
    names = list(dict.fromkeys(name for items in costs.values() for name in items))
    rows = [
        [name, *(money(items[name]) if name in items else "-" for items in costs.values())] for name in names
    ]
    rows.append(["**Total**", *(money(sum(items.values())) for items in costs.values())])
    return markdown([f"USD a month at {count(traffic.requests)} requests", *costs], rows)


def verdict(traffic: Traffic, setup: Setup, measured: Measured, prices: Prices) -> str:
    """Return one sentence: where the break-even lies."""
    at = break_even(traffic, setup, measured, prices)
    if at is None:
        return "Lambda is the cheaper runtime at every size up to 10^12 requests a month."
    return (
        f"Break-even: {count(at)} requests a month ({at / (730 * 3600):,.0f} a second on average); "
        "below, Lambda is the cheaper runtime, above, Fargate."
    )


def page(traffic: Traffic, setup: Setup, measured: Measured, prices: Prices) -> str:
    """Return docs/generated/costs.md."""
    sensitivity = []
    for name, variant in _VARIANTS.items():
        totals = [
            sum(RUNTIME_COSTS[runtime](replace(traffic, requests=size), variant, measured, prices).values())
            for size in SIZES
            for runtime in RUNTIME_COSTS
        ]
        at = break_even(traffic, variant, measured, prices)
        sensitivity.append([name, *map(money, totals), "never" if at is None else count(at)])
    heads = [f"{count(size)}: {runtime}" for size in SIZES for runtime in RUNTIME_COSTS]
    parts = [
        "# The costs in figures",
        BANNER,
        f"List prices of {prices.region} as of {prices.as_of} (each with its source in "
        "[costs/prices.toml](../../costs/prices.toml)), without free tiers and discounts. Traffic: "
        f"{traffic.place_share:.0%} orders placed, {traffic.change_share:.0%} status changes, "
        f"{traffic.list_share:.0%} lists, the rest reads; the busiest hours run at "
        f"{traffic.peak_factor:g} times the mean. Measured: {measured.source}.",
        f"**{verdict(traffic, setup, measured, prices)}**",
        "![Cost by requests a month](costs.svg)",
        *(table(replace(traffic, requests=size), setup, measured, prices) for size in SIZES),
        "## What moves it",
        "The runtimes alone (all else costs the same with either), USD a month, and the break-even:",
        markdown(["", *heads, "break-even"], sensitivity),
        "## How it is counted",
        "Lambda: requests, and GB-seconds of computing (which shrinks with memory up to one vCPU at "
        f"1,769 MB) and of waiting for the database ({measured.lambda_wait_ms:g} ms). Fargate: as many "
        f"tasks as scaling keeps (at {TARGET_UTILIZATION:.0%} of their processor, or {TARGET_REQUESTS:g} "
        "requests a second for each quarter of a vCPU), never below FargateMinTasks, the first on "
        "demand; the load balancer by its capacity units; the network's gateways and addresses; the "
        "metrics of Container Insights. X-Ray records one call of a function a second and 5% of the "
        f"others; tasks send it nothing. Logs: a line of {traffic.log_kb:g} KB for each request, event and "
        "receipt, and the HTTP API's own; Lambda itself logs failed calls only.",
        "## What each resource type costs",
        "Every resource type of every template, and its line item above.",
        _services(),
    ]
    return "\n\n".join(parts) + "\n"


def _services() -> str:
    templates: dict[str, set[str]] = {}
    for each in all_resources().values():
        templates.setdefault(each.type, set()).add(each.template)
    found = rows({kind: sorted(paths) for kind, paths in templates.items()})
    lines = [["resource type", "templates", "costs"], ["---"] * 3, *found]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def plot(traffic: Traffic, setup: Setup, measured: Measured, prices: Prices) -> str:
    """Return an SVG: the runtimes' cost over the requests a month, both axes logarithmic."""
    width, height, left, bottom, top = 720, 380, 64, 48, 16
    low_x, high_x, low_y, high_y = 4.0, 10.0, -1.0, 5.0

    def x(requests: float) -> float:
        return left + (math.log10(requests) - low_x) / (high_x - low_x) * (width - left - 90)

    def y(usd: float) -> float:
        share = (math.log10(max(usd, 10**low_y)) - low_y) / (high_y - low_y)
        return height - bottom - share * (height - bottom - top)

    colours = {"lambda": "#c2410c", "fargate": "#1d4ed8"}
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        'font-family="system-ui, sans-serif" font-size="12">',
        "<title>Monthly cost of either runtime by requests a month</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for power in range(int(low_x), int(high_x) + 1):
        at = x(10.0**power)
        out.append(f'<path d="M{at:.1f} {top}V{height - bottom}" stroke="#e5e7eb"/>')
        out.append(
            f'<text x="{at:.1f}" y="{height - bottom + 18}" text-anchor="middle">{count(10.0**power)}</text>'
        )
    for power in range(int(low_y), int(high_y) + 1):
        at = y(10.0**power)
        out.append(f'<path d="M{left} {at:.1f}H{width - 90}" stroke="#e5e7eb"/>')
        out.append(f'<text x="{left - 8}" y="{at + 4:.1f}" text-anchor="end">{10.0**power:g}</text>')
    for runtime, costs in RUNTIME_COSTS.items():
        points = []
        for step in range(121):
            requests = 10 ** (low_x + step / 20)
            cost = sum(costs(replace(traffic, requests=requests), setup, measured, prices).values())
            points.append(f"{x(requests):.1f},{y(cost):.1f}")
        stroke = f'fill="none" stroke="{colours[runtime]}" stroke-width="2"'
        out.append(f'<polyline points="{" ".join(points)}" {stroke}/>')
        end_x, end_y = map(float, points[-1].split(","))
        label = f'fill="{colours[runtime]}">{runtime}</text>'
        out.append(f'<text x="{end_x + 6:.1f}" y="{end_y + 4:.1f}" {label}')
    middle = (left + width - 90) / 2
    out.append(f'<text x="{middle}" y="{height - 8}" text-anchor="middle">')
    out.append("requests a month; USD a month upward</text>")
    return "\n".join([*out, "</svg>"]) + "\n"


def pages() -> tuple[str, str]:
    """Return docs/generated/costs.md and its plot, of our own setup."""
    figures = Traffic(requests=0), Setup(), load_measured(), Prices.load()
    return page(*figures), plot(*figures)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown that reads on a terminal too; all columns but the first are numbers."""
    widths = [max(len(row[n]) for row in [head, *rows]) for n in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = (
            c.ljust(w) if n == 0 else c.rjust(w) for n, (c, w) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join(padded)} |"

    rule = "|".join([f" {'-' * widths[0]} ", *(f" {'-' * (w - 1)}: " for w in widths[1:])])
    return "\n".join([line(head), f"|{rule}|", *(line(row) for row in rows)])
