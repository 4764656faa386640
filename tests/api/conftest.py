"""Print how many attack cases the security tests have tried."""

from __future__ import annotations

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    tried = sum(
        int(value)  # type: ignore[call-overload]  # a number, by `send` in test_security
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", "") == "teardown"
        for name, value in report.user_properties
        if name == "attack_cases"
    )
    if tried:
        terminalreporter.write_line(f"security tests: {tried} attack cases tried")
