"""Cursors: a place in one list, encrypted, so that it tells nothing and is of use in that list only.

A token is base64url of AES-SIV (RFC 5297) over the sort key to go on from, with the cursor's scope as
associated data: the list, the caller, whether the caller is an admin, and the filters. In any other scope it
does not decrypt. AES-SIV takes no nonce: the same sort key in the same list is the same token, and no two
tokens of a list tell more than whether they are the same. Every sort key has the same length, and so has
every token.
"""

from __future__ import annotations

import base64
import binascii
from functools import lru_cache
from typing import TYPE_CHECKING

from app.core.errors import InvalidCursor

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV


def encrypt(sort_key: str, scope: bytes, key: bytes) -> str:
    """Return the token for `sort_key` in the list of `scope`."""
    return _text(_cipher(key).encrypt(sort_key.encode(), [scope]))


def decrypt(token: str, scope: bytes, key: bytes) -> str:
    """Return the sort key in a token of `encrypt`. Raises `InvalidCursor` for any other token."""
    from cryptography.exceptions import InvalidTag

    try:
        encrypted = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        # base64 leaves spare bits at the end, and takes "+" for "-": only the spelling that we issued counts.
        if _text(encrypted) == token:
            return _cipher(key).decrypt(encrypted, [scope]).decode()
    except (binascii.Error, ValueError, InvalidTag):
        pass
    raise InvalidCursor


def _text(encrypted: bytes) -> str:
    return base64.urlsafe_b64encode(encrypted).rstrip(b"=").decode()


@lru_cache(maxsize=1)
def _cipher(key: bytes) -> AESSIV:
    # Imported here: most requests neither bring a cursor nor get one, and this is 16 ms of a cold start.
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV

    return AESSIV(key)
