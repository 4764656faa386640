"""ECS: services and tasks of a template."""

from __future__ import annotations

import hashlib
import os
import time
from typing import Any

from ministack.core.responses import get_account_id, get_region
from ministack.services import ecs, sts
from ministack.services.cloudformation import provisioners, stacks

from localcloud.patches import patch
from localcloud.patches.tools import Properties, add_type, replace, replace_handler, result

_STABLE_SECONDS = 180
_NUMBERS = {
    *("Base", "ContainerPort", "DesiredCount", "HardLimit", "HealthCheckGracePeriodSeconds", "HostPort"),
    *("Interval", "MaximumPercent", "MinimumHealthyPercent", "Retries", "SoftLimit", "StartPeriod"),
    *("Timeout", "Weight"),
}


@patch
def scaling_targets() -> None:
    """AWS does: bring the tasks within the bounds at registration, and scale them by its policies. https://docs.aws.amazon.com/autoscaling/application/APIReference/API_RegisterScalableTarget.html
    The emulator does: reject the type, and has no such service.
    Reported as: not reported.
    Here nothing scales the tasks after that.
    """

    def keep_bounds(props: Properties) -> None:
        kind, _, rest = props["ResourceId"].partition("/")
        if kind != "service":
            return
        cluster, _, service = rest.partition("/")
        found = result(ecs._describe_services({"cluster": cluster, "services": [service]}))
        present = found["services"][0]["desiredCount"]
        wanted = min(max(present, int(props["MinCapacity"])), int(props["MaxCapacity"]))
        if wanted != present:
            result(ecs._update_service({"cluster": cluster, "service": service, "desiredCount": wanted}))

    def create(logical_id: str, props: Properties, stack: str) -> Any:
        keep_bounds(props)
        physical_id = "|".join(
            props[name] for name in ("ResourceId", "ScalableDimension", "ServiceNamespace")
        )
        return physical_id, {"Id": physical_id}

    def update(physical_id: str, old: Properties, new: Properties, stack: str, logical_id: str) -> Any:
        keep_bounds(new)
        return physical_id, {"Id": physical_id}

    add_type("AWS::ApplicationAutoScaling::ScalableTarget", create, update=update)


@patch
def numbers() -> None:
    """AWS does: take a reference to a parameter of type Number for a number. https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/parameters-section-structure.html
    The emulator does: hand on text, which its ECS then subtracts from a number.
    Reported as: not reported.
    """

    def with_numbers(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: with_numbers(item, name) for name, item in value.items()}
        if isinstance(value, list):
            return [with_numbers(item, key) for item in value]
        return int(value) if key in _NUMBERS and isinstance(value, str) and value.isdigit() else value

    for resource_type in ("AWS::ECS::Service", "AWS::ECS::TaskDefinition"):

        @replace_handler(resource_type, "create", "update")
        def handle(original: Any, *args: Any) -> Any:
            return original(*(with_numbers(argument) for argument in args))


@patch
def secrets() -> None:
    """AWS does: put the values of `Secrets` into a container's environment. https://docs.aws.amazon.com/AmazonECS/latest/developerguide/specifying-sensitive-data.html
    The emulator does: the same by API, but does not understand the spelling of a template.
    Reported as: https://github.com/ministackorg/ministack/issues/918, which is fixed by API.
    """

    @replace(provisioners, "_normalize_container_defs")
    def normalize_container_defs(original: Any, definitions: list[Properties]) -> Any:
        containers = original(definitions)
        for container in containers:
            container["secrets"] = provisioners._pascal_to_camel(container.get("secrets", []))
        return containers


