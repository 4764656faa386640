"""Cursors open the list they were made for, and nothing else; and they tell nothing."""

from __future__ import annotations

import base64
import os
import string
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import ROOT, an_order

from app.core.cursor import decrypt, encrypt
from app.core.errors import InvalidCursor
from app.core.ids import new_id
from app.core.store import sort_key
from app.core.times import now

KEY = b"k" * 32
SCOPE = b"a list"
POSITIONS = st.text(st.characters(codec="utf-8"), max_size=80)


@given(POSITIONS, st.binary(max_size=40), st.binary(min_size=32, max_size=32))
def test_decrypts_what_was_encrypted(position: str, scope: bytes, key: bytes) -> None:
    assert decrypt(encrypt(position, scope, key), scope, key) == position


@given(POSITIONS, st.data())
def test_any_changed_character_is_rejected(position: str, data: st.DataObject) -> None:
    token = encrypt(position, SCOPE, KEY)
    at = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.characters(min_codepoint=33, max_codepoint=126).filter(lambda c: c != token[at]))
    with pytest.raises(InvalidCursor):
        decrypt(token[:at] + other + token[at + 1 :], SCOPE, KEY)


@given(POSITIONS)
def test_there_is_one_spelling_of_a_cursor(position: str) -> None:
    token = encrypt(position, SCOPE, KEY)
    raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    spare_bits = {token[:-1] + last for last in string.ascii_letters + string.digits + "-_"}
    others = {token + "=", token + "==", f" {token}", base64.b64encode(raw).decode(), *spare_bits} - {token}
    for other in others:
        with pytest.raises(InvalidCursor):
            decrypt(other, SCOPE, KEY)


@given(st.text(max_size=200))
def test_garbage_is_rejected(token: str) -> None:
    with pytest.raises(InvalidCursor):
        decrypt(token, SCOPE, KEY)


def test_says_nothing_of_the_position_not_even_by_its_length() -> None:
    orders = [an_order(), an_order(id=new_id(), created_at=now()), an_order(id=new_id())]
    tokens = [encrypt(sort_key(order), SCOPE, KEY) for order in orders]
    assert {len(token) for token in tokens} == {107}
    assert len(set(tokens)) == 3
    for order, token in zip(orders, tokens, strict=True):
        raw = base64.urlsafe_b64decode(token + "=")
        assert not [n for n in range(60) if sort_key(order)[n : n + 4].encode() in raw]
    # Two that begin alike (the same day, another id) have no beginning in common.
    assert not [n for n in range(8) if tokens[0][: n + 4] == tokens[2][: n + 4]]


def test_the_first_cursor_loads_the_library_and_nothing_before_it() -> None:
    program = """
import sys
from app.core import cursor
from app.orders import service
assert "cryptography" not in sys.modules
cursor.encrypt("sort_key", b"scope", b"k" * 32)
assert "cryptography" in sys.modules
"""
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "src")}
    subprocess.run([sys.executable, "-c", program], env=environ, check=True, timeout=60)


def test_another_key_rejects_it() -> None:
    with pytest.raises(InvalidCursor):
        decrypt(encrypt("sort_key", SCOPE, KEY), SCOPE, b"x" * 32)
