"""Serve the application with reload, as a child of `localcloud.run`."""

from __future__ import annotations

import sys

import uvicorn

from localcloud.parent_watch import end_with_parent
from localcloud.running import ROOT

if __name__ == "__main__":
    end_with_parent()
    uvicorn.run(
        "localcloud.dev_app:app",
        host="127.0.0.1",
        port=int(sys.argv[1]),
        reload=True,
        reload_dirs=[str(ROOT / "src")],
        http="app.core.http.http_protocol:HttpProtocol",
        ws="none",
        log_level="warning",
    )
