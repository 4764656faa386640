"""Deploy a template to the emulator through CloudFormation, without SAM CLI and without Docker.

Stands in for `sam build` and `sam deploy`: nested templates given by a local path are uploaded, and
functions built from an image get a placeholder `ImageUri` (`patches/images.py` runs their command directly).
The transform, parameters, conditions, changes and rollback are CloudFormation's.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import botocore.session
import yaml
from botocore.exceptions import ClientError
from ministack.services.cloudformation.engine import CfnLoader
from scripts.cli import CliError

PLACEHOLDER_IMAGE = "local/orders:source"
ARTIFACTS_BUCKET = "localcloud-artifacts"
_CAPABILITIES = ["CAPABILITY_IAM", "CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"]


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """ministack's loader of templates on libyaml, which is several times as fast."""

    yaml_constructors = CfnLoader.yaml_constructors
    yaml_multi_constructors = CfnLoader.yaml_multi_constructors


def deploy(
    endpoint: str, template: Path, stack: str, parameters: dict[str, str], progress: Callable[[str], None]
) -> dict[str, Any]:
    """Create or update `stack`; return its outputs, its resources and the app's environment."""
    session = botocore.session.Session()
    connect = {"endpoint_url": endpoint, "region_name": "us-east-1"}
    cloudformation = session.create_client("cloudformation", **connect)
    s3 = session.create_client("s3", **connect)
    s3.create_bucket(Bucket=ARTIFACTS_BUCKET)

    def upload(body: str) -> str:
        key = hashlib.sha256(body.encode()).hexdigest()[:32] + ".template"
        s3.put_object(Bucket=ARTIFACTS_BUCKET, Key=key, Body=body.encode())
        return f"{endpoint}/{ARTIFACTS_BUCKET}/{key}"

    request = {
        "StackName": stack,
        "TemplateURL": upload(_package(template, upload)),
        "Parameters": [{"ParameterKey": k, "ParameterValue": v} for k, v in parameters.items()],
        "Capabilities": _CAPABILITIES,
    }
    status = _status(cloudformation, stack)
    if status in ("CREATE_FAILED", "ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "DELETE_FAILED"):
        cloudformation.delete_stack(StackName=stack)
        _wait(cloudformation, stack, progress)
        status = ""
    try:
        (cloudformation.update_stack if status else cloudformation.create_stack)(**request)
    except ClientError as error:
        if "No updates are to be performed" not in str(error):
            raise CliError(error.response["Error"]["Message"]) from error
    _wait(cloudformation, stack, progress)
    status = _status(cloudformation, stack)
    if status not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
        raise CliError(f"{status}: {_reason(cloudformation, stack)}")
    (described,) = cloudformation.describe_stacks(StackName=stack)["Stacks"]
    resources = {
        r["LogicalResourceId"]: r["PhysicalResourceId"]
        for r in cloudformation.describe_stack_resources(StackName=stack)["StackResources"]
    }
    outputs = {o["OutputKey"]: o["OutputValue"] for o in described.get("Outputs", [])}
    environment = {}
    if "RelayStack" in resources:  # tests deploy other templates, too
        functions = session.create_client("lambda", **connect)
        relay = functions.get_function_configuration(FunctionName=f"{stack}-relay")
        environment["APP_SETTINGS"] = relay["Environment"]["Variables"]["APP_SETTINGS"]
    return {
        "outputs": outputs,
        "resources": resources,
        "environment": environment,
    }


def fingerprint(template: Path, parameters: dict[str, str]) -> str:
    """Return what changes whenever a deployment would."""
    bodies: list[str] = []
    bodies.append(_package(template, lambda body: bodies.append(body) or "url"))  # type: ignore[func-returns-value]
    return hashlib.sha256(json.dumps([bodies, parameters]).encode()).hexdigest()


def _package(template: Path, upload: Callable[[str], str]) -> str:
    document = yaml.load(template.read_text(), Loader=_Loader)  # noqa: S506  # safe, with CFN's tags
    for resource in document["Resources"].values():
        properties = resource.get("Properties", {})
        if resource["Type"] == "AWS::CloudFormation::Stack":
            nested = template.parent / str(properties["TemplateURL"])
            properties["TemplateURL"] = upload(_package(nested, upload))
        elif resource["Type"] == "AWS::Serverless::Function" and "Dockerfile" in resource.get("Metadata", {}):
            properties.setdefault("ImageUri", PLACEHOLDER_IMAGE)
    return json.dumps(document, default=str)


def _status(cloudformation: Any, stack: str) -> str:
    try:
        found = cloudformation.describe_stacks(StackName=stack)["Stacks"]
    except ClientError:
        return ""
    return str(found[0]["StackStatus"]) if found else ""


def _wait(cloudformation: Any, stack: str, progress: Callable[[str], None]) -> None:
    shown: set[str] = set()
    deadline = time.monotonic() + 300
    while True:
        running = _status(cloudformation, stack).endswith("_IN_PROGRESS")
        for event in _events(cloudformation, stack):
            name = event["LogicalResourceId"]
            if event["ResourceStatus"].endswith("_COMPLETE") and name not in shown and name != stack:
                shown.add(name)
                progress(f"{name} ({event['ResourceType']})")
        if not running:
            return
        if time.monotonic() > deadline:
            raise CliError("no answer from CloudFormation after 300 s")
        time.sleep(0.1)


def _events(cloudformation: Any, stack: str) -> Iterator[dict[str, Any]]:
    try:
        yield from cloudformation.describe_stack_events(StackName=stack)["StackEvents"]
    except ClientError:
        return


def _reason(cloudformation: Any, stack: str) -> str:
    """Return the first failure: the ones after it only follow from it."""
    failed = [e for e in _events(cloudformation, stack) if e["ResourceStatus"].endswith("_FAILED")]
    if not failed:
        return "no reason given"
    first = min(failed, key=lambda e: e["Timestamp"])
    return f"{first['LogicalResourceId']}: {first.get('ResourceStatusReason', 'no reason given')}"
