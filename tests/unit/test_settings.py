"""The configuration is read from the environment, or refused by name."""

from __future__ import annotations

import json

import pytest

from app.core.settings import Settings

COMPLETE = {
    "APP_TABLE_NAME": "table",
    "APP_BUCKET_NAME": "bucket",
    "APP_EVENT_BUS_NAME": "bus",
    "APP_KMS_KEY_ARN": "key",
    "APP_CURSOR_KEY_ARN": "cursor",
}


def test_reads_and_converts() -> None:
    settings = Settings.from_env(
        COMPLETE | {"APP_LIST_SHARDS": "8", "APP_CORS_ORIGINS": "https://a, https://b"}
    )
    assert settings.list_shards == 8
    assert settings.cors_origins == ("https://a", "https://b")
    assert settings.is_open


def test_empty_is_as_good_as_absent() -> None:
    assert Settings.from_env(COMPLETE | {"APP_LIST_SHARDS": ""}).list_shards == 4


def test_names_everything_that_is_wrong() -> None:
    with pytest.raises(ValueError, match=r"APP_TABLE_NAME is not set; .*APP_LIST_SHARDS is not valid: '0'"):
        Settings.from_env({"APP_LIST_SHARDS": "0"})


class TestOriginSecrets:
    NEW, OLD = "n" * 48, "o" * 48

    def test_the_next_and_the_one_before_are_taken_and_a_placeholder_is_not(self) -> None:
        def read(**secret: str) -> tuple[str, ...]:
            settings = Settings.from_env(COMPLETE | {"APP_ORIGIN_SECRETS": json.dumps(secret)})
            return settings.origin_secrets

        assert read(current=self.NEW, previous=self.OLD) == (self.NEW, self.OLD)
        assert read(previous="none", current=self.NEW) == (self.NEW,)
        assert Settings.from_env(COMPLETE).origin_secrets == ()

    @pytest.mark.parametrize(
        "text",
        [
            '{"current": "hunter2", "previous": "none"}',
            "{}",
            '["hunter2-hunter2-hunter2-hunter2-hunter2"]',
            '{"current": ["hunter2-hunter2-hunter2-hunter2-hunter2"]}',
            "hunter2-hunter2-hunter2-hunter2-hunter2",
            '{"current": "hunter2-hunter2-hunter2-hunter2-hunter2"',
        ],
    )
    def test_what_holds_no_secret_does_not_open_the_origin(self, text: str) -> None:
        with pytest.raises(ValueError, match="APP_ORIGIN_SECRETS is not valid") as refused:
            Settings.from_env(COMPLETE | {"APP_ORIGIN_SECRETS": text})
        assert "hunter2" not in str(refused.value)

    def test_they_are_not_shown(self) -> None:
        secret = json.dumps({"current": self.NEW})
        assert self.NEW not in repr(Settings.from_env(COMPLETE | {"APP_ORIGIN_SECRETS": secret}))
