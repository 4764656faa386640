"""Conditional requests (RFC 9110, section 13), through each runtime, and the reading of entity tags."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from tests.builders import AN_ORDER, an_order

from app.core.auth.caller import ANONYMOUS
from app.core.errors import VersionConflict
from app.core.http import conditions
from app.core.memory import FixedCursorKey
from app.core.store import UpdateResult
from app.orders import endpoints
from app.orders.memory import MemoryDocumentStore, MemoryOrderRepository
from app.orders.models import Order, OrderStatus, StatusUpdate
from app.orders.service import OrderService

UNKNOWN = "/orders/0199a6f5-1c00-7000-8000-000000000001"
# The order is at version 2: what names it, what does not, and what is no list of entity tags.
NAMES = ['"2"', '"1", "2"', '"1","2"', '"x"\t,\t"2"', ', ,"2",', '"a,b", "2"', '"2", "2"', 'W/"1", "2"']
ONLY_WEAKLY = ['W/"2"', '"1", W/"2"', 'W/"a,*,b",W/"2"']
OTHERS = [
    '"1"',
    '"1,2"',
    '"a,*,b"',
    '"*"',
    '"02"',
    'W/"*"',
    '"' + "9" * 40 + '"',
    '"\xfc"',
    "",
    ",",
    '"W/"',
    '""',
]
UNREADABLE = [
    "2",
    "W/2",
    'w/"2"',
    '"2',
    '2"',
    '"2" "2"',
    '"2""2"',
    '"a b"',
    '*, "2"',
    "**",
    '"2", 2',
    "\xfc",
    "'2'",
]


@pytest.fixture
def path(client: httpx.Client) -> str:
    """An order at version 2."""
    path: str = client.post("/orders", json=AN_ORDER).headers["location"]
    assert client.put(f"{path}/status", json={"status": "processing"}).headers["etag"] == '"2"'
    return path


def condition(name: str, value: str) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode("latin-1"))]


def ship(client: httpx.Client, path: str, headers: Any) -> httpx.Response:
    return client.put(f"{path}/status", json={"status": "shipped"}, headers=headers)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
class TestRead:
    @pytest.mark.parametrize(
        ("values", "status"), [([*NAMES, "*"], 200), ([*ONLY_WEAKLY, *OTHERS, *UNREADABLE], 412)]
    )
    def test_if_match(
        self, client: httpx.Client, path: str, method: str, values: list[str], status: int
    ) -> None:
        for value in values:
            response = client.request(method, path, headers=condition("if-match", value))
            assert (response.status_code, response.headers["etag"]) == (status, '"2"'), value

    @pytest.mark.parametrize(
        ("values", "status"), [([*NAMES, *ONLY_WEAKLY, "*"], 304), ([*OTHERS, *UNREADABLE], 200)]
    )
    def test_if_none_match(
        self, client: httpx.Client, path: str, method: str, values: list[str], status: int
    ) -> None:
        for value in values:
            response = client.request(method, path, headers=condition("if-none-match", value))
            assert (response.status_code, response.headers["etag"]) == (status, '"2"'), value
            if status == 304:
                assert response.content == b""
                assert "content-type" not in response.headers

    def test_if_match_comes_first(self, client: httpx.Client, path: str, method: str) -> None:
        """RFC 9110, section 13.2.2."""
        both = {"if-match": '"1"', "if-none-match": '"2"'}
        assert client.request(method, path, headers=both).status_code == 412
        assert client.request(method, path, headers=both | {"if-match": '"2"'}).status_code == 304

    def test_times_are_no_conditions_as_nothing_has_a_last_modified(
        self, client: httpx.Client, path: str, method: str
    ) -> None:
        for name in ("if-modified-since", "if-unmodified-since", "if-range"):
            header = {name: "Sat, 01 Jan 2000 00:00:00 GMT"}
            assert client.request(method, path, headers=header).status_code == 200

    def test_what_is_not_there_or_elsewhere_has_no_conditions(
        self, client: httpx.Client, path: str, method: str, documents: MemoryDocumentStore
    ) -> None:
        """RFC 9110, section 13.2.1."""
        documents.receipts[path.rsplit("/", 1)[1]] = b"<!DOCTYPE html>"
        for header in ({"if-match": '"9"'}, {"if-none-match": "*"}, {"if-match": "*"}):
            assert client.request(method, UNKNOWN, headers=header).status_code == 404
            assert client.request(method, f"{path}/receipt", headers=header).status_code == 303


class TestChange:
    @pytest.mark.parametrize("value", [*NAMES, "*"])
    def test_if_match_that_names_it(self, client: httpx.Client, path: str, value: str) -> None:
        assert ship(client, path, condition("if-match", value)).headers["etag"] == '"3"'

    def test_if_match_that_does_not(self, client: httpx.Client, path: str) -> None:
        for value in [*ONLY_WEAKLY, *OTHERS, *UNREADABLE]:
            response = ship(client, path, condition("if-match", value))
            assert (response.status_code, response.headers["etag"]) == (412, '"2"'), value
            assert response.json()["current"] == client.get(path).json()

    @pytest.mark.parametrize("value", OTHERS)
    def test_if_none_match_that_does_not_name_it(self, client: httpx.Client, path: str, value: str) -> None:
        assert ship(client, path, condition("if-none-match", value)).headers["etag"] == '"3"'

    def test_if_none_match_that_does_or_cannot_be_read(self, client: httpx.Client, path: str) -> None:
        for value in [*NAMES, *ONLY_WEAKLY, *UNREADABLE, "*"]:
            response = ship(client, path, condition("if-none-match", value))
            assert (response.status_code, response.headers["etag"]) == (412, '"2"'), value

    def test_both_have_to_be_met(self, client: httpx.Client, path: str) -> None:
        for match, none_match, status in (('"1"', '"1"', 412), ('"2"', '"2"', 412), ('"2"', '"1"', 200)):
            both = {"if-match": match, "if-none-match": none_match}
            assert ship(client, path, both).status_code == status

    def test_a_condition_comes_before_the_order_s_own_rules(self, client: httpx.Client, path: str) -> None:
        headers = {"if-none-match": '"2"'}
        response = client.put(f"{path}/status", json={"status": "pending"}, headers=headers)
        assert response.status_code == 412
        assert client.put(f"{path}/status", json={"status": "x"}, headers=headers).status_code == 422

    def test_what_is_not_there_has_no_conditions(self, client: httpx.Client) -> None:
        for header in ({"if-match": '"1", "2"'}, {"if-none-match": "*"}, {"if-none-match": '"1"'}):
            assert ship(client, UNKNOWN, header).status_code == 404


class TestWithoutTags:
    """The lists exist and have no entity tag: `*` names them, and nothing else does."""

    @pytest.mark.parametrize(
        ("name", "value", "allowed"),
        [
            ("if-match", "*", True),
            ("if-match", '"1"', False),
            ("if-match", "x", False),
            ("if-match", "", False),
            ("if-none-match", '"1"', True),
            ("if-none-match", "", True),
            ("if-none-match", "*", False),
            ("if-none-match", "x", False),
        ],
    )
    def test_post(self, client: httpx.Client, path: str, name: str, value: str, allowed: bool) -> None:
        before = client.get("/orders").json()
        placed = client.post("/orders", json=AN_ORDER, headers=condition(name, value))
        assert placed.status_code == (201 if allowed else 412)
        assert (client.get("/orders").json() == before) is not allowed
        body = {"name": "invoice.pdf", "content_type": "application/pdf"}
        offered = client.post(f"{path}/attachments", json=body, headers=condition(name, value))
        assert offered.status_code == (200 if allowed else 412)


class Racing(MemoryOrderRepository):
    """Another request is faster, several times."""

    def __init__(self, races: int) -> None:
        super().__init__()
        self._races = races

    async def update(self, order_id: str, changes: Mapping[str, Any], **more: Any) -> UpdateResult[Order]:
        if self._races:
            self._races -= 1
            order, fingerprint = self._stored[order_id]
            self._stored[order_id] = (structs.replace(order, version=order.version + 1), fingerprint)
        return await super().update(order_id, changes, **more)


class TestRaces:
    """What is compared is what the store has when it writes."""

    def change(self, races: int, if_match: str | None, if_none_match: str | None) -> int:
        store = Racing(races)
        service = OrderService(store, MemoryDocumentStore(), FixedCursorKey())

        async def run() -> int:
            await store.create(an_order(), "fingerprint")
            body = StatusUpdate(status=OrderStatus.SHIPPED)
            await endpoints.change_status(service, ANONYMOUS, an_order().id, body, if_match, if_none_match)
            changed = await store.get(an_order().id)
            assert changed is not None
            assert changed.status == "shipped"
            return changed.version

        return asyncio.run(run())

    @pytest.mark.parametrize("if_match", ['"1"', '"1", "x"', '"1", "3"'])
    def test_a_state_that_is_not_named_is_not_changed(self, if_match: str) -> None:
        with pytest.raises(VersionConflict):
            self.change(1, if_match, None)

    @pytest.mark.parametrize(("if_match", "if_none_match"), [('"1", "2"', None), (None, '"7"'), ("*", '"7"')])
    def test_another_state_that_is_allowed_too_is_changed(
        self, if_match: str | None, if_none_match: str | None
    ) -> None:
        assert self.change(1, if_match, if_none_match) == 3

    def test_a_state_that_is_excluded_is_not_changed(self) -> None:
        with pytest.raises(VersionConflict):
            self.change(1, None, '"2"')

    def test_it_is_not_tried_for_ever(self) -> None:
        with pytest.raises(VersionConflict):
            self.change(50, None, '"999"')


def reference(header: str) -> list[str] | None:
    """Read a list of entity tags one character after the other (RFC 9110, sections 5.6.1 and 8.8.3)."""
    tags: list[str] = []
    element, in_quotes, elements = "", False, []
    for character in header:
        if character == '"':
            in_quotes = not in_quotes
        if character == "," and not in_quotes:
            elements.append(element)
            element = ""
        else:
            element += character
    for member in [*elements, element]:
        text = member.strip(" \t")
        if not text:
            continue
        opaque = text.removeprefix("W/")
        inner = opaque[1:-1]
        if len(opaque) < 2 or opaque[0] != '"' or opaque[-1] != '"':
            return None
        if not all(char == "!" or "#" <= char <= "~" or "\x80" <= char <= "\xff" for char in inner):
            return None
        tags.append(text)
    return tags


@given(
    st.one_of(
        st.text(st.sampled_from('",W/ \t*1a\xfc\x7f'), max_size=12),
        st.lists(st.sampled_from(['"1"', 'W/"2"', '"a,b"', "*", "", " ", '"', "x"]), max_size=5).map(
            ",".join
        ),
    )
)
def test_tags_are_read_as_the_grammar_says(header: str) -> None:
    assert conditions.tags_of(header) == reference(header)


@pytest.mark.parametrize("part", ['"', '"1"', '"1",', " ", ", ", 'W/"', '"1" ', '"1", '])
def test_a_long_header_takes_no_longer_than_its_length(part: str) -> None:
    def seconds(length: int) -> float:
        header = part * (length // len(part)) + "x"
        begun = time.process_time()
        for _ in range(20):
            assert conditions.tags_of(header) is None
        return time.process_time() - begun

    assert seconds(10_000) < 1  # quadratic, it would be minutes
