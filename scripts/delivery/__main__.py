"""The commands behind `make package deploy deploy-cdn rollback destroy drift clean-up-previews bootstrap`.

Each is read and judged here, without AWS; what it then does is in deploy.py and destroy.py.
"""

from __future__ import annotations

import argparse
import os
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from subprocess import PIPE
from typing import Any

from scripts.aws import session
from scripts.cli import CliError, ask, run_command, run_program, say
from scripts.delivery.artifact import ROOT, source_key
from scripts.delivery.decide import (
    check_artifact,
    check_destroy,
    check_stage,
    named,
    open_pull_requests,
    stage_parameters,
)
from scripts.delivery.deploy import (
    Deployed,
    Packaged,
    bootstrap,
    deploy,
    deploy_cdn,
    drift,
    edge_templates,
    package,
    roll_back,
)
from scripts.delivery.destroy import clean_up_previews, destroy
from scripts.delivery.stacks import Stacks

_OPTIONS: dict[str, dict[str, Any]] = {
    "stage": {"default": "dev"},
    "parameters": {"default": "", "help": "Name=value pairs between spaces"},
    "artifact": {"default": "", "help": "deploy this one, built before: <key>@<hash>"},
    "force": {"action": "store_true", "help": "build another one though the sources are unchanged"},
    "yes": {"action": "store_true", "help": "do not ask; not for production"},
    "data": {"action": "store_true", "help": "remove the data too; not for production"},
    "open": {"default": "", "help": "numbers of the open pull requests, or 'none'"},
}
_COMMANDS: dict[str, tuple[str, ...]] = {
    "key": (),
    "package": ("stage", "parameters", "force"),
    "deploy": ("stage", "parameters", "force", "artifact"),
    "deploy-cdn": ("stage", "parameters"),
    "rollback": ("stage",),
    "destroy": ("stage", "yes", "data"),
    "drift": ("stage",),
    "clean-up-previews": ("open",),
    "bootstrap": ("stage", "parameters"),
}
Result = Packaged | Deployed | None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="delivery", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, options in _COMMANDS.items():
        command = commands.add_parser(name)
        for option in options:
            command.add_argument(f"--{option}", **_OPTIONS[option])
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code: 0 done, 1 failed with a line on standard error, 2 misused."""
    given = _parser().parse_args(argv)
    return run_command("error", lambda: _run(given))


def _run(given: argparse.Namespace) -> int:
    if given.command == "key":
        say(source_key())
        return 0
    work = _work(given, getattr(given, "stage", ""), getattr(given, "parameters", "").split())
    if result := work(Stacks(session(), os.environ)):
        tell(result, os.environ)
    return 0


def _work(given: argparse.Namespace, stage: str, pairs: Sequence[str]) -> Callable[[Stacks], Result]:
    """Return what does what is asked. Raises CliError for what can be judged without AWS."""
    config, parameters = samconfig(), named(pairs)
    if stage and (given.command, stage) != ("bootstrap", "preview"):
        check_stage(stage, config)
    match given.command:
        case "package" | "deploy":
            parameters = stage_parameters(config, stage, pairs)
            name = getattr(given, "artifact", None)
            if name is None:
                return lambda stacks: package(stacks, stage, parameters, force=given.force)
            check_artifact(stage, name)
            return lambda stacks: deploy(
                stacks,
                stage,
                name or package(stacks, stage, parameters, force=given.force).artifact,
                parameters,
            )
        case "deploy-cdn":
            edge_templates(pairs)
            return lambda stacks: deploy_cdn(stacks, stage, pairs)
        case "rollback":
            return lambda stacks: roll_back(stacks, stage)
        case "destroy":
            check_destroy(stage, yes=given.yes, data=given.data)
            return lambda stacks: destroy(stacks, stage, data=given.data, ask=None if given.yes else ask)
        case "drift":
            return lambda stacks: drift(stacks, stage)
        case "clean-up-previews":
            numbers = open_pull_requests(given.open or github_pull_requests(os.environ))
            return lambda stacks: clean_up_previews(stacks, numbers)
        case _:
            return lambda stacks: bootstrap(stacks, stage, parameters)


def samconfig() -> dict[str, Any]:
    try:
        return tomllib.loads((ROOT / "samconfig.toml").read_text())
    except (OSError, ValueError) as error:
        raise CliError(f"samconfig.toml cannot be read: {error}") from error


def tell(result: Packaged | Deployed, environ: Mapping[str, str]) -> None:
    """Hand results to a GitHub workflow."""
    if path := environ.get("GITHUB_OUTPUT"):
        with open(path, "a", encoding="utf-8") as file:
            for name, value in asdict(result).items():
                file.write(f"{name}={str(value).lower() if isinstance(value, bool) else value}\n")


def github_pull_requests(environ: Mapping[str, str]) -> str:
    """Ask GitHub for the numbers of the open pull requests. Raises CliError."""
    if not (repository := environ.get("GITHUB_REPOSITORY")):
        raise CliError("name the open pull requests: make clean-up-previews OPEN='3 14' (or OPEN=none)")
    path = f"repos/{repository}/pulls?state=open&per_page=100"
    numbers = run_program("gh", "api", "--paginate", path, "--jq", ".[].number", cwd=ROOT, output=PIPE)
    return " ".join(numbers.split()) or "none"


if __name__ == "__main__":
    sys.exit(main())
