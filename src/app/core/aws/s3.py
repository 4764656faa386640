"""The client of S3."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from app.core.aws.credentials import CredentialsChain
from app.core.aws.endpoints import is_of_aws
from app.core.aws.sdk_client import MakeClient, SdkClient


def s3_client(credentials: CredentialsChain | None = None) -> SdkClient:
    """Return a client whose links lead to the bucket's own region."""
    return SdkClient("s3", credentials, _configure)


def _configure(make: MakeClient) -> Any:
    client = _addressed(make, "virtual")
    # A local S3 has no host for each bucket.
    return client if is_of_aws(f"{urlsplit(client.meta.endpoint_url).hostname}") else _addressed(make, "path")


def _addressed(make: MakeClient, style: str) -> Any:
    return make(
        signature_version="s3v4",  # KMS asks for it
        # Or us-east-1 had the host BUCKET.s3.amazonaws.com, to which edge/ lets no console go.
        # https://docs.aws.amazon.com/sdkref/latest/guide/feature-s3-regional-endpoint.html
        s3={"addressing_style": style, "us_east_1_regional_endpoint": "regional"},
    )
