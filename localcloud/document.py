"""Write the table of docs/local-aws.md: each resource type of our templates, and what it does here.

`PYTHONPATH=. .venv/bin/python -m localcloud.document` deploys every template (without Docker) and writes;
tests/local says when that is due. The types are those of the deployed stacks, so what SAM makes of the
templates is among them, and those that the templates name but no local deployment makes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from scripts.templates import whole_templates

from localcloud.cloud import client, create_stack
from localcloud.coverage import COVERAGE
from localcloud.running import ROOT, Emulator, running_emulator

DOCUMENT = ROOT / "docs" / "local-aws.md"
_BEGIN, _END = "<!-- table: begin (written by localcloud.document) -->", "<!-- table: end -->"
_STACK = "orders-local"
_PATIENCE = {"Delay": 1, "MaxAttempts": 60}
_CERTIFICATE = "arn:aws:acm:us-east-1:000000000000:certificate/00000000-0000-0000-0000-000000000000"
_BOTH = {
    "Runtime": "fargate",
    "BothRuntimes": "true",
    "AlarmEmail": "ops@example.com",
    "DomainName": "orders.example.com",
    "CertificateArn": _CERTIFICATE,
}


def table() -> str:
    """Deploy everything that can be deployed here and return the table."""
    with running_emulator(parameters=_BOTH, stack=_STACK) as aws:
        _deploy_the_others(aws)
        stacks = client(aws.endpoint, "cloudformation").describe_stacks()["Stacks"]
        deployed = {name for stack in stacks for name in _types_of(aws.endpoint, stack["StackName"])}
    lines = ["| type | here | what that means | deployed locally | seen by |", "|---|---|---|---|---|"]
    for name in sorted(deployed | named_in_templates()):
        state, note, *test = COVERAGE.get(name, ("not covered", "prove it on AWS"))
        link = f"[{Path(test[0]).stem}](../{test[0]})" if test else ""
        lines.append(f"| `{name}` | {state} | {note} | {'yes' if name in deployed else 'no'} | {link} |")
    return "\n".join(lines)


def _deploy_the_others(aws: Emulator) -> None:
    """Deploy bootstrap/, backup/, waf/ and edge/ beside the orders."""
    formation = client(aws.endpoint, "cloudformation")
    provider = client(aws.endpoint, "iam").create_open_id_connect_provider(
        Url="https://token.actions.githubusercontent.com", ClientIDList=["sts.amazonaws.com"]
    )
    zone = client(aws.endpoint, "route53").create_hosted_zone(Name="example.com", CallerReference="one")

    def create(name: str, values: Mapping[str, str]) -> dict[str, str]:
        return create_stack(aws.endpoint, name, ROOT / name / "template.yaml", values)

    bootstrap = {"Repository": "acme/orders", "OwnerId": "1", "RepositoryId": "2"}
    bootstrap["OidcProviderArn"] = provider["OpenIDConnectProviderArn"]
    create("bootstrap", bootstrap)
    backed_up = ("OrdersTableName", "DocumentsBucketName", "AlarmTopicArn")
    create("backup", {name: aws.outputs[name] for name in backed_up})
    edge = {name: aws.outputs[name] for name in ("LambdaOriginDomain", "DocumentsBucketName")}
    edge |= {"DomainName": "edge.example.com", "CertificateArn": _CERTIFICATE}
    create("edge", edge | {"HostedZoneId": zone["HostedZone"]["Id"].rsplit("/", 1)[1]})
    values = _BOTH | {"WebAclArn": create("waf", {})["WebAclArn"]}
    formation.update_stack(
        StackName=_STACK,
        UsePreviousTemplate=True,
        Capabilities=["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"],
        Parameters=[{"ParameterKey": k, "ParameterValue": v} for k, v in values.items()],
    )
    formation.get_waiter("stack_update_complete").wait(StackName=_STACK, WaiterConfig=_PATIENCE)


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
    for path in whole_templates():
        found |= set(re.findall(r"(?m)^    Type: (AWS::\S+)", (ROOT / path).read_text()))
    return {name for name in found if not name.startswith("AWS::Serverless::")}


def written(text: str, new: str) -> str:
    """Return the document with its table replaced."""
    before, _, rest = text.partition(_BEGIN)
    return f"{before}{_BEGIN}\n{new}\n{_END}{rest.partition(_END)[2]}"


if __name__ == "__main__":
    DOCUMENT.write_text(written(DOCUMENT.read_text(), table()))
