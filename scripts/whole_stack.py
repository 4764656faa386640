"""Find every resource of a stack and of its nested stacks, with each reference followed to what it names.

A nested template knows its parameters only. Here `!Ref KeyArn` in it becomes what its parent passes, and an
output of a nested stack what that output refers to. So a resource is the same wherever it is named, by its
path of logical ids: `FargateStack.NetworkStack.FlowLogRole`. All resources are found, of either runtime; an
`Fn::If` is decided where the parent passes a plain value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import PurePosixPath
from typing import Any

from scripts.templates import template, whole_templates

_VARIABLE = re.compile(r"(\$\{[^}]+\})")
_NO_VALUE = {"Ref": "AWS::NoValue"}
# What SAM copies from Globals into the resources of a type.
# https://docs.aws.amazon.com/serverless-application-model/latest/developerguide/sam-specification-template-anatomy-globals.html
_GLOBALS = {"AWS::Serverless::Function": "Function", "AWS::Serverless::HttpApi": "HttpApi"}


@dataclass(frozen=True)
class Resource:
    """A resource as its template declares it, under the path that it has in the whole stack."""

    path: str
    template: str
    type: str
    condition: str
    properties: dict[str, Any]

    @property
    def name(self) -> str:
        """Its logical id."""
        return self.path.rpartition(".")[2]

    @property
    def stack(self) -> str:
        """The path of the nested stack that it is in; empty in the root."""
        return self.path.rpartition(".")[0]


class _Stack:
    """A template, with what its parent passes as parameters."""

    def __init__(self, path: str, prefix: str, given: Mapping[str, Any]) -> None:
        self._path, self._prefix, self._given = path, prefix, given
        self._source = template(path)
        self._nested: dict[str, _Stack] = {}

    def resources(self) -> Iterator[Resource]:
        """Yield its resources; those of a nested stack follow the stack."""
        for name, each in self._source["Resources"].items():
            shared = self._source.get("Globals", {}).get(_GLOBALS.get(each["Type"], ""), {})
            properties = self.resolved(shared | each.get("Properties", {}))
            condition = each.get("Condition", "")
            yield Resource(self._prefix + name, self._path, each["Type"], condition, properties)
            if each["Type"] == "AWS::CloudFormation::Stack":
                yield from self._child(name).resources()

    def _child(self, name: str) -> _Stack:
        if name not in self._nested:
            properties = self._source["Resources"][name]["Properties"]
            path = str(PurePosixPath(self._path).parent / properties["TemplateURL"])
            given = self.resolved(properties.get("Parameters", {}))
            self._nested[name] = _Stack(path, f"{self._prefix}{name}.", given)
        return self._nested[name]

    def resolved(self, value: Any) -> Any:
        """Return `value` with paths in place of logical ids, and `Fn::Sub` as the parts that it joins."""
        match value:
            case {"Ref": str() as name}:
                return self._reference(name)
            case {"Fn::GetAtt": str() as text}:
                return self._attribute(*text.split(".", 1))
            case {"Fn::GetAtt": [name, attribute]}:
                return self._attribute(name, attribute)
            case {"Fn::Sub": [text, more]}:
                return self._joined(text, self.resolved(more))
            case {"Fn::Sub": text}:
                return self._joined(text, {})
            case {"Fn::If": [condition, then, otherwise]} if (holds := self._holds(condition)) is not None:
                return self.resolved(then if holds else otherwise)
            case dict():
                return {key: self.resolved(each) for key, each in value.items()}
            case list():
                return [self.resolved(each) for each in value]
        return value

    def _holds(self, condition: str) -> bool | None:
        """Tell whether a condition on what the parent passes holds; None if only a deployment knows."""
        match self._source.get("Conditions", {}).get(condition):
            case {"Fn::Equals": [{"Ref": name}, value]}:
                expected = True
            case {"Fn::Not": [{"Fn::Equals": [{"Ref": name}, value]}]}:
                expected = False
            case _:
                return None
        found = self._reference(name)
        return None if isinstance(found, dict) else (str(found) == value) is expected

    def _reference(self, name: str) -> Any:
        if name in self._given:
            return self._given[name]
        declared = self._source.get("Parameters", {}).get(name, {})
        if self._prefix and "Default" in declared:  # the parent passes none
            return declared["Default"]
        function, _, made_by_sam = name.partition(".")  # `!Ref ApiFunction.Version`
        if made_by_sam:
            return self._attribute(function, made_by_sam)
        return {"Ref": self._prefix + name if name in self._source["Resources"] else name}

    def _attribute(self, name: str, attribute: str) -> Any:
        kind, _, output = attribute.partition("Outputs.")
        if output and not kind:
            child = self._child(name)
            return child.resolved(child._source["Outputs"][output]["Value"])
        return {"Fn::GetAtt": [self._prefix + name, attribute]}

    def _joined(self, text: str, more: Mapping[str, Any]) -> Any:
        parts = [self._part(part, more) for part in _VARIABLE.split(text) if part]
        return parts[0] if len(parts) == 1 else {"Fn::Join": ["", parts]}

    def _part(self, part: str, more: Mapping[str, Any]) -> Any:
        if not _VARIABLE.fullmatch(part) or part.startswith("${!"):
            return part.replace("${!", "${")
        name = part[2:-1]
        if name in more:
            return more[name]
        return self._attribute(*name.split(".", 1)) if "." in name else self._reference(name)


@cache
def resources_of(path: str = "template.yaml", prefix: str = "") -> dict[str, Resource]:
    """Return the resources of a stack and of its nested stacks by their paths."""
    return {each.path: each for each in _Stack(path, prefix, {}).resources()}


@cache
def all_resources() -> dict[str, Resource]:
    """Return those of every stack that is deployed; a path outside the main stack begins with its folder."""
    paths = [path for path in whole_templates() if path != "template.yaml"]
    nested = {each.template for path in ["template.yaml", *paths] for each in _nested_of(path)}
    found = dict(resources_of())
    for path in paths:
        if path not in nested:
            found |= resources_of(path, f"{PurePosixPath(path).parent}/")
    return found


def _nested_of(path: str) -> Iterator[Resource]:
    return (each for each in resources_of(path).values() if each.template != path)


def references(value: Any) -> Iterator[str]:
    """Yield the paths of the resources that a resolved value names."""
    match value:
        case {"Ref": name} | {"Fn::GetAtt": [name, _]}:
            yield name
        case dict():
            for each in value.values():
                yield from references(each)
        case list():
            for each in value:
                yield from references(each)


def named(value: Any, kind: str) -> Resource:
    """Return the one resource of a type that a resolved value of the main stack names."""
    found = {path: resources_of()[path] for path in references(value) if path in resources_of()}
    (resource,) = (each for each in found.values() if each.type == kind)
    return resource


def choices(value: Any) -> list[Any]:
    """Return what a list may hold: of an `Fn::If` both branches."""
    found: list[Any] = []
    for each in value if isinstance(value, list) else [value]:
        match each:
            case {"Fn::If": [_, *branches]}:
                found += [choice for branch in branches for choice in choices(branch)]
            case _ if each != _NO_VALUE:
                found.append(each)
    return found


def text_of(value: Any) -> str:
    """Return a resolved value as a reader sees it: a resource by its path, an ARN without its attribute."""
    match value:
        case {"Ref": str() as name}:
            return f"${{{name}}}" if name.startswith("AWS::") else name
        case {"Fn::GetAtt": [name, attribute]}:
            return str(name) if attribute == "Arn" else f"{name}.{attribute}"
        case {"Fn::Join": [between, parts]}:
            return str(between).join(map(text_of, parts))
        case {"Fn::If": _}:
            return " or ".join(map(text_of, choices(value)))
    return str(value)
