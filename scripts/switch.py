"""`make switch TO=fargate|lambda`: change the runtime under a running API, with no failed request.

The edge (edge/template.yaml) is the address that stays. The steps, each a parameter of one of the stacks:

    raise    the new runtime beside the old one            orders stack: BothRuntimes=true
    ask      it, directly, until it answers ten times in a row; otherwise nothing is moved
    move     requests to it                                edge stack: its origin, and then ActiveOrigin
    watch    the address that stays; if it does not answer, requests are moved back
    drain    what the old runtime still has in hand
    forget   the old runtime's address                     edge stack: its origin is taken out
    remove   the old runtime                               orders stack: Runtime, BothRuntimes=false

The steps are worked out from what is there. So a switch that was interrupted goes on where it stopped,
and `make switch` to the other runtime is the way back from any step.
"""

from __future__ import annotations

import argparse
import http.client
import json
import ssl
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.exceptions import ClientError
from scripts.command import Arguments, reported, session, stack_of

IN_A_ROW = 10
_ASK_SECONDS = 120  # new tasks and functions are up when their stack says so; the rest is cold starts
_WATCH_SECONDS = 60
_PAUSE_SECONDS = 0.5
_TIMEOUT_SECONDS = 10
_STACK_SECONDS = 3600  # a distribution takes minutes, a load balancer with its tasks too
_CAPABILITIES = ["CAPABILITY_IAM", "CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"]
_DONE = ("CREATE_COMPLETE", "UPDATE_COMPLETE")


class Step(StrEnum):
    """What is done, in this order."""

    RAISE = "raise"
    ASK = "ask"
    MOVE = "move"
    WATCH = "watch"
    DRAIN = "drain"
    FORGET = "forget"
    REMOVE = "remove"


class Stopped(Exception):
    """Why the switch went no further, and how things stand now."""


