"""Where a call goes and what region signs it: our client beside boto3, in the same environment and files.

Every case is equal to boto3, or does not start and says why. Nothing leaves the process.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import BotoCoreError, EndpointProviderError
from tests.builders import a_settings
from tests.faulty_server import serving

from app.core.aws import json_client
from app.core.aws.boto3_client import Boto3Client
from app.core.aws.credentials import CredentialsChain
from app.core.aws.endpoints import NeedsSdk, endpoint_of, region_for_sdk
from app.core.aws.http1 import Response
from app.core.aws.json_client import AwsJsonClient
from app.core.aws.s3 import s3_client
from app.core.errors import DependencyUnavailable
from app.core.events.publisher import EventBridgePublisher
from app.main import aws_client, build_app

# (our names of the call, boto3's)
CALLS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "dynamodb": ("DynamoDB_20120810", "1.0", "GetItem", {"TableName": "t", "Key": {"pk": {"S": "1"}}}),
    "kms": ("TrentService", "1.1", "GenerateMac", {"KeyId": "k", "MacAlgorithm": "HMAC_SHA_256"}),
}
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
REGION = {"AWS_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "eu-west-1"}


class Sent(NamedTuple):
    """What matters of a request."""

    url: str
    signed_for: str


def sent(url: str, authorization: str) -> Sent:
    parts = urlsplit(url)
    scope = re.search(r"Credential=key/\d{8}/([^/]+)/([^/]+)/aws4_request", authorization)
    assert scope
    return Sent(f"{parts.scheme}://{parts.netloc}{parts.path or '/'}", f"{scope[1]} {scope[2]}")


def caught_from(client: Any) -> list[Sent]:
    """Collect what a client of boto3 would send."""
    found: list[Sent] = []

    def catch(request: Any, **_: Any) -> AWSResponse:
        found.append(sent(request.url, request.headers["Authorization"].decode()))
        raw = type("Raw", (), {"stream": lambda *_, **__: iter([b'{"Mac": ""}'])})()
        return AWSResponse(request.url, 200, {}, raw)

    client.meta.events.register("before-send", catch)
    return found


def by_boto3(service: str, session: boto3.Session) -> Sent | None:
    """Return where boto3 sends a call, or None where it does not."""
    try:
        client: Any = session.client(service)  # type: ignore[call-overload]
        found = caught_from(client)
        if service == "kms":
            client.generate_mac(KeyId="k", MacAlgorithm="HMAC_SHA_256", Message=b"m")
        else:
            client.get_item(**CALLS[service][3])
    except (BotoCoreError, EndpointProviderError, ValueError):
        return None
    return found[0]


@pytest.fixture
def by_us(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Sent | None]:
    """Return where our application sends a call, or None when it starts and cannot send any."""
    found: list[Sent] = []

    async def exchange(pool: Any, request: bytes, deadline: float) -> Response:
        head = dict(line.split(": ", 1) for line in request.decode().split("\r\n\r\n")[0].split("\r\n")[1:])
        assert head["host"] == pool._url.netloc
        found.append(sent(pool._url.geturl(), head["authorization"]))
        return Response(200, b"{}")

    monkeypatch.setattr("app.core.aws.http1.Pool.exchange", exchange)

    def call(service: str) -> Sent | None:
        prefix, json_version, operation, request = CALLS[service]
        boto3.DEFAULT_SESSION = None
        client = aws_client(service, prefix, json_version, CredentialsChain())
        results = caught_from(client._client) if isinstance(client, Boto3Client) else found
        try:
            asyncio.run(client.call(operation, request | ({"Message": "bQ=="} if service == "kms" else {})))
        except DependencyUnavailable:
            return None
        return results.pop()

    return call


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Start from an environment and a home without settings."""
    for name in os.environ:
        if name.startswith("AWS_") or name.lower().endswith("_proxy") or name == "REQUESTS_CA_BUNDLE":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    yield
    boto3.DEFAULT_SESSION = None


