"""FastAPI's own means hold, on canonical requests and on odd ones, in both runtimes.

https://fastapi.tiangolo.com/tutorial/ shows each of them.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import fastapi
import httpx
import msgspec
import pytest
from localcloud.issuer import Issuer
from mangum.exceptions import LifespanFailure
from msgspec import Meta
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from tests.builders import a_settings, an_app
from tests.transports import LambdaTransport, ServerTransport
from uvicorn import Config
from uvicorn.lifespan.on import LifespanOn

from app.core.auth.caller import Caller
from app.core.http.app import App
from app.core.http.auth import RequireScope
from app.core.http.json_route import JsonRoute
from app.core.http.responses import json_response
from app.core.http.routing import APIRouter, Body, Depends, Header, Query
from app.core.models import Model

ISSUER = Issuer("https://issuer.test")
bearer = ISSUER.bearer

Call = Callable[..., httpx.Client]
ALICE = bearer("alice", "items:read items:write orders:read orders:write")


class ItemCreate(Model, forbid_unknown_fields=True):
    """An item to add."""

    name: Annotated[str, Meta(min_length=1, max_length=9)]
    size: int = 1


class Item(ItemCreate, forbid_unknown_fields=False):
    """An item."""

    id: str


async def check_nothing() -> None:
    pass


def app_of(*routers: Any, guarded: bool = False, **options: Any) -> App:
    """An application of nothing but these routers."""
    authentication = ISSUER.authenticator() if guarded else None
    settings = a_settings(log_level="CRITICAL")
    return App(routers, settings, check_nothing, authentication, title="Items", **options)


def item_router(*, on_route: Any = (), **options: Any) -> APIRouter:
    """A declared router with an endpoint that the fast path knows."""
    router = APIRouter(prefix="/items", **options)

    @router.post("", dependencies=[*on_route])
    async def create(body: ItemCreate, limit: Annotated[int, Query(ge=1)] = 1) -> Response:
        return json_response({"name": body.name, "limit": limit}, 201)

    @router.get("/{item_id}")
    async def get(item_id: str) -> Response:
        return json_response({"id": item_id})

    return router


# Of one request: canonical, and odd in a way that only FastAPI reads.
CANONICAL = {"url": "/items", "json": {"name": "x"}}
ODD = {"url": "/items", "json": {"name": "x", "size": 5.0}, "params": {"limit": " 7 "}}
NOT_VALID = {"url": "/items", "json": {}}
both_kinds = pytest.mark.parametrize("sent", [CANONICAL, ODD], ids=["canonical", "odd"])


@pytest.fixture(params=["lambda", "server"])
def call(request: pytest.FixtureRequest, loop: asyncio.AbstractEventLoop) -> Iterator[Call]:
    """Start an application in one runtime, then the other."""
    stopping: list[Callable[[], None]] = []

    def call(app: App) -> httpx.Client:
        if request.param == "lambda":
            transport: Any = LambdaTransport(app)  # type: ignore[arg-type]
        else:
            lifespan = LifespanOn(Config(app, lifespan="on", log_config=None))
            loop.run_until_complete(lifespan.startup())
            if lifespan.should_exit:
                raise LifespanFailure

            async def with_state(scope: Scope, receive: Receive, send: Send) -> None:
                await app({**scope, "state": lifespan.state.copy()}, receive, send)

            transport = ServerTransport(with_state, loop)  # type: ignore[arg-type]
            stopping.append(lambda: loop.run_until_complete(lifespan.shutdown()))
        client = httpx.Client(transport=transport, base_url="http://api.test")
        stopping.append(client.close)
        return client

    yield call
    for stop in stopping:
        stop()
    for task in asyncio.all_tasks(loop):  # Lambda ends a process without a word
        task.cancel()
        loop.run_until_complete(asyncio.gather(task, return_exceptions=True))


class Page:
    """A class that is a dependency."""

    def __init__(self, start: "Annotated[int, Query(ge=0)]" = 0) -> None:
        self.start = start


class Like(Model):
    """What items are looked for by."""

    name: str
    size: Annotated[int, Meta(ge=1)] = 1


class Place(msgspec.Struct):
    """A struct that is not a `Model`."""

    path: str


class Size:
    """Another one."""

    def __init__(self, size: "Annotated[int, Query(ge=1)]" = 9) -> None:
        self.size = size


class Quota:
    """Allows some requests, and counts them."""

    def __init__(self, allowed: int) -> None:
        self.allowed = allowed
        self.used = 0

    def check(self) -> None:
        self.used += 1
        if self.used > self.allowed:
            raise fastapi.HTTPException(429, "That was too much")


class TestDependencies:
    @pytest.fixture(params=["async", "sync", "method"])
    def kind(self, request: pytest.FixtureRequest) -> Any:
        """A dependency that the fast path can call, and two that it cannot."""
        quota = Quota(2)

        async def canonical(request: Request) -> None:
            quota.check()

        def sync(_: fastapi.Request) -> None:
            quota.check()

        return {"async": canonical, "sync": sync, "method": quota.check}[request.param]

    @pytest.mark.parametrize("place", ["route", "router", "included", "app"])
    @both_kinds
    def test_hold_wherever_they_are_declared(self, call: Call, place: str, kind: Any, sent: Any) -> None:
        needed = [Depends(kind)]
        if place == "app":
            app = app_of(item_router(), dependencies=needed)
        elif place == "included":
            outer = APIRouter()
            outer.include_router(item_router(), dependencies=needed)
            app = app_of(outer)
        elif place == "router":
            app = app_of(item_router(dependencies=needed))
        else:
            app = app_of(item_router(on_route=needed))
        client = call(app)
        assert [client.post(**sent).status_code for _ in range(4)] == [201, 201, 429, 429]
        assert client.post(**sent).headers["content-type"] == "application/problem+json"

    @both_kinds
    def test_hold_in_the_shipped_application(self, call: Call, sent: Any) -> None:
        quota = Quota(1)
        body = {"customer": "a", "product": "b", "quantity": 5.0 if sent is ODD else 5}
        client = call(an_app(dependencies=[fastapi.Depends(quota.check)]))
        assert [client.post("/orders", json=body).status_code for _ in range(2)] == [201, 429]

    def test_count_a_request_once(self, call: Call) -> None:
        """Also one that the fast path begins to read and leaves to FastAPI."""
        quota = Quota(10)

        async def check(request: Request) -> None:
            quota.check()

        client = call(app_of(item_router(dependencies=[Depends(check)])))
        for count, sent in enumerate((CANONICAL, ODD, NOT_VALID), 1):
            client.post(**sent)
            assert quota.used == count

    def test_of_every_kind(self, call: Call) -> None:
        """Sub-dependencies, generators, classes, functions; by `Annotated` and by default values."""
        seen: list[str] = []

        async def language(accept_language: Annotated[str, Header(max_length=5)] = "en") -> str:
            return accept_language

        def greeting(
            language: Annotated[str, Depends(language)], mood: str = Query("calm", max_length=9)
        ) -> str:
            return f"{language}, {mood}"

        async def place(request: Request) -> Place:
            return Place(request.url.path)

        async def session(greeting: str = Depends(greeting)) -> AsyncIterator[str]:
            seen.append("opened")
            yield f"session of {greeting}"
            seen.append("closed")

        router = APIRouter()

        @router.get("/greet")
        async def greet(
            session: Annotated[str, Depends(session)],
            page: Annotated[Page, Depends()],
            place: Annotated[Place, Depends(place)],
            size: Size = Depends(Size),  # noqa: B008
            plain: str = fastapi.Depends(language),
        ) -> Response:
            seen.append("used")
            return json_response([session, page.start, size.size, plain, place.path])

        client = call(app_of(router))
        headers = {"accept-language": "fr"}
        found = client.get("/greet", params={"mood": "glad", "start": 3, "size": 5}, headers=headers)
        assert found.json() == ["session of fr, glad", 3, 5, "fr", "/greet"]
        assert seen == ["opened", "used", "closed"]
        assert client.get("/greet", params={"mood": "much too glad"}).status_code == 422
        assert client.get("/greet", params={"start": "-1"}).status_code == 422
        assert client.get("/greet", params={"size": "0"}).status_code == 422
        assert client.get("/greet").json() == ["session of en, calm", 0, 9, "en", "/greet"]

    @both_kinds
    def test_overrides_are_taken_and_given_back(self, call: Call, sent: Any) -> None:
        async def name(request: Request) -> str:
            return "real"

        router = APIRouter(prefix="/items")

        @router.post("")
        async def create(
            body: ItemCreate, name: Annotated[str, Depends(name)], limit: Annotated[int, Query()] = 1
        ) -> Response:
            return json_response(name)

        app = app_of(router)
        client = call(app)
        assert client.post(**sent).json() == "real"
        app.dependency_overrides[name] = lambda: "fake"
        assert client.post(**sent).json() == "fake"
        app.dependency_overrides.clear()
        assert client.post(**sent).json() == "real"
        app.dependency_overrides = {name: lambda: "another"}
        assert client.post(**sent).json() == "another"
        app.dependency_overrides = {}
        assert client.post(**sent).json() == "real"
        app.fastapi.dependency_overrides[name] = lambda: "fake"
        assert client.post(**sent).json() == "fake"


class TestEndpoints:
    def test_that_are_not_async(self, call: Call) -> None:
        router = APIRouter(prefix="/items")

        @router.post("")
        def create(body: ItemCreate, limit: int = Query(1, ge=1)) -> Response:
            return json_response([body.name, limit])

        client = call(app_of(router))
        assert client.post(**CANONICAL).json() == ["x", 1]
        assert client.post(**ODD).json() == ["x", 7]
        assert client.post(**NOT_VALID).status_code == 422

    @both_kinds
    def test_that_return_what_they_declare(self, call: Call, sent: Any) -> None:
        router = APIRouter(prefix="/items")

        @router.post("", response_model=Item)
        async def create(body: ItemCreate, limit: int = 1) -> Any:
            return Item(id="1", name=body.name, size=body.size)

        @router.get("")
        async def items() -> list[Item]:
            return [Item(id="1", name="x")]

        client = call(app_of(router))
        item = {"id": "1", "name": "x", "size": 5 if sent is ODD else 1}
        assert client.post(**sent).json() == item
        assert client.get("/items").json() == [item | {"size": 1}]

    def test_that_take_bodies_of_other_forms(self, call: Call) -> None:
        router = APIRouter()

        @router.post("/optional")
        async def optional(body: ItemCreate | None = None) -> Response:
            return json_response(body and body.name)

        @router.post("/several")
        async def several(body: list[ItemCreate]) -> Response:
            return json_response([each.name for each in body])

        @router.post("/embedded")
        async def embedded(item: Annotated[ItemCreate, Body(embed=True)]) -> Response:
            return json_response(item.name)

        @router.post("/two")
        async def two(first: ItemCreate, second: ItemCreate) -> Response:
            return json_response([first.name, second.name])

        @router.post("/struct")
        async def struct(body: Place) -> Response:
            return json_response(body.path)

        client = call(app_of(router))
        a, b = {"name": "a"}, {"name": "b"}
        assert client.post("/struct", json={"path": "/x"}).json() == "/x"
        assert client.post("/struct", json={"path": 1}).status_code == 422
        assert client.post("/optional", json=a).json() == "a"
        assert client.post("/optional").json() is None
        assert client.post("/several", json=[a, b]).json() == ["a", "b"]
        assert client.post("/several", json=[a, {"name": ""}]).status_code == 422
        assert len(client.post("/several", json=[{"name": ""}] * 30).json()["errors"]) == 20
        assert client.post("/embedded", json={"item": a}).json() == "a"
        assert client.post("/two", json={"first": a, "second": b}).json() == ["a", "b"]

    def test_that_take_query_parameters_as_a_struct(self, call: Call) -> None:
        router = APIRouter()

        @router.get("/items")
        async def items(like: Annotated[Like, Query()]) -> Response:
            return json_response([like.name, like.size])

        client = call(app_of(router))
        for odd in ({}, {"unknown": "1"}):
            assert client.get("/items", params={"name": "x", "size": "7"} | odd).json() == ["x", 7]
            assert client.get("/items", params={"name": "x"} | odd).json() == ["x", 1]
            assert client.get("/items", params={"name": "x", "size": "0"} | odd).status_code == 422
            assert client.get("/items", params=odd).status_code == 422

    def test_with_background_tasks(self, call: Call) -> None:
        done: list[str] = []
        router = APIRouter()

        @router.get("/sent")
        async def sent(tasks: fastapi.BackgroundTasks) -> dict[str, str]:
            tasks.add_task(done.append, "FastAPI's")
            return {}

        @router.get("/own")
        async def own() -> Response:
            return PlainTextResponse("own", background=BackgroundTask(done.append, "its own"))

        client = call(app_of(router))
        client.get("/own")
        assert done == ["its own"]
        client.get("/sent")
        assert done == ["its own", "FastAPI's"]

    @both_kinds
    def test_that_raise_what_fastapi_knows(self, call: Call, sent: Any) -> None:
        router = APIRouter(prefix="/items")

        @router.post("")
        async def create(body: ItemCreate, limit: int = 1) -> Response:
            raise fastapi.exceptions.RequestValidationError(
                [{"type": "x", "loc": ("body",), "msg": "not so"}]
            )

        response = call(app_of(router)).post(**sent)
        assert response.status_code == 422
        assert response.json()["errors"] == [{"detail": "not so", "pointer": "#"}]

    @pytest.mark.parametrize("limit", [10, 200_000])
    def test_have_their_own_bound_of_body_size(self, call: Call, limit: int) -> None:
        router, plain = APIRouter(prefix="/items"), fastapi.APIRouter()

        @router.post("", max_body_size=limit)
        async def create(body: ItemCreate) -> Response:
            return json_response(body.name)

        @plain.put("/items", max_body_size=limit)
        async def replace(request: Request) -> Response:
            return json_response(len(await request.body()))

        client = call(app_of(router, plain))
        padding = b" " * 70_000
        for method in ("POST", "PUT"):
            content, headers = b'{"name": "x"}' + padding, {"content-type": "application/json"}
            large = client.request(method, "/items", content=content, headers=headers)
            assert large.status_code == (200 if limit > 10 else 413), large.text
            assert client.request(method, "/items", content=padding * 3).status_code == 413


class OwnRoute(fastapi.routing.APIRoute):
    """A class of routes."""


class AddsHeader:
    """A middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_more(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"x-added", b"1")]}
            await send(message)

        await self.app(scope, receive, send_more)


