"""Whatever the event, the Lambda handler answers it, says so in the log, and never raises."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import copy
import io
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from fastapi import Request, Response
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.responses import StreamingResponse
from tests.builders import sample
from tests.transports import LambdaContext

from app.core.http.app import App
from app.core.http.lambda_adapter import handler_of

Answer = dict[str, Any]
Handle = Callable[[Any], tuple[Answer, dict[str, Any]]]


@pytest.fixture
def handle(app: App, loop: asyncio.AbstractEventLoop) -> Handle:
    """Answer an event as it comes out of JSON; return the answer and its line in the log."""
    handler = handler_of(app)

    def handle(event: Any) -> tuple[Answer, dict[str, Any]]:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            answer = handler(json.loads(json.dumps(event)), LambdaContext())
        json.dumps(answer)  # is what Lambda does with it
        (line,) = [
            line for line in map(json.loads, out.getvalue().splitlines()) if line["message"] == "request"
        ]
        assert line["status"] == answer["statusCode"]
        assert answer["headers"]["x-request-id"] == line["request_id"] == LambdaContext.aws_request_id
        if answer["statusCode"] >= 400:
            assert answer["headers"]["content-type"] == "application/problem+json"
            assert json.loads(base64.b64decode(answer["body"]))["status"] == answer["statusCode"]
        return answer, line

    return handle


def a_get(path: str = "/orders", **headers: str) -> dict[str, Any]:
    event = sample("list-orders")
    event["requestContext"]["http"]["path"] = path
    event["headers"] |= {name.replace("_", "-"): value for name, value in headers.items()}
    return event


class TestNotRequests:
    @pytest.mark.parametrize(
        "event",
        [
            {},
            [],
            None,
            "x",
            5,
            [[]],
            {"Records": []},
            {"version": "2.0"},
            {"version": "2.0", "requestContext": None},
            {"version": "2.0", "requestContext": {"http": None}},
            {"version": "2.0", "requestContext": {}, "rawPath": "/"},
            {"version": "1.0", "resource": "/", "path": "/", "httpMethod": "GET", "requestContext": {}},
            {"requestContext": {"elb": {}}, "path": "/", "httpMethod": "GET", "headers": {}},
            sample("receipts-order-placed"),
            sample("relay-order-placed"),
        ],
    )
    def test_are_a_fault_of_ours(self, handle: Handle, event: Any) -> None:
        answer, line = handle(event)
        assert answer["statusCode"] == 500
        assert (line["level"], line["error"], line["ServerErrors"]) == ("ERROR", "UnreadableEvent", 1)
        assert line["cause"]

    def test_are_so_at_the_edge_too(self, app: App, handle: Handle) -> None:
        app._outermost._origin_secrets = [b"secret"]  # type: ignore[attr-defined]
        assert handle({})[0]["statusCode"] == 500


class TestUnreadable:
    @pytest.mark.parametrize(
        ("path", "value"),
        [
            ("headers", ["x"]),
            ("headers", {"accept": 5}),
            ("headers", {"accept": None}),
            ("headers", {"accept": "\ud800"}),
            ("headers", {"host": 5}),
            ("cookies", [5]),
            ("rawQueryString", None),
            ("rawQueryString", "\ud800"),
            ("version", "1.0"),
            ("version", None),
            ("body", 5),
            ("body", "\ud800"),
            ("requestContext.http.method", None),
            ("requestContext.http.method", []),
            ("requestContext.http.path", None),
            ("requestContext.http.path", "/\ud800"),
            ("requestContext.http.path", 5),
        ],
    )
    def test_is_the_caller_s(self, handle: Handle, path: str, value: Any) -> None:
        event = sample("create-order")
        *parents, last = path.split(".")
        inner = event
        for name in parents:
            inner = inner[name]
        inner[last] = value
        answer, line = handle(event)
        assert answer["statusCode"] == 400
        assert (line["error"], line["ClientErrors"]) == ("UnreadableEvent", 1)

    @pytest.mark.parametrize("name", ["body", "rawQueryString", "headers"])
    def test_nothing_of_it_gets_into_the_log(self, handle: Handle, name: str) -> None:
        secret: Any = "S3CRET\ud800"
        event = sample("create-order") | {name: {"accept": secret} if name == "headers" else secret}
        assert "S3CRET" not in json.dumps(handle(event))

    def test_so_is_a_body_that_is_no_base64(self, handle: Handle) -> None:
        answer, _ = handle(sample("create-order") | {"isBase64Encoded": True, "body": "x"})
        assert answer["statusCode"] == 400


class TestReadable:
    @pytest.mark.parametrize(
        "name", ["headers", "cookies", "body", "rawQueryString", "isBase64Encoded", "rawPath"]
    )
    def test_what_may_be_missing(self, handle: Handle, name: str) -> None:
        event = a_get()
        event.pop(name, None)
        assert handle(event)[0]["statusCode"] == 200

    @pytest.mark.parametrize("name", ["headers", "cookies", "body", "isBase64Encoded"])
    def test_what_may_be_null(self, handle: Handle, name: str) -> None:
        assert handle(a_get() | {name: None})[0]["statusCode"] == 200

    @pytest.mark.parametrize("proto", ["https,http", "gopher", "", "\xff"])
    def test_a_scheme_that_is_none(self, app: App, handle: Handle, proto: str) -> None:
        @app.fastapi.get("/url")
        async def url(request: Request) -> str:
            return request.url.scheme

        assert json.loads(handle(a_get("/url", x_forwarded_proto=proto))[0]["body"]) == "https"

    def test_a_route_may_look_at_the_event_itself(self, app: App, handle: Handle) -> None:
        @app.fastapi.get("/event")
        async def event_of(request: Request) -> Any:
            return request.scope["aws.event"]

        event = a_get("/event", host="api.test:", x_forwarded_port="443,80")
        assert json.loads(handle(event)[0]["body"]) == event

    def test_a_header_of_a_response_in_latin_1(self, app: App, handle: Handle) -> None:
        @app.fastapi.get("/latin")
        async def latin() -> Response:
            return Response(headers={"x-name": "Zo\xeb"})

        answer, _ = handle(a_get("/latin"))
        assert (answer["statusCode"], answer["headers"]["x-name"]) == (200, "Zo\xeb")


def test_an_answer_that_breaks_off_is_a_problem(
    app: App, loop: asyncio.AbstractEventLoop, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = handler_of(app)  # before the route, with which an application has a start-up to run

    async def parts() -> AsyncIterator[bytes]:
        yield b"a"
        raise RuntimeError("secret")

    @app.fastapi.get("/stream")
    async def stream() -> Response:
        return StreamingResponse(parts())

    answer = handler(a_get("/stream"), LambdaContext())
    problem = json.loads(base64.b64decode(answer["body"]))
    assert (answer["statusCode"], problem["status"], problem["instance"]) == (500, 500, "/stream")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["error"] for line in lines if line["message"] == "request"] == ["RuntimeError"]


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=8),
    st.sampled_from(
        ["443,80", "api.test:", "[2001:db8::1]", "\ud800", "%", "2.0", "1.0", "HEAD", "*", "\xff"]
    ),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=6), inner, max_size=2),
)
SAMPLES = [
    sample(name) for name in ("create-order", "change-status", "get-order", "list-orders", "get-service")
]


def places(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield (*path, name)
            yield from places(inner, (*path, name))


@st.composite
def events(draw: st.DrawFn) -> Any:
    event = copy.deepcopy(draw(st.sampled_from(SAMPLES)))
    for _ in range(draw(st.integers(0, 3))):
        path = draw(st.sampled_from(sorted(places(event))))
        inner = event
        for name in path[:-1]:
            inner = inner[name]
        if draw(st.booleans()):
            inner[path[-1]] = draw(values)
        else:
            del inner[path[-1]]
        if not event:
            break
    for name in draw(
        st.lists(st.sampled_from(["host", "x-forwarded-port", "x-forwarded-proto", "cookie"]), max_size=2)
    ):
        if isinstance(event.get("headers"), dict):
            event["headers"][name] = draw(st.text(max_size=8) | scalars)
    if draw(st.booleans()) and isinstance(event.get("body"), str):
        with contextlib.suppress(UnicodeEncodeError):
            event["body"] = base64.b64encode(event["body"].encode()).decode()
    return event


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(event=events())
def test_a_broken_event_is_answered(handle: Handle, event: Any) -> None:
    answer, line = handle(event)
    assert 100 <= answer["statusCode"] < 600
    context = event.get("requestContext")
    if isinstance(context, dict) and isinstance(context.get("http"), dict):
        assert answer["statusCode"] < 500, line


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(event=values)
def test_so_is_what_is_no_event_at_all(handle: Handle, event: Any) -> None:
    assert handle(event)[0]["statusCode"] == 500
