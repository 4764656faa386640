"""The configuration is read from the environment, or rejected by name."""

from __future__ import annotations

import json
import re

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


@pytest.mark.parametrize("name", COMPLETE)
def test_each_of_the_required_is_missed(name: str) -> None:
    for environ in ({}, {name: ""}, {name: " "}):
        with pytest.raises(ValueError, match=f"^{name} is not set$"):
            Settings.from_env({other: "x" for other in COMPLETE if other != name} | environ)


@pytest.mark.parametrize(
    ("name", "taken", "rejected"),
    [
        ("LIST_SHARDS", {"1": 1, " 64 ": 64}, ["0", "-1", "65", "1.5", "x"]),
        ("ATTACHMENT_MAX_BYTES", {"1": 1, "1000000000": 1_000_000_000}, ["0", "1000000001", "1MB"]),
        (
            "DEBUG_SAMPLE_PERCENT",
            {"0": 0.0, "0.5": 0.5, "100": 100.0},
            ["-0.1", "100.1", "nan", "inf", "5%"],
        ),
        ("LOG_LEVEL", {"DEBUG": "DEBUG", "ERROR": "ERROR"}, ["debug", "FATAL"]),
        ("CORS_ORIGINS", {",": (), "https://a,, https://b ,": ("https://a", "https://b")}, []),
    ],
)
def test_the_last_value_that_is_taken_and_the_first_that_is_not(
    name: str, taken: dict[str, object], rejected: list[str]
) -> None:
    for text, value in taken.items():
        assert getattr(Settings.from_env(COMPLETE | {f"APP_{name}": text}), name.lower()) == value
    for text in rejected:
        with pytest.raises(ValueError, match=f"^APP_{name} is not valid: '{text}'$"):
            Settings.from_env(COMPLETE | {f"APP_{name}": text})


def test_what_is_not_set_has_the_value_that_templates_begin_with() -> None:
    found = Settings.from_env(COMPLETE)
    assert (found.attachment_max_bytes, found.list_shards, found.debug_sample_percent) == (10_000_000, 4, 0)
    assert (found.log_level, found.stage, found.cors_origins) == ("INFO", "dev", ())


class TestJson:
    """What the templates hand over; tests/template/test_runtime.py shows that they do."""

    JSON = json.dumps({name.removeprefix("APP_").lower(): value for name, value in COMPLETE.items()})

    def test_it_is_read_and_a_variable_wins(self) -> None:
        found = Settings.from_env({"APP_SETTINGS": self.JSON, "APP_TABLE_NAME": "mine", "APP_STAGE": ""})
        assert (found.table_name, found.bucket_name, found.stage) == ("mine", "bucket", "dev")

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ('{"table": "mine"}', "table in APP_SETTINGS is no setting"),
            ('{"list_shards": "0"}', "APP_LIST_SHARDS is not valid: '0'"),
            ('{"list_shards": 4}', "APP_SETTINGS is not valid: Expected `str`, got `int`"),
            ('{"table_name": ', "APP_SETTINGS is not valid: Input data was truncated"),
            ("[]", "APP_SETTINGS is not valid: Expected `object`, got `array`"),
        ],
    )
    def test_what_is_wrong_in_it_is_named(self, text: str, reason: str) -> None:
        with pytest.raises(ValueError, match="^" + re.escape(reason)):
            Settings.from_env(COMPLETE | {"APP_SETTINGS": text})


def test_with_an_issuer_it_is_not_open() -> None:
    assert not Settings.from_env(COMPLETE | {"APP_AUTH_ISSUER": "https://issuer.test"}).is_open


class TestOriginSecrets:
    def test_a_secret_has_32_characters_or_more(self) -> None:
        for length, is_one in ((31, False), (32, True)):
            environ = COMPLETE | {"APP_ORIGIN_SECRETS": json.dumps({"current": "s" * length})}
            if is_one:
                assert Settings.from_env(environ).origin_secrets == ("s" * length,)
            else:
                with pytest.raises(ValueError, match=r"APP_ORIGIN_SECRETS is not valid: \(not shown\)"):
                    Settings.from_env(environ)

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
        with pytest.raises(ValueError, match="APP_ORIGIN_SECRETS is not valid") as rejected:
            Settings.from_env(COMPLETE | {"APP_ORIGIN_SECRETS": text})
        assert "hunter2" not in str(rejected.value)

    def test_they_are_not_shown(self) -> None:
        secret = json.dumps({"current": self.NEW})
        assert self.NEW not in repr(Settings.from_env(COMPLETE | {"APP_ORIGIN_SECRETS": secret}))
