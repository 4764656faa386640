"""Joins settings, adapters and application; nothing else does."""

from __future__ import annotations

import logging

from orders.adapters.aws import Observed
from orders.adapters.credentials import CredentialsChain
from orders.adapters.dynamodb import DynamoOrderStore
from orders.adapters.kms import KmsCursorKey
from orders.adapters.lean_client import LeanClient
from orders.adapters.s3 import S3DocumentStore
from orders.api.app import App, create_app
from orders.api.callers import Authenticator
from orders.service import OrderService
from orders.settings import Settings
from orders.telemetry import Telemetry

_log = logging.getLogger("orders")


def build_app(settings: Settings | None = None) -> App:
    """Build the application, from the environment unless given settings.

    From the environment it is the process's one application, and the process's logging becomes ours.
    Raises `ValueError` when settings are missing.
    """
    if settings is None:
        settings = Settings.from_env()
        Telemetry(settings).install()
    credentials = CredentialsChain()  # one for all, or each would ask its source
    dynamodb = Observed(LeanClient("dynamodb", "DynamoDB_20120810", credentials=credentials))
    kms = Observed(LeanClient("kms", "TrentService", json_version="1.1", credentials=credentials))
    store = DynamoOrderStore(dynamodb, settings.table_name, settings.list_shards)
    cursor_key = KmsCursorKey(kms, settings.cursor_key_arn)
    documents = S3DocumentStore(
        settings.bucket_name, settings.kms_key_arn, settings.attachment_max_bytes, credentials
    )
    service = OrderService(store, documents, cursor_key)
    return create_app(service, settings, _authenticator(settings))


def _authenticator(settings: Settings) -> Authenticator | None:
    if settings.is_open:
        _log.warning("the API is open to anyone: ORDERS_AUTH_ISSUER is not set")
        return None
    # Imported here, for an open API should not wait for cryptography to be imported.
    from orders.adapters.jwt import JwtAuthenticator

    return JwtAuthenticator(settings.auth_issuer, settings.auth_audience)
