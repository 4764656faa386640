"""What the commands that ask AWS have in common: arguments, the session, one line for what goes wrong."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NoReturn

import boto3
from botocore import exceptions as sdk
from botocore.config import Config
from botocore.utils import is_valid_endpoint_url

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
_SSO = (sdk.SSOError, sdk.TokenRetrievalError)  # their subclasses too: no token, or an old one


class Arguments(argparse.ArgumentParser):
    """A parser that says in one line what is wrong, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def stack_of(text: str) -> str:
    """Read the name of a stack."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a stack: give one, as in STACK=orders-dev")
    return text


def moment_of(text: str) -> datetime:
    """Read a moment, with or without a zone."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no moment, as 2026-11-22T10:00:00Z is one") from None


class NotReady(Exception):
    """AWS cannot be asked from here; the message is one line that says what to do."""


def session() -> Any:
    """Return boto3's default session, made anew in the region of AWS_REGION. Raises NotReady.

    The SDKs' and tools' guide names AWS_REGION; boto3 and SAM CLI read AWS_DEFAULT_REGION only.
    https://docs.aws.amazon.com/sdkref/latest/guide/feature-region.html
    """
    region, default = os.environ.get("AWS_REGION"), os.environ.get("AWS_DEFAULT_REGION")
    if region and default and region != default:
        raise NotReady(f"AWS_REGION is {region}, but AWS_DEFAULT_REGION is {default}: set them to the same")
    if wrong := wrong_endpoint(os.environ):
        raise NotReady(
            f"{wrong}={os.environ[wrong]} is no address, as http://localhost:4566 is one; or unset it"
        )
    try:
        boto3.setup_default_session(region_name=region or None)
        made = boto3.DEFAULT_SESSION
        if not made.region_name:
            raise NotReady("no region is set: AWS_REGION=eu-central-1, for example, or `aws configure`")
        if made.get_credentials() is None:
            raise NotReady(f"no credentials were found: {_LOG_IN}")
    except sdk.BotoCoreError as error:
        raise NotReady(explained(error)) from error
    return made


def wrong_endpoint(environ: Mapping[str, str]) -> str:
    """Return the variable that names an endpoint and holds no address, if there is one."""
    return next((n for n, url in endpoints_in(environ).items() if not is_valid_endpoint_url(url)), "")


def endpoints_in(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that name another endpoint than AWS's own."""
    return {n: url for n, url in environ.items() if n.startswith("AWS_ENDPOINT_URL") and url}


def reported(name: str, command: Callable[[], int], *problems: type[Exception]) -> int:
    """Run a command; return its exit code. What stops it is one line on standard error, after `name`.

    `problems` are the errors whose message is such a line already.
    """
    try:
        return command()
    except KeyboardInterrupt:
        print(f"{name}: interrupted; run it again, it goes on from what is there", file=sys.stderr)
        return 130
    except (NotReady, *problems) as problem:
        print(f"{name}: {one_line(problem)}", file=sys.stderr)
    except (sdk.BotoCoreError, sdk.ClientError) as problem:
        print(f"{name}: {explained(problem)}", file=sys.stderr)
    return 1


def one_line(text: object) -> str:
    """Return a text, or an error's, without its line breaks."""
    return " ".join(str(text).split())


def is_denied(error: sdk.ClientError) -> bool:
    """Tell whether AWS refused the call for want of a right."""
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
        return _refused(error, line)
    return line


def _refused(error: sdk.ClientError, line: str) -> str:
    code = str(error.response.get("Error", {}).get("Code", ""))
    if missing := _NO_STACK.search(line):
        return f"there is no stack {missing[1]} in {_region()}: are the name and AWS_REGION right?"
    if code in _EXPIRED:
        return f"the credentials have expired: `aws sso login{_profile()}`, or get new ones ({line})"
    if code == "RequestTimeTooSkewed" or "Signature expired" in line or "Signature not yet current" in line:
        return f"the clock of this machine is wrong ({line})"
    if code in _UNKNOWN:
        return f"AWS refuses these credentials, or {_region()} is not enabled in their account ({line})"
    if is_denied(error) and "is not authorized to perform" not in line:  # which says who and what
        return f"{_who()} may not call {error.operation_name} ({line})"
    return line


def _who() -> str:
    """Return whose credentials these are."""
    quick = Config(connect_timeout=3, read_timeout=3, retries={"total_max_attempts": 1})
    try:
        return str(boto3.client("sts", config=quick).get_caller_identity()["Arn"])
    except (sdk.BotoCoreError, sdk.ClientError, ValueError):
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
