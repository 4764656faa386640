"""What the tests of the templates share."""

from __future__ import annotations

from typing import Any

from scripts.templates import (
    PSEUDO,
    ROOT,
    Evaluator,
    Template,
    expanded,
    template,
    transformed,
    whole_templates,
)

__all__ = [
    "PSEUDO",
    "ROOT",
    "STATEFUL",
    "Evaluator",
    "Template",
    "expanded",
    "mentions",
    "of_type",
    "template",
    "transformed",
    "whole_templates",
]

# Kept when the stack goes, and the same in either runtime. Renaming one of these loses data: never do.
STATEFUL = {
    "DataKey": "AWS::KMS::Key",
    "CursorKey": "AWS::KMS::Key",
    "OrdersTable": "AWS::DynamoDB::Table",
    "DocumentsBucket": "AWS::S3::Bucket",
    "AccessLogsBucket": "AWS::S3::Bucket",
    "OrdersEventBus": "AWS::Events::EventBus",
    "OrdersArchive": "AWS::Events::Archive",
    "ReceiptsQueue": "AWS::SQS::Queue",
    "ReceiptsDeadLetterQueue": "AWS::SQS::Queue",
    "RelayDeadLetterQueue": "AWS::SQS::Queue",
}


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
