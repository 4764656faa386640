"""The entry of the Lambda runtime: one event of the HTTP API in, one response out."""

from __future__ import annotations

from orders.bootstrap import build_app
from orders.http_api import handler_of

handler = handler_of(build_app())
