"""Serves canonical requests from the declared routes, without FastAPI; every other request falls back to it.

FastAPI takes three quarters of a cold start and of a warm request (docs/decisions has the figures).
Nearly all requests do not need it.
It documents the API, explains validation errors and serves what the fast path does not support.
The first request that needs it imports it.
A request falls back before its endpoint or one of its dependencies runs.
`tests/api/test_fast_path.py` sends the same requests over both paths, for every route, and compares bytes.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from enum import Enum
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl

import msgspec
import starlette.routing
from msgspec import Meta
from starlette._utils import get_route_path
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.auth.caller import ANONYMOUS
from app.core.http import bodies, errors
from app.core.http.auth import Authentication, RequireScope
from app.core.http.routing import APIRouter, Marker, Route
from app.core.models import Model, defaults, has_note, split, type_hints

# Options of a decorator or router that only document the route, or that are handled here.
_DOCUMENTING = frozenset(
    {
        "dependencies",
        "description",
        "include_in_schema",
        "name",
        "operation_id",
        "prefix",
        "response_class",
        "response_description",
        "response_model",
        "responses",
        "status_code",
        "summary",
        "tags",
    }
)
_LIMITS = frozenset({"ge", "le", "min_length", "max_length"})
_is_whole = re.compile("0|-?[1-9][0-9]{0,17}", re.ASCII).fullmatch
_REQUIRED = inspect.Parameter.empty

Dependency = Callable[[Request], Awaitable[Any]]


class NotHandled(Exception):
    """FastAPI has to serve this request or route."""


class FastRoute:
    """A declared route that is served without FastAPI. Raises `NotHandled` for an unsupported declaration.

    Supported: parameters in path, query and header that are text, whole numbers or enums; a struct of such
    query parameters; a struct as the body; `Request`; dependencies that are `async def` and take only the
    request; endpoints that are `async def` and annotated to return a `Response`.
    """

    def __init__(self, route: Route, around: Iterable[Mapping[str, Any]]) -> None:
        self.scopes: list[RequireScope] = []
        self.has_body = False
        self._endpoint = route.endpoint
        self._route_path = route.path
        self._arguments: list[tuple[str, Dependency]] = []
        self._dependencies: dict[Dependency, None] = {}  # an insertion-ordered set
        self._path: list[tuple[str, Callable[[str], Any]]] = []
        self._query: dict[str, Callable[[str], Any]] = {}
        self._query_models: list[tuple[str, type[Any], tuple[str, ...]]] = []
        self._headers: list[tuple[str, bytes, Callable[[str], Any]]] = []
        self._required: list[str] = []
        self._body: Callable[[bytes], Any] = bytes
        self._body_name = self._request_name = ""
        hints = type_hints(route.endpoint)
        if not inspect.iscoroutinefunction(route.endpoint) or not _is_response(hints.get("return")):
            raise NotHandled
        for options in (*around, route.options):
            if options.keys() - _DOCUMENTING:
                raise NotHandled
            for marker in options.get("dependencies", ()):
                self._depend(marker)
        for parameter in inspect.signature(route.endpoint).parameters.values():
            self._add(parameter, hints.get(parameter.name, Any))
        names = [*hints, *(field for _, _, fields in self._query_models for field in fields)]
        if len(set(names)) < len(names):
            raise NotHandled

    def read(
        self, headers: Mapping[bytes, bytes], query: bytes, path: Mapping[str, str], body: bytes
    ) -> dict[str, Any]:
        """Return the arguments in a canonical request. Raises `NotHandled` for any other."""
        found: dict[str, Any] = {}
        for name, parse in self._path:
            found[name] = parse(path[name])
        for name, header, parse in self._headers:
            value = headers.get(header)
            if value is not None:
                found[name] = parse(value.decode("latin-1"))
        if query:
            self._read_query(query, found)
        for name in self._required:
            if name not in found:
                raise NotHandled
        for name, struct, fields in self._query_models:
            found[name] = struct(**{field: found.pop(field) for field in fields if field in found})
        if self.has_body:
            found[self._body_name] = self._body(body)
        return found

    def _read_query(self, query: bytes, found: dict[str, Any]) -> None:
        for name, text in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
            if name in found or name not in self._query:
                raise NotHandled
            found[name] = self._query[name](text)

    async def respond(self, scope: Scope, receive: Receive) -> Response:
        """Respond to a canonical request. Raises `NotHandled` for any other before the endpoint runs."""
        values: dict[Any, Any] = {needed: needed.caller_in(scope) for needed in self.scopes}
        headers = scope["app.exchange"].headers
        content = b""
        if self.has_body:
            bodies.require_json(headers)
            content = (await receive()).get("body", b"")
            if not headers.get(b"content-type"):
                bodies.require_json(headers, content)
        arguments = self.read(headers, scope["query_string"], scope["path_params"], content)
        request = Request(scope)
        for dependency in self._dependencies:
            values[dependency] = await dependency(request)
        for name, dependency in self._arguments:
            arguments[name] = values[dependency]
        if self._request_name:
            arguments[self._request_name] = request
        response: Response = await self._endpoint(**arguments)
        return response

    def _add(self, parameter: inspect.Parameter, hint: Any) -> None:
        name = parameter.name
        bare, notes, _ = split(hint)
        markers = [note for note in notes if not isinstance(note, Meta)]
        marker = markers[0] if markers else None
        if len(markers) > 1 or not isinstance(marker, Marker | None) or isinstance(parameter.default, Marker):
            raise NotHandled
        if marker and marker.is_dependency:
            self._arguments.append((name, self._depend(marker)))
        elif bare is Request:
            self._request_name = name
        elif isinstance(bare, type) and issubclass(bare, Model):
            if parameter.default is not _REQUIRED or (marker and marker.options):
                raise NotHandled
            self._add_struct(name, bare, marker)
        else:
            parse = text_reader(bare, hint, notes)
            if f"{{{name}}}" in self._route_path:
                self._path.append((name, parse))
            elif marker and marker.name == "Header":
                self._headers.append((name, name.replace("_", "-").encode(), parse))
            elif marker is None or marker.name == "Query":
                self._query[name] = parse
            else:
                raise NotHandled
            if parameter.default is _REQUIRED and f"{{{name}}}" not in self._route_path:
                self._required.append(name)

    def _add_struct(self, name: str, struct: Any, marker: Marker | None) -> None:
        """Add a struct as the body or, with `Query()`, as one query parameter for each field."""
        if marker and marker.name == "Query" and not marker.args and not hasattr(struct, "__post_init__"):
            fields = struct.__struct_fields__
            for field in fields:
                hint = type_hints(struct)[field]
                bare, notes, _ = split(hint)
                self._query[field] = text_reader(bare, hint, notes)
            self._required += [field for field in fields if field not in defaults(struct)]
            self._query_models.append((name, struct, fields))
        elif self.has_body or (marker and marker.name != "Body"):
            raise NotHandled
        else:
            self.has_body, self._body_name, self._body = True, name, body_reader(struct)

    def _depend(self, marker: Any) -> Dependency:
        """Add a dependency and return it. Raises `NotHandled` for one that FastAPI has to call."""
        if not isinstance(marker, Marker) or not marker.is_dependency or marker.options or not marker.args:
            raise NotHandled
        dependency: Any = marker.args[0]
        function = dependency if inspect.isfunction(dependency) else getattr(dependency, "__call__", None)  # noqa: B004
        if not inspect.iscoroutinefunction(function):
            raise NotHandled
        parameters = [*inspect.signature(function).parameters.values()]
        if len(parameters) != 1 or type_hints(function).get(parameters[0].name) is not Request:
            raise NotHandled
        if type(dependency) is not RequireScope:
            self._dependencies[dependency] = None
        elif dependency not in self.scopes:
            self.scopes.append(dependency)
        return dependency  # type: ignore[no-any-return]


def _is_response(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Response)


def text_reader(bare: Any, hint: Any, notes: Iterable[Any]) -> Callable[[str], Any]:
    """Return a parser of the declared type. The parser raises `NotHandled` for text that is not canonical."""
    limits = _limits(notes)
    if isinstance(bare, type) and issubclass(bare, Enum) and issubclass(bare, str) and not limits:
        choices = {str(choice.value): choice for choice in bare}
        return lambda text: _chosen(choices, text)
    if bare is int and not limits.keys() - {"ge", "le"}:
        low, high = limits.get("ge", -(10**18)), limits.get("le", 10**18)
        return lambda text: _whole(text, low, high)
    if bare is str and not limits.keys() - {"min_length", "max_length", "pattern"}:
        return _str_reader(limits, is_stripped=has_note(hint, "strip"))
    raise NotHandled


def _limits(notes: Iterable[Any]) -> dict[str, Any]:
    """Return the limits in a parameter's annotations. Raises `NotHandled` for any other annotation."""
    limits: dict[str, Any] = {}
    for note in notes:
        if isinstance(note, Marker):
            if note.args or note.options.keys() - _LIMITS - {"description", "examples"}:
                raise NotHandled
            limits |= {name: note.options[name] for name in _LIMITS & note.options.keys()}
        else:
            known = (*_LIMITS, "gt", "lt", "multiple_of", "pattern")
            limits |= {name: value for name in known if (value := getattr(note, name)) is not None}
    return limits


