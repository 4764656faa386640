"""HTTP as the RFCs have it, through each runtime: methods, field values, URIs and content."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

import httpx
import pytest
from tests.api.test_orders import assert_problem, place
from tests.builders import AN_ORDER, a_settings, an_app
from tests.transports import ServerTransport

from app.core.http.app import App
from app.orders.memory import MemoryDocumentStore
from app.orders.service import OrderService

UNKNOWN = "0199a6f5-1c00-7000-8000-000000000001"
GENERATED = {"x-request-id", "x-correlation-id"}


def ask(client: httpx.Client, target: str, method: str = "GET", **more: Any) -> httpx.Response:
    """Send the target as it stands: httpx would straighten it."""
    return client.request(method, "/", extensions={"target": target.encode()}, **more)


class TestHead:
    """RFC 9110, section 9.3.2."""

    def test_is_a_get_without_content(
        self, client: httpx.Client, documents: MemoryDocumentStore, app: App
    ) -> None:
        @app.fastapi.get("/mine")
        async def mine() -> dict[str, str]:
            return {"made": "by a developer"}

        location = client.post("/orders", json=AN_ORDER).headers["location"]
        documents.receipts[location.rsplit("/", 1)[1]] = b"<!DOCTYPE html>"
        paths = ["/", "/health", "/health/ready", "/docs", "/docs/favicon.png", "/openapi.json", "/mine"]
        paths += ["/orders", location, f"{location}/attachments", f"{location}/receipt"]
        paths += ["/nowhere", f"/orders/{UNKNOWN}", "/orders?limit=0", f"{location}/status"]
        for path in paths:
            got, head = client.get(path), client.head(path)
            assert head.status_code == got.status_code, path
            assert head.content == b"", path
            expected = {name: value for name, value in got.headers.items() if name not in GENERATED}
            assert expected.items() <= head.headers.items(), path

    def test_is_what_the_log_says(self, client: httpx.Client, capsys: pytest.CaptureFixture[str]) -> None:
        client.head("/orders")
        line = json.loads(capsys.readouterr().out)
        assert (line["method"], line["route"], line["status"]) == ("HEAD", "/orders", 200)

    def test_a_rejection_by_the_middleware_has_no_content_either(self, client: httpx.Client) -> None:
        response = client.head("/orders", headers={"x-large": "x" * 11_000})
        assert (response.status_code, response.content) == (431, b"")

    def test_is_named_where_get_is(self, client: httpx.Client) -> None:
        order = place(client)
        status = f"/orders/{order['id']}/status"
        for path, allowed in (("/health", "GET, HEAD"), ("/docs", "GET, HEAD"), (status, "PUT")):
            assert client.delete(path).headers["allow"] == allowed
        assert client.head(f"/orders/{order['id']}/status").status_code == 405
        assert "allow" not in client.get("/nowhere").headers


class TestFieldValues:
    """White space around a value is no part of it (RFC 9110, section 5.5)."""

    @pytest.mark.parametrize("key", [b"k ", b" k", b"\tk \t", b"k\t"])
    def test_an_idempotency_key_in_white_space(self, client: httpx.Client, key: bytes) -> None:
        first = client.post("/orders", json=AN_ORDER, headers={"idempotency-key": "k"})
        again = client.post("/orders", json=AN_ORDER, headers={b"idempotency-key": key})
        assert again.content == first.content
        assert again.headers["idempotent-replayed"] == "true"

    def test_other_headers_in_white_space(
        self, client: httpx.Client, capsys: pytest.CaptureFixture[str]
    ) -> None:
        order = place(client)
        path = f"/orders/{order['id']}"
        assert client.get(path, headers={b"if-none-match": b'\t"1" '}).status_code == 304
        assert client.get(path, headers={b"if-match": b" * "}).status_code == 200
        sent = {b"content-type": b" application/json\t", b"content-encoding": b" identity "}
        changed = client.put(f"{path}/status", content=b'{"status": "shipped"}', headers=sent)
        assert changed.status_code == 200
        capsys.readouterr()
        trace = "4bf92f3577b34da6a3ce929d0e0e4736"
        client.get(path, headers={b"traceparent": f" 00-{trace}-00f067aa0ba902b7-01\t".encode()})
        assert json.loads(capsys.readouterr().out)["trace_id"] == trace

    @pytest.mark.parametrize("key", [b"", b" ", b"\t"])
    def test_an_empty_key_is_none(self, client: httpx.Client, key: bytes) -> None:
        assert_problem(client.post("/orders", json=AN_ORDER, headers={b"idempotency-key": key}), 422)

    def test_a_page_of_a_listed_origin_in_white_space(
        self, service: OrderService, loop: asyncio.AbstractEventLoop
    ) -> None:
        app = an_app(service, a_settings(cors_origins=("https://page.test",)))
        with httpx.Client(transport=ServerTransport(app, loop), base_url="http://api.test") as client:
            answer = client.get("/health", headers={b"origin": b" https://page.test\t"})
            assert answer.headers["access-control-allow-origin"] == "https://page.test"


class TestUris:
    def test_are_decoded_once(self, client: httpx.Client) -> None:
        order_id = place(client)["id"]
        for slash in ("%252F", "%25252F", "%252f", "%2"):
            refused = ask(client, f"/orders/{order_id}{slash}status", "PUT", json={"status": "shipped"})
            assert refused.status_code == 405
        # What is encoded once is the character that it stands for.
        taken = ask(client, f"/orders/{order_id}%2Fstatus", "PUT", json={"status": "shipped"})
        assert taken.json()["status"] == "shipped"
        first, rest = order_id[0], order_id[1:]
        assert ask(client, f"/orders/%{ord(first):02x}{rest}").status_code == 200
        assert ask(client, f"/orders/%25{ord(first):02x}{rest}").status_code == 404

    @pytest.mark.parametrize(
        ("target", "instance"),
        [
            ("/orders/a%20b", "/orders/a%20b"),
            ("/orders/a+b", "/orders/a+b"),
            ("/orders/100%25", "/orders/100%25"),
            ("/orders/%2520", "/orders/%2520"),
            ("/orders/%2e%2e", "/orders/.."),
            ("/orders/..", "/orders/.."),
            ("/orders/%00", "/orders/%00"),
            ("/orders/%ff", "/orders/%EF%BF%BD"),  # no UTF-8: decoded to the replacement character
            ("/orders/%C3%BC", "/orders/%C3%BC"),
            ("/orders/%22%3C%3E%5C%5E%60%7B%7C%7D", "/orders/%22%3C%3E%5C%5E%60%7B%7C%7D"),
            ("/orders/%3Fx%23y", "/orders/%3Fx%23y"),
            ("/orders/a:@!$&'()*+,;=-._~", "/orders/a:@!$&'()*+,;=-._~"),
            ("//evil.test/orders", "/.//evil.test/orders"),
            ("/nowhere/%2F%2f", "/nowhere///"),
        ],
    )
    def test_the_instance_of_a_problem_is_a_uri_reference(
        self, client: httpx.Client, target: str, instance: str
    ) -> None:
        """RFC 9457, section 3.1.5."""
        problem = assert_problem(ask(client, target), 404)
        assert problem["instance"] == instance
        assert httpx.URL("http://api.test/").join(instance).host == "api.test"

    def test_so_is_that_of_a_rejection_by_the_middleware(self, client: httpx.Client) -> None:
        refused = ask(client, "/orders/a%20b", headers={"x-large": "x" * 11_000})
        assert assert_problem(refused, 431)["instance"] == "/orders/a%20b"

    @pytest.mark.parametrize(
        "host", ["api.test:", "[2001:db8::1]", "[2001:db8::1]:443", "[", "a b", "", ":", "\xff"]
    )
    @pytest.mark.parametrize("port", ["443", "443,80", "", "https"])
    def test_no_host_and_no_port_breaks_anything(self, client: httpx.Client, host: str, port: str) -> None:
        headers = {b"host": host.encode("latin-1"), b"x-forwarded-port": port.encode()}
        assert client.get("/health", headers=headers).status_code == 200
        assert_problem(client.get("/nowhere", headers=headers), 404)

    @pytest.mark.parametrize(
        "query", ["customer=%ff", "customer=%ed%a0%80", "customer=%00", "limit=1&customer=%"]
    )
    def test_a_query_that_is_no_utf8_names_nobody(self, client: httpx.Client, query: str) -> None:
        place(client)
        response = ask(client, f"/orders?{query}")
        assert (response.status_code, response.json()["items"]) == (200, [])
        assert_problem(ask(client, f"/nowhere?{query}"), 404)

    def test_a_filter_is_read_as_the_name_was(self, client: httpx.Client) -> None:
        order = place(client, customer="\u2003 John Doe\t")
        assert order["customer"] == "John Doe"
        for query in ("%20John%20Doe%20", "John+Doe", "+John+Doe", "%E2%80%83John%20Doe%0A", "John%20Doe"):
            assert ask(client, f"/orders?customer={query}").json()["items"] == [order], query
        for query in ("", "%20", "%C2%A0+", "+" + "x" * 200):
            assert_problem(ask(client, f"/orders?customer={query}"), 422)


POSTS = ["/orders", f"/orders/{UNKNOWN}/attachments"]


class TestContent:
    """What is asked for is JSON (RFC 8259), said to be JSON, without a content coding."""

    @pytest.mark.parametrize(
        "kind",
        [
            "text/plain",
            "application/xml",
            "application/problem+json",
            "application/jsonx",
            "text/json",
            "application/json; charset=utf-16",
            "application/json; charset=latin-1",
            'application/json; charset="utf-16"',
            "application/json; charset=utf-8; charset=utf-16",
            "application/json,application/json",
            "application/json charset=utf-8",
            "multipart/form-data; boundary=x",
            "application/x-www-form-urlencoded",
            "*/*",
            "x",
            "",
            "\xff",
            None,
        ],
    )
    def test_of_another_kind_is_not_taken(self, client: httpx.Client, kind: str | None) -> None:
        headers = [] if kind is None else [(b"content-type", kind.encode("latin-1"))]
        for method, path in (*(("POST", path) for path in POSTS), ("PUT", f"/orders/{UNKNOWN}/status")):
            response = client.request(method, path, content=json.dumps(AN_ORDER), headers=headers)
            assert_problem(response, 415)
            assert response.headers["accept"] == "application/json"

    @pytest.mark.parametrize(
        "name", ["accept", "x-content-type", "content", "type", "content-language", "content-types"]
    )
    def test_no_other_header_says_which_it_is(self, client: httpx.Client, name: str) -> None:
        for said in ({}, {"content-type": "text/plain"}):
            for method, path in (*(("POST", path) for path in POSTS), ("PUT", f"/orders/{UNKNOWN}/status")):
                headers = said | {name: "application/json"}
                assert_problem(
                    client.request(method, path, content=json.dumps(AN_ORDER), headers=headers), 415
                )
        for other in ("text/plain", "gzip"):
            assert client.post("/orders", json=AN_ORDER, headers={name: other}).status_code == 201

    @pytest.mark.parametrize(
        "kind",
        [
            "application/json",
            "Application/JSON",
            "application/json; charset=utf-8",
            "application/json;charset=UTF-8",
            'application/json; CHARSET="Utf-8"',
            "application/json ; charset=utf-8",
            "application/json;",
            "application/json; ; charset=utf-8",
            "application/json; profile=x",
            'application/json; profile="a;b,\\"c"; charset=utf-8',
        ],
    )
    def test_json_may_have_parameters(self, client: httpx.Client, kind: str) -> None:
        for sent in (AN_ORDER, AN_ORDER | {"quantity": 5.0}):  # the second is not for the front
            response = client.post("/orders", content=json.dumps(sent), headers={"content-type": kind})
            assert response.status_code == 201, response.text

    @pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "x", "gzip, identity", "identity, identity"])
    def test_with_a_coding_is_not_taken(self, client: httpx.Client, coding: str) -> None:
        headers = {"content-type": "application/json", "content-encoding": coding}
        body = gzip.compress(json.dumps(AN_ORDER).encode())
        for content in (body, json.dumps(AN_ORDER).encode()):
            for path in POSTS:
                response = client.post(path, content=content, headers=headers)
                assert_problem(response, 415)
                assert response.headers["accept-encoding"] == "identity"

    @pytest.mark.parametrize("coding", ["identity", "Identity", ""])
    def test_without_a_coding_it_is(self, client: httpx.Client, coding: str) -> None:
        assert client.post("/orders", json=AN_ORDER, headers={"content-encoding": coding}).status_code == 201

    def test_none_at_all_is_content_that_is_missing(self, client: httpx.Client) -> None:
        assert_problem(client.post("/orders"), 422)
        assert client.get("/orders", headers={"content-type": "text/plain"}).status_code == 200

    @pytest.mark.parametrize(
        "body",
        [
            '{"customer": "a", "customer": "b", "product": "p", "quantity": 1}',
            '{"customer": "a", "product": "p", "quantity": 1, "quantity": 1}',
            '{"customer": "a", "custome\\u0072": "a", "product": "p", "quantity": 1}',
            '{"customer": "\\"", "product": "p", "product": "p", "quantity": 1}',
            '{"customer": "a", "product": "p", "quantity": 1, "x": {"y": [{"z": 1, "z": 2}]}}',
            '{"customer": "a", "product": "p", "quantity": NaN}',
            '{"customer": "a", "product": "p", "quantity": -Infinity}',
            '{"customer": "a", "product": "p", "quantity": 1, "x": [[Infinity]]}',
            '{"customer": "a\x01", "product": "p", "quantity": 1}',
            '{"customer": "a", "product": "p", "quantity": 01}',
            '{"customer": "a", "product": "p", "quantity": +1}',
            '{"customer": "a", "product": "p", "quantity": 1,}',
            "{'customer': 1}",
            "[" * 60_000,
            " ",
            "\x00",
        ],
    )
    def test_what_is_no_json_is_told_so(self, client: httpx.Client, body: str) -> None:
        headers = {"content-type": "application/json"}
        assert_not_json(client.post("/orders", content=body, headers=headers))
        assert client.get("/orders").json()["items"] == []

    def test_so_is_a_status_that_comes_twice(self, client: httpx.Client) -> None:
        path = f"/orders/{place(client)['id']}"
        body = '{"status": "shipped", "status": "cancelled"}'
        assert_not_json(
            client.put(f"{path}/status", content=body, headers={"content-type": "application/json"})
        )
        assert client.get(path).json()["status"] == "pending"

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "latin-1"])
    def test_so_is_what_is_not_utf8(self, client: httpx.Client, encoding: str) -> None:
        body = json.dumps(AN_ORDER | {"customer": "Zo\xeb"}, ensure_ascii=False).encode(encoding)
        assert_not_json(client.post("/orders", content=body, headers={"content-type": "application/json"}))

    def test_quotes_in_a_name_are_no_names(self, client: httpx.Client) -> None:
        for name in ('"', '"customer": "x"', "\\", '\\"', "{}", "\\u0022"):
            assert place(client, customer=name, product=name)["customer"] == name

    @pytest.mark.parametrize("quantity", ["9" * 5_000, "-" + "9" * 5_000, "1e400", "-1e400", "1e999999"])
    def test_a_number_of_any_size_is_json(self, client: httpx.Client, quantity: str) -> None:
        body = f'{{"customer": "a", "product": "p", "quantity": {quantity}}}'
        response = client.post("/orders", content=body, headers={"content-type": "application/json"})
        assert assert_problem(response, 422)["errors"][0]["pointer"] == "#/quantity"

    @pytest.mark.parametrize(
        "body",
        [
            '{"customer": "\\ud800", "product": "p", "quantity": 1}',
            '{"customer": "a", "product": "p", "quantity": "\\udfff"}',
            '{"customer": "a", "product": "p", "quantity": 1, "\\ud800": 1}',
            '"\\ud800"',
        ],
    )
    def test_half_a_surrogate_pair_is_no_text(self, client: httpx.Client, body: str) -> None:
        headers = {"content-type": "application/json"}
        assert_problem(client.post("/orders", content=body, headers=headers), 422)


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ({"json": {"customer": "a", "product": "p", "quantity": 0}}, {"pointer": "#/quantity"}),
        (
            {"json": {"customer": "a", "product": "p", "quantity": 1, "a/b~é": 1}},
            {"pointer": "#/a~1b~0%C3%A9"},
        ),
        ({"json": []}, {"pointer": "#"}),
        ({"method": "GET", "params": {"limit": 0}}, {"parameter": "limit"}),
        ({"headers": {"idempotency-key": "k" * 256}}, {"header": "idempotency-key"}),
    ],
)
def test_an_error_names_the_part_of_the_request(
    client: httpx.Client, part: dict[str, Any], source: dict[str, str]
) -> None:
    request = {"method": "POST", "url": "/orders", "json": {"customer": "a", "product": "p", "quantity": 1}}
    [error] = assert_problem(client.request(**request | part), 422)["errors"]
    assert error.pop("detail")
    assert error == source


def assert_not_json(response: httpx.Response) -> None:
    problem = assert_problem(response, 400)
    assert problem["type"] == "urn:orders:problem:not-json"
    assert [error["pointer"] for error in problem["errors"]] == ["#"]


def test_refusals_take_no_worker_thread(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of those costs several times what the refusal does, and good requests may be waiting for them."""
    order_id = place(client)["id"]
    assert client.get("/nowhere").status_code == 404  # builds FastAPI, in a thread

    def no_thread(*_: Any, **__: Any) -> None:
        raise AssertionError("a thread")

    monkeypatch.setattr("anyio.to_thread.run_sync", no_thread)
    monkeypatch.setattr("asyncio.to_thread", no_thread)
    monkeypatch.setattr("asyncio.base_events.BaseEventLoop.run_in_executor", no_thread)
    for expected, (method, path, more) in {
        400: ("POST", "/orders", {"content": "{", "headers": {"content-type": "application/json"}}),
        404: ("GET", "/nowhere", {}),
        405: ("DELETE", "/orders", {}),
        409: ("PUT", f"/orders/{order_id}/status", {"json": {"status": "delivered"}}),
        412: ("GET", f"/orders/{order_id}", {"headers": {"if-match": '"9"'}}),
        415: ("POST", f"/orders/{order_id}/attachments", {"content": "x"}),
        422: ("POST", "/orders", {"json": {}}),
    }.items():
        assert client.request(method, path, **more).status_code == expected


def test_an_unexpected_error_takes_no_worker_thread(
    client: httpx.Client, service: OrderService, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert client.get("/nowhere").status_code == 404
    monkeypatch.setattr("anyio.to_thread.run_sync", None)
    monkeypatch.setattr(service, "list_attachments", None)
    assert_problem(client.get(f"/orders/{UNKNOWN}/attachments"), 500)
