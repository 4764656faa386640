"""The bench still runs: the handlers in it answer rightly, and lists cost what they should."""

from __future__ import annotations

import asyncio
import json

import pytest
from bench.__main__ import HANDLERS
from bench.lists import pages, spread
from bench.processes import canned, run

MODULES = [module for module, kind, _ in HANDLERS.values() if kind == "v2"]


@pytest.mark.parametrize("module", MODULES)
def test_a_candidate_answers(module: str) -> None:
    with canned() as endpoint:
        figures = json.loads(run(["-m", "bench.child", "warm", module, "v2", "4"], endpoint))
    assert figures.keys() == {"get", "post", "list"}


def test_a_page_costs_the_same_whatever_the_number_of_orders() -> None:
    assert asyncio.run(pages(1_000)) == asyncio.run(pages(20_000))


def test_shards_admit_more_writes_than_one_partition() -> None:
    assert spread(1, seconds=1)["admitted_per_second"] == 1_000
    assert spread(4, seconds=1)["admitted_per_second"] > 2_900
