"""Measures a deployed stack. `make bench-aws STACK=orders-dev`; TOKEN is a caller's, where the API asks for one.

It says what it will send, how long that takes and what it costs, and asks before it begins (YES=1 answers; not for
prod). Reads its addresses from the stack, waits for nobody without bound, and sends no more than it said. The page,
its plot and all figures go to `reports/bench-aws/`; copy them to `docs/` to keep them.

What it leaves: the orders it placed, all of them cancelled, with their receipts, events and log lines. For the cold
starts the system log level of `$LATEST` is changed and put back (not of a stage prod); the alias that serves stays as
it is.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import uvloop
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from costs.model import PRICES, Measured, Prices, load_measured
from scripts.aws import SDK_ERRORS, explained, session
from scripts.cli import Arguments, CliError, ask, stack_of

from bench.aws import bill, report, starts
from bench.aws.callers import ENDPOINTS, WARM_UP, Budget, Callers, Spent
from bench.aws.target import EntryPoint, Target, find
from bench.processes import ROOT

REPORTS = ROOT / "reports/bench-aws"
_STOCK = 20  # orders placed before the mixed traffic, so that there is always one to read and to cancel
_LIMITED_SAMPLES = (
    50  # behind a web ACL: in all less than its 2,000 requests from one address in five minutes
)
_RECEIPT_SECONDS = 30.0


@dataclass(frozen=True)
class Plan:
    """How much is asked of a stack. Every figure is a bound."""

    minutes: int = 2  # of mixed traffic at each runtime
    rate: float = 20.0  # requests a second in them
    samples: int = 200  # of each endpoint at each address
    events: int = 20  # orders whose receipt is waited for
    rounds: int = 5  # cold starts of each function
    step_seconds: float = 5.0
    step_requests: int = 20_000  # of all steps together
    polls: int = 60  # for one receipt, at most
    drain_seconds: float = 20.0  # of the last minute, in which what is behind the table catches up
    pause_seconds: float = 30.0  # between two looks at CloudWatch
    whole_minutes: bool = True  # CloudWatch counts by the minute; the tests need not wait for one

    @property
    def mix_seconds(self) -> float:
        """Return for how long there is mixed traffic."""
        return self.minutes * 60 - self.drain_seconds

    def requests(self, entry_point: EntryPoint) -> tuple[int, int]:
        """Return how many requests one address gets at most, and how many orders are placed by them."""
        samples = WARM_UP + self.samples_at(entry_point)
        placed = 1 + samples + self.events
        # Every order that is placed is cancelled, by one more request.
        count = 2 + len(ENDPOINTS) * samples + self.polls + self.events * (2 + self.polls)
        if not entry_point.limited:
            mixed = int(self.mix_seconds * self.rate)
            placed += _STOCK + math.ceil(mixed / 10)
            count += 2 * _STOCK + mixed
        if entry_point.name == "fargate" and not entry_point.limited:
            count, placed = count + self.step_requests + 2, placed + 1
        return count, placed

    def samples_at(self, entry_point: EntryPoint) -> int:
        """Return how often each endpoint is asked at an address."""
        return min(self.samples, _LIMITED_SAMPLES) if entry_point.limited else self.samples

    def calls(self, target: Target) -> int:
        """Return how often functions are called directly."""
        return 0 if target.stage == "prod" else 2 * self.rounds * len(target.functions)

    def seconds(self, target: Target) -> float:
        """Return about how long it takes."""
        found = self.calls(target) * 4.0 + bill.LOOKS * self.pause_seconds / 2
        for entry_point in target.entry_points:
            found += len(ENDPOINTS) * self.samples_at(entry_point) * 0.02 + self.events * 2.5
            found += (self.minutes * 60 + 60) * (not entry_point.limited)
            found += 8 * self.step_seconds * (entry_point.name == "fargate")
        return found


class Bench:
    """One run over one stack."""

    def __init__(
        self, session: Any, target: Target, plan: Plan, token: str, prices: Prices, measured: Measured
    ) -> None:
        self._session, self.target, self.plan, self._token = session, target, plan, token
        self._prices, self._measured = prices, measured
        self._customer = f"bench-aws-{uuid.uuid4().hex[:12]}"
        self.missing: list[str] = []

    def client(self, service: str) -> Any:
        """Return a client that gives up in time."""
        config = Config(connect_timeout=10, read_timeout=70, retries={"max_attempts": 3, "mode": "standard"})
        return self._session.client(service, config=config)

    def estimate(self) -> float:
        """Return what the run costs at most, in USD."""
        requests = {
            entry_point.name: self.plan.requests(entry_point) for entry_point in self.target.entry_points
        }
        billed = [entry_point.name for entry_point in self.target.entry_points if not entry_point.limited]
        metrics = bill.LOOKS * sum(len(bill.metrics(self.target, name)) for name in billed)
        setup = bill.setup_of(self.target)
        return bill.estimate(
            requests, self.plan.calls(self.target), metrics, setup, self._measured, self._prices
        )

    def announcement(self) -> str:
        """Say what will be done, and what it costs."""
        target, plan = self.target, self.plan
        counts = [plan.requests(entry_point) for entry_point in target.entry_points]
        lines = [
            f"{target.stack} in {target.region}: "
            + ", ".join(f"{entry_point.name} at {entry_point.url}" for entry_point in target.entry_points),
            f"At most {sum(count for count, _ in counts):,} requests and {plan.calls(target)} direct calls, "
            f"{sum(placed for _, placed in counts):,} orders placed among them. They stay, cancelled, with their "
            "receipts, events and log lines.",
        ]
        if plan.calls(target):
            names = ", ".join(target.functions)
            lines.append(
                f"For cold starts the system log level of $LATEST of {names} is changed and put back; the alias "
                "live, which serves, stays as it is."
            )
        if target.entry_point("fargate"):
            lines.append("The load may make scaling add a task; it takes it back by itself.")
        usd = math.ceil(self.estimate() * 100) / 100
        lines.append(
            f"About {plan.seconds(target) / 60:.0f} minutes and {usd:.2f} USD at list prices of {self._prices.region} "
            f"({self._prices.as_of})."
        )
        return "\n".join(lines)

    def run(self, say: Callable[[str], None]) -> dict[str, Any]:
        """Measure everything; what could not be is in `missing`."""
        began, clock = datetime.now(UTC), time.monotonic()
        budgets = {
            entry_point: Budget(self.plan.requests(entry_point)[0])
            for entry_point in self.target.entry_points
        }
        entry_points = self._that_take_orders(budgets, say)
        found: dict[str, Any] = {"starts": self._starts(say), "entry_points": {}}
        intervals: dict[str, bill.Interval] = {}
        orders = len(entry_points)
        for entry_point in entry_points:
            figures, interval, placed = uvloop.run(self._entry_point(entry_point, budgets[entry_point], say))
            if "steps" in figures:
                found["throughput"] = figures.pop("steps")
            found["entry_points"][entry_point.name] = figures
            orders += placed
            if interval:
                intervals[entry_point.name] = interval
        say("waiting for CloudWatch and X-Ray, which are minutes late")
        borne = found.get("throughput", {}).get("rate") or None
        for name, interval in intervals.items():
            found["entry_points"][name] |= self._counted(name, interval, borne if name == "fargate" else None)
        found["traced"] = (
            self._tried(
                "what X-Ray sampled",
                lambda: starts.traced(self.client("xray"), self.target, began, datetime.now(UTC)),
            )
            or {}
        )
        health = [
            entry_point["endpoints"].get("GET /health", {}) for entry_point in found["entry_points"].values()
        ]
        found["about"] = {
            "stack": self.target.stack,
            "region": self.target.region,
            "local": self.target.local,
            "began": f"{began:%Y-%m-%d %H:%M} UTC",
            "minutes": (time.monotonic() - clock) / 60,
            "requests": sum(budget.sent for budget in budgets.values()),
            "orders": orders,
            "sizes": self._sizes(),
            "nearest_ms": min(each.get("min_ms", 0.0) for each in health),
            "mix_minutes": self.plan.minutes,
            "rate": self.plan.rate,
            "prices": f"{self._prices.region} of {self._prices.as_of}",
        }
        kms = (
            "requests to KMS: they have no metric by key, and grow with time, not with traffic (`make cost`)"
        )
        found["missing"] = [*self.missing, kms]
        return found

    def _that_take_orders(
        self, budgets: Mapping[EntryPoint, Budget], say: Callable[[str], None]
    ) -> list[EntryPoint]:
        """Place an order at each address, and cancel it. Raises CliError when none takes one."""
        say("asking each address for one order")
        rejected: list[CliError] = []

        async def ask(entry_point: EntryPoint) -> None:
            async with Callers(entry_point, self._token, budgets[entry_point], self._customer) as callers:
                try:
                    await callers.begin()
                finally:
                    await callers.cancel()

        entry_points = []
        for entry_point in budgets:
            try:
                uvloop.run(ask(entry_point))
                entry_points.append(entry_point)
            except CliError as why:
                rejected.append(why)
                self.missing.append(f"{entry_point.name}: {why}")
        if not entry_points:
            raise rejected[0]
        return entry_points

    def _sizes(self) -> dict[str, Any]:
        setup, names = (
            bill.setup_of(self.target),
            [entry_point.name for entry_point in self.target.entry_points],
        )
        sizes: dict[str, Any] = {"Architecture": setup.architecture}
        if "fargate" in names:
            sizes["FargateCpuUnits"] = setup.fargate_cpu_units
        return sizes

    def _tried(self, what: str, attempt: Callable[[], Any]) -> Any:
        """Return what an attempt gives, or None; then what is missing is noted."""
        try:
            return attempt()
        except (ClientError, BotoCoreError) as error:
            self.missing.append(f"{what}: {explained(error)}")
            return None

    def _starts(self, say: Callable[[str], None]) -> dict[str, Any]:
        if self.target.stage == "prod":
            self.missing.append(
                "report lines of cold starts: the functions of a stage prod are left as they are"
            )
            return {}
        say("cold starts")
        functions = self.client("lambda")
        try:
            found = self._tried(
                "report lines of cold starts",
                lambda: starts.cold_starts(functions, self.target, self.plan.rounds, self._token),
            )
        except starts.CallFailed as why:
            self.missing.append(f"report lines of cold starts: {why}")
            return {}
        for name, each in (found or {}).items():
            if not each["calls"]:
                self.missing.append(f"cold starts of {name}: no report came with the tail of its log")
            elif not each["cold"]:
                self.missing.append(f"cold starts of {name}: no report names an initialization")
        return found or {}

    async def _entry_point(
        self, entry_point: EntryPoint, budget: Budget, say: Callable[[str], None]
    ) -> tuple[dict[str, Any], bill.Interval | None, int]:
        """Measure one address; return its figures, the minutes of mixed traffic, and the orders placed."""
        plan, interval = self.plan, None
        figures: dict[str, Any] = {"endpoints": {}}
        async with Callers(entry_point, self._token, budget, self._customer) as callers:
            try:
                say(f"{entry_point.name}: endpoints")
                figures["endpoints"] = await callers.endpoints(
                    plan.samples_at(entry_point), _RECEIPT_SECONDS, plan.polls
                )
                say(f"{entry_point.name}: events")
                figures["events"] = await callers.events(plan.events, _RECEIPT_SECONDS, plan.polls)
                if not entry_point.limited:
                    interval = await self._mix(callers, say)
                if entry_point.name == "fargate" and not entry_point.limited:
                    say(f"{entry_point.name}: throughput")
                    figures["steps"] = await self._steps(callers)
            except Spent:
                self.missing.append(
                    f"{entry_point.name}: ended early, for as many requests as announced were sent"
                )
            except CliError as why:
                self.missing.append(f"{entry_point.name}: ended early: {why}")
            finally:
                await callers.cancel()
        if entry_point.limited:
            self.missing.append(
                f"{entry_point.name}: more than endpoints and events, for a web ACL limits its callers"
            )
        receipt = "GET /orders/{order_id}/receipt"
        if figures["endpoints"] and receipt not in figures["endpoints"]:
            self.missing.append(f"{entry_point.name}: `{receipt}`, for no receipt was there in time")
        return figures, interval, callers.orders

    async def _mix(self, callers: Callers, say: Callable[[str], None]) -> bill.Interval:
        """Give one runtime the mixed traffic in whole minutes of the clock."""
        plan = self.plan
        await callers.stock(_STOCK)
        if plan.whole_minutes:
            wait = 60.05 - time.time() % 60
            # What came before has drained by then.
            await asyncio.sleep(wait if wait > plan.drain_seconds else wait + 60)
        began = datetime.now(UTC).replace(second=0, microsecond=0)
        say(f"{callers.entry_point.name}: mixed traffic")
        sent = await callers.mix(plan.rate, plan.mix_seconds)
        if plan.whole_minutes:
            await asyncio.sleep(plan.drain_seconds)
        if failed := sent.pop("failed"):
            self.missing.append(
                f"{callers.entry_point.name}: {failed} of {sent['sent']} requests of the mixed traffic failed"
            )
        return bill.Interval(began, began + timedelta(minutes=plan.minutes), **sent)

    async def _steps(self, callers: Callers) -> dict[str, Any]:
        await callers.stock(1)
        before = await asyncio.to_thread(self._running_tasks)
        steps = await callers.steps(self.plan.step_seconds, self.plan.step_requests)
        after = await asyncio.to_thread(self._running_tasks)
        tasks = after or before or 1
        if not after:
            self.missing.append("how many tasks ran: the throughput is that of the whole service")
        elif before != after:
            self.missing.append(
                f"throughput: the number of tasks changed from {before} to {after} during the steps; measure again"
            )
        borne = [step["rate"] for step in steps if step["borne"]]
        return {
            "steps": steps,
            "seconds": self.plan.step_seconds,
            "tasks": tasks,
            "rate": max(borne, default=0.0) / tasks,
            "client_bound": bool(steps[-1]["borne"]),
        }

    def _running_tasks(self) -> int:
        """Return how many tasks of the service run, or 0 when that cannot be told."""
        cluster, service = (self.target.resources.get(each, "") for each in ("Cluster", "Service"))
        if not (cluster and service):
            return 0
        answer = self._tried(
            "running tasks",
            lambda: self.client("ecs").describe_services(cluster=cluster, services=[service]),
        )
        return int(answer["services"][0]["runningCount"]) if answer and answer["services"] else 0

    def _counted(self, entry_point: str, interval: bill.Interval, borne: float | None) -> dict[str, Any]:
        """Return what CloudWatch counted in the interval of one runtime, as a bill."""
        cloudwatch, wanted = self.client("cloudwatch"), bill.metrics(self.target, entry_point)
        counted = self._tried(
            f"{entry_point}: the bill of a million requests",
            lambda: bill.complete(cloudwatch, wanted, interval, self.plan.pause_seconds) or {},
        )
        if not counted:
            if counted is not None:
                self.missing.append(
                    f"{entry_point}: the bill of a million requests, for CloudWatch has not counted its {interval.sent} requests"
                )
            return {}
        others = sum(counted["requests"]) / interval.sent - 1
        if others > 0.02:
            self.missing.append(
                f"{entry_point}: others called too ({others:.0%} more requests); amounts are of all of them"
            )
        traces = self._tried(
            f"{entry_point}: X-Ray's line of the bill",
            lambda: starts.recorded(self.client("xray"), self.target, interval.began, interval.ended),
        )
        return {
            "bill": bill.lines(
                counted, interval, self.target, entry_point, traces or {}, borne, self._prices
            ),
            "assumptions": bill.assumptions(counted, interval, self.target, entry_point, self._measured),
            "server": bill.server_side(counted),
        }


def write(found: dict[str, Any], directory: Path) -> Path:
    """Write page, plot and figures; return the page's path."""
    about = found["about"]
    name = f"{about['stack']}-{about['region']}-{about['began'][:10]}"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    (directory / f"{name}.svg").write_text(report.plot(found))
    (directory / f"{name}.md").write_text(report.page(found, f"{name}.svg"))
    return directory / f"{name}.md"


