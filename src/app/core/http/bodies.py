"""Request bodies: JSON (RFC 8259) in UTF-8, without a content coding. Does not import FastAPI."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException

_JSON = frozenset(
    {b"application/json", b"application/json; charset=utf-8", b"application/json;charset=utf-8"}
)
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_PARAMETER = rb'[ \t]*+;[ \t]*+(?:(%b)=(%b|"(?:[^"\\]|\\.)*+"))?' % (_TOKEN, _TOKEN)
_is_json = re.compile(rb"application/json((?:%b)*+)" % _PARAMETER, re.IGNORECASE).fullmatch
_parameters = re.compile(_PARAMETER).findall


def require_json(headers: Mapping[bytes, bytes], body: bytes = b"") -> None:
    """Reject, with 415, a body that its headers do not declare as plain JSON.

    https://www.rfc-editor.org/rfc/rfc9110.html#section-15.5.16
    """
    if headers.get(b"content-encoding", b"").lower() not in (b"", b"identity"):
        detail = "The body must not have a content coding"
        raise HTTPException(415, detail, {"accept-encoding": "identity"})
    kind = headers.get(b"content-type")
    if kind in _JSON or (not kind and not body):
        return
    if not kind or not _is_json_type(kind):
        raise HTTPException(415, "The body must be application/json in UTF-8", {"accept": "application/json"})


def _is_json_type(kind: bytes) -> bool:
    found = _is_json(kind)
    return found is not None and all(
        value.strip(b'"').lower() == b"utf-8"
        for name, value in _parameters(found[1])
        if name.lower() == b"charset"
    )


def load(body: bytes) -> Any:
    """Parse JSON; reject duplicate names, `NaN` and `Infinity`.

    Raises `json.JSONDecodeError`.
    """
    try:
        text = body.decode("utf-8-sig")
        try:
            return _decode(text)
        except json.JSONDecodeError:
            raise
        except ValueError:  # a number has more digits than Python converts, so it is too large for any field
            return _decode_large(text)
    except UnicodeDecodeError as error:
        raise json.JSONDecodeError("The text is not UTF-8", "", error.start) from error
    except RecursionError as error:
        raise json.JSONDecodeError("The nesting is too deep", "", 0) from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise json.JSONDecodeError("Duplicate name in an object", "", 0)
    return found


def _no_number(name: str) -> float:
    raise json.JSONDecodeError(f"{name} is not a JSON number", "", 0)


_decode = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_number).decode
_decode_large = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_number, parse_int=float).decode
