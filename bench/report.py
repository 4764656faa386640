"""Results as a table in Markdown and as a plot in SVG."""

from __future__ import annotations

from html import escape
from typing import Any

OURS, BASELINE = "orders (this project)", "baseline (FastAPI + Mangum + boto3)"
BLOCKING, CHALICE = "the same, blocking in async def", "Chalice + boto3"
SECOND = "products"  # our second resource, measured in turn with the first
SECOND_LIMIT = 1.1  # as a ratio to the first
# part, figure, title, unit, whether more is better, threshold and moonshot as ratios to the baseline
COMPARED = [
    ("cold", "cpu_ms", "Cold start, CPU to the first answer", "ms", False, 0.55, 0.45),
    ("rie", "cpu_ms", "Cold start through the runtime emulator, CPU", "ms", False, None, None),
    ("rie", "wall_ms", "Cold start through the runtime emulator, wall", "ms", False, None, None),
    ("warm", "get", "Warm Lambda GET, CPU", "us", False, 0.25, 0.16),
    ("warm", "post", "Warm Lambda POST, CPU", "us", False, 0.25, 0.16),
    ("warm", "list", "Warm Lambda list of 50, CPU", "us", False, 0.20, 0.10),
    ("server", "get_16", "Server GET, 16 connections", "per CPU s", True, 5, 12),
    ("server", "post_16", "Server POST, 16 connections", "per CPU s", True, 5, 8),
    ("server", "list_16", "Server list of 50, 16 connections", "per CPU s", True, 5, 15),
    ("server", "get_1", "Server GET, 1 connection", "per CPU s", True, None, None),
    ("server", "get_64", "Server GET, 64 connections", "per CPU s", True, None, None),
    ("server", "resident_mb", "Server memory after the load", "MB", False, 0.8, 0.5),
    ("server", "rejected_mb", "Server memory after a rejected request besides", "MB", False, 0.8, 0.5),
    ("container", "rate", "GET rate of 0.25 vCPU with p99 < 100 ms", "per s", True, 6, 15),
    ("container", "p50_ms", "p50 at that rate", "ms", False, None, None),
    ("container", "p99_ms", "p99 at that rate", "ms", False, None, None),
    ("container", "start_seconds", "Start of the 0.25 vCPU task", "s", False, None, None),
]


def number(value: float) -> str:
    """Format with three digits that mean something."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def reaches(ratio: float, more: bool, level: float) -> bool:
    """Return whether a ratio is as good as `level`."""
    return ratio >= level if more else ratio <= level


def verdict(rows: dict[str, Any], figure: str, more: bool, threshold: float, moonshot: float) -> str:
    """Say which threshold our ratio to the baseline reaches, and our ratio to the one that blocks."""
    ratio = rows[OURS][figure] / rows[BASELINE][figure]
    reached = next(
        (
            name
            for name, level in (("moonshot", moonshot), ("threshold", threshold))
            if reaches(ratio, more, level)
        ),
        "MISSED",
    )
    said = f": {reached} ({threshold:g}x / {moonshot:g}x)"
    if BLOCKING in rows:
        said += f"; {rows[OURS][figure] / rows[BLOCKING][figure]:.2f}x of the one that blocks"
    return said


def second_to_first(found: dict[str, Any]) -> dict[str, float]:
    """Return what each operation on the second resource costs, as a ratio to the first. Older results have none."""
    ours, start = found.get("warm", {}).get(OURS, {}), f"{SECOND}_"
    return {figure.removeprefix(start): ours[figure] for figure in ours if figure.startswith(start)}


def missed(found: dict[str, Any]) -> list[str]:
    """Say which thresholds are missed, and by how much."""
    said = []
    for part, figure, title, _, more, threshold, _ in COMPARED:
        if threshold is not None and part in found:
            ratio = found[part][OURS][figure] / found[part][BASELINE][figure]
            if not reaches(ratio, more, threshold):
                said.append(f"{title}: {ratio:.2f}x, the threshold is {threshold:g}x")
    for operation, ratio in second_to_first(found).items():
        if ratio > SECOND_LIMIT:
            said.append(
                f"Warm {operation} of {SECOND}: {ratio:.2f}x of orders, the threshold is {SECOND_LIMIT:g}x"
            )
    if "cold" in found and found["cold"][OURS]["cpu_ms"] >= found["cold"][CHALICE]["cpu_ms"]:
        said.append(f"Cold start, CPU to the first answer: not under {CHALICE}")
    return said


def row(name: str, figures: dict[str, Any], figure: str, base: float) -> str:
    """Return one candidate's figure, its ratio, and how far its rounds lay apart."""
    low, high = figures["range"].get(figure, (figures[figure],) * 2)
    between = f"; {number(low)} to {number(high)}" if low < high else ""
    return f"- {name}: {number(figures[figure])} ({figures[figure] / base:.2f}x{between})"


