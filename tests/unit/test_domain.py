"""Orders, their states and ids."""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support import an_order

from app.orders.models import (
    TRANSITIONS,
    Caller,
    OrderStatus,
    is_order_id,
    new_order_id,
    order_id_for,
    sources_of,
    timestamp,
)

LEGAL = {
    ("pending", "processing"),
    ("pending", "shipped"),
    ("pending", "cancelled"),
    ("processing", "shipped"),
    ("processing", "cancelled"),
    ("shipped", "delivered"),
}


class TestTransitions:
    @pytest.mark.parametrize("source", OrderStatus)
    @pytest.mark.parametrize("target", OrderStatus)
    def test_exactly_the_legal_ones_exist(self, source: OrderStatus, target: OrderStatus) -> None:
        assert (target in TRANSITIONS[source]) == ((source, target) in LEGAL)
        assert (source in sources_of(target)) == ((source, target) in LEGAL)


class TestOrderIds:
    def test_fresh_ids_are_uuids_of_version_7_that_carry_the_time(self) -> None:
        before = time.time_ns() // 1_000_000
        made = uuid.UUID(new_order_id())
        assert made.version == 7
        assert made.variant == uuid.RFC_4122
        assert before <= made.int >> 80 <= time.time_ns() // 1_000_000

    def test_fresh_ids_differ(self) -> None:
        assert len({new_order_id() for _ in range(10_000)}) == 10_000

    @given(st.text(max_size=40), st.text(min_size=1, max_size=40))
    def test_derived_ids_are_stable_uuids_of_version_8(self, subject: str, key: str) -> None:
        subject, key = (text.encode("utf-8", "replace").decode() for text in (subject, key))
        made = order_id_for(Caller(subject), key)
        assert made == order_id_for(Caller(subject), key)
        assert is_order_id(made)
        assert uuid.UUID(made).version == 8
        assert uuid.UUID(made).variant == uuid.RFC_4122

    def test_another_caller_or_key_gives_another_id(self) -> None:
        ids = {order_id_for(Caller(s), k) for s in ("", "a", "ab", "b") for k in ("a", "b", "bc", "c")}
        assert len(ids) == 16

    @pytest.mark.parametrize("text", ["", "x", "0199A6F5-1C00-7000-8000-000000000001", "a" * 36, "../x"])
    def test_other_spellings_are_no_ids(self, text: str) -> None:
        assert not is_order_id(text)


class TestPositions:
    @given(st.lists(st.datetimes(min_value=datetime(2000, 1, 1), max_value=datetime(2999, 1, 1)), min_size=2))
    def test_text_order_is_time_order(self, moments: list[datetime]) -> None:
        aware = [moment.replace(tzinfo=UTC) for moment in moments]
        assert sorted(aware) == sorted(aware, key=timestamp)

    def test_newer_orders_come_later(self) -> None:
        older = an_order()
        newer = an_order(created_at=older.created_at + timedelta(microseconds=1))
        assert older.position < newer.position


class TestCallers:
    def test_sees_own_orders_only(self) -> None:
        alice = Caller("alice", frozenset({"orders:read"}))
        assert alice.may_see(an_order(owner="alice"))
        assert not alice.may_see(an_order(owner="bob"))
        assert not alice.may_see(an_order(owner=None))

    def test_admin_sees_all(self) -> None:
        assert Caller("root", frozenset({"orders:admin"})).may_see(an_order(owner="bob"))
