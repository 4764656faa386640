"""Every bound that a caller can meet: the last value that is taken, and the first that is not.

The figures are written out, so that whoever changes a bound changes what callers were told, here too.
"""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from localcloud.issuer import Issuer
from tests.builders import AN_ORDER, an_app, an_order

from app.core.http.app import App
from app.core.settings import Settings
from app.orders.service import OrderService

ISSUER = Issuer("https://issuer.test")
bearer = ISSUER.bearer

UNKNOWN = an_order().id


def statuses(client: httpx.Client, method: str, path: str, *cases: dict[str, Any]) -> list[int]:
    return [client.request(method, path, **case).status_code for case in cases]


@pytest.mark.parametrize("field", ["customer", "product"])
def test_a_name_has_1_to_200_characters(client: httpx.Client, field: str) -> None:
    cases = [{"json": AN_ORDER | {field: "\N{DELIVERY TRUCK}" * length}} for length in (0, 1, 200, 201)]
    assert statuses(client, "POST", "/orders", *cases) == [422, 201, 201, 422]


def test_a_quantity_is_1_to_a_million(client: httpx.Client) -> None:
    for kind in (int, float):  # a fraction of nothing is read by FastAPI
        numbers = (0, 1, 1_000_000, 1_000_001)
        cases = [{"json": AN_ORDER | {"quantity": kind(number)}} for number in numbers]
        assert statuses(client, "POST", "/orders", *cases) == [422, 201, 201, 422]


def test_an_idempotency_key_has_1_to_255_characters(client: httpx.Client) -> None:
    cases = [{"json": AN_ORDER, "headers": {"idempotency-key": "k" * length}} for length in (0, 1, 255, 256)]
    assert statuses(client, "POST", "/orders", *cases) == [422, 201, 201, 422]
    odd = AN_ORDER | {"quantity": 5.0}
    cases = [{"json": odd, "headers": {"idempotency-key": "o" * length}} for length in (0, 1, 255, 256)]
    assert statuses(client, "POST", "/orders", *cases) == [422, 201, 201, 422]


def test_a_page_has_1_to_100_orders_and_20_by_itself(client: httpx.Client) -> None:
    for _ in range(101):
        client.post("/orders", json=AN_ORDER)
    for query, count in (("", 20), ("?limit=1", 1), ("?limit=99", 99), ("?limit=100", 100), ("?limit=9", 9)):
        page = client.get(f"/orders{query}").json()
        assert (len(page["items"]), bool(page["next_cursor"])) == (count, True)
    for more in ("0", "101", "00", "1000", "-1"):
        assert client.get(f"/orders?limit={more}").status_code == 422, more


def test_the_last_page_has_no_next(client: httpx.Client) -> None:
    for _ in range(20):
        client.post("/orders", json=AN_ORDER)
    for limit, has_next in ((19, True), (20, False), (21, False)):
        assert bool(client.get(f"/orders?limit={limit}").json().get("next_cursor")) is has_next
    cursor = client.get("/orders?limit=19").json()["next_cursor"]
    rest = client.get("/orders", params={"limit": 19, "cursor": cursor}).json()
    assert (len(rest["items"]), rest.get("next_cursor")) == (1, None)


def test_a_filter_by_customer_has_1_to_200_characters(client: httpx.Client) -> None:
    cases = [{"params": {"customer": "c" * length}} for length in (0, 1, 200, 201)]
    assert statuses(client, "GET", "/orders", *cases) == [422, 200, 200, 422]


def test_a_cursor_has_512_characters_at_most(client: httpx.Client) -> None:
    answers = [client.get("/orders", params={"cursor": "c" * length}) for length in (512, 513)]
    assert [answer.status_code for answer in answers] == [400, 422]


def test_a_body_has_64_kib_at_most(client: httpx.Client) -> None:
    for path, last in (("/orders", 201), (f"/orders/{UNKNOWN}/attachments", 422)):
        for size, status in ((65_536, last), (65_537, 413)):
            body = json.dumps(AN_ORDER).ljust(size)
            headers = {"content-type": "application/json"}
            assert client.post(path, content=body, headers=headers).status_code == status


