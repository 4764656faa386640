"""With IAM enforced, the functions work with their own roles' rights, and not without them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from localcloud.cloud import client
from localcloud.embedded import EmbeddedAws, embedded_aws

_BODY = {"customer": "John Doe", "product": "Widget", "quantity": 5}


@pytest.fixture(scope="module")
def enforced() -> Iterator[EmbeddedAws]:
    with embedded_aws(auth=True) as aws:
        yield aws


def _post(aws: EmbeddedAws) -> httpx.Response:
    return httpx.post(f"{aws.outputs['ApiUrl']}/orders", json=_BODY, timeout=60)


def test_roles_suffice_for_the_api_and_the_event_flow(enforced: EmbeddedAws) -> None:
    url = enforced.outputs["ApiUrl"]
    placed = _post(enforced)
    assert placed.status_code == 201
    assert _post(enforced).status_code == 201
    page = httpx.get(f"{url}/orders", params={"limit": 1}, timeout=60).json()
    more = httpx.get(f"{url}/orders", params={"cursor": page["next_cursor"]}, timeout=60)
    assert more.json()["items"] == [placed.json()]
    receipt, deadline = f"{url}/orders/{placed.json()['id']}/receipt", time.monotonic() + 60
    while (answer := httpx.get(receipt, timeout=60)).status_code == 404:
        assert time.monotonic() < deadline, "no receipt in time"
        time.sleep(0.2)
    assert placed.json()["id"] in httpx.get(answer.headers["location"]).text


def test_api_fails_without_its_policy(enforced: EmbeddedAws) -> None:
    iam: Any = client(enforced.endpoint, "iam")
    change = {"RoleName": enforced.resources["ApiFunctionRole"], "PolicyArn": enforced.resources["AppPolicy"]}
    iam.detach_role_policy(**change)
    try:
        assert _post(enforced).status_code in (500, 503)
    finally:
        iam.attach_role_policy(**change)
    assert _post(enforced).status_code == 201
