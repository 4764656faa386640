"""The API's documentation page at `/docs`, served by the application: no third-party hosts.

Swagger UI's files come from the package `fastapi-offline`, of which only the files are used. Links are
relative, so the page works behind any path prefix. Nothing is read or imported before it is asked for.
"""

from __future__ import annotations

import asyncio
from functools import cache
from importlib.resources import files

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.responses import Response

# Swagger UI puts small pictures into its style sheet, and asks this very host only.
_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Orders API</title>
<link rel="icon" href="docs/favicon.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<main id="swagger-ui"></main>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
_START = """SwaggerUIBundle({
  url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true, tryItOutEnabled: true, validatorUrl: null,
});
"""
_TYPES = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon.png": "image/png",
    "start.js": "text/javascript",
}


def install(app: FastAPI) -> None:
    """Serve the page and its files."""

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        """Show the page."""
        return Response(
            _PAGE,
            headers={"content-security-policy": _CSP, "cache-control": "no-cache"},
            media_type="text/html",
        )

    @app.get("/docs/{name}", include_in_schema=False)
    async def docs_file(name: str) -> Response:
        """Send one of the page's files."""
        if name not in _TYPES:
            raise HTTPException(404, "File not found")
        body = await asyncio.to_thread(_content, name)
        return Response(body, headers={"cache-control": "public, max-age=86400"}, media_type=_TYPES[name])


@cache
def _content(name: str) -> bytes:
    if name == "start.js":
        return _START.encode()
    return files("fastapi_offline").joinpath("static", name).read_bytes()
