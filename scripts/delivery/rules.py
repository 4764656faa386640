"""The rules of a template, judged before CloudFormation is asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml
from scripts.delivery.decide import DeliveryError


def check_rules(template: str, given: Mapping[str, str], region: str, partition: str) -> None:
    """Return if the template's rules admit the parameters. Raises DeliveryError.

    https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/rules-section-structure.html
    """
    source = yaml.load(template, _Loader)  # noqa: S506 (a SafeLoader below)
    values = {name: str(each.get("Default", "")) for name, each in source["Parameters"].items()}
    values |= {"AWS::Region": region, "AWS::Partition": partition, **given}
    for rule in source.get("Rules", {}).values():
        if _holds(rule.get("RuleCondition", {"Equals": ["", ""]}), values):
            for assertion in rule["Assertions"]:
                if not _holds(assertion["Assert"], values):
                    raise DeliveryError(assertion["AssertDescription"])


def _holds(expression: Any, values: Mapping[str, str]) -> bool:
    ((function, arguments),) = expression.items()
    match function.removeprefix("Fn::"):
        case "Equals":
            left, right = (_value(each, values) for each in arguments)
            return left == right
        case "Not":
            return not _holds(arguments[0], values)
        case "And":
            return all(_holds(each, values) for each in arguments)
        case "Or":
            return any(_holds(each, values) for each in arguments)
        case "Contains":
            return _value(arguments[1], values) in [str(each) for each in arguments[0]]
    raise NotImplementedError(function)


def _value(expression: Any, values: Mapping[str, str]) -> str:
    return values[expression["Ref"]] if isinstance(expression, dict) else str(expression)


class _Loader(yaml.SafeLoader):
    """YAML in which `!Ref name` is `{"Ref": name}`."""


def _tagged(loader: _Loader, tag: str, node: yaml.Node) -> dict[str, Any]:
    value: Any
    if isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    elif isinstance(node, yaml.MappingNode):
        value = loader.construct_mapping(node, deep=True)
    else:
        value = loader.construct_scalar(node)  # type: ignore[arg-type]
    return {tag: value}


_Loader.add_multi_constructor("!", _tagged)
