"""docs/adding-a-feature.md is true: its examples are applied to a copy of the sources, and run there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from scripts.templates import load_template, stack_documents
from tests.builders import ROOT

from app.core.models import fingerprint
from app.orders.models import OrderCreate

PAGE = (ROOT / "docs" / "adding-a-feature.md").read_text()
FIELD, RESOURCE = (
    re.search(rf"^## {title}\n(.*?)(?=^## )", PAGE, re.MULTILINE | re.DOTALL)
    for title in ("A field", "A resource")
)


def changed_lines(section: str) -> dict[str, int]:
    """Return how many lines of which file a section adds or replaces."""
    found = {}
    for path, hunks in diffs(section):
        found[path] = sum(line.startswith("+") for hunk in hunks for line in hunk)
    for path, text in new_files(section):
        found[path] = text.count("\n")
    return found


def diffs(section: str) -> list[tuple[str, list[list[str]]]]:
    """Return the files that the section's diffs change, each with its hunks."""
    found = []
    for path, body in re.findall(r"^```diff\n--- (\S+)\n@@\n(.*?)^```", section, re.MULTILINE | re.DOTALL):
        found.append((path, [hunk.splitlines() for hunk in body.split("@@\n")]))
    return found


def new_files(section: str) -> list[tuple[str, str]]:
    """Return the files that the section shows whole."""
    return re.findall(r"^```python\n# (\S+)\n(.*?)^```", section, re.MULTILINE | re.DOTALL)


def apply(section: str, root: Path) -> None:
    for path, hunks in diffs(section):
        text = (root / path).read_text()
        for hunk in hunks:
            before, after = (
                "".join(f"{line[1:]}\n" for line in hunk if line[:1] in (" ", sign, "")) for sign in "-+"
            )
            assert text.count(before) == 1, f"{path} does not have, or has twice:\n{before}"
            text = text.replace(before, after)
        (root / path).write_text(text)
    for path, text in new_files(section):
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_text(text)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for folder in ("src", "lambda", "fargate", "monitoring"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "template.yaml"):
        shutil.copy(ROOT / file, tmp_path)
    return tmp_path


