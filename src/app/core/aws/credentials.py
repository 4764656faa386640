"""AWS credentials from the standard chain, renewed before they expire, without the SDK where it counts.

1. AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN: what Lambda sets; they last as long as
   the process does.
2. AWS_CONTAINER_CREDENTIALS_RELATIVE_URI or _FULL_URI: what ECS sets (Lambda with SnapStart too).
3. Anything else (profiles, SSO, web identity, instance roles): boto3, imported only then. It also decides
   where there are both, for it asks most of these before the container.

Source: https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html
and https://docs.aws.amazon.com/boto3/latest/guide/credentials.html
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Mapping
from datetime import datetime
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from app.core.aws.client import SingleFlight
from app.core.aws.endpoints import has_profile, region_for_sdk
from app.core.aws.http1 import get
from app.core.errors import DependencyUnavailable

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

RENEW_SECONDS_BEFORE_EXPIRY = 300.0  # ECS hands out the next ones by then
RETRY_SECONDS = 10.0  # while a renewal fails and the present ones still work
# Without any that work, the source is asked again after a pause, which doubles with every failure.
PAUSE_SECONDS = 1.0
MAX_PAUSE_SECONDS = 30.0
TIMEOUT_SECONDS = 2.0
SDK_TIMEOUT_SECONDS = 10.0  # it may ask several sources, and each several times
ECS_HOST = "169.254.170.2"
# Plain HTTP is for these and loopback only, or anyone who can set the variable could read the role's keys.
_LINK_LOCAL = frozenset({ECS_HOST, "169.254.170.23", "fd00:ec2::23"})


class Credentials(msgspec.Struct, frozen=True, gc=False):
    """One set of keys. `token` is empty for long-lived keys."""

    access_key: str
    secret_key: str
    token: str = ""


class ContainerCredentials(msgspec.Struct, rename="pascal"):
    """What the container's endpoint sends."""

    access_key_id: str
    secret_access_key: str
    token: str | None = None
    expiration: datetime | None = None


class CredentialsChain:
    """Finds credentials once, and renews them in time, with one request for all callers that wait.

    There is one request to the source at a time, and none in the pause after a failure.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._environ = environ
        self._renewal = SingleFlight(self._renew)
        self._session: Any = None
        self._thread: ThreadPoolExecutor | None = None
        self._current: Credentials | None = None
        self._renew_at = 0.0
        self._expires_at = float("inf")
        self._pause_seconds = 0.0
        self._pause_ends_at = float("-inf")
        if environ.get("AWS_ACCESS_KEY_ID") and environ.get("AWS_SECRET_ACCESS_KEY"):
            self._current = Credentials(
                environ["AWS_ACCESS_KEY_ID"],
                environ["AWS_SECRET_ACCESS_KEY"],
                environ.get("AWS_SESSION_TOKEN", ""),
            )
            self._renew_at = float("inf")

    @property
    def current(self) -> Credentials | None:
        """The credentials, or None when it is time to `renew` them."""
        return self._current if time.time() < self._renew_at else None

    async def replace(self, rejected: Credentials) -> None:
        """Renew credentials that a service rejected. Return if there are others now, or if they are fixed.

        Raises `DependencyUnavailable` when there are none, or were none just now. The rejected ones stay
        in use, as another service may accept them, or the same one in a while: its clock may be wrong.
        """
        if self._renew_at == float("inf"):
            return
        if rejected == self._current:
            await self._renewed()
        if rejected == self._current:
            raise DependencyUnavailable("credentials")

    async def renew(self) -> Credentials:
        """Return fresh credentials, or the present ones while they last. Raises `DependencyUnavailable`."""
        if self._current is None or time.time() >= self._expires_at:
            await self._renewed()
        elif not self._renewal.is_running:
            await self._renewal()
        assert self._current is not None  # noqa: S101 - or the renewal has raised
        return self._current

    async def _renewed(self) -> None:
        """Renew at once, but not in a pause."""
        if not self._renewal.is_running and time.monotonic() < self._pause_ends_at:
            raise DependencyUnavailable("credentials")
        await self._renewal()

    async def _renew(self) -> None:
        before = self._current
        try:
            self._current, self._expires_at = await self._fetch()
            renew_at = max(self._expires_at - RENEW_SECONDS_BEFORE_EXPIRY, time.time() + RETRY_SECONDS)
            self._renew_at = min(renew_at, self._expires_at)
        except (OSError, ValueError, msgspec.DecodeError) as error:
            self._pause()
            if self._current is None or time.time() >= self._expires_at:
                raise DependencyUnavailable("credentials") from error
            self._renew_at = min(time.time() + RETRY_SECONDS, self._expires_at)
            return
        if before is not None:  # what is renewed twice in a short time was rejected, and will be again
            self._pause()

    def _pause(self) -> None:
        now = time.monotonic()
        # A failure long after the last pause is a new story.
        goes_on = now < self._pause_ends_at + MAX_PAUSE_SECONDS
        self._pause_seconds = min(2 * self._pause_seconds, MAX_PAUSE_SECONDS) if goes_on else PAUSE_SECONDS
        self._pause_ends_at = now + self._pause_seconds * random.uniform(0.5, 1)  # noqa: S311 - no secret

    async def _fetch(self) -> tuple[Credentials, float]:
        environ = self._environ
        if not (environ.get("AWS_WEB_IDENTITY_TOKEN_FILE") or has_profile(environ)):
            if path := environ.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"):
                return await self._from_container(f"http://{ECS_HOST}{path}")
            if url := environ.get("AWS_CONTAINER_CREDENTIALS_FULL_URI"):
                return await self._from_container(url)
        if self._thread is None:
            from concurrent.futures import ThreadPoolExecutor

            self._thread = ThreadPoolExecutor(1, "credentials")
        async with asyncio.timeout(SDK_TIMEOUT_SECONDS):
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._from_sdk)

    async def _from_container(self, url: str) -> tuple[Credentials, float]:
        parts = urlsplit(url)
        host = parts.hostname or ""
        if (
            parts.scheme != "https"
            and host not in _LINK_LOCAL
            and host != "localhost"
            and not ip_address(host).is_loopback
        ):
            raise ValueError(f"container credentials over plain HTTP from {host}")
        token = self._environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN", "")
        if file := self._environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"):
            token = Path(file).read_text().strip()  # noqa: ASYNC240 - a few bytes, from memory
        if "\r" in token or "\n" in token:
            raise ValueError("the container authorization token has a line break in it")
        authorization = f"authorization: {token}\r\n" if token else ""
        response = await get(url, authorization, TIMEOUT_SECONDS, self._environ)
        if response.status != 200:
            raise ConnectionError(f"container credentials: status {response.status}")
        found = msgspec.json.decode(response.body, type=ContainerCredentials)
        expires_at = found.expiration.timestamp() if found.expiration else float("inf")
        return Credentials(found.access_key_id, found.secret_access_key, found.token or ""), expires_at

    def _from_sdk(self) -> tuple[Credentials, float]:
        import boto3
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            self._session = self._session or boto3.Session(region_name=region_for_sdk())
            found = self._session.get_credentials()
            if found is None:
                raise ValueError("no AWS credentials found")
            keys = found.get_frozen_credentials()  # renews them itself when it is time; ask again in a minute
        except (BotoCoreError, ClientError) as failed:  # no such profile, an expired login, a role denied
            raise ValueError(f"no AWS credentials: {failed}") from failed
        expires_at = time.time() + RENEW_SECONDS_BEFORE_EXPIRY + 60
        return Credentials(keys.access_key, keys.secret_key, keys.token or ""), expires_at
