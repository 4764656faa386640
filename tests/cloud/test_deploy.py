"""The stack in containers on the local AWS emulator, by `sam build` and `sam deploy`.

One stack lives through the whole file, in the sequence of its tests: Lambda, Fargate, a broken image, Lambda
again, gone. About four minutes on two cores.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from localcloud import cloud
from scripts.cli import CliError
from tests.local.running import until

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(420), pytest.mark.xdist_group("deploy")]

_STACK = "deploy-test"
_BODY = {"customer": "John Doe", "product": "Widget", "quantity": 5}


@dataclass
class Deployment:
    """The emulator, the stack on it, and what the tests before left in it."""

    endpoint: str
    outputs: dict[str, str] = field(default_factory=dict)
    order: dict[str, Any] = field(default_factory=dict)
    receipt: str = ""

    @property
    def url(self) -> str:
        return self.outputs["ApiUrl"]

    def deploy(self, runtime: str, **options: Any) -> None:
        self.outputs = cloud.deploy(self.endpoint, _STACK, runtime=runtime, **options)
        cloud.wait_until_healthy(self.url)

    def client(self, service: str) -> Any:
        return cloud.client(self.endpoint, service)

    def resource(self, stack: str, logical_id: str) -> str:
        """Return the physical id of a resource of the stack, or of one nested in it."""
        formation = self.client("cloudformation")
        found = formation.describe_stack_resource(StackName=stack, LogicalResourceId=logical_id)
        return str(found["StackResourceDetail"]["PhysicalResourceId"])

    def tasks(self) -> list[str]:
        """Name the containers of the running tasks."""
        names = [line.split()[0] for line in cloud.containers(self.endpoint)]
        return [name for name in names if name.startswith("ministack-ecs-")]


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    state = tmp_path_factory.mktemp("cloud")
    try:
        # Functions and tasks have the rights of their own roles, and nothing more.
        yield Deployment(cloud.start(state, auth=True))
    finally:
        cloud.stop(state)


def _walk(url: str) -> dict[str, Any]:
    """Place an order, change it, find it in the list, reject what is illegal; return it as it ended."""
    with httpx.Client(base_url=url, timeout=60) as api:
        placed = api.post("orders", json=_BODY)
        assert placed.status_code == 201
        order = placed.json()
        one = f"orders/{order['id']}"
        assert api.get(one).json() == order
        shipped = api.put(f"{one}/status", json={"status": "shipped"})
        assert shipped.json()["status"] == "shipped"
        assert api.put(f"{one}/status", json={"status": "pending"}).status_code == 409
        assert api.get("orders", params={"limit": 1}).json()["items"] == [shipped.json()]
        assert api.get("orders", params={"cursor": "garbage"}).status_code == 400
        assert api.get("orders/unknown").status_code == 404
        found: dict[str, Any] = shipped.json()
        return found


def _receipt(url: str, order_id: str) -> str:
    """Return the address of the order's receipt, which table, relay, bus, queue and function make."""
    answer = until(lambda: _redirect(f"{url}/orders/{order_id}/receipt"), "the receipt")
    assert order_id in httpx.get(answer).text
    return str(answer)


def _redirect(url: str) -> str:
    answer = httpx.get(url, timeout=60)
    assert answer.status_code in (303, 404)
    return str(answer.headers.get("location", ""))


def test_lambda_serves_the_api_and_the_event_flow(deployment: Deployment) -> None:
    deployment.deploy("lambda")
    deployment.order = _walk(deployment.url)
    _receipt(deployment.url, deployment.order["id"])
    assert httpx.get(deployment.url).json()["runtime"] == "lambda"
    assert deployment.tasks() == []


def test_sync_brings_code_to_every_function(deployment: Deployment) -> None:
    functions = deployment.client("lambda")

    def images() -> dict[str, str]:
        names = (f"{_STACK}-{name}" for name in ("api", "relay", "receipts", "custom-resources"))
        return {
            n: functions.get_function(FunctionName=n)["Code"]["ImageUri"].rpartition(":")[2] for n in names
        }

    before = images()
    cloud.sync(deployment.endpoint, _STACK)
    # `sam deploy` names the one image after one function, and `sam sync` after each.
    assert len(set(before.values())) == 1
    assert len(set(images().values())) == 4
    assert (
        httpx.get(f"{deployment.url}/orders/{deployment.order['id']}", timeout=60).json() == deployment.order
    )


def test_functions_have_their_roles_rights_and_no_others(deployment: Deployment) -> None:
    role = deployment.resource(deployment.resource(_STACK, "LambdaStack"), "ApiFunctionRole")
    _rejects_without_its_policy(deployment, role)


