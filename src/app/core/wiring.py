"""What the application makes once, and every resource's `service.build` is given."""

from __future__ import annotations

import msgspec

from app.core.aws.credentials import CredentialsChain
from app.core.dynamodb.repository import Table
from app.core.service import CursorKey
from app.core.settings import Settings


class Core(msgspec.Struct, frozen=True):
    """The shared parts."""

    settings: Settings
    table: Table
    cursor_key: CursorKey
    credentials: CredentialsChain