@dataclass(frozen=True)
class State:
    """Which runtimes stand, and which of them the edge sends requests to; which origins it knows."""

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
        steps.append(Step.RAISE)
    if state.active != to:
        steps += [Step.ASK, Step.MOVE, Step.WATCH, Step.DRAIN]
    elif other(to) in state.standing:  # an earlier switch stopped after its move
        steps += [Step.WATCH, Step.DRAIN]
    if other(to) in state.known or state.active != to:
        steps.append(Step.FORGET)
    if other(to) in state.standing:
        steps.append(Step.REMOVE)
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
    """Where a side answers. `certificate_name`: what its certificate must hold, if not the host's name."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    certificate_name: str = ""

    def serves(self, runtime: str) -> bool:
        """Whether it is ready, and `runtime` is what answers."""
        try:
            status, _ = self._get("/health/ready")
            status_of_root, about = self._get("/")
            return status == status_of_root == 200 and json.loads(about)["runtime"] == runtime
        except (OSError, http.client.HTTPException, ValueError, KeyError):
            return False

    def _get(self, path: str) -> tuple[int, bytes]:
        parts = urlsplit(self.url)
        if parts.scheme == "https":
            connection: http.client.HTTPConnection = _NamedHttps(parts, self.certificate_name)
        else:
            connection = http.client.HTTPConnection(parts.netloc, timeout=_TIMEOUT_SECONDS)
        try:
            connection.request("GET", parts.path.rstrip("/") + path, headers=dict(self.headers))
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


class _NamedHttps(http.client.HTTPSConnection):
    """HTTPS whose certificate is checked against a given name: the load balancer's is for the origin's."""

    def __init__(self, parts: Any, name: str) -> None:
        self._tls = ssl.create_default_context()
        self._name = name or parts.hostname
        super().__init__(parts.netloc, timeout=_TIMEOUT_SECONDS, context=self._tls)

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        self.sock = self._tls.wrap_socket(self.sock, server_hostname=self._name)


class Stack:
    """A CloudFormation stack, changed by its parameters alone: its template stays as it is."""

    def __init__(self, name: str, pause_seconds: float = 2.0) -> None:
        self.name = name
        self._pause = pause_seconds
        self._cloudformation = boto3.client("cloudformation")
        self.parameters: dict[str, str] = {}
        self.outputs: dict[str, str] = {}
        self.read()

    def read(self) -> str:
        """Read the stack; return its status."""
        (stack,) = self._cloudformation.describe_stacks(StackName=self.name)["Stacks"]
        self.parameters = {
            p["ParameterKey"]: p.get("ParameterValue", "") for p in stack.get("Parameters", [])
        }
        self.outputs = {o["OutputKey"]: o["OutputValue"] for o in stack.get("Outputs", [])}
        return str(stack["StackStatus"])

    def change(self, **changes: str) -> None:
        """Update the stack to the changed parameters, and wait for it. Raises `Stopped`."""
        missing = changes.keys() - self.parameters.keys()
        if missing:
            raise Stopped(f"stack {self.name} has no parameter {', '.join(sorted(missing))}")
        parameters = [
            {"ParameterKey": key, "ParameterValue": changes[key]}
            if key in changes
            else {"ParameterKey": key, "UsePreviousValue": True}
            for key in self.parameters
        ]
        try:
            self._cloudformation.update_stack(
                StackName=self.name,
                UsePreviousTemplate=True,
                Parameters=parameters,
                Capabilities=_CAPABILITIES,
            )
        except ClientError as error:
            if "No updates are to be performed" not in str(error):
                raise Stopped(f"stack {self.name}: {error.response['Error']['Message']}") from error
        deadline = time.monotonic() + _STACK_SECONDS
        while (status := self.read()).endswith("_IN_PROGRESS") and time.monotonic() < deadline:
            time.sleep(self._pause)
        if status not in _DONE:
            raise Stopped(f"stack {self.name} is {status}; its events say why")


class Switch:
    """One switch: the two stacks, and the address that stays."""

    def __init__(self, orders: Stack, edge: Stack, front: Address, drain_seconds: float) -> None:
        self._orders = orders
        self._edge = edge
        self._front = front
        self._drain_seconds = drain_seconds

    def state(self) -> State:
        """Return how things stand."""
        orders, edge = self._orders.parameters, self._edge.parameters
        both = orders["BothRuntimes"] == "true"
        standing = frozenset({"lambda", "fargate"} if both else {orders["Runtime"]})
        known = frozenset(side for side in ("lambda", "fargate") if edge[_origin(side)])
        return State(standing, edge["ActiveOrigin"], known)

    def run(self, to: str) -> None:
        """Do what is left to do. Raises `Stopped`."""
        steps = plan(self.state(), to)
        if not steps:
            print(f"{to} serves already, and alone.")
        for number, step in enumerate(steps, 1):
            started = time.monotonic()
            side = other(to) if step in (Step.DRAIN, Step.FORGET, Step.REMOVE) else to
            print(f"[{number}/{len(steps)}] {step} {side} ...", flush=True)
            self._do(step, to)
            print(f"      done after {time.monotonic() - started:.1f} s", flush=True)

    def _do(self, step: Step, to: str) -> None:
        match step:
            case Step.RAISE:
                self._orders.change(BothRuntimes="true")
            case Step.ASK:
                self._ask(to)
            case Step.MOVE:
                self._move(to)
            case Step.WATCH:
                self._watch(to)
            case Step.DRAIN:
                time.sleep(self._drain_seconds)
            case Step.FORGET:
                self._edge.change(**{_origin(other(to)): ""})
            case Step.REMOVE:
                self._orders.change(Runtime=to, BothRuntimes="false")

    def _ask(self, to: str) -> None:
        if not healthy(lambda: self._direct(to).serves(to), _ASK_SECONDS):
            raise Stopped(
                f"{to} does not answer; nothing was moved, {other(to)} serves. "
                f"`make switch TO={other(to)}` takes {to} away again."
            )

    def _direct(self, side: str) -> Address:
        url = self._orders.outputs.get({"lambda": "LambdaApiUrl", "fargate": "FargateApiUrl"}[side], "")
        arn = self._orders.parameters.get("OriginSecretArn", "")
        name = self._edge.parameters.get("FargateOriginName", "") if side == "fargate" else ""
        return Address(url, {"X-Origin-Secret": _secret(arn)} if arn else {}, name)

    def _move(self, to: str) -> None:
        origins = {
            _origin(side): self._orders.outputs.get(_origin(side), "") for side in ("lambda", "fargate")
        }
        # First where it is: that makes the DNS record of FargateOriginName, and nobody asks for it before.
        self._edge.change(**origins)
        self._edge.change(ActiveOrigin=to)

    def _watch(self, to: str) -> None:
        if healthy(lambda: self._front.serves(to), _WATCH_SECONDS):
            return
        if other(to) in self.state().standing and other(to) in self.state().known:
            self._edge.change(ActiveOrigin=other(to))
            raise Stopped(
                f"{to} did not answer at {self._front.url}; {other(to)} serves again. "
                f"`make switch TO={other(to)}` takes {to} away."
            )
        raise Stopped(f"{to} does not answer at {self._front.url}")


def _origin(side: str) -> str:
    """Name the parameter of the edge, and output of the orders stack, that is the side's host."""
    return {"lambda": "LambdaOriginDomain", "fargate": "FargateOriginDomain"}[side]


def _secret(arn: str) -> str:
    value = boto3.client("secretsmanager").get_secret_value(SecretId=arn)["SecretString"]
    return str(json.loads(value)["current"])


def main(arguments: list[str] | None = None) -> int:
    """Switch, and say how it went."""
    parser = Arguments(
        prog="make switch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("to", type=_runtime, metavar="TO")
    parser.add_argument(
        "--stack", type=stack_of, default="orders-dev", help="the orders stack (default: %(default)s)"
    )
    parser.add_argument("--edge", help="the edge stack (default: the orders stack's name and -edge)")
    parser.add_argument(
        "--drain-seconds", type=float, default=60, help="default: %(default)s; requests take 30 at most"
    )
    parser.add_argument("--plan", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument(
        "--front", help="the address that stays, where its name leads nowhere (the local AWS)"
    )
    options = parser.parse_args(arguments)
    return reported("make switch", lambda: _run(options), Stopped)


def _runtime(text: str) -> str:
    if text not in ("lambda", "fargate"):
        raise argparse.ArgumentTypeError(f"{text!r} is no runtime: TO=fargate or TO=lambda")
    return text


def _edge(name: str) -> Stack:
    """Return the stack of the edge. Raises Stopped if there is none."""
    try:
        return Stack(name)
    except ClientError as error:
        if "does not exist" not in str(error):
            raise
        raise Stopped(f"there is no {name}, where requests are switched: `make edge` makes it") from error


def _run(options: argparse.Namespace) -> int:
    session()
    orders, edge = Stack(options.stack), _edge(options.edge or f"{options.stack}-edge")
    front = Address(edge.outputs["EdgeUrl"])
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
