"""Cursors: a place in one list, sealed so that it can neither be forged nor used in another list.

A token is base64url(mac || position), where mac is the first 16 bytes of HMAC-SHA256 (RFC 2104) over
the list's name and the position. The list's name holds the caller and the filters, so a cursor of
another caller or with other filters does not verify.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json

from orders.domain import Caller, OrderStatus
from orders.errors import InvalidCursor

_MAC_BYTES = 16


def list_name(caller: Caller, *, customer: str | None, status: OrderStatus | None) -> bytes:
    """Name the list that a query reads: whose, and with which filters."""
    scope = None if caller.sees_all else caller.subject
    return json.dumps([scope, customer, status]).encode()


def seal(position: str, name: bytes, key: bytes) -> str:
    """Return the token for `position` in the list called `name`."""
    payload = position.encode()
    return base64.urlsafe_b64encode(_mac(payload, name, key) + payload).rstrip(b"=").decode()


def unseal(token: str, name: bytes, key: bytes) -> str:
    """Return the position that `seal` put in. Raises `InvalidCursor` for any other token."""
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        mac, payload = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
        if hmac.compare_digest(mac, _mac(payload, name, key)):
            position = payload.decode()
            # base64 leaves spare bits at the end: only the spelling that we issued counts
            if seal(position, name, key) == token:
                return position
    except (binascii.Error, ValueError):
        pass
    raise InvalidCursor


def _mac(payload: bytes, name: bytes, key: bytes) -> bytes:
    message = len(name).to_bytes(4) + name + payload
    return hmac.digest(key, message, hashlib.sha256)[:_MAC_BYTES]
