"""The settings. The only reader of the environment; both runtimes get the same ones.

`template.yaml` hands all of them over as one JSON in `APP_SETTINGS`:

    {"table_name": "orders-dev-OrdersTable-1A2B", "log_level": "DEBUG", ...}

A variable of its own, `APP_LOG_LEVEL=INFO`, wins over the JSON.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_type_hints

import msgspec
from msgspec import Meta

# Shorter is no secret but a placeholder: edge/template.yaml starts without a value before the present one.
_SECRET_MIN_CHARACTERS = 32


def _about(text: str) -> Meta:
    return Meta(description=text)


class Settings(msgspec.Struct, frozen=True):
    """Every setting `x` can be given as `APP_X`."""

    table_name: Annotated[str, _about("DynamoDB table of every resource")]
    bucket_name: Annotated[str, _about("S3 bucket of receipts and attachments")]
    event_bus_name: Annotated[str, _about("EventBridge bus that the relay publishes on")]
    kms_key_arn: Annotated[str, _about("Key that encrypts the data")]
    cursor_key_arn: Annotated[str, _about("HMAC key from which the key of list cursors is derived")]
    stage: Annotated[str, _about("Environment, in every log entry")] = "dev"
    runtime: Annotated[str, _about("What `GET /` returns; nothing else depends on it")] = "local"
    root_path: Annotated[str, _about("Path prefix under which a proxy publishes the API, as /api")] = ""
    service_name: Annotated[str, _about("The stack, in every log entry and metric")] = "orders"
    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR"], _about("Least severe message that is logged")
    ] = "INFO"
    debug_sample_percent: Annotated[
        float, Meta(ge=0, le=100, description="Share of traces that every service logs in full detail")
    ] = 0.0
    list_shards: Annotated[
        int,
        Meta(
            ge=1,
            le=64,
            description="Index partitions of a list, 1,000 writes a second each. May grow, never shrink",
        ),
    ] = 4
    cors_origins: Annotated[
        tuple[str, ...], _about("Origins whose pages may call the API, between commas")
    ] = ()
    auth_issuer: Annotated[str, _about("Issuer of the tokens. Empty: authentication is disabled")] = ""
    auth_audience: Annotated[str, _about("Audience that the tokens must name")] = ""
    attachment_max_bytes: Annotated[
        int, Meta(ge=1, le=1_000_000_000, description="Largest attachment in bytes")
    ] = 10_000_000
    origin_secrets: Annotated[
        tuple[str, ...],
        _about("JSON of CloudFront's present and previous secret. Empty: direct access is allowed"),
    ] = ()

    def __repr__(self) -> str:
        """Show the settings without the secrets."""
        shown = (
            f"{name}={getattr(self, name)!r}" for name in self.__struct_fields__ if name != "origin_secrets"
        )
        return f"Settings({', '.join(shown)})"

    @property
    def is_open(self) -> bool:
        """Whether authentication is disabled, because no issuer is configured."""
        return not self.auth_issuer

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Read the settings. Raises `ValueError` naming every one that is missing, unknown or not valid."""
        hints = get_type_hints(cls, include_extras=True)
        texts, problems = _declared(environ.get("APP_SETTINGS", ""))
        problems += [f"{name} in APP_SETTINGS is no setting" for name in texts.keys() - hints.keys()]
        texts |= {name: text for name in hints if (text := environ.get(f"APP_{name.upper()}", "").strip())}
        values: dict[str, Any] = {}
        for name, hint in hints.items():
            text = texts.get(name, "")
            if not text:
                if name in _REQUIRED:
                    problems.append(f"APP_{name.upper()} is not set")
                continue
            try:
                values[name] = (
                    _PARSERS[name](text) if name in _PARSERS else msgspec.convert(text, hint, strict=False)
                )
            except ValueError:
                shown = "(not shown)" if name == "origin_secrets" else repr(text)
                problems.append(f"APP_{name.upper()} is not valid: {shown}")
        if problems:
            raise ValueError("; ".join(problems))
        return cls(**values)


def _declared(text: str) -> tuple[dict[str, str], list[str]]:
    """Return the texts of the JSON, and what is wrong with it."""
    try:
        return msgspec.json.decode(text or "{}", type=dict[str, str]), []
    except msgspec.DecodeError as error:
        return {}, [f"APP_SETTINGS is not valid: {error}"]


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _secrets(text: str) -> tuple[str, ...]:
    """Read the secret of edge/template.yaml: {"current": "...", "previous": "..."}."""
    values = json.loads(text)
    if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
        raise ValueError
    found = tuple(value for value in values.values() if len(value) >= _SECRET_MIN_CHARACTERS)
    if not found:  # rather no start than an origin open to everyone
        raise ValueError
    return found


_REQUIRED = frozenset(Settings.__struct_fields__[: -len(Settings.__struct_defaults__)])
_PARSERS = {"cors_origins": _list, "origin_secrets": _secrets}
