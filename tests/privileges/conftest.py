"""What the walk prints at its end: `make permission-tests`."""

from __future__ import annotations

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """With -v, print what failed without each permission."""
    if config.option.verbose > 0:
        for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
            for name, value in report.user_properties:
                if name == "removed":
                    terminalreporter.write_line(str(value))
