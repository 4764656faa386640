"""The entry of the Lambda runtime: one event of the HTTP API in, one response out."""

from __future__ import annotations

from mangum import Mangum

from orders.bootstrap import build_app

# Lifespan is off: Mangum would run start-up and shutdown with every request.
handler = Mangum(build_app(), lifespan="off")
