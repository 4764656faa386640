"""Joins settings, adapters and application; nothing else does."""

from __future__ import annotations

from fastapi import FastAPI

from orders.adapters.dynamodb import DynamoOrderStore
from orders.adapters.kms import KmsCursorKey
from orders.adapters.lean_client import LeanClient
from orders.adapters.memory import MemoryDocumentStore
from orders.api.app import create_app
from orders.service import OrderService
from orders.settings import Settings


def build_app(settings: Settings | None = None) -> FastAPI:
    """Build the application from the environment. Raises `ValueError` when settings are missing."""
    settings = settings or Settings.from_env()
    store = DynamoOrderStore(
        LeanClient("dynamodb", "DynamoDB_20120810"), settings.table_name, settings.list_shards
    )
    cursor_key = KmsCursorKey(LeanClient("kms", "TrentService", json_version="1.1"), settings.cursor_key_arn)
    service = OrderService(store, MemoryDocumentStore(settings.attachment_max_bytes), cursor_key)
    return create_app(service, settings)
