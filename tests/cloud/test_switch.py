"""The switch under load: lambda -> fargate -> lambda behind the edge, and not one failed or wrong answer.

Both stacks on the local AWS; `make switch` does the switching. About three minutes on two cores. What was
sent and what failed is in reports/switch.json.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from localcloud import cloud
from localcloud.embedded import ROOT, aws_environ

from orders.adapters.lean_client import ATTEMPT_SECONDS

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(600), pytest.mark.xdist_group("switch")]

_STACK = "switch-test"
_EDGE = f"{_STACK}-edge"
_THREADS = 2
_PAUSE_SECONDS = 0.1


@dataclass
class Site:
    """The emulator with both stacks, and the address that stays."""

    endpoint: str
    orders: dict[str, str]
    edge: dict[str, str]

    def visitor(self) -> httpx.Client:
        """Call the edge as its name's owner would: the local AWS has no DNS and no TLS."""
        headers = {"host": self.edge["DistributionDomain"], "x-forwarded-proto": "https"}
        return httpx.Client(base_url=self.endpoint, headers=headers, timeout=60)

    def close_the_origins(self) -> None:
        """Let them answer the edge only, as a caller of them finds."""
        formation = cloud.client(self.endpoint, "cloudformation")
        described = cloud.describe(self.endpoint, _STACK)
        assert described
        formation.update_stack(
            StackName=_STACK,
            UsePreviousTemplate=True,
            Capabilities=["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"],
            Parameters=[
                {"ParameterKey": key, "ParameterValue": self.edge["OriginSecretArn"]}
                if key == "OriginSecretArn"
                else {"ParameterKey": key, "UsePreviousValue": True}
                for key in (each["ParameterKey"] for each in described["Parameters"])
            ],
        )
        waiter = formation.get_waiter("stack_update_complete")
        waiter.wait(StackName=_STACK, WaiterConfig={"Delay": 1, "MaxAttempts": 120})

    def directly(self, runtime: str) -> int:
        """Call a side past the edge; return the status of its answer."""
        stack = cloud.describe(self.endpoint, _STACK)
        assert stack
        name = {"lambda": "LambdaApiUrl", "fargate": "FargateApiUrl"}[runtime]
        return httpx.get(f"{cloud.stack_outputs(stack)[name]}/orders", timeout=60).status_code

    def switch(self, to: str, *more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                *(sys.executable, "-m", "scripts.switch", to, "--stack", _STACK),
                *("--front", self.endpoint, "--drain-seconds", "3", *more),
            ],
            cwd=ROOT,
            env={**os.environ, **aws_environ(self.endpoint)},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    state = tmp_path_factory.mktemp("switch")
    try:
        endpoint = cloud.start(state)
        outputs = cloud.deploy(endpoint, _STACK, runtime="lambda", parameters={"FargateMinTasks": "1"})
        site = Site(endpoint, outputs, _deploy_edge(endpoint, outputs))
        site.close_the_origins()
        yield site
    finally:
        cloud.stop(state)


def _deploy_edge(endpoint: str, outputs: dict[str, str]) -> dict[str, str]:
    values = {name: outputs[name] for name in ("LambdaOriginDomain", "DocumentsBucketName")}
    return cloud.create_stack(endpoint, _EDGE, ROOT / "edge/template.yaml", values)


