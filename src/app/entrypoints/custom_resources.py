"""The CloudFormation custom resources of the stack, for what the templates cannot say.

`Settings`: checks the values by the application's own types, and returns them as the JSON that functions and
tasks read (`Json`), with a text that is another one whenever a value is (`Fingerprint`).
`ImageVersion`: which image, by digest, does a published function version run? SAM builds and pushes the
image for the functions; the Fargate tasks get the digest that this returns.
Source: https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/crpg-ref.html
"""

from __future__ import annotations

import hashlib
import json
import re
import urllib.request
from collections.abc import Mapping
from typing import Any

import boto3

from app.core.settings import Settings

_TIMEOUT_SECONDS = 10
_ECR_HOST = re.compile(r"^(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.")


def handler(event: Mapping[str, Any], _context: object) -> None:
    """Respond to CloudFormation, also after a failure: it would wait for the response."""
    response: dict[str, object] = {
        "StackId": event["StackId"],
        "RequestId": event["RequestId"],
        "LogicalResourceId": event["LogicalResourceId"],
        "PhysicalResourceId": event["LogicalResourceId"],  # one resource, replaced in place
        "Status": "SUCCESS",
    }
    try:
        if event["RequestType"] != "Delete":
            response["Data"] = _data(event["ResourceProperties"])
    except Exception as error:
        response |= {"Status": "FAILED", "Reason": f"{type(error).__name__}: {error}"[:1000]}
    print(json.dumps({"message": "responded", **response}))  # noqa: T201  # the function's log
    _put(event["ResponseURL"], json.dumps(response).encode())


def _data(properties: Mapping[str, Any]) -> dict[str, str]:
    if "Values" in properties:
        return settings_of(properties)
    return image_of(properties["FunctionVersionArn"])


def settings_of(properties: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings that have a value, as JSON. Raises `ValueError` for one that is not valid."""
    text = json.dumps({name: value for name, value in properties["Values"].items() if value})
    Settings.from_env({"APP_SETTINGS": text})
    all_of_it = json.dumps(properties, sort_keys=True).encode()
    return {"Json": text, "Fingerprint": hashlib.sha256(all_of_it).hexdigest()[:16]}


def image_of(version_arn: str) -> dict[str, str]:
    """Return `ImageUri` (by digest) and `RepositoryArn` of a published function version."""
    code = boto3.client("lambda").get_function(FunctionName=version_arn)["Code"]
    uri: str = code["ResolvedImageUri"]
    return {"ImageUri": uri, "RepositoryArn": repository_arn(uri, version_arn)}


def repository_arn(image_uri: str, function_arn: str) -> str:
    """Name the repository of an image, which may lie in another account than the function."""
    host, _, path = image_uri.partition("/")
    _, partition, _, region, account, *_ = function_arn.split(":")
    if found := _ECR_HOST.match(host):
        region, account = found["region"], found["account"]
    name = path.partition("@")[0].partition(":")[0]
    return f"arn:{partition}:ecr:{region}:{account}:repository/{name}"


def _put(url: str, body: bytes) -> None:
    # The address is signed for no content type, so none may be sent.
    request = urllib.request.Request(url, data=body, method="PUT", headers={"Content-Type": ""})  # noqa: S310
    urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS).close()  # noqa: S310  # CloudFormation's own address
