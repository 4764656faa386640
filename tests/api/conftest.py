"""Prints how many hostile requests the suite has sent."""

from __future__ import annotations

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    tried = sum(
        int(value)  # type: ignore[call-overload]  # a number, by `send` in test_hostile
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", "") == "teardown"
        for name, value in report.user_properties
        if name == "hostile_cases"
    )
    if tried:
        terminalreporter.write_line(f"hostile suite: {tried} cases tried")