def _str_reader(limits: Mapping[str, Any], *, is_stripped: bool) -> Callable[[str], str]:
    shortest, longest = max(limits.get("min_length", 0), 1), limits.get("max_length", 1 << 30)
    search = re.compile(limits["pattern"]).search if "pattern" in limits else None

    def read(text: str) -> str:
        if not shortest <= len(text) <= longest or (search and not search(text)):
            raise NotHandled
        if is_stripped and text != text.strip():
            raise NotHandled
        return text

    return read


def _chosen(choices: Mapping[str, Any], text: str) -> Any:
    try:
        return choices[text]
    except KeyError:
        raise NotHandled from None


def _whole(text: str, low: int, high: int) -> int:
    if _is_whole(text) and low <= (number := int(text)) <= high:
        return number
    raise NotHandled


def body_reader(struct: type[Any]) -> Callable[[bytes], Any]:
    """Return a parser of JSON into the struct. It raises `NotHandled` for JSON that is not canonical."""
    decode = msgspec.json.Decoder(struct).decode
    hints = type_hints(struct)
    stripped = [name for name in struct.__struct_fields__ if has_note(hints[name], "strip")]
    # msgspec keeps the last value of a duplicate name. The body has at least the quotes around the names and
    # texts of its required fields and of those that differ from their default. With exactly that many quotes,
    # no name occurs twice. A body with more quotes, which is rare, is parsed again to check its names.
    known = defaults(struct)
    quotes = {name: 4 if _is_text(hints[name]) else 2 for name in struct.__struct_fields__}
    needed = sum(count for name, count in quotes.items() if name not in known)
    optional = [(name, default, quotes[name]) for name, default in known.items()]

    def read(body: bytes) -> Any:
        try:
            found = decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise NotHandled from None
        for name in stripped:
            value = getattr(found, name)
            if value and (value[0].isspace() or value[-1].isspace()):
                raise NotHandled
        expected = needed
        for name, default, count in optional:
            if getattr(found, name) != default:
                expected += count
        if body.count(b'"') != expected:
            try:
                bodies.load(body)
            except json.JSONDecodeError:
                raise NotHandled from None
        return found

    return read


