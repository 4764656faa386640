"""The table of what is proven where says of `make test-aws` what its steps say."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripts.first_hour.run import Step
from scripts.first_hour.steps import STEPS

PAGE = Path(__file__).parents[2] / "docs" / "proven.md"
ROWS = {
    cells[0].strip("| `"): [cell.strip(" |") for cell in cells[1:]]
    for line in PAGE.read_text().splitlines()
    if (cells := line.split(" | ")) and line.startswith("| `")
}


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_each_step_has_its_row(step: Step) -> None:
    shown, _, only_an_account = ROWS[step.name]
    assert (shown, only_an_account) == (step.shows, step.not_here)
    assert step.shows
    assert step.not_here


def test_no_row_is_of_a_step_that_is_gone() -> None:
    assert list(ROWS) == [step.name for step in STEPS]
