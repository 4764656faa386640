"""AWS Signature Version 4, written for one kind of request: POST of a JSON body to one service.

`tests/unit/test_sigv4.py` holds it to botocore's signer, byte for byte.
Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import hmac
import time
from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.core.aws.credentials import Credentials


class Signer:
    """Signs requests to one service, region and endpoint. Keeps the day's key and the second's date."""

    def __init__(self, service: str, region: str, host: str, path: str, content_type: str) -> None:
        self._service = service
        self._region = region
        self._request_line = f"POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: {content_type}\r\n"
        self._canonical = f"POST\n{path}\n\ncontent-type:{content_type}\nhost:{host}\n"
        self._second = 0
        self._date = ""
        self._signed_with: tuple[Credentials, str] | None = None
        self._key = b""
        self._scope = ""

    def head(self, target: str, body: bytes, credentials: Credentials, now: float | None = None) -> bytes:
        """Return the request line and headers, signed, that go before `body` on the wire."""
        second = int(time.time() if now is None else now)
        if second != self._second:
            self._second = second
            self._date = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second))
        date = self._date
        if self._signed_with != (credentials, date[:8]):
            self._derive_key(credentials, date[:8])
        names, token_canonical, token_header = "content-type;host;x-amz-date;x-amz-target", "", ""
        if credentials.token:
            names = "content-type;host;x-amz-date;x-amz-security-token;x-amz-target"
            token_canonical = f"x-amz-security-token:{credentials.token}\n"
            token_header = f"x-amz-security-token: {credentials.token}\r\n"
        canonical = (
            f"{self._canonical}x-amz-date:{date}\n{token_canonical}x-amz-target:{target}\n\n"
            f"{names}\n{sha256(body).hexdigest()}"
        )
        to_sign = f"AWS4-HMAC-SHA256\n{date}\n{self._scope}\n{sha256(canonical.encode()).hexdigest()}"
        signature = hmac.digest(self._key, to_sign.encode(), "sha256").hex()
        return (
            f"{self._request_line}content-length: {len(body)}\r\n"
            f"x-amz-date: {date}\r\nx-amz-target: {target}\r\n{token_header}"
            f"authorization: AWS4-HMAC-SHA256 Credential={credentials.access_key}/{self._scope}, "
            f"SignedHeaders={names}, Signature={signature}\r\n\r\n"
        ).encode()

    def _derive_key(self, credentials: Credentials, day: str) -> None:
        key = f"AWS4{credentials.secret_key}".encode()
        for part in (day, self._region, self._service, "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        self._key = key
        self._scope = f"{day}/{self._region}/{self._service}/aws4_request"
        self._signed_with = (credentials, day)