def _is_text(hint: Any) -> bool:
    bare = split(hint)[0]
    return isinstance(bare, type) and issubclass(bare, str)


class _Entry:
    """A declared route in the table. Its matcher and fast route are made on first use, not at start-up."""

    def __init__(self, route: Route, around: Iterable[Mapping[str, Any]]) -> None:
        self.route = route
        self._around = around

    @cached_property
    def matches(self) -> Callable[[str], re.Match[str] | None]:
        """Match a path; the groups are the path parameters."""
        return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(self.route.path))).fullmatch

    @cached_property
    def fast(self) -> FastRoute | None:
        """The fast route; None if only FastAPI can serve it."""
        try:
            return FastRoute(self.route, self._around)
        except NotHandled:
            return None


class FastPath:
    """The table of declared routes. It authenticates every request, also those that fall back."""

    def __init__(
        self,
        fallback: ASGIApp,
        routers: Iterable[Any],
        authentication: Authentication,
        is_usable: Callable[[], bool],
    ) -> None:
        self._fallback = fallback
        self._authentication = authentication
        self._is_usable = is_usable
        # By method, depth and first segment.
        self._routes: dict[tuple[str, int, str], list[_Entry]] = {}
        self._other_routers: list[Any] = []  # their routes are known only once FastAPI has them
        for router in routers:
            if isinstance(router, APIRouter):
                for route, around in router.routes():
                    self._add(route, around)
            else:
                self._other_routers.append(router)

    def _add(self, route: Route, around: Iterable[Mapping[str, Any]]) -> None:
        if ":" in route.path or "{" in route.path.split("/", 2)[1]:  # `_routes` cannot index it
            methods = [*route.methods]
            self._other_routers.append(
                Router([starlette.routing.Route(route.path, route.endpoint, methods=methods)])
            )
            return
        entry = _Entry(route, around)
        for method in route.methods:
            self._routes.setdefault((method, *_index_key(route.path)), []).append(entry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._fallback(scope, receive, send)
            return
        path = get_route_path(scope)
        fast: FastRoute | None = None
        for entry in self._routes.get((scope["method"], *_index_key(path)), ()):
            if match := entry.matches(path):
                scope["route"], scope["path_params"] = entry.route, match.groupdict()
                fast = entry.fast
                break
        response: Response | None = None
        try:
            if self._authentication.is_required:
                await self._authentication.authenticate(scope, path)
            else:
                scope["app.caller"] = ANONYMOUS
            if fast and self._is_usable() and not (self._other_routers and self._is_in_other_router(scope)):
                if fast.has_body:
                    receive = _Body(receive)
                response = await fast.respond(scope, receive)
        except NotHandled:
            pass
        except Exception as error:
            response = await errors.response_to(Request(scope), error)
        if response is None:
            scope.pop("route", None)
            scope.pop("path_params", None)
            await self._fallback(scope, receive, send)
        else:
            await response(scope, receive, send)

    def _is_in_other_router(self, scope: Scope) -> bool:
        return any(
            route.matches(scope)[0] is Match.FULL for router in self._other_routers for route in router.routes
        )


class _Body:
    """Replays the request's body to FastAPI after the fast path has read it."""

    __slots__ = ("_is_given", "_message", "_receive")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._message: Message | None = None
        self._is_given = False

    async def __call__(self) -> Message:
        """Receive the whole body, then the same body again, then later messages."""
        if self._message is None:
            self._message = await self._receive()
            return self._message
        if self._is_given:
            return await self._receive()
        self._is_given = True
        return self._message


def _index_key(path: str) -> tuple[int, str]:
    return path.count("/"), path.split("/", 2)[1] if path.startswith("/") else ""
