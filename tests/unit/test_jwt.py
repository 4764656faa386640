"""The token check by itself: what counts, how long, and what happens when the issuer is away."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import threading
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm
from localcloud.issuer import AUDIENCE, Issuer
from tests.faulty_server import Behaviour, hangs, resets, responds, sends, serving

from app.core.auth import jwt as module
from app.core.auth.caller import Caller
from app.core.auth.jwt import LEEWAY_SECONDS, JwtAuthenticator, KeySet
from app.core.aws.client import PLACES
from app.core.errors import DependencyUnavailable, NotAuthenticated
from app.core.ids import id_for

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


def rejected(authenticator: JwtAuthenticator, token: str) -> str:
    with pytest.raises(NotAuthenticated) as rejection:
        caller(authenticator, token)
    return str(rejection.value)


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
        ({"exp": 10**400}, "not valid"),
        ({"sub": "\ud800"}, "not valid"),
        ({"sub": "alice\ud800"}, "not valid"),
        ({"sub": "alice\x00"}, "not valid"),
        ({"sub": "alice\n"}, "not valid"),
        ({"sub": "\u202ealice"}, "not valid"),
        ({"exp": int(time.time()) - LEEWAY_SECONDS - 1}, "has expired"),
        ({"nbf": int(time.time()) + 3600}, "not valid"),
        ({"iat": int(time.time()) + 3600}, "not valid"),
    ],
)
def test_claims_that_are_rejected(
    authenticator: JwtAuthenticator, issuer: Issuer, claims: dict[str, Any], reason: str
) -> None:
    sub = claims.get("sub", "alice")
    assert reason in rejected(
        authenticator, issuer.token(sub, **{k: v for k, v in claims.items() if k != "sub"})
    )


@pytest.mark.parametrize(
    "header", [{"typ": "logout+jwt"}, {"kid": "other"}, {"crit": ["exp"]}, {"typ": ["at+jwt"]}]
)
def test_headers_that_are_rejected(
    authenticator: JwtAuthenticator, issuer: Issuer, header: dict[str, Any]
) -> None:
    good = {"iss": URL, "aud": AUDIENCE, "sub": "alice", "exp": int(time.time()) + 60}
    assert caller(authenticator, issuer.sign(good)).subject == "alice"
    rejected(authenticator, issuer.sign(good, **header))


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(issuer: Issuer, header: bytes, body: bytes) -> str:
    """Sign what no library would."""
    key = issuer._private
    start = f"{b64(header)}.{b64(body)}"
    return f"{start}.{b64(key.Algorithm.sign(start.encode(), key.key))}"


# As JSON, for Python's module writes no lone surrogates, and no number that it cannot read again.
ODD = st.one_of(
    st.sampled_from(
        (
            *("NaN", "Infinity", "-Infinity", "1e400", "-0", "1" + "0" * 400, "9" * 5000),
            *('"\\ud800"', '"\\u0000"', '"9999999999"', "[[]]", "[null]", "{}"),
            *("[" * 2000 + "]" * 2000, '{"a":' * 1000 + "1" + "}" * 1000),
        )
    ),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=300),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=5,
    ).map(json.dumps),
)
CLAIMS = ("iss", "aud", "sub", "exp", "nbf", "iat", "jti", "scope", "scp")
HEADERS = ("typ", "alg", "kid", "crit", "b64", "zip", "cty", "jwk", "x5c")


def written(good: dict[str, Any], odd: dict[str, str]) -> bytes:
    texts = {name: json.dumps(value) for name, value in good.items()} | odd
    return ("{" + ",".join(f'"{name}":{text}' for name, text in texts.items()) + "}").encode()


@given(
    st.dictionaries(st.sampled_from(CLAIMS), ODD, min_size=1, max_size=2),
    st.dictionaries(st.sampled_from(HEADERS), ODD, max_size=1),
)
@example({"sub": '"\\ud800"'}, {})
@example({"exp": "1" + "0" * 400}, {})
@settings(max_examples=100, deadline=None)
def test_whatever_is_signed_counts_or_is_rejected(claims: dict[str, str], headers: dict[str, str]) -> None:
    """It raises nothing else, and who counts can be stored, and used as a key."""
    issuer, now = FUZZED, int(time.time())
    good = {"iss": URL, "aud": AUDIENCE, "sub": "alice", "exp": now + 600}
    header = written({"alg": "RS256", "kid": issuer.jwk["kid"]}, headers)
    token = signed(issuer, header, written(good, claims))
    authenticator = JwtAuthenticator(URL, AUDIENCE, KeySet(URL, Web(issuer)))
    try:
        found = caller(authenticator, token)
    except NotAuthenticated:
        return
    assert found.subject is not None
    assert 0 < len(f"owner#{found.subject}".encode()) <= 2048
    assert all(isinstance(scope, str) for scope in found.scopes)
    id_for(found.subject, "key")


FUZZED = Issuer(URL)


class TestSpelling:
    """One token counts in one spelling: the others would fill what is remembered."""

    def test_others_do_not_count(self, authenticator: JwtAuthenticator, issuer: Issuer) -> None:
        token = issuer.token("alice")
        caller(authenticator, token)
        spare = [f"{token[:-1]}{chr(ord(token[-1]) + n)}" for n in (1, 2)]
        for other in (
            *spare,
            f"{token}=",
            f"{token}==",
            f"{token}\t",
            f"{token[:-9]}!{token[-9:]}",
            f"{token}é",
        ):
            rejected(authenticator, other)
        assert len(authenticator._known) == 1

    @pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer  "])
    def test_the_scheme_may_be_spelled_as_http_allows(
        self, authenticator: JwtAuthenticator, issuer: Issuer, scheme: str
    ) -> None:
        token = issuer.token("alice")
        for _ in range(2):
            assert asyncio.run(authenticator.caller(f"{scheme} {token}")).subject == "alice"
        assert len(authenticator._known) == 1


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
    rejected(authenticator, token)


def test_what_is_remembered_is_bounded(
    authenticator: JwtAuthenticator, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.core.auth.jwt._TOKENS_KEPT", 3)
    for n in range(10):
        caller(authenticator, issuer.token(f"caller-{n}"))
        assert len(authenticator._known) <= 3


def test_who_has_many_tokens_pushes_out_none_but_its_own(
    authenticator: JwtAuthenticator, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TOKENS_KEPT", 20)
    others = [issuer.token(f"caller-{n}") for n in range(8)]
    for token in others:
        caller(authenticator, token)
    for n in range(50):
        caller(authenticator, issuer.token("mallory", jti=f"{n}"))
    kept = {known[2].subject for known in authenticator._known.values()}
    assert kept == {f"caller-{n}" for n in range(8)} | {"mallory"}
    assert len(authenticator._known) == 8 + 8
    assert sum(map(len, authenticator._known_of.values())) == len(authenticator._known)


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

    def test_withdrawing_one_ends_its_tokens(
        self, authenticator: JwtAuthenticator, issuer: Issuer, web: Web, clock: Clock
    ) -> None:
        token = issuer.token("alice")
        caller(authenticator, token)
        web.issuers = (Issuer(URL, kid="key-2"),)
        clock.offset = KeySet.LIFETIME_SECONDS
        rejected(authenticator, token)

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

    async def test_a_crowd_asks_once(self, authenticator: JwtAuthenticator, issuer: Issuer, web: Web) -> None:
        tokens = [issuer.token(f"caller-{n}") for n in range(10)]
        crowd = await asyncio.gather(*(authenticator.caller(f"Bearer {token}") for token in tokens))
        assert len({caller.subject for caller in crowd}) == 10
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
        rejected(authenticator, other.token("alice"))
        assert caller(authenticator, issuer.token("alice")).subject == "alice"


class Slow:
    """An issuer that answers when it is let, and counts who asks."""

    def __init__(self, issuer: Issuer) -> None:
        self.issuer = issuer
        self.let = asyncio.Event()
        self.asked = 0

    async def __call__(self, url: str) -> bytes:
        self.asked += 1
        await self.let.wait()
        return json.dumps(self.issuer.documents()[url.removeprefix(URL)]).encode()


class TestAnIssuerThatHangs:
    """Good callers go on. Nobody waits but the one that asks, and a few when no keys are known at all."""

    async def hanging(self, issuer: Issuer, clock: Clock) -> tuple[Slow, JwtAuthenticator, str]:
        """Return an issuer that hangs since a good caller's keys were fetched, and that caller's header."""
        web = Slow(issuer)
        web.let.set()
        authenticator = JwtAuthenticator(URL, AUDIENCE, KeySet(URL, web, clock.steady), clock.wall)
        good = f"Bearer {issuer.token('alice', valid_seconds=9000)}"
        await authenticator.caller(good)
        web.let.clear()
        return web, authenticator, good

    @pytest.mark.parametrize(
        "age", [KeySet.COOLDOWN_SECONDS, KeySet.LIFETIME_SECONDS, KeySet.STALE_SECONDS - 1]
    )
    async def test_good_callers_go_on_while_it_is_asked(
        self, issuer: Issuer, clock: Clock, age: float
    ) -> None:
        web, authenticator, good = await self.hanging(issuer, clock)
        web.asked, clock.offset = 0, age
        junk = [Issuer(URL, issuer.jwk | {"kid": f"made-up-{n}"}).token("mallory") for n in range(5)]
        asking = asyncio.create_task(authenticator.caller(f"Bearer {junk.pop()}"))
        while not web.asked:  # noqa: ASYNC110 - it has come to the issuer
            await asyncio.sleep(0)
        async with asyncio.timeout(10):  # at once: they would wait for good
            for token in junk:
                with pytest.raises(NotAuthenticated):
                    await authenticator.caller(f"Bearer {token}")
            assert (await authenticator.caller(good)).subject == "alice"
            fresh = issuer.token("bob", valid_seconds=9000)
            assert (await authenticator.caller(f"Bearer {fresh}")).subject == "bob"
        assert not asking.done()
        assert web.asked == 1
        web.let.set()
        with pytest.raises(NotAuthenticated):
            await asking

    async def test_who_asks_goes_on_after_a_moment(
        self, issuer: Issuer, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(KeySet, "PATIENCE_SECONDS", 0.05)
        monkeypatch.setattr(KeySet, "TIMEOUT_SECONDS", 60.0)
        web, authenticator, good = await self.hanging(issuer, clock)
        clock.offset = KeySet.LIFETIME_SECONDS
        for _ in range(3):
            assert await authenticator.caller(good)
        assert web.asked == 3  # two documents, and the first again
        web.let.set()
        while authenticator._keys.are_old:  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # it was asked to the end

    async def test_without_keys_few_wait_and_the_others_are_told(
        self, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(PLACES, "token issuer", 3)
        web = Slow(issuer)
        authenticator = JwtAuthenticator(URL, AUDIENCE, KeySet(URL, web))
        tokens = [issuer.token(f"caller-{n}") for n in range(9)]
        waiting = {asyncio.create_task(authenticator.caller(f"Bearer {token}")) for token in tokens}
        while len(waiting) > 4:  # the one that asks, and three that wait
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                with pytest.raises(DependencyUnavailable):
                    task.result()
        web.let.set()
        assert all(isinstance(caller, Caller) for caller in await asyncio.gather(*waiting))
        assert web.asked == 2

    async def test_who_leaves_does_not_end_it_for_the_others(self, issuer: Issuer) -> None:
        web = Slow(issuer)
        authenticator = JwtAuthenticator(URL, AUDIENCE, KeySet(URL, web))
        first, second = (
            asyncio.create_task(authenticator.caller(f"Bearer {issuer.token(name)}"))
            for name in ("alice", "bob")
        )
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        web.let.set()
        assert (await second).subject == "bob"
        assert web.asked == 2


async def drips(writer: asyncio.StreamWriter) -> bool:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
    while True:
        writer.write(b" ")
        await asyncio.sleep(0.01)
        await writer.drain()


class TestFetching:
    """Over a real socket: bounded in time and in bytes, from nowhere else, and without a thread."""

    @pytest.mark.parametrize(
        "behave",
        [
            pytest.param(hangs, id="says nothing"),
            pytest.param(drips, id="drips"),
            pytest.param(
                sends(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 9000, keep=True), id="headers without end"
            ),
            pytest.param(responds(b" " * 300_000), id="huge"),
            pytest.param(responds(b"[" * 100_000), id="nested deep"),
            pytest.param(responds(b"\xff"), id="no UTF-8"),
            pytest.param(responds(b"", 304), id="304"),
            pytest.param(responds(b"{}", 500), id="500"),
            pytest.param(resets, id="reset"),
        ],
    )
    @pytest.mark.parametrize("document", [0, 1])
    async def test_a_faulty_issuer_is_given_up(
        self,
        behave: Behaviour,
        document: int,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        if behave in (hangs, drips):
            monkeypatch.setattr(KeySet, "TIMEOUT_SECONDS", 0.5)
        caplog.set_level(logging.CRITICAL)
        async with serving() as server:
            issuer = Issuer(server.url)
            good = [responds(json.dumps(document).encode()) for document in issuer.documents().values()]
            server.script = [*good[:document], behave]
            threads = threading.active_count()
            authenticator = JwtAuthenticator(server.url, AUDIENCE)
            with pytest.raises(DependencyUnavailable) as caught:
                await authenticator.caller(f"Bearer {issuer.token('alice')}")
            assert caught.value.dependency == "token issuer"
            assert threading.active_count() == threads
            assert len(server.requests) <= document + 1
            monkeypatch.setattr(KeySet, "TIMEOUT_SECONDS", 30.0)
            monkeypatch.setattr(KeySet, "COOLDOWN_SECONDS", 0.0)
            server.script = good
            assert await authenticator.caller(f"Bearer {issuer.token('alice')}")

    async def test_a_redirect_leads_nowhere(self) -> None:
        async with serving() as elsewhere, serving() as server:
            issuer = Issuer(server.url)
            elsewhere.script = [
                responds(json.dumps(document).encode()) for document in issuer.documents().values()
            ]
            server.script = [responds(b"", 302, f"location: {elsewhere.url}/")]
            with pytest.raises(DependencyUnavailable):
                await JwtAuthenticator(server.url, AUDIENCE).caller(f"Bearer {issuer.token('alice')}")
            assert not elsewhere.requests


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
def test_an_issuer_without_tls_is_rejected(url: str) -> None:
    with pytest.raises(ValueError, match="https"):
        JwtAuthenticator(url, AUDIENCE)


def test_an_audience_is_needed() -> None:
    with pytest.raises(ValueError, match="audience"):
        JwtAuthenticator(URL, "")
