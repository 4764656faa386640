"""The FastAPI route of a declared route: it checks scopes, then reads JSON bodies by `bodies`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.params import Form
from fastapi.routing import APIRoute, _effective_route_context_var
from starlette.responses import Response

from app.core.http import bodies
from app.core.http.auth import RequireScope
from app.core.http.routing import translate, translated_endpoint


class JsonRoute(APIRoute):
    """Checks the scopes and the content type before it reads the body.

    With this as `route_class`, a router of FastAPI's own accepts what `routing` declares.
    """

    def __init__(
        self, path: str, endpoint: Callable[..., Any], *, dependencies: Any = None, **options: Any
    ) -> None:
        super().__init__(
            path, translated_endpoint(endpoint), dependencies=translate(dependencies or []), **options
        )

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap the route's own handler."""
        handle = super().get_route_handler()
        # With the dependencies of the router that FastAPI is about to include.
        included = _effective_route_context_var.get()
        scopes = [*_scopes(included.dependant if included else self.dependant)]
        reads_json = self.body_field is not None and not isinstance(self.body_field.field_info, Form)

        async def check(request: Request) -> Response:
            for scope in scopes:
                await scope(request)
            if not reads_json:
                return await handle(request)
            headers = dict(request.headers.raw)
            bodies.require_json(headers)
            checked = _JsonRequest(request.scope, request.receive)
            if not headers.get(b"content-type"):
                bodies.require_json(headers, await checked.body())
            return await handle(checked)

        return check


def route_class(own: type[APIRoute] | None) -> type[APIRoute]:
    """Return the class of a router's routes, combined with the router's own class if it has one."""
    if own is None or issubclass(JsonRoute, own):
        return JsonRoute
    if issubclass(own, JsonRoute):
        return own
    return type(own.__name__, (own, JsonRoute), {})


def _scopes(dependant: Dependant) -> Iterator[RequireScope]:
    for dependency in dependant.dependencies:
        if isinstance(dependency.call, RequireScope):
            yield dependency.call
        yield from _scopes(dependency)


class _JsonRequest(Request):
    async def json(self) -> Any:
        return bodies.load(await self.body())
