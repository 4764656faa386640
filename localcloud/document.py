"""Write the table of docs/local-aws.md: each resource type of our templates, and what it does here.

`PYTHONPATH=. .venv/bin/python -m localcloud.document` deploys both runtimes (without Docker) and writes;
tests/local says when that is due. The types are those of the deployed stacks, so what SAM makes of the
templates is among them, and those that the templates name but no local deployment makes.
"""

from __future__ import annotations

import re
from pathlib import Path

from localcloud.cloud import client
from localcloud.coverage import COVERAGE
from localcloud.embedded import ROOT, embedded_aws

DOCUMENT = ROOT / "docs" / "local-aws.md"
_BEGIN, _END = "<!-- table: begin (written by localcloud.document) -->", "<!-- table: end -->"
_STACK = "orders-local"
_BOTH = {"Runtime": "fargate", "BothRuntimes": "true", "LogEvents": "true", "AlarmEmail": "ops@example.com"}


def table() -> str:
    """Deploy everything that can be deployed here and return the table."""
    with embedded_aws(parameters=_BOTH, stack=_STACK) as aws:
        deployed = _types_of(aws.endpoint, _STACK)
    lines = ["| type | here | what that means | deployed locally |", "|---|---|---|---|"]
    for name in sorted(deployed | named_in_templates()):
        state, note = COVERAGE.get(name, ("not covered", "prove it on AWS"))
        lines.append(f"| `{name}` | {state} | {note} | {'yes' if name in deployed else 'no'} |")
    return "\n".join(lines)


def _types_of(endpoint: str, stack: str) -> set[str]:
    found: set[str] = set()
    for resource in client(endpoint, "cloudformation").describe_stack_resources(StackName=stack)[
        "StackResources"
    ]:
        name = resource["ResourceType"]
        found.add("AWS::CloudFormation::CustomResource" if name.startswith("Custom::") else name)
        if name == "AWS::CloudFormation::Stack":
            found |= _types_of(endpoint, resource["PhysicalResourceId"])
    return found


def named_in_templates() -> set[str]:
    """Return the types that our templates write out, without those that SAM replaces."""
    found: set[str] = set()
    for path in templates():
        found |= set(re.findall(r"(?m)^    Type: (AWS::\S+)", path.read_text()))
    return {name for name in found if not name.startswith("AWS::Serverless::")}


def templates() -> list[Path]:
    """Return every CloudFormation template of the project."""
    found = [*ROOT.glob("*.yaml"), *ROOT.glob("*/*.yaml")]
    return sorted(path for path in found if "AWSTemplateFormatVersion" in path.read_text())


def written(text: str, new: str) -> str:
    """Return the document with its table replaced."""
    before, _, rest = text.partition(_BEGIN)
    return f"{before}{_BEGIN}\n{new}\n{_END}{rest.partition(_END)[2]}"


if __name__ == "__main__":
    DOCUMENT.write_text(written(DOCUMENT.read_text(), table()))
