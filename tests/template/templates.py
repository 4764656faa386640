"""Reads the templates, and answers what a stack would hold for given parameters."""

from __future__ import annotations

import copy
import logging
import re
from functools import cache
from ipaddress import ip_network
from itertools import islice
from pathlib import Path
from typing import Any

import boto3
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator
from samtranslator.yaml_helper import yaml_parse

ROOT = Path(__file__).resolve().parents[2]
Template = dict[str, Any]

# What CloudFormation knows by itself; a test may give others.
PSEUDO = {
    "AWS::Partition": "aws",
    "AWS::Region": "eu-central-1",
    "AWS::URLSuffix": "amazonaws.com",
    "AWS::StackName": "orders-dev",
}

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


@cache
def _read(path: str) -> Template:
    template: Template = yaml_parse((ROOT / path).read_text())
    return template


def template(path: str = "template.yaml") -> Template:
    """Return a template with its intrinsic functions in their long form."""
    return copy.deepcopy(_read(path))


def whole_templates() -> list[str]:
    """Return the paths of all templates that there are."""
    found = [ROOT / "template.yaml", *ROOT.glob("*/template.yaml"), ROOT / "fargate" / "network.yaml"]
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


def transformed(source: Template) -> Template:
    """Return what SAM's transform makes of a root template."""
    for resource in source["Resources"].values():
        if resource["Type"] == "AWS::Serverless::Function":  # as `sam package` leaves it
            resource["Properties"]["ImageUri"] = "111122223333.dkr.ecr.eu-central-1.amazonaws.com/orders:tag"

    logging.getLogger("samtranslator").setLevel(logging.ERROR)
    translator = Translator({}, Parser(), boto_session=boto3.Session(region_name="eu-central-1"))
    result: Template = translator.translate(source, {})
    return result


@cache
def _expanded() -> Template:
    return transformed(template())


def expanded() -> Template:
    """Return the root template as CloudFormation gets it, after SAM's transform."""
    return copy.deepcopy(_expanded())


class Evaluator:
    """Evaluates conditions, rules and values for parameters, as CloudFormation does."""

    def __init__(self, source: Template, **parameters: object) -> None:
        defaults = PSEUDO | {name: each.get("Default") for name, each in source["Parameters"].items()}
        unknown = parameters.keys() - defaults.keys()
        assert not unknown, f"no such parameter: {unknown}"
        self._values = {name: str(value) for name, value in (defaults | parameters).items()}
        self._source = source

    def is_true(self, expression: Any) -> bool:
        ((function, argument),) = expression.items()
        match function:
            case "Condition":
                return self.is_true(self._source["Conditions"][argument])
            case "Fn::Equals":
                return self._value(argument[0]) == self._value(argument[1])
            case "Fn::Not":
                return not self.is_true(argument[0])
            case "Fn::And":
                return all(self.is_true(each) for each in argument)
            case "Fn::Or":
                return any(self.is_true(each) for each in argument)
            case "Fn::Contains":
                return self._value(argument[1]) in [str(each) for each in argument[0]]
        raise NotImplementedError(function)

    def resolved(self, expression: Any) -> Any:
        """Return the value of an expression of functions; None is no value."""
        if isinstance(expression, list):
            return [found for each in expression if (found := self.resolved(each)) is not None]
        if not isinstance(expression, dict):
            return expression
        ((function, argument), *more) = expression.items()
        if more or not (function == "Ref" or function.startswith("Fn::")):
            return {name: self.resolved(each) for name, each in expression.items()}
        if function == "Ref":
            return None if argument == "AWS::NoValue" else self._values[argument]
        if function == "Fn::If":
            return self.resolved(argument[1 if self.is_true({"Condition": argument[0]}) else 2])
        return self._called(function, self.resolved(argument))

    def _called(self, function: str, argument: Any) -> Any:
        match function:
            case "Fn::Sub":
                return re.sub(r"\$\{([\w:]+)\}", lambda name: self._values[name[1]], argument)
            case "Fn::Split":
                return argument[1].split(argument[0])
            case "Fn::Select":
                return argument[1][int(argument[0])]
            case "Fn::GetAZs":
                return [f"{self._values['AWS::Region']}{letter}" for letter in "abc"]
            case "Fn::FindInMap":
                return self._source["Mappings"][argument[0]][argument[1]][argument[2]]
            case "Fn::Cidr":  # as many parts as are asked for, each with so many bits for hosts
                block, count, bits = argument
                parts = ip_network(block).subnets(new_prefix=32 - bits)
                return [str(each) for each in islice(parts, count)]
        raise NotImplementedError(function)

    def _value(self, expression: Any) -> str:
        return self._values[expression["Ref"]] if isinstance(expression, dict) else str(expression)

    def resources(self) -> dict[str, Any]:
        """Return the resources whose condition holds."""
        return {
            name: resource
            for name, resource in self._source["Resources"].items()
            if "Condition" not in resource or self.is_true({"Condition": resource["Condition"]})
        }

    def refusals(self) -> list[str]:
        """Return what the template's rules say against the parameters."""
        return [
            assertion["AssertDescription"]
            for rule in self._source["Rules"].values()
            if "RuleCondition" not in rule or self.is_true(rule["RuleCondition"])
            for assertion in rule["Assertions"]
            if not self.is_true(assertion["Assert"])
        ]


def mentions(value: Any, key: str) -> list[Any]:
    """Return every value under `key`, however deep."""
    if isinstance(value, dict):
        here = [value[key]] if key in value else []
        return here + [found for each in value.values() for found in mentions(each, key)]
    if isinstance(value, list):
        return [found for each in value for found in mentions(each, key)]
    return []
