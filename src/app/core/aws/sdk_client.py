"""A client of any AWS service over boto3, with our bounds, credentials and errors.

For services that few requests need, such as S3. `json_client.py`, for DynamoDB and KMS, costs much less.
boto3 is imported at the first call, in a thread: the API starts, and takes orders, without it.

Usage:

    sqs = SdkClient("sqs", credentials)
    await sqs.call("SendMessage", QueueUrl=queue_url, MessageBody=text)

`docs/another-aws-service.md` shows a whole adapter.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from app.core import telemetry
from app.core.aws.client import CREDENTIALS_REJECTED, KEY_UNUSABLE, THROTTLES, AwsCallError, Bulkhead
from app.core.aws.credentials import Credentials, CredentialsChain
from app.core.aws.endpoints import region_for_sdk
from app.core.errors import DependencyUnavailable

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

# For a whole call, retries included. Two tries with what may lie between them end at about the same time.
DEADLINE_SECONDS = 5.0
CONNECT_SECONDS = 1
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/optimizing-performance-guidelines.html
READ_SECONDS = 2
TRIES = 2

# Errors with a status of 4xx that pass. S3's for 409 say that another write to the same key is under way.
# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html#ErrorCodeList
# The error of a HEAD has no body, and so no code but its status: 400 for expired credentials, 403 for unknown
# ones or a wrong clock, but also for missing rights.
_RETRYABLE = (
    THROTTLES | KEY_UNUSABLE | {"RequestTimeout", "OperationAborted", "ConditionalRequestConflict", "403"}
)
_CREDENTIALS_REJECTED = CREDENTIALS_REJECTED | {"400"}

Result = TypeVar("Result")
# Makes the boto3 client, with more options of botocore's `Config`.
MakeClient = Callable[..., Any]


class SdkClient:
    """One boto3 client. Its calls run in threads of its own, at most as many as `client.PLACES` says.

    A call that hangs keeps its place after its caller has given up. Raises `DependencyUnavailable` when the
    service does not respond, keeps failing or throttling, or has no free place, and botocore's `ClientError`
    when it rejects the request itself (missing rights, no such bucket): a fault of this deployment, so a 500.
    """

    def __init__(
        self,
        service: str,
        credentials: CredentialsChain | None = None,
        configure: Callable[[MakeClient], Any] = lambda make: make(),
    ) -> None:
        self._service = service
        self._credentials = credentials or CredentialsChain()
        self._configure = configure
        self._bulkhead = Bulkhead(service)
        self._keys: Credentials | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._made: Any = None

    async def call(self, operation: str, *, on_error: Mapping[str, Any] | None = None, **request: Any) -> Any:
        """Call an operation by its name in the service's API reference. Return boto3's response.

        `on_error` has the results for errors that are expected, by their code.
        """

        def call(client: Any) -> Any:
            from botocore import xform_name

            return getattr(client, xform_name(operation))(**request)

        return await self.run(operation, call, on_error)

    async def run(
        self,
        operation: str,
        function: Callable[[Any], Result],
        on_error: Mapping[str, Result] | None = None,
    ) -> Result:
        """Run `function` with the boto3 client in a thread. The log entry names it `operation`."""
        if self._made is None:
            await self._in_thread(self._client)
        begun = time.perf_counter()
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                keys = await self._fresh_keys()
                try:
                    return await self._in_thread(self._call, function, on_error or {})
                except AwsCallError:
                    await self._credentials.replace(keys)
                await self._fresh_keys()
                return await self._in_thread(self._call, function, on_error or {})
        except AwsCallError as rejected:
            raise DependencyUnavailable("credentials") from rejected
        except TimeoutError as late:
            raise DependencyUnavailable(self._service) from late
        finally:
            telemetry.record_call(operation, time.perf_counter() - begun)

    async def sign(self, function: Callable[[Any], Result]) -> Result:
        """Run `function`, which only signs and makes no call, with the boto3 client."""
        await self._fresh_keys()
        return function(self._made or await self._in_thread(self._client))

    async def _fresh_keys(self) -> Credentials:
        """Look up the credentials that the client signs with."""
        self._keys = keys = self._credentials.current or await self._credentials.renew()
        return keys

    async def _in_thread(self, function: Callable[..., Result], *args: Any) -> Result:
        if self._threads is None:
            from concurrent.futures import ThreadPoolExecutor

            self._threads = ThreadPoolExecutor(self._bulkhead.places, self._service)
        self._bulkhead.take()
        try:
            running = self._threads.submit(function, *args)
        except BaseException:  # no thread can be started; those that are there take the call, if any are
            self._bulkhead.give_back()
            raise
        running.add_done_callback(self._bulkhead.give_back)
        return await asyncio.wrap_future(running)

    def _call(self, function: Callable[[Any], Any], on_error: Mapping[str, Any]) -> Any:
        """Run `function`. Raises `AwsCallError` when the service rejects the credentials."""
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        try:
            return function(self._client())
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code in on_error:
                return on_error[code]
            if code in _CREDENTIALS_REJECTED:
                raise AwsCallError(code, error.response["Error"].get("Message", "")) from error
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            if code in _RETRYABLE or status == 429 or not 400 <= status < 500:
                raise DependencyUnavailable(self._service) from error
            raise
        except (BotoCoreError, ResponseParserError) as broken:
            raise DependencyUnavailable(self._service) from broken

    def _client(self) -> Any:
        with self._lock:
            if self._made is None:
                self._made = self._new_client()
            return self._made

    def _new_client(self) -> Any:
        import boto3
        from botocore import credentials
        from botocore.config import Config
        from botocore.session import get_session

        current = self

        class Keys(credentials.Credentials):
            """Those that all our clients use."""

            def get_frozen_credentials(self) -> credentials.ReadOnlyCredentials:
                keys = current._keys
                assert keys is not None  # noqa: S101 - they are looked up before every call
                return credentials.ReadOnlyCredentials(keys.access_key, keys.secret_key, keys.token or None)

        class Provider(credentials.CredentialProvider):
            """In the place of botocore's own chain, which asks, and waits, in every thread."""

            def load(self) -> credentials.Credentials:
                return Keys("", "")

        core = get_session()
        core.register_component("credential_provider", credentials.CredentialResolver([Provider()]))
        session: Any = boto3.Session(botocore_session=core)

        def make(**options: Any) -> Any:
            config = Config(
                connect_timeout=CONNECT_SECONDS,
                read_timeout=READ_SECONDS,
                retries={"mode": "standard", "total_max_attempts": TRIES},
                max_pool_connections=self._bulkhead.places,
                **options,
            )
            return session.client(self._service, region_name=region_for_sdk(), config=config)

        return self._configure(make)
