"""The `Authenticator` for JSON Web Tokens of one OpenID issuer, by the rules of RFC 8725.

A token counts when one of the issuer's published keys signed it, by the algorithm that this key is for
(never one that the token chooses freely), and it has our issuer, our audience, a subject and a time of
expiry. `docs/decisions` tells why it is checked here, and not by the API Gateway or the load balancer.
"""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import logging
import time
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import jwt

from orders.domain import Caller
from orders.errors import DependencyUnavailable, NotAuthenticated

# Asymmetric only: with HS256 among them, a token signed with the public key as its secret would pass.
ALGORITHMS = ("RS256", "PS256", "ES256")
# How far the issuer's clock and ours may be apart.
LEEWAY_SECONDS = 30
# OpenID Connect Core, section 2: `sub` must not exceed 255 characters. Ours becomes part of an index key.
MAX_SUBJECT = 255
# Twice what Cognito, Entra and Auth0 issue; the API Gateway ends at 10,240 bytes for all headers.
MAX_TOKEN = 8192
# RFC 8725, section 3.11: other JWTs of the same issuer (logout tokens, for one) are no access tokens.
_TYPES = frozenset({None, "jwt", "at+jwt", "application/at+jwt"})
_TOKENS_KEPT = 1024
# What decoding raises for what is no token. RecursionError: JSON nested thousands deep, within the bound.
_MALFORMED = (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError)
# What reading a key raises for one that PyJWT cannot use.
_UNFIT = (jwt.PyJWTError, ValueError, TypeError, LookupError, NotImplementedError)
# What asking the issuer raises when it is away, slow (TimeoutError is an OSError), or talks nonsense.
_UNREADABLE = (OSError, http.client.HTTPException, ValueError, LookupError, TypeError)

_log = logging.getLogger("orders")

Fetch = Callable[[str], bytes]


class JwtAuthenticator:
    """Tells the caller from a bearer token. Raises `ValueError` for an issuer that cannot be trusted."""

    def __init__(
        self, issuer: str, audience: str, keys: KeySet | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        if not audience:
            raise ValueError("an audience is needed: without it, tokens for other services would be taken")
        _refuse_plain_http(issuer)
        self._issuer = issuer
        self._audience = audience
        self._keys = keys or KeySet(issuer)
        self._clock = clock
        self._known: dict[bytes, tuple[float, int, Caller]] = {}

    async def caller(self, authorization: str | None) -> Caller:
        """Return the caller. Raises `NotAuthenticated`, or `DependencyUnavailable` without any keys."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise NotAuthenticated
        if len(token) > MAX_TOKEN:
            raise NotAuthenticated("The token is not valid.")
        await self._keys.freshen()
        digest = hashlib.sha256(token.encode()).digest()
        known = self._known.get(digest)
        if known and self._clock() < known[0] and known[1] == self._keys.generation:
            return known[2]
        claims = await self._claims(token)
        caller = Caller(_subject(claims), _scopes(claims))
        if len(self._known) >= _TOKENS_KEPT:
            self._known.clear()
        # Not beyond the expiry, and not beyond the keys: withdrawing a key ends its tokens.
        self._known[digest] = (float(claims["exp"]), self._keys.generation, caller)
        return caller

    async def _claims(self, token: str) -> dict[str, Any]:
        try:
            header = jwt.get_unverified_header(token)
            kind, kid = header.get("typ"), header.get("kid")
            if (kind.lower() if isinstance(kind, str) else kind) not in _TYPES or not isinstance(kid, str):
                raise NotAuthenticated("The token is not valid.")
            key = await self._keys.get(kid)
            if key is None:
                raise NotAuthenticated("The token is not valid.")
            # PyJWT compares the token's `alg` with the key's own, and refuses unknown `crit` entries.
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
        except jwt.ExpiredSignatureError as expired:
            raise NotAuthenticated("The token has expired.") from expired
        except _MALFORMED as invalid:
            raise NotAuthenticated("The token is not valid.") from invalid
        return claims


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
    # For both requests; callers without known keys wait for it.
    TIMEOUT_SECONDS = 4.0

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
        self._lock = asyncio.Lock()
        self.generation = 0  # counts the changes of the set

    async def freshen(self) -> None:
        """Ask again if the keys are old. Raises `DependencyUnavailable` when there are none to go by."""
        age = self._clock() - self._fetched_at
        if age < self.LIFETIME_SECONDS or (age < self.STALE_SECONDS and self._lock.locked()):
            return
        await self._refresh()
        if self._clock() - self._fetched_at >= self.STALE_SECONDS:
            raise DependencyUnavailable("token issuer")

    async def get(self, kid: str) -> jwt.PyJWK | None:
        """Return the key, asking the issuer if it is not known: it may be new."""
        if kid not in self._keys:
            await self._refresh()
        return self._keys.get(kid)

    async def _refresh(self) -> None:
        asked_at = self._clock()
        async with self._lock:
            # Whoever waited for the lock finds the work done.
            if self._tried_at >= asked_at or asked_at - self._tried_at < self.COOLDOWN_SECONDS:
                return
            self._tried_at = self._clock()
            try:
                async with asyncio.timeout(self.TIMEOUT_SECONDS):
                    found = await asyncio.to_thread(self._read)
            except _UNREADABLE as why:
                _log.warning("cannot read the issuer's keys: %r", why)
                return  # `freshen` decides for how long the last keys do
            if found != self._documents:
                self._keys = dict(filter(None, map(_signing_key, found)))
                self._documents = found
                self.generation += 1
            self._fetched_at = self._clock()

    def _read(self) -> list[Any]:
        about = json.loads(self._fetch(f"{self._issuer.rstrip('/')}/.well-known/openid-configuration"))
        if about["issuer"] != self._issuer:
            raise ValueError("the discovery document is another issuer's")
        jwks_uri = str(about["jwks_uri"])
        _refuse_plain_http(jwks_uri)
        keys = json.loads(self._fetch(jwks_uri))["keys"]
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
    if not subject or len(subject) > MAX_SUBJECT:
        raise NotAuthenticated("The token is not valid.")
    return str(subject)


def _scopes(claims: dict[str, Any]) -> frozenset[str]:
    """Read `scope` (RFC 8693, section 4.2: a string), or `scp` (Okta: a list; Entra: a string)."""
    found = claims.get("scope", claims.get("scp", ""))
    words = found.split() if isinstance(found, str) else found if isinstance(found, list) else []
    return frozenset(word for word in words if isinstance(word, str))


def _refuse_plain_http(url: str) -> None:
    parts = urlsplit(url)
    loopback = parts.hostname in {"127.0.0.1", "::1", "localhost"}
    if not parts.hostname or not (parts.scheme == "https" or (parts.scheme == "http" and loopback)):
        raise ValueError(f"not an https address: {url!r}")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """The keys come from where the configuration says, or not at all."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """Follow nothing; the redirect becomes an `HTTPError`."""


def _fetch(url: str) -> bytes:
    opener = urllib.request.build_opener(_NoRedirects)
    # A socket that says nothing ends here; one that drips ends with KeySet.TIMEOUT_SECONDS.
    with opener.open(url, timeout=2) as answer:  # _refuse_plain_http has seen the address
        body: bytes = answer.read(256 * 1024)
        return body
