"""The JSON client against a faulty server."""

from __future__ import annotations

import asyncio
import functools
import json
import ssl
import zlib
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import msgspec
import pytest
from tests.builders import a_certificate, a_settings
from tests.faulty_server import OK, Behaviour, Server, hangs, rejects, resets, responds, sends, serving

from app.core.aws import http1, json_client
from app.core.aws.client import AwsCallError
from app.core.aws.credentials import CredentialsChain
from app.core.aws.json_client import AwsJsonClient
from app.core.errors import DependencyUnavailable, Overloaded
from app.core.telemetry import Telemetry

ENVIRON = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "eu-west-1"}


EXPIRES = (datetime.now(UTC) + timedelta(hours=6)).isoformat()


def a_client(url: str, environ: dict[str, str] = ENVIRON) -> AwsJsonClient:
    return AwsJsonClient("dynamodb", "DynamoDB_20120810", endpoint=(url, "eu-west-1"), environ=environ)


def client_of(server: Server, **environ: str) -> AwsJsonClient:
    return a_client(server.url, ENVIRON | environ)


def client_with_keys_of(source: Server, server: Server) -> AwsJsonClient:
    return a_client(server.url, {"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{source.url}/creds"})


def keys(name: str) -> Behaviour:
    found = {"AccessKeyId": name, "SecretAccessKey": "s", "Token": "t", "Expiration": EXPIRES}
    return responds(json.dumps(found).encode(), keep=False)