@pytest.mark.parametrize("service", CALLS)
@pytest.mark.parametrize(
    ("fips", "dual_stack"), list(product(("", "true"), repeat=2)), ids=["plain", "dual stack", "FIPS", "both"]
)
def test_every_region_of_every_partition(
    monkeypatch: pytest.MonkeyPatch,
    by_us: Callable[[str], Sent | None],
    service: str,
    fips: str,
    dual_stack: str,
) -> None:
    """By rule, so without the SDK, except where its own files disagree and it does not start."""
    environ = KEYS | {"AWS_USE_FIPS_ENDPOINT": fips, "AWS_USE_DUALSTACK_ENDPOINT": dual_stack}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    core = boto3.Session()._session
    partitions = core.get_data("partitions")["partitions"]
    regions = [
        region
        for partition in partitions
        for region in partition["regions"]
        if re.match(partition["regionRegex"], region)
    ]
    assert len(partitions) >= 8
    assert len(regions) > 45
    for region in regions:
        monkeypatch.setenv("AWS_REGION", region)
        monkeypatch.setenv("AWS_DEFAULT_REGION", region)
        theirs = by_boto3(service, boto3.Session(botocore_session=core, region_name=region))
        try:
            assert endpoint_of(service)
        except NeedsSdk:
            assert dual_stack
            assert re.match("eu-isoe|us-isof", region)
            with pytest.raises(ValueError, match="modeled endpoint"):
                by_us(service)
            assert theirs is None
        else:
            assert theirs is not None
            assert by_us(service) == theirs


def files(config: str = "", credentials: str = "", **environ: str) -> dict[str, str]:
    """Return a case with files; `environ` beside them."""
    return KEYS | environ | {"config": config, "credentials": credentials}


