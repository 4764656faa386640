"""The CDN on the emulator: the API and the console at one address, and origins that answer nobody else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urljoin

import boto3
import httpx
import pytest
from localcloud.running import Emulator, running_emulator
from scripts.delivery.deploy import deploy_cdn
from scripts.delivery.stacks import Stacks

pytestmark = [pytest.mark.xdist_group("edge"), pytest.mark.timeout(180)]


class Edge:
    """Both stacks, and how to call them."""

    def __init__(self, aws: Emulator) -> None:
        stacks = Stacks(boto3.Session(), {}, poll=0.1)
        deploy_cdn(stacks, "local", ["Mode=count", "PriceClass=PriceClass_200"])
        self.stack, self.orders = stacks.edge("local"), stacks.of("local")
        headers = {"host": self.stack.outputs()["DistributionDomain"], "x-forwarded-proto": "https"}
        self.public = httpx.Client(base_url=aws.endpoint, headers=headers, timeout=60)
        self.origin = httpx.Client(base_url=aws.outputs["LambdaApiUrl"], timeout=60)


@pytest.fixture(scope="module")
def edge() -> Iterator[Edge]:
    with running_emulator() as aws, pytest.MonkeyPatch.context() as patch:
        for name, value in aws.environ.items():
            patch.setenv(name, value)
        edge = Edge(aws)
        with edge.public, edge.origin:
            yield edge


def test_the_api_answers_at_the_cdn(edge: Edge) -> None:
    body = {"customer": "a", "product": "b", "quantity": 1}
    placed = edge.public.post("/orders?ignored=1", json=body, headers={"idempotency-key": "edge-1"})
    assert placed.status_code == 201
    found = edge.public.get(placed.headers["location"], headers={"if-none-match": placed.headers["etag"]})
    assert found.status_code == 304
    assert edge.public.get("/").json()["runtime"] == "lambda"
    assert edge.public.get("/orders", params={"limit": 1}).json()["items"] == [placed.json()]
    assert edge.public.get("/orders/unknown").headers["content-type"] == "application/problem+json"


def test_the_console_comes_from_its_private_bucket(edge: Edge) -> None:
    moved = edge.public.get("/console")
    assert (moved.status_code, moved.headers["location"]) == (308, "/console/")
    page = edge.public.get("/console/")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    links = re.findall(r'(?:src|href)="([^".][^":]*)"', page.text)
    assert {"app.js", "style.css"} <= set(links)
    for path in [link for link in links if not link.startswith("#")]:
        answer = edge.public.get(urljoin("/console/", path))
        assert answer.status_code == 200
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert edge.public.get("/console/nope.js").status_code in (403, 404)


def test_the_origin_answers_the_edge_only_also_while_the_secret_changes(edge: Edge) -> None:
    assert edge.origin.get("/orders").status_code == 200  # not closed yet
    arn = edge.stack.outputs()["OriginSecretArn"]
    edge.orders.change(OriginSecretArn=arn)

    def statuses() -> tuple[int, int, int]:
        edged = edge.public.get("/orders").status_code
        return edge.origin.get("/orders").status_code, edge.origin.get("/docs").status_code, edged

    assert statuses() == (403, 403, 200)

    secrets: Any = boto3.client("secretsmanager")
    old = json.loads(secrets.get_secret_value(SecretId=arn)["SecretString"])["current"]
    new = "n" * 48
    version = secrets.put_secret_value(
        SecretId=arn, SecretString=json.dumps({"current": new, "previous": old})
    )["VersionId"]
    assert statuses() == (403, 403, 200)  # nobody has looked yet
    edge.orders.change(OriginSecretVersion=version)
    assert statuses() == (403, 403, 200)  # the CDN still sends the old one
    edge.stack.change(OriginSecretVersion=version)
    assert statuses() == (403, 403, 200)

    def origin_with(secret: str) -> int:
        return edge.origin.get("/orders", headers={"x-origin-secret": secret}).status_code

    assert [origin_with(secret) for secret in (new, old, "none", "")] == [200, 200, 403, 403]