class Odd(Exception):
    """What an endpoint raises."""


class TestAroundEveryRoute:
    @both_kinds
    @pytest.mark.parametrize("added", [False, True])
    def test_middleware(self, call: Call, sent: Any, added: bool) -> None:
        app = app_of(item_router(), middleware=[] if added else [Middleware(AddsHeader)])
        if added:
            app.fastapi.add_middleware(AddsHeader)
        client = call(app)
        assert client.post(**sent).headers["x-added"] == "1"
        assert client.get("/health").headers["x-added"] == "1"

    @both_kinds
    def test_middleware_by_decorator(self, call: Call, sent: Any) -> None:
        app = app_of(item_router())

        @app.fastapi.middleware("http")
        async def add(request: Request, call_next: Any) -> Any:
            response = await call_next(request)
            response.headers["x-added"] = "1"
            return response

        assert call(app).post(**sent).headers["x-added"] == "1"

    @both_kinds
    @pytest.mark.parametrize("added", [False, True])
    @pytest.mark.parametrize("kind", [Odd, fastapi.HTTPException])
    def test_exception_handlers(self, call: Call, sent: Any, added: bool, kind: type[Exception]) -> None:
        """Also one for errors that are handled already."""

        async def teapot(request: Request, error: Exception) -> Response:
            return PlainTextResponse("teapot", 418)

        router = APIRouter(prefix="/items")

        @router.post("")
        async def create(body: ItemCreate, limit: int = 1) -> Response:
            raise Odd if kind is Odd else fastapi.HTTPException(409, "no")

        app = app_of(router, exception_handlers={} if added else {kind: teapot})
        if added:
            app.fastapi.exception_handler(kind)(teapot)
        assert call(app).post(**sent).status_code == 418

    @both_kinds
    def test_route_classes(self, call: Call, sent: Any) -> None:
        class Timed(fastapi.routing.APIRoute):
            def get_route_handler(self) -> Any:
                handle = super().get_route_handler()

                async def timed(request: Request) -> Response:
                    response = await handle(request)
                    response.headers["x-added"] = "1"
                    return response

                return timed

        client = call(app_of(item_router(route_class=Timed)))
        assert client.post(**sent).headers["x-added"] == "1"

    @pytest.mark.parametrize("kind", [fastapi.routing.APIRoute, JsonRoute, OwnRoute])
    def test_route_classes_keep_what_a_declared_route_promises(self, call: Call, kind: Any) -> None:
        client = call(app_of(item_router(route_class=kind)))
        for content_type, body, status in (
            ("text/plain", b'{"name": "x"}', 415),
            ("application/json", b'{"name": "x", "name": "x"}', 400),
            ("application/json", b'{"name": "x", "size": 5.0}', 201),
        ):
            response = client.post("/items", content=body, headers={"content-type": content_type})
            assert response.status_code == status


