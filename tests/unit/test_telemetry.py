"""Lines, metrics, traces and secrets, without HTTP."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.builders import METRICS, a_settings

from app.core import context
from app.core.aws.client import InstrumentedClient
from app.core.telemetry import (
    Telemetry,
    _log_context,
    add_log_fields,
    add_metric,
    metric_definition,
    record_call,
    redact,
)

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.fixture
def root_logger() -> Iterator[None]:
    """Put the logging of pytest back after a test that sets ours up."""
    loggers = [logging.getLogger(name) for name in (None, "app", "uvicorn")]
    before = [(logger, logger.handlers, logger.level) for logger in loggers]
    yield
    for logger, handlers, level in before:
        logger.handlers = handlers
        logger.setLevel(level)


class TestTrace:
    def test_continues_the_callers_with_a_span_of_its_own(self) -> None:
        ours = context.child_span(TRACEPARENT, xray="Root=1-5759e988-bd862e3fe1be46a994272793")
        assert ours.split("-")[1] == TRACE
        assert ours != TRACEPARENT
        assert context.TRACEPARENT.fullmatch(ours)

    @pytest.mark.parametrize(("sampled", "flags"), [("1", "01"), ("0", "00")])
    def test_continues_the_one_of_the_platform(self, sampled: str, flags: str) -> None:
        header = (
            f"Self=1-1-1;Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled={sampled}"
        )
        ours = context.child_span(xray=header).split("-")
        assert (ours[1], ours[3]) == ("5759e988bd862e3fe1be46a994272793", flags)

    @pytest.mark.parametrize(
        "parent",
        [
            "",
            "nonsense",
            f"00-{'0' * 32}-00f067aa0ba902b7-01",
            f"00-{TRACE}-{'0' * 16}-01",
            TRACEPARENT.upper(),
        ],
    )
    def test_begins_one_that_x_ray_takes_too(self, parent: str) -> None:
        ours = context.child_span(parent, xray="Root=nonsense")
        assert context.TRACEPARENT.fullmatch(ours)
        assert ours.split("-")[1] != TRACE
        assert int(ours[3:11], 16) > 1_700_000_000  # the time, as X-Ray wants it


class TestLine:
    def test_carries_what_was_noted_and_counted_on_the_way(self, capsys: pytest.CaptureFixture[str]) -> None:
        telemetry = Telemetry(a_settings(service_name="orders-test", stage="test", runtime="lambda"))
        with telemetry.log_operation(
            "relay", "event published", "r-1", traceparent=TRACEPARENT, correlation_id="c-1"
        ):
            add_log_fields(event_id="e:1")
            add_metric("EventsRelayed")
            record_call("PutEvents", 0.001)
        (line,) = lines(capsys)
        assert (
            line.items()
            >= {
                "level": "INFO",
                "location": "relay",
                "message": "event published",
                "service": "orders-test",
                "stage": "test",
                "runtime": "lambda",
                "cold_start": True,
                "request_id": "r-1",
                "correlation_id": "c-1",
                "trace_id": TRACE,
                "xray_trace_id": f"1-{TRACE[:8]}-{TRACE[8:]}",
                "event_id": "e:1",
                "EventsRelayed": 1,
                "dependency_calls": 1,
            }.items()
        )
        assert line["_aws"]["CloudWatchMetrics"] == [
            {
                "Namespace": "Orders",
                "Dimensions": [["service"]],
                "Metrics": [{"Name": "EventsRelayed", "Unit": "Count"}],
            }
        ]
        assert not telemetry.cold_start

    def test_says_what_went_wrong_and_lets_it_go_on(self, capsys: pytest.CaptureFixture[str]) -> None:
        with (
            pytest.raises(KeyError),
            Telemetry(a_settings()).log_operation("relay", "event published", "r-1"),
        ):
            raise KeyError("Bearer abc.def")
        (line,) = lines(capsys)
        assert (line["level"], line["error"]) == ("ERROR", "KeyError")
        assert "abc.def" not in str(line)

    def test_below_the_level_only_what_counts_is_written(self, capsys: pytest.CaptureFixture[str]) -> None:
        telemetry = Telemetry(a_settings(log_level="WARNING"))
        for metric in ("", "EventsRelayed"):
            with telemetry.log_operation("relay", "event", "r-1"):
                add_log_fields(event_id="e:1")
                if metric:
                    add_metric(metric)
        (line,) = lines(capsys)
        assert (line["EventsRelayed"], line["event_id"], line["level"]) == (1, "e:1", "INFO")

    def test_outside_of_any_work_nothing_is_kept(self) -> None:
        add_log_fields(a=1)
        add_metric("Throttles")
        record_call("GetItem", 0.1)
        assert _log_context.get() is None

    def test_every_dimension_of_a_metric_is_a_field_with_few_values(self) -> None:
        used = {name for metric in METRICS for names in metric_definition(metric)[1] for name in names}
        assert used <= {"service", "runtime", "method", "route", "function_version", "location"}


class TestClock:
    """No clock of these begins at 0, where the sum of two times is their difference."""

    async def test_a_time_taken_is_a_difference(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shown = [1000.0]
        monkeypatch.setattr(time, "perf_counter", lambda: shown[0])

        class Service:
            async def call(self, *_: Any) -> Any:
                shown[0] += 0.25

        with Telemetry(a_settings(log_level="DEBUG")).log_operation("relay", "event", "r-1"):
            shown[0] += 1.5
            for operation in ("GetItem", "PutItem"):
                await InstrumentedClient(Service()).call(operation, {})
        (line,) = lines(capsys)
        assert (line["latency_ms"], line["dependency_ms"], line["dependency_calls"]) == (2000, 500, 2)
        assert line["calls"] == ["GetItem 250.0 ms", "PutItem 250.0 ms"]

    @pytest.mark.parametrize(
        ("now", "timestamp"),
        [
            (1767323045.678, "2026-01-02T03:04:05.678Z"),
            (1767323045.0, "2026-01-02T03:04:05.000Z"),
            (1767323045.9996, "2026-01-02T03:04:05.999Z"),
            (1767323046.002, "2026-01-02T03:04:06.002Z"),
        ],
    )
    def test_a_line_says_when_to_the_millisecond(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, now: float, timestamp: str
    ) -> None:
        monkeypatch.setattr(time, "time", lambda: now)
        with Telemetry(a_settings()).log_operation("relay", "event", "r-1"):
            add_metric("EventsRelayed")
        (line,) = lines(capsys)
        assert (line["timestamp"], line["_aws"]["Timestamp"]) == (timestamp, int(now * 1000))


class TestLevels:
    @pytest.mark.parametrize(
        ("configured", "written"),
        [
            ("DEBUG", ["DEBUG", "INFO", "WARNING", "ERROR"]),
            ("INFO", ["INFO", "WARNING", "ERROR"]),
            ("info", ["INFO", "WARNING", "ERROR"]),
            ("WARNING", ["WARNING", "ERROR"]),
            ("ERROR", ["ERROR"]),
            ("CRITICAL", []),
            ("nonsense", ["INFO", "WARNING", "ERROR"]),
        ],
    )
    def test_of_the_setting_and_above_are_written(
        self, capsys: pytest.CaptureFixture[str], configured: str, written: list[str]
    ) -> None:
        told = Telemetry(a_settings(log_level=configured))
        for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
            told.write(told.begin("r-1"), "api", "request", level)
        assert [line["level"] for line in lines(capsys)] == written

    def test_of_a_sampled_trace_all_are(self, capsys: pytest.CaptureFixture[str]) -> None:
        told = Telemetry(a_settings(log_level="CRITICAL", debug_sample_percent=100))
        told.write(told.begin("r-1"), "api", "request", logging.DEBUG)
        (line,) = lines(capsys)
        assert line["level"] == "DEBUG"


class TestSampling:
    @pytest.mark.parametrize(
        ("percent", "last", "sampled"),
        [
            (0, "00000000", False),
            (50, "7fffffff", True),
            (50, "80000000", False),
            (100, "ffffffff", True),
        ],
    )
    def test_goes_by_the_last_32_bits_of_the_trace(self, percent: float, last: str, sampled: bool) -> None:
        told = Telemetry(a_settings(debug_sample_percent=percent))
        parent = f"00-{TRACE[:-8]}{last}-00f067aa0ba902b7-01"
        assert told.begin("r", traceparent=parent).debug is sampled

    def sampled(self, percent: float) -> list[bool]:
        telemetry = Telemetry(a_settings(debug_sample_percent=percent))
        parents = [f"00-{TRACE[:-8]}{n << 22:08x}-00f067aa0ba902b7-01" for n in range(1, 1000)]
        return [telemetry.begin("r", traceparent=parent).debug for parent in parents]

    def test_takes_its_share_and_every_hop_takes_the_same_traces(self) -> None:
        assert self.sampled(0).count(True) == 0
        assert self.sampled(100).count(True) == 999
        some = self.sampled(10)
        assert 80 < some.count(True) < 120
        assert some == self.sampled(10)

    def test_debug_level_takes_all(self) -> None:
        assert Telemetry(a_settings(log_level="DEBUG")).begin("r").debug


class TestSecrets:
    @pytest.mark.parametrize(
        "text",
        [
            "Authorization: Bearer SECRET",
            "token=SECRET&x=1",
            "{'password': 'SECRET'}",
            "https://b.s3.amazonaws.com/k?X-Amz-Signature=SECRET&X-Amz-Expires=60",
            "eyJSECRETSECRET.eyJzdWIiOiJTRUNSRVQifQ.SECRET",
            "AKIASECRETSECRETSECR is no key id",
        ],
    )
    def test_are_taken_out_of_free_text(self, text: str) -> None:
        assert "SECRET" not in redact(text)

    def test_and_plain_text_stays(self) -> None:
        text = "GetItem on table orders-dev took 12 ms (order 0199a6f5-1c00-7000-8000-000000000001)"
        assert redact(text) == text


@pytest.mark.usefixtures("root_logger")
class TestLogging:
    def test_every_logger_writes_the_same_fields(self, capsys: pytest.CaptureFixture[str]) -> None:
        telemetry = Telemetry(a_settings(service_name="orders-test"))
        telemetry.install()
        telemetry.begin("r-1", "c-1", TRACEPARENT)
        try:
            raise ValueError("Bearer abc.def")
        except ValueError:
            logging.getLogger("app.x").exception("failed", extra={"session_token": "abc.def", "events": 3})
        logging.getLogger("botocore").info("chatter")
        (line,) = lines(capsys)
        assert line.items() >= {"service": "orders-test", "trace_id": TRACE, "request_id": "r-1"}.items()
        assert (line["level"], line["exception_name"], line["events"]) == ("ERROR", "ValueError", "3")
        assert "abc.def" not in str(line)
        _log_context.set(None)
