"""Draw docs/generated/architecture.md from the templates, so that the picture cannot lie.

A box is a resource that carries requests, data or events. An arrow says that its properties name another,
also through the parameters of a nested stack, or that its role may use it. Roles, policies, log groups and
the like are left out, and which role may use a key.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from scripts.permissions import BANNER, roles
from scripts.templates import Evaluator, template
from scripts.whole_stack import Resource, references, resources_of

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
    "BucketEncryption",
    "DependsOn",
    "Environment",
    "KMSMasterKeyID",
    "KmsKeyId",
    "KmsMasterKeyId",
    "LoggingConfig",
    "LoggingConfiguration",
    "PermissionsBoundary",
    "Policies",
    "Role",
    "SSESpecification",
}


def drawing(resources: dict[str, Resource]) -> str:
    """Return resources as a Mermaid flowchart, those of each nested stack in a frame."""
    shown = {path: each for path, each in resources.items() if each.type in SHAPES}
    arrows = {
        (path, other): None
        for path, resource in shown.items()
        for other in (*references(_loud(resource.properties)), *_used_by(resource))
        if other in shown and other != path
    }
    # An optional part of a nested stack that has to do with nothing here belongs to the other runtime.
    joined = {path for arrow in arrows for path in arrow}
    shown = {
        path: each for path, each in shown.items() if path in joined or not (each.stack and each.condition)
    }
    lines = ["flowchart LR"]
    by_stack = sorted(shown.values(), key=lambda each: each.stack)
    for stack, members in groupby(by_stack, key=lambda each: each.stack):
        boxes = [_box(each) for each in members]
        lines += [f"  subgraph {_id(stack)}", *(f"  {box}" for box in boxes), "  end"] if stack else boxes
    lines += [f"  {_id(path)} --> {_id(other)}" for path, other in arrows]
    return "```mermaid\n" + "\n".join(lines) + "\n```"


def _used_by(resource: Resource) -> Iterator[str]:
    """Yield what the role of a function or a task may use, but for keys."""
    carried = {role.path: role for role in roles()}
    for path in references([resource.properties.get(name) for name in ("Role", "TaskRoleArn")]):
        role = carried[path]
        policies = references(role.resource.properties.get("ManagedPolicyArns", []))
        for each in (role, *(carried[policy] for policy in policies if policy in carried)):
            for statement in each.statements:
                for used in references(statement["Resource"]):
                    if used in resources_of() and resources_of()[used].type != "AWS::KMS::Key":
                        yield used


def _box(resource: Resource) -> str:
    left, right = SHAPES[resource.type]
    return f'  {_id(resource.path)}{left}"{resource.name}"{right}'


def _id(path: str) -> str:
    return path.replace(".", "_")


def _loud(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _loud(each) for key, each in value.items() if key not in _SILENT}
    return [_loud(each) for each in value] if isinstance(value, list) else value


def of_runtime(runtime: str) -> dict[str, Resource]:
    """Return what the main stack has with one runtime, less what only the other one has."""
    here, there = (
        Evaluator(template(), Runtime=each).resources()
        for each in (runtime, "fargate" if runtime == "lambda" else "lambda")
    )
    return {
        path: each
        for path, each in resources_of().items()
        if (name := path.partition(".")[0]) in here or name not in there
    }


def page() -> str:
    """Return docs/generated/architecture.md."""
    parts = [
        "# The stack, drawn",
        BANNER,
        "An arrow says that a resource's properties name the other (a function its event source, a rule its "
        "target, a queue where its dead letters go), or that its role may use the other.",
        "## Runtime=lambda",
        drawing(of_runtime("lambda")),
        "## Runtime=fargate",
        drawing(of_runtime("fargate")),
    ]
    return "\n\n".join(parts) + "\n"
