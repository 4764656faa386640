"""A route of FastAPI's whose JSON bodies are read as `bodies` says."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.params import Form
from fastapi.routing import APIRoute
from starlette.responses import Response

from app.core.http import bodies


class JsonRoute(APIRoute):
    """Rejects content of another kind before it is read."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap the route's own handler."""
        handle = super().get_route_handler()
        if self.body_field is None or isinstance(self.body_field.field_info, Form):
            return handle

        async def check(request: Request) -> Response:
            headers = dict(request.headers.raw)
            bodies.require_json(headers)
            checked = _JsonRequest(request.scope, request.receive)
            if not headers.get(b"content-type"):
                bodies.require_json(headers, await checked.body())
            return await handle(checked)

        return check


class _JsonRequest(Request):
    async def json(self) -> Any:
        return bodies.load(await self.body())
