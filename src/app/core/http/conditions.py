"""Entity tags, and the conditions that callers make of them (RFC 9110, sections 8.8.3 and 13.1)."""

from __future__ import annotations

import re

from starlette.exceptions import HTTPException

_TAG = r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'
# Elements of a list may be empty (section 5.6.1). Nothing here is ever tried twice, however long the header.
_is_list = re.compile(rf"[ \t,]*+(?:{_TAG}[ \t]*+(?:,[ \t,]*+|\Z))*+").fullmatch
_tags = re.compile(_TAG).findall


def tags_of(header: str) -> list[str] | None:
    """Return the entity tags that a header lists, or None when it is no such list."""
    return _tags(header) if _is_list(header) else None


def matches(if_match: str, tag: str) -> bool:
    """Whether `If-Match` names `tag`: the strong comparison, so a weak tag never does."""
    return if_match == "*" or tag in (tags_of(if_match) or ())


def matches_weakly(if_none_match: str, tag: str) -> bool | None:
    """Whether `If-None-Match` names `tag`, weak or not; None when it cannot be read."""
    if if_none_match in ("*", tag):
        return True
    tags = tags_of(if_none_match)
    return None if tags is None else tag in tags or f"W/{tag}" in tags


def allow_change(tag: str, if_match: str | None, if_none_match: str | None) -> bool:
    """Whether a resource in the state `tag` may be changed. A condition that cannot be read is not met."""
    return (if_match is None or matches(if_match, tag)) and (
        if_none_match is None or matches_weakly(if_none_match, tag) is False
    )


def allow_untagged(if_match: str | None, if_none_match: str | None) -> bool:
    """Whether a resource may be changed that exists and has no entity tag."""
    return if_match in (None, "*") and (
        if_none_match is None or (if_none_match != "*" and tags_of(if_none_match) is not None)
    )


def not_met() -> HTTPException:
    """Return the rejection where there is no entity tag to tell."""
    return HTTPException(412, "What this would change exists, and has no entity tag")
