"""Our signer must agree with botocore's, byte for byte."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from botocore import auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotocoreCredentials
from hypothesis import given
from hypothesis import strategies as st

from app.core.aws.credentials import Credentials
from app.core.aws.sigv4 import Signer

MOMENT = datetime(2026, 1, 2, 23, 59, 59, tzinfo=UTC)


def headers_of(head: bytes) -> dict[str, str]:
    lines = head.decode().removesuffix("\r\n\r\n").split("\r\n")
    return dict(line.split(": ", 1) for line in lines[1:])


def botocore_headers(
    credentials: Credentials, url: str, target: str, body: bytes, moment: datetime, service: str, version: str
) -> dict[str, str]:
    request = AWSRequest(
        "POST",
        url,
        data=body,
        headers={"Content-Type": f"application/x-amz-json-{version}", "X-Amz-Target": target},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auth, "get_current_datetime", lambda *_: moment.replace(tzinfo=None))
        auth.SigV4Auth(
            BotocoreCredentials(credentials.access_key, credentials.secret_key, credentials.token or None),
            service,
            "eu-west-1",
        ).add_auth(request)
    return {name.lower(): value for name, value in request.headers.items()}


text = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)


@given(
    credentials=st.builds(Credentials, text, text, st.one_of(st.just(""), text)),
    moment=st.datetimes(datetime(2020, 1, 1), datetime(2050, 1, 1)),
    body=st.binary(max_size=200),
    service=st.sampled_from([("dynamodb", "1.0"), ("kms", "1.1")]),
    port=st.sampled_from(["", ":4566"]),
)
def test_agrees_with_botocore(
    credentials: Credentials, moment: datetime, body: bytes, service: tuple[str, str], port: str
) -> None:
    name, version = service
    host = f"{name}.eu-west-1.amazonaws.com{port}"
    signer = Signer(name, "eu-west-1", host, "/", f"application/x-amz-json-{version}")
    moment = moment.replace(tzinfo=UTC)
    ours = headers_of(signer.head("Prefix.GetItem", body, credentials, moment.timestamp()))
    theirs = botocore_headers(credentials, f"https://{host}/", "Prefix.GetItem", body, moment, name, version)
    assert ours.pop("content-length") == str(len(body))
    assert ours.pop("host") == host
    assert ours == theirs


def test_a_new_second_day_or_key_is_not_signed_with_what_was_kept() -> None:
    signer = Signer("dynamodb", "eu-west-1", "host", "/", "application/x-amz-json-1.0")
    first, second = Credentials("A", "one", "t"), Credentials("A", "two", "t")
    seen = set()
    for credentials in (first, second):
        for later in (0, 1, 86_400):
            now = MOMENT.timestamp() + later
            kept = signer.head("P.Op", b"{}", credentials, now)
            fresh = Signer("dynamodb", "eu-west-1", "host", "/", "application/x-amz-json-1.0")
            assert kept == fresh.head("P.Op", b"{}", credentials, now)
            seen.add(kept)
    assert len(seen) == 6
