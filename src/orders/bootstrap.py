"""Joins settings, adapters and application; nothing else does."""

from __future__ import annotations

import logging

from fastapi import FastAPI

from orders.adapters.dynamodb import DynamoOrderStore
from orders.adapters.kms import KmsCursorKey
from orders.adapters.lean_client import LeanClient
from orders.adapters.s3 import S3DocumentStore
from orders.api.app import create_app
from orders.api.auth import Authenticator
from orders.service import OrderService
from orders.settings import Settings

_log = logging.getLogger("orders")


def build_app(settings: Settings | None = None) -> FastAPI:
    """Build the application from the environment. Raises `ValueError` when settings are missing."""
    settings = settings or Settings.from_env()
    store = DynamoOrderStore(
        LeanClient("dynamodb", "DynamoDB_20120810"), settings.table_name, settings.list_shards
    )
    cursor_key = KmsCursorKey(LeanClient("kms", "TrentService", json_version="1.1"), settings.cursor_key_arn)
    documents = S3DocumentStore(settings.bucket_name, settings.kms_key_arn, settings.attachment_max_bytes)
    service = OrderService(store, documents, cursor_key)
    return create_app(service, settings, _authenticator(settings))


def _authenticator(settings: Settings) -> Authenticator | None:
    if settings.is_open:
        _log.warning("the API is open to anyone: ORDERS_AUTH_ISSUER is not set")
        return None
    # Imported here, for an open API should not wait for cryptography to be imported.
    from orders.adapters.jwt import JwtAuthenticator

    return JwtAuthenticator(settings.auth_issuer, settings.auth_audience)