def _rejects_without_its_policy(deployment: Deployment, role: str) -> None:
    change = {"RoleName": role, "PolicyArn": deployment.resource(_STACK, "AppPolicy")}
    deployment.client("iam").detach_role_policy(**change)
    try:
        assert httpx.post(f"{deployment.url}/orders", json=_BODY, timeout=60).status_code >= 500
    finally:
        deployment.client("iam").attach_role_policy(**change)
    assert httpx.get(f"{deployment.url}/orders/{deployment.order['id']}", timeout=60).status_code == 200


def test_fargate_serves_the_same_orders_from_the_same_image(deployment: Deployment) -> None:
    deployment.deploy("fargate", build=False)
    assert httpx.get(deployment.url).json()["runtime"] == "fargate"
    assert httpx.get(f"{deployment.url}/orders/{deployment.order['id']}").json() == deployment.order
    order = _walk(deployment.url)
    _receipt(deployment.url, order["id"])

    code = deployment.client("lambda").get_function(FunctionName=f"{_STACK}-relay")["Code"]
    assert deployment.outputs["ImageUri"] == code["ResolvedImageUri"]
    wanted = deployment.outputs["ImageUri"]
    (tasks,) = {tuple(_digests(name)) for name in until(deployment.tasks, "the tasks")}
    assert wanted in tasks


def _digests(container: str) -> list[str]:
    image = _docker("inspect", "--format", "{{.Image}}", container)
    found: list[str] = json.loads(_docker("inspect", "--format", "{{json .RepoDigests}}", image))
    return found


def _docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True, timeout=120)
    return done.stdout.strip()


def test_every_task_answers(deployment: Deployment) -> None:
    tasks = deployment.tasks()
    assert len(tasks) == 2

    def all_answered() -> bool:
        assert httpx.get(f"{deployment.url}/orders/not-there").status_code == 404
        return all("not-there" in _docker("logs", name) for name in tasks)

    until(all_answered, "a request to each task")


def test_tasks_have_their_roles_rights_and_no_others(deployment: Deployment) -> None:
    role = deployment.resource(deployment.resource(_STACK, "FargateStack"), "TaskRole")
    _rejects_without_its_policy(deployment, role)


def test_image_that_cannot_start_is_taken_back(deployment: Deployment, tmp_path: Path) -> None:
    image = deployment.outputs["ImageUri"]
    (tmp_path / "Dockerfile").write_text(f'FROM {image}\nCMD ["python", "-c", "raise SystemExit(1)"]\n')
    broken = "customresourcesfunction:broken"
    _docker("build", "--quiet", "--tag", broken, str(tmp_path))
    try:
        with pytest.raises(CliError):
            cloud.deploy(deployment.endpoint, _STACK, runtime="fargate", build=False, image=broken)
    finally:
        _docker("rmi", broken)
    stack = cloud.describe(deployment.endpoint, _STACK)
    assert stack is not None
    assert stack["StackStatus"] == "UPDATE_ROLLBACK_COMPLETE"
    assert cloud.stack_outputs(stack)["ImageUri"] == image
    assert httpx.get(f"{deployment.url}/orders/{deployment.order['id']}").json() == deployment.order
    # The way back takes a new revision of the task definition, so the tasks are others in the end.
    until(lambda: len(deployment.tasks()) == 2, "two tasks")
    assert all(image in _digests(name) for name in deployment.tasks())


def test_lambda_again_has_every_order_and_no_task(deployment: Deployment) -> None:
    deployment.deploy("lambda", build=False)
    assert httpx.get(deployment.url, timeout=60).json()["runtime"] == "lambda"
    assert httpx.get(f"{deployment.url}/orders/{deployment.order['id']}").json() == deployment.order
    assert len(httpx.get(f"{deployment.url}/orders").json()["items"]) == 2
    until(lambda: not deployment.tasks(), "no tasks")


def test_delete_leaves_the_data_and_no_container(deployment: Deployment) -> None:
    formation = deployment.client("cloudformation")
    formation.delete_stack(StackName=_STACK)
    until(lambda: cloud.describe(deployment.endpoint, _STACK) is None, "no stack")
    table = deployment.client("dynamodb")
    key = {"pk": {"S": f"order#{deployment.order['id']}"}}
    assert "Item" in table.get_item(TableName=deployment.outputs["OrdersTableName"], Key=key)
    documents = deployment.client("s3")
    receipt = f"receipts/{deployment.order['id']}.html"
    assert documents.head_object(Bucket=deployment.outputs["DocumentsBucketName"], Key=receipt)
    until(lambda: cloud.containers(deployment.endpoint) == [], "no container")
