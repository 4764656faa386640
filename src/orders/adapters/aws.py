"""What every client of an AWS JSON service here has in common: one coroutine, one error, its throttles."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Generic, Protocol, TypeVar

from orders import telemetry

# Refusals for the rate of the calls: they may pass, as whatever has a status of 500 or more may.
# https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Programming.Errors.html
THROTTLES = frozenset(
    {
        "LimitExceededException",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "Throttling",
        "ThrottlingException",
    }
)

Outcome = TypeVar("Outcome")


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
