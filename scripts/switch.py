"""`make switch TO=fargate|lambda`: change the runtime under a running API, with no failed request.

The CDN (edge/template.yaml) is the address that stays. The steps, each a parameter of one of the stacks:

    deploy-new     the new runtime comes up beside the old one   orders stack: BothRuntimes=true
    health-check   it must answer ten times in a row, directly; otherwise no traffic is shifted
    shift-traffic  requests go to it                             CDN stack: its origin, then ActiveOrigin
    verify         the address that stays must answer; if it does not, traffic is shifted back
    drain          the old runtime finishes its requests
    detach-old     the old runtime's address is removed          CDN stack: its origin
    remove-old     the old runtime is deleted                    orders stack: Runtime, BothRuntimes=false

The steps are worked out from what is there. So a switch that was interrupted goes on where it stopped,
and `make switch` to the other runtime is the way back from any step.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import urlsplit

import boto3
import urllib3
from scripts.aws import origin_secret, session
from scripts.cli import Arguments, CliError, run_command, stack_of
from scripts.stack import Stack

IN_A_ROW = 10
_HEALTH_CHECK_SECONDS = 120  # the stack says when new tasks and functions are up; the rest is cold starts
_VERIFY_SECONDS = 60
_PAUSE_SECONDS = 0.5
_TIMEOUT_SECONDS = 10


class Step(StrEnum):
    """What is done, step by step."""

    DEPLOY_NEW = "deploy-new"
    HEALTH_CHECK = "health-check"
    SHIFT_TRAFFIC = "shift-traffic"
    VERIFY = "verify"
    DRAIN = "drain"
    DETACH_OLD = "detach-old"
    REMOVE_OLD = "remove-old"


@dataclass(frozen=True)
class State:
    """Which runtimes stand, and which of them the CDN sends requests to; which origins it knows."""

    standing: frozenset[str]
    active: str
    known: frozenset[str]


def other(runtime: str) -> str:
    """Return the runtime that `runtime` is not."""
    return "lambda" if runtime == "fargate" else "fargate"


def plan(state: State, to: str) -> list[Step]:
    """Return the steps from `state` to `to` alone, serving."""
    steps: list[Step] = []
    if to not in state.standing:
        steps.append(Step.DEPLOY_NEW)
    if state.active != to:
        steps += [Step.HEALTH_CHECK, Step.SHIFT_TRAFFIC, Step.VERIFY, Step.DRAIN]
    elif other(to) in state.standing:  # an earlier switch stopped after its move
        steps += [Step.VERIFY, Step.DRAIN]
    if other(to) in state.known or state.active != to:
        steps.append(Step.DETACH_OLD)
    if other(to) in state.standing:
        steps.append(Step.REMOVE_OLD)
    return steps


def healthy(answers: Callable[[], bool], seconds: float, clock: Callable[[], float] = time.monotonic) -> bool:
    """Whether `answers` becomes true `IN_A_ROW` times in a row within `seconds`."""
    deadline, row = clock() + seconds, 0
    while row < IN_A_ROW:
        if answers():
            row += 1
        elif clock() > deadline:
            return False
        else:
            row = 0
            time.sleep(_PAUSE_SECONDS)
    return True


@dataclass
class Address:
    """A runtime's address. `certificate_name`: what its certificate must hold, if not the host's name."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    certificate_name: str = ""

    def serves(self, runtime: str) -> bool:
        """Whether it is ready, and `runtime` is what answers."""
        try:
            ready, about = self._get("/health/ready"), self._get("/")
            return ready.status == about.status == 200 and bool(about.json()["runtime"] == runtime)
        except (urllib3.exceptions.HTTPError, ValueError, KeyError):
            return False

    def _get(self, path: str) -> urllib3.BaseHTTPResponse:
        name = self.certificate_name or urlsplit(self.url).hostname
        with urllib3.PoolManager(retries=False, timeout=_TIMEOUT_SECONDS, server_hostname=name) as http:
            return http.request("GET", self.url.rstrip("/") + path, headers=self.headers)


