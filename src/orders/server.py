"""The HTTP server of the Fargate runtime, and of `make run`: `python -m orders.server`."""

from __future__ import annotations

import os

import uvicorn

from orders.bootstrap import build_app

app = build_app()

if __name__ == "__main__":
    uvicorn.run(
        app,
        host="0.0.0.0",  # noqa: S104  # in the container; the security group lets only the load balancer in
        port=int(os.environ.get("PORT", "8080")),
        # Longer than the load balancer's idle 60 s, or it answers 502 when it reuses a closed connection.
        timeout_keep_alive=75,
        # Requests in flight at SIGTERM get this long; ECS waits 30 s (the task's StopTimeout) before SIGKILL.
        timeout_graceful_shutdown=25,
        access_log=False,  # orders.api.request_log writes one
        log_config=None,
        # The load balancer says who called and by which scheme.
        proxy_headers=True,
        forwarded_allow_ips="*",
        server_header=False,
    )
