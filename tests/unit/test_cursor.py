"""Cursors open the list they were made for, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orders.cursor import list_name, seal, unseal
from orders.domain import ANYONE, Caller, OrderStatus
from orders.errors import InvalidCursor

KEY = b"k" * 32
NAME = list_name(ANYONE, customer=None, status=None)
POSITIONS = st.text(st.characters(codec="utf-8"), max_size=80)


@given(POSITIONS, st.binary(max_size=40), st.binary(min_size=32, max_size=32))
def test_opens_what_was_sealed(position: str, name: bytes, key: bytes) -> None:
    assert unseal(seal(position, name, key), name, key) == position


@given(POSITIONS, st.data())
def test_any_changed_character_is_refused(position: str, data: st.DataObject) -> None:
    token = seal(position, NAME, KEY)
    at = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.characters(min_codepoint=33, max_codepoint=126).filter(lambda c: c != token[at]))
    with pytest.raises(InvalidCursor):
        unseal(token[:at] + other + token[at + 1 :], NAME, KEY)


@given(st.text(max_size=200))
def test_garbage_is_refused(token: str) -> None:
    with pytest.raises(InvalidCursor):
        unseal(token, NAME, KEY)


@pytest.mark.parametrize(
    "other",
    [
        list_name(Caller("alice"), customer=None, status=None),
        list_name(ANYONE, customer="alice", status=None),
        list_name(ANYONE, customer=None, status=OrderStatus.PENDING),
    ],
)
def test_another_list_refuses_it(other: bytes) -> None:
    with pytest.raises(InvalidCursor):
        unseal(seal("position", NAME, KEY), other, KEY)


def test_another_key_refuses_it() -> None:
    with pytest.raises(InvalidCursor):
        unseal(seal("position", NAME, KEY), NAME, b"x" * 32)


def test_callers_who_see_all_share_a_list() -> None:
    admin = Caller("root", frozenset({"orders:admin"}))
    assert list_name(admin, customer=None, status=None) == NAME
