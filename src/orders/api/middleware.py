"""The outermost layer of every request, as plain ASGI: limits, safe headers, and the last catch."""

from __future__ import annotations

import logging

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orders.api.responses import problem

# Far above any order, far below what would hurt.
MAX_BODY_BYTES = 64 * 1024

# https://cheatsheetseries.owasp.org/cheatsheets/REST_Security_Cheat_Sheet.html#security-headers
SECURITY_HEADERS = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "strict-transport-security": "max-age=31536000; includeSubDomains",
    "referrer-policy": "no-referrer",
}

_log = logging.getLogger("orders")


class RequestBoundary:
    """Bounds the body, adds the security headers and answers what nobody expected with a bare 500."""

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self._app = app
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._root_path:  # routes are found, and links made, under the prefix
            scope["root_path"] = self._root_path
        started = False
        size = 0

        async def bounded_receive() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > MAX_BODY_BYTES:
                raise HTTPException(413, f"The body is larger than {MAX_BODY_BYTES} bytes")
            return message

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._app(scope, bounded_receive, send_with_headers)
        except Exception:  # the outermost handler: whatever went wrong, the caller learns nothing of it
            _log.exception("unhandled error")
            if started:
                raise
            answer = problem(500, "Internal Server Error", "Something went wrong on our side.", scope["path"])
            await answer(scope, receive, send_with_headers)
