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


def mentions(value: Any, key: str) -> list[Any]:
    """Return every value under `key`, however deep."""
    if isinstance(value, dict):
        here = [value[key]] if key in value else []
        return here + [found for each in value.values() for found in mentions(each, key)]
    if isinstance(value, list):
        return [found for each in value for found in mentions(each, key)]
    return []
