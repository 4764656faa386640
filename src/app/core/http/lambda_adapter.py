"""Serves HTTP API events by Mangum. Every event gets a response, whatever it holds."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

from mangum import Mangum
from mangum.handlers import HTTPGateway
from mangum.protocols.lifespan import LifespanCycle
from mangum.types import Response, Scope
from starlette.types import ASGIApp, Receive, Send

from app.core.http.app import App
from app.core.http.responses import UNEXPECTED_ERROR, problem
from app.core.telemetry import add_log_fields

# Mangum's response when the application's broke off; a server closes the connection instead.
_BROKEN_OFF = {
    "status": 500,
    "headers": [[b"content-type", b"text/plain; charset=utf-8"]],
    "body": b"Internal Server Error",
}


class _Gateway(HTTPGateway):
    """Mangum's gateway, with fixes for events that it fails on or misreads.

    https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-develop-integrations-lambda.html
    """

    @classmethod
    def infer(cls, *_: Any) -> bool:
        """Take every event: this function serves no other kind."""
        return True

    @cached_property
    def scope(self) -> Scope:
        """The request's ASGI scope. Raises any exception if the event is malformed."""
        event = self.event
        if event["version"] != "2.0":
            raise ValueError(event["version"])
        http = event["requestContext"]["http"]
        headers = {name.lower(): value for name, value in (event.get("headers") or {}).items()}
        # Mangum takes a port from these and fails when there is none: https://github.com/Kludex/mangum/issues/303
        apart = [(name, headers.pop(name)) for name in ("host", "x-forwarded-port") if name in headers]
        path = http["path"]
        _ = path.encode(), http["method"].encode()  # raises for anything but text
        if "%" in path:  # the HTTP API has decoded it, and Mangum does so once more
            http = {**http, "path": path.replace("%", "%25")}
        self.event = {**event, "headers": headers, "requestContext": {"http": http}}
        scope = super().scope
        self.event = scope["aws.event"] = event
        scope["headers"] += [[name.encode(), value.encode()] for name, value in apart]
        scope["server"] = None
        if scope["scheme"] != "http":  # X-Forwarded-Proto can be anything
            scope["scheme"] = "https"
        return scope

    def __call__(self, response: Response) -> dict[str, Any]:
        """Return the response as the HTTP API takes it."""
        if response == _BROKEN_OFF:
            whole = problem(500, UNEXPECTED_ERROR, self.scope["path"])
            response = {**response, "headers": [*map(list, whole.raw_headers)], "body": bytes(whole.body)}
        try:
            result = super().__call__(response)
        except UnicodeDecodeError:  # a header's value is Latin-1, as ASGI allows
            headers = [[name, value.decode("latin-1").encode()] for name, value in response["headers"]]
            result = super().__call__({**response, "headers": headers})
        if not response["body"] and all(name != b"content-type" for name, _ in response["headers"]):
            del result["headers"]["content-type"]  # Mangum adds one even where there is no content
        return result


# Takes the place of an event that cannot be read.
_NO_REQUEST = {
    "version": "2.0",
    "requestContext": {"http": {"method": "UNKNOWN", "path": "/", "sourceIp": ""}},
}


def handler_of(app: App) -> Callable[[Any, Any], dict[str, Any]]:
    """Return the Lambda handler that serves `app`."""
    adapter = _adapter(app)  # before start-up, because it makes the event loop
    serve = _adapter(_started(app)) if app.has_lifespan else adapter

    def handler(event: Any, context: Any) -> dict[str, Any]:
        try:
            return serve(event, context)
        except Exception as error:  # of the event: the application responds to its own errors
            return _reject(app, event, context, error)

    return handler


def _adapter(app: Any) -> Mangum:
    # Lifespan is off: Mangum would run start-up and shutdown with every request.
    return Mangum(app, lifespan="off", custom_handlers=[_Gateway])


def _started(app: App) -> ASGIApp:
    """Run the application's start-up, once for the execution environment.

    Every request gets a copy of the state that it made, as a server does it. Lambda does not say when an
    environment ends, so nothing runs the shutdown. Raises `LifespanFailure`.
    """
    cycle = LifespanCycle(app, "on")
    cycle.__enter__()  # its __exit__ is the shutdown

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "state": cycle.lifespan_state.copy()}, receive, send)

    return serve


def _reject(app: App, event: Any, context: Any, error: Exception) -> dict[str, Any]:
    try:
        is_request = isinstance(event["requestContext"]["http"], dict)
    except (KeyError, TypeError):
        is_request = False
    if is_request:
        response = problem(400, "The request cannot be read.", "/")
    else:
        response = problem(500, "This function accepts HTTP API events only.", "/")

    # The text of another error may hold what the caller sent.
    cause = repr(error) if isinstance(error, KeyError) else type(error).__name__

    async def respond(scope: Scope, receive: Receive, send: Send) -> None:
        add_log_fields(error="UnreadableEvent", cause=cause)
        await response(scope, receive, send)

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "app.rejection": respond}, receive, send)

    return _adapter(serve)(_NO_REQUEST, context)