def run(copy: Path, program: str, changed: Iterable[str]) -> str:
    """Run a program over the copy; what was changed follows the project's rules."""
    modules = [path for path in changed if path.endswith(".py")]
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("APP_", "AWS_"))}
    environ |= {"PYTHONPATH": f"{copy / 'src'}:{ROOT}", "AWS_REGION": "eu-central-1"}
    ruff = str(Path(sys.executable).with_name("ruff"))
    for command in (
        [ruff, "check", "--no-cache", *modules],
        [ruff, "format", "--no-cache", "--check", *modules],
        [sys.executable, "-W", "error", "-c", COMMON + program],
    ):
        done = subprocess.run(
            command, cwd=copy, env=environ, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


# Over memory, by ASGI, without anything of the tests that would import FastAPI.
COMMON = """
import asyncio, json, os, sys
import httpx
from app.core.dynamodb.repository import DynamoRepository, Table
from app.core.memory import FixedCursorKey, MemoryRepository
from app.core.service import Service
from app.core.settings import Settings
from app.entrypoints.lambda_relay import event_reader
from app.main import create_app
from app.orders.memory import MemoryDocumentStore, MemoryOrderRepository
from app.orders.service import OrderService
from app.resources import load

SETTINGS = Settings("table", "bucket", "bus", "arn:key", "arn:cursor-key", log_level="CRITICAL")
entities = {name: module.source.entity for name, module in load("events").items()}
services = {name: Service(name, MemoryRepository(each), FixedCursorKey()) for name, each in entities.items()}
services["orders"] = OrderService(MemoryOrderRepository(), MemoryDocumentStore(), FixedCursorKey())
app = create_app(services, SETTINGS)

async def send(method, path, status, body=None, **headers):
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api.test") as client:
        answer = await client.request(method, path, json=body, headers=headers)
    assert answer.status_code == status, (path, answer.status_code, answer.text)
    return answer

def call(method, path, status, body=None, **headers):
    return asyncio.run(send(method, path, status, body, **headers)).json()

def listed(path):
    return [item["id"] for item in call("GET", path, 200)["items"]]

def record(resource, entity):
    source = load("events")[resource].source
    repository = DynamoRepository(Table(None, "table", 4), source.entity, source.prefix)
    item = repository.to_item(entity, "fingerprint")
    return {"eventName": "INSERT", "dynamodb": {"SequenceNumber": "1", "NewImage": item}}

def stored(resource, entity_id):
    return asyncio.run(services[resource]._repository.get(entity_id))
"""

A_FIELD = """
order = {"customer": "John Doe", "product": "Widget", "quantity": 5}
normal = call("POST", "/orders", 201, order)
high = call("POST", "/orders", 201, order | {"priority": "high"})
assert (normal["priority"], high["priority"]) == ("normal", "high")
assert call("GET", f"/orders/{high['id']}", 200) == high
assert listed("/orders?priority=high") == [high["id"]]
assert listed("/orders?priority=normal") == [normal["id"]]
assert "fastapi" not in sys.modules, "not on the fast path"

call("POST", "/orders", 422, order | {"priority": "urgent"})
call("GET", "/orders?priority=urgent", 422)
assert listed("/orders?priority=high&unknown=1") == [high["id"]]  # by FastAPI
document = call("GET", "/openapi.json", 200)
assert document["components"]["schemas"]["OrderCreate"]["properties"]["priority"]["default"] == "normal"
assert "priority" in [each["name"] for each in document["paths"]["/orders"]["get"]["parameters"]]

new = record("orders", stored("orders", high["id"]))
assert event_reader().to_event(new).detail["order"]["priority"] == "high"
del new["dynamodb"]["NewImage"]["priority"]  # an item that is older than the field
assert event_reader().to_event(new).detail["order"]["priority"] == "normal"
from app.core.models import fingerprint
from app.orders.models import OrderCreate, Priority
repository = DynamoRepository(Table(None, "table", 4), entities["orders"], "order")
values = {}
condition = repository._one_of("priority", [Priority.NORMAL], values)
assert condition.endswith("OR attribute_not_exists(#priority))"), condition

from scripts import generate
pages = generate.pages()
generate.check_growth(pages)
schema = json.loads(pages[generate.EVENTS / "OrderPlaced.json"])
assert "priority" in schema["$defs"]["Order"]["required"]
print(fingerprint(OrderCreate(**order)))
"""

A_RESOURCE = """
from app.carriers.models import Carrier
once = ("POST", "/carriers", 201, {"name": "Swift", "reach": "world"})
swift = call(*once, **{"Idempotency-Key": "k"})
again = asyncio.run(send(*once, **{"Idempotency-Key": "k"}))
assert (again.json(), again.headers["idempotent-replayed"]) == (swift, "true")
assert "owner" not in swift
local = call("POST", "/carriers", 201, {"name": "Local"})
assert local["reach"] == "region"
assert call("GET", f"/carriers/{swift['id']}", 200) == swift
call("GET", "/carriers/unknown", 404)
assert listed("/carriers") == [local["id"], swift["id"]]
assert listed("/carriers?reach=world") == [swift["id"]]
page = call("GET", "/carriers?limit=1", 200)
assert listed(f"/carriers?limit=1&cursor={page['next_cursor']}") == [swift["id"]]
assert "fastapi" not in sys.modules, "not on the fast path"

call("POST", "/carriers", 422, {"name": ""})
assert {"get", "post"} <= call("GET", "/openapi.json", 200)["paths"]["/carriers"].keys()

event = event_reader().to_event(record("carriers", stored("carriers", swift["id"])))
assert (event.detail_type, event.detail["carrier"]["name"]) == ("CarrierCreated", "Swift")
from scripts import generate
assert generate.EVENTS / "CarrierCreated.json" in generate.pages()

from tests.builders import a_message, an_envelope
from app.carriers.events import handler
for name in ("table_name", "bucket_name", "event_bus_name", "kms_key_arn", "cursor_key_arn"):
    os.environ[f"APP_{name.upper()}"] = "x"
batch = {"Records": [a_message(an_envelope(event), "good"), a_message("{", "bad")]}
assert handler(batch, None) == {"batchItemFailures": [{"itemIdentifier": "bad"}]}
print("done")
"""


def test_a_field_takes_one_file_and_is_there_end_to_end(copy: Path) -> None:
    section = FIELD[1]
    assert len(changed_lines(section)) == 1
    apply(section, copy)
    said = run(copy, A_FIELD, changed_lines(section)).split()[-1]
    body = OrderCreate(customer="John Doe", product="Widget", quantity=5)
    assert said == fingerprint(body), "a replay across the deployment is still a replay"


def test_a_resource_takes_less_than_150_lines_of_python_and_works(copy: Path) -> None:
    section = RESOURCE[1]
    assert sum(count for path, count in changed_lines(section).items() if path.endswith(".py")) < 150
    apply(section, copy)
    said = run(copy, A_RESOURCE, changed_lines(section))
    assert '"ConsumerFailures":1' in said, "the bad message is counted"
    assert "done" in said


def test_a_consumer_takes_one_stack_in_the_template_and_is_whole(copy: Path) -> None:
    section = RESOURCE[1]
    assert changed_lines(section)["template.yaml"] <= 20
    apply(section, copy)
    linted = subprocess.run(
        [str(Path(sys.executable).with_name("cfn-lint")), "--regions", "eu-central-1", "-t", "template.yaml"],
        cwd=copy, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert linted.returncode == 0, linted.stdout

    root = load_template((copy / "template.yaml").read_text())
    found = {
        evaluator.resolved({"Ref": "Name"}): document["Resources"]
        for path, document, evaluator in stack_documents("template.yaml", {}, root)
        if path == "lambda/consumer.yaml"
    }
    carriers = found["carriers"]
    assert carriers.keys() == found["receipts"].keys()
    rule, function = (carriers[name]["Properties"] for name in ("Rule", "ConsumerFunction"))
    assert rule["EventPattern"] == {"source": ["orders"], "detail-type": ["CarrierCreated"]}
    assert function["FunctionName"] == "orders-dev-carriers"
    assert function["ImageConfig"]["Command"] == ["app.carriers.events.handler"]
    (policy,) = carriers["ConsumerFunctionRole"]["Properties"]["Policies"]
    rights = {statement["Sid"] for statement in policy["PolicyDocument"]["Statement"]}
    assert rights == {"WriteLog", "WriteTrace", "TakeEvents", "DecryptEvents"}, "it writes no documents"
    alarms = [each for each in carriers.values() if each["Type"] == "AWS::CloudWatch::Alarm"]
    assert all(each["Properties"]["AlarmDescription"].endswith("#carriers") for each in alarms)
