"""Judge every template in every scenario: `make check`. A finding fails, unless exceptions.toml names it."""

from __future__ import annotations

import os
import shutil
import sys
import time

from scripts.cli import run_command
from scripts.preflight.judge import (
    ENVIRONMENT,
    NEEDS_NODE,
    complaints,
    documents_of,
    evaluate,
    read_exceptions,
)
from scripts.preflight.scenarios import scenarios


def main() -> int:
    started = time.monotonic()
    if not shutil.which("node") or not (ENVIRONMENT / "node_modules").is_dir():
        required = os.environ.get("CI") == "true"
        print(f"{'FAILED' if required else 'SKIPPED'}  cdk-preflight: {NEEDS_NODE}", file=sys.stderr)
        return int(required)
    wanted, exceptions = scenarios(), read_exceptions()
    documents = documents_of(wanted)
    rules, findings = evaluate(documents)
    said = complaints(findings, exceptions)
    for each in said:
        print(each, file=sys.stderr)
    templates = len({each.template for each in documents})
    print(
        f"cdk-preflight: {len(wanted)} scenarios of {templates} templates, {len(documents)} documents;"
        f" {rules['used']} of {rules['all']} rules concern them; {len(said)} findings left,"
        f" {len(exceptions)} excepted; {time.monotonic() - started:.0f} s"
    )
    return int(bool(said))


if __name__ == "__main__":
    sys.exit(run_command("cdk-preflight", main))
