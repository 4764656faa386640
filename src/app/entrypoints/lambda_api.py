"""The entry of the Lambda runtime: one event of the HTTP API in, one response out."""

from __future__ import annotations

from app.core.http.lambda_adapter import handler_of
from app.main import build_app

handler = handler_of(build_app())
