"""docs/local-aws.md says what the deployed stacks say."""

from __future__ import annotations

from localcloud import document


def test_coverage_table_is_fresh() -> None:
    text = document.DOCUMENT.read_text()
    stale = "stale: PYTHONPATH=. .venv/bin/python -m localcloud.document"
    assert document.written(text, document.table()) == text, stale
