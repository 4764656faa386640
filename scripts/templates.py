"""Reads the templates, and answers what a stack would hold for given parameters.

`python -m scripts.templates lambda/relay.yaml` prints a template after SAM's transform.
"""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from ipaddress import ip_network
from itertools import islice
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
Template = dict[str, Any]
REGION = "eu-central-1"
ACCOUNT_ID = "111122223333"
UUID = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
# What CloudFormation knows by itself; others can be given with the parameters.
# https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/pseudo-parameter-reference.html
PSEUDO = {
    "AWS::AccountId": ACCOUNT_ID,
    "AWS::Partition": "aws",
    "AWS::Region": REGION,
    "AWS::StackId": f"arn:aws:cloudformation:{REGION}:{ACCOUNT_ID}:stack/orders-dev/{UUID}",
    "AWS::StackName": "orders-dev",
    "AWS::URLSuffix": "amazonaws.com",
}
_VARIABLE = re.compile(r"\$\{(!?)([^}]+)\}")


@cache
def _loader() -> type[Any]:
    """Return the reader of YAML with the short forms of intrinsic functions.

    Made when the first template is read: `make doctor` and `make bench-aws` read none, and run with what the
    application needs.
    """
    import yaml

    class Loader(yaml.CSafeLoader):
        pass

    def long_form(loader: Loader, name: str, node: yaml.Node) -> Template:
        value: Any
        if isinstance(node, yaml.SequenceNode):
            value = loader.construct_sequence(node, deep=True)
        elif isinstance(node, yaml.MappingNode):
            value = loader.construct_mapping(node, deep=True)
        else:
            value = loader.construct_scalar(node)  # type: ignore[arg-type]
            if name == "GetAtt":
                value = value.split(".", 1)
        return {name if name in ("Condition", "Ref") else f"Fn::{name}": value}

    Loader.add_multi_constructor("!", long_form)
    return Loader


def load_template(text: str) -> Template:
    """Read a template, in YAML or JSON, with its intrinsic functions in their long form.

    https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/intrinsic-function-reference.html
    """
    import yaml

    loaded = yaml.load(text, _loader())  # noqa: S506 (a SafeLoader)
    return loaded if isinstance(loaded, dict) else {}


@cache
def _read(path: str) -> Template:
    return load_template((ROOT / path).read_text())


def template(path: str = "template.yaml") -> Template:
    """Return a template of the sources."""
    return copy.deepcopy(_read(path))


def whole_templates() -> list[str]:
    """Return the paths of all templates that there are."""
    found = (
        path.relative_to(ROOT).as_posix() for path in (ROOT / "template.yaml", *ROOT.glob("[a-z]*/*.yaml"))
    )
    return sorted(path for path in found if "AWSTemplateFormatVersion" in _read(path))


def transformed(source: Template) -> Template:
    """Return what SAM's transform makes of a template."""
    for resource in source["Resources"].values():
        if resource["Type"] == "AWS::Serverless::Function":  # as `sam package` leaves it
            image = f"{ACCOUNT_ID}.dkr.ecr.{REGION}.amazonaws.com/orders:tag"
            resource["Properties"].setdefault("ImageUri", image)
    # In the environment of the local AWS emulator: the newest translator excludes our own pydantic.
    python = ROOT / ".venv-local/bin/python"
    if not python.exists():
        raise ValueError(
            "The environment of the local AWS emulator is missing, which has SAM's translator: make setup"
        )
    command = [str(python), str(ROOT / "scripts/translate.py"), REGION]
    made = subprocess.run(command, input=json.dumps(source), capture_output=True, text=True, check=False)
    if made.returncode:
        raise ValueError(made.stderr)
    result: Template = json.loads(made.stdout)
    return result


@cache
def _expanded(path: str) -> Template:
    source = template(path)
    return transformed(source) if "Transform" in source else source


def expanded(path: str = "template.yaml") -> Template:
    """Return a template as CloudFormation gets it, after SAM's transform."""
    return copy.deepcopy(_expanded(path))


