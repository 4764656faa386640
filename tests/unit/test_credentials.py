"""Where credentials come from, and that they are renewed in time."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from app.core.aws import credentials as module
from app.core.aws.credentials import Credentials, CredentialsChain
from app.core.aws.http1 import Response
from app.core.errors import DependencyUnavailable
from app.orders import documents

Endpoint = Callable[..., list[str]]


def test_a_link_ends_before_the_keys_that_signed_it() -> None:
    """It would end with them: https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-presigned-url.html"""
    assert max(documents.UPLOAD_SECONDS, documents.DOWNLOAD_SECONDS) <= module.RENEW_SECONDS_BEFORE_EXPIRY


def keys(number: int, lasts: timedelta | None = timedelta(hours=6)) -> Response:
    body = {"AccessKeyId": f"key{number}", "SecretAccessKey": "secret", "Token": "token"}
    if lasts is not None:
        body["Expiration"] = (datetime.now(UTC) + lasts).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Response(200, json.dumps(body).encode())


@pytest.fixture(autouse=True)
def no_profile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Endpoint:
    """Let the credentials endpoint give these answers, or raise them; returns the requests it gets."""

    def answer_with(*script: Response | Exception) -> list[str]:
        answers, requests = list(script), list[str]()

        class FakePool:
            def __init__(self, url: Any, *_: Any) -> None:
                self.url = url

            async def exchange(self, request: bytes, deadline: float) -> Response:
                requests.append(f"{self.url.scheme}://{self.url.netloc} {request.decode()}")
                await asyncio.sleep(0)
                answer = answers.pop(0)
                if isinstance(answer, Exception):
                    raise answer
                return answer

            def close(self) -> None:
                """Nothing is open."""

        monkeypatch.setattr("app.core.aws.http1.Pool", FakePool)
        return requests

    return answer_with


class Clock:
    """In the place of the module `time`."""

    def __init__(self) -> None:
        self.passed = 0.0

    def time(self) -> float:
        return time.time() + self.passed

    def monotonic(self) -> float:
        return 1000.0 + self.passed


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def get(chain: CredentialsChain) -> Credentials:
    """As the client does."""
    return chain.current or asyncio.run(chain.renew())


class TestEnvironment:
    def test_keys_of_the_environment_come_first_and_stay(self, endpoint: Endpoint) -> None:
        requests = endpoint()
        chain = CredentialsChain(
            {
                "AWS_ACCESS_KEY_ID": "key",
                "AWS_SECRET_ACCESS_KEY": "secret",
                "AWS_SESSION_TOKEN": "token",
                "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/creds",
            }
        )
        assert get(chain) == Credentials("key", "secret", "token")
        asyncio.run(chain.replace(get(chain)))  # as they are: the clock may have been wrong, and no more
        assert get(chain) == Credentials("key", "secret", "token")
        assert requests == []


class TestContainer:
    ECS = {"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2/credentials/id?a=b"}

    def test_ecs(self, endpoint: Endpoint) -> None:
        requests = endpoint(keys(1))
        chain = CredentialsChain(self.ECS)
        assert get(chain) == get(chain) == Credentials("key1", "secret", "token")
        (request,) = requests
        assert request.startswith("http://169.254.170.2 GET /v2/credentials/id?a=b HTTP/1.1\r\n")

    def test_full_uri_with_a_token_in_a_file(self, endpoint: Endpoint, tmp_path: Path) -> None:
        (tmp_path / "token").write_text("Bearer x\n")
        requests = endpoint(keys(1))
        environ = {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:9001/creds",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(tmp_path / "token"),
        }
        assert get(CredentialsChain(environ)).access_key == "key1"
        assert "authorization: Bearer x\r\n" in requests[0]

    @pytest.mark.parametrize(
        ("url", "works"),
        [
            ("http://169.254.170.23/v1/credentials", True),
            ("http://[fd00:ec2::23]/v1/credentials", True),
            ("http://localhost:1/creds", True),
            ("https://vault.example/creds", True),
            ("http://vault.example/creds", False),
            ("http://10.0.0.1/creds", False),
        ],
    )
    def test_plain_http_is_for_the_machine_itself(self, endpoint: Endpoint, url: str, works: bool) -> None:
        requests = endpoint(keys(1))
        chain = CredentialsChain({"AWS_CONTAINER_CREDENTIALS_FULL_URI": url})
        if works:
            assert get(chain).access_key == "key1"
        else:
            with pytest.raises(DependencyUnavailable):
                get(chain)
            assert requests == []

    def test_a_token_cannot_add_headers(self, endpoint: Endpoint) -> None:
        requests = endpoint(keys(1))
        environ = {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://localhost/creds",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN": "x\r\nhost: evil",
        }
        with pytest.raises(DependencyUnavailable):
            get(CredentialsChain(environ))
        assert requests == []

    @pytest.mark.parametrize(
        "fault",
        [
            TimeoutError(),
            ConnectionError(),
            Response(500, b""),
            Response(302, b""),
            *(Response(200, body) for body in (b"<html>", b"{}", b"[]", b"null", b"\xff", b"[" * 9999)),
            *(
                Response(200, json.dumps(json.loads(keys(1).body) | {"Expiration": odd}).encode())
                for odd in (7, "soon", [], "2026-13-01T00:00:00Z")
            ),
        ],
        ids=repr,
    )
    def test_an_endpoint_that_fails(
        self, endpoint: Endpoint, clock: Clock, fault: Response | Exception
    ) -> None:
        endpoint(fault, keys(1))
        chain = CredentialsChain(self.ECS)
        with pytest.raises(DependencyUnavailable) as caught:
            get(chain)
        assert caught.value.dependency == "credentials"
        clock.passed += module.PAUSE_SECONDS
        assert get(chain).access_key == "key1"


class TestRenewal:
    ECS = TestContainer.ECS

    def test_while_it_fails_the_old_ones_serve_until_they_expire(
        self, endpoint: Endpoint, clock: Clock
    ) -> None:
        requests = endpoint(keys(1, timedelta(hours=1)), *[TimeoutError()] * 3, keys(2))
        chain = CredentialsChain(self.ECS)
        get(chain)
        clock.passed = 3400
        assert get(chain).access_key == "key1"
        assert get(chain).access_key == "key1"
        assert len(requests) == 2  # it is not asked with every request
        clock.passed = 3595
        assert get(chain).access_key == "key1"
        clock.passed = 3601
        with pytest.raises(DependencyUnavailable):
            get(chain)
        clock.passed += module.MAX_PAUSE_SECONDS
        assert get(chain).access_key == "key2"

    async def test_many_requests_ask_once(self, endpoint: Endpoint) -> None:
        requests = endpoint(keys(1))
        chain = CredentialsChain(self.ECS)
        got = await asyncio.gather(*(chain.renew() for _ in range(9)))
        assert {found.access_key for found in got} == {"key1"}
        assert len(requests) == 1

    async def test_who_waits_shares_the_failure(self, endpoint: Endpoint) -> None:
        """Each trying again in turn, the last of them would wait for all calls before it."""
        requests = endpoint(TimeoutError())
        chain = CredentialsChain(self.ECS)
        got = await asyncio.gather(*(chain.renew() for _ in range(9)), return_exceptions=True)
        assert {type(error) for error in got} == {DependencyUnavailable}
        assert len(requests) == 1

    async def test_while_one_request_renews_them_the_others_use_the_present_ones(
        self, endpoint: Endpoint, clock: Clock
    ) -> None:
        endpoint(keys(1, timedelta(hours=1)), keys(2))
        chain = CredentialsChain(self.ECS)
        await chain.renew()
        clock.passed = 3400
        got = await asyncio.gather(*(chain.renew() for _ in range(3)))
        assert [found.access_key for found in got] == ["key2", "key1", "key1"]

    def test_pauses_are_bounded_and_short_again_after_a_calm(self, endpoint: Endpoint, clock: Clock) -> None:
        requests = endpoint(
            *[ConnectionRefusedError()] * 3000, keys(1, timedelta(hours=1)), OSError(), keys(2)
        )
        chain = CredentialsChain(self.ECS)
        for _ in range(3000):
            with pytest.raises(DependencyUnavailable):
                get(chain)
            clock.passed += module.MAX_PAUSE_SECONDS
        assert len(requests) == 3000
        get(chain)
        clock.passed += 3601
        with pytest.raises(DependencyUnavailable):
            get(chain)
        clock.passed += module.PAUSE_SECONDS
        assert get(chain).access_key == "key2"


class TestRejected:
    """The service does not take the keys, hours before their time."""

    ECS = TestContainer.ECS

    async def test_others_are_asked_for_once(self, endpoint: Endpoint) -> None:
        requests = endpoint(keys(1), keys(2))
        chain = CredentialsChain(self.ECS)
        old = await chain.renew()
        await asyncio.gather(*(chain.replace(old) for _ in range(9)))
        await chain.replace(old)  # says a request that was sent before
        assert get(chain).access_key == "key2"
        assert len(requests) == 2

    def test_the_same_again_are_not_asked_for_in_the_pause(self, endpoint: Endpoint, clock: Clock) -> None:
        requests = endpoint(*[keys(1)] * 50)
        chain = CredentialsChain(self.ECS)
        rejected = get(chain)
        for _ in range(1000):
            with pytest.raises(DependencyUnavailable) as caught:
                asyncio.run(chain.replace(rejected))
            assert caught.value.dependency == "credentials"
            clock.passed += 0.1
        assert 5 <= len(requests) <= 17
        assert get(chain) == rejected  # another service may take them, and this one in a while

    def test_new_ones_that_are_rejected_too_wait_for_the_pause(self, endpoint: Endpoint) -> None:
        requests = endpoint(keys(1), keys(2), keys(3))
        chain = CredentialsChain(self.ECS)
        asyncio.run(chain.replace(get(chain)))
        with pytest.raises(DependencyUnavailable):
            asyncio.run(chain.replace(get(chain)))
        assert len(requests) == 2

    def test_an_endpoint_that_fails_leaves_the_old_ones(self, endpoint: Endpoint, clock: Clock) -> None:
        endpoint(keys(1), TimeoutError(), keys(2))
        chain = CredentialsChain(self.ECS)
        old = get(chain)
        with pytest.raises(DependencyUnavailable):
            asyncio.run(chain.replace(old))
        assert get(chain) == old
        clock.passed += module.PAUSE_SECONDS
        asyncio.run(chain.replace(old))
        assert get(chain).access_key == "key2"


class TestSdk:
    """boto3 asks web identity and profile before the container, so it decides where there are both."""

    @pytest.mark.parametrize(
        "beside", ["AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_PROFILE", "AWS_DEFAULT_PROFILE", "~/.aws/config"]
    )
    def test_decides_which_source_goes_first(
        self, monkeypatch: pytest.MonkeyPatch, endpoint: Endpoint, tmp_path: Path, beside: str
    ) -> None:
        requests = endpoint(keys(1))
        monkeypatch.setattr(
            CredentialsChain, "_from_sdk", lambda _: (Credentials("sdk", "secret"), float("inf"))
        )
        file = tmp_path / "home" / ".aws" / "config"
        file.parent.mkdir(parents=True)
        (file if beside.startswith("~") else tmp_path / "token").write_text("")
        found = {} if beside.startswith("~") else {beside: str(tmp_path / "token")}
        assert get(CredentialsChain(TestContainer.ECS | found)).access_key == "sdk"
        assert requests == []

    def test_a_profile_is_left_to_boto3_which_is_asked_again_in_a_minute(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, clock: Clock
    ) -> None:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        (tmp_path / "credentials").write_text(
            "[mine]\naws_access_key_id = key\naws_secret_access_key = secret\n"
        )
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
        monkeypatch.setenv("AWS_PROFILE", "mine")
        monkeypatch.setenv("AWS_REGION", "eu-north-1")  # where STS would be asked: boto3 does not read it
        chain = CredentialsChain({})
        assert get(chain) == Credentials("key", "secret")
        clock.passed = 55
        assert chain.current
        clock.passed = 61
        assert not chain.current
        assert chain._session.region_name == "eu-north-1"

    @pytest.mark.parametrize(
        "config", ["", "[profile mine]\nrole_arn = arn:aws:iam::1:role/x\nsource_profile = mine\n"]
    )
    def test_a_profile_that_is_of_no_use_is_a_dependency_that_fails(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, config: str
    ) -> None:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        (tmp_path / "config").write_text(config)
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
        monkeypatch.setenv("AWS_PROFILE", "mine")
        with pytest.raises(DependencyUnavailable):
            get(CredentialsChain({}))

    def test_one_that_hangs_takes_one_thread_and_a_bounded_time(
        self, monkeypatch: pytest.MonkeyPatch, clock: Clock
    ) -> None:
        monkeypatch.setattr(module, "SDK_TIMEOUT_SECONDS", 0.1)
        let, threads = threading.Event(), set[str]()

        def hangs(self: CredentialsChain) -> Any:
            threads.add(threading.current_thread().name)
            let.wait(30)
            return Credentials("key", "secret"), float("inf")

        monkeypatch.setattr(CredentialsChain, "_from_sdk", hangs)
        chain = CredentialsChain({})
        try:
            for _ in range(3):
                with pytest.raises(DependencyUnavailable):
                    get(chain)
                clock.passed += module.MAX_PAUSE_SECONDS
        finally:
            let.set()
        assert len(threads) == 1
