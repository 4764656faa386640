"""A client for AWS services that speak JSON over one POST: DynamoDB and KMS.

`call(operation, request)` takes and returns the service's wire format. It signs, sends over pooled TLS
connections, and retries lost connections, responses that are late, cut short or garbled, throttling
and 5xx, with full jitter, inside a deadline and a budget. The first try of a retried call may have
been carried out: writes carry a `write_id`, so that `DynamoRepository` knows its own.

Why not an SDK: `docs/decisions/` has the figures. What it does not do (proxies, profiles with endpoints)
is left to `boto3_client.py`, which gives the same contract over the SDK: `endpoints.py` says when.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from app.core import telemetry
from app.core.aws.client import CREDENTIALS_REJECTED, KEY_UNUSABLE, THROTTLES, AwsCallError
from app.core.aws.credentials import Credentials, CredentialsChain
from app.core.aws.endpoints import endpoint_of
from app.core.aws.http1 import Pool, Response
from app.core.aws.sigv4 import Signer
from app.core.errors import DependencyUnavailable

ATTEMPTS = 4
ATTEMPT_SECONDS = 2.0  # DynamoDB's 99.9th percentile is tens of milliseconds
DEADLINE_SECONDS = 6.0  # for the whole call: far inside the 30 s of an HTTP API
BACKOFF_SECONDS = 0.025  # doubles with every attempt; the wait is random below it
BUDGET = 100  # what retries may spend; a first success earns 1 back
RETRY_COST = 5


class AwsJsonClient:
    """One service in one region. Made once per process; its connections outlive a Lambda invocation."""

    def __init__(
        self,
        service: str,
        target_prefix: str,
        *,
        json_version: str = "1.0",
        endpoint: tuple[str, str] | None = None,
        credentials: CredentialsChain | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        address, region = endpoint or endpoint_of(service, environ)
        url = urlsplit(address)
        self.service = service
        self._prefix = target_prefix
        self._pool = Pool(url, environ)
        self._signer = Signer(
            service, region, url.netloc, url.path or "/", f"application/x-amz-json-{json_version}"
        )
        self._credentials = credentials or CredentialsChain(environ)
        self._decoders: dict[Any, msgspec.json.Decoder[Any]] = {}
        self._encode = msgspec.json.Encoder().encode
        self._budget = BUDGET

    async def call(self, operation: str, request: dict[str, Any], response_type: type[Any] = dict) -> Any:
        """Call the operation, and retry errors that may pass."""
        decoder = self._decoders.get(response_type) or self._decoders.setdefault(
            response_type, msgspec.json.Decoder(response_type)
        )
        target = f"{self._prefix}.{operation}"
        body = self._encode(request)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + DEADLINE_SECONDS
        last_error: Exception | None = None
        replaced_in: int | None = None  # the attempt after which the call was to be signed anew
        for attempt in range(ATTEMPTS):
            if (
                attempt and replaced_in != attempt - 1
            ):  # which costs nothing: no retry drains the budget for it
                wait = random.uniform(0, BACKOFF_SECONDS * 2**attempt)  # noqa: S311 - jitter, not a secret
                if self._budget < RETRY_COST or loop.time() + wait >= deadline:
                    break
                self._budget -= RETRY_COST
                await asyncio.sleep(wait)
            try:
                credentials = self._credentials.current or await self._renewed(deadline)
                head = self._signer.head(target, body, credentials)
                attempt_ends = min(loop.time() + ATTEMPT_SECONDS, deadline)
                response = await self._pool.exchange(head + body, attempt_ends)
                if response.status == 200:
                    result = decoder.decode(response.body)
                    if not attempt and self._budget < BUDGET:
                        self._budget += 1
                    return result
                last_error = error = parse_error(response)
            except msgspec.ValidationError:  # whole, but not of this type: so it would be the next time
                raise
            except (OSError, msgspec.DecodeError, UnicodeDecodeError) as failed:
                last_error = failed
                continue
            if error.code in CREDENTIALS_REJECTED:
                if replaced_in is not None:
                    raise DependencyUnavailable("credentials") from error
                await self._replace(credentials, error, deadline)
                replaced_in = attempt
            else:
                self._raise_unless_retryable(error, response.status)
        raise DependencyUnavailable(self.service) from last_error

    def _raise_unless_retryable(self, error: AwsCallError, status: int) -> None:
        """Return if another attempt may succeed. Raises `error` otherwise."""
        if error.code in THROTTLES:
            telemetry.add_metric("Throttles")
        elif error.code in KEY_UNUSABLE:
            raise DependencyUnavailable(self.service) from error
        elif status < 500:
            raise error

    async def _renewed(self, deadline: float) -> Credentials:
        try:
            async with asyncio.timeout_at(deadline):
                return await self._credentials.renew()
        except TimeoutError as late:
            raise DependencyUnavailable("credentials") from late

    async def _replace(self, credentials: Credentials, error: AwsCallError, deadline: float) -> None:
        """Return if another try makes sense: with other keys, or with fixed ones at another time."""
        try:
            async with asyncio.timeout_at(deadline):
                await self._credentials.replace(credentials)
        except (TimeoutError, DependencyUnavailable):
            raise DependencyUnavailable("credentials") from error

    def close(self) -> None:
        """Drop the idle connections; a call after this opens new ones."""
        self._pool.close()


class ErrorResponse(msgspec.Struct):
    """The body of a response that is not 200. Services use either spelling of the message."""

    code: str = msgspec.field(default="", name="__type")
    message: str | None = None
    Message: str | None = None
    item: dict[str, Any] | None = msgspec.field(default=None, name="Item")


def parse_error(response: Response) -> AwsCallError:
    """Parse the error in a response that is not 200.

    Raises `ConnectionError`, which is retried, for what no service of AWS sends.
    """
    if response.status < 400:  # a redirect, or a success without a body, is no response of these services
        raise ConnectionError(f"status {response.status} is none of the service's")
    # Load balancers and proxies on the way send errors of their own in HTML
    try:
        is_json = response.body.startswith(b"{")
        found = msgspec.json.decode(response.body, type=ErrorResponse) if is_json else ErrorResponse()
    except msgspec.ValidationError as garbage:
        raise ConnectionError(f"not an error of AWS: {garbage}") from garbage
    code = found.code.rpartition("#")[2] or str(response.status)
    return AwsCallError(code, found.message or found.Message or "", found.item)