class TestPlainRouters:
    def plain(self) -> fastapi.APIRouter:
        router = fastapi.APIRouter()

        @router.get("/plain")
        async def plain() -> dict[str, str]:
            return {"plain": "yes"}

        @router.get("/items/special")
        async def special() -> str:
            return "special"

        return router

    def test_are_served(self, call: Call) -> None:
        assert call(app_of(self.plain())).get("/plain").json() == {"plain": "yes"}

    @pytest.mark.parametrize("kind", [APIRouter, fastapi.APIRouter])
    def test_uploads(self, call: Call, kind: Any) -> None:
        """In a declared router too."""
        router = kind()

        @router.post("/upload")
        async def upload(file: fastapi.UploadFile, note: Annotated[str, fastapi.Form()]) -> list[Any]:
            return [file.filename, len(await file.read()), note]

        client = call(app_of(router))
        sent = {"files": {"file": ("a.txt", b"12345")}, "data": {"note": "hello"}}
        assert client.post("/upload", **sent).json() == ["a.txt", 5, "hello"]
        assert client.post("/upload", files={"file": ("a.txt", b"1")}).status_code == 422

    def test_ask_for_a_token_in_a_guarded_application(self, call: Call) -> None:
        client = call(app_of(item_router(), self.plain(), guarded=True))
        for path in ("/plain", "/items/special", "/items/1", "/nowhere"):
            assert client.get(path).status_code == 401, path
            assert client.get(path, headers=ALICE).status_code == (404 if path == "/nowhere" else 200)

    def test_have_the_parameters_of_their_own_path_only(self, call: Call) -> None:
        router = fastapi.APIRouter()

        @router.get("/items/{name}")
        async def parameters(request: Request) -> dict[str, str]:
            return request.path_params

        assert call(app_of(router, item_router())).get("/items/1").json() == {"name": "1"}

    @pytest.mark.parametrize("first", [True, False])
    def test_the_first_declaration_of_a_path_wins(self, call: Call, first: bool) -> None:
        """As in FastAPI, https://fastapi.tiangolo.com/tutorial/path-params/#order-matters."""
        routers = [self.plain(), item_router()] if first else [item_router(), self.plain()]
        client = call(app_of(*routers))
        for _ in range(2):
            assert client.get("/items/special").json() == ("special" if first else {"id": "special"})
            assert client.get("/items/special?x=1").json() == ("special" if first else {"id": "special"})
        assert client.get("/items/other").json() == {"id": "other"}

    @pytest.mark.parametrize("path", ["/items/{rest:path}", "/{any}/special", "/{any:path}"])
    def test_the_first_of_declared_ones_too(self, call: Call, path: str) -> None:
        first = APIRouter()

        @first.get(path)
        async def special(request: Request) -> Response:
            return json_response("special")

        client = call(app_of(first, item_router()))
        for _ in range(2):
            assert client.get("/items/special").json() == "special"
        client = call(app_of(item_router(), first))
        assert client.get("/items/special").json() == {"id": "special"}

    def test_take_what_declared_ones_do_by_a_route_class(self, call: Call) -> None:
        async def nested(caller: Annotated[Any, Depends(RequireScope("items:admin"))]) -> None: ...

        router = fastapi.APIRouter(route_class=JsonRoute, dependencies=[Depends(RequireScope("items:read"))])
        router.get("/nested", dependencies=[fastapi.Depends(nested)])(check_nothing)

        @router.post("/plain")
        async def create(
            caller: Annotated[Any, Depends(RequireScope("items:write"))], body: ItemCreate
        ) -> Item:
            return Item(id=caller.subject, name=body.name)

        client = call(app_of(router, guarded=True))
        assert client.post("/plain", json={"name": "x"}, headers=ALICE).json()["id"] == "alice"
        assert client.get("/nested", headers=ALICE).status_code == 403
        for scopes in ("items:read", "items:write"):
            bob = bearer("bob", scopes)
            assert client.post("/plain", json={"name": "x"}, headers=bob).status_code == 403

    def test_do_not_take_it_silently_without(self) -> None:
        """Or the caller would come from the body."""
        needs, router = Depends(RequireScope("items:write")), fastapi.APIRouter()

        async def by_annotation(caller: Annotated[Caller, needs]) -> None: ...

        async def by_default(caller: Caller = needs) -> None: ...

        with pytest.raises(TypeError, match=r"Depends of app\.core\.http\.routing"):
            router.post("/plain")(by_annotation)
        with pytest.raises(AttributeError):
            router.post("/plain", dependencies=[needs])(check_nothing)
        with pytest.raises(fastapi.exceptions.FastAPIError):
            router.post("/plain")(by_default)

    def test_that_are_added_to_later(self, call: Call) -> None:
        plain = fastapi.APIRouter()
        client = call(app_of(plain, item_router()))
        assert client.get("/items/special").json() == {"id": "special"}

        @plain.get("/items/special")
        async def special() -> str:
            return "special"

        assert client.get("/items/special").json() == "special"

    def test_routes_of_the_application_itself(self, call: Call) -> None:
        app = app_of(item_router(), guarded=True)

        @app.fastapi.get("/more")
        async def more() -> str:
            return "more"

        client = call(app)
        assert client.get("/more").status_code == 401
        assert client.get("/more", headers=ALICE).json() == "more"

    @pytest.mark.parametrize("what", ["route", "handler", "other handler"])
    def test_what_is_put_into_the_application(self, call: Call, what: str) -> None:
        """Without a method of FastAPI's."""
        app = app_of(item_router())

        async def teapot(*_: Any) -> Response:
            return PlainTextResponse("teapot", 418)

        if what == "route":
            app.fastapi.router.routes.insert(0, Route("/items", teapot, methods=["POST"]))
        else:
            kind = Odd if what == "handler" else fastapi.exceptions.RequestValidationError
            router = APIRouter()

            @router.post("/items")
            async def create() -> Response:
                raise kind([])

            app = app_of(router)
            app.fastapi.exception_handlers[kind] = teapot
        assert call(app).post("/items", json={"name": "x"}).status_code == 418

    def test_mounts_ask_for_a_token(self, call: Call) -> None:
        app = app_of(item_router(), guarded=True)
        app.fastapi.mount("/mounted", PlainTextResponse("mounted"))
        client = call(app)
        for path in ("/mounted", "/mounted/", "/mounted/health", "/mounted/docs"):
            assert client.get(path).status_code == 401
        assert client.get("/mounted/x", headers=ALICE).text == "mounted"

    def test_websockets_are_closed_in_a_guarded_application(self, loop: asyncio.AbstractEventLoop) -> None:
        plain = fastapi.APIRouter()
        accepted: list[str] = []

        @plain.websocket("/ws")
        async def ws(socket: fastapi.WebSocket) -> None:
            await socket.accept()
            accepted.append("yes")
            await socket.close()

        def open_one(app: App) -> list[Any]:
            sent: list[Any] = []

            async def receive() -> Any:
                return {"type": "websocket.connect"}

            async def send(message: Any) -> None:
                sent.append(message["type"])

            scope = {
                "type": "websocket",
                "path": "/ws",
                "headers": [],
                "query_string": b"",
                "subprotocols": [],
            }
            loop.run_until_complete(app(scope, receive, send))
            return sent

        assert open_one(app_of(plain, guarded=True)) == ["websocket.close"]
        assert accepted == []
        assert open_one(app_of(plain)) == ["websocket.accept", "websocket.close"]


