"""What an attacker sends: tokens, paths, headers and bodies. Every entry is one case for every route."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from localcloud.issuer import AUDIENCE, Issuer

from app.resources import RESOURCES

# Every scope of every resource, and what is above them.
ALL = " ".join(f"{resource}:read {resource}:write" for resource in RESOURCES)
ADMIN = " ".join(f"{resource}:admin" for resource in RESOURCES)

ISSUER = Issuer("https://issuer.test")
STRANGER = Issuer(ISSUER.url)  # calls itself the issuer, and its key by the same id, but has another key


def claims(**changes: Any) -> dict[str, Any]:
    """Claims that count, unless changed. None leaves one out."""
    now = int(time.time())
    good = {
        "iss": ISSUER.url,
        "aud": AUDIENCE,
        "sub": "alice",
        "scope": ADMIN,
        "iat": now,
        "exp": now + 600,
    }
    return {name: value for name, value in (good | changes).items() if value is not None}


def b64(data: bytes | dict[str, Any]) -> str:
    """Encode a part of a token."""
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def by_hand(header: dict[str, Any], body: dict[str, Any], secret: bytes | None = None) -> str:
    """Make a token that no library would sign: HMAC with `secret`, or no signature."""
    signed = f"{b64(header)}.{b64(body)}"
    return (
        f"{signed}.{b64(hmac.digest(secret, signed.encode(), hashlib.sha256)) if secret is not None else ''}"
    )


def bad_authorizations() -> Iterator[tuple[str, list[str]]]:
    """Yield what is wrong, and the Authorization headers to send."""
    good = ISSUER.sign(claims())
    head, body, signature = good.split(".")
    kid = {"kid": ISSUER.jwk["kid"], "typ": "at+jwt"}
    public = jwt.PyJWK(ISSUER.public_jwk).key
    private = jwt.PyJWK(ISSUER.jwk).key
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    elliptic = ec.generate_private_key(ec.SECP256R1())
    past, future = int(time.time()) - 120, int(time.time()) + 3600

    yield "no token", []
    for text in (
        "",
        "Bearer",
        "Bearer ",
        "bearer  ",
        "Token abc",
        "Basic YWxpY2U6c2VjcmV0",
        good,
        f"Basic {good}",
    ):
        yield f"header {text[:12]!r}", [text]
    for token in ("x", "..", "a.b", "a.b.c", "a.b.c.d.e", "null", "undefined", "{}", "é", "%00", f"{good}."):
        yield f"token {token[:12]!r}", [f"Bearer {token}"]
    yield "two tokens in one header", [f"Bearer {good} {good}"]
    yield "two tokens, comma", [f"Bearer {good},Bearer {good}"]
    yield "two headers", [f"Bearer {good}", f"Bearer {good}"]
    yield "a good header behind a bad one", ["Bearer x", f"Bearer {good}"]

    tokens: dict[str, str] = {
        "expired": ISSUER.sign(claims(exp=past)),
        "not valid yet": ISSUER.sign(claims(nbf=future)),
        "issued in the future": ISSUER.sign(claims(iat=future)),
        "wrong audience": ISSUER.sign(claims(aud="other")),
        "audience as prefix": ISSUER.sign(claims(aud=AUDIENCE + "-other")),
        "wrong issuer": ISSUER.sign(claims(iss="https://evil.test")),
        "issuer with a slash": ISSUER.sign(claims(iss=ISSUER.url + "/")),
        "no exp": ISSUER.sign(claims(exp=None)),
        "no sub": ISSUER.sign(claims(sub=None)),
        "no aud": ISSUER.sign(claims(aud=None)),
        "no iss": ISSUER.sign(claims(iss=None)),
        "empty sub": ISSUER.sign(claims(sub="")),
        "null sub": ISSUER.sign(claims() | {"sub": None}),
        "numeric sub": ISSUER.sign(claims(sub=1)),
        "exp is text": ISSUER.sign(claims(exp="tomorrow")),
        "exp is infinite": ISSUER.sign(claims(exp=1e999)),
        "exp beyond every float": ISSUER.sign(claims(exp=10**400)),
        "sub that nothing can store": ISSUER.sign(claims(sub="\ud800")),
        "sub with a control character": ISSUER.sign(claims(sub="alice\x00")),
        "signature with a spare bit": f"{good[:-1]}{chr(ord(good[-1]) + 1)}",
        "signature with padding": f"{good}==",
        "signature with what a decoder skips": f"{good[:-9]}!{good[-9:]}",
        "logout token": ISSUER.sign(claims(), typ="logout+jwt"),
        "unknown kid": ISSUER.sign(claims(), kid="other"),
        "kid is a path": ISSUER.sign(claims(), kid="../../../../dev/null"),
        "kid is SQL": ISSUER.sign(claims(), kid="' UNION SELECT 'key"),
        "unknown crit": ISSUER.sign(claims(), crit=["exp"]),
        "stranger's key, our kid": STRANGER.sign(claims()),
        "stranger's key in jwk": STRANGER.sign(claims(), jwk=STRANGER.public_jwk),
        "stranger's jku": STRANGER.sign(claims(), jku="https://evil.test/jwks.json"),
        "stranger's x5u": STRANGER.sign(claims(), x5u="https://evil.test/cert.pem"),
        "HS256, PEM as secret": by_hand({"alg": "HS256", **kid}, claims(), pem),
        "HS256, PEM without newline": by_hand({"alg": "HS256", **kid}, claims(), pem.strip()),
        "HS256, DER as secret": by_hand({"alg": "HS256", **kid}, claims(), der),
        "HS256, JWK as secret": by_hand(
            {"alg": "HS256", **kid}, claims(), json.dumps(ISSUER.public_jwk).encode()
        ),
        "HS256, modulus as secret": by_hand({"alg": "HS256", **kid}, claims(), ISSUER.jwk["n"].encode()),
        "HS256, empty secret": by_hand({"alg": "HS256", **kid}, claims(), b""),
        "RS512 of the right key": jwt.encode(claims(), private, "RS512", kid),
        "PS256 of the right key": jwt.encode(claims(), private, "PS256", kid),
        "ES256 under an RSA kid": jwt.encode(claims(), elliptic, "ES256", kid),
        "no alg": by_hand(kid, claims()),
        "null alg": by_hand({"alg": None, **kid}, claims()),
        "list alg": by_hand({"alg": ["RS256"], **kid}, claims()),
        "signature cut off": f"{head}.{body}.",
        "signature halved": f"{head}.{body}.{signature[:86]}",
        "signature of zeros": f"{head}.{body}.{b64(bytes(256))}",
        "signature of another": f"{head}.{body}.{STRANGER.sign(claims()).split('.')[2]}",
        "other sub, old signature": f"{head}.{b64(claims(sub='bob'))}.{signature}",
        "other scope, old signature": f"{head}.{b64(claims(scope=ADMIN))}.{signature}",
        "other header, old signature": f"{b64({'alg': 'RS256', **kid, 'x': 1})}.{body}.{signature}",
        "header is a list": f"{b64(b'[]')}.{body}.{signature}",
        "header nested deep": f"{b64(b'[' * 5000)}.{body}.{signature}",
        "header is no UTF-8": f"{b64(bytes([255, 254]))}.{body}.{signature}",
        "body is no JSON": ISSUER_SIGNED_TEXT,
        "too long": ISSUER.sign(claims(padding="x" * 6000)),
        "encrypted": f"{b64({'alg': 'RSA-OAEP', 'enc': 'A256GCM', **kid})}.a.b.c.d",
    }
    for spelling in ("none", "None", "NONE", "nOnE", ""):
        tokens[f"alg {spelling!r}"] = by_hand({"alg": spelling, **kid}, claims())
        tokens[f"alg {spelling!r}, old signature"] = f"{b64({'alg': spelling, **kid})}.{body}.{signature}"
    for what, token in tokens.items():
        yield what, [f"Bearer {token}"]


ISSUER_SIGNED_TEXT = jwt.PyJWS().encode(
    b"sub=alice", jwt.PyJWK(ISSUER.jwk), algorithm="RS256", headers={"kid": ISSUER.jwk["kid"]}
)


def bad_scopes(needed: str) -> list[str]:
    """Return scopes that must not be enough where this one is needed."""
    resource, verb = needed.split(":")
    other = {"read": "write", "write": "read"}[verb]
    others = [f"{each}:admin {each}:{verb}" for each in RESOURCES if each != resource]
    return [
        *("", "*", resource, verb, f"{resource}:*", f"{resource}:{other}", f"{needed}x", needed[:-1]),
        *(needed.upper(), needed.title(), f"{needed},{resource}:{other}", f"{resource}.{verb}", *others),
    ]


# Headers by which some proxies and frameworks let a caller change who calls, what for, or where.
TRICK_HEADERS: list[dict[str, str]] = [
    {"x-forwarded-user": "alice"},
    {"x-remote-user": "alice"},
    {"x-amzn-oidc-identity": "alice"},
    {"x-amzn-oidc-data": ISSUER.sign(claims())},
    {"x-amzn-request-context": '{"authorizer":{"jwt":{"claims":{"sub":"alice"}}}}'},
    {"x-apigateway-event": "{}"},
    {"cookie": f"token={ISSUER.sign(claims())}; Authorization=Bearer%20{ISSUER.sign(claims())}"},
    {"proxy-authorization": f"Bearer {ISSUER.sign(claims())}"},
    {"x-authorization": f"Bearer {ISSUER.sign(claims())}"},
    {"x-original-authorization": f"Bearer {ISSUER.sign(claims())}"},
    {"x-original-url": "/health"},
    {"x-rewrite-url": "/health"},
    {"x-forwarded-prefix": "/admin"},
    {"x-http-method-override": "GET"},
    {"x-forwarded-for": "127.0.0.1"},
    {"forwarded": "for=127.0.0.1;host=localhost"},
    {"x-forwarded-host": "evil.test"},
    {"host": "evil.test"},
]


def trick_paths(resource: str, entity_id: str) -> list[str]:
    """Spellings by which some routers find an entity though a check on the plain path does not."""
    return [
        f"/{resource}/{entity_id}/",
        f"//{resource}/{entity_id}",
        f"/{resource}//{entity_id}",
        f"/./{resource}/{entity_id}",
        f"/health/../{resource}/{entity_id}",
        f"/health/%2e%2e/{resource}/{entity_id}",
        f"/health/%2e%2e%2f{resource}%2f{entity_id}",
        f"/health%2f..%2f{resource}/{entity_id}",
        f"/health/..;/{resource}/{entity_id}",
        f"/{resource}/{entity_id};a=b",
        f"/{resource}/{entity_id}.json",
        f"/{resource}/{entity_id}%00",
        f"/{resource}/{entity_id}%0d%0aX-Injected:1",
        f"/{resource}/{entity_id}%20",
        f"/{resource}/{entity_id.upper()}",
        f"/{resource.upper()}/{entity_id}",
        f"/{resource}/{entity_id}%2fstatus",
        f"/{resource}/%{ord(entity_id[0]):02x}{entity_id[1:]}",
        f"/{resource}/%25{ord(entity_id[0]):02x}{entity_id[1:]}",
        f"/{resource}/{entity_id.replace('-', '')}",
        f"/{resource}/urn:uuid:{entity_id}",
        f"/{resource}/{{{entity_id}}}",
        f"/{resource}/{resource[:-1]}%23{entity_id}",
        f"/{resource}/x/../{entity_id}",
        f"/{resource}\\{entity_id}",
        f"/{resource}/{entity_id}?access_token={ISSUER.sign(claims())}",
        f"/{resource}/{entity_id}?authorization=Bearer%20{ISSUER.sign(claims())}",
        f"/{resource}/{entity_id}?owner=bob&sub=alice&scope={resource}:admin",
    ]


def bad_bodies(good: dict[str, Any], properties: dict[str, Any]) -> list[bytes]:
    """Return bodies that must be rejected, whoever sends them."""
    fields: list[dict[str, Any]] = [
        {"owner": "alice"},
        {"id": "0199a6f5-1c00-7000-8000-000000000001"},
        {"pk": "order#1"},
        {"version": 9},
        {"owner_key": "owner#alice"},
        {"__proto__": {}},
    ]
    for name, declared in properties.items():
        if declared.get("type") == "integer":
            beyond = (declared["minimum"] - 1, declared["maximum"] + 1, -(10**30), 10**30, 1e999, 5.5)
            fields += [{name: value} for value in (*beyond, True, "5", None, {"N": "5"}, [])]
        else:
            fields += [
                {name: value} for value in ("", "   ", "x" * 201, "\ud800", 7, None, ["a"], {"S": "a"})
            ]
    text = next(name for name in good if isinstance(good[name], str))
    return [
        *(json.dumps(good | extra).encode() for extra in fields),
        *_BAD_JSON,
        json.dumps({text: 1}).encode(),
    ]


_BAD_JSON = [
    b"",
    b"null",
    b"[]",
    b"{",
    b"\xff\xfe{}",
    b'{"quantity": NaN}',
    b"[" * 30_000,
    b'{"a":' * 10_000,
    b'{"quantity": ' + b"9" * 30_000 + b"}",
    b"customer=a&product=b&quantity=1",
    b"<order/>",
]
