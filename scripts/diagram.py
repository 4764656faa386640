"""Draw docs/architecture.md from the templates, so that the picture cannot lie.

A box is a resource that carries requests, data or events; an arrow says that its properties name another.
Roles, policies, log groups and the like are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scripts.templates import load_template

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"
# Resource type -> Mermaid's brackets for its shape.
SHAPES = {
    "AWS::DynamoDB::Table": ("[(", ")]"),
    "AWS::S3::Bucket": ("[(", ")]"),
    "AWS::KMS::Key": ("{{", "}}"),
    "AWS::Events::EventBus": ("([", "])"),
    "AWS::Events::Archive": ("[(", ")]"),
    "AWS::Events::Rule": (">", "]"),
    "AWS::SQS::Queue": ("[[", "]]"),
    "AWS::Serverless::Function": ("[", "]"),
    "AWS::Serverless::HttpApi": ("[/", "/]"),
    "AWS::CloudFormation::Stack": ("[", "]"),
    "AWS::ElasticLoadBalancingV2::LoadBalancer": ("[/", "/]"),
    "AWS::ElasticLoadBalancingV2::Listener": ("[", "]"),
    "AWS::ElasticLoadBalancingV2::TargetGroup": ("[", "]"),
    "AWS::ECS::Cluster": ("[", "]"),
    "AWS::ECS::Service": ("[", "]"),
    "AWS::ECS::TaskDefinition": ("[", "]"),
    "AWS::ApplicationAutoScaling::ScalableTarget": ("[", "]"),
    "AWS::ApplicationAutoScaling::ScalingPolicy": ("[", "]"),
}
# What a resource is built with says nothing of how things flow.
_SILENT = {
    "Environment",
    "Policies",
    "KmsKeyId",
    "KMSMasterKeyID",
    "KmsMasterKeyId",
    "SSESpecification",
    "Role",
}
_SILENT |= {"BucketEncryption", "LoggingConfig", "LoggingConfiguration", "DependsOn", "PermissionsBoundary"}


def references(value: Any) -> Iterator[str]:
    """Yield the logical ids that a property names by Ref, GetAtt or Sub."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "Ref" and isinstance(inner, str):
                yield inner
            elif key == "Fn::GetAtt":
                yield (inner if isinstance(inner, str) else inner[0]).split(".")[0]
            elif key == "Fn::Sub":
                text = inner if isinstance(inner, str) else inner[0]
                yield from (name.split(".")[0] for name in re.findall(r"\$\{([A-Za-z0-9.]+)\}", str(text)))
                if not isinstance(inner, str):
                    yield from references(inner[1])
            elif key not in _SILENT:
                yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def drawing(path: Path, without: frozenset[str] = frozenset()) -> str:
    """Return one template's resources as a Mermaid flowchart, less those under a condition in `without`."""
    resources = load_template(path.read_text())["Resources"]
    shown = {
        name: resource
        for name, resource in resources.items()
        if resource["Type"] in SHAPES and resource.get("Condition") not in without
    }
    lines = ["flowchart LR"]
    for name, resource in shown.items():
        left, right = SHAPES[resource["Type"]]
        lines.append(f'  {name}{left}"{name}"{right}')
    for name, resource in shown.items():
        named = dict.fromkeys(references(resource.get("Properties", {})))
        lines += [f"  {name} --> {other}" for other in named if other in shown and other != name]
    return "```mermaid\n" + "\n".join(lines) + "\n```"


def page() -> str:
    """Return docs/architecture.md."""
    root = ROOT / "template.yaml"
    parts = [
        "# Architecture",
        "Drawn from the templates by `make generate`; a test fails when it is stale. An arrow says that a "
        "resource's properties name the other: a function its event source, a rule its target, a queue where "
        "its dead letters go.",
        "## Runtime=lambda",
        drawing(root, frozenset({"UseFargate"})),
        "## Runtime=fargate",
        "The same but for the entry point:",
        drawing(root, frozenset({"UseLambda", "UseLambdaDomain"})),
        "Inside FargateStack (`fargate/template.yaml`):",
        drawing(ROOT / "fargate" / "template.yaml"),
    ]
    return "\n\n".join(parts) + "\n"
