"""What was measured on AWS, as a page in Markdown and a plot in SVG."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from costs.report import markdown

from bench.report import number

_NOT = "Not measured; see the end."
_COLOURS = {"lambda": "#c2410c", "fargate": "#1d4ed8", "edge": "#0b7a3e"}


def page(found: Mapping[str, Any], plot_name: str) -> str:
    """Return the page; `found` is what the run wrote as JSON."""
    about = found["about"]
    title = f"# {about['stack']} in {about['region']}, {about['began'][:10]}"
    parts = [title, f"Made by `make bench-aws STACK={about['stack']}`. {_setting(about)}"]
    if about["local"]:
        parts.append(
            "**A local AWS emulator answered. This shows that the command works, and nothing of AWS.**"
        )
    parts += [f"![Latency of each endpoint]({plot_name})", "## Cold starts", *_starts(found)]
    parts += ["## Endpoints", *_endpoints(found)]
    if found.get("throughput"):
        parts += ["## Throughput of one task", *_throughput(found["throughput"])]
    parts += ["## From an order to its receipt", *_events(found)]
    parts += ["## A million requests", *_bill(found)]
    parts += ["## Not measured here", "\n".join(f"- {each}" for each in found["missing"])]
    return "\n\n".join(parts) + "\n"


def _setting(about: Mapping[str, Any]) -> str:
    sizes = ", ".join(f"{name} {value}" for name, value in about["sizes"].items())
    return (
        f"Begun {about['began']}, {about['minutes']:.0f} min, {about['requests']:,} requests, "
        f"{about['orders']:,} orders placed. {sizes}. Times of the client include its way to AWS: the "
        f"fastest answer of `GET /health` took {number(about['nearest_ms'])} ms."
    )


def _cell(figures: Mapping[str, Any] | None, name: str) -> str:
    return number(figures[name]) if figures and name in figures else "-"


def _of(figures: Mapping[str, Any], name: str) -> str:
    pair = figures.get(name)
    return f"{number(pair['median'])} ({number(pair['max'])})" if pair else "-"


def _starts(found: Mapping[str, Any]) -> list[str]:
    said = []
    if reported := {name: each for name, each in found["starts"].items() if each["calls"]}:
        head = [
            "",
            "init ms",
            "restore ms",
            "first call ms",
            "first call billed ms",
            "warm call ms",
            "memory used MB",
            "of MB",
            "cold starts",
        ]
        rows = [
            [
                name,
                *(
                    _of(each, f"cold_{figure}")
                    for figure in ("init_ms", "restore_ms", "duration_ms", "billed_ms")
                ),
                _of(each, "warm_duration_ms"),
                _of(each, "cold_used_mb"),
                _of(each, "cold_memory_mb").partition(" ")[0],
                str(each["cold"]),
            ]
            for name, each in reported.items()
        ]
        said += [
            "From the functions' own report lines: median (highest). Each was started anew by a change of the "
            "system log level of `$LATEST`, then called directly: the API with a read of one order, the others "
            "with a record that they have nothing to do for. Container images take no SnapStart, so nothing is restored.",
            markdown(head, rows),
        ]
    if traced := {name: each for name, each in found.get("traced", {}).items() if each["traces"]}:
        rows = [
            [
                name,
                str(each["traces"]),
                str(each["cold"]),
                _cell(each, "init_p50_ms"),
                _cell(each, "init_max_ms"),
            ]
            for name, each in traced.items()
        ]
        said += [
            "What callers of the alias `live` met during the run, of the calls that X-Ray sampled:",
            markdown(["", "traces", "cold starts", "init p50 ms", "init max ms"], rows),
        ]
    return said or [_NOT]


def _endpoints(found: Mapping[str, Any]) -> list[str]:
    entry_points = found["entry_points"]
    server = {name: each["server"] for name, each in entry_points.items() if each.get("server")}
    head = [""]
    head += [f"{name} p{n} ms" for name in entry_points for n in (50, 99)] + [
        f"{name} log p{n} ms" for name in server for n in (50, 99)
    ]
    endpoints = dict.fromkeys(
        each for entry_point in entry_points.values() for each in entry_point["endpoints"]
    )
    rows = [
        [
            f"`{endpoint}`",
            *(
                _cell(entry_point["endpoints"].get(endpoint), f"p{n}_ms")
                for entry_point in entry_points.values()
                for n in (50, 99)
            ),
            *(_cell(each.get(endpoint), f"p{n}_ms") for each in server.values() for n in (50, 99)),
        ]
        for endpoint in endpoints
    ]
    asked = [each for entry_point in entry_points.values() for each in entry_point["endpoints"].values()]
    if not asked:
        return [_NOT]
    fewest, most = (pick(int(each["count"]) for each in asked) for pick in (min, max))
    answers = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    said = (
        f"Warm, on four keep-alive connections, {answers} answers of each, "
        f"{sum(int(each['failed']) for each in asked)} failed in all."
    )
    if server:
        said += " *log*: by the application's own log lines, in the minutes of the traffic below: the median minute's p50, the worst minute's p99."
    return [said, markdown(head, rows)]


def _throughput(steps: Mapping[str, Any]) -> list[str]:
    rows = [
        [
            f"{step['connections']:.0f}",
            number(step["rate"] / steps["tasks"]),
            _cell(step, "p50_ms"),
            _cell(step, "p99_ms"),
            f"{step['failed']:.0f}",
            f"{step['client_busy']:.0%}",
            "yes" if step["borne"] else "no",
        ]
        for step in steps["steps"]
    ]
    said = f"Reads of one order, {steps['seconds']:g} s a step, over {steps['tasks']:g} running tasks, until p99 comes 100 ms later than an idle task's p50."
    if steps["rate"]:
        least = "at least " if steps["client_bound"] else ""
        said += f" **One task bore {least}{number(steps['rate'])} requests a second.**"
    if steps["client_bound"]:
        said += " It was not the task that ended it, but the client or the announced number of requests."
    return [
        said,
        markdown(
            ["connections", "per task and s", "p50 ms", "p99 ms", "failed", "client's processor", "borne"],
            rows,
        ),
    ]


def _events(found: Mapping[str, Any]) -> list[str]:
    said = []
    for name, entry_point in found["entry_points"].items():
        if events := entry_point.get("events"):
            line = f"{name}: {events['count']} receipts"
            if "p50_ms" in events:
                line += f", p50 {number(events['p50_ms'])} ms, p99 {number(events['p99_ms'])} ms, highest {number(events['max_ms'])} ms"
            said.append(f"- {line}; {events['missing']} missing.")
        if lag := entry_point.get("server", {}).get("lag"):
            said.append(
                f"- {name}, from the write to the bus by the relay's own log (in whole seconds): p50 {number(lag['p50_ms'])} ms, worst p99 {number(lag['p99_ms'])} ms."
            )
    intro = "From the answer to `POST /orders` until `GET /orders/{order_id}/receipt` leads to the document; asked every 100 ms, one order at a time."
    return [intro, "\n".join(said)] if said else [_NOT]


def _bill(found: Mapping[str, Any]) -> list[str]:
    about, said = found["about"], []
    for name, entry_point in found["entry_points"].items():
        if not entry_point.get("bill"):
            continue
        rows = [
            [title, number(amount), unit, f"{usd:,.3f}"] for title, amount, unit, usd in entry_point["bill"]
        ]
        rows.append(["**Total**", "", "", f"**{sum(each[3] for each in entry_point['bill']):,.3f}**"])
        said.append(markdown([f"{name}: a million requests", "amount", "unit", "USD"], rows))
        rows = [[title, number(here), number(model)] for title, here, model in entry_point["assumptions"]]
        said.append(
            markdown([f"{name}: what `make cost` takes for granted", "counted here", "in the model"], rows)
        )
    if not said:
        return [_NOT]
    intro = (
        f"From what CloudWatch counted in {about['mix_minutes']} whole minutes of {about['rate']:g} requests a second (10% "
        f"orders placed, 10% cancelled, 10% lists, the rest reads), at list prices of {about['prices']}. What a stack costs "
        "while nobody calls it is in `make cost`. A call that starts cold is billed for its initialization besides. X-Ray's share falls with the rate. Fargate: at the rate at which scaling "
        "keeps a task."
    )
    return [intro, *said]


def plot(found: Mapping[str, Any]) -> str:
    """Return the latency of each endpoint, p50 over p99, by the address it was asked at."""
    entry_points = found["entry_points"]
    highest = max(
        (
            each.get("p99_ms", 0.0)
            for entry_point in entry_points.values()
            for each in entry_point["endpoints"].values()
        ),
        default=1.0,
    )
    out, y = [], 30
    endpoints = dict.fromkeys(
        each for entry_point in entry_points.values() for each in entry_point["endpoints"]
    )
    for endpoint in endpoints:
        out.append(f'<text x="10" y="{y}" font-weight="bold">{escape(endpoint)}</text>')
        for name, entry_point in entry_points.items():
            each = entry_point["endpoints"].get(endpoint, {})
            if "p99_ms" not in each:
                continue
            y += 16
            short, long = (max(1.0, 520 * each[figure] / highest) for figure in ("p50_ms", "p99_ms"))
            colour = _COLOURS[name]
            out.append(f'<text x="80" y="{y}" text-anchor="end">{name}</text>')
            out.append(
                f'<rect x="88" y="{y - 10}" width="{long:.0f}" height="12" fill="{colour}" opacity="0.3"/>'
            )
            out.append(f'<rect x="88" y="{y - 10}" width="{short:.0f}" height="12" fill="{colour}"/>')
            out.append(
                f'<text x="{94 + long:.0f}" y="{y}">{number(each["p50_ms"])} / {number(each["p99_ms"])}</text>'
            )
        y += 26
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="720" height="{y}" font-family="sans-serif" font-size="11" role="img">'
        "<title>Latency of each endpoint in ms: p50 / p99</title>"
        f'<rect width="100%" height="100%" fill="white"/><text x="710" y="16" text-anchor="end">p50 / p99, ms</text>{"".join(out)}</svg>\n'
    )
