"""What the clients of AWS share: places, error codes, and one call for all that wait for it."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar

from app.core import telemetry
from app.core.errors import DependencyUnavailable

# How many requests may wait for each dependency at a time. More are rejected at once, so that one that
# hangs takes only the endpoints that need it. Their sum is below core.http.middleware.MAX_IN_FLIGHT, so that
# a request that needs none of them always finds a place. A process at its best has some 60 requests in
# flight. All of them may want the first keys of the issuer right after a start, and many of them KMS.
# https://learn.microsoft.com/en-us/azure/architecture/patterns/bulkhead
PLACES = {"dynamodb": 112, "s3": 24, "kms": 40, "token issuer": 72}

# Rejected for the rate of the calls. Retried, as is every status of 500 or more.
# https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Programming.Errors.html
# https://docs.aws.amazon.com/sdkref/latest/guide/feature-retry-behavior.html
THROTTLES = frozenset(
    {
        "BandwidthLimitExceeded",
        "LimitExceededException",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "SlowDown",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)

# The service does not take our keys, or our clock: others may help, or time.
# https://docs.aws.amazon.com/IAM/latest/UserGuide/CommonErrors.html
# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html#ErrorCodeList
CREDENTIALS_REJECTED = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "InvalidToken",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "RequestExpired",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
        "UnrecognizedClientException",
    }
)

# The state of a key of KMS, whose owner may change it back: no fault of ours, and nothing a retry changes.
# https://docs.aws.amazon.com/kms/latest/developerguide/key-state.html
KEY_UNUSABLE = frozenset(
    {
        "DisabledException",
        "KMS.DisabledException",
        "KMS.KMSInvalidStateException",
        "KMSInvalidStateException",
    }
)

if TYPE_CHECKING:

    class HasBulkhead(Protocol):
        """An object whose methods wait for one dependency."""

        bulkhead: Bulkhead


Outcome = TypeVar("Outcome")
Arguments = ParamSpec("Arguments")
Bounded = TypeVar("Bounded", bound="HasBulkhead")


class AwsCallError(Exception):
    """The service rejected the call. `item` is the stored item when a condition failed (DynamoDB)."""

    def __init__(self, code: str, message: str, item: dict[str, Any] | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.item = item


class AwsClient(Protocol):
    """A client of one service, for example DynamoDB."""

    async def call(self, operation: str, request: dict[str, Any], response_type: type[Any] = dict) -> Any:
        """Call `operation` with the JSON `request` of the service's API reference.

        Return its response as a dict, or as `response_type`: a type that msgspec decodes into.
        Raises `AwsCallError` when the service rejects the call, `DependencyUnavailable` when it does not
        respond, or keeps failing or throttling after the retries, and `msgspec.ValidationError` when
        the response is complete but not a `response_type`: no retry would change that.
        """


class InstrumentedClient:
    """A client that records its calls in the log entry of the request."""

    def __init__(self, client: AwsClient) -> None:
        self._client = client

    async def call(self, operation: str, request: dict[str, Any], response_type: type[Any] = dict) -> Any:
        """Pass the call on, and record how long it took."""
        begun = time.perf_counter()
        try:
            return await self._client.call(operation, request, response_type)
        finally:
            telemetry.record_call(operation, time.perf_counter() - begun)


class SingleFlight(Generic[Outcome]):
    """Runs one call at a time: all who ask while it runs get the same outcome, a failure too.

    The name is that of https://pkg.go.dev/golang.org/x/sync/singleflight.
    With a lock each caller would try again in turn: while a service hangs, that queue has no bound.
    """

    def __init__(self, call: Callable[[], Coroutine[Any, Any, Outcome]]) -> None:
        self._call = call
        self._running: asyncio.Task[Outcome] | None = None

    @property
    def is_running(self) -> bool:
        """Whether somebody is waiting for the outcome already."""
        return self._running is not None and not self._running.done()

    async def __call__(self) -> Outcome:
        """Return the outcome of the call that runs, or of a new one."""
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._call())
        return await asyncio.shield(self._running)  # a caller that leaves does not cancel it for the others


class Bulkhead:
    """The places of requests that wait for one dependency; a context manager that takes one.

    Raises `DependencyUnavailable` when none is free. A list's `pop` and `append` are atomic, so that a thread
    may give a place back. https://docs.python.org/3/faq/library.html#what-kinds-of-global-value-mutation-are-thread-safe
    """

    def __init__(self, dependency: str) -> None:
        self.places = PLACES[dependency]
        self._dependency = dependency
        self._free = [None] * self.places

    def take(self) -> None:
        """Take a place. Raises `DependencyUnavailable`."""
        if not self._free:
            full = ConnectionRefusedError("as many wait for it as may")
            raise DependencyUnavailable(self._dependency) from full
        self._free.pop()

    def give_back(self, *_: object) -> None:
        """Give the place back."""
        self._free.append(None)

    __enter__ = take
    __exit__ = give_back


def bounded(
    method: Callable[Concatenate[Bounded, Arguments], Awaitable[Outcome]],
) -> Callable[Concatenate[Bounded, Arguments], Coroutine[Any, Any, Outcome]]:
    """Let a method take a place in its object's `bulkhead` while it runs."""

    @functools.wraps(method)
    async def call(self: Bounded, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Outcome:
        with self.bulkhead:
            return await method(self, *args, **kwargs)

    return call
