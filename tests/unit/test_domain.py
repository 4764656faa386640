"""Orders, their states and ids."""

from __future__ import annotations

import os
import time
import uuid
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.auth.caller import ANONYMOUS, Caller
from app.core.errors import NotPermitted
from app.core.ids import id_for, is_id, new_id
from app.core.times import timestamp
from app.orders.models import TRANSITIONS, OrderStatus, allowed_from

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
        assert (source in allowed_from(target)) == ((source, target) in LEGAL)


class TestOrderIds:
    def test_fresh_ids_are_uuids_of_version_7(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # RFC 9562's own example: https://www.rfc-editor.org/rfc/rfc9562#appendix-A.6
        monkeypatch.setattr(time, "time_ns", lambda: 0x017F22E279B0 * 1_000_000)
        random = 0xCC3 << 68 | 0x18C4DC0C0C07398F
        monkeypatch.setattr(os, "urandom", lambda size: random.to_bytes(size))
        assert new_id() == "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"
        monkeypatch.setattr(time, "time_ns", lambda: 0xFFFFFFFFFFFF * 1_000_000)
        monkeypatch.setattr(os, "urandom", lambda size: b"\xff" * size)
        assert new_id() == "ffffffff-ffff-7fff-bfff-ffffffffffff"

    def test_fresh_ids_differ(self) -> None:
        assert len({new_id() for _ in range(10_000)}) == 10_000

    @given(st.text(max_size=40), st.text(min_size=1, max_size=40))
    def test_derived_ids_are_stable_uuids_of_version_8(self, subject: str, key: str) -> None:
        subject, key = (text.encode("utf-8", "replace").decode() for text in (subject, key))
        made = id_for(subject, key)
        assert made == id_for(subject, key)
        assert is_id(made)
        assert uuid.UUID(made).version == 8
        assert uuid.UUID(made).variant == uuid.RFC_4122

    def test_another_caller_or_key_gives_another_id(self) -> None:
        ids = {id_for(s, k) for s in ("", "a", "ab", "b") for k in ("a", "b", "bc", "c")}
        assert len(ids) == 16

    @pytest.mark.parametrize("text", ["", "x", "0199A6F5-1C00-7000-8000-000000000001", "a" * 36, "../x"])
    def test_other_spellings_are_no_ids(self, text: str) -> None:
        assert not is_id(text)


class TestPositions:
    @given(st.lists(st.datetimes(min_value=datetime(2000, 1, 1), max_value=datetime(2999, 1, 1)), min_size=2))
    def test_text_order_is_time_order(self, moments: list[datetime]) -> None:
        aware = [moment.replace(tzinfo=UTC) for moment in moments]
        assert sorted(aware) == sorted(aware, key=timestamp)


class TestCallers:
    def test_a_scope_is_for_one_resource_and_verb(self) -> None:
        alice = Caller("alice", frozenset({"orders:read"}))
        alice.require_scope("orders:read")
        for other in ("orders:write", "products:read", "orders:admin"):
            with pytest.raises(NotPermitted):
                alice.require_scope(other)

    def test_an_admin_has_every_scope_of_the_resource(self) -> None:
        root = Caller("root", frozenset({"orders:admin"}))
        root.require_scope("orders:write")
        assert root.is_admin("orders")
        assert not root.is_admin("products")
        with pytest.raises(NotPermitted):
            root.require_scope("products:read")

    def test_without_authentication_everyone_may_do_everything(self) -> None:
        ANONYMOUS.require_scope("orders:write")
        assert ANONYMOUS.is_admin("orders")