EQUAL: dict[str, dict[str, str]] = {
    "AWS_DEFAULT_REGION alone": {"AWS_DEFAULT_REGION": "eu-west-1"},
    "FIPS off": REGION | {"AWS_USE_FIPS_ENDPOINT": "False"},
    "FIPS in capitals": REGION | {"AWS_USE_FIPS_ENDPOINT": "TRUE"},
    "one URL for all": REGION | {"AWS_ENDPOINT_URL": "http://127.0.0.1:4566"},
    "a URL with a path": REGION | {"AWS_ENDPOINT_URL": "https://proxy.test/aws/"},
    "a URL in capitals": REGION | {"AWS_ENDPOINT_URL": "HTTP://ALL.test:80"},
    "a URL by IPv6": REGION | {"AWS_ENDPOINT_URL": "http://[::1]:4566"},
    "a URL for one": REGION
    | {"AWS_ENDPOINT_URL_DYNAMODB": "https://vpce-1.dynamodb.eu-west-1.vpce.amazonaws.com"},
    "a URL for all and for one": REGION
    | {"AWS_ENDPOINT_URL": "http://all.test", "AWS_ENDPOINT_URL_KMS": "http://one.test:1"},
    "URLs ignored": REGION
    | {"AWS_ENDPOINT_URL": "http://all.test", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"},
    "FIPS, and URLs ignored": REGION
    | {
        "AWS_ENDPOINT_URL": "http://all.test",
        "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true",
        "AWS_USE_FIPS_ENDPOINT": "true",
    },
    "an unknown region of a known area": {"AWS_REGION": "eu-center-9", "AWS_DEFAULT_REGION": "eu-center-9"},
    "an unknown area": {"AWS_REGION": "xx-west-1", "AWS_DEFAULT_REGION": "xx-west-1"},
    "an unknown isolated area": {"AWS_REGION": "us-isoz-west-1", "AWS_DEFAULT_REGION": "us-isoz-west-1"},
    "a pseudo region": {"AWS_REGION": "aws-global", "AWS_DEFAULT_REGION": "aws-global"},
    "a pseudo region of China": {"AWS_REGION": "aws-cn-global", "AWS_DEFAULT_REGION": "aws-cn-global"},
    "an old pseudo region": {"AWS_REGION": "us-east-1-fips", "AWS_DEFAULT_REGION": "us-east-1-fips"},
    "DynamoDB local": {"AWS_REGION": "local", "AWS_DEFAULT_REGION": "local"},
    "an account": REGION | {"AWS_ACCOUNT_ID": "123456789012"},
    "an account, in GovCloud": {"AWS_DEFAULT_REGION": "us-gov-west-1", "AWS_ACCOUNT_ID": "123456789012"},
    "an account, not asked for": REGION
    | {"AWS_ACCOUNT_ID": "123456789012", "AWS_ACCOUNT_ID_ENDPOINT_MODE": "disabled"},
    "an account, required": REGION
    | {"AWS_ACCOUNT_ID": "123456789012", "AWS_ACCOUNT_ID_ENDPOINT_MODE": "required"},
    "an account, required, and missing": REGION | {"AWS_ACCOUNT_ID_ENDPOINT_MODE": "required"},
    "an account and FIPS": REGION | {"AWS_ACCOUNT_ID": "123456789012", "AWS_USE_FIPS_ENDPOINT": "true"},
    "an account and a URL": REGION
    | {"AWS_ACCOUNT_ID": "123456789012", "AWS_ENDPOINT_URL": "http://all.test"},
    "another data path": REGION | {"AWS_DATA_PATH": "/nowhere"},
    "region of the default profile": files("[default]\nregion = eu-north-1\noutput = json"),
    "region of a profile": files("[profile mine]\nregion = eu-north-1", AWS_PROFILE="mine"),
    "region by the older name": files("[profile mine]\nregion = eu-north-1", AWS_DEFAULT_PROFILE="mine"),
    "two profiles named": files(
        "[profile one]\nregion = eu-north-1\n[profile two]\nregion = eu-south-1",
        AWS_DEFAULT_PROFILE="one",
        AWS_PROFILE="two",
    ),
    "region of the credentials file": files(
        "[default]\nregion = eu-north-1", "[default]\nregion = eu-south-1"
    ),
    "region of environment and profile": files(
        "[default]\nregion = eu-north-1", AWS_DEFAULT_REGION="eu-west-1"
    ),
    "FIPS of a profile": files("[default]\nregion = us-east-1\nuse_fips_endpoint = true"),
    "FIPS of a profile, off": files("[default]\nregion = us-east-1\nuse_fips_endpoint = false"),
    "dual stack of a profile": files("[default]\nregion = us-east-1\nuse_dualstack_endpoint = true"),
    "URL of a profile": files("[default]\nregion = us-east-1\nendpoint_url = http://all.test"),
    "URL of a profile, and of the environment": files(
        "[default]\nregion = us-east-1\nendpoint_url = http://all.test",
        AWS_ENDPOINT_URL_KMS="http://one.test",
    ),
    "URL of a profile, ignored": files(
        "[default]\nregion = us-east-1\n"
        "endpoint_url = http://all.test\nignore_configured_endpoint_urls = true"
    ),
    "URLs of a section": files(
        "[default]\nregion = us-east-1\nservices = mine\n"
        "[services mine]\ndynamodb =\n  endpoint_url = http://one.test\n"
    ),
    "account of a profile": {
        "config": "[default]\nregion = us-east-1\naws_account_id = 123456789012\n"
        "aws_access_key_id = key\naws_secret_access_key = secret",
        "credentials": "",
    },
    "keys of a profile": {
        "config": "[default]\nregion = us-east-1",
        "credentials": "[default]\naws_access_key_id = key\naws_secret_access_key = secret",
    },
}


def apply(case: dict[str, str], monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    if "config" in case:
        for name, variable in (("config", "AWS_CONFIG_FILE"), ("credentials", "AWS_SHARED_CREDENTIALS_FILE")):
            (directory / name).write_text(case[name])
            monkeypatch.setenv(variable, str(directory / name))
    elif "AWS_ACCESS_KEY_ID" not in case:
        case = KEYS | case
    for name, value in case.items():
        if name not in ("config", "credentials"):
            monkeypatch.setenv(name, value)


@pytest.mark.parametrize("service", CALLS)
@pytest.mark.parametrize("case", EQUAL.values(), ids=EQUAL)
def test_settings_lead_where_boto3_goes(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    by_us: Callable[[str], Sent | None],
    case: dict[str, str],
    service: str,
) -> None:
    apply(case, monkeypatch, tmp_path)
    assert by_us(service) == by_boto3(service, boto3.Session())


REJECTED: dict[str, tuple[dict[str, str], str]] = {
    "no region": ({}, "AWS_REGION is not set"),
    "two regions": (REGION | {"AWS_DEFAULT_REGION": "us-east-1"}, "AWS_REGION is .*AWS_DEFAULT_REGION is"),
    "no region's name": ({"AWS_REGION": "eu_west.1"}, "eu_west.1"),
    # boto3 takes these for false, and for no endpoint of FIPS
    "FIPS misspelt": (REGION | {"AWS_USE_FIPS_ENDPOINT": "1"}, "AWS_USE_FIPS_ENDPOINT"),
    "dual stack misspelt": (REGION | {"AWS_USE_DUALSTACK_ENDPOINT": "yes"}, "AWS_USE_DUALSTACK_ENDPOINT"),
    "a switch misspelt": (
        REGION | {"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "on"},
        "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
    ),
    # boto3 drops the first without a word, though AWS's rules call it an invalid configuration
    "FIPS and a URL": (
        REGION | {"AWS_USE_FIPS_ENDPOINT": "true", "AWS_ENDPOINT_URL": "https://all.test"},
        "AWS_USE_FIPS_ENDPOINT and https://all.test",
    ),
    "dual stack and a URL": (
        REGION | {"AWS_USE_DUALSTACK_ENDPOINT": "true", "AWS_ENDPOINT_URL": "https://all.test"},
        "AWS_USE_DUALSTACK_ENDPOINT and https://all.test",
    ),
    "a URL without a scheme": (REGION | {"AWS_ENDPOINT_URL": "all.test:80"}, "AWS_ENDPOINT_URL"),
    "a URL without a host": (REGION | {"AWS_ENDPOINT_URL": "http://:80"}, "AWS_ENDPOINT_URL"),
    **{
        f"a URL like {url!r}": (REGION | {"AWS_ENDPOINT_URL": url}, "AWS_ENDPOINT_URL is no address")
        for url in (
            *(" http://all.test", "http://all.test ", "http://all.test\n", "http://all .test"),
            *("http://all_of.test", "http://-all.test", "http://all\N{LATIN SMALL LETTER E WITH ACUTE}.test"),
            *("http://all.test:0", "http://user:word@all.test", "http://all.test?a=b", "http://all.test/#a"),
        )
    },
    "a URL with a bad port": (REGION | {"AWS_ENDPOINT_URL": "http://all.test:x"}, "AWS_ENDPOINT_URL"),
    "no such bundle": (REGION | {"AWS_CA_BUNDLE": "/nowhere.pem"}, "AWS_CA_BUNDLE: /nowhere.pem is no file"),
    "no such profile": (REGION | {"AWS_PROFILE": "mine"}, "AWS_PROFILE is mine"),
    "a malformed file": (files("region = eu-west-1", **REGION), "config"),
    "no such section": (files("[default]\nservices = mine", **REGION), '"mine" services'),
    "an unknown mode": (REGION | {"AWS_ACCOUNT_ID_ENDPOINT_MODE": "never"}, "never"),
}


@pytest.mark.parametrize(("case", "words"), REJECTED.values(), ids=REJECTED)
def test_what_cannot_be_followed_does_not_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, case: dict[str, str], words: str
) -> None:
    apply(case, monkeypatch, tmp_path)
    with pytest.raises(ValueError, match=words) as caught:
        build_app(a_settings())
    assert "\n" not in str(caught.value)


class TestRegion:
    """boto3 reads AWS_DEFAULT_REGION only; where there is just AWS_REGION, its clients follow ours."""

    def test_aws_region_counts_for_all_clients(
        self, monkeypatch: pytest.MonkeyPatch, by_us: Callable[[str], Sent | None]
    ) -> None:
        apply({"AWS_REGION": "eu-north-1"}, monkeypatch, Path())
        assert by_us("dynamodb") == Sent("https://dynamodb.eu-north-1.amazonaws.com/", "eu-north-1 dynamodb")
        monkeypatch.setenv("AWS_ACCOUNT_ID", "123456789012")  # through boto3
        account = "https://123456789012.ddb.eu-north-1.amazonaws.com/"
        assert by_us("dynamodb") == Sent(account, "eu-north-1 dynamodb")
        assert s3_client()._new_client().meta.region_name == "eu-north-1"
        assert EventBridgePublisher("bus")._client.meta.region_name == "eu-north-1"


@pytest.mark.parametrize(
    "region", ["eu-west-1", "cn-north-1", "eusc-de-east-1", "us-iso-east-1", "us-gov-east-1"]
)
def test_buckets_are_named_by_host_in_every_partition(monkeypatch: pytest.MonkeyPatch, region: str) -> None:
    monkeypatch.setenv("AWS_REGION", region)
    assert s3_client()._new_client().meta.config.s3["addressing_style"] == "virtual"


class TestProxy:
    """The server is proxy and service in one: a proxy is asked for `http://dynamodb.test/`."""

    @pytest.mark.parametrize(
        ("environ", "asked"),
        [
            ({"HTTP_PROXY": "{server}", "AWS_ENDPOINT_URL": "http://dynamodb.test"}, True),
            ({"http_proxy": "{server}", "AWS_ENDPOINT_URL": "http://dynamodb.test"}, True),
            (
                {"HTTP_PROXY": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1", "AWS_ENDPOINT_URL": "{server}"},
                False,
            ),
            ({"HTTP_PROXY": "http://127.0.0.1:9", "no_proxy": "*", "AWS_ENDPOINT_URL": "{server}"}, False),
            ({"HTTPS_PROXY": "http://127.0.0.1:9", "AWS_ENDPOINT_URL": "{server}"}, False),
            ({"HTTP_PROXY": "http://127.0.0.1:9", "http_proxy": "", "AWS_ENDPOINT_URL": "{server}"}, False),
        ],
    )
    async def test_is_used_for_what_it_is_for(
        self, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], asked: bool
    ) -> None:
        async with serving() as server:
            found = {name: value.format(server=server.url) for name, value in environ.items()}
            apply(REGION | found, monkeypatch, Path())
            boto3.DEFAULT_SESSION = None
            prefix, json_version, operation, request = CALLS["dynamodb"]
            client = aws_client("dynamodb", prefix, json_version, CredentialsChain())
            assert isinstance(client, Boto3Client if asked else AwsJsonClient)
            assert await client.call(operation, request)
            ((headers, _),) = server.requests
            host = "dynamodb.test" if asked else urlsplit(server.url).netloc
            assert {name.lower(): value for name, value in headers.items()}["host"] == host

    def test_for_aws_is_left_to_boto3(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HTTPS_PROXY", "http://proxy.test:3128")
        with pytest.raises(NeedsSdk, match="HTTPS_PROXY"):
            endpoint_of("dynamodb", REGION | {"HTTPS_PROXY": "http://proxy.test:3128"})
        assert endpoint_of("dynamodb", REGION | {"HTTPS_PROXY": "http://x", "NO_PROXY": ".amazonaws.com"})


class TestWords:
    """The log names each setting that has no effect, and each that costs time."""

    def test_of_boto3(self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        apply(REGION | {"HTTPS_PROXY": "http://proxy.test:3128"}, monkeypatch, Path())
        build_app(a_settings())
        said = [record.getMessage() for record in caplog.records if "boto3" in record.getMessage()]
        assert [text.split()[0] for text in said] == ["dynamodb", "kms"]
        assert all(text.endswith(": HTTPS_PROXY") for text in said)

    def test_of_attempts(self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        apply(REGION | {"AWS_MAX_ATTEMPTS": "9", "AWS_RETRY_MODE": "adaptive"}, monkeypatch, Path())
        build_app(a_settings())
        said = [
            record.getMessage().split()[0] for record in caplog.records if record.levelno == logging.WARNING
        ]
        assert {"AWS_MAX_ATTEMPTS", "AWS_RETRY_MODE"} <= set(said)
        assert Boto3Client("kms")._client.meta.config.retries["total_max_attempts"] == json_client.ATTEMPTS

    def test_of_the_server_are_one_line(self) -> None:
        required = ("TABLE_NAME", "BUCKET_NAME", "EVENT_BUS_NAME", "KMS_KEY_ARN", "CURSOR_KEY_ARN")
        environ = {f"APP_{name}": "x" for name in required} | {"PYTHONPATH": "src", "HOME": "/nowhere"}
        command = [sys.executable, "-m", "app.entrypoints.server"]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
        said = "Cannot start: AWS_REGION is not set, and no profile names a region\n"
        assert (done.returncode, done.stderr) == (1, said)


def test_region_for_sdk_leaves_the_rest_to_it() -> None:
    assert region_for_sdk({"AWS_DEFAULT_REGION": "eu-west-1"}) is None


def test_no_client_of_boto3_chooses_between_two_regions() -> None:
    with pytest.raises(ValueError, match="AWS_DEFAULT_REGION is us-east-1"):
        region_for_sdk(REGION | {"AWS_DEFAULT_REGION": "us-east-1"})
