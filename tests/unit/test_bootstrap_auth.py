"""Whether the application asks for tokens follows from its settings alone."""

from __future__ import annotations

import logging

import pytest
from tests.builders import a_settings

from app.main import build_app


@pytest.fixture(autouse=True)
def aws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")


def test_without_an_issuer_it_is_open_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    app = build_app(a_settings())
    assert app.state.about["authentication"] == "none"
    assert ["open to anyone" in record.message for record in caplog.records] == [True]
    assert caplog.records[0].levelno == logging.WARNING


def test_with_an_issuer_it_asks_for_tokens(caplog: pytest.LogCaptureFixture) -> None:
    app = build_app(a_settings(auth_issuer="https://issuer.test", auth_audience="orders"))
    assert app.state.about["authentication"] == "jwt"
    assert not caplog.records
