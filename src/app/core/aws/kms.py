"""The `CursorKey` from an HMAC key in KMS: the secret never leaves KMS, and no secret is configured."""

from __future__ import annotations

import base64

from app.core.aws.client import AwsClient, Bulkhead, SingleFlight

# What is signed is no secret, the response is: 32 bytes that only holders of kms:GenerateMac can get.
# A new label makes a new key, and so ends every cursor in use.
_LABEL = b"orders/cursor/v2"


class KmsCursorKey:
    """Derives the key with one `GenerateMac` on first use, and keeps it.

    Source: https://docs.aws.amazon.com/kms/latest/APIReference/API_GenerateMac.html
    """

    def __init__(self, client: AwsClient, key_arn: str) -> None:
        self._client = client
        self._key_arn = key_arn
        self._key: bytes | None = None
        self._derivation = SingleFlight(self._derive)
        self._waiting = Bulkhead("kms")

    async def cursor_key(self) -> bytes:
        """Return the key, asking KMS the first time only."""
        if self._key is None:
            with self._waiting:
                self._key = await self._derivation()
        return self._key

    async def _derive(self) -> bytes:
        response = await self._client.call(
            "GenerateMac",
            {
                "KeyId": self._key_arn,
                "MacAlgorithm": "HMAC_SHA_256",
                "Message": base64.b64encode(_LABEL).decode(),
            },
        )
        return base64.b64decode(response["Mac"])