@patch
def stable_services() -> None:
    """AWS does: wait for the deployment, which the circuit breaker may fail. https://docs.aws.amazon.com/AmazonECS/latest/developerguide/deployment-circuit-breaker.html
    The emulator does: complete the resource at once.
    Reported as: not reported.
    """

    @replace(stacks, "_runs_on_worker_thread")
    def runs_on_worker_thread(original: Any, resource_type: str) -> bool:
        return resource_type == "AWS::ECS::Service" or original(resource_type)

    @replace_handler("AWS::ECS::Service", "create", "update")
    def handle(original: Any, *args: Any) -> Any:
        arn, attributes = original(*args)
        cluster, name = arn.split("/")[-2:]
        deployment = ecs._primary_deployment(ecs._services[f"{cluster}/{name}"])
        deadline = time.monotonic() + _STABLE_SECONDS
        while deployment["rolloutState"] == "IN_PROGRESS" and time.monotonic() < deadline:
            time.sleep(0.1)
        if deployment["rolloutState"] != "COMPLETED":
            reason = deployment.get("rolloutStateReason") or "no answer in time"
            raise ValueError(f"The service did not become stable: {reason}")
        return arn, attributes


@patch
def task_credentials() -> None:
    """AWS does: serve the role's credentials to the task, and set its region. https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-iam-roles.html
    The emulator does: set no region, and serve credentials that are not the role's, from an address that
    botocore rejects.
    Reported as: https://github.com/ministackorg/ministack/pull/634, which added that address.
    """

    @replace(ecs, "_register_metadata")
    def register_metadata(
        original: Any,
        task: str,
        cluster: str,
        definition: Properties,
        container: Any,
        kind: Any,
        env: Any,
        *rest: Any,
    ) -> Any:
        from ministack.app import AUTH

        token = original(task, cluster, definition, container, kind, env, *rest)
        # The address of this machine as a container reaches it.
        endpoint = os.environ["AWS_ENDPOINT_URL"].replace("//127.0.0.1:", "//host.docker.internal:")
        env["AWS_ENDPOINT_URL"] = endpoint
        env.setdefault("AWS_REGION", get_region())
        env.setdefault("AWS_DEFAULT_REGION", get_region())
        for name in ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN"):
            env.pop(name, None)
        if AUTH and definition.get("taskRoleArn"):
            env.update(_role_session(definition["taskRoleArn"], task.rsplit("/", 1)[-1]))
        elif not AUTH:
            env.update(AWS_ACCESS_KEY_ID=get_account_id(), AWS_SECRET_ACCESS_KEY="test")  # noqa: S106
        return token


def _role_session(role: str, session: str) -> dict[str, str]:
    """Register a session of the role with STS, and return its credentials as variables."""
    account, name = role.split(":")[4], role.rsplit("/", 1)[-1]
    seed = hashlib.sha256(f"{role}:{session}".encode()).hexdigest()
    keys = {
        "AWS_ACCESS_KEY_ID": f"ASIA{seed[:16].upper()}",
        "AWS_SECRET_ACCESS_KEY": hashlib.sha256(f"secret:{seed}".encode()).hexdigest(),
        "AWS_SESSION_TOKEN": hashlib.sha256(f"token:{seed}".encode()).hexdigest(),
    }
    identity = {
        "Arn": f"arn:aws:sts::{account}:assumed-role/{name}/{session}",
        "UserId": f"{name}:{session}",
        "SecretAccessKey": keys["AWS_SECRET_ACCESS_KEY"],
        "SessionToken": keys["AWS_SESSION_TOKEN"],
    }
    sts.register_session(keys["AWS_ACCESS_KEY_ID"], identity)
    return keys


@patch
def task_limits() -> None:
    """AWS does: end a container that exceeds `memory`, and mount its root read-only. https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_ContainerDefinition.html
    The emulator does: ignore both.
    Reported as: not reported.
    """

    @replace(ecs, "_build_run_kwargs")
    def build_run_kwargs(original: Any, container: Properties, definition: Properties, *rest: Any) -> Any:
        options = original(container, definition, *rest)
        if memory_mb := container.get("memory") or definition.get("memory"):
            options["mem_limit"] = f"{int(memory_mb)}m"
        if container.get("readonlyRootFilesystem"):
            options["read_only"] = True
        return options