class TestLifespan:
    @pytest.mark.parametrize("place", ["application", "declared router", "router within", "plain router"])
    def test_runs_once_and_its_state_is_in_every_request(self, call: Call, place: str) -> None:
        runs: list[str] = []

        @asynccontextmanager
        async def lifespan(_: Any) -> AsyncIterator[dict[str, str]]:
            runs.append("started")
            yield {"pool": "connected"}
            runs.append("stopped")

        router = APIRouter(prefix="/items", lifespan=lifespan if place == "declared router" else None)

        @router.post("")
        async def create(request: Request, body: ItemCreate, limit: int = 1) -> Response:
            found, request.state.pool = request.state.pool, "changed"
            return json_response(found)

        if place == "router within":
            router.include_router(APIRouter(lifespan=lifespan))
        others = [fastapi.APIRouter(lifespan=lifespan)] if place == "plain router" else []
        client = call(app_of(router, *others, lifespan=lifespan if place == "application" else None))
        assert [client.post(**sent).json() for sent in (CANONICAL, ODD, CANONICAL)] == ["connected"] * 3
        assert runs == ["started"]

    def test_a_failing_start_up_fails(self, call: Call) -> None:
        @asynccontextmanager
        async def lifespan(_: Any) -> AsyncIterator[None]:
            raise RuntimeError("no pool")
            yield

        with pytest.raises(LifespanFailure):
            call(app_of(item_router(), lifespan=lifespan))

    def test_is_not_needed(self, call: Call) -> None:
        assert call(app_of(item_router())).post(**CANONICAL).status_code == 201

    def test_without_one_the_server_is_told_all_the_same(self, loop: asyncio.AbstractEventLoop) -> None:
        told = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
        answers: list[Any] = []

        async def receive() -> Any:
            return next(told)

        async def send(message: Any) -> None:
            answers.append(message)

        loop.run_until_complete(app_of(item_router())({"type": "lifespan"}, receive, send))
        assert answers == [{"type": "lifespan.startup.complete"}, {"type": "lifespan.shutdown.complete"}]


