"""`make test-aws`: the first hour on an AWS account, on a throw-away stage, and a report.

It says what it will make, what that costs at most and how long it takes, and asks (YES=1 does not). A step
that fails is noted, steps that do not need it go on, and in the end all that was made is removed.
KEEP=1 keeps it after a failure; `make test-aws` then goes on with the step that failed. CLEAN=1 removes what
an unfinished run has left. SKIP="switch restore" leaves out slow steps. Where it runs, only the credentials,
the region and AWS_ENDPOINT_URL say.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from costs.model import HOURS, Prices, Setup, Traffic, fargate_costs, lambda_costs, load_measured, shared
from scripts.aws import session
from scripts.cli import Arguments, CliError, ask, run_command, say
from scripts.delivery.artifact import ROOT, SAM
from scripts.first_hour.run import REMOVE, Run, State, report, table
from scripts.first_hour.stage import BOOTSTRAP, NAME, Stage, Target
from scripts.first_hour.steps import STEPS

HOURS_AT_MOST = 5.0
# Of the callers during a switch, and some.
_REQUESTS = 200_000.0
# A web ACL, and each of its three rules. https://aws.amazon.com/waf/pricing/
_WEB_ACL_MONTH = 5.0 + 3 * 1.0
_STATE = ROOT / ".local" / "test-aws" / "state.json"


def find_target() -> Target:
    """Return the account that the environment leads to. Raises CliError."""
    made = session()
    sts = made.client("sts")
    account = sts.get_caller_identity()["Account"]
    endpoint = str(sts.meta.endpoint_url)
    local = not (urlsplit(endpoint).hostname or "").endswith((".amazonaws.com", ".amazonaws.com.cn"))
    return Target(made, account, made.region_name, endpoint, local)


def cost_at_most(hours: float = HOURS_AT_MOST) -> float:
    """Return what all of it costs in USD if it stands for `hours`, at the list prices of us-east-1."""
    prices, measured, setup = Prices.load(), load_measured(), Setup(fargate_min_tasks=1, cloudfront=True)

    def month(requests: float) -> float:
        traffic = Traffic(requests=requests, stored_million_orders=0.1)
        parts = [part(traffic, setup, measured, prices) for part in (lambda_costs, fargate_costs, shared)]
        return sum(sum(part.values()) for part in parts) + _WEB_ACL_MONTH

    idle = month(0.0)
    return idle * hours / HOURS + (month(_REQUESTS) - idle)


def plan(target: Target, skip: Iterable[str]) -> str:
    """Return what is going to be done."""
    steps = [step for step in STEPS if step.name not in set(skip)]
    lines = [
        f"make test-aws, on {target}",
        "",
        f"  It makes the stacks {BOOTSTRAP}, {NAME} and, for the CDN, {NAME}-edge with its web ACL,",
        "  changes them, breaks them on purpose, and removes them with all that is in them:",
        f"  {', '.join(step.name for step in steps)}",
    ]
    if target.local:
        lines += ["  Nothing is billed here, and it takes some minutes."]
    else:
        hours, minutes = divmod(sum(step.minutes for step in steps), 60)
        lines += [
            f"  That takes about {hours} h {minutes} min; after {HOURS_AT_MOST:g} h no step begins,",
            f"  and by then it has cost {cost_at_most():.2f} USD at most (list prices of us-east-1).",
            "  The credentials must last as long. During the run anyone with the API's address can call it.",
        ]
    return "\n".join(lines)


def check_machine() -> None:
    """Return if this machine can build the image. Raises CliError."""
    if not SAM.exists():
        raise CliError("SAM CLI is missing: run `make setup`")
    docker = shutil.which("docker")
    if not docker:
        raise CliError("there is no `docker` command: the image is built with it")
    if subprocess.run([docker, "info"], capture_output=True, timeout=60, check=False).returncode:
        raise CliError("no container engine answers (docker info): start Docker")


def known_state(stage: Stage, path: Path, *, clean: bool) -> State:
    """Return the state to go on with, or a fresh one if nothing is there. Raises CliError."""
    target = stage.target
    where = f"{target.account} {target.region}" + (f" {target.endpoint}" if target.local else "")
    try:
        found = State.load(path)
    except (KeyError, ValueError) as error:
        raise CliError(f"{path} cannot be read ({error!r}): remove it, then {REMOVE}") from None
    if found and found.where != where:
        raise CliError(
            f"an unfinished run is in {found.where}, this is {where}: finish that one first ({REMOVE})"
        )
    if found:
        return found
    if not clean and (there := stage.stacks()):
        names = ", ".join(each.name for each in there)
        raise CliError(
            f"there is {names} already, which no unfinished run made: `{REMOVE}` removes it with its data"
        )
    return State(path, where)


def _write(folder: Path, target: Target, state: State) -> None:
    when = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    folder.mkdir(parents=True, exist_ok=True)
    text = report(STEPS, state.outcomes, where=str(target), when=when, local=target.local)
    (folder / "test-aws.md").write_text(text)
    found = {name: asdict(outcome) for name, outcome in state.outcomes.items()}
    (folder / "test-aws.json").write_text(
        json.dumps({"where": str(target), "when": when, "steps": found}, indent=2)
    )
    say(f"\nmake test-aws, on {target}\n{table(STEPS, state.outcomes)}\n")
    say(f"The report is in {folder}/test-aws.md.")


def main(argv: Sequence[str] | None = None) -> int:
    """Do the steps; return 0 if all passed, 1 if not, 2 if nothing was begun, 130 if interrupted."""
    parser = Arguments(prog="make test-aws", description=__doc__)
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument(
        "--keep", action="store_true", help="stop at a failed step, and leave all of it there"
    )
    parser.add_argument(
        "--clean", action="store_true", help="remove what an unfinished run has left, no more"
    )
    parser.add_argument("--skip", default="", help="optional steps to leave out, between spaces")
    parser.add_argument("--state", type=Path, default=_STATE, help="where an unfinished run is kept")
    parser.add_argument("--reports", type=Path, default=ROOT / "reports")
    given = parser.parse_args(argv)
    return run_command("make test-aws", lambda: _run(given), failed=2)


def _run(given: argparse.Namespace) -> int:
    skip, optional = given.skip.split(), [step.name for step in STEPS if step.optional]
    if wrong := sorted(set(skip) - set(optional)):
        raise CliError(f"SKIP={' '.join(wrong)}: only these can be left out: {', '.join(optional)}")
    target = find_target()
    log = given.reports / "test-aws.log"
    stage = Stage(target, {}, given.state.parent, log, say)
    state = known_state(stage, given.state, clean=given.clean)
    if not given.clean:
        check_machine()
        say(plan(target, skip))
    question = f"Remove {NAME} with its data? [y/N] " if given.clean else "Go on? [y/N] "
    if not given.yes and (ask(question) or "").lower() not in ("y", "yes"):
        raise CliError("nothing was done; YES=1 does not ask")
    stage.facts = state.facts
    if not given.state.exists():
        log.unlink(missing_ok=True)
    state.save()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    run = Run(STEPS, stage, state, keep=given.keep, skip=skip, hours=HOURS_AT_MOST, say=say)
    status = run.clean() if given.clean else run.go()
    _write(given.reports, target, state)
    return status


if __name__ == "__main__":
    sys.exit(main())
