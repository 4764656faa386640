"""The deployed stack that is measured: what it is called inside, and where it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from scripts.aws import origin_secret
from scripts.cli import CliError
from scripts.stack import Stack, outputs_of, parameters_of

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class EntryPoint:
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
    entry_points: tuple[EntryPoint, ...]
    consumers: Mapping[str, str] = field(default_factory=dict, hash=False)  # URL of its queue by its name

    @property
    def stage(self) -> str:
        """The parameter Stage: prod is left as it is."""
        return self.parameters.get("Stage", "")

    @property
    def workers(self) -> dict[str, str]:
        """The names of the functions behind the API: the relay's by its logical id, a consumer's by the consumer's name."""
        relay = {each: self.resources[each] for each in ("RelayFunction",) if each in self.resources}
        return relay | {each: f"{self.stack}-{each}" for each in self.consumers}

    @property
    def functions(self) -> dict[str, str]:
        """The API's function, if there is one, and the workers."""
        api = {each: self.resources[each] for each in ("ApiFunction",) if each in self.resources}
        return api | self.workers

    def entry_point(self, name: str) -> EntryPoint | None:
        """Return the address of that name, if there is one."""
        return next((entry_point for entry_point in self.entry_points if entry_point.name == name), None)


def find(session: Any, name: str) -> Target:
    """Read the stack, its nested stacks and its CDN stack. Raises CliError."""
    cloudformation = session.client("cloudformation")
    stack, edge = Stack(cloudformation, name, str), Stack(cloudformation, f"{name}-edge", str)
    found = stack.require()
    status = found["StackStatus"]
    if not status.endswith("_COMPLETE") or status in ("ROLLBACK_COMPLETE", "DELETE_COMPLETE"):
        raise CliError(f"stack {name} is {status}; measure it when no update is running")
    outputs = outputs_of(found)
    if "OrdersTableName" not in outputs:
        raise CliError(f"stack {name} is no stack of this project: it has no output OrdersTableName")
    return Target(
        name,
        cloudformation.meta.region_name,
        urlsplit(cloudformation.meta.endpoint_url).hostname in _LOOPBACK,
        parameters_of(found),
        stack.ids(),
        _entry_points(session, parameters_of(found), outputs, edge.describe() or {}),
        {each: of["QueueUrl"] for each, of in stack.consumers().items()},
    )


def _entry_points(
    session: Any, parameters: Mapping[str, str], outputs: Mapping[str, str], edge: Mapping[str, Any]
) -> tuple[EntryPoint, ...]:
    secret = parameters.get("OriginSecretArn", "")
    headers = {"X-Origin-Secret": origin_secret(session, secret)} if secret else {}
    # A load balancer's certificate names the domain, or what the CDN calls it (docs/edge.md).
    named = parameters_of(edge).get("FargateOriginName", "")
    names = {"lambda": "", "fargate": named or parameters.get("DomainName", "")}
    urls = {"lambda": outputs.get("LambdaApiUrl", ""), "fargate": outputs.get("FargateApiUrl", "")}
    limited = {"lambda": False, "fargate": bool(parameters.get("WebAclArn"))}
    entry_points = [
        EntryPoint(name, url, headers, names[name], limited[name]) for name, url in urls.items() if url
    ]
    if url := outputs_of(edge).get("EdgeUrl", ""):
        entry_points.append(EntryPoint("edge", url, limited=True))
    if not entry_points:
        raise CliError("the stack has neither output LambdaApiUrl nor FargateApiUrl; deploy it anew")
    return tuple(entry_points)
