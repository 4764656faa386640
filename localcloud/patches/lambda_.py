"""Lambda: versions, and the containers that serve them."""

from __future__ import annotations

import random
import time
from typing import Any

from ministack.core.responses import get_account_id
from ministack.services import lambda_svc
from ministack.services.cloudformation import provisioners

from localcloud.patches import patch
from localcloud.patches.tools import HANDLERS, Properties, replace, replace_handler


@patch
def containers_of_versions() -> None:
    """AWS does: serve a published version from its own environments, whatever becomes of $LATEST. https://docs.aws.amazon.com/lambda/latest/dg/configuration-versions.html
    The emulator does: let an image's containers serve any version, and end them all, with the requests in
    them, when the function changes.
    Reported as: not reported.
    """

    @replace(lambda_svc, "_warm_pool_key")
    def warm_pool_key(original: Any, name: str, config: Properties) -> Any:
        # An update of the function ends the containers under its plain name: those of $LATEST.
        version = config.get("Version", "$LATEST")
        return original(name if version == "$LATEST" else f"{name}@{version}", config)


@patch
def weighted_aliases() -> None:
    """AWS does: route by the weights of the alias. https://docs.aws.amazon.com/lambda/latest/dg/configuring-alias-routing.html
    The emulator does: follow the alias's first version only.
    Reported as: not reported.
    """

    @replace(lambda_svc, "_effective_func_record_for_qualifier")
    def record_for_qualifier(original: Any, function: Any, qualifier: str | None) -> Any:
        alias = (function or {}).get("aliases", {}).get(qualifier, {})
        for version, weight in alias.get("RoutingConfig", {}).get("AdditionalVersionWeights", {}).items():
            if random.random() < weight:  # noqa: S311
                return original(function, version)
        return original(function, qualifier)


_NO_CONTENT = ("FunctionArn", "LastModified", "LastUpdateStatus", "RevisionId", "State", "Version")


@patch
def unchanged_versions() -> None:
    """AWS does: return the last version when code and configuration are the same; CloudFormation fails then. https://docs.aws.amazon.com/lambda/latest/api/API_PublishVersion.html
    The emulator does: compare a number that every write of the function changes, so an update that is
    rolled back counts as a change.
    Reported as: not reported.
    """

    def content(function: Any) -> Properties:
        return {k: v for k, v in function["config"].items() if not k.startswith(_NO_CONTENT)}

    def last(function: Any) -> Properties:
        found: Properties = function["versions"].get(max(function["versions"], key=int, default=""), {})
        return found

    def compare(function: Any) -> None:
        if function and last(function).get("content") == content(function):
            last(function)["function_revision"] = function["config"]["RevisionId"]

    @replace(lambda_svc, "_publish_version")
    def publish_version(original: Any, name: str, data: Any) -> Any:
        function = lambda_svc._functions.get(name)
        compare(function)
        response = original(name, data)
        if function:
            last(function).setdefault("content", content(function))
        return response

    @replace_handler("AWS::Lambda::Version", "create")
    def create(original: Any, logical_id: str, props: Properties, stack: str) -> Any:
        compare(provisioners._lambda_version_function(props)[0])
        return original(logical_id, props, stack)

    provisioners._lambda_version_create = HANDLERS["AWS::Lambda::Version"]["create"]  # its update calls it


@patch
def many_containers() -> None:
    """AWS does: let a function's environments serve side by side. https://docs.aws.amazon.com/lambda/latest/dg/lambda-concurrency.html
    The emulator does: ask Docker about every container of the function before each call, one after the
    other, while the other calls wait.
    Reported as: not reported.
    """
    trusted_seconds = 5.0  # a container that does not run is asked again at once
    ran_at: dict[str, float] = {}

    @replace(lambda_svc, "_is_container_running")
    def is_container_running(original: Any, container: Any) -> bool:
        if time.monotonic() - ran_at.get(container.id, -trusted_seconds) < trusted_seconds:
            return True
        ran_at.pop(container.id, None)
        if running := bool(original(container)):
            ran_at[container.id] = time.monotonic()
        return running


@patch
def containers_of_deleted_functions() -> None:
    """AWS does: delete a function with all its versions at once. https://docs.aws.amazon.com/lambda/latest/api/API_DeleteFunction.html
    The emulator does: keep its idle containers for minutes.
    Reported as: not reported.
    """

    @replace_handler("AWS::Lambda::Function", "delete")
    def delete(original: Any, physical_id: str, props: Properties) -> None:
        original(physical_id, props)
        # Of versions that went before it, too: here a function made again has the same name.
        for name in {key.split(":")[2] for key in list(lambda_svc._warm_pool)}:
            if name.partition("@")[0] == physical_id:
                lambda_svc._pool_kill_function(get_account_id(), name)
