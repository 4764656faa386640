"""A stack of the version before, with data in it, becomes one of this version, in both runtimes.

The version before is the last commit with all functions in the root template. A project without this one's
history, or with another name, has no stack of it. About two minutes on two cores.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from localcloud import cloud
from localcloud.running import ROOT, aws_environ
from scripts.stack import Stack
from tests.builders import AN_ORDER
from tests.local.running import until
from tests.template.templates import STATEFUL

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(900), pytest.mark.xdist_group("upgrade")]

BEFORE = "265e9867651ed8a67fd6e954feab7ff5935f3045"
ROOT_DATA = [name for path, name in STATEFUL if path == "template.yaml"]


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources of the version before."""
    if _git("rev-parse", "--is-shallow-repository") == b"true\n":
        pytest.fail("the version before is in the history: git fetch --unshallow")
    folder = tmp_path_factory.mktemp("before")
    try:
        subprocess.run(["tar", "-x", "-C", str(folder)], input=_git("archive", BEFORE), check=True)
    except subprocess.CalledProcessError:
        pytest.skip("this project's history does not have the version before")
    if not (folder / "events" / "create-order.json").exists():  # `make rename` renames it here
        pytest.skip("the version before has another name")
    return folder


def _git(*words: str) -> bytes:
    return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, check=True).stdout


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    state = tmp_path_factory.mktemp("cloud")
    try:
        yield cloud.start(state)
    finally:
        cloud.stop(state)


@pytest.mark.parametrize("runtime", ["lambda", "fargate"])
def test_nothing_is_lost_and_no_stateful_resource_is_replaced(
    endpoint: str, before: Path, runtime: str
) -> None:
    name = f"upgrade-{runtime}"
    stack = Stack(cloud.client(endpoint, "cloudformation"), name)
    outputs = cloud.deploy(endpoint, name, runtime=runtime, template=before / "template.yaml")
    cloud.wait_until_healthy(outputs["ApiUrl"])
    old = {each["LogicalResourceId"]: each["PhysicalResourceId"] for each in stack.resources()}
    with httpx.Client(base_url=outputs["ApiUrl"], timeout=60) as api:
        orders = [api.post("orders", json=AN_ORDER | {"quantity": n}).json() for n in (1, 2, 3)]
        assert api.put(f"orders/{orders[0]['id']}/status", json={"status": "shipped"}).status_code == 200
        orders[0] = api.get(f"orders/{orders[0]['id']}").json()
        for order in orders:
            until(lambda one=order: _receipt(api, one) == 303, "the receipt")
    # One that was given up; its order is none of the stream's, which the new relay reads from its beginning.
    sample = json.loads((ROOT / "events" / "receipts-order-placed.json").read_text())["Records"][0]["body"]
    key = f"receipts/{json.loads(sample)['detail']['order']['id']}.html"
    cloud.client(endpoint, "sqs").send_message(QueueUrl=old["ReceiptsDeadLetterQueue"], MessageBody=sample)

    with _orders_placed_at(outputs["ApiUrl"]) as meanwhile:
        outputs = cloud.deploy(endpoint, name, runtime=runtime)
    assert meanwhile, "orders placed during the update"
    orders += meanwhile
    cloud.wait_until_healthy(outputs["ApiUrl"])
    new = {each["LogicalResourceId"]: each["PhysicalResourceId"] for each in stack.resources()}
    assert {each: new[each] for each in ROOT_DATA} == {each: old[each] for each in ROOT_DATA}
    with httpx.Client(base_url=outputs["ApiUrl"], timeout=60) as api:
        assert [api.get(f"orders/{order['id']}").json() for order in orders] == orders
        found = api.get("orders", params={"limit": 100}).json()["items"]
        assert {each["id"] for each in found} >= {order["id"] for order in orders[-90:]}
        for order in orders:
            until(lambda one=order: _receipt(api, one) == 303, "the receipt")
        another = api.post("orders", json=AN_ORDER).json()
        until(lambda: _receipt(api, another) == 303, "the receipt of a new order")
    # The queues of the version before are still there, and what they hold finds its way.
    done = subprocess.run(
        [
            *(sys.executable, "-m", "scripts.dlq", "--stack", name, "redrive", "--yes"),
            *("--queue", "receipts", "--from-queue", old["ReceiptsDeadLetterQueue"]),
        ],
        cwd=ROOT,
        env={**os.environ, **aws_environ(endpoint), "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    documents = cloud.client(endpoint, "s3")
    until(
        lambda: documents.list_objects_v2(Bucket=new["DocumentsBucket"], Prefix=key)["KeyCount"],
        "the receipt",
    )


@contextlib.contextmanager
def _orders_placed_at(url: str) -> Iterator[list[dict[str, Any]]]:
    """Place two orders a second, up to ninety, until the block ends or nothing answers there any more."""
    placed: list[dict[str, Any]] = []
    ended = threading.Event()

    def place() -> None:
        with httpx.Client(base_url=url, timeout=60) as api:
            while not ended.wait(0.5) and len(placed) < 90:
                try:
                    answer = api.post("orders", json=AN_ORDER)
                except httpx.HTTPError:
                    return
                if answer.status_code == 201:
                    placed.append(answer.json())

    with ThreadPoolExecutor(1) as pool:
        placing = pool.submit(place)
        yield placed
        ended.set()
        placing.result()


def _receipt(api: httpx.Client, order: dict[str, Any]) -> int:
    return api.get(f"orders/{order['id']}/receipt").status_code
