"""What the tests of the templates share."""

from __future__ import annotations

from typing import Any

from scripts.templates import PSEUDO as PSEUDO
from scripts.templates import ROOT as ROOT
from scripts.templates import Evaluator as Evaluator
from scripts.templates import Template as Template
from scripts.templates import expanded as expanded
from scripts.templates import stack_documents as stack_documents
from scripts.templates import template as template
from scripts.templates import transformed as transformed
from scripts.templates import whole_templates as whole_templates

# Kept when the stack goes, and the same in either runtime. Renaming one of these loses data: never do.
STATEFUL = {
    ("template.yaml", "DataKey"): "AWS::KMS::Key",
    ("template.yaml", "CursorKey"): "AWS::KMS::Key",
    ("template.yaml", "OrdersTable"): "AWS::DynamoDB::Table",
    ("template.yaml", "DocumentsBucket"): "AWS::S3::Bucket",
    ("template.yaml", "AccessLogsBucket"): "AWS::S3::Bucket",
    ("template.yaml", "OrdersEventBus"): "AWS::Events::EventBus",
    ("template.yaml", "OrdersArchive"): "AWS::Events::Archive",
    ("template.yaml", "RelayDeadLetterQueue"): "AWS::SQS::Queue",
    ("lambda/consumer.yaml", "Queue"): "AWS::SQS::Queue",
    ("lambda/consumer.yaml", "DeadLetterQueue"): "AWS::SQS::Queue",
}


def stacks(**parameters: object) -> dict[str, Template]:
    """Return what the root makes with these parameters, by template; of consumers, the last one's."""
    return {path: document for path, document, _ in stack_documents("template.yaml", parameters)}


ALL_TEMPLATES = list(stacks(BothRuntimes="true"))


def handed_over(stack: str, path: str = "template.yaml") -> dict[str, Any]:
    """Return the parameters that a template gives to a stack."""
    return dict(template(path)["Resources"][stack]["Properties"]["Parameters"])


def of_type(resources: dict[str, Any], *kinds: str) -> dict[str, Any]:
    """Return the resources of one of these types."""
    return {name: resource for name, resource in resources.items() if resource["Type"] in kinds}


def mentions(value: Any, key: str) -> list[Any]:
    """Return every value under `key`, however deep."""
    if isinstance(value, dict):
        here = [value[key]] if key in value else []
        return here + [found for item in value.values() for found in mentions(item, key)]
    if isinstance(value, list):
        return [found for item in value for found in mentions(item, key)]
    return []
