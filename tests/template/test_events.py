"""Every route has a sample event for `sam local invoke`, and the handler answers it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.routing import compile_path
from tests.template.templates import ROOT
from tests.transports import LambdaContext

from app.core.http.lambda_adapter import handler_of

SAMPLES = {
    path.stem: json.loads(path.read_text())
    for path in sorted((ROOT / "events").glob("*.json"))
    if '"rawPath"' in path.read_text()
}
CREATED = ("create-order", "create-product")
VERBS = ("create", "get", "change", "list", "check", "read")


@pytest.fixture
def invoke(app: FastAPI, loop: asyncio.AbstractEventLoop) -> Any:
    handler = handler_of(app)
    # The other samples are about what these create.
    for created in CREATED:
        handler(json.loads(json.dumps(SAMPLES[created])), LambdaContext())
    return lambda event: handler(json.loads(json.dumps(event)), LambdaContext())


@pytest.mark.parametrize("name", SAMPLES)
def test_is_answered(invoke: Any, name: str) -> None:
    answer = invoke(SAMPLES[name])
    expected = dict.fromkeys(CREATED, 201) | {"get-receipt": 404}  # the relay has not run here
    assert answer["statusCode"] == expected.get(name, 200), answer["body"]


@pytest.mark.parametrize("name", SAMPLES)
def test_is_a_payload_of_the_http_api(name: str) -> None:
    event = SAMPLES[name]
    assert name.split("-")[0] in VERBS
    assert event["version"] == "2.0"
    assert event["requestContext"]["http"]["path"] == event["rawPath"]
    assert isinstance(event["isBase64Encoded"], bool)


def test_every_route_has_one(app: FastAPI) -> None:
    sent = [(event["requestContext"]["http"]["method"], event["rawPath"]) for event in SAMPLES.values()]
    for template, operations in app.openapi()["paths"].items():
        matches = compile_path(template)[0].fullmatch
        for method in operations:
            assert any(verb == method.upper() and matches(path) for verb, path in sent), (method, template)
