"""What the commands that ask AWS share: the session, and one line for what AWS rejects."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any

import boto3
from botocore import exceptions as sdk
from botocore.config import Config
from botocore.utils import is_valid_endpoint_url
from scripts.cli import CliError, one_line

_LOG_IN = "`aws sso login`, or set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
_EXPIRED = ("ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired")
_UNKNOWN = (
    "AuthFailure",
    "IncompleteSignature",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
)
_DENIED = (
    "403",
    "AccessDenied",
    "AccessDeniedException",
    "AuthorizationError",
    "Forbidden",
    "UnauthorizedOperation",
)
_NO_STACK = re.compile(r"Stack (?:with id )?[\['\"]?([^\s\]'\"]+)[\]'\"]? does not exist")
SDK_ERRORS = (sdk.BotoCoreError, sdk.ClientError)
_SSO = (sdk.SSOError, sdk.TokenRetrievalError)  # their subclasses too: no token, or an old one


def session() -> Any:
    """Return boto3's default session, made anew in the region of AWS_REGION. Raises CliError.

    The SDKs' and tools' guide names AWS_REGION; boto3 and SAM CLI read AWS_DEFAULT_REGION only.
    https://docs.aws.amazon.com/sdkref/latest/guide/feature-region.html
    """
    region, default = os.environ.get("AWS_REGION"), os.environ.get("AWS_DEFAULT_REGION")
    if region and default and region != default:
        raise CliError(f"AWS_REGION is {region}, but AWS_DEFAULT_REGION is {default}: set them to the same")
    if wrong := wrong_endpoint(os.environ):
        raise CliError(
            f"{wrong}={os.environ[wrong]} is no address, as http://localhost:4566 is one; or unset it"
        )
    try:
        boto3.setup_default_session(region_name=region or None)
        made = boto3.DEFAULT_SESSION
        if not made.region_name:
            raise CliError("no region is set: AWS_REGION=eu-central-1, for example, or `aws configure`")
        if made.get_credentials() is None:
            raise CliError(f"no credentials were found: {_LOG_IN}")
    except sdk.BotoCoreError as error:
        raise CliError(explained(error)) from error
    return made


def origin_secret(session: Any, arn: str) -> str:
    """Return the value that CloudFront sends to its origins, from the secret of edge/template.yaml."""
    value = session.client("secretsmanager").get_secret_value(SecretId=arn)["SecretString"]
    return str(json.loads(value)["current"])


def messages_in(sqs: Any, url: str) -> int:
    """Return about how many messages a queue holds, those included that somebody has received."""
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names).get("Attributes", {})
    return sum(int(found.get(name, 0)) for name in names)


def wrong_endpoint(environ: Mapping[str, str]) -> str:
    """Return the variable that names an endpoint and holds no address, if there is one."""
    return next((n for n, url in endpoints_in(environ).items() if not is_valid_endpoint_url(url)), "")


def endpoints_in(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that name another endpoint than AWS's own."""
    return {n: url for n, url in environ.items() if n.startswith("AWS_ENDPOINT_URL") and url}


def is_denied(error: sdk.ClientError) -> bool:
    """Tell whether AWS rejected the call for want of a right."""
    return error.response.get("Error", {}).get("Code") in _DENIED


def explained(error: Exception) -> str:
    """Return one line: what is wrong, and what to do about it."""
    line = one_line(error)
    if isinstance(error, sdk.NoCredentialsError | sdk.PartialCredentialsError | sdk.CredentialRetrievalError):
        return f"{line.rstrip('.')}: {_LOG_IN}"
    if isinstance(error, sdk.NoRegionError):
        return "no region is set: AWS_REGION=eu-central-1, for example, or `aws configure`"
    if isinstance(error, sdk.ProfileNotFound):
        return f"{line}: `aws configure list-profiles` shows those there are; AWS_PROFILE chooses one"
    if isinstance(error, _SSO):
        return f"the SSO session is not there or has expired: `aws sso login{_profile()}` ({line})"
    if isinstance(error, sdk.HTTPClientError | sdk.ConnectionError):
        return f"AWS does not answer: {line} ({_where()})"
    if isinstance(error, sdk.ClientError):
        return _rejected(error, line)
    return line


def _rejected(error: sdk.ClientError, line: str) -> str:
    code = str(error.response.get("Error", {}).get("Code", ""))
    if missing := _NO_STACK.search(line):
        return f"there is no stack {missing[1]} in {_region()}: are the name and AWS_REGION right?"
    if code in _EXPIRED:
        return f"the credentials have expired: `aws sso login{_profile()}`, or get new ones ({line})"
    if code == "RequestTimeTooSkewed" or "Signature expired" in line or "Signature not yet current" in line:
        return f"the clock of this machine is wrong ({line})"
    if code in _UNKNOWN:
        return f"AWS rejects these credentials, or {_region()} is not enabled in their account ({line})"
    if is_denied(error) and "is not authorized to perform" not in line:  # which says who and what
        return f"{_who()} may not call {error.operation_name} ({line})"
    return line


def _who() -> str:
    """Return whose credentials these are."""
    quick = Config(connect_timeout=3, read_timeout=3, retries={"total_max_attempts": 1})
    try:
        return str(boto3.client("sts", config=quick).get_caller_identity()["Arn"])
    except (*SDK_ERRORS, ValueError):
        return "this identity"


def _where() -> str:
    url = next((f"{name}={value}" for name, value in endpoints_in(os.environ).items()), "")
    return (
        f"{url} is set; unset it for AWS itself" if url else f"is {_region()} a region, is there a network?"
    )


def _region() -> str:
    made = boto3.DEFAULT_SESSION
    return str(made.region_name if made else os.environ.get("AWS_REGION", ""))


def _profile() -> str:
    return f" --profile {os.environ['AWS_PROFILE']}" if os.environ.get("AWS_PROFILE") else ""