def table(found: dict[str, Any]) -> str:
    """Return how each part was measured, and every figure with its ratio to the baseline."""
    machine = found["machine"]
    lines = [
        f"Python {machine['python']}, {machine['machine']}, {machine['cpus']} CPUs; "
        f"one {'quick ' * machine['quick']}run, begun {machine['began']}. Figures are medians. "
        f"In brackets: ratio to *{BASELINE}*; lowest to highest round.",
        "",
        "| part | how it was measured | took |",
        "| --- | --- | --- |",
    ]
    lines += [
        f"| {part} | {each['how']} | {number(each['seconds'])} s |"
        for part, each in found["measured"].items()
    ]
    for part, figure, title, unit, more, threshold, moonshot in COMPARED:
        if part not in found:
            continue
        rows = found[part]
        said = (
            "" if threshold is None or moonshot is None else verdict(rows, figure, more, threshold, moonshot)
        )
        lines += ["", f"**{title}** ({unit}{', more is better' * more}){said}", ""]
        lines += [row(name, each, figure, rows[BASELINE][figure]) for name, each in rows.items()]
    if ratios := second_to_first(found):
        told = ", ".join(f"{operation} {ratio:.2f}x" for operation, ratio in ratios.items())
        lines += ["", f"**{SECOND.capitalize()}, the second resource, to orders** (warm Lambda, CPU): {told}"]
    if "container" in found:
        lines += ["", f"Our image: {number(found['container'][OURS]['image_mb'])} MB."]
    if "clients" in found:
        keys = [key for key in next(iter(found["clients"].values())) if key != "range"]
        lines += ["", "**Clients for DynamoDB** (CPU of a call, 16 at a time)", ""]
        lines += [f"| client | {' | '.join(keys)} |", "| --- " * (len(keys) + 1) + "|"]
        lines += [
            f"| {name} | {' | '.join(number(each[key]) for key in keys)} |"
            for name, each in found["clients"].items()
        ]
    if "lists" in found:
        lines += [
            "",
            "**A page of 50 by number of orders** (Queries, items read; first page / in the middle)",
            "",
        ]
        lines += [
            f"- {int(size):,} orders: {each['first_queries']}, {each['first_items']} / "
            f"{each['middle_queries']}, {each['middle_items']}"
            for size, each in found["lists"]["page_of_50"].items()
        ]
        lines += ["", "**Spread of the sharded index** (3,000 writes a second offered; simulated)", ""]
        lines += [
            f"- {shards} shards: {each['admitted_per_second']:,.0f} a second admitted; "
            f"busiest shard {each['busiest_to_mean']:.2f} of the mean"
            for shards, each in found["lists"]["writes_at_3000_a_second"].items()
        ]
    if "observability" in found:
        lines += ["", "**What logs, metrics and traces cost our function** (CPU)", ""]
        lines += ["| | cold start, ms | GET, us | POST, us | list, us |", "| --- " * 5 + "|"]
        lines += [
            f"| {name} | {' | '.join(number(each[key]) for key in ('cold_ms', 'get', 'post', 'list'))} |"
            for name, each in found["observability"].items()
        ]
    return "\n".join(lines)


def plot(found: dict[str, Any]) -> str:
    """Return one group of bars for each figure with a threshold to meet."""
    parts = [
        (part, figure, title, unit)
        for part, figure, title, unit, _, threshold, _ in COMPARED
        if threshold is not None and part in found
    ]
    out, y = [], 34
    for part, figure, title, unit in parts:
        rows = found[part]
        longest = max(each[figure] for each in rows.values())
        out.append(f'<text x="10" y="{y}" font-weight="bold">{escape(title)} ({unit})</text>')
        for name, each in rows.items():
            y += 17
            width = max(1, 420 * each[figure] / longest)
            colour = {OURS: "#0b7a3e", BASELINE: "#b3452c"}.get(name, "#9aa4ad")
            out.append(f'<text x="300" y="{y}" text-anchor="end">{escape(name)}</text>')
            out.append(f'<rect x="308" y="{y - 11}" width="{width:.0f}" height="13" fill="{colour}"/>')
            out.append(f'<text x="{314 + width:.0f}" y="{y}">{number(each[figure])}</text>')
        y += 32
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="820" height="{y}" font-family="sans-serif" font-size="11">'
        f'<rect width="100%" height="100%" fill="white"/>{"".join(out)}</svg>\n'
    )
