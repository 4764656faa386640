"""CORS: pages of listed origins can call the API and read every response, errors included.

Without a listed origin this module is not imported.
Decision 22 says why it is not Starlette's CORSMiddleware, with figures.
https://fetch.spec.whatwg.org/#http-cors-protocol
"""

from __future__ import annotations

from collections.abc import Iterable

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.http.responses import problem

_METHODS = ["GET", "HEAD", "POST", "PUT"]
_HEADERS = [
    "accept",
    "accept-language",
    "authorization",
    "baggage",
    "content-language",
    "content-type",
    "idempotency-key",
    "if-match",
    "if-none-match",
    "traceparent",
    "tracestate",
    "x-correlation-id",
]
_EXPOSED = b"etag, location, idempotent-replayed, retry-after, x-correlation-id, x-request-id"
_MAX_AGE_SECONDS = 600


class Cors:
    """Two layers. Neither allows credentials: a page sends its token in a header."""

    def __init__(self, origins: Iterable[str]) -> None:
        self._origins = frozenset(origin.encode() for origin in origins)

    def readable(self, app: ASGIApp) -> ASGIApp:
        """Let pages read responses. Runs around the request middleware, which sends responses too."""

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            async def send_with_headers(message: Message) -> None:
                if message["type"] == "http.response.start":
                    message["headers"] = [*message["headers"], *self._response_headers(scope)]
                await send(message)

            await app(scope, receive, send_with_headers)

        return serve

    def preflights(self, app: ASGIApp) -> ASGIApp:
        """Respond to preflight requests. Runs inside the request middleware, within its limits."""

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            is_options = scope["type"] == "http" and scope["method"] == "OPTIONS"
            headers = dict(scope["headers"]) if is_options else {}
            if headers.keys() >= {b"origin", b"access-control-request-method"}:
                await self._preflight_response(headers, scope["path"])(scope, receive, send)
            else:
                await app(scope, receive, send)

        return serve

    def _response_headers(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        vary = (b"vary", b"Origin")
        origin = dict(scope["headers"]).get(b"origin")
        if origin is None or not self._is_allowed(origin):
            return [vary]
        return [
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", _EXPOSED),
            vary,
        ]

    def _preflight_response(self, headers: dict[bytes, bytes], path: str) -> Response:
        method = headers[b"access-control-request-method"].decode("latin-1")
        names = headers.get(b"access-control-request-headers", b"").decode("latin-1").lower().split(",")
        for what, allowed in (
            ("origin", self._is_allowed(headers[b"origin"])),
            ("method", method in _METHODS),
            ("header", {name.strip() for name in names} <= {"", *_HEADERS}),
        ):
            if not allowed:
                detail = f"Cross-origin request rejected: the {what} is not allowed."
                return problem(400, detail, path, "cross-origin")
        return Response(
            headers={
                "access-control-allow-methods": ", ".join(_METHODS),
                "access-control-allow-headers": ", ".join(_HEADERS),
                "access-control-max-age": str(_MAX_AGE_SECONDS),
            }
        )

    def _is_allowed(self, origin: bytes) -> bool:
        return origin in self._origins or b"*" in self._origins
