"""An `AwsClient` over boto3 in worker threads, for settings that the JSON client does not honour.

`endpoints.py` says when, and `tests/contract/test_aws_client.py` holds both to one contract. One thing stays
botocore's: without a checksum (DynamoDB sends one, KMS does not) it takes a response that was cut short for
an empty one.
"""

from __future__ import annotations

import asyncio
import base64
import functools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
import msgspec
from botocore import xform_name
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from app.core import telemetry
from app.core.aws.client import CREDENTIALS_REJECTED, KEY_UNUSABLE, THROTTLES, AwsCallError
from app.core.aws.endpoints import region_for_sdk
from app.core.aws.json_client import ATTEMPT_SECONDS, ATTEMPTS, DEADLINE_SECONDS
from app.core.errors import DependencyUnavailable

MAX_CONNECTIONS = 64


class Boto3Client:
    """One boto3 client; `call` runs it in threads that are for nothing else.

    Raises `ValueError` when the SDK cannot follow the settings.
    """

    def __init__(self, service: str) -> None:
        config = Config(
            connect_timeout=1,
            read_timeout=ATTEMPT_SECONDS,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            max_pool_connections=MAX_CONNECTIONS,
        )
        self._threads = ThreadPoolExecutor(MAX_CONNECTIONS, service)
        self._service = service
        try:
            self._client: Any = boto3.client(  # type: ignore[call-overload]
                service, region_name=region_for_sdk(), config=config
            )
        except BotoCoreError as error:
            raise ValueError(str(error)) from error

    async def call(self, operation: str, request: dict[str, Any], response_type: type[Any] = dict) -> Any:
        """Call the operation in a thread."""
        method = getattr(self._client, xform_name(operation))
        try:
            run = functools.partial(method, **_bytes_in(request))
            async with asyncio.timeout(DEADLINE_SECONDS):
                response: dict[str, Any] = await asyncio.wrap_future(self._threads.submit(run))
        except ClientError as error:  # botocore has retried what may pass
            details: dict[str, Any] = dict(error.response)
            code, status = details["Error"]["Code"], details["ResponseMetadata"]["HTTPStatusCode"]
            if code in THROTTLES:
                telemetry.add_metric("Throttles")
            elif code in CREDENTIALS_REJECTED:
                raise DependencyUnavailable("credentials") from error
            elif code not in KEY_UNUSABLE and 400 <= status < 500:
                message = details["Error"].get("Message", "")
                raise AwsCallError(code, message, details.get("Item")) from error
            raise DependencyUnavailable(self._service) from error
        except (BotoCoreError, ResponseParserError, TimeoutError) as broken:
            raise DependencyUnavailable(self._service) from broken
        if response["ResponseMetadata"].get("MaxAttemptsReached"):  # its checksum was wrong to the last
            raise DependencyUnavailable(self._service)
        response = {
            name: base64.b64encode(value).decode() if isinstance(value, bytes) else value
            for name, value in response.items()
        }
        return response if response_type is dict else msgspec.convert(response, response_type)


def _bytes_in(request: dict[str, Any]) -> dict[str, Any]:
    # On the wire KMS takes its blobs as base64; boto3 wants the bytes.
    if "Message" in request:
        return request | {"Message": base64.b64decode(request["Message"])}
    return request
