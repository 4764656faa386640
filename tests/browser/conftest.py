"""A browser on what `make run` serves, with everything it writes to its console held against it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from localcloud.issuer import AUDIENCE, Issuer
from localcloud.run import application
from localcloud.running import ROOT, Emulator, free_port, running_emulator
from playwright.sync_api import Browser, Page, sync_playwright

REPORTS = ROOT / "reports" / "browser"
# Without a sandbox it runs as root; without the rest it calls its maker's hosts at every start.
_FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


@pytest.fixture(scope="session")
def aws() -> Iterator[Emulator]:
    """A fresh local AWS emulator."""
    REPORTS.mkdir(parents=True, exist_ok=True)
    with running_emulator(log=REPORTS / "aws.log") as aws:
        yield aws


@pytest.fixture(scope="session")
def site(aws: Emulator) -> Iterator[str]:
    """What `make run` serves, on a free port."""
    port = free_port()
    with application(aws, port):
        yield f"http://localhost:{port}"


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    """The issuer of `make run AUTH=1`, on a free port."""
    issuer = Issuer(f"http://127.0.0.1:{free_port()}")
    server = issuer.serve()
    yield issuer
    server.shutdown()
    server.server_close()


@pytest.fixture
def guarded_site(aws: Emulator, issuer: Issuer) -> Iterator[str]:
    """What `make run AUTH=1` serves."""
    port = free_port()
    with application(aws, port, {"APP_AUTH_ISSUER": issuer.url, "APP_AUTH_AUDIENCE": AUDIENCE}):
        yield f"http://localhost:{port}"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with tempfile.TemporaryDirectory() as home, sync_playwright() as playwright:
        env = {**os.environ, "HOME": home}
        browser = playwright.chromium.launch(executable_path=chromium, args=_FLAGS, env=env)
        yield browser
        browser.close()


class Visit:
    """One page, and what went wrong on it."""

    def __init__(self, page: Page, site: str) -> None:
        self.page = page
        self.site = site
        self.expected_statuses: set[int] = set()
        self.complaints: list[str] = []
        page.set_default_timeout(10_000)
        page.on("console", lambda said: self._note(said.type, said.text))
        page.on("pageerror", lambda error: self.complaints.append(f"thrown: {error}"))
        page.on("request", lambda request: self._ours(request.url))

    def open(self, path: str = "/console/") -> Page:
        self.page.goto(self.site + path)
        return self.page

    def picture(self, name: str) -> None:
        self.page.screenshot(path=REPORTS / f"{name}.png", full_page=True)

    def _note(self, kind: str, text: str) -> None:
        # Chromium itself reports every rejected request; a test names those that it provokes.
        rejected = any(f"status of {status} " in text for status in self.expected_statuses)
        if kind in ("error", "warning") and not rejected:
            self.complaints.append(f"{kind}: {text}")

    def _ours(self, url: str) -> None:
        if not url.startswith(("http://localhost:", "http://127.0.0.1:", "data:", "blob:")):
            self.complaints.append(f"asked a third party: {url}")


@pytest.fixture(params=["light", "dark"])
def scheme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def visit(browser: Browser, site: str, request: pytest.FixtureRequest) -> Iterator[Visit]:
    """A new visitor; the test fails when the page complained about anything it did not provoke."""
    scheme = request.getfixturevalue("scheme") if "scheme" in request.fixturenames else "light"
    context = browser.new_context(color_scheme=scheme, viewport={"width": 1280, "height": 900})
    visit = Visit(context.new_page(), site)
    failed = request.session.testsfailed
    yield visit
    if request.session.testsfailed > failed:
        visit.picture(f"last-{request.node.name}")
    context.close()
    assert visit.complaints == []


@pytest.fixture
def api(site: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=site) as client:
        yield client


@pytest.fixture
def a_file(tmp_path: Path) -> Path:
    path = tmp_path / "packing list.txt"
    path.write_text("one widget\n")
    return path
