"""The image answers alike in both runtimes: the in-process suite once more, and answer by answer."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import pytest
from localcloud.local import address
from tests.api.test_orders import (  # noqa: F401  # collected here, with the live client
    TestChangeStatus,
    TestGetOrder,
    TestIdempotencyKey,
    TestListOrders,
    TestPlaceOrder,
    test_a_wrong_method_is_told_the_right_ones,
    test_what_does_not_exist_is_a_problem_too,
)
from tests.builders import AN_ORDER
from tests.cloud.image.conftest import empty

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(600)]

JSON = ("content-type", "application/json")
KEY = ("idempotency-key", "conformance")
ORDER = json.dumps(AN_ORDER).encode()
# The id that the key above gives to an anonymous caller; the first request asserts it.
ID = "{id}"

Headers = list[tuple[str, str]]
REQUESTS: list[tuple[str, str, Headers, bytes]] = [
    ("POST", "/orders", [JSON, KEY], ORDER),
    ("POST", "/orders", [JSON, KEY], ORDER),
    ("POST", "/orders", [JSON, KEY], ORDER.replace(b"Widget", b"Gadget")),
    (
        "POST",
        "/orders",
        [JSON, ("idempotency-key", "second")],
        '{"customer": "Jörg & Søn", "product": "茶", "quantity": 1}'.encode(),
    ),
    ("POST", "/orders", [JSON], b"{"),
    ("POST", "/orders", [JSON], b"[]"),
    ("POST", "/orders", [("content-type", "text/plain")], ORDER),
    ("POST", "/orders", [JSON], b'{"customer": "' + b"x" * 300_000 + b'"}'),
    ("GET", f"/orders/{ID}", [], b""),
    ("HEAD", f"/orders/{ID}", [], b""),
    ("GET", f"/orders/{ID}", [("if-none-match", '"1"')], b""),
    # Sent twice, a header is one list.
    ("GET", f"/orders/{ID}", [("if-none-match", '"7"'), ("if-none-match", '"1"')], b""),
    ("GET", f"/orders/{ID}", [("accept", "application/json"), ("accept", "text/html")], b""),
    ("GET", "/orders/0199a6f5-1c00-7000-8000-00000000dead", [], b""),
    # Paths as a load balancer passes them on: encoded.
    ("GET", "/orders/%C3%A9t%C3%A9", [], b""),
    ("GET", "/orders/a%2Fb", [], b""),
    ("GET", "/orders/a%20b", [], b""),
    ("GET", "/orders/%25", [], b""),
    ("GET", "/orders/", [], b""),
    ("GET", "//orders", [], b""),
    # Queries: encoded, repeated, empty.
    ("GET", "/orders?customer=J%C3%B6rg%20%26%20S%C3%B8n", [], b""),
    ("GET", "/orders?customer=J%C3%B6rg+%26+S%C3%B8n", [], b""),
    ("GET", "/orders?status=shipped&status=pending", [], b""),
    ("GET", "/orders?limit=1&limit=100", [], b""),
    ("GET", "/orders?status=", [], b""),
    ("GET", "/orders?limit=0", [], b""),
    ("GET", "/orders?unknown=1", [], b""),
    ("GET", "/orders?cursor=%00", [], b""),
    ("PUT", f"/orders/{ID}/status", [JSON, ("if-match", '"9"')], b'{"status": "shipped"}'),
    ("PUT", f"/orders/{ID}/status", [JSON, ("if-match", '"1"')], b'{"status": "shipped"}'),
    ("PUT", f"/orders/{ID}/status", [JSON], b'{"status": "shipped"}'),
    ("PUT", f"/orders/{ID}/status", [JSON], b'{"status": "pending"}'),
    ("PUT", f"/orders/{ID}/status", [JSON], b'{"status": "eaten"}'),
    ("GET", "/orders/0199a6f5-1c00-7000-8000-00000000dead/receipt", [], b""),
    ("GET", f"/orders/{ID}/attachments", [], b""),
    ("POST", f"/orders/{ID}/attachments", [JSON], b'{"name": "../x", "content_type": "image/png"}'),
    ("DELETE", f"/orders/{ID}", [], b""),
    ("OPTIONS", "/orders", [("origin", "https://a.example"), ("access-control-request-method", "POST")], b""),
    ("GET", "/", [], b""),
    ("GET", "/health", [], b""),
    ("GET", "/health/ready", [], b""),
    ("GET", "/docs", [], b""),
    ("GET", "/openapi.json", [], b""),
    ("GET", "/nope", [("x-correlation-id", "conformance-1")], b""),
]
# A server says these of the connection, not of the answer.
HOP = {"date", "server", "connection", "transfer-encoding", "keep-alive"}
VOLATILE = [
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", "<time>"),
    (r'"runtime":"(lambda|fargate)"', '"runtime":"<runtime>"'),
    (r'"instance":"[^"]*"', '"instance":"<instance>"'),
    (r'"(request_id|correlation_id|trace_id)":"[^"]*"', r'"\1":"<id>"'),
]


def normal(response: httpx.Response, given: Headers) -> tuple[int, dict[str, str], str]:
    """Return status, headers and body without what differs from one request to the next anyway."""
    headers = {name.lower(): value for name, value in response.headers.items() if name.lower() not in HOP}
    for name in ("x-request-id", "x-correlation-id"):
        if headers.get(name) not in dict(given).values():
            headers[name] = "<id>" if name in headers else "<none>"
    if response.status_code == 304:
        headers.pop("content-type", None)  # the HTTP API gives one to every answer
    if response.request.url.path == "/":
        headers.pop("content-length", None)  # names the runtime
    body = response.text
    for pattern, replacement in VOLATILE:
        body = re.sub(pattern, replacement, body)
    return response.status_code, headers, body


def answers(client: httpx.Client) -> list[tuple[int, dict[str, str], str]]:
    order_id = ""
    found = []
    for method, path, headers, body in REQUESTS:
        response = client.request(method, path.replace(ID, order_id), headers=headers, content=body)
        found.append(normal(response, headers))
        if not order_id:
            order_id = response.json()["id"]
    return found


def test_both_runtimes_answer_alike(
    function: httpx.Client, server: str, table: Any, report: list[str]
) -> None:
    empty(table)
    by_function = answers(function)
    empty(table)
    with httpx.Client(base_url=address(server), timeout=30) as client:
        by_server = answers(client)
    statuses = [status for status, _, _ in by_server]
    assert statuses[:3] == [201, 201, 422]
    assert not [status for status in statuses if status >= 500]
    different = [
        f"{method} {path} {headers}: {one} != {other}"
        for (method, path, headers, _), one, other in zip(REQUESTS, by_function, by_server, strict=True)
        if one != other
    ]
    assert not different, "\n".join(different)
    report.append(f"conformance: {len(REQUESTS)} answers equal in both runtimes, headers included")
