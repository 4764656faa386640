"""Every route has a sample event for `sam local invoke`, and the handler answers it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from fastapi import FastAPI
from tests.template.templates import ROOT

from app.core.http.lambda_adapter import handler_of
from app.orders.service import OrderService

SAMPLES = {
    path.stem: json.loads(path.read_text())
    for path in sorted((ROOT / "events").glob("*.json"))
    if '"rawPath"' in path.read_text()
}
VERBS = ("create", "get", "change", "list", "check", "read")


class Context:
    aws_request_id = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def invoke(app: FastAPI, loop: asyncio.AbstractEventLoop) -> Any:
    handler = handler_of(app)
    # The other samples are about the order that this one places.
    handler(json.loads(json.dumps(SAMPLES["create-order"])), Context())
    return lambda event: handler(json.loads(json.dumps(event)), Context())


@pytest.mark.parametrize("name", SAMPLES)
def test_is_answered(invoke: Any, name: str) -> None:
    answer = invoke(SAMPLES[name])
    expected = {"create-order": 201, "get-receipt": 404}  # the relay has not run here
    assert answer["statusCode"] == expected.get(name, 200), answer["body"]


@pytest.mark.parametrize("name", SAMPLES)
def test_is_a_payload_of_the_http_api(name: str) -> None:
    event = SAMPLES[name]
    assert name.split("-")[0] in VERBS
    assert event["version"] == "2.0"
    assert event["requestContext"]["http"]["path"] == event["rawPath"]
    assert isinstance(event["isBase64Encoded"], bool)


def test_every_route_has_one(app: FastAPI, service: OrderService) -> None:
    routes = {
        (method.upper(), len(path.split("/")), path.rsplit("/", 1)[-1].strip("{}"))
        for path, methods in app.openapi()["paths"].items()
        for method in methods
    }
    order_id = SAMPLES["get-order"]["rawPath"].rsplit("/", 1)[-1]
    sampled = set()
    for event in SAMPLES.values():
        path = event["rawPath"].replace(order_id, "order_id")
        method = event["requestContext"]["http"]["method"]
        sampled.add((method, len(path.split("/")), path.rsplit("/", 1)[-1]))
    assert routes <= sampled, routes - sampled
