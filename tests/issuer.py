"""An issuer for the tests, and an authenticator that finds its keys without a network."""

from __future__ import annotations

import json

from localcloud.issuer import AUDIENCE, Issuer

from app.core.auth.jwt import JwtAuthenticator, KeySet

URL = "https://issuer.test"

ISSUER = Issuer(URL)


def authenticator() -> JwtAuthenticator:
    """Trusts `ISSUER` only."""

    async def fetch(url: str) -> bytes:
        return json.dumps(ISSUER.documents()[url.removeprefix(URL)]).encode()

    return JwtAuthenticator(URL, AUDIENCE, KeySet(URL, fetch))


def bearer(sub: str, scopes: str = "orders:read orders:write") -> dict[str, str]:
    """Return the header of a caller."""
    return {"authorization": f"Bearer {ISSUER.token(sub, scopes)}"}
