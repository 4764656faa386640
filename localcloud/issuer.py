"""An OpenID issuer for development: signs tokens with a key of this machine, and publishes its public half.

    make run AUTH=1                                            serves it, and has the API ask for its tokens
    make token SUB=alice SCOPES="orders:read orders:write"     prints one

It is a stand-in for Cognito, Entra, Auth0 ...: the API finds its keys in the same way. The private key lies
in `.local/issuer.json`, readable by its owner only. Nothing outside this machine trusts it.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

if TYPE_CHECKING:
    from app.core.auth.jwt import JwtAuthenticator

AUDIENCE = "orders"
HOME = Path(".local/issuer.json")


class Issuer:
    """One signing key under one address."""

    def __init__(self, url: str, jwk: dict[str, Any] | None = None, kid: str = "key-1") -> None:
        self.url = url
        self.jwk = jwk or new_key(kid)
        self._private = jwt.PyJWK(self.jwk)

    @classmethod
    def load(cls, path: Path = HOME) -> Issuer:
        """Return the issuer of this machine: the same address and key every time."""
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            # Written whole or not at all, and never readable by others.
            draft = path.with_suffix(f".{os.getpid()}")
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
                json.dump({"url": f"http://127.0.0.1:{port}", "jwk": new_key("development")}, file)
            draft.rename(path)
        return cls(**json.loads(path.read_text()))

    def token(
        self, sub: str, scopes: str = "orders:read orders:write", *, valid_seconds: int = 3600, **claims: Any
    ) -> str:
        """Sign a token. A claim given as None is left out."""
        now = int(time.time())
        known = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": sub,
            "scope": scopes,
            "iat": now,
            "exp": now + valid_seconds,
        }
        return self.sign({name: value for name, value in (known | claims).items() if value is not None})

    def sign(self, claims: dict[str, Any], **header: Any) -> str:
        """Sign any claims."""
        headers = {"kid": self.jwk["kid"], "typ": "at+jwt"} | header
        return jwt.encode(claims, self._private, algorithm=self.jwk["alg"], headers=headers)

    def bearer(self, sub: str, scopes: str = "orders:read orders:write") -> dict[str, str]:
        """Return the header of a request by `sub`."""
        return {"authorization": f"Bearer {self.token(sub, scopes)}"}

    def authenticator(self) -> JwtAuthenticator:
        """Return an authenticator that trusts this issuer only, and finds its keys without a network."""
        from app.core.auth.jwt import JwtAuthenticator, KeySet

        async def fetch(url: str) -> bytes:
            return json.dumps(self.documents()[url.removeprefix(self.url)]).encode()

        return JwtAuthenticator(self.url, AUDIENCE, KeySet(self.url, fetch))

    @property
    def public_jwk(self) -> dict[str, Any]:
        """The key as the issuer publishes it."""
        return {name: self.jwk[name] for name in self.jwk if name in _PUBLIC}

    def documents(self) -> dict[str, Any]:
        """Return what the issuer answers, by path."""
        return {
            "/.well-known/openid-configuration": {
                "issuer": self.url,
                "jwks_uri": f"{self.url}/.well-known/jwks.json",
            },
            "/.well-known/jwks.json": {"keys": [self.public_jwk]},
        }

    def serve(self) -> ThreadingHTTPServer:
        """Serve the documents at the issuer's address, from a thread of this process."""
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                found = issuer.documents().get(self.path)
                body = json.dumps(found).encode()
                self.send_response(404 if found is None else 200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base's name
                """Stay quiet: keys are asked for every few minutes."""

        server = ThreadingHTTPServer(("127.0.0.1", urlsplit(self.url).port or 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server


_PUBLIC = frozenset({"kty", "kid", "use", "alg", "n", "e", "crv", "x", "y"})


def new_key(kid: str) -> dict[str, Any]:
    """Return a new private RSA key as a JWK."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    jwk: dict[str, Any] = RSAAlgorithm.to_jwk(key, as_dict=True)
    del jwk["key_ops"]
    return jwk | {"kid": kid, "use": "sig", "alg": "RS256"}


def main() -> None:
    """Print a token."""
    parser = argparse.ArgumentParser(description="A token of the development issuer")
    parser.add_argument("--sub", default="alice")
    parser.add_argument("--scopes", default="orders:read orders:write")
    parser.add_argument("--valid-seconds", type=int, default=8 * 3600)
    given = parser.parse_args()
    print(Issuer.load().token(given.sub, given.scopes, valid_seconds=given.valid_seconds))


if __name__ == "__main__":
    main()
