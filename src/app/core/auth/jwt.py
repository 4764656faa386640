"""The `Authenticator` for JSON Web Tokens of one OpenID issuer, by the rules of RFC 8725.

A token counts when one of the issuer's published keys signed it, by the algorithm that this key is for
(never one that the token chooses freely), and it has our issuer, our audience, a subject and a time of
expiry. `docs/decisions` says why the application checks it, and not the API Gateway or the load balancer.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import jwt

from app.core.auth.caller import Caller
from app.core.aws.client import Bulkhead, SingleFlight
from app.core.aws.http1 import get
from app.core.errors import DependencyUnavailable, NotAuthenticated

# Asymmetric only: with HS256 among them, a token signed with the public key as its secret would pass.
ALGORITHMS = ("RS256", "PS256", "ES256")
# How far the issuer's clock and ours may be apart.
LEEWAY_SECONDS = 30
# OpenID Connect Core, section 2: `sub` must not exceed 255 ASCII characters. Ours becomes part of an index
# key, for which DynamoDB takes 2,048 bytes: in UTF-8 these are 1,020 at most.
MAX_SUBJECT = 255
# Twice what Cognito, Entra and Auth0 issue; the API Gateway ends at 10,240 bytes for all headers.
MAX_TOKEN = 8192
# RFC 8725, section 3.11: other JWTs of the same issuer (logout tokens, for one) are no access tokens.
_TYPES = frozenset({None, "jwt", "at+jwt", "application/at+jwt"})
_MAX_DOCUMENT_BYTES = 256 * 1024
_TOKENS_KEPT = 1024
# Of one subject: a caller with many tokens displaces only its own.
_TOKENS_OF_ONE_KEPT = 8
# Three parts in the alphabet of base64url, without padding (RFC 7515, section 2). Python's decoder skips any
# other character, so that one token could be spelled, and kept, in any number of ways.
_is_compact = re.compile(r"[\w-]+\.[\w-]+\.([\w-]+)", re.ASCII).fullmatch
# What decoding raises for what is no token. RecursionError: JSON nested thousands deep, within the bound.
_MALFORMED = (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError)
# What reading a key raises for one that PyJWT cannot use.
_UNFIT = (jwt.PyJWTError, ValueError, TypeError, LookupError, NotImplementedError)
# What asking the issuer raises when it is away, slow (TimeoutError is an OSError), or talks nonsense.
_UNREADABLE = (OSError, ValueError, LookupError, TypeError, RecursionError)

_log = logging.getLogger(__name__)

Fetch = Callable[[str], Awaitable[bytes]]


class JwtAuthenticator:
    """Tells the caller from a bearer token. Raises `ValueError` for an issuer that cannot be trusted."""

    def __init__(
        self, issuer: str, audience: str, keys: KeySet | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        if not audience:
            raise ValueError("an audience is needed: without it, tokens for other services would be taken")
        _require_https(issuer)
        self._issuer = issuer
        self._audience = audience
        self._keys = keys or KeySet(issuer)
        self._clock = clock
        self._known: dict[bytes, tuple[float, int, Caller]] = {}
        self._known_of: dict[str, list[bytes]] = {}  # the same tokens, by subject

    async def caller(self, authorization: str | None) -> Caller:
        """Return the caller. Raises `NotAuthenticated`, or `DependencyUnavailable` without any keys."""
        scheme, _, token = (authorization or "").partition(" ")
        token = token.lstrip(" ")  # RFC 6750, section 2.1: one space or more
        if scheme.lower() != "bearer" or not token:
            raise NotAuthenticated
        if len(token) > MAX_TOKEN:
            raise NotAuthenticated("The token is not valid.")
        if self._keys.are_old:
            await self._keys.freshen()
        digest = hashlib.sha256(token.encode()).digest()
        known = self._known.get(digest)
        if known and self._clock() < known[0] and known[1] == self._keys.generation:
            return known[2]
        caller, expires_at = await self._verified(token)
        self._keep(digest, caller, expires_at)
        return caller

    def _keep(self, digest: bytes, caller: Caller, expires_at: float) -> None:
        """Keep what was verified.

        Not beyond its expiry, and not beyond the keys: withdrawing a key ends its tokens.
        """
        self._forget(digest)
        mine = self._known_of.get(caller.subject or "", [])
        if len(mine) >= _TOKENS_OF_ONE_KEPT:
            self._forget(mine[0])
        elif len(self._known) >= _TOKENS_KEPT:
            self._forget(next(iter(self._known)))  # the first verified
        self._known[digest] = (expires_at, self._keys.generation, caller)
        self._known_of.setdefault(caller.subject or "", []).append(digest)

    def _forget(self, digest: bytes) -> None:
        if known := self._known.pop(digest, None):
            subject = known[2].subject or ""
            self._known_of[subject].remove(digest)
            if not self._known_of[subject]:
                del self._known_of[subject]

    async def _verified(self, token: str) -> tuple[Caller, float]:
        """Return whose token it is, and until when."""
        try:
            _require_canonical(token)
            header = jwt.get_unverified_header(token)
            kind, kid = header.get("typ"), header.get("kid")
            if (kind.lower() if isinstance(kind, str) else kind) not in _TYPES or not isinstance(kid, str):
                raise NotAuthenticated("The token is not valid.")
            key = await self._keys.get(kid)
            if key is None:
                raise NotAuthenticated("The token is not valid.")
            # PyJWT compares the token's `alg` with the key's own, and rejects unknown `crit` entries.
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=ALGORITHMS,
                issuer=self._issuer,
                audience=self._audience,
                leeway=LEEWAY_SECONDS,
                options={
                    "require": ["iss", "aud", "exp", "sub"],
                    "enforce_minimum_key_length": True,
                },
            )
            return Caller(_subject(claims), _scopes(claims)), float(claims["exp"])
        except jwt.ExpiredSignatureError as expired:
            raise NotAuthenticated("The token has expired.") from expired
        except _MALFORMED as invalid:
            raise NotAuthenticated("The token is not valid.") from invalid


def _require_canonical(token: str) -> None:
    """Raise `ValueError` unless the token is spelled in the one way that its bytes have.

    The last character of a part may have spare bits, which decoders ignore. The first two parts are signed.
    """
    found = _is_compact(token)
    if not found:
        raise ValueError("not three parts in base64url")
    signature = found[1].encode()
    if base64.urlsafe_b64encode(jwt.utils.base64url_decode(signature)).rstrip(b"=") != signature:
        raise ValueError("the signature has spare bits")


class KeySet:
    """The issuer's public keys: found by OpenID discovery, kept, and asked for again when they may be old.

    Discovery: https://openid.net/specs/openid-connect-discovery-1_0.html#ProviderConfig
    """

    # A key that the issuer withdraws is trusted for this long.
    LIFETIME_SECONDS = 300.0
    # While the issuer cannot be reached, its last keys are trusted for this long.
    STALE_SECONDS = 3600.0
    # However many unknown keys callers name, the issuer is asked once in this time.
    COOLDOWN_SECONDS = 10.0
    # For both requests, whatever comes of them.
    TIMEOUT_SECONDS = 4.0
    # The caller that asks for others while the last keys still do waits no longer.
    PATIENCE_SECONDS = 1.0

    def __init__(
        self, issuer: str, fetch: Fetch | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._issuer = issuer
        self._fetch = fetch or _fetch
        self._clock = clock
        self._keys: dict[str, jwt.PyJWK] = {}
        self._documents: list[Any] = []
        self._fetched_at = float("-inf")
        self._tried_at = float("-inf")
        self._refresh = SingleFlight(self._renew)
        self._waiting = Bulkhead("token issuer")
        self.generation = 0  # counts the changes of the set

    @property
    def are_old(self) -> bool:
        """Whether it is time to `freshen` them."""
        return self._clock() - self._fetched_at >= self.LIFETIME_SECONDS

    async def freshen(self) -> None:
        """Ask again. Raises `DependencyUnavailable` when there are none to go by.

        One caller asks. The others go on with the keys that are known; only without any do they wait.
        """
        if self._may_ask:
            with contextlib.suppress(TimeoutError):  # the request goes on, and callers use the last keys
                async with asyncio.timeout(None if self._are_stale else self.PATIENCE_SECONDS):
                    await self._ask()
        elif self._are_stale and self._refresh.is_running:
            with self._waiting:
                await self._refresh()
        if self._are_stale:
            raise DependencyUnavailable("token issuer")

    async def get(self, kid: str) -> jwt.PyJWK | None:
        """Return the key. The issuer may be asked for one that is not known, but by one caller only."""
        if kid not in self._keys and self._may_ask:
            await self._ask()
        return self._keys.get(kid)

    @property
    def _are_stale(self) -> bool:
        return self._clock() - self._fetched_at >= self.STALE_SECONDS

    @property
    def _may_ask(self) -> bool:
        """Whether the last try is long enough ago. One that runs is not: it takes less than the cooldown."""
        return self._clock() - self._tried_at >= self.COOLDOWN_SECONDS

    async def _ask(self) -> None:
        self._tried_at = self._clock()  # before anybody else can look
        await self._refresh()

    async def _renew(self) -> None:
        try:
            async with asyncio.timeout(self.TIMEOUT_SECONDS):
                found = await self._read()
        except _UNREADABLE as why:
            _log.warning("cannot read the issuer's keys: %r", why)
            return  # `freshen` decides for how long the last keys do
        if found != self._documents:
            self._keys = dict(filter(None, map(_signing_key, found)))
            self._documents = found
            self.generation += 1
        self._fetched_at = self._clock()

    async def _read(self) -> list[Any]:
        discovery = f"{self._issuer.rstrip('/')}/.well-known/openid-configuration"
        about = json.loads(await self._fetch(discovery))
        if about["issuer"] != self._issuer:
            raise ValueError("the discovery document is another issuer's")
        jwks_uri = str(about["jwks_uri"])
        _require_https(jwks_uri)
        keys = json.loads(await self._fetch(jwks_uri))["keys"]
        if not isinstance(keys, list):
            raise ValueError("the key set is no list")
        return keys


def _signing_key(document: Any) -> tuple[str, jwt.PyJWK] | None:
    """Return the key if it can sign tokens of ours. Sets may hold others, which are left out."""
    if not isinstance(document, dict) or document.get("use", "sig") != "sig":
        return None
    try:
        key = jwt.PyJWK(document)
    except _UNFIT:
        return None
    kid = document.get("kid")
    return (kid, key) if isinstance(kid, str) and key.algorithm_name in ALGORITHMS else None


def _subject(claims: dict[str, Any]) -> str:
    subject = claims["sub"]
    # Not printable: control characters, lone surrogates, which nothing can store, and what hides in a log.
    if not subject or len(subject) > MAX_SUBJECT or not subject.isprintable():
        raise NotAuthenticated("The token is not valid.")
    return str(subject)


def _scopes(claims: dict[str, Any]) -> frozenset[str]:
    """Read `scope` (RFC 8693, section 4.2: a string), or `scp` (Okta: a list; Entra: a string)."""
    found = claims.get("scope", claims.get("scp", ""))
    words = found.split() if isinstance(found, str) else found if isinstance(found, list) else []
    return frozenset(word for word in words if isinstance(word, str))


def _require_https(url: str) -> None:
    parts = urlsplit(url)
    loopback = parts.hostname in {"127.0.0.1", "::1", "localhost"}
    if not parts.hostname or not (parts.scheme == "https" or (parts.scheme == "http" and loopback)):
        raise ValueError(f"not an https address: {url!r}")


async def _fetch(url: str) -> bytes:
    """Get the document, from there and nowhere else: a redirect is an error. Takes no thread."""
    # Some firewalls reject requests without a user agent.
    headers = "accept: application/json\r\naccept-encoding: identity\r\nuser-agent: orders\r\n"
    # AWS_CA_BUNDLE is for AWS only.
    environ = {name: value for name, value in os.environ.items() if name != "AWS_CA_BUNDLE"}
    response = await get(url, headers, KeySet.TIMEOUT_SECONDS, environ)
    if response.status != 200 or len(response.body) > _MAX_DOCUMENT_BYTES:
        raise ValueError(f"{url}: status {response.status}, {len(response.body)} bytes")
    return response.body
