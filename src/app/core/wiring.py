"""What the application makes once, and every resource's `service.build` is given."""

from __future__ import annotations

from dataclasses import dataclass

from app.core.aws.credentials import CredentialsChain
from app.core.dynamodb.repository import Table
from app.core.service import CursorKey
from app.core.settings import Settings


@dataclass(frozen=True, slots=True)
class Core:
    """The shared parts."""

    settings: Settings
    table: Table
    cursor_key: CursorKey
    credentials: CredentialsChain