def agreed(target: Target, yes: bool) -> bool:
    """Ask whether to begin; for prod its name is to be typed."""
    if target.stage == "prod":
        return ask(f"Type {target.stack} to go on: ") == target.stack
    return yes or (ask("Go on? [y/N] ") or "").lower() in ("y", "yes")


def main(arguments: list[str] | None = None) -> int:
    """Measure, and write what came out. Returns 0, 1 when nothing was measured, 2 when misused, 130 after Ctrl-C."""
    parser = Arguments(prog="make bench-aws", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--stack", type=stack_of, required=True)
    parser.add_argument("--yes", action="store_true", help="do not ask; not for prod")
    parser.add_argument(
        "--minutes",
        type=int,
        choices=range(1, 11),
        default=Plan.minutes,
        metavar="1-10",
        help="of mixed traffic",
    )
    parser.add_argument(
        "--prices", type=Path, default=PRICES, help="of another region: a copy of costs/prices.toml"
    )
    given = parser.parse_args(arguments)
    try:
        prices, measured = Prices.load(given.prices), load_measured()
        aws = session()
        bench = Bench(
            aws,
            find(aws, given.stack),
            Plan(given.minutes),
            os.environ.get("TOKEN", ""),
            prices,
            measured,
        )
        print(bench.announcement(), flush=True)
        if not agreed(bench.target, given.yes):
            print("make bench-aws: not begun; nothing was sent", file=sys.stderr)
            return 1
        page = write(bench.run(lambda text: print(f"  {text}", flush=True)), REPORTS)
    except (CliError, *SDK_ERRORS, ValueError, OSError) as error:
        print(f"make bench-aws: {explained(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "\nmake bench-aws: interrupted; its orders stay, cancelled if time allowed, and the functions are as before",
            file=sys.stderr,
        )
        return 130
    print(page.read_text())
    print(
        f"Written to {page.relative_to(ROOT)} with its plot and figures. To keep them: cp {page.with_suffix('').relative_to(ROOT)}.* docs/"
    )
    return 0


if __name__ == "__main__":
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # in the background, too, where SIGINT is ignored at the start
        signal.signal(number, signal.default_int_handler)
    sys.exit(main())
