"""What every client of an AWS JSON service here has in common: one coroutine and one error."""

from __future__ import annotations

import time
from typing import Any, Protocol

from orders import telemetry


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
        answer, or keeps failing or throttling after the retries.
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
