"""The audit of our packages never takes silence for an answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from scripts import audit

FLAW = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2.0"]}
GOOD = {"name": "a", "version": "1", "vulns": []}
BAD = {"name": "a", "version": "1", "vulns": [FLAW]}
UNSEEN = {"name": "a", "skip_reason": "not found"}


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    (tmp_path / "one.txt").write_text("a==1 \\\n    --hash=x\nb[extra]==2 ; python_version > '3'\nb==2\n")
    (tmp_path / "two.txt").write_text("a==2\n# c==3\n")
    return [str(tmp_path / "one.txt"), str(tmp_path / "two.txt")]


@pytest.mark.parametrize(
    ("answer", "required", "code", "said"),
    [
        (([GOOD], ""), "", 0, "3 packages looked up, 0 vulnerabilities"),
        (([BAD], ""), "", 1, "VULNERABLE  a 1: PYSEC-1, fixed in 2.0"),
        (([UNSEEN], ""), "", 0, "SKIPPED"),
        (([UNSEEN], ""), "required", 1, "SKIPPED"),
        (([], "no answer"), "", 0, "SKIPPED"),
        (([], "no answer"), "required", 1, "SKIPPED"),
    ],
)
def test_what_it_says_and_returns(
    files: list[str],
    answer: tuple[list[dict[str, Any]], str],
    required: str,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(audit, "audit", lambda lines: asked.append(lines) or answer)
    monkeypatch.setenv("AUDIT", required)
    assert audit.main(files) == code
    assert said in capsys.readouterr().out
    assert asked[0] == ["a==1", "b==2"]


def test_an_accepted_advisory_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    assert audit.vulnerabilities([BAD])
    monkeypatch.setitem(audit.ACCEPTED, "CVE-1", "not reachable")
    assert not audit.vulnerabilities([BAD])
