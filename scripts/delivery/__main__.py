"""The commands behind `make package deploy deploy-cdn rollback destroy drift clean-up-previews bootstrap`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from scripts.aws import session
from scripts.cli import run_command, say
from scripts.delivery.artifact import source_key
from scripts.delivery.decide import check_artifact, check_destroy, check_stage, named, open_pull_requests
from scripts.delivery.deploy import Deployer, edge_templates, samconfig
from scripts.delivery.destroy import Destroyer, github_pull_requests


class Delivery(Deployer, Destroyer):
    """All commands, over one session."""


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
    _check(given)
    delivery, pairs = Delivery(session(), os.environ), getattr(given, "parameters", "").split()
    match given.command:
        case "package":
            delivery.package(given.stage, pairs, force=given.force)
        case "deploy":
            delivery.deploy(given.stage, given.artifact, pairs, force=given.force)
        case "deploy-cdn":
            delivery.deploy_cdn(given.stage, pairs)
        case "rollback":
            delivery.rollback(given.stage)
        case "destroy":
            delivery.destroy(given.stage, yes=given.yes, data=given.data)
        case "drift":
            delivery.drift(given.stage)
        case "clean-up-previews":
            delivery.clean_up_previews(open_pull_requests(given.open))
        case "bootstrap":
            delivery.bootstrap(given.stage, pairs)
    return 0


def _check(given: argparse.Namespace) -> None:
    """Return if all that can be judged without AWS is right. Raises CliError."""
    pairs = getattr(given, "parameters", "").split()
    named(pairs)
    if "stage" in given and (given.command, given.stage) != ("bootstrap", "preview"):
        check_stage(given.stage, samconfig())
    if given.command == "deploy":
        check_artifact(given.stage, given.artifact)
    if given.command == "deploy-cdn":
        edge_templates(pairs)
    if given.command == "destroy":
        check_destroy(given.stage, yes=given.yes, data=given.data)
    if given.command == "clean-up-previews":
        given.open = given.open or github_pull_requests(os.environ)
        open_pull_requests(given.open)


if __name__ == "__main__":
    sys.exit(main())
