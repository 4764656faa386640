"""Service information, liveness and readiness: the endpoints that belong to no resource."""

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
    """Service information."""

    name: str
    version: str
    runtime: str
    authentication: str
    links: dict[str, str]


class Health(Model):
    """Status of the service."""

    status: str


router = APIRouter(tags=["service"])


@router.get("/", response_model=About, summary="Service information")
async def about(request: Request) -> Response:
    """Return name, version and links of the service."""
    base = request.scope.get("root_path", "")
    known = request.app.state.about
    return json_response(known | {"links": {name: base + path for name, path in known["links"].items()}})


@router.get("/health", response_model=Health, summary="Liveness")
async def health() -> Response:
    """Respond without calling any dependency."""
    return json_response({"status": "ok"}, headers=NOT_KEPT)


@router.get("/health/ready", response_model=Health, responses={503: problems()[503]}, summary="Readiness")
async def ready(request: Request) -> Response:
    """Check the dependencies; 503 when one fails, and while the server drains."""
    state = request.app.state
    if state.draining:
        raise Overloaded
    try:
        async with asyncio.timeout(READY_TIMEOUT_SECONDS):
            await state.check_dependencies()
    except TimeoutError as late:
        raise DependencyUnavailable("database") from late
    return json_response({"status": "ready"}, headers=NOT_KEPT)