both_loops = pytest.mark.parametrize(
    "anyio_backend", ["asyncio", ("asyncio", {"use_uvloop": True})], ids=["lambda", "server"]
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/nowhere")  # without a profile
    # A response may take its time on a busy machine; a test where one never comes sets its own time.
    monkeypatch.setattr(json_client, "ATTEMPT_SECONDS", 10.0)
    monkeypatch.setattr(json_client, "DEADLINE_SECONDS", 15.0)
    monkeypatch.setattr(http1, "CONNECT_SECONDS", 10.0)
    monkeypatch.setattr(json_client, "BACKOFF_SECONDS", 0.001)


class TestCalls:
    @both_loops
    async def test_sends_the_wire_format_and_reuses_the_connection(self) -> None:
        async with serving() as server:
            client = client_of(server, AWS_SESSION_TOKEN="token")
            for _ in range(3):
                assert await client.call("GetItem", {"TableName": "täble"}) == {"Item": {"n": {"N": "1"}}}
            assert server.connections == 1
            headers, body = server.requests[0]
            assert json.loads(body) == {"TableName": "täble"}
            assert headers["x-amz-target"] == "DynamoDB_20120810.GetItem"
            assert headers["content-type"] == "application/x-amz-json-1.0"
            assert headers["x-amz-security-token"] == "token"
            assert headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=key/")

    async def test_decodes_into_the_shape_that_is_asked_for(self) -> None:
        class Got(msgspec.Struct):
            Item: dict[str, dict[str, str]]

        async with serving() as server:
            got = await client_of(server).call("GetItem", {}, Got)
            assert got == Got({"n": {"N": "1"}})

    async def test_many_calls_at_once_stay_apart(self) -> None:
        bodies = [json.dumps({"n": n}).encode() for n in range(300)]
        async with serving(*(responds(body) for body in bodies)) as server:
            client = client_of(server)
            got = await asyncio.gather(*(client.call("GetItem", {}) for _ in bodies))
            assert sorted(item["n"] for item in got) == list(range(300))
            assert server.connections <= http1.MAX_CONNECTIONS

    async def test_reads_chunked_responses_and_checksums(self) -> None:
        body = b'{"a": 1}'
        chunked = (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\n" + body[:4] + b"\r\n4\r\n" + body[4:]
        )
        async with serving(
            responds(body, 200, f"X-Amz-Crc32: {zlib.crc32(body)}"),
            sends(chunked + b"\r\n0\r\n\r\n", keep=True),
        ) as server:
            client = client_of(server)
            assert await client.call("GetItem", {}) == {"a": 1}
            assert await client.call("GetItem", {}) == {"a": 1}
            assert len(server.requests) == 2

    def test_works_on_another_event_loop(self) -> None:
        client = a_client("http://unused:1")

        async def test() -> None:
            async with serving() as server:
                client._pool._url = urlsplit(server.url)
                await client.call("GetItem", {})
                assert len(client._pool._idle) == 1

        asyncio.run(test())
        asyncio.run(test())


class TestFaults:
    @pytest.mark.parametrize(
        "fault",
        [
            pytest.param(sends(b'HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{"Item"'), id="truncated body"),
            pytest.param(sends(b"HTTP/1.1 200 OK\r\ncont"), id="truncated head"),
            pytest.param(sends(b"SSH-2.0-OpenSSH_9.9\r\n"), id="not HTTP"),
            pytest.param(
                sends(b"HTTP/1.1 200 OK\r\nx-amz-crc32: abc\r\ncontent-length: 2\r\n\r\n{}"),
                id="bad checksum",
            ),
            pytest.param(responds(b'{"Item": {}}', 200, "x-amz-crc32: 1"), id="wrong checksum"),
            pytest.param(responds(b"<html>"), id="200 but not JSON"),
            pytest.param(resets, id="reset"),
            pytest.param(responds(b'{"Item": "\xff"}'), id="200 but not UTF-8"),
            pytest.param(responds(b'{"__type": 5}', 400), id="error that is garbage"),
            pytest.param(responds(b"", 302, "location: https://elsewhere.test/"), id="redirect"),
            pytest.param(sends(b"HTTP/1.1 204 No Content\r\n\r\n", keep=True), id="204"),
            pytest.param(rejects("ThrottlingException"), id="throttled by the control plane"),
            pytest.param(rejects("KMSInternalException", 500), id="500 from KMS"),
        ],
    )
    async def test_is_tried_again_then_reported(self, fault: Behaviour) -> None:
        """Those that boto3 reports alike are in tests/contract/test_aws_client.py."""
        async with serving(fault) as server:
            assert await client_of(server).call("GetItem", {}) == {"Item": {"n": {"N": "1"}}}
            assert len(server.requests) == 2
            assert server.requests[0][1] == server.requests[1][1]  # the same write_id, above all
        async with serving(*[fault] * 9) as server:
            with pytest.raises(DependencyUnavailable) as caught:
                await client_of(server).call("GetItem", {})
            assert caught.value.dependency == "dynamodb"
            assert len(server.requests) == json_client.ATTEMPTS

    async def test_nobody_listens(self) -> None:
        async with serving() as server:
            client = client_of(server)
        with pytest.raises(DependencyUnavailable):  # the server is gone
            await client.call("GetItem", {})

    async def test_slow_credentials_are_called_by_their_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(json_client, "DEADLINE_SECONDS", 0.3)
        async with serving(hangs) as source, serving() as server:
            client = client_with_keys_of(source, server)
            with pytest.raises(DependencyUnavailable) as caught:
                await client.call("GetItem", {})
            assert caught.value.dependency == "credentials"
            assert not server.requests

    async def test_an_idle_connection_that_the_server_closed_is_not_used(self) -> None:
        async with serving() as server:
            client = client_of(server)
            await client.call("GetItem", {})
            server.writers[0].close()
            await server.writers[0].wait_closed()
            # As after a thaw: our loop has not yet seen the FIN, and there is no retry to hide behind
            client._budget = 0
            assert await client.call("GetItem", {})
            assert server.connections == 2

    async def test_a_connection_that_the_server_will_close_is_not_kept(self) -> None:
        async with serving(responds(b"{}", 200, "connection: close"), OK) as server:
            client = client_of(server)
            await client.call("GetItem", {})
            await client.call("GetItem", {})
            assert server.connections == 2

    async def test_a_response_that_comes_after_its_caller_left_is_nobodys(self) -> None:
        async def late(writer: asyncio.StreamWriter) -> bool:
            await asyncio.sleep(0.5)
            return await responds(b'{"late": true}')(writer)

        async with serving(late) as server:
            client = client_of(server)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.25):
                    await client.call("GetItem", {})
            await asyncio.sleep(0.5)
            assert "Item" in await client.call("GetItem", {})
            assert server.connections == 2

    async def test_the_deadline_bounds_the_whole_call(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(json_client, "ATTEMPT_SECONDS", 1.0)
        monkeypatch.setattr(json_client, "DEADLINE_SECONDS", 1.5)
        async with serving(hangs, hangs, hangs, hangs) as server:
            began = asyncio.get_running_loop().time()
            with pytest.raises(DependencyUnavailable):
                await client_of(server).call("GetItem", {})
            assert asyncio.get_running_loop().time() - began < 2
            assert len(server.requests) == 2

    async def test_who_gets_no_connection_is_rejected_and_spends_no_retries(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(http1, "MAX_CONNECTIONS", 2)
        monkeypatch.setattr(http1, "CONNECT_SECONDS", 0.3)
        monkeypatch.setattr(json_client, "ATTEMPT_SECONDS", 1.0)
        async with serving(*[hangs] * 99) as server:
            client = client_of(server)
            got = await asyncio.gather(
                *(client.call("GetItem", {}) for _ in range(6)), return_exceptions=True
            )
            assert Counter(map(type, got)) == {DependencyUnavailable: 2, Overloaded: 4}
            retries = 2 * (json_client.ATTEMPTS - 1)
            assert len(server.requests) == 2 + retries
            assert client._budget == json_client.BUDGET - retries * json_client.RETRY_COST

    async def test_throttles_are_counted_and_outages_are_not(self) -> None:
        work = Telemetry(a_settings()).begin("request")
        async with serving(
            rejects("ThrottlingException"), rejects("KMSInternalException", 500), resets
        ) as server:
            await client_of(server).call("GenerateMac", {})
            assert len(server.requests) == 4
        assert work.metrics == {"Throttles": 1}


def head(*lines: str) -> bytes:
    return "\r\n".join([*lines, "", ""]).encode()


GOOD = head("HTTP/1.1 200 OK", "content-length: 2") + b"{}"
CHUNKED = head("HTTP/1.1 200 OK", "transfer-encoding: chunked")
ANSWERS = {
    "another response right behind": GOOD + GOOD,
    "the beginning of another response behind": GOOD + b"HTTP/1.1 200 OK\r\ncontent-le",
    "one byte behind": GOOD + b"H",
    "garbage behind": GOOD + b"\x00\xff",
    "garbage behind a last response": head("HTTP/1.1 200 OK", "connection: close", "content-length: 2")
    + b"{}x",
    "another response behind chunks": CHUNKED + b"2\r\n{}\r\n0\r\n\r\n" + GOOD,
    "a body where there is none": head("HTTP/1.1 204 No Content", "content-length: 2") + b"{}",
    "100": head("HTTP/1.1 100 Continue"),
    "100 and the response": head("HTTP/1.1 100 Continue") + GOOD,
    "103 and the response": head("HTTP/1.1 103 Early Hints", "link: </x>") + GOOD,
    "101": head("HTTP/1.1 101 Switching Protocols", "connection: upgrade", "upgrade: h2c") + GOOD,
    "101 without saying to what": head("HTTP/1.1 101 Switching Protocols") + GOOD,
    "a status of no class": head("HTTP/1.1 099 Odd", "content-length: 2") + b"{}",
    "a length that is given twice": head("HTTP/1.1 200 OK", "content-length: 2", "content-length: 2") + b"{}",
    "two lengths": head("HTTP/1.1 200 OK", "content-length: 2", "content-length: 3") + b"{}",
    "lengths in a list": head("HTTP/1.1 200 OK", "content-length: 2, 2") + b"{}",
    "a length with a sign": head("HTTP/1.1 200 OK", "content-length: +2") + b"{}",
    "a length without an end": head("HTTP/1.1 200 OK", "content-length: " + "9" * 30) + b"{}",
    "an empty length": head("HTTP/1.1 200 OK", "content-length:") + b"{}",
    "chunks and a length": head("HTTP/1.1 200 OK", "transfer-encoding: chunked", "content-length: 2") + b"{}",
    "a length and chunks": head("HTTP/1.1 200 OK", "content-length: 2", "transfer-encoding: chunked") + b"{}",
    "a space in a name": head("HTTP/1.1 200 OK", "content-length : 2") + b"{}",
    "a folded header": head("HTTP/1.1 200 OK", "a: b", " c", "content-length: 2") + b"{}",
    "lines without CR": GOOD.replace(b"\r", b""),
    "headers without end": head("HTTP/1.1 200 OK", *["a: b"] * 5000)[:-2],
    "one header without end": head("HTTP/1.1 200 OK", "a: " + "b" * 20_000)[:-4],
    "a reason without end": b"HTTP/1.1 200 " + b"O" * 20_000,
    "a chunk extension without end": CHUNKED + b"2;" + b"x" * 20_000,
    "trailers without end": CHUNKED + b"2\r\n{}\r\n0\r\n" + b"a: b\r\n" * 30_000,
    "chunks without end": CHUNKED + b"1;x\r\n \r\n" * 20_000,
    "a checksum with an underscore": head("HTTP/1.1 200 OK", "x-amz-crc32: 1_0", "content-length: 2") + b"{}",
    "a checksum without end": head("HTTP/1.1 200 OK", f"x-amz-crc32: {'9' * 5000}", "content-length: 2")
    + b"{}",
    "two checksums": head(
        "HTTP/1.1 200 OK", "x-amz-crc32: 1", f"x-amz-crc32: {zlib.crc32(b'{}')}", "content-length: 2"
    )
    + b"{}",
    "a checksum after the body": CHUNKED + b"2\r\n{}\r\n0\r\nx-amz-crc32: 1\r\n\r\n",
}
CUT = {
    "no length": head("HTTP/1.1 200 OK") + b"{}",
    "HTTP/1.0 without a length": head("HTTP/1.0 200 OK") + b"{}",
    "an encoding that says nothing of the length": head("HTTP/1.1 200 OK", "transfer-encoding: gzip") + b"{}",
}


class TestOneAnswerForOneRequest:
    """Whatever comes beside the response ends the connection with an error: none is taken for another's."""

    @both_loops
    @pytest.mark.parametrize("raw", (ANSWERS | CUT).values(), ids=ANSWERS | CUT)
    async def test_anything_else_ends_the_connection(
        self, raw: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(http1, "MAX_ANSWER_BYTES", 100_000)
        # What may be a beginning is not followed by the end of the connection: the client has to give up.
        async with serving(sends(raw, keep=raw not in CUT.values())) as server:
            pool = http1.Pool(urlsplit(server.url))
            deadline = asyncio.get_running_loop().time() + 10
            request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
            with pytest.raises(ConnectionError):
                await pool.exchange(request, deadline)
            response = await pool.exchange(request, deadline)
            assert json.loads(response.body) == {"Item": {"n": {"N": "1"}}}
            assert server.connections == 2
            pool.close()

    async def test_what_comes_before_the_caller_has_seen_its_response_is_no_less_doubtful(self) -> None:
        async with serving(sends(b"", keep=True)) as server:
            pool = http1.Pool(urlsplit(server.url))
            loop = asyncio.get_running_loop()
            connection = await pool._connection(loop, loop.time() + 10)
            asking = asyncio.create_task(connection.exchange(b"GET / HTTP/1.1\r\n\r\n", loop.time() + 10))
            await asyncio.sleep(0)
            connection.data_received(GOOD)
            connection.data_received(GOOD)  # two segments, but one turn of the loop
            with pytest.raises(ConnectionError):
                await asking

    async def test_what_comes_to_an_idle_connection_ends_it(self) -> None:
        async with serving() as server:
            client = client_of(server)
            await client.call("GetItem", {})
            server.writers[0].write(GOOD)
            await server.writers[0].drain()
            client._budget = 0
            assert "Item" in await client.call("GetItem", {})
            assert server.connections == 2


class TestTls:
    """The server's certificate is for localhost, signed by itself."""

    @pytest.mark.parametrize(
        ("host", "trusted", "works"),
        [
            ("localhost", "AWS_CA_BUNDLE", True),
            ("localhost", "REQUESTS_CA_BUNDLE", True),
            ("localhost", "", False),
            ("127.0.0.1", "AWS_CA_BUNDLE", False),
        ],
        ids=[
            "trusted",
            "by the other name",
            "signed by nobody we know",
            "for another host",
        ],
    )
    async def test_the_certificate_is_verified(
        self, tmp_path: Path, host: str, trusted: str, works: bool
    ) -> None:
        certificate = a_certificate(tmp_path, "localhost")
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate)
        async with serving(tls=tls) as server:
            server.url = server.url.replace("http://127.0.0.1", f"https://{host}")
            bundle = {trusted: str(certificate)} if trusted else {}
            client = client_of(server, **bundle)
            if works:
                assert await client.call("GetItem", {})
                assert await client.call("GetItem", {})
                assert server.connections == 1
            else:
                with pytest.raises(DependencyUnavailable):
                    await client.call("GetItem", {})
                assert not server.requests

    @pytest.mark.parametrize(("file", "loaded"), [("", 1), ("ca-certificates.crt", 1), ("5ad8a5d6.0", 0)])
    def test_all_authorities_are_read_where_they_have_no_file_each(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, loaded: int
    ) -> None:
        if file:
            (tmp_path / file).touch()
        monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: SimpleNamespace(capath=str(tmp_path)))
        calls = []
        monkeypatch.setattr(ssl.SSLContext, "load_default_certs", lambda context: calls.append(context))
        http1.tls_context({})
        assert len(calls) == loaded


class TestCredentials:
    async def test_expired_keys_are_renewed_and_the_call_tried_again(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(json_client, "BUDGET", 0)  # it costs nothing
        rejected = rejects("ExpiredTokenException")
        async with serving(keys("old"), keys("new")) as source, serving(rejected) as server:
            client = client_with_keys_of(source, server)
            assert await client.call("GetItem", {})
            used = [headers["authorization"] for headers, _ in server.requests]
            assert ["Credential=old/" in used[0], "Credential=new/" in used[1]] == [True, True]

    async def test_who_used_the_old_keys_does_not_renew_the_new_ones(self) -> None:
        """Ten requests that were signed with them are rejected one after the other: one renewal."""

        def rejects_after(seconds: float) -> Behaviour:
            async def behave(writer: asyncio.StreamWriter) -> bool:
                await asyncio.sleep(seconds)
                return await rejects("ExpiredTokenException")(writer)

            return behave

        async with (
            serving(*(keys(f"key{n}") for n in range(20))) as source,
            serving(*(rejects_after(n / 100) for n in range(10))) as server,
        ):
            client = client_with_keys_of(source, server)
            await asyncio.gather(*(client.call("GetItem", {}) for _ in range(10)))
            assert len(source.requests) == 2

    @pytest.mark.parametrize("code", ["ExpiredTokenException", "InvalidSignatureException"])
    async def test_that_are_rejected_again_and_again_cost_one_renewal_and_no_retries(self, code: str) -> None:
        def pause_for_good(chain: CredentialsChain) -> None:
            chain._pause_ends_at = float("inf")

        async with serving(*[keys("old")] * 99) as source, serving(*[rejects(code)] * 99) as server:
            client = client_with_keys_of(source, server)
            client._credentials._pause = functools.partial(pause_for_good, client._credentials)
            for _ in range(20):
                with pytest.raises(DependencyUnavailable) as caught:
                    await client.call("GetItem", {})
                assert caught.value.dependency == "credentials"
                assert isinstance(caught.value.__cause__, AwsCallError)
            assert len(source.requests) == 2
            assert len(server.requests) == 20
            assert client._budget == json_client.BUDGET
            server.script.clear()  # as when a clock is right again
            assert await client.call("GetItem", {})

    async def test_that_are_fixed_sign_the_call_once_more(self) -> None:
        """A function that was frozen between signing and sending sends a request that has expired."""
        rejected = rejects("InvalidSignatureException")
        async with serving(rejected, OK, resets, rejected, rejected) as server:
            client = client_of(server)
            assert await client.call("GetItem", {})
            with pytest.raises(DependencyUnavailable) as caught:
                await client.call("GetItem", {})
            assert caught.value.dependency == "credentials"
            assert len(server.requests) == 5
