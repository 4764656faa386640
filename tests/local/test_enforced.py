"""With IAM enforced, the API works with its own role's rights, and not without them.

tests/privileges shows it of each right of each role, test_flow.py of the events' way through the functions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import httpx
import pytest
from botocore.exceptions import ClientError
from localcloud.cloud import client
from localcloud.running import Emulator, running_emulator
from scripts.stack import Stack

_BODY = {"customer": "John Doe", "product": "Widget", "quantity": 5}


@pytest.fixture(scope="module")
def enforced() -> Iterator[Emulator]:
    with running_emulator(auth=True) as aws:
        yield aws


def _post(aws: Emulator) -> httpx.Response:
    return httpx.post(f"{aws.outputs['ApiUrl']}/orders", json=_BODY, timeout=60)


def test_api_fails_without_its_policy(enforced: Emulator) -> None:
    iam: Any = client(enforced.endpoint, "iam")
    ids = Stack(client(enforced.endpoint, "cloudformation"), "orders-local").ids()
    change = {"RoleName": ids["ApiFunctionRole"], "PolicyArn": ids["AppPolicy"]}
    iam.detach_role_policy(**change)
    try:
        assert _post(enforced).status_code in (500, 503)
    finally:
        iam.attach_role_policy(**change)
    assert _post(enforced).status_code == 201


@pytest.fixture(scope="module")
def put(enforced: Emulator) -> Callable[..., int]:
    """Put a document as a user who may do everything in S3; return the status of the answer."""
    iam: Any = client(enforced.endpoint, "iam")
    iam.create_user(UserName="bold")
    anything = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [anything]})
    iam.put_user_policy(UserName="bold", PolicyName="anything", PolicyDocument=policy)
    key = iam.create_access_key(UserName="bold")["AccessKey"]
    s3: Any = boto3.client(
        "s3",
        endpoint_url=enforced.endpoint,
        region_name=enforced.environ["AWS_REGION"],
        aws_access_key_id=key["AccessKeyId"],
        aws_secret_access_key=key["SecretAccessKey"],
    )
    document = {"Bucket": enforced.outputs["DocumentsBucketName"], "Key": "attachments/x", "Body": b"x"}

    def put(**encryption: str) -> int:
        try:
            answer = s3.put_object(**document, **encryption)
        except ClientError as rejected:
            answer = rejected.response
        return int(answer["ResponseMetadata"]["HTTPStatusCode"])

    return put


def test_bucket_takes_its_own_key_named_or_by_default(enforced: Emulator, put: Callable[..., int]) -> None:
    assert put() == 200
    assert put(ServerSideEncryption="aws:kms", SSEKMSKeyId=enforced.outputs["DataKeyArn"]) == 200


def test_bucket_rejects_every_other_encryption(enforced: Emulator, put: Callable[..., int]) -> None:
    kms: Any = client(enforced.endpoint, "kms")
    another = kms.create_key()["KeyMetadata"]["Arn"]
    assert put(ServerSideEncryption="AES256") == 403
    assert put(ServerSideEncryption="aws:kms", SSEKMSKeyId=another) == 403
    assert put(ServerSideEncryption="aws:kms") == 403  # that is the account's key aws/s3
    assert put(SSECustomerAlgorithm="AES256", SSECustomerKey=b"k" * 32) == 403
