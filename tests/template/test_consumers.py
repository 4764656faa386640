"""A consumer is whole: its code, its stack, its event's schema, a sample event and a runbook section.

Its queue, dead-letter queue and alarms come with lambda/consumer.yaml; test_alarms.py has their series.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
from tests.template.templates import ROOT, of_type, stacks, template

from app.core.events.consumer import Consumer, MalformedEvent

RECEIPTS = "app.orders.receipts.handler"


@dataclass(frozen=True)
class Project:
    """What the parts of a consumer are looked for in."""

    stacks: Mapping[str, Mapping[str, str]]  # the parameters of each consumer's stack, by logical id
    consumers: Mapping[str, Consumer[Any]]  # by handler
    schemas: frozenset[str]
    samples: frozenset[str]
    sections: frozenset[str]
    other_functions: frozenset[str]


@cache
def project() -> Project:
    nested = of_type(template()["Resources"], "AWS::CloudFormation::Stack")
    modules = [
        ".".join(path.relative_to(ROOT / "src").with_suffix("").parts)
        for path in (ROOT / "src").rglob("*.py")
        if re.search(r"^@consumer\(", path.read_text(), re.MULTILINE)
    ]
    functions = {
        function["Properties"]["FunctionName"].removeprefix("orders-dev-")
        for path, document in stacks().items()
        if path != "lambda/consumer.yaml"
        for function in of_type(document["Resources"], "AWS::Lambda::Function").values()
    }
    return Project(
        stacks={
            name: stack["Properties"]["Parameters"]
            for name, stack in nested.items()
            if stack["Properties"]["TemplateURL"] == "lambda/consumer.yaml"
        },
        consumers={
            f"{module}.{name}": value.__self__
            for module in modules
            for name, value in vars(importlib.import_module(module)).items()
            if isinstance(getattr(value, "__self__", None), Consumer)
        },
        schemas=frozenset(path.stem for path in (ROOT / "docs/events").glob("*.json")),
        samples=frozenset(path.stem for path in (ROOT / "events").glob("*.json")),
        sections=frozenset(
            title.lower().replace(" ", "-")
            for title in re.findall(r"^## (.+)$", (ROOT / "docs/runbooks.md").read_text(), re.MULTILINE)
        ),
        other_functions=frozenset(functions),
    )


def takes(consumer: Consumer[Any], detail_type: str) -> bool:
    """Tell whether a consumer handles events of a type: it reads no detail of others."""
    try:
        consumer.read(json.dumps({"detail-type": detail_type, "detail": None}))
    except MalformedEvent:
        return True
    return False


def faults(found: Project) -> list[str]:
    """Return what is missing of the consumers."""
    handlers = {given["Handler"] for given in found.stacks.values()}
    said = [f"{handler} has no stack" for handler in found.consumers if handler not in handlers]
    for stack, given in found.stacks.items():
        name, detail_type, consumer = (
            given["Name"],
            given["DetailType"],
            found.consumers.get(given["Handler"]),
        )
        if consumer is None:
            said.append(f"{stack}: Handler is that of no @consumer: {given['Handler']}")
            continue
        if name != consumer.name:
            said.append(f"{stack}: Name is not {consumer.name}")
        if name in found.other_functions:
            said.append(f"{stack}: another function has the name")
        if not takes(consumer, detail_type):
            said.append(f"{stack}: {consumer.name} takes no {detail_type}")
        if detail_type not in found.schemas:
            said.append(f"{stack}: there is no docs/events/{detail_type}.json")
        if not any(sample.startswith(f"{name}-") for sample in found.samples):
            said.append(f"{stack}: there is no events/{name}-*.json")
        if name not in found.sections:
            said.append(f"{stack}: docs/runbooks.md has no section #{name}")
    return said


def test_every_consumer_is_whole() -> None:
    assert RECEIPTS in project().consumers
    found = faults(project())
    assert not found, "\n".join(found)


def another(**parameters: str) -> dict[str, Any]:
    return {"stacks": {"ReceiptsConsumer": dict(project().stacks["ReceiptsConsumer"]) | parameters}}


@pytest.mark.parametrize(
    ("broken", "fault"),
    [
        ({"stacks": {}}, f"{RECEIPTS} has no stack"),
        (
            another(Handler="app.entrypoints.lambda_relay.handler"),
            "that of no @consumer: app.entrypoints.lambda_relay.handler",
        ),
        (another(Name="stock"), "Name is not receipts"),
        ({"other_functions": frozenset({"receipts"})}, "another function has the name"),
        (another(DetailType="ProductCreated"), "receipts takes no ProductCreated"),
        ({"schemas": frozenset({"ProductCreated"})}, "there is no docs/events/OrderPlaced.json"),
        ({"samples": frozenset({"relay-order-placed"})}, "there is no events/receipts-*.json"),
        ({"sections": frozenset({"latency"})}, "docs/runbooks.md has no section #receipts"),
    ],
)
def test_one_that_is_not_whole_is_told(broken: dict[str, Any], fault: str) -> None:
    assert any(said.endswith(fault) for said in faults(dataclasses.replace(project(), **broken)))