class TestScopes:
    @pytest.mark.parametrize(
        "place", ["app", "router", "included", "route", "parameter", "nested", "default"]
    )
    @pytest.mark.parametrize("sync", [False, True], ids=["known to the fast path", "not known"])
    def test_are_checked_before_the_body_is_read(
        self, loop: asyncio.AbstractEventLoop, place: str, sync: bool
    ) -> None:
        needs = Depends(RequireScope("items:write"))

        async def nested(caller: Annotated[Any, needs]) -> Any:
            return caller

        def also() -> None:
            pass

        router = APIRouter(prefix="/items", dependencies=[needs] if place == "router" else [])
        on_route = [*([needs] if place == "route" else []), *([Depends(also)] if sync else [])]
        hint: Any = {"parameter": Annotated[Any, needs], "nested": Annotated[Any, Depends(nested)]}.get(
            place, int
        )
        default = needs if place == "default" else 1

        @router.post("", dependencies=on_route)
        async def create(body: ItemCreate, caller: hint = default) -> Response:
            return json_response("done")

        outer = APIRouter()
        outer.include_router(router, dependencies=[needs] if place == "included" else [])
        app = app_of(outer, guarded=True, dependencies=[needs] if place == "app" else [])
        for token, expected in ((ALICE, 200), (bearer("bob", "items:read"), 403), ({}, 401)):
            status, was_read = loop.run_until_complete(_post(app, token))
            assert (status, was_read) == (expected, expected == 200)


async def _post(app: App, token: dict[str, str]) -> tuple[int, bool]:
    """Return the status, and whether the body was read."""
    sent: list[Any] = []
    received: list[Any] = []

    async def receive() -> Any:
        received.append("body")
        return {"type": "http.request", "body": b'{"name": "x"}'}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(name.encode(), value.encode()) for name, value in token.items()]
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "https",
        "path": "/items",
        "query_string": b"",
        "headers": [*headers, (b"content-type", b"application/json")],
    }
    await app(scope, receive, send)
    return sent[0]["status"], bool(received)
