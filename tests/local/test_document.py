"""docs/local-aws.md says what the deployed stacks say."""

from __future__ import annotations

from localcloud import document
from localcloud.coverage import COVERAGE, SUPPORTED
from localcloud.running import ROOT


def test_coverage_table_is_fresh() -> None:
    text = document.DOCUMENT.read_text()
    stale = "stale: PYTHONPATH=. .venv/bin/python -m localcloud.document"
    assert document.written(text, document.table()) == text, stale


def test_what_is_supported_is_seen_by_a_test() -> None:
    for name, (state, _, *test) in COVERAGE.items():
        assert bool(test) is (state == SUPPORTED), name
        assert all((ROOT / path).is_file() for path in test), name
