"""Our function without logs, metrics and traces: what is left is what they cost."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any


def nothing(*_: Any, **__: Any) -> None:
    return None


class InstrumentedClient:
    """Stands in for the wrapper of clients: the client itself."""

    def __new__(cls, client: Any) -> Any:
        return client


telemetry = ModuleType("app.core.telemetry")
for name in ("add_log_fields", "add_metric", "record_call", "redact"):
    setattr(telemetry, name, nothing)
telemetry.Telemetry = lambda _: SimpleNamespace(install=nothing)  # type: ignore[attr-defined]
request_log = ModuleType("app.core.http.access_log")
request_log.begin = request_log.end = nothing  # type: ignore[attr-defined]
request_log.ids = lambda _: []  # type: ignore[attr-defined]
request_log.Headers = list  # type: ignore[attr-defined]
sys.modules |= {"app.core.telemetry": telemetry, "app.core.http.access_log": request_log}


import app.core.aws.client  # noqa: E402

app.core.telemetry = telemetry  # type: ignore[attr-defined]
app.core.http.access_log = request_log  # type: ignore[attr-defined]
app.core.aws.client.InstrumentedClient = InstrumentedClient  # type: ignore[assignment,misc]

from app.entrypoints.lambda_api import handler  # noqa: E402, F401
