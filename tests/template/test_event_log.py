"""What EventBridge asks of a log group that is a target; the local AWS would deliver without."""

from __future__ import annotations

import json

from tests.template.templates import template


def test_the_rule_names_the_log_group_without_its_streams() -> None:
    [target] = template()["Resources"]["EventsLogRule"]["Properties"]["Targets"]
    assert target["Arn"]["Fn::Sub"].endswith(":log-group:${EventsLogGroup}")


def test_only_writing_is_bound_to_the_rule() -> None:
    """Making the log stream names no rule: a statement with that condition would refuse it."""
    document = template()["Resources"]["EventsLogPolicy"]["Properties"]["PolicyDocument"]["Fn::Sub"]
    conditions = {each["Action"]: each.get("Condition") for each in json.loads(document)["Statement"]}
    assert conditions == {
        "logs:CreateLogStream": None,
        "logs:PutLogEvents": {"ArnEquals": {"aws:SourceArn": "${EventsLogRule.Arn}"}},
    }
