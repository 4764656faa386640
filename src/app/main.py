"""Joins settings, adapters and application; nothing else does."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

from app.core.auth.caller import Authenticator
from app.core.aws.client import AwsClient, InstrumentedClient
from app.core.aws.credentials import CredentialsChain
from app.core.aws.endpoints import SET_IN_CODE, NeedsSdk, endpoint_of
from app.core.aws.json_client import AwsJsonClient
from app.core.aws.kms import KmsCursorKey
from app.core.dynamodb.repository import Table
from app.core.http.app import App
from app.core.settings import Settings
from app.core.telemetry import Telemetry
from app.core.wiring import Core
from app.resources import load

_log = logging.getLogger(__name__)


def build_app(settings: Settings | None = None) -> App:
    """Build the application, from the environment unless given settings.

    From the environment it is the process's one application, and the process's logging becomes ours.
    Raises `ValueError` when settings are missing, ours or AWS's, or cannot be followed.
    """
    if settings is None:
        settings = Settings.from_env()
        Telemetry(settings).install()
    for name in filter(os.environ.get, SET_IN_CODE):
        _log.warning("%s has no effect: attempts and time-outs are set in code", name)
    credentials = CredentialsChain()  # one for all, or each would ask its source
    dynamodb = InstrumentedClient(aws_client("dynamodb", "DynamoDB_20120810", "1.0", credentials))
    kms = InstrumentedClient(aws_client("kms", "TrentService", "1.1", credentials))
    table = Table(dynamodb, settings.table_name, settings.list_shards)
    core = Core(settings, table, KmsCursorKey(kms, settings.cursor_key_arn), credentials)
    services = {name: module.build(core) for name, module in load("service").items()}
    return create_app(services, settings, _authenticator(settings))


def create_app(
    services: Mapping[str, Any],
    settings: Settings,
    authenticator: Authenticator | None = None,
    **fastapi_options: Any,
) -> App:
    """Build the application over the use cases of its resources, by name. See `App` for the rest."""
    routers = [module.router for module in load("endpoints").values()]
    app = App(
        routers,
        settings,
        next(iter(services.values())).check_dependencies,  # all are in one table
        authenticator,
        title="Orders",
        description="Places orders and follows them to the customer.",
        **fastapi_options,
    )
    for name, service in services.items():
        setattr(app.state, name, service)
    return app


def aws_client(
    service: str, target_prefix: str, json_version: str, credentials: CredentialsChain
) -> AwsClient:
    """Return our own client, or where settings ask for what it does not do, the one over boto3."""
    try:
        endpoint = endpoint_of(service, dict(os.environ))  # which is quicker to ask
    except NeedsSdk as setting:
        from app.core.aws.boto3_client import Boto3Client

        _log.warning("%s goes through boto3, which costs more time and memory: %s", service, setting)
        return Boto3Client(service)
    return AwsJsonClient(
        service, target_prefix, json_version=json_version, endpoint=endpoint, credentials=credentials
    )


def _authenticator(settings: Settings) -> Authenticator | None:
    if settings.is_open:
        _log.warning("the API is open to anyone: APP_AUTH_ISSUER is not set")
        return None
    # Imported here, for an open API should not wait for cryptography to be imported.
    from app.core.auth.jwt import JwtAuthenticator

    return JwtAuthenticator(settings.auth_issuer, settings.auth_audience)
