"""AWS credentials from the standard chain, renewed before they expire, without the SDK where it counts.

1. AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN: what Lambda sets; they last as long as
   the process does.
2. AWS_CONTAINER_CREDENTIALS_RELATIVE_URI or _FULL_URI: what ECS sets (Lambda with SnapStart too).
3. Anything else (profiles, SSO, web identity, instance roles): boto3, imported only then.

Source: https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from datetime import datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from orders.adapters.aws import Shared
from orders.adapters.http1 import Pool
from orders.errors import DependencyUnavailable

RENEW_SECONDS_BEFORE_EXPIRY = 300.0  # ECS hands out the next ones by then
RETRY_SECONDS = 10.0  # while a renewal fails and the present ones still work
TIMEOUT_SECONDS = 2.0
ECS_HOST = "169.254.170.2"
# Plain HTTP is for these and loopback only, or anyone who sets the variable reads the role's keys.
_LINK_LOCAL = frozenset({ECS_HOST, "169.254.170.23", "fd00:ec2::23"})


class Credentials(NamedTuple):
    """One set of keys. `token` is empty for long-lived keys."""

    access_key: str
    secret_key: str
    token: str = ""


class CredentialsChain:
    """Finds credentials once, and renews them in time, once for all who wait."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._environ = environ
        self._renewal = Shared(self._renew)
        self._session: Any = None
        self._current: Credentials | None = None
        self._renew_at = 0.0
        self._expires_at = float("inf")
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

    def expire(self, refused: Credentials) -> None:
        """Ask again before the next use: the service called these expired. Fixed keys stay."""
        if refused is self._current and self._renew_at != float("inf"):
            self._renew_at = self._expires_at = 0.0

    async def renew(self) -> Credentials:
        """Return fresh credentials, or the present ones while they last. Raises `DependencyUnavailable`."""
        if self._renewal.is_running and self._current is not None and time.time() < self._expires_at:
            return self._current
        return await self._renewal()

    async def _renew(self) -> Credentials:
        try:
            self._current, self._expires_at = await self._fetch()
            self._renew_at = max(self._expires_at - RENEW_SECONDS_BEFORE_EXPIRY, time.time() + RETRY_SECONDS)
        except (OSError, ValueError, KeyError, msgspec.DecodeError) as error:
            if self._current is None or time.time() >= self._expires_at:
                raise DependencyUnavailable("credentials") from error
            self._renew_at = time.time() + RETRY_SECONDS
        return self._current

    async def _fetch(self) -> tuple[Credentials, float]:
        environ = self._environ
        if path := environ.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"):
            return await self._from_container(f"http://{ECS_HOST}{path}")
        if url := environ.get("AWS_CONTAINER_CREDENTIALS_FULL_URI"):
            return await self._from_container(url)
        return await asyncio.to_thread(self._from_sdk)

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
        target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        authorization = f"authorization: {token}\r\n" if token else ""
        request = f"GET {target} HTTP/1.1\r\nhost: {parts.netloc}\r\n{authorization}connection: close\r\n\r\n"
        deadline = asyncio.get_running_loop().time() + TIMEOUT_SECONDS
        answer = await Pool(parts, self._environ).exchange(request.encode(), deadline)
        if answer.status != 200:
            raise ConnectionError(f"container credentials: status {answer.status}")
        found = msgspec.json.decode(answer.body)
        expires = found.get("Expiration")
        return (
            Credentials(found["AccessKeyId"], found["SecretAccessKey"], found.get("Token") or ""),
            datetime.fromisoformat(expires).timestamp() if expires else float("inf"),
        )

    def _from_sdk(self) -> tuple[Credentials, float]:
        import boto3
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            self._session = self._session or boto3.Session()
            found = self._session.get_credentials()
            if found is None:
                raise ValueError("no AWS credentials found")
            keys = found.get_frozen_credentials()  # renews them itself when it is time; ask again in a minute
        except (BotoCoreError, ClientError) as failed:  # no such profile, an expired login, a role refused
            raise ValueError(f"no AWS credentials: {failed}") from failed
        expires_at = time.time() + RENEW_SECONDS_BEFORE_EXPIRY + 60
        return Credentials(keys.access_key, keys.secret_key, keys.token or ""), expires_at
