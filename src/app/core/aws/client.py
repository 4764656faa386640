"""What every client of a service here has in common: its bound, its errors, one call for all who wait."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar

from app.core import telemetry
from app.core.errors import DependencyUnavailable

# How many requests may wait for each dependency at a time. What is more is refused at once, so that one that
# hangs takes only the endpoints that need it. All together they are fewer than api.middleware.MAX_IN_FLIGHT:
# what needs none of them always finds a place. A process at its best has some 60 requests in flight, all of
# which may want the first keys of the issuer right after a start, and many of them KMS.
# https://learn.microsoft.com/en-us/azure/architecture/patterns/bulkhead
PLACES = {"dynamodb": 112, "s3": 24, "kms": 40, "token issuer": 72}

# Refusals for the rate of the calls: they may pass, as whatever has a status of 500 or more may.
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
KEYS_REFUSED = frozenset(
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
        """What waits for one dependency."""

        bulkhead: Bulkhead


Outcome = TypeVar("Outcome")
Arguments = ParamSpec("Arguments")
Bounded = TypeVar("Bounded", bound="HasBulkhead")


class AwsCallError(Exception):
    """The service refused the call. `item` is the stored item when a condition failed (DynamoDB)."""

    def __init__(self, code: str, message: str, item: dict[str, Any] | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.item = item


class AwsClient(Protocol):
    """A client of one service, for example DynamoDB."""

    async def call(self, operation: str, request: dict[str, Any], shape: type[Any] = dict) -> Any:
        """Call `operation` with the JSON `request` of the service's API reference.

        Return its answer as a dict, or as `shape`: a type that msgspec decodes into, fast for lists.
        Raises `AwsCallError` when the service refuses, `DependencyUnavailable` when it does not
        answer, or keeps failing or throttling after the retries, and `msgspec.ValidationError` when
        the answer is whole but not of this `shape`: no retry would change that.
        """


class Observed:
    """A client whose calls are told in the log line of the request that they serve."""

    def __init__(self, client: AwsClient) -> None:
        self._client = client

    async def call(self, operation: str, request: dict[str, Any], shape: type[Any] = dict) -> Any:
        """Pass the call on, and take its time."""
        begun = time.perf_counter()
        try:
            return await self._client.call(operation, request, shape)
        finally:
            telemetry.called(operation, time.perf_counter() - begun)


class Shared(Generic[Outcome]):
    """A call that runs once for all who ask while it runs: its outcome is everybody's, a failure too.

    Behind a lock each would try again, one after the other: while a service hangs, a queue without a bound.
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
        return await asyncio.shield(self._running)  # who leaves does not end it for the others


class Bulkhead:
    """The places for those who wait for one dependency; a context manager that takes one.

    Raises `DependencyUnavailable` when none is free. A list's `pop` and `append` are atomic, so that a thread
    may give a place back. https://docs.python.org/3/faq/library.html#what-kinds-of-global-value-mutation-are-thread-safe
    """

    def __init__(self, dependency: str) -> None:
        self._dependency = dependency
        self._free = [None] * PLACES[dependency]

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
