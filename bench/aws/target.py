"""The deployed stack that is measured: what it is called inside, and where it answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from scripts.delivery.stack import Stack, outputs_of, parameters_of

WORKERS = ("RelayFunction", "ReceiptsFunction")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class CannotMeasure(Exception):
    """Why nothing, or nothing more, is measured; the message is one line."""


@dataclass(frozen=True)
class Door:
    """One address of the API: `lambda`, `fargate` or `edge`."""

    name: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, hash=False)
    server_name: str = ""  # in its certificate, where that is not the host's
    limited: bool = False  # by the rate of a web ACL, waf/template.yaml


@dataclass(frozen=True)
class Target:
    """The stack by its parts. `resources` are physical ids by logical id, also of nested stacks."""

    stack: str
    region: str
    local: bool
    parameters: Mapping[str, str]
    resources: Mapping[str, str]
    doors: tuple[Door, ...]

    @property
    def stage(self) -> str:
        """The parameter Stage: prod is left as it is."""
        return self.parameters.get("Stage", "")

    @property
    def functions(self) -> dict[str, str]:
        """The function's name by its logical id, as far as the stack has them."""
        return {each: self.resources[each] for each in ("ApiFunction", *WORKERS) if each in self.resources}

    def door(self, name: str) -> Door | None:
        """Return the address of that name, if there is one."""
        return next((door for door in self.doors if door.name == name), None)


def find(session: Any, name: str) -> Target:
    """Read the stack, its nested stacks and its edge. Raises `CannotMeasure`."""
    cloudformation = session.client("cloudformation")
    stack, edge = Stack(cloudformation, name, str), Stack(cloudformation, f"{name}-edge", str)
    found = stack.describe()
    if found is None:
        where = cloudformation.meta.region_name
        raise CannotMeasure(
            f"there is no stack {name} in {where}; STACK=orders-dev names it, AWS_REGION its region"
        )
    status = found["StackStatus"]
    if not status.endswith("_COMPLETE") or status in ("ROLLBACK_COMPLETE", "DELETE_COMPLETE"):
        raise CannotMeasure(f"stack {name} is {status}; measure it when it stands still")
    outputs = outputs_of(found)
    if "OrdersTableName" not in outputs:
        raise CannotMeasure(f"stack {name} is no stack of this project: it has no output OrdersTableName")
    return Target(
        name,
        cloudformation.meta.region_name,
        urlsplit(cloudformation.meta.endpoint_url).hostname in _LOOPBACK,
        parameters_of(found),
        {each["LogicalResourceId"]: each.get("PhysicalResourceId", "") for each in stack.resources()},
        _doors(session, parameters_of(found), outputs, edge.describe() or {}),
    )


def _doors(
    session: Any, parameters: Mapping[str, str], outputs: Mapping[str, str], edge: Mapping[str, Any]
) -> tuple[Door, ...]:
    secret = parameters.get("OriginSecretArn", "")
    headers = {"X-Origin-Secret": _secret(session, secret)} if secret else {}
    # A load balancer's certificate names the domain, or what the edge calls it (docs/edge.md).
    named = parameters_of(edge).get("FargateOriginName", "")
    names = {"lambda": "", "fargate": named or parameters.get("DomainName", "")}
    urls = {"lambda": outputs.get("LambdaApiUrl", ""), "fargate": outputs.get("FargateApiUrl", "")}
    limited = {"lambda": False, "fargate": bool(parameters.get("WebAclArn"))}
    doors = [Door(name, url, headers, names[name], limited[name]) for name, url in urls.items() if url]
    if url := outputs_of(edge).get("EdgeUrl", ""):
        doors.append(Door("edge", url, limited=True))
    if not doors:
        raise CannotMeasure("the stack has neither output LambdaApiUrl nor FargateApiUrl; deploy it anew")
    return tuple(doors)


def _secret(session: Any, arn: str) -> str:
    value = session.client("secretsmanager").get_secret_value(SecretId=arn)["SecretString"]
    return str(json.loads(value)["current"])
