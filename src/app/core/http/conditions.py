"""Entity tags and conditional requests (RFC 9110, sections 8.8.3 and 13.1)."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from starlette.exceptions import HTTPException
from starlette.responses import Response

from app.core.errors import VersionConflict
from app.core.http.responses import entity_response, etag
from app.core.models import E, Entity

_TAG = r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'
# Elements of a list may be empty (section 5.6.1). Possessive quantifiers: linear time for any header.
_is_list = re.compile(rf"[ \t,]*+(?:{_TAG}[ \t]*+(?:,[ \t,]*+|\Z))*+").fullmatch
_tags = re.compile(_TAG).findall

# The strong comparison: no weak tags. DynamoDB rejects numbers of more than 38 digits.
_is_tag = re.compile('"([1-9][0-9]{0,17})"', re.ASCII).fullmatch
# How often another request may change the entity between our read and our write, before we return 412.
_MAX_TRIES = 3


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


def require_untagged(if_match: str | None, if_none_match: str | None) -> None:
    """Reject, with 412, conditions that a resource without an entity tag does not meet, such as a list."""
    if if_match not in (None, "*") or (
        if_none_match is not None and (if_none_match == "*" or tags_of(if_none_match) is None)
    ):
        raise HTTPException(412, "Condition not met: the resource exists and has no entity tag")


def get_response(entity: Entity, if_match: str | None, if_none_match: str | None) -> Response:
    """Send an entity: 412 unless `if_match` names its present state, 304 when `if_none_match` does."""
    if if_match is not None and not matches(if_match, etag(entity)):
        raise VersionConflict(entity)
    if if_none_match is not None and matches_weakly(if_none_match, etag(entity)):
        return Response(status_code=304, headers={"etag": etag(entity), "cache-control": "private, no-cache"})
    return entity_response(entity)


async def update_if_met(
    get: Callable[[], Awaitable[E]],
    update: Callable[[int | None], Awaitable[E]],
    if_match: str | None,
    if_none_match: str | None,
) -> Response:
    """Change an entity, if its present state meets the conditions.

    `update` takes the version that it has to have.
    """
    if if_none_match is None:
        if if_match in (None, "*"):
            return entity_response(await update(None))
        if found := _is_tag(if_match or ""):
            return entity_response(await update(int(found[1])))
    entity = await get()
    for _ in range(_MAX_TRIES):
        if not allow_change(etag(entity), if_match, if_none_match):
            break
        try:
            return entity_response(await update(entity.version))
        except VersionConflict as moved:  # another request was faster; its state may meet the conditions too
            entity = moved.current
    raise VersionConflict(entity)
