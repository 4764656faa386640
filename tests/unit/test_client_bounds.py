"""When and how often services are asked, and how much they may answer: the last that is within a bound, the
first that is not.

The figures are written out: a test that reads them from the code agrees with whatever it says.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from localcloud.issuer import AUDIENCE, Issuer
from tests.faulty_server import Behaviour, Server, rejects, responds, serving

from app.core.auth.jwt import JwtAuthenticator, KeySet
from app.core.aws import credentials, http1, json_client
from app.core.aws.client import AwsCallError
from app.core.aws.credentials import CredentialsChain
from app.core.aws.http1 import Response
from app.core.aws.json_client import AwsJsonClient, parse_error
from app.core.errors import DependencyUnavailable, NotAuthenticated

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}


class Clock:
    """Replaces the module `time`: a clock that does not advance by itself, and begins far from 0."""

    def __init__(self) -> None:
        self.passed = 0.0

    def time(self) -> float:
        return 1_767_323_045.0 + self.passed

    def monotonic(self) -> float:
        return 5_000.0 + self.passed


@pytest.fixture(autouse=True)
def no_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/nowhere")


class TestConnections:
    """Of the client for DynamoDB and KMS."""

    @pytest.fixture(autouse=True)
    def patient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A busy machine is no reason to try again."""
        monkeypatch.setattr(json_client, "ATTEMPT_SECONDS", 20.0)
        monkeypatch.setattr(json_client, "DEADLINE_SECONDS", 50.0)
        monkeypatch.setattr(http1, "CONNECT_SECONDS", 20.0)
        monkeypatch.setattr(json_client, "BACKOFF_SECONDS", 0.0)

    def client(self, server: Server) -> AwsJsonClient:
        return AwsJsonClient(
            "dynamodb", "DynamoDB_20120810", endpoint=(server.url, "eu-west-1"), environ=KEYS
        )

    @pytest.mark.parametrize(("seconds", "connections"), [(0.0, 1), (49.9, 1), (50.0, 2), (60.0, 2)])
    async def test_one_that_was_idle_for_50_seconds_is_not_used(
        self, seconds: float, connections: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = Clock()
        monkeypatch.setattr(http1, "time", clock)
        async with serving() as server:
            client = self.client(server)
            await client.call("GetItem", {})
            clock.passed += seconds
            await client.call("GetItem", {})
            assert server.connections == connections

    @pytest.mark.parametrize(("size", "tries"), [(8_000_000, 1), (8_000_001, 2)])
    async def test_an_answer_has_8_million_bytes_at_most(self, size: int, tries: int) -> None:
        """All of it, the head too."""
        head = len("HTTP/1.1 200 Whatever\r\ncontent-length: 7999999\r\n\r\n")
        body = b'{"Item": "%s"}' % (b"x" * (size - head - len('{"Item": ""}')))
        assert len(body) + head == size
        async with serving(responds(body)) as server:
            assert await self.client(server).call("GetItem", {})
            assert len(server.requests) == tries

    @pytest.mark.parametrize(("size", "tries"), [(16_384, 1), (16_385, 2)])
    async def test_a_head_has_16_kib_at_most(self, size: int, tries: int) -> None:
        beginning = b"HTTP/1.1 200 OK\r\nx-filler: ".ljust(size, b"x")

        async def behave(writer: asyncio.StreamWriter) -> bool:
            writer.write(beginning)
            await writer.drain()
            await asyncio.sleep(0.3)  # so that it comes by itself
            writer.write(b"\r\ncontent-length: 2\r\n\r\n{}")
            return True

        async with serving(behave) as server:
            await self.client(server).call("GetItem", {})
            assert len(server.requests) == tries

    @pytest.mark.parametrize(
        ("status", "tries"), [(400, 1), (499, 1), (500, 4), (503, 4), (304, 4), (399, 4)]
    )
    async def test_a_call_is_tried_4_times_if_it_may_pass(self, status: int, tries: int) -> None:
        async with serving(*[responds(b"{}", status)] * 9) as server:
            with pytest.raises((AwsCallError, DependencyUnavailable)) as caught:
                await self.client(server).call("GetItem", {})
            assert len(server.requests) == tries
            assert isinstance(caught.value, AwsCallError) == (tries == 1)

    async def test_retries_have_a_budget_of_20_and_5_successes_earn_one(self) -> None:
        async with serving(*[rejects("InternalServerError", 500)] * 999) as server:
            client = self.client(server)

            async def fail() -> int:
                before = len(server.requests)
                with pytest.raises(DependencyUnavailable):
                    await client.call("GetItem", {})
                return len(server.requests) - before

            assert [await fail() for _ in range(8)] == [4, 4, 4, 4, 4, 4, 3, 1]
            for successes, tries in ((4, 1), (1, 2), (5, 2), (10, 3), (0, 1)):
                failures, server.script = server.script, []
                for _ in range(successes):
                    await client.call("GetItem", {})
                server.script = failures
                assert await fail() == tries

    async def test_a_budget_does_not_grow_beyond_its_beginning(self) -> None:
        async with serving() as server:
            client = self.client(server)
            for _ in range(20):
                await client.call("GetItem", {})
            server.script = [rejects("InternalServerError", 500)] * 999
            before = len(server.requests)
            for _ in range(9):
                with pytest.raises(DependencyUnavailable):
                    await client.call("GetItem", {})
            assert len(server.requests) - before == 9 + 20


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (400, b'{"__type": "com.amazonaws.dynamodb.v20120810#ValidationException"}', "ValidationException"),
        (400, b'{"__type": "ValidationException"}', "ValidationException"),
        (400, b"{}", "400"),
        (503, b"<html>", "503"),
        (599, b"", "599"),
    ],
)
def test_a_rejection_is_called_by_its_code_or_its_status(status: int, body: bytes, code: str) -> None:
    assert parse_error(Response(status, body)).code == code


