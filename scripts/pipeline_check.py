"""`make pipeline-check`: is the repository set up to deploy? Tells the workflow which stages are."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping

_ROLE = re.compile(r"arn:[a-z-]+:iam::([0-9]{12}):role/.+")
_REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-[0-9]")


def ready(environ: Mapping[str, str]) -> tuple[dict[str, bool], list[str]]:
    """Return which stages can be deployed, and what is wrong with the variables that are set."""
    region, problems = environ.get("AWS_REGION", ""), []
    roles = {stage: environ.get(f"AWS_{stage.upper()}_ROLE", "") for stage in ("dev", "prod")}
    for stage, role in roles.items():
        drift = environ.get(f"AWS_{stage.upper()}_DRIFT_ROLE", "")
        problems += [
            f"AWS_{stage.upper()}_{name} is not the ARN of a role"
            for name, value in {"ROLE": role, "DRIFT_ROLE": drift}.items()
            if value and not _ROLE.fullmatch(value)
        ]
        if drift and account_of(drift) != account_of(role):
            problems.append(
                f"AWS_{stage.upper()}_DRIFT_ROLE and AWS_{stage.upper()}_ROLE are of two accounts"
            )
    if any(roles.values()) and not _REGION.fullmatch(region):
        problems.append("AWS_REGION is not a region" if region else "AWS_REGION is not set")
    if roles["prod"] and not roles["dev"]:
        problems.append("AWS_PROD_ROLE is set without AWS_DEV_ROLE: prod gets what dev ran")
    given = environ.get("PROD_PARAMETERS", "")
    missing = [name for name in ("AuthIssuer", "AuthAudience") if f"{name}=" not in given]
    if roles["prod"] and missing:
        problems.append(
            f"PROD_PARAMETERS lacks {' and '.join(missing)}: prod is closed to callers without a token"
        )
    if environ.get("ATTESTATIONS", "") not in ("", "off"):
        problems.append("ATTESTATIONS is empty or off")
    return {stage: bool(role) for stage, role in roles.items()}, problems


def account_of(role: str) -> str:
    """Return the account of a role's ARN."""
    found = _ROLE.fullmatch(role)
    return found[1] if found else ""


def remarks(environ: Mapping[str, str]) -> list[str]:
    """Return what is allowed, and good to know."""
    accounts = {account_of(environ.get(f"AWS_{stage}_ROLE", "")) for stage in ("DEV", "PROD")}
    said = []
    if "" not in accounts:
        one = "dev and prod share an account: what still divides them is in docs/delivery-boundaries.md"
        said.append(one if len(accounts) == 1 else "dev and prod have an account each")
    if environ.get("ATTESTATIONS") == "off":
        said.append("prod compares the artifact's hash, and does not ask who built it (ATTESTATIONS=off)")
    return said


def main() -> int:
    """Check the environment; return the exit code."""
    stages, problems = ready(os.environ)
    for problem in problems:
        print(f"error: {problem}; see docs/delivery.md", file=sys.stderr)
    if problems:
        return 1
    for stage, is_set in stages.items():
        state = (
            "set up" if is_set else f"not set up (AWS_{stage.upper()}_ROLE): skipped; see docs/delivery.md"
        )
        print(f"{stage}: {state}")
    for remark in remarks(os.environ):
        print(remark)
    if path := os.environ.get("GITHUB_OUTPUT"):
        with open(path, "a", encoding="utf-8") as file:
            file.writelines(f"{stage}={str(is_set).lower()}\n" for stage, is_set in stages.items())
    return 0


if __name__ == "__main__":
    sys.exit(main())
