"""The HTTP server of the Fargate runtime, and of `make run`: `python -m app.entrypoints.server`."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from types import FrameType

import uvicorn

from app.core.http.http_protocol import HttpProtocol
from app.main import build_app

# After SIGTERM the load balancer may still send for a moment: this long we go on serving, as not ready
# and closing connections; the requests then in flight get their time. ECS kills after 30 s (StopTimeout).
DRAIN_SECONDS = 5
FINISH_SECONDS = 20
# What is not done by then is cut. This is the time to send its 503 and to log it.
CUT_SECONDS = 2

try:
    app = build_app()
except ValueError as problem:  # with the settings
    sys.exit(f"Cannot start: {problem}")


class Server(uvicorn.Server):
    """uvicorn, but a SIGTERM first turns readiness off and only then stops accepting."""

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until told to stop."""
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain on the first SIGTERM; stop at once on Ctrl-C or on being asked again."""
        if sig != signal.SIGTERM or app.state.draining:
            super().handle_exit(sig, frame)
            return
        app.state.draining = True
        self._loop.call_soon_threadsafe(self._loop.call_later, DRAIN_SECONDS, super().handle_exit, sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop, and see the requests that were cut to their end: uvicorn would leave them to the signal."""
        await super().shutdown(sockets)
        cut = set(self.server_state.tasks)
        if cut and not self.force_exit:
            await asyncio.wait(cut, timeout=CUT_SECONDS)


def _is_no_cut(record: logging.LogRecord) -> bool:
    """Whether a record does not just say that a request was cut: that has its own entry in the log."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


def main() -> None:
    """Serve the application until told to stop."""
    logging.getLogger("uvicorn.error").addFilter(_is_no_cut)
    config = uvicorn.Config(
        app,
        http=HttpProtocol,
        ws="none",
        host="0.0.0.0",  # noqa: S104  # in the container; the security group lets only the load balancer in
        port=int(os.environ.get("PORT", "8080")),
        # Longer than the load balancer's idle 60 s, or it returns 502 when it reuses a closed connection.
        timeout_keep_alive=75,
        timeout_graceful_shutdown=FINISH_SECONDS,
        access_log=False,  # app.core.http.access_log writes one
        log_config=None,
        # The load balancer sends the client's address and the scheme.
        proxy_headers=True,
        forwarded_allow_ips="*",
        server_header=False,
    )
    Server(config).run()


if __name__ == "__main__":
    main()
