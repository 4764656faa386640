"""The configuration. The only reader of the environment; both runtimes get the same variables."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields


@dataclass(frozen=True)
class Settings:
    """Every field `x` is read from `APP_X`. `tests/template` compares them with both templates."""

    table_name: str
    bucket_name: str
    event_bus_name: str
    kms_key_arn: str
    cursor_key_arn: str
    stage: str = "dev"
    runtime: str = "local"  # `GET /` returns it; nothing else depends on it
    root_path: str = ""  # the path prefix of the API, e.g. /api
    service_name: str = "orders"  # the stack, in every log entry and metric
    log_level: str = "INFO"
    debug_sample_percent: float = 0.0  # share of traces of which every service logs at DEBUG
    list_shards: int = 4  # may grow, never shrink: reads cover this many
    cors_origins: tuple[str, ...] = ()
    auth_issuer: str = ""  # empty: authentication disabled
    auth_audience: str = ""
    attachment_max_bytes: int = 10_000_000
    # The secrets that CloudFront sends, the present and the previous one; empty: direct access is allowed.
    origin_secrets: tuple[str, ...] = field(default=(), repr=False)

    @property
    def is_open(self) -> bool:
        """Whether authentication is disabled, because no issuer is configured."""
        return not self.auth_issuer

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Read the settings. Raises `ValueError` naming every variable that is missing or malformed."""
        values: dict[str, object] = {}
        problems: list[str] = []
        for setting in fields(cls):
            name = f"APP_{setting.name.upper()}"
            text = environ.get(name, "").strip()
            if not text:
                if setting.name in _REQUIRED:
                    problems.append(f"{name} is not set")
                continue
            try:
                values[setting.name] = _PARSERS.get(setting.name, str)(text)
            except ValueError:
                shown = repr(text) if setting.repr else "(not shown)"
                problems.append(f"{name} is not valid: {shown}")
        if problems:
            raise ValueError("; ".join(problems))
        return cls(**values)  # type: ignore[arg-type]  # each value went through its field's parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def _percent(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 100:
        raise ValueError(text)
    return value


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


# Shorter is no secret but a placeholder: edge/template.yaml starts without a value before the present one.
_SECRET_MIN_CHARACTERS = 32


def _secrets(text: str) -> tuple[str, ...]:
    """Read the secret of edge/template.yaml: {"current": "...", "previous": "..."}."""
    values = json.loads(text)
    if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
        raise ValueError
    found = tuple(value for value in values.values() if len(value) >= _SECRET_MIN_CHARACTERS)
    if not found:  # rather no start than an origin open to everyone
        raise ValueError
    return found


_REQUIRED = frozenset({"table_name", "bucket_name", "event_bus_name", "kms_key_arn", "cursor_key_arn"})
_PARSERS = {
    "list_shards": _positive,
    "attachment_max_bytes": _positive,
    "cors_origins": _list,
    "debug_sample_percent": _percent,
    "origin_secrets": _secrets,
}
