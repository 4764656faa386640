"""IAM: what a policy's conditions are compared with, when IAM is enforced (AUTH=true)."""

from __future__ import annotations

import json
from typing import Any

import ministack.app
from ministack.core import iam_actions, iam_evaluator
from ministack.services import cloudfront

from localcloud.patches import patch
from localcloud.patches.tools import replace


@patch
def loopback_as_tls() -> None:
    """AWS does: speak TLS, which `aws:SecureTransport` sees. https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-keys.html
    The emulator does: speak plain HTTP on loopback, so a policy that rejects plain HTTP rejects everything.
    Reported as: not reported.
    """

    @replace(ministack.app, "pin_request_origin")
    def pin_request_origin(original: Any, source_ip: str, secure_transport: bool) -> None:
        original(source_ip, True)


@patch
def keys_of_requests() -> None:
    """AWS does: compare kms:MacAlgorithm, events:source and events:detail-type with the request. https://docs.aws.amazon.com/kms/latest/developerguide/conditions-kms.html
    The emulator does: know none of these keys, so a policy that asks for one never applies.
    Reported as: not reported.
    """

    @replace(iam_actions, "request_tag_context")
    def context(original: Any, service: str, action: str, body: bytes, parameters: Any) -> dict[str, Any]:
        found = dict(original(service, action, body, parameters))
        if action.endswith("Mac") and service == "kms":
            found["kms:macalgorithm"] = json.loads(body).get("MacAlgorithm", "")
        if action == "events:PutEvents":
            entries = json.loads(body).get("Entries", [])
            found["events:source"] = [entry.get("Source", "") for entry in entries]
            found["events:detail-type"] = [entry.get("DetailType", "") for entry in entries]
        return found


@patch
def keys_of_uploads() -> None:
    """AWS does: compare the key's id, or that the caller brings a key, with the policy. https://docs.aws.amazon.com/AmazonS3/latest/userguide/amazon-s3-policy-keys.html
    The emulator does: know the encryption's name only.
    Reported as: not reported.
    """
    headers_of_keys = [f"x-amz-server-side-encryption-{x}" for x in ("aws-kms-key-id", "customer-algorithm")]

    @replace(iam_actions, "_s3_object_context")
    def context(original: Any, action: str, parameters: Any, path: str, headers: dict[str, str]) -> Any:
        found = original(action, parameters, path, headers)
        return {**found, **{f"s3:{name}": headers[name] for name in headers_of_keys if name in headers}}


@patch
def tags_of_distributions() -> None:
    """AWS does: compare aws:ResourceTag with the tags of the resource. https://docs.aws.amazon.com/IAM/latest/UserGuide/access_tags.html
    The emulator does: know no tags of a distribution.
    Reported as: not reported.
    """

    @replace(iam_evaluator, "enforce")
    def enforce(original: Any, *call: Any, resource_arn: str = "*", service_context: Any = None) -> Any:
        tags = {
            f"aws:ResourceTag/{tag['Key']}": tag["Value"] for tag in cloudfront._tags.get(resource_arn, [])
        }
        return original(*call, resource_arn=resource_arn, service_context={**tags, **(service_context or {})})
