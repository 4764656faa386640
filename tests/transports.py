"""The two ways to call the application without a network."""

from __future__ import annotations

import asyncio
import base64
from typing import Any
from urllib.parse import unquote

import httpx
from fastapi import FastAPI

from app.core.http.lambda_adapter import handler_of


def target_of(request: httpx.Request) -> tuple[str, str]:
    """Return the path and query to send.

    httpx straightens a URL ("/x/../orders") like a browser; an attacker does not. The extension "target",
    which its own transports know too, is sent as it stands.
    """
    target: bytes = request.extensions.get("target", request.url.raw_path)
    path, _, query = target.decode("ascii").partition("?")
    return path, query


class ServerTransport(httpx.BaseTransport):
    """Calls the application as an ASGI server does."""

    def __init__(self, app: FastAPI, loop: asyncio.AbstractEventLoop) -> None:
        self._app = app
        self._loop = loop

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        path, query = target_of(request)
        sent = {"path": unquote(path), "raw_path": path.encode(), "query_string": query.encode()}

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await self._app(scope | sent, receive, send)

        async def call() -> httpx.Response:
            response = await httpx.ASGITransport(app).handle_async_request(request)
            body = await response.aread()
            return httpx.Response(response.status_code, headers=response.headers, content=body)

        return self._loop.run_until_complete(call())


class LambdaTransport(httpx.BaseTransport):
    """Calls the application as Lambda does, with the HTTP API's events.

    https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-develop-integrations-lambda.html
    """

    def __init__(self, app: FastAPI) -> None:
        self._handler = handler_of(app)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = self._handler(http_api_event(request), LambdaContext())
        body = answer.get("body") or ""
        content = base64.b64decode(body) if answer.get("isBase64Encoded") else body.encode()
        headers = [*answer["headers"].items(), *(("set-cookie", each) for each in answer.get("cookies", []))]
        return httpx.Response(answer["statusCode"], headers=headers, content=content)


def http_api_event(request: httpx.Request) -> dict[str, Any]:
    """Return the event (payload format 2.0) that the HTTP API makes of a request.

    It decodes the path and leaves the query as it is, joins headers of one name, takes cookies out of them,
    and encodes a body that is no text.
    """
    headers: dict[str, str] = {}
    cookies: list[str] = []
    for name, value in request.headers.multi_items():
        if name == "cookie":
            cookies += value.split("; ")
        else:
            headers[name] = f"{headers[name]},{value}" if name in headers else value
    body = request.read()
    target, query = target_of(request)
    path = unquote(target)
    is_text = headers.get("content-type", "").startswith(("application/json", "text/")) and is_utf8(body)
    event: dict[str, Any] = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "headers": headers,
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "api",
            "domainName": request.url.host,
            "http": {
                "method": request.method,
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": "203.0.113.7",
                "userAgent": headers.get("user-agent", ""),
            },
            "requestId": "request",
            "stage": "$default",
            "timeEpoch": 1767323045678,
        },
        "isBase64Encoded": bool(body) and not is_text,
    }
    if cookies:
        event["cookies"] = cookies
    if body:
        event["body"] = body.decode() if is_text else base64.b64encode(body).decode()
    return event


def is_utf8(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


class LambdaContext:
    """The context that Lambda hands to a function, as far as it is read."""

    aws_request_id = "00000000-0000-4000-8000-000000000000"
    function_version = "7"
    function_name = "api"