class Switch:
    """One switch: the two stacks, and the stable address."""

    def __init__(self, orders: Stack, edge: Stack, front: Address, drain_seconds: float) -> None:
        self._orders = orders
        self._edge = edge
        self._front = front
        self._drain_seconds = drain_seconds

    def state(self) -> State:
        """Return how things stand."""
        orders, edge = self._orders.parameters(), self._edge.parameters()
        both = orders["BothRuntimes"] == "true"
        standing = frozenset({"lambda", "fargate"} if both else {orders["Runtime"]})
        known = frozenset(runtime for runtime in ("lambda", "fargate") if edge[_origin(runtime)])
        return State(standing, edge["ActiveOrigin"], known)

    def run(self, to: str) -> None:
        """Do what is left to do. Raises `CliError`."""
        steps = plan(self.state(), to)
        if not steps:
            print(f"{to} serves already, and alone.")
        for number, step in enumerate(steps, 1):
            started = time.monotonic()
            runtime = other(to) if step in (Step.DRAIN, Step.DETACH_OLD, Step.REMOVE_OLD) else to
            print(f"[{number}/{len(steps)}] {step}: {runtime} ...", flush=True)
            self._do(step, to)
            print(f"      done after {time.monotonic() - started:.1f} s", flush=True)

    def _do(self, step: Step, to: str) -> None:
        match step:
            case Step.DEPLOY_NEW:
                self._orders.change(BothRuntimes="true")
            case Step.HEALTH_CHECK:
                self._health_check(to)
            case Step.SHIFT_TRAFFIC:
                self._shift_traffic(to)
            case Step.VERIFY:
                self._verify(to)
            case Step.DRAIN:
                time.sleep(self._drain_seconds)
            case Step.DETACH_OLD:
                self._edge.change(**{_origin(other(to)): ""})
            case Step.REMOVE_OLD:
                self._orders.change(Runtime=to, BothRuntimes="false")

    def _health_check(self, to: str) -> None:
        if not healthy(lambda: self._direct(to).serves(to), _HEALTH_CHECK_SECONDS):
            raise CliError(
                f"{to} does not answer; no traffic was shifted, {other(to)} serves. "
                f"`make switch TO={other(to)}` takes {to} away again."
            )

    def _direct(self, runtime: str) -> Address:
        url = self._orders.outputs().get({"lambda": "LambdaApiUrl", "fargate": "FargateApiUrl"}[runtime], "")
        arn = self._orders.parameters().get("OriginSecretArn", "")
        name = self._edge.parameters().get("FargateOriginName", "") if runtime == "fargate" else ""
        return Address(url, {"X-Origin-Secret": origin_secret(boto3, arn)} if arn else {}, name)

    def _shift_traffic(self, to: str) -> None:
        outputs = self._orders.outputs()
        origins = {_origin(runtime): outputs.get(_origin(runtime), "") for runtime in ("lambda", "fargate")}
        # First where it is: that makes the DNS record of FargateOriginName, and nobody asks for it before.
        self._edge.change(**origins)
        self._edge.change(ActiveOrigin=to)

    def _verify(self, to: str) -> None:
        if healthy(lambda: self._front.serves(to), _VERIFY_SECONDS):
            return
        if other(to) in self.state().standing and other(to) in self.state().known:
            self._edge.change(ActiveOrigin=other(to))
            raise CliError(
                f"{to} did not answer at {self._front.url}; {other(to)} serves again. "
                f"`make switch TO={other(to)}` takes {to} away."
            )
        raise CliError(f"{to} does not answer at {self._front.url}")


def _origin(runtime: str) -> str:
    """Name the parameter of the CDN, and output of the orders stack, that is the runtime's host."""
    return {"lambda": "LambdaOriginDomain", "fargate": "FargateOriginDomain"}[runtime]


def main(arguments: list[str] | None = None) -> int:
    """Switch, and say how it went."""
    parser = Arguments(
        prog="make switch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("to", type=_runtime, metavar="TO")
    parser.add_argument(
        "--stack", type=stack_of, default="orders-dev", help="the orders stack (default: %(default)s)"
    )
    parser.add_argument("--edge", help="the CDN stack (default: the orders stack's name and -edge)")
    parser.add_argument(
        "--drain-seconds", type=float, default=60, help="default: %(default)s; requests take 30 at most"
    )
    parser.add_argument("--plan", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument(
        "--front", help="the address that stays, where its name leads nowhere (the local AWS emulator)"
    )
    options = parser.parse_args(arguments)
    return run_command("make switch", lambda: _run(options))


def _runtime(text: str) -> str:
    if text not in ("lambda", "fargate"):
        raise argparse.ArgumentTypeError(f"{text!r} is no runtime: TO=fargate or TO=lambda")
    return text


def _run(options: argparse.Namespace) -> int:
    formation = session().client("cloudformation")
    orders, edge = Stack(formation, options.stack), Stack(formation, options.edge or f"{options.stack}-edge")
    orders.require()
    if not (url := edge.outputs().get("EdgeUrl")):
        raise CliError(f"there is no {edge.name}, where requests are switched: `make deploy-cdn` makes it")
    front = Address(url)
    if options.front:
        headers = {"Host": urlsplit(front.url).netloc, "X-Forwarded-Proto": "https"}
        front = Address(options.front, headers)
    switch = Switch(orders, edge, front, options.drain_seconds)
    if options.plan:
        print(" -> ".join(plan(switch.state(), options.to)) or "nothing to do")
        return 0
    switch.run(options.to)
    print(f"{options.to} serves. Put Runtime={options.to} where deployments get it from (samconfig.toml),")
    print("or the next one brings the old runtime back.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
