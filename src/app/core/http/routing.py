"""Declares endpoints as FastAPI does, without importing FastAPI.

    from app.core.http.routing import APIRouter, Depends, Header

    router = APIRouter(prefix="/orders", tags=["orders"])

    @router.get("/{order_id}", response_model=Order)
    async def get_order(caller: CanRead, orders: Orders, order_id: str) -> Response: ...

Names, arguments and meaning are FastAPI's (https://fastapi.tiangolo.com/reference/).
The router records the declarations. `fast_path` serves canonical requests from them; `to_fastapi` makes
FastAPI's own routes from them when the first other request arrives. A router of FastAPI's own works as well.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args, get_origin

import msgspec

from app.core.models import type_hints

if TYPE_CHECKING:
    import fastapi

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])
# Options of FastAPI and of its routers for start-up and shutdown.
LIFESPAN = ("lifespan", "on_startup", "on_shutdown")


class Marker:
    """One of FastAPI's markers, such as `Header(max_length=9)`, made once FastAPI is imported."""

    __slots__ = ("args", "name", "options")

    def __init__(self, name: str, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        self.name = name
        self.args = args
        self.options = options

    @property
    def is_dependency(self) -> bool:
        """Whether it is `Depends`."""
        return self.name == "Depends"

    def __get_pydantic_core_schema__(self, *_: Any) -> Any:
        """Fail where FastAPI would read the parameter from the body, such as the authenticated caller."""
        raise TypeError(
            f"{self.name} of app.core.http.routing needs its APIRouter, or JsonRoute as route_class"
        )

    __deepcopy__ = __get_pydantic_core_schema__  # FastAPI copies default values

    def to_fastapi(self) -> Any:
        """Return FastAPI's own."""
        import fastapi

        if self.is_dependency:
            for dependency in (*self.args, self.options.get("dependency")):
                _translate_dependency(dependency)
        return getattr(fastapi, self.name)(*self.args, **self.options)


def _marker(name: str, *args: Any, **options: Any) -> Any:
    """Return a marker, typed so that it can be a default value."""
    return Marker(name, args, options)


# https://fastapi.tiangolo.com/reference/parameters/, https://fastapi.tiangolo.com/reference/dependencies/
Body = functools.partial(_marker, "Body")
Depends = functools.partial(_marker, "Depends")
Header = functools.partial(_marker, "Header")
Query = functools.partial(_marker, "Query")


class Route:
    """One declared endpoint: its path, its methods, its function, and the arguments of the decorator."""

    def __init__(
        self, path: str, methods: Sequence[str], endpoint: Callable[..., Any], options: dict[str, Any]
    ) -> None:
        self.path = path
        self.methods = methods
        self.endpoint = endpoint
        self.options = options


class APIRouter:
    """Records declarations for FastAPI's router. https://fastapi.tiangolo.com/reference/apirouter/"""

    def __init__(self, *, prefix: str = "", **options: Any) -> None:
        self.prefix = prefix
        self.options = options
        self.declared: list[Route | tuple[APIRouter, dict[str, Any]]] = []

    @property
    def has_lifespan(self) -> bool:
        """Whether it, or a router in it, has handlers of start-up or shutdown."""
        return any(self.options.get(name) for name in LIFESPAN) or any(
            not isinstance(entry, Route) and entry[0].has_lifespan for entry in self.declared
        )

    def api_route(
        self, path: str, *, methods: Sequence[str], **options: Any
    ) -> Callable[[Endpoint], Endpoint]:
        """Declare an endpoint for several methods. GET includes HEAD."""

        def declare(endpoint: Endpoint) -> Endpoint:
            self.declared.append(Route(path, methods, endpoint, options))
            return endpoint

        return declare

    def get(self, path: str, **options: Any) -> Callable[[Endpoint], Endpoint]:
        """Declare an endpoint for GET and HEAD."""
        return self.api_route(path, methods=["GET"], **options)

    def post(self, path: str, **options: Any) -> Callable[[Endpoint], Endpoint]:
        """Declare an endpoint for POST."""
        return self.api_route(path, methods=["POST"], **options)

    def put(self, path: str, **options: Any) -> Callable[[Endpoint], Endpoint]:
        """Declare an endpoint for PUT."""
        return self.api_route(path, methods=["PUT"], **options)

    def patch(self, path: str, **options: Any) -> Callable[[Endpoint], Endpoint]:
        """Declare an endpoint for PATCH."""
        return self.api_route(path, methods=["PATCH"], **options)

    def delete(self, path: str, **options: Any) -> Callable[[Endpoint], Endpoint]:
        """Declare an endpoint for DELETE."""
        return self.api_route(path, methods=["DELETE"], **options)

    def include_router(self, router: APIRouter, **options: Any) -> None:
        """Include the endpoints of another router, under a prefix if one is given."""
        self.declared.append((router, options))

    def routes(
        self, prefix: str = "", inherited: tuple[dict[str, Any], ...] = ()
    ) -> Iterator[tuple[Route, Any]]:
        """Return every route with its full path, and the options of its routers, outermost first."""
        around = (*inherited, self.options)
        for entry in self.declared:
            if isinstance(entry, Route):
                path = f"{prefix}{self.prefix}{entry.path}"
                yield Route(path, entry.methods, entry.endpoint, entry.options), around
            else:
                router, options = entry
                yield from router.routes(
                    f"{prefix}{self.prefix}{options.get('prefix', '')}", (*around, options)
                )

    def to_fastapi(self) -> fastapi.APIRouter:
        """Return FastAPI's router with the same routes."""
        import fastapi

        from app.core.http.json_route import route_class

        options = translate(self.options)
        options["route_class"] = route_class(options.get("route_class"))
        made = fastapi.APIRouter(prefix=self.prefix, **options)
        for entry in self.declared:
            if isinstance(entry, Route):
                made.add_api_route(
                    entry.path, entry.endpoint, methods=[*entry.methods], **translate(entry.options)
                )
            else:
                router, options = entry
                made.include_router(router.to_fastapi(), **translate(options))
        return made


def translate(value: Any) -> Any:
    """Replace markers and structs by FastAPI's and pydantic's own, at any depth."""
    import fastapi

    from app.core.http.pydantic_models import response_model

    if isinstance(value, Marker):
        return value.to_fastapi()
    if isinstance(value, fastapi.params.Depends):  # its dependency may have our markers
        _translate_dependency(value.dependency)
        return value
    if isinstance(value, dict):
        return {name: translate(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [translate(item) for item in value]
    if isinstance(value, type) and issubclass(value, msgspec.Struct):
        return response_model(value)
    return value


def translated_endpoint(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """Return the endpoint under a signature that FastAPI reads."""
    if inspect.iscoroutinefunction(endpoint):

        @functools.wraps(endpoint)
        async def call(*args: Any, **kwargs: Any) -> Any:
            return await endpoint(*args, **kwargs)
    else:

        @functools.wraps(endpoint)
        def call(*args: Any, **kwargs: Any) -> Any:
            return endpoint(*args, **kwargs)

    call.__signature__ = _translated_signature(endpoint)  # type: ignore[attr-defined]
    return call


def _translate_dependency(dependency: Any) -> None:
    """Give a dependency a signature that FastAPI reads.

    In place: `dependency_overrides` looks the function itself up.
    """
    if dependency is None:  # FastAPI calls the parameter's type
        return
    function = _function_of(dependency)
    signature = _translated_signature(function)
    if signature != inspect.signature(function):
        function.__signature__ = signature


def _function_of(called: Any) -> Any:
    """Return the function that declares the parameters of a callable."""
    while isinstance(called, functools.partial):
        called = called.func
    if inspect.isclass(called):
        return called.__init__
    return getattr(called, "__func__", called) if inspect.isroutine(called) else type(called).__call__


def _translated_signature(called: Any) -> inspect.Signature:
    """Return the signature with FastAPI's markers, and pydantic's models for structs."""
    from app.core.http.pydantic_models import request_type, response_type

    hints = type_hints(_function_of(called))
    signature = inspect.signature(called)
    parameters = [
        parameter.replace(
            annotation=_translated_hint(hints.get(parameter.name, parameter.annotation), request_type),
            default=translate(parameter.default),
        )
        for parameter in signature.parameters.values()
    ]
    returned = hints.get("return", signature.return_annotation)
    return signature.replace(
        parameters=parameters,
        return_annotation=None if returned is type(None) else response_type(returned),
    )


def _translated_hint(hint: Any, request_type: Callable[[Any], Any]) -> Any:
    if get_origin(hint) is not Annotated:
        return request_type(hint)
    inner, *notes = get_args(hint)
    markers = [note for note in notes if isinstance(note, Marker)]
    for marker in markers:
        if marker.is_dependency:  # whose type is no part of the request
            if not marker.args:
                _translate_dependency(inner)
            return Annotated[(inner, *map(translate, notes))]
    if any(marker.name == "Query" for marker in markers) and isinstance(inner, type):
        # https://fastapi.tiangolo.com/tutorial/query-param-models/
        from app.core.http.pydantic_models import query_type

        if issubclass(inner, msgspec.Struct):
            request_type = query_type
    return Annotated[(request_type(inner), *(translate(note) for note in notes))]
