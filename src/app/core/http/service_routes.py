"""What answers here, and how it is: the endpoints that no resource has."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from app.core.errors import DependencyUnavailable, Overloaded
from app.core.http.problems import problems
from app.core.http.responses import NOT_KEPT, json_response
from app.core.http.routing import APIRouter
from app.core.models import Model

# Shorter than the 5 s after which a load balancer's health check gives up.
READY_TIMEOUT_SECONDS = 2.0


class About(Model):
    """What answers here."""

    name: str
    version: str
    runtime: str
    authentication: str
    links: dict[str, str]


class Health(Model):
    """How the service is."""

    status: str


router = APIRouter(tags=["service"])


@router.get("/", response_model=About, summary="What answers here")
async def about(request: Request) -> Response:
    """Say what answers here."""
    base = request.scope.get("root_path", "")
    known = request.app.state.about
    return json_response(known | {"links": {name: base + path for name, path in known["links"].items()}})


@router.get("/health", response_model=Health, summary="Is the process alive?")
async def health() -> Response:
    """Respond without touching anything."""
    return json_response({"status": "ok"}, headers=NOT_KEPT)


@router.get("/health/ready", response_model=Health, responses={503: problems()[503]}, summary="Can it serve?")
async def ready(request: Request) -> Response:
    """Ask the dependencies, briefly; say no while the server drains."""
    state = request.app.state
    if state.draining:
        raise Overloaded
    try:
        async with asyncio.timeout(READY_TIMEOUT_SECONDS):
            await state.check_dependencies()
    except TimeoutError as late:
        raise DependencyUnavailable("database") from late
    return json_response({"status": "ready"}, headers=NOT_KEPT)
