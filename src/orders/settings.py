"""The configuration. The only reader of the environment; both runtimes get the same variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Settings:
    """Every field `x` is read from `ORDERS_X`. `tests/template` compares them with both templates."""

    table_name: str
    bucket_name: str
    event_bus_name: str
    kms_key_arn: str
    cursor_key_arn: str
    stage: str = "dev"
    runtime: str = "local"  # what `GET /` says; nothing else depends on it
    root_path: str = ""  # the path prefix that the API answers under, e.g. /api
    service_name: str = "orders"  # the stack, in every log line and metric
    log_level: str = "INFO"
    debug_sample_percent: float = 0.0  # share of traces of which every hop logs at DEBUG
    list_shards: int = 4  # may grow, never shrink: reads cover this many
    cors_origins: tuple[str, ...] = ()
    auth_issuer: str = ""  # empty: open to anyone
    auth_audience: str = ""
    attachment_max_bytes: int = 10_000_000

    @property
    def is_open(self) -> bool:
        """Whether anyone may call, because no issuer is configured."""
        return not self.auth_issuer

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Read the settings. Raises `ValueError` naming every variable that is missing or malformed."""
        values: dict[str, object] = {}
        problems: list[str] = []
        for field in fields(cls):
            name = f"ORDERS_{field.name.upper()}"
            text = environ.get(name, "").strip()
            if not text:
                if field.name in _REQUIRED:
                    problems.append(f"{name} is not set")
                continue
            try:
                values[field.name] = _PARSERS.get(field.name, str)(text)
            except ValueError:
                problems.append(f"{name} is not valid: {text!r}")
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


_REQUIRED = frozenset({"table_name", "bucket_name", "event_bus_name", "kms_key_arn", "cursor_key_arn"})
_PARSERS = {
    "list_shards": _positive,
    "attachment_max_bytes": _positive,
    "cors_origins": _list,
    "debug_sample_percent": _percent,
}