@dataclass
class Load:
    """Callers who place orders, change them and read them back, all the time, and believe nothing."""

    site: Site
    sent: Counter[str] = field(default_factory=Counter)
    answered_by: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    orders: list[dict[str, Any]] = field(default_factory=list)
    # The emulator is one process for the database and the control plane; busy with a stack, it may not
    # answer the application in time, which says so (503, Retry-After). Callers then ask again, as they do.
    # That is no failure of the switch if the database, which we ask all the time, did not answer us either.
    refused: list[tuple[float, float]] = field(default_factory=list)
    silences: list[tuple[float, float]] = field(default_factory=list)
    slowest_seconds: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Load:
        self._threads = [threading.Thread(target=self._call, args=(n,)) for n in range(_THREADS)]
        self._threads.append(threading.Thread(target=self._listen_to_the_database))
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(90)
        assert not any(thread.is_alive() for thread in self._threads)

    def _call(self, caller: int) -> None:
        number = 0
        with self.site.visitor() as api:
            while not self._stop.wait(_PAUSE_SECONDS):
                number += 1
                self._one_order(api, f"switch-{caller}-{number}")

    def _listen_to_the_database(self) -> None:
        database = cloud.client(self.site.endpoint, "dynamodb")
        while not self._stop.wait(_PAUSE_SECONDS):
            started = time.monotonic()
            database.list_tables()
            if time.monotonic() - started >= ATTEMPT_SECONDS:
                self.silences.append((started, time.monotonic()))

    def refused_without_reason(self) -> list[tuple[float, float]]:
        """Return when the application said that the database is late, although it was not."""
        return [
            (begun, ended)
            for begun, ended in self.refused
            if not any(start < ended and begun < end for start, end in self.silences)
        ]

    def _one_order(self, api: httpx.Client, key: str) -> None:
        body = {"customer": f"Caller {key}", "product": "Widget", "quantity": 1 + len(key) % 5}
        headers = {"idempotency-key": key}
        placed = self._ask(api, 201, "POST", "/orders", json=body, headers=headers)
        if placed is None:
            return
        order = placed.json()
        self._expect(order.items() >= body.items(), f"another order: {order}")
        one = f"/orders/{order['id']}"
        changed = self._ask(
            api, 200, "PUT", f"{one}/status", json={"status": "shipped"}, headers={"if-match": '"1"'}
        )
        read = self._ask(api, 200, "GET", one)
        if changed is None or read is None:
            return
        self._expect(read.json() == changed.json(), f"read {read.text} after {changed.text}")
        again = self._ask(api, 201, "POST", "/orders", json=body, headers=headers)
        self._expect(again is None or again.json() == order, "an idempotency key made another order")
        about = self._ask(api, 200, "GET", "/")
        if about is not None:
            self.answered_by[about.json()["runtime"]] += 1
        self.orders.append(read.json())

    def _ask(
        self, api: httpx.Client, status: int, method: str, path: str, **more: Any
    ) -> httpx.Response | None:
        started = time.monotonic()
        self.sent[method] += 1
        try:
            answer = api.request(method, path, **more)
        except httpx.HTTPError as error:
            self.wrong.append(f"{method} {path}: {error!r}")
            return None
        finally:
            self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - started)
        if answer.status_code == 503 and ":dependency-unavailable" in answer.text:
            self.refused.append((started, time.monotonic()))
            # A PUT may have been done all the same, and then its If-Match would be stale.
            if self._stop.wait(int(answer.headers["retry-after"])) or method == "PUT":
                return None
            return self._ask(api, status, method, path, **more)
        if answer.status_code != status:
            self.wrong.append(f"{method} {path}: {answer.status_code} {answer.text[:200]}")
            return None
        return answer

    def _expect(self, right: bool, what: str) -> None:
        if not right:
            self.wrong.append(what)


def test_a_side_that_is_not_there_gets_nothing(site: Site) -> None:
    planned = site.switch("fargate", "--plan")
    assert planned.stdout.strip() == "raise -> ask -> move -> watch -> drain -> forget -> remove"
    assert site.switch("lambda").stdout.startswith("lambda serves already, and alone.")


def test_no_request_fails_while_the_runtime_is_switched_and_switched_back(site: Site) -> None:
    report: dict[str, Any] = {"switches": []}
    with Load(site) as load:
        for to in ("fargate", "lambda"):
            time.sleep(2)
            started = time.monotonic()
            done = site.switch(to)
            report["switches"].append(
                {"to": to, "seconds": round(time.monotonic() - started, 1), "steps": done.stdout.splitlines()}
            )
            assert done.returncode == 0, done.stdout + done.stderr
            assert site.directly(to) == 403
            stack = cloud.describe(site.endpoint, _STACK)
            assert stack
            outputs = cloud.stack_outputs(stack)
            assert outputs["Runtime"] == to
            assert ("LambdaApiUrl" in outputs, "FargateApiUrl" in outputs) == (
                to == "lambda",
                to == "fargate",
            )
        time.sleep(2)
    report |= {
        "requests": sum(load.sent.values()),
        "by_method": dict(load.sent),
        "orders": len(load.orders),
        "answered_by": dict(load.answered_by),
        "failed_or_wrong": len(load.wrong) + len(load.refused_without_reason()),
        "refused_while_the_database_was_silent": len(load.refused) - len(load.refused_without_reason()),
        "first_wrong": load.wrong[:10],
        "slowest_seconds": round(load.slowest_seconds, 2),
    }
    (ROOT / "reports").mkdir(exist_ok=True)
    (ROOT / "reports/switch.json").write_text(json.dumps(report, indent=2) + "\n")

    assert load.wrong == []
    assert load.refused_without_reason() == []
    assert len(load.orders) > 20
    assert set(load.answered_by) == {"lambda", "fargate"}
    with site.visitor() as api:  # what one side was told, the other still knows
        for order in random.sample(load.orders, 20):
            assert api.get(f"/orders/{order['id']}").json() == order
