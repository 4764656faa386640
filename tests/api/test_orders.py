"""The orders endpoints, through each runtime; and in the image, by tests/cloud/image/test_conformance.py."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from tests.builders import AN_ORDER

PROBLEM = "application/problem+json"


def place(client: httpx.Client, **changes: Any) -> dict[str, Any]:
    response = client.post("/orders", json=AN_ORDER | changes)
    assert response.status_code == 201, response.text
    return response.json()


def assert_problem(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == PROBLEM
    body = response.json()
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    return body


class TestPlaceOrder:
    def test_answers_with_the_order_its_place_and_its_tag(self, client: httpx.Client) -> None:
        response = client.post("/orders", json=AN_ORDER)
        order = response.json()
        assert response.status_code == 201
        assert response.headers["location"] == f"/orders/{order['id']}"
        assert response.headers["etag"] == '"1"'
        assert order.keys() == {
            "id",
            "customer",
            "product",
            "quantity",
            "status",
            "version",
            "created_at",
            "updated_at",
        }
        assert AN_ORDER.items() <= order.items()
        assert (order["status"], order["version"]) == ("pending", 1)
        assert order["created_at"] == order["updated_at"]
        assert client.get(response.headers["location"]).json() == order

    @pytest.mark.parametrize(
        ("body", "status"),
        [
            (b"", 422),
            (b"[]", 422),
            (b"null", 422),
            (b'{"pk": "order#1"}', 422),
            (b'{"customer": "a", "product": "b", "quantity": 9.99}', 422),
            (b'{"customer": "a", "product": "b", "quantity": "5"}', 422),
            (b'{"customer": "a", "product": "b", "quantity": true}', 422),
            (b'{"customer": "a", "product": "b", "quantity": 0}', 422),
            (b'{"customer": "a", "product": "b", "quantity": 99999999999999999999999}', 422),
            (b'{"customer": " ", "product": "b", "quantity": 1}', 422),
            (b'{"customer": "a", "product": "b", "quantity": 1, "status": "shipped"}', 422),
            (b'{"customer": "' + b"a" * 201 + b'", "product": "b", "quantity": 1}', 422),
            (b'"' + b"x" * 1_000_000 + b'"', 413),
        ],
    )
    def test_refuses_other_bodies(self, client: httpx.Client, body: bytes, status: int) -> None:
        response = client.post("/orders", content=body, headers={"content-type": "application/json"})
        assert_problem(response, status)
        assert client.get("/orders").json()["items"] == []

    def test_keeps_whole_numbers_and_every_script(self, client: httpx.Client) -> None:
        order = place(client, customer="Zoë 北京 🚚", quantity=1_000_000)
        assert client.get(f"/orders/{order['id']}").json() == order
        assert order["customer"] == "Zoë 北京 🚚"
        assert '"quantity":1000000,' in client.get(f"/orders/{order['id']}").text


class TestIdempotencyKey:
    def test_the_same_request_gets_the_first_answer_again(self, client: httpx.Client) -> None:
        first = client.post("/orders", json=AN_ORDER, headers={"idempotency-key": "k"})
        order = first.json()
        client.put(f"/orders/{order['id']}/status", json={"status": "shipped"})
        again = client.post("/orders", json=AN_ORDER, headers={"idempotency-key": "k"})
        assert again.status_code == 201
        assert again.content == first.content
        assert again.headers["etag"] == first.headers["etag"]
        assert again.headers["idempotent-replayed"] == "true"
        assert "idempotent-replayed" not in first.headers
        assert len(client.get("/orders").json()["items"]) == 1

    def test_another_body_is_refused(self, client: httpx.Client) -> None:
        client.post("/orders", json=AN_ORDER, headers={"idempotency-key": "k"})
        assert_problem(
            client.post("/orders", json=AN_ORDER | {"quantity": 6}, headers={"idempotency-key": "k"}), 422
        )

    def test_a_key_has_a_length(self, client: httpx.Client) -> None:
        headers = {"idempotency-key": "k" * 256}
        assert_problem(client.post("/orders", json=AN_ORDER, headers=headers), 422)


class TestGetOrder:
    @pytest.mark.parametrize(
        "order_id", ["nope", "0199a6f5-1c00-7000-8000-000000000001", "x" * 3000, "%2e%2e%2f"]
    )
    def test_an_unknown_one_is_not_found(self, client: httpx.Client, order_id: str) -> None:
        assert_problem(client.get(f"/orders/{order_id}"), 404)

    def test_a_header_sent_twice_is_one_list(self, client: httpx.Client) -> None:
        order = place(client)
        twice = [("if-none-match", '"7"'), ("if-none-match", '"1"')]
        assert client.get(f"/orders/{order['id']}", headers=twice).status_code == 304


class TestChangeStatus:
    def test_takes_effect(self, client: httpx.Client) -> None:
        order = place(client)
        changed = client.put(f"/orders/{order['id']}/status", json={"status": "shipped"})
        assert changed.status_code == 200
        assert changed.headers["etag"] == '"2"'
        assert client.get(f"/orders/{order['id']}").json() == changed.json()
        assert (changed.json()["status"], changed.json()["version"]) == ("shipped", 2)

    def test_the_present_status_is_no_change(self, client: httpx.Client) -> None:
        order = place(client)
        response = client.put(f"/orders/{order['id']}/status", json={"status": "pending"})
        assert (response.status_code, response.json()) == (200, order)

    def test_an_illegal_one_is_refused_with_the_current_order(self, client: httpx.Client) -> None:
        order = place(client)
        shipped = client.put(f"/orders/{order['id']}/status", json={"status": "shipped"})
        response = client.put(f"/orders/{order['id']}/status", json={"status": "pending"})
        assert assert_problem(response, 409)["current"] == shipped.json()
        assert response.headers["etag"] == '"2"'

    def test_a_header_sent_twice_is_one_list(self, client: httpx.Client) -> None:
        twice = [("if-match", '"7"'), ("if-match", 'W/"2", "1"')]
        path = f"/orders/{place(client)['id']}/status"
        assert client.put(path, json={"status": "shipped"}, headers=twice).status_code == 200

    @pytest.mark.parametrize("order_id", ["nope", "0199a6f5-1c00-7000-8000-000000000001"])
    def test_an_unknown_order_is_not_found(self, client: httpx.Client, order_id: str) -> None:
        assert_problem(client.put(f"/orders/{order_id}/status", json={"status": "shipped"}), 404)

    @pytest.mark.parametrize("body", [{"status": "banana"}, {}, {"status": "shipped", "version": 3}])
    def test_other_bodies_are_refused(self, client: httpx.Client, body: dict[str, Any]) -> None:
        order = place(client)
        assert_problem(client.put(f"/orders/{order['id']}/status", json=body), 422)


class TestListOrders:
    def test_is_newest_first_in_pages(self, client: httpx.Client) -> None:
        placed = [place(client)["id"] for _ in range(5)]
        seen: list[str] = []
        cursor: str | None = ""
        for _ in range(10):
            page = client.get("/orders", params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
            seen += [order["id"] for order in page["items"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert seen == placed[::-1]

    def test_filters(self, client: httpx.Client) -> None:
        place(client, customer="Ann")
        bob = place(client, customer="Bob")
        shipped = client.put(f"/orders/{bob['id']}/status", json={"status": "shipped"}).json()
        assert client.get("/orders?customer=Bob").json()["items"] == [shipped]
        assert client.get("/orders?status=shipped").json()["items"] == [shipped]
        assert client.get("/orders?customer=Ann&status=shipped").json()["items"] == []

    @pytest.mark.parametrize(
        "query", ["limit=0", "limit=101", "limit=x", "limit=1.5", "status=banana", "customer="]
    )
    def test_other_parameters_are_refused(self, client: httpx.Client, query: str) -> None:
        assert_problem(client.get(f"/orders?{query}"), 422)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nope", 404),
        ("DELETE", "/orders", 405),
        ("GET", "/orders/", 404),
        ("PATCH", "/orders/x", 405),
    ],
)
def test_what_does_not_exist_is_a_problem_too(
    client: httpx.Client, method: str, path: str, status: int
) -> None:
    response = client.request(method, path)
    assert_problem(response, status)
    assert "location" not in response.headers


def test_a_wrong_method_is_told_the_right_ones(client: httpx.Client) -> None:
    assert client.delete("/orders").headers["allow"] == "GET, HEAD, POST"