class Evaluator:
    """Works out a template's conditions, rules and values for parameters, as CloudFormation does.

    What only a deployment knows stays as it is: attributes of resources, and parameters without a value.
    """

    def __init__(self, source: Template, **parameters: object) -> None:
        self._declared = source.get("Parameters", {})
        unknown = parameters.keys() - self._declared.keys() - PSEUDO.keys()
        if unknown:
            raise ValueError(f"no such parameter: {unknown}")
        defaults = {name: each["Default"] for name, each in self._declared.items() if "Default" in each}
        given = PSEUDO | defaults | parameters
        self._values = {name: self._typed(name, str(value)) for name, value in given.items()}
        self._source = source

    def _typed(self, name: str, text: str) -> str | int:
        is_number = self._declared.get(name, {}).get("Type") == "Number" and text.isdecimal()
        return int(text) if is_number else text

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

    def _value(self, expression: Any) -> str:
        return str(self.resolved(expression))

    def resources(self) -> dict[str, Any]:
        """Return the resources whose condition holds."""
        return self._standing("Resources")

    def _standing(self, section: str) -> dict[str, Any]:
        return {
            name: each
            for name, each in self._source.get(section, {}).items()
            if "Condition" not in each or self.is_true({"Condition": each["Condition"]})
        }

    def rejections(self) -> list[str]:
        """Return what the template's rules say against the parameters."""
        return [
            assertion["AssertDescription"]
            for rule in self._source.get("Rules", {}).values()
            if "RuleCondition" not in rule or self.is_true(rule["RuleCondition"])
            for assertion in rule["Assertions"]
            if not self.is_true(assertion["Assert"])
        ]

    def conditions(self) -> dict[str, bool]:
        """Return what each condition comes to."""
        return {name: self.is_true({"Condition": name}) for name in self._source.get("Conditions", {})}

    def document(self) -> Template:
        """Return the template without what the parameters decide."""
        made: Template = {}
        for section in ("Resources", "Outputs"):
            made[section] = self.resolved(
                {
                    name: {key: part for key, part in each.items() if key not in ("Condition", "Metadata")}
                    for name, each in self._standing(section).items()
                }
            )
        for each in made["Resources"].values():
            if "DependsOn" in each:
                wanted = each["DependsOn"] if isinstance(each["DependsOn"], list) else [each["DependsOn"]]
                each["DependsOn"] = [name for name in wanted if name in made["Resources"]]
        left = {name: each for name, each in self._declared.items() if name not in self._values}
        return {name: each for name, each in {"Parameters": left, **made}.items() if each}

    def resolved(self, value: Any) -> Any:
        """Return `value` without the intrinsic functions that parameters decide; None is no value."""
        match value:
            case {"Ref": "AWS::NoValue"}:
                return None
            case {"Ref": str() as name} if name in self._values:
                return self._values[name]
            case {"Fn::If": [condition, then, otherwise]}:
                return self.resolved(then if self.is_true({"Condition": condition}) else otherwise)
            case {"Fn::Sub": [text, more]}:
                return self._substituted(text, self.resolved(more))
            case {"Fn::Sub": str() as text}:
                return self._substituted(text, {})
            case {"Fn::GetAZs": _}:
                return [f"{self._values['AWS::Region']}{letter}" for letter in "abc"]
            case dict() if len(value) == 1 and next(iter(value)).startswith("Fn::"):
                ((function, argument),) = value.items()
                return _worked_out(function, self.resolved(argument), self._source.get("Mappings", {}))
            case dict():
                resolved = {name: self.resolved(each) for name, each in value.items()}
                return {name: each for name, each in resolved.items() if each is not None}
            case list():
                return [each for each in map(self.resolved, value) if each is not None]
        return value

    def _substituted(self, text: str, more: Mapping[str, Any]) -> Any:
        known = {
            name: each for name, each in (self._values | more).items() if not isinstance(each, dict | list)
        }

        def replace(found: re.Match[str]) -> str:
            literal, name = found.groups()
            return found[0] if literal or name not in known else str(known[name])

        made = _VARIABLE.sub(replace, text)
        if not any(not literal for literal, _ in _VARIABLE.findall(made)):
            return made.replace("${!", "${")
        rest = {name: each for name, each in more.items() if name not in known}
        return {"Fn::Sub": [made, rest] if rest else made}


def _is_plain(value: Any) -> bool:
    return not isinstance(value, dict | list)


def _worked_out(function: str, argument: Any, mappings: Mapping[str, Any]) -> Any:
    match function, argument:
        case "Fn::FindInMap", [table, first, second] if all(map(_is_plain, argument)):
            return mappings[table][str(first)][second]
        case "Fn::Join", [str() as between, list() as parts] if all(map(_is_plain, parts)):
            return between.join(map(str, parts))
        case "Fn::Split", [between, str() as text]:
            return text.split(between)
        case "Fn::Select", [index, list() as parts]:
            return parts[int(index)]
        case "Fn::Cidr", [str() as block, count, bits]:  # as many parts, each with so many bits for hosts
            return [
                str(each) for each in islice(ip_network(block).subnets(new_prefix=32 - int(bits)), int(count))
            ]
    return {function: argument}


def stack_documents(
    path: str, parameters: Mapping[str, object], source: Template | None = None
) -> Iterator[tuple[str, Template, Evaluator]]:
    """Yield path, document and evaluator of a template, and of those that its stacks bring in.

    `source` takes the place of the template at the path.
    """
    evaluator = Evaluator(source or expanded(path), **parameters)
    document = evaluator.document()
    yield path, document, evaluator
    pseudo = {name: value for name, value in parameters.items() if name in PSEUDO}
    stack = pseudo.get("AWS::StackName", PSEUDO["AWS::StackName"])
    for name, each in document["Resources"].items():
        if each["Type"] == "AWS::CloudFormation::Stack":
            nested = str(Path(path).parent / each["Properties"]["TemplateURL"])
            # The name of a resource that is not made yet is some name; of other attributes nothing is known.
            given = {
                key: value if _is_plain(value) else f"{stack}-{key}"
                for key, value in each["Properties"]["Parameters"].items()
                if _is_plain(value) or key.endswith("Name")
            }
            names = {"AWS::StackName": f"{stack}-{name}-1A2B3C4D5E6F7"}
            yield from stack_documents(nested, {**pseudo, **names, **given})


if __name__ == "__main__":
    print(json.dumps(expanded(*sys.argv[1:])))
