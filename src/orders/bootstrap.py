"""Joins settings, adapters and application; nothing else does."""

from __future__ import annotations

from fastapi import FastAPI

from orders.adapters.boto3_client import Boto3Client
from orders.adapters.dynamodb import DynamoOrderStore
from orders.adapters.kms import KmsCursorKey
from orders.adapters.memory import MemoryDocumentStore
from orders.api.app import create_app
from orders.service import OrderService
from orders.settings import Settings


def build_app(settings: Settings | None = None) -> FastAPI:
    """Build the application from the environment. Raises `ValueError` when settings are missing."""
    settings = settings or Settings.from_env()
    store = DynamoOrderStore(Boto3Client("dynamodb"), settings.table_name, settings.list_shards)
    cursor_key = KmsCursorKey(Boto3Client("kms"), settings.cursor_key_arn)
    service = OrderService(store, MemoryDocumentStore(settings.attachment_max_bytes), cursor_key)
    return create_app(service, settings)
