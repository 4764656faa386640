"""Parameters that the endpoints of several resources take."""

from __future__ import annotations

from typing import Annotated

from app.core.http.routing import Header, Query

Limit = Annotated[int, Query(ge=1, le=100)]
Cursor = Annotated[str | None, Query(max_length=512, description="`next_cursor` of the previous page")]
IdempotencyKey = Annotated[str | None, Header(min_length=1, max_length=255)]
# Lists of entity tags, or `*`.
IfMatch = Annotated[str | None, Header()]
IfNoneMatch = Annotated[str | None, Header()]
