"""The cursor key from KMS: asked for once, and by one for all."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest

from app.core.aws.kms import KmsCursorKey
from app.core.errors import DependencyUnavailable


class Kms:
    """Answers, or fails as often as it is told to, after a while."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.calls = 0

    async def call(self, operation: str, request: dict[str, Any], response_type: type[Any] = dict) -> Any:
        self.calls += 1
        await asyncio.sleep(0.01)
        if self.failures:
            self.failures -= 1
            raise DependencyUnavailable("kms")
        return {"Mac": base64.b64encode(b"k" * 32).decode()}


async def test_is_asked_for_once() -> None:
    kms = Kms()
    key = KmsCursorKey(kms, "arn")
    assert await asyncio.gather(*(key.cursor_key() for _ in range(9))) == [b"k" * 32] * 9
    assert await key.cursor_key() == b"k" * 32
    assert kms.calls == 1


async def test_who_waits_for_a_call_shares_its_failure() -> None:
    """Each trying again in turn, the last of them would wait for all calls before it."""
    kms = Kms(failures=1)
    key = KmsCursorKey(kms, "arn")
    got = await asyncio.gather(*(key.cursor_key() for _ in range(9)), return_exceptions=True)
    assert {type(error) for error in got} == {DependencyUnavailable}
    assert kms.calls == 1
    assert await key.cursor_key() == b"k" * 32


async def test_who_leaves_does_not_end_the_call_for_the_others() -> None:
    kms = Kms()
    key = KmsCursorKey(kms, "arn")
    first, second = asyncio.create_task(key.cursor_key()), asyncio.create_task(key.cursor_key())
    await asyncio.sleep(0)
    first.cancel()
    assert await second == b"k" * 32
    with pytest.raises(asyncio.CancelledError):
        await first
    assert kms.calls == 1
