"""What `make run` serves: the API, and the console at `/console`. On AWS CloudFront joins the two."""

from __future__ import annotations

import os

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.responses import RedirectResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Message, Receive, Scope, Send

from app.entrypoints.server import app as api
from localcloud.running import ROOT

# As edge/template.yaml says it (tests/template compares them); {documents} is where the bucket answers.
CONSOLE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self' {documents}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'"
)
_HEADERS = {
    "content-security-policy": CONSOLE_POLICY.format(documents=os.environ.get("AWS_ENDPOINT_URL", "")),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
_console = Starlette(
    routes=[
        Route("/console", RedirectResponse("/console/")),  # the page's links are relative to it
        Mount("/console", StaticFiles(directory=ROOT / "console", html=True)),
    ]
)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Send `/console` and what is under it from the files, and everything else to the API."""
    path = scope.get("path", "")
    if path != "/console" and not path.startswith("/console/"):
        await api(scope, receive, send)
        return

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(_HEADERS)
        await send(message)

    await _console(scope, receive, send_with_headers)