class TestCredentials:
    """Of a task: from its agent, with an expiry."""

    def chain(self, monkeypatch: pytest.MonkeyPatch, *script: int | None) -> tuple[CredentialsChain, Clock]:
        """Return a chain and its clock; the agent gives keys that last so many seconds, or fails (None)."""
        clock, seconds_left = Clock(), list(script)
        self.asked_at: list[float] = []

        class Agent:
            def __init__(self, *_: Any) -> None:
                """Take any address."""

            async def exchange(_, request: bytes, deadline: float) -> Response:  # noqa: N805
                self.asked_at.append(clock.passed)
                lasts = seconds_left.pop(0) if seconds_left else None
                if lasts is None:
                    raise ConnectionRefusedError
                name = f"key{len(self.asked_at)}"
                ends = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(clock.time() + lasts))
                body = {"AccessKeyId": name, "SecretAccessKey": "s", "Token": "t", "Expiration": ends}
                return Response(200, json.dumps(body).encode())

            def close(_) -> None:  # noqa: N805
                """Nothing is open."""

        monkeypatch.setattr("app.core.aws.http1.Pool", Agent)
        monkeypatch.setattr(credentials, "time", clock)
        environ = {"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2/credentials/1"}
        return CredentialsChain(environ), clock

    def get(self, chain: CredentialsChain) -> str:
        try:
            return (chain.current or asyncio.run(chain.renew())).access_key
        except DependencyUnavailable:
            return "none"

    def test_are_renewed_5_minutes_before_they_expire(self, monkeypatch: pytest.MonkeyPatch) -> None:
        chain, clock = self.chain(monkeypatch, 3600, 3600)
        found = {}
        for clock.passed in (0, 3299.9, 3300, 3301):
            found[clock.passed] = self.get(chain)
        assert found == {0: "key1", 3299.9: "key1", 3300: "key2", 3301: "key2"}

    def test_that_cannot_be_renewed_are_used_to_their_end_and_renewed_every_10_seconds(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        chain, clock = self.chain(monkeypatch, 3600)
        found = {}
        for clock.passed in (0, 3300, 3309.9, 3310, 3319.9, 3320, 3590, 3600):
            found[clock.passed] = self.get(chain)
        assert self.asked_at == [0, 3300, 3310, 3320, 3590, 3600]
        assert found == dict.fromkeys((0, 3300, 3309.9, 3310, 3319.9, 3320, 3590), "key1") | {3600: "none"}

    def test_that_do_not_last_5_minutes_are_used_for_10_seconds(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        chain, clock = self.chain(monkeypatch, 60, 60)
        for clock.passed in (0, 9.9, 10):
            assert self.get(chain) == ("key1" if clock.passed < 10 else "key2")

    @pytest.mark.parametrize(
        ("share", "asked_at"),
        [(1.0, [0, 1, 3, 7, 15, 31, 61, 91]), (0.5, [0, 0.5, 1.5, 3.5, 7.5, 15.5, 30.5, 45.5])],
    )
    def test_pauses_double_from_1_second_to_30_and_are_half_as_long_at_least(
        self, share: float, asked_at: list[float], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        chain, clock = self.chain(monkeypatch)
        bounds = set()

        def drawn(low: float, high: float) -> float:
            bounds.add((low, high))
            return share

        monkeypatch.setattr(credentials.random, "uniform", drawn)
        while len(self.asked_at) < len(asked_at) and clock.passed < 200:
            assert self.get(chain) == "none"
            clock.passed += 0.25
        assert self.asked_at == asked_at
        assert bounds == {(0.5, 1)}

    @pytest.mark.parametrize(("calm", "next_pause"), [(29.9, 2), (30, 1), (31, 1)])
    def test_a_failure_half_a_minute_after_a_pause_is_a_new_story(
        self, calm: float, next_pause: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        chain, clock = self.chain(monkeypatch)
        monkeypatch.setattr(credentials.random, "uniform", lambda _, high: high)
        self.get(chain)
        clock.passed = second = 1 + calm
        self.get(chain)
        for clock.passed in (second + next_pause - 0.25, second + next_pause):
            self.get(chain)
        assert self.asked_at == [0, second, second + next_pause]


class TestKeysOfTheIssuer:
    URL = "https://issuer.test"

    def known(self, clock: Clock) -> tuple[JwtAuthenticator, Issuer, list[float]]:
        issuer, asked_at = Issuer(self.URL), list[float]()
        self.is_away = False

        async def fetch(url: str) -> bytes:
            asked_at.append(clock.passed)
            if self.is_away:
                raise ConnectionRefusedError
            return json.dumps(issuer.documents()[url.removeprefix(self.URL)]).encode()

        keys = KeySet(self.URL, fetch, clock.monotonic)
        return JwtAuthenticator(self.URL, AUDIENCE, keys), issuer, asked_at

    def is_taken(self, authenticator: JwtAuthenticator, token: str) -> bool:
        try:
            return asyncio.run(authenticator.caller(f"Bearer {token}")).subject == "alice"
        except NotAuthenticated:
            return False

    def test_are_asked_for_again_after_5_minutes(self) -> None:
        clock = Clock()
        authenticator, issuer, asked_at = self.known(clock)
        token = issuer.token("alice")
        for clock.passed in (0, 299.9, 300, 301, 599.9, 600):
            assert self.is_taken(authenticator, token)
        assert asked_at == [0, 0, 300, 300, 600, 600]  # the discovery document, then the keys

    def test_are_trusted_for_an_hour_without_the_issuer(self) -> None:
        clock = Clock()
        authenticator, issuer, _ = self.known(clock)
        token = issuer.token("alice")
        for clock.passed in (0, 3599.9):
            assert self.is_taken(authenticator, token)
            self.is_away = True
        clock.passed = 3600
        with pytest.raises(DependencyUnavailable):
            self.is_taken(authenticator, token)

    def test_that_are_not_known_are_asked_for_every_10_seconds(self) -> None:
        clock = Clock()
        authenticator, issuer, asked_at = self.known(clock)
        token = Issuer(self.URL, issuer.jwk | {"kid": "other"}).token("alice")
        for clock.passed in (0, 9.9, 10, 19.9, 20):
            assert not self.is_taken(authenticator, token)
        assert asked_at == [0, 0, 10, 10, 20, 20]

    @pytest.mark.parametrize(("size", "is_taken"), [(256 * 1024, True), (256 * 1024 + 1, False)])
    async def test_come_in_documents_of_256_kib_at_most(
        self, size: int, is_taken: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(KeySet, "TIMEOUT_SECONDS", 30.0)
        async with serving() as server:
            issuer = Issuer(server.url)
            documents: list[Behaviour] = [
                responds(json.dumps(each).encode().ljust(size)) for each in issuer.documents().values()
            ]
            server.script = documents
            assert (await KeySet(server.url).get(issuer.jwk["kid"]) is not None) is is_taken

    def test_a_token_ends_30_seconds_after_its_time(self) -> None:
        """Never earlier: a busy machine only makes it later."""
        authenticator, issuer, _ = self.known(Clock())
        for late, is_taken in ((10, True), (30, False), (31, False)):
            assert (
                self.is_taken(authenticator, issuer.token("alice", exp=int(time.time()) - late)) is is_taken
            )
