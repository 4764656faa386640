"""The token check by itself: what counts, how long, and what happens when the issuer is away."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm
from localcloud.issuer import AUDIENCE, Issuer

from orders.adapters.jwt import LEEWAY_SECONDS, JwtAuthenticator, KeySet
from orders.domain import Caller
from orders.errors import DependencyUnavailable, NotAuthenticated

URL = "https://issuer.test"


class Clock:
    def __init__(self) -> None:
        self.offset = 0.0

    def wall(self) -> float:
        return time.time() + self.offset

    def steady(self) -> float:
        return 1000.0 + self.offset


class Web:
    """Answers for the issuers, and counts."""

    def __init__(self, *issuers: Issuer) -> None:
        self.issuers = issuers
        self.asked: list[str] = []
        self.away = False

    async def __call__(self, url: str) -> bytes:
        self.asked.append(url)
        if self.away:
            raise ConnectionRefusedError
        keys = [issuer.public_jwk for issuer in self.issuers]
        path = url.removeprefix(URL)
        documents = self.issuers[0].documents() | {"/.well-known/jwks.json": {"keys": keys}}
        return json.dumps(documents[path]).encode()


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer(URL)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def web(issuer: Issuer) -> Web:
    return Web(issuer)


@pytest.fixture
def authenticator(web: Web, clock: Clock) -> JwtAuthenticator:
    return JwtAuthenticator(URL, AUDIENCE, KeySet(URL, web, clock.steady), clock.wall)


def caller(authenticator: JwtAuthenticator, token: str) -> Caller:
    return asyncio.run(authenticator.caller(f"Bearer {token}"))


def refused(authenticator: JwtAuthenticator, token: str) -> str:
    with pytest.raises(NotAuthenticated) as refusal:
        caller(authenticator, token)
    return str(refusal.value)


def test_a_good_token_names_its_caller(authenticator: JwtAuthenticator, issuer: Issuer) -> None:
    found = caller(authenticator, issuer.token("alice", "orders:read openid"))
    assert found == Caller("alice", frozenset({"orders:read", "openid"}))


@pytest.mark.parametrize(
    ("claims", "scopes"),
    [
        ({"scope": None, "scp": ["orders:read"]}, {"orders:read"}),
        ({"scope": None, "scp": "orders:read orders:write"}, {"orders:read", "orders:write"}),
        ({"scope": None}, set()),
        ({"scope": {"orders:admin": True}}, set()),
        ({"scope": ["orders:read", 7]}, {"orders:read"}),
        ({"scope": "openid", "scp": "orders:admin"}, {"openid"}),
    ],
)
def test_scopes_come_from_scope_or_scp(
    authenticator: JwtAuthenticator, issuer: Issuer, claims: dict[str, Any], scopes: set[str]
) -> None:
    assert caller(authenticator, issuer.token("alice", **claims)).scopes == scopes


def test_an_elliptic_key_counts_too() -> None:
    key = ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()), as_dict=True)
    issuer = Issuer(URL, key | {"kid": "elliptic", "alg": "ES256"})
    authenticator = JwtAuthenticator(URL, AUDIENCE, KeySet(URL, Web(issuer)))
    assert caller(authenticator, issuer.token("alice")).subject == "alice"


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"aud": "other"}, "not valid"),
        ({"aud": None}, "not valid"),
        ({"aud": []}, "not valid"),
        ({"iss": URL + "/"}, "not valid"),
        ({"iss": None}, "not valid"),
        ({"sub": None}, "not valid"),
        ({"sub": ""}, "not valid"),
        ({"sub": 7}, "not valid"),
        ({"sub": "x" * 256}, "not valid"),
        ({"exp": None}, "not valid"),
        ({"exp": "soon"}, "not valid"),
        ({"exp": 1e400}, "not valid"),
        ({"exp": [1]}, "not valid"),
        ({"exp": int(time.time()) - LEEWAY_SECONDS - 1}, "has expired"),
        ({"nbf": int(time.time()) + 3600}, "not valid"),
        ({"iat": int(time.time()) + 3600}, "not valid"),
    ],
)
def test_claims_that_are_refused(
    authenticator: JwtAuthenticator, issuer: Issuer, claims: dict[str, Any], reason: str
) -> None:
    sub = claims.get("sub", "alice")
    assert reason in refused(
        authenticator, issuer.token(sub, **{k: v for k, v in claims.items() if k != "sub"})
    )


@pytest.mark.parametrize(
    "header", [{"typ": "logout+jwt"}, {"kid": "other"}, {"crit": ["exp"]}, {"typ": ["at+jwt"]}]
)
def test_headers_that_are_refused(
    authenticator: JwtAuthenticator, issuer: Issuer, header: dict[str, Any]
) -> None:
    good = {"iss": URL, "aud": AUDIENCE, "sub": "alice", "exp": int(time.time()) + 60}
    assert caller(authenticator, issuer.sign(good)).subject == "alice"
    refused(authenticator, issuer.sign(good, **header))


def test_clocks_may_differ_a_little(authenticator: JwtAuthenticator, issuer: Issuer) -> None:
    now = int(time.time())
    assert caller(authenticator, issuer.token("alice", exp=now - LEEWAY_SECONDS + 10))
    assert caller(authenticator, issuer.token("alice", nbf=now + LEEWAY_SECONDS - 10))


def test_a_known_token_is_not_verified_again_and_ends_in_time(
    authenticator: JwtAuthenticator, issuer: Issuer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = issuer.token("alice", valid_seconds=60)
    caller(authenticator, token)

    def verify(*_: Any, **__: Any) -> None:
        raise jwt.ExpiredSignatureError

    monkeypatch.setattr(jwt, "decode", verify)
    assert caller(authenticator, token).subject == "alice"
    clock.offset = 61
    refused(authenticator, token)


def test_what_is_remembered_is_bounded(
    authenticator: JwtAuthenticator, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orders.adapters.jwt._TOKENS_KEPT", 3)
    for n in range(10):
        caller(authenticator, issuer.token(f"caller-{n}"))
        assert len(authenticator._known) <= 3


class TestKeys:
    def test_are_asked_for_once(self, authenticator: JwtAuthenticator, issuer: Issuer, web: Web) -> None:
        for n in range(5):
            caller(authenticator, issuer.token(f"caller-{n}"))
        assert web.asked == [f"{URL}/.well-known/openid-configuration", f"{URL}/.well-known/jwks.json"]

    def test_a_new_one_is_found(
        self, authenticator: JwtAuthenticator, issuer: Issuer, web: Web, clock: Clock
    ) -> None:
        caller(authenticator, issuer.token("alice"))
        rotated = Issuer(URL, kid="key-2")
        web.issuers = (issuer, rotated)
        clock.offset = KeySet.COOLDOWN_SECONDS
        assert caller(authenticator, rotated.token("bob")).subject == "bob"

    def test_unknown_ones_cannot_make_us_ask_without_end(
        self, authenticator: JwtAuthenticator, issuer: Issuer, web: Web
    ) -> None:
        for n in range(20):
            refused(authenticator, Issuer(URL, issuer.jwk | {"kid": f"made-up-{n}"}).token("mallory"))
        assert len(web.asked) == 2

    def test_withdrawing_one_ends_its_tokens(
        self, authenticator: JwtAuthenticator, issuer: Issuer, web: Web, clock: Clock
    ) -> None:
        token = issuer.token("alice")
        caller(authenticator, token)
        web.issuers = (Issuer(URL, kid="key-2"),)
        clock.offset = KeySet.LIFETIME_SECONDS
        refused(authenticator, token)

    def test_outlast_an_absent_issuer_for_a_while(
        self, authenticator: JwtAuthenticator, issuer: Issuer, web: Web, clock: Clock
    ) -> None:
        token = issuer.token("alice", valid_seconds=9000)
        caller(authenticator, token)
        web.away = True
        clock.offset = KeySet.STALE_SECONDS - 1
        assert caller(authenticator, token).subject == "alice"
        clock.offset = KeySet.STALE_SECONDS + 60
        with pytest.raises(DependencyUnavailable):
            caller(authenticator, token)

    def test_without_any_the_caller_may_try_again(
        self, authenticator: JwtAuthenticator, issuer: Issuer, web: Web, clock: Clock
    ) -> None:
        web.away = True
        for _ in range(3):
            with pytest.raises(DependencyUnavailable):
                caller(authenticator, issuer.token("alice"))
        assert len(web.asked) == 1  # a crowd of callers does not become a crowd at the issuer
        web.away = False
        clock.offset = KeySet.COOLDOWN_SECONDS
        assert caller(authenticator, issuer.token("alice"))

    def test_a_crowd_asks_once(self, authenticator: JwtAuthenticator, issuer: Issuer, web: Web) -> None:
        async def crowd() -> list[Caller]:
            tokens = [issuer.token(f"caller-{n}") for n in range(10)]
            return await asyncio.gather(*(authenticator.caller(f"Bearer {token}") for token in tokens))

        assert len({each.subject for each in asyncio.run(crowd())}) == 10
        assert len(web.asked) == 2

    @pytest.mark.parametrize(
        "documents",
        [
            {},
            {"/.well-known/openid-configuration": []},
            {"/.well-known/openid-configuration": {"issuer": "https://other.test", "jwks_uri": URL}},
            {"/.well-known/openid-configuration": {"issuer": URL, "jwks_uri": "http://issuer.test/keys"}},
            {"/.well-known/openid-configuration": {"issuer": URL, "jwks_uri": "file:///etc/passwd"}},
            {"/.well-known/openid-configuration": {"issuer": URL, "jwks_uri": 7}},
            {"/.well-known/jwks.json": {"keys": {"kty": "RSA"}}},
            {"/.well-known/jwks.json": []},
        ],
    )
    def test_nonsense_from_the_issuer_is_no_key(self, issuer: Issuer, documents: dict[str, Any]) -> None:
        answers = (issuer.documents() | documents) if documents else {}

        async def fetch(url: str) -> bytes:
            return json.dumps(answers[url.removeprefix(URL)]).encode()

        authenticator = JwtAuthenticator(URL, AUDIENCE, KeySet(URL, fetch))
        with pytest.raises(DependencyUnavailable):
            caller(authenticator, issuer.token("alice"))

    @pytest.mark.parametrize(
        "change",
        [
            {"use": "enc"},
            {"alg": "RS512"},
            {"alg": ["RS256"]},
            {"alg": "none"},
            {"kid": None},
            {"kid": ["key-1"]},
            {"kty": "oct", "k": "c2VjcmV0"},
            {"kty": "oct", "alg": "HS256"},
            {"n": "AQ"},
            {"n": 7},
        ],
    )
    def test_of_other_kinds_are_left_out(self, issuer: Issuer, change: dict[str, Any]) -> None:
        """And the good one beside them still counts."""
        other = Issuer(URL, kid="other")
        answers = issuer.documents()
        answers["/.well-known/jwks.json"] = {
            "keys": ["nonsense", other.public_jwk | change, issuer.public_jwk]
        }

        async def fetch(url: str) -> bytes:
            return json.dumps(answers[url.removeprefix(URL)]).encode()

        authenticator = JwtAuthenticator(URL, AUDIENCE, KeySet(URL, fetch))
        refused(authenticator, other.token("alice"))
        assert caller(authenticator, issuer.token("alice")).subject == "alice"


def test_the_keys_come_over_http_too(tmp_path: Path) -> None:
    """The development issuer and the fetching itself, over loopback."""
    issuer = Issuer.load(tmp_path / "issuer.json")
    assert (tmp_path / "issuer.json").stat().st_mode & 0o077 == 0
    assert Issuer.load(tmp_path / "issuer.json").jwk == issuer.jwk
    server = issuer.serve()
    try:
        authenticator = JwtAuthenticator(issuer.url, AUDIENCE)
        assert caller(authenticator, issuer.token("alice")).subject == "alice"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    "url",
    ["http://issuer.test", "ftp://issuer.test", "issuer.test", "https://", "http://127.0.0.1.evil.test"],
)
def test_an_issuer_without_tls_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="https"):
        JwtAuthenticator(url, AUDIENCE)


def test_an_audience_is_needed() -> None:
    with pytest.raises(ValueError, match="audience"):
        JwtAuthenticator(URL, "")