def test_the_request_line_and_the_headers_have_10_240_bytes_at_most(client: httpx.Client) -> None:
    def size(request: httpx.Request, line: str) -> int:
        return len(line) + sum(len(name) + len(value) for name, value in request.headers.raw)

    for path, query in (("/orders", "limit=1"), ("/health", ""), ("/nowhere", "q=%20")):
        line = f"GET {path}?{query} HTTP/1.1"
        smallest = size(client.build_request("GET", f"{path}?{query}", headers={"x-filler": ""}), line)
        for total in (10_239, 10_240, 10_241):
            filler = {"x-filler": "x" * (total - smallest)}
            answer = client.get(f"{path}?{query}", headers=filler)
            assert (answer.status_code == 431) == (total > 10_240), (path, total)


def test_the_request_line_has_10_240_bytes_at_most(client: httpx.Client) -> None:
    rest = len("GET /nowhere? HTTP/1.1")
    for total, status in ((10_240, 431), (10_241, 414)):  # with any header it is too much together
        answer = client.get(f"/nowhere?{'q' * (total - rest)}")
        assert answer.status_code == status


def test_an_id_of_the_callers_has_128_characters_at_most(client: httpx.Client) -> None:
    for name in ("x-correlation-id", "x-request-id"):
        for length, is_taken in ((1, True), (128, True), (129, False)):
            answer = client.get("/", headers={name: "i" * length})
            assert (answer.headers["x-correlation-id"] == "i" * length) is is_taken


def test_an_id_in_the_path_is_cut_to_64_characters_in_the_log(
    client: httpx.Client, capsys: pytest.CaptureFixture[str]
) -> None:
    for length in (63, 64, 65):
        client.get(f"/orders/{'i' * length}")
        line = json.loads(capsys.readouterr().out)
        assert line["order_id"] == "i" * min(length, 64)


def test_only_an_id_of_36_characters_names_an_order(client: httpx.Client) -> None:
    order_id = client.post("/orders", json=AN_ORDER).json()["id"]
    for spelled in (order_id, order_id[:-1], f"{order_id}0", f"0{order_id}", order_id.replace("-", "")):
        for path in (f"/orders/{spelled}", f"/orders/{spelled}/receipt"):
            found = client.get(path).json().get("type", "found")
            assert ("order-not-found" in found) == (spelled != order_id), path


def test_a_file_has_a_name_of_100_characters_and_1_to_10_million_bytes(client: httpx.Client) -> None:
    order_id = client.post("/orders", json=AN_ORDER).json()["id"]
    pdf = {"name": "a.pdf", "content_type": "application/pdf"}
    names = [{"json": pdf | {"name": "a" * (length - 4) + ".pdf"}} for length in (5, 100, 101)]
    assert statuses(client, "POST", f"/orders/{order_id}/attachments", *names) == [200, 200, 422]
    sizes = [{"json": pdf | {"size_bytes": size}} for size in (0, 1, 10_000_000, 10_000_001)]
    assert statuses(client, "POST", f"/orders/{order_id}/attachments", *sizes) == [422, 200, 200, 422]


def test_of_5_fields_that_are_not_known_each_is_named_and_of_6_none(client: httpx.Client) -> None:
    for unknown, named in ((5, 5), (6, 1)):
        answer = client.post("/orders", json=AN_ORDER | {f"f{number}": 1 for number in range(unknown)})
        assert (answer.status_code, len(answer.json()["errors"])) == (422, named)


class TestToken:
    @pytest.fixture
    def app(self, service: OrderService, settings: Settings) -> App:
        return an_app(service, settings, ISSUER.authenticator())

    def test_has_a_subject_of_1_to_255_characters(self, client: httpx.Client) -> None:
        cases = [{"headers": bearer("s" * length)} for length in (0, 1, 255, 256)]
        assert statuses(client, "GET", "/orders", *cases) == [401, 200, 200, 401]

    def test_has_8192_characters_at_most(self, client: httpx.Client) -> None:
        def token(more: int) -> dict[str, str]:
            return bearer("alice", "orders:read " + "x" * more)

        def length(headers: dict[str, str]) -> int:
            return len(headers["authorization"]) - len("Bearer ")

        around = (8192 - length(token(0))) * 3 // 4  # base64url has 4 characters for 3 bytes
        tokens = [token(more) for more in range(around - 2, around + 3)]
        assert {8191, 8192, 8194} & {length(each) for each in tokens}
        assert min(map(length, tokens)) <= 8192 < max(map(length, tokens)) <= 8197
        for each in tokens:
            assert (client.get("/orders", headers=each).status_code == 200) == (length(each) <= 8192)
