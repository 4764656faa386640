"""The API as a server on the local AWS emulator, under callers who do things at the same time."""

from __future__ import annotations

import ast
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from localcloud.running import Emulator, free_port, wait_until_healthy
from tests.builders import AN_ORDER

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def api(aws: Emulator) -> Iterator[httpx.Client]:
    port = free_port()
    environ = os.environ | aws.environ | {"PORT": str(port), "PYTHONPATH": str(ROOT / "src")}
    server = subprocess.Popen([sys.executable, "-m", "app.entrypoints.server"], env=environ)
    try:
        wait_until_healthy(f"http://127.0.0.1:{port}")
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            yield client
    finally:
        server.terminate()
        assert server.wait(30) in (0, -signal.SIGTERM)  # uvicorn drains, then dies of the signal


def test_500_orders_are_paged_through_once_each_while_others_are_placed(api: httpx.Client) -> None:
    def place(_: int) -> str:
        response = api.post("/orders", json=AN_ORDER)
        assert response.status_code == 201, response.text
        return str(response.json()["id"])

    with ThreadPoolExecutor(8) as pool:
        placed = set(pool.map(place, range(500)))
        seen: list[dict[str, str]] = []
        query = {"limit": 7}
        for turn in itertools.count():
            assert turn < 500, "the list does not end"
            page = api.get("/orders", params=query).json()
            seen += page["items"]
            if page["next_cursor"] is None:
                break
            query["cursor"] = page["next_cursor"]
            pool.submit(place, 0)
    ids = [order["id"] for order in seen]
    assert len(ids) == len(set(ids))
    assert placed <= set(ids)
    moments = [order["created_at"] for order in seen]
    assert moments == sorted(moments, reverse=True)


def test_ten_posts_at_once_under_one_key_make_one_order(api: httpx.Client) -> None:
    def place(_: int) -> httpx.Response:
        order = AN_ORDER | {"customer": "Twin"}
        return api.post("/orders", json=order, headers={"idempotency-key": "ten-at-once"})

    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(place, range(10)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
    assert len(api.get("/orders?customer=Twin").json()["items"]) == 1


def test_of_ten_status_changes_at_once_one_wins_and_the_others_see_it(api: httpx.Client) -> None:
    order = api.post("/orders", json=AN_ORDER).json()

    def change(status: str) -> httpx.Response:
        return api.put(f"/orders/{order['id']}/status", json={"status": status}, headers={"if-match": '"1"'})

    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(change, ["shipped", "cancelled"] * 5))
    won = [answer for answer in answers if answer.status_code == 200]
    assert len(won) == 1
    assert {answer.status_code for answer in answers} == {200, 412}
    assert all(a.json()["current"] == won[0].json() for a in answers if a.status_code == 412)


def test_nothing_in_the_source_scans() -> None:
    # By DynamoDB's names or boto3's. A PartiQL statement may be a scan too, without saying so.
    rejected = {"scan", "executestatement", "batchexecutestatement", "executetransaction"}
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.attr] if isinstance(node, ast.Attribute) else []
            names += [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []
            for name in names:
                assert name.lower().replace("_", "") not in rejected, f"{path}: {name}"
