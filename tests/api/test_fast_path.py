"""The fast path and FastAPI read requests alike: the same bytes go both ways, and come back the same.

The requests are made from the table of the declared routes: what is declared is covered.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import Enum
from inspect import signature
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Meta
from starlette.requests import Request
from tests.builders import a_settings, an_app, an_order

from app.core.auth.caller import Caller
from app.core.errors import NotAuthenticated
from app.core.http import bodies, service_routes
from app.core.http.fast_path import FastRoute, body_reader
from app.core.http.routing import Marker, Route
from app.core.models import Model, split, type_hints
from app.resources import load

SETTINGS = a_settings(log_level="CRITICAL")
ROUTERS = [*(module.router for module in load("endpoints").values()), service_routes.router]
ROUTES: list[tuple[Route, Any]] = [found for router in ROUTERS for found in router.routes()]
HeaderPair = tuple[bytes, bytes]
Answered = tuple[int, list[HeaderPair], bytes]
JSON = (b"content-type", b"application/json")


@dataclass(frozen=True)
class Sent:
    """One request."""

    method: str
    path: str
    query: str = ""
    headers: tuple[HeaderPair, ...] = ()
    body: bytes = b""
    cut_off: bool = False  # the connection ends after `body`, and more was to come


class Scopes:
    """Takes the token for the scopes."""

    async def caller(self, authorization: str | None) -> Caller:
        if authorization is None or not authorization.startswith("Bearer "):
            raise NotAuthenticated
        return Caller("me", frozenset(authorization.removeprefix("Bearer ").split()))


class Both:
    """The application, and the same where every request goes through FastAPI."""

    def __init__(self, guarded: bool, root_path: str = "") -> None:
        self.guarded = guarded
        self.root_path = root_path
        settings = msgspec.structs.replace(SETTINGS, root_path=root_path)
        self.apps = [an_app(None, settings, Scopes() if guarded else None) for _ in range(2)]
        self.apps[1].dependency_overrides[object] = object  # with any, FastAPI serves all
        self.ids = [itertools.repeat(STORED), itertools.repeat(STORED)]
        self.used = [False, False]  # whether FastAPI took part in the last request
        for declared in DECLARED:
            if declared.creates:  # one of each resource is there
                assert self.ask(declared.good)[0][0] == 201
        self.ids = [(f"{STORED[:-12]}{number:012}" for number in itertools.count(100)) for _ in self.apps]

    def ask(self, sent: Sent) -> tuple[Answered, Answered]:
        """Send one request both ways."""
        answers = []
        for index, app in enumerate(self.apps):
            with pytest.MonkeyPatch.context() as patch:
                ids = self.ids[index]
                patch.setattr("app.core.service.now", lambda: an_order().created_at)
                patch.setattr("app.core.service.new_id", lambda ids=ids: next(ids))
                answers.append(asyncio.run(self._ask(index, app, sent)))
        return answers[0], answers[1]

    async def _ask(self, index: int, app: Any, request: Sent) -> Answered:
        half = len(request.body) // 2
        parts = [request.body[:half], request.body[half:]]
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if not parts:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts) or request.cut_off}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": "https",
            "path": self.root_path + request.path,
            "raw_path": quote(request.path, errors="replace").encode(),
            "query_string": request.query.encode("latin-1"),
            "root_path": "",
            "headers": [*request.headers],
            "client": ("203.0.113.7", 1234),
            "server": ("api.test", 443),
        }
        await app(scope, receive, send)
        self.used[index] = "router" in scope  # Starlette's router puts it there
        if not sent:  # nobody is there to get it
            return 0, [], b""
        kept = [pair for pair in sent[0]["headers"] if pair[0] not in (b"x-request-id", b"x-correlation-id")]
        return sent[0]["status"], kept, b"".join(each.get("body", b"") for each in sent[1:])


def limits_of(hint: Any) -> dict[str, Any]:
    """What a hint bounds, in the words of `Meta`."""
    found: dict[str, Any] = {}
    for note in split(hint)[1]:
        if isinstance(note, Marker):
            found |= note.options
        elif isinstance(note, Meta):
            names = ("ge", "le", "min_length", "max_length")
            found |= {name: value for name in names if (value := getattr(note, name)) is not None}
    return found


def values_of(hint: Any) -> list[Any]:
    """Values at and beyond the bounds of a hint, the first of them good."""
    bare, limits = split(hint)[0], limits_of(hint)
    if isinstance(bare, type) and issubclass(bare, Enum):
        choices = [choice.value for choice in bare]
        return [*choices, *(choice.upper() for choice in choices[:1]), f" {choices[0]}", choices[0][:-1]]
    if bare is int:
        low, high = limits.get("ge", 0), limits.get("le", 1000)
        return [
            low,
            low + 1,
            high,
            low - 1,
            high + 1,
            float(low + 1),
            low + 0.5,
            str(low + 1),
            -0.0,
            1e300,
            10**30,
        ]
    if bare is str:
        low, high = limits.get("min_length", 0), min(limits.get("max_length", 300), 5000)
        sizes = (max(low, 1), low, low - 1, high, high + 1)
        return [
            *("x" * size for size in sizes if size >= 0),
            "\U0001f600" * high,
            "\u00e9" * high,
            *ODD_TEXTS,
        ]
    return []


ODD_TEXTS = [
    "", " ", " padded", "padded ", "\tx", "\x1c", "x\x1c", "\u3000", "\u2028x", "\ufeffx", "\x00", 'a"b',
    "a\\b",
    "Zo\u00eb", "\U0001f600", "null", "true", "*", '"1"', "John Doe",
]  # fmt: skip
ODD_NUMBERS = [0, -1, 1, 5.0, 5.5, 10**30, 1e300, -0.0]
ODD_VALUES: list[Any] = [*ODD_TEXTS, *ODD_NUMBERS, True, False, None, [], ["x"], {}, {"S": "x"}, "\ud800"]
ODD_WORDS = [
    "1", "50", "100", "0", "-1", "007", "+5", " 5", "5 ", "5.0", "5e0", "1_0", "\u0663", "9" * 19, "9" * 5000,
]  # fmt: skip
ODD_HEADERS = [
    b"", b" ", b"key", b" key\t", b"\xff", b"\xb2", b"k" * 255, b"k" * 256, b'"1"', b'W/"1"', b'"2"', b"*",
    b"1",
    b'"1", "2"', b'"1" "1"', b'"9999999999999999999"', b' "1"\t', b'"a,*,b"', b'*, "1"', b"null", b",",
    b"1,2",
]  # fmt: skip
CODINGS = [b"gzip", b"identity", b"", b"IDENTITY", b"gzip, identity"]
CONTENT_HEADERS: list[tuple[HeaderPair, ...]] = [
    (),
    *(
        ((b"content-type", value),)
        for value in (
            b"", b"application/json; charset=utf-8", b"APPLICATION/JSON", b"text/plain",
            b"application/x+json",
            b"application/json; charset=latin-1", b'Application/JSON ;charset="UTF-8"', b"application/json;",
            b"application/json, application/json", b"multipart/form-data; boundary=x",
        )
    ),
    (JSON, JSON),
    *((JSON, (b"content-encoding", value)) for value in CODINGS),
    (JSON, (b"content-length", b"5")),
    (JSON, (b"accept", b"text/html"), (b"x-anything", b"1")),
    ((b"x-content-type", b"application/json"),),
]  # fmt: skip


@dataclass(frozen=True)
class Declared:
    """A declared route, and what follows from its declaration."""

    route: Route
    method: str
    scopes: list[str]
    path: dict[str, Any] = field(default_factory=dict)
    query: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, Any] = field(default_factory=dict)
    body: type[Any] | None = None

    @property
    def name(self) -> str:
        return f"{self.method} {self.route.path}"

    @property
    def creates(self) -> bool:
        return self.method == "POST" and not self.path and self.body is not None

    @property
    def stored_path(self) -> str:
        return self.at(STORED)

    def at(self, value: str) -> str:
        path = self.route.path
        for name in self.path:
            path = path.replace(f"{{{name}}}", value)
        return path

    @property
    def token(self) -> HeaderPair:
        return b"authorization", f"Bearer {' '.join(self.scopes)}".encode()

    @property
    def good_body(self) -> dict[str, Any]:
        """The example that the struct gives, or what its fields ask for."""
        if self.body is None:
            return {}
        for example in self.body.json_schema_extra.get("examples", ()):
            return example
        fields = msgspec.structs.fields(self.body)
        return {each.name: values_of(type_hints(self.body)[each.name])[0] for each in fields if each.required}

    @property
    def good(self) -> Sent:
        if self.body is None:
            return Sent(self.method, self.stored_path, headers=(self.token,))
        return Sent(
            self.method, self.stored_path, "", (JSON, self.token), json.dumps(self.good_body).encode()
        )

    def canonical(self) -> Iterator[Sent]:
        """Requests that the fast path has to serve."""
        yield self.good
        yield replace(self.good, path=self.at(ABSENT))
        for name, hint in self.query.items():
            yield replace(self.good, query=f"{name}={quote(str(values_of(hint)[0]))}")
        yield replace(
            self.good, query="&".join(f"{n}={quote(str(values_of(h)[0]))}" for n, h in self.query.items())
        )
        for name in self.headers:
            yield self.with_header(name, b"canonical")
        yield self.with_header("x-anything", b"1")
        if self.body is not None:
            for name, hint in type_hints(self.body).items():
                if name in self.body.__struct_fields__ and name not in self.good_body:
                    yield self.with_body(self.good_body | {name: values_of(hint)[0]})
            yield replace(self.good, body=json.dumps(self.good_body, indent=2).encode())
            yield replace(
                self.good, headers=((b"content-type", b"application/json; charset=utf-8"), self.token)
            )

    def odd(self) -> Iterator[Sent]:
        """Requests that differ in one thing from a good one. Some of these are good too."""
        good = self.good
        for path in self.odd_paths():
            yield replace(good, path=path)
        for query in self.odd_queries():
            yield replace(good, query=query)
        for name, value in itertools.product([*self.headers, "x-other"], ODD_HEADERS):
            yield self.with_header(name, value)
        for name in self.headers:
            yield replace(good, headers=(*good.headers, (name.encode(), b'"1"'), (name.encode(), b'"2"')))
        for token in self.odd_tokens():
            yield replace(good, headers=(*good.headers[:-1], *token))
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW", "get"):
            yield replace(good, method=method)
        for body in self.odd_bodies():
            yield replace(good, body=body)
        for content in CONTENT_HEADERS:
            yield replace(good, headers=(*content, self.token))
            yield replace(good, headers=(*content, self.token), body=b"")

    def with_header(self, name: str, value: bytes) -> Sent:
        return replace(self.good, headers=(*self.good.headers, (name.encode(), value)))

    def with_body(self, body: Any) -> Sent:
        return replace(self.good, body=json.dumps(body).encode())

    def odd_paths(self) -> Iterator[str]:
        at = self.stored_path
        yield from (
            f"{at}/",
            f"/{at}",
            f"{at}\n",
            f"{at} ",
            at.upper(),
            f"{at};a=b",
            f"{at}/nowhere",
            "",
            "/nowhere",
        )
        if self.path:
            odd = (
                "none",
                "a b",
                "\u00fc",
                "",
                ".",
                "..",
                "{id}",
                "x" * 300,
                f"{STORED}\n",
                STORED.upper(),
                "a%2fb",
            )
            yield from map(self.at, odd)

    def odd_queries(self) -> Iterator[str]:
        for name, hint in self.query.items():
            for value in [*values_of(hint), *ODD_TEXTS, *ODD_WORDS]:
                yield f"{name}={quote(str(value), errors='replace')}"
            good = quote(str(values_of(hint)[0]))
            yield from (
                f"{name}", f"{name}={good}&", f"&{name}={good}", f"{name}={good};x=1",
                f"{name}={good}&{name}={good}",
                f"{name}={good}&{name}", f"%{ord(name[0]):02x}{name[1:]}={good}", f"{name.upper()}={good}",
                f"{name}={good}&other=1", f"{name}=%ff", f"{name}=a+b", f"{name}=%", f"{name}[]={good}",
                f"{name}=\xe9",
            )  # fmt: skip
        yield from (
            "other=1",
            "other",
            "=",
            "&",
            "&&",
            "?",
            "=1",
            "%",
            "body=1",
            "request=1",
            "caller=1",
            "self=1",
        )
        yield from (f"{name}=1" for name in [*self.path, *self.headers, *type_hints(self.route.endpoint)])

    def odd_tokens(self) -> Iterator[tuple[HeaderPair, ...]]:
        yield ()
        for value in ("", "Bearer", "Basic x", "Bearer x:read", "Bearer " + "x" * 300):
            yield ((b"authorization", value.encode()),)
        for scope in self.scopes:
            resource = scope.partition(":")[0]
            for other in (
                f"{resource}:read",
                f"{resource}:write",
                f"{resource}:admin",
                f"{scope}x",
                scope.upper(),
            ):
                yield ((b"authorization", f"Bearer {other}".encode()),)
        yield self.token, self.token

    def odd_bodies(self) -> Iterator[bytes]:
        good = json.dumps(self.good_body)
        yield from (
            b"", b" ", b"null", b"[]", b"{}", b"{", b"1", b'"x"', b"NaN", good.encode()[:-1],
            f"{good} x".encode(),
            f"{good},".encode(), f" \n{good}\t ".encode(), f"\ufeff{good}".encode(), good.encode("utf-16"),
            f"[{good}]".encode(), b"\xff", b"[" * 30_000, b'{"a":' * 10_000, b"a=b&c=d",
            f"{good}{good}".encode(),
        )  # fmt: skip
        if self.body is None:
            return
        for name in self.body.__struct_fields__:
            hint = type_hints(self.body)[name]
            for value in [*values_of(hint), *ODD_VALUES]:
                yield json.dumps(self.good_body | {name: value}).encode()
                yield json.dumps(self.good_body | {name: value}, ensure_ascii=False).encode(
                    "utf-8", "surrogatepass"
                )
            yield json.dumps({key: value for key, value in self.good_body.items() if key != name}).encode()
            value = self.good_body.get(name, values_of(hint)[0])
            whole = self.good_body | {name: value}
            plain, escaped = json.dumps({name: value})[1:-1], json.dumps({"\x01": value})[1:-1]
            escaped = escaped.replace("\\u0001", f"\\u{ord(name[0]):04x}{name[1:]}")
            rest = json.dumps({key: each for key, each in whole.items() if key != name})[1:-1]
            for parts in (
                (plain, plain),
                (plain, escaped),
                (escaped,),
                (plain, f'"{name}": null'),
                (plain, '"": 1'),
            ):
                yield f"{{{', '.join(filter(None, [rest, *parts]))}}}".encode()
                yield f"{{{', '.join(filter(None, [*parts, rest]))}}}".encode()
            for text in (
                "NaN",
                "Infinity",
                "-Infinity",
                "01",
                "1.",
                ".5",
                "+1",
                "5e0",
                "1E2",
                "'x'",
                "9" * 5000,
            ):
                yield f"{{{', '.join(filter(None, [rest, f'{json.dumps(name)}: {text}']))}}}".encode()
            if isinstance(value, str):  # a duplicate that hides behind quotes inside of a text
                for text in ('"', '""', "\\", '\\"'):
                    changed = json.dumps({name: text + value})[1:-1]
                    yield f"{{{', '.join(filter(None, [rest, changed, plain]))}}}".encode()
                    yield f"{{{', '.join(filter(None, [rest, changed]))}}}".encode()
        for extra in (
            "extra",
            "id",
            "owner",
            "version",
            "__proto__",
            "\ud800",
            self.body.__struct_fields__[0].upper(),
        ):
            yield json.dumps(self.good_body | {extra: 1}).encode()
        for many in (3, 30):
            yield json.dumps(self.good_body | {f"extra{n}": n for n in range(many)}).encode()


def declared_of(route: Route, around: Any) -> Iterator[Declared]:
    """What a route declares, from its signature."""
    hints = type_hints(route.endpoint)
    path: dict[str, Any] = {}
    query: dict[str, Any] = {}
    headers: dict[str, Any] = {}
    body = None
    for name in signature(route.endpoint).parameters:
        hint = hints[name]
        bare, notes, _ = split(hint)
        markers = [note.name for note in notes if isinstance(note, Marker)]
        if f"{{{name}}}" in route.path:
            path[name] = hint
        elif "Header" in markers:
            headers[name.replace("_", "-")] = hint
        elif isinstance(bare, type) and issubclass(bare, Model) and "Query" in markers:
            query |= {field: type_hints(bare)[field] for field in bare.__struct_fields__}
        elif isinstance(bare, type) and issubclass(bare, Model):
            body = bare
        elif "Depends" not in markers and bare is not Request:
            query[name] = hint
    scopes = [needed.scope for needed in FastRoute(route, around).scopes]
    for method in route.methods:
        yield Declared(route, method, scopes, path, query, headers, body)


STORED = an_order().id
ABSENT = STORED[:-1] + "f"
DECLARED = [declared for found in ROUTES for declared in declared_of(*found)]
KINDS = {"open": (False, ""), "guarded": (True, ""), "under a prefix": (False, "/api")}
of_every_route = pytest.mark.parametrize("declared", DECLARED, ids=lambda declared: declared.name)
of_every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def both() -> dict[str, Both]:
    return {kind: Both(*made) for kind, made in KINDS.items()}


def test_the_table_has_every_documented_endpoint(both: dict[str, Both]) -> None:
    """And each of them is one that the fast path knows, or `declared_of` would have failed."""
    paths = both["open"].apps[0].openapi()["paths"]
    documented = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    assert documented == {declared.name for declared in DECLARED}


@of_every_route
def test_any_oddity_is_answered_the_same_both_ways(both: dict[str, Both], declared: Declared) -> None:
    for sent in declared.odd():
        with_fast_path, with_fastapi = both["guarded"].ask(sent)
        assert with_fast_path == with_fastapi, sent


@of_every_kind
@of_every_route
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_request_is_answered_the_same_both_ways(
    both: dict[str, Both], kind: str, declared: Declared, data: st.DataObject
) -> None:
    """Several oddities at once."""
    names = [name.encode() for name in [*declared.headers, "content-type", "content-encoding", "x-other"]]
    header = st.tuples(st.sampled_from(names), st.sampled_from(ODD_HEADERS))
    content = st.sampled_from([(JSON,), *CONTENT_HEADERS])
    token = st.sampled_from([(declared.token,), *declared.odd_tokens()])
    sent = Sent(
        declared.method,
        data.draw(st.sampled_from([declared.stored_path] * 4 + [declared.at(ABSENT), *declared.odd_paths()])),
        data.draw(st.lists(st.sampled_from(["", *declared.odd_queries()]), max_size=2).map("&".join)),
        (*data.draw(content), *data.draw(token), *data.draw(st.lists(header, max_size=2))),
        data.draw(st.sampled_from([declared.good.body] * 4 + [*declared.odd_bodies()])),
    )
    with_fast_path, with_fastapi = both[kind].ask(sent)
    assert with_fast_path == with_fastapi


@of_every_kind
@of_every_route
def test_canonical_requests_do_not_need_fastapi(both: dict[str, Both], kind: str, declared: Declared) -> None:
    for sent in declared.canonical():
        with_fast_path, with_fastapi = both[kind].ask(sent)
        assert with_fast_path == with_fastapi, sent
        assert with_fast_path[0] not in {401, 403, 405, 415, 422}, (sent, with_fast_path)
        assert both[kind].used == [False, True], sent


@pytest.mark.parametrize(
    "declared",
    [declared for declared in DECLARED if declared.body is not None],
    ids=lambda declared: declared.name,
)
class TestBody:
    def test_that_is_too_large(self, both: dict[str, Both], declared: Declared) -> None:
        field = type_hints(declared.body) and declared.body.__struct_fields__[0]  # type: ignore[union-attr]
        with_fast_path, with_fastapi = both["open"].ask(
            declared.with_body(declared.good_body | {field: "x" * 70_000})
        )
        assert with_fast_path == with_fastapi
        assert with_fast_path[0] == 413

    def test_that_is_plain_is_read_once(self, declared: Declared, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bodies, "load", None)
        assert declared.body is not None
        assert body_reader(declared.body)(declared.good.body)

    def test_that_is_cut_off_is_not_taken_for_a_whole_one(self, declared: Declared) -> None:
        """However whole it looks: the caller was about to send more."""
        way = Both(False)
        resource = f"/{declared.route.path.split('/')[1]}"
        before = way.ask(Sent("GET", resource))
        assert before[0][0] == 200
        for part in (declared.good.body, declared.good.body[:-1], b""):
            assert way.ask(replace(declared.good, body=part, cut_off=True)) == ((0, [], b""),) * 2
        assert way.ask(Sent("GET", resource)) == before


# What a cold start must not wait for: each of these costs tens of milliseconds of CPU.
NOT_COLD = {
    "boto3",
    "botocore",
    "fastapi",
    "pydantic",
    "pydantic_core",
    "opentelemetry",
    "jwt",
    "cryptography",
} | {
    "aws_lambda_powertools",
    "urllib3",
    "jmespath",
    "uvicorn",
    "uvloop",
    "importlib.metadata",
}
# Room for a few more; a library that comes in brings dozens. See docs/decisions/ before raising it.
MAX_MODULES = 320

ENVIRON = {
    "PYTHONPATH": "src",
    "HOME": "/nowhere",  # without a profile
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_REGION": "eu-west-1",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    **{
        f"APP_{name}": "x"
        for name in ("TABLE_NAME", "BUCKET_NAME", "EVENT_BUS_NAME", "KMS_KEY_ARN", "CURSOR_KEY_ARN")
    },
}


def test_a_cold_start_imports_only_what_it_needs() -> None:
    """The first request of a Lambda environment, up to the answer (503 here: there is no database)."""
    event = {
        "version": "2.0",
        "rawPath": f"/orders/{STORED}",
        "rawQueryString": "",
        "headers": {"host": "api.test"},
        "requestContext": {"http": {"method": "GET", "path": f"/orders/{STORED}", "sourceIp": "203.0.113.7"}},
        "isBase64Encoded": False,
    }
    program = f"""
import json, sys
from app.entrypoints.lambda_api import handler
class Context: aws_request_id, function_version = "request", "7"
answer = handler({event!r}, Context)
print(json.dumps([answer["statusCode"], sorted(sys.modules)]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env=ENVIRON, capture_output=True, text=True, timeout=60, check=True
    )
    status, modules = json.loads(done.stdout.splitlines()[-1])
    assert status == 503
    assert not NOT_COLD & set(modules)
    assert len(modules) <= MAX_MODULES, f"{len(modules)} modules"
