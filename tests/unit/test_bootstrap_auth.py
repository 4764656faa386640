"""Whether the application asks for tokens follows from its settings alone."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest
from tests.support import a_settings

from app.core.auth.jwt import JwtAuthenticator
from app.core.http.callers import OpenToAll
from app.main import build_app


@pytest.fixture(autouse=True)
def aws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")


def test_without_an_issuer_it_is_open_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    app = build_app(a_settings())
    assert isinstance(app.state.authenticator, OpenToAll)
    assert ["open to anyone" in record.message for record in caplog.records] == [True]
    assert caplog.records[0].levelno == logging.WARNING


def test_with_an_issuer_it_asks_for_tokens(caplog: pytest.LogCaptureFixture) -> None:
    app = build_app(a_settings(auth_issuer="https://issuer.test", auth_audience="orders"))
    assert isinstance(app.state.authenticator, JwtAuthenticator)
    assert not caplog.records


@pytest.mark.parametrize(
    ("issuer", "audience"), [("https://issuer.test", ""), ("http://issuer.test", "orders")]
)
def test_an_issuer_that_cannot_be_trusted_does_not_start(issuer: str, audience: str) -> None:
    with pytest.raises(ValueError, match=r"audience|https"):
        build_app(a_settings(auth_issuer=issuer, auth_audience=audience))


def test_an_open_application_does_not_load_the_token_library() -> None:
    program = f"import sys; sys.path = {sys.path}; import app.main; sys.exit('jwt' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
