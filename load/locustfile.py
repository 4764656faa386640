"""`make load API=https://... USERS=64 SECONDS=60`: orders placed, read, moved along and listed on any API.

Each user waits for nobody; an answer counts as failed if its status is not the expected one, or if it shows
another order than the one asked for. The process ends with 1 when anything failed.
"""

from __future__ import annotations

import collections
import os
import random
import uuid
from typing import Any

from locust import FastHttpUser, constant, events, task
from locust.env import Environment

_RECENT = 50


class Caller(FastHttpUser):
    """One caller: mostly reads, some writes, now and then a list."""

    wait_time = constant(0)
    network_timeout = 30.0
    connection_timeout = 30.0

    def on_start(self) -> None:
        """Begin with an order of one's own."""
        token = os.environ.get("TOKEN")
        self.authorization = {"Authorization": f"Bearer {token}"} if token else {}
        self.mine: collections.deque[dict[str, Any]] = collections.deque(maxlen=_RECENT)
        self.place()

    @task(2)
    def place(self) -> None:
        """Place an order under a fresh idempotency key."""
        body = {"customer": f"Caller {random.randrange(1000)}", "product": "Widget", "quantity": 5}  # noqa: S311
        headers = self.authorization | {"Idempotency-Key": str(uuid.uuid4())}
        with self.client.post("/orders", json=body, headers=headers, catch_response=True) as answer:
            if answer.status_code != 201:
                answer.failure(f"placing: {answer.status_code}")
            elif (order := answer.json())["customer"] != body["customer"]:
                answer.failure("placing: another order came back")
            else:
                self.mine.append(order)

    @task(6)
    def read(self) -> None:
        """Read an order of one's own."""
        if not self.mine:
            return
        order = random.choice(self.mine)  # noqa: S311
        path, name = f"/orders/{order['id']}", "/orders/{id}"
        with self.client.get(path, name=name, headers=self.authorization, catch_response=True) as answer:
            if answer.status_code != 200:
                answer.failure(f"reading: {answer.status_code}")
            elif answer.json()["id"] != order["id"]:
                answer.failure("reading: another order came back")

    @task(1)
    def ship(self) -> None:
        """Ship an order of one's own that has not been shipped."""
        if not self.mine:
            return
        order = self.mine.popleft()
        path, name, body = f"/orders/{order['id']}/status", "/orders/{id}/status", {"status": "shipped"}
        with self.client.put(
            path, name=name, json=body, headers=self.authorization, catch_response=True
        ) as answer:
            if answer.status_code != 200:
                answer.failure(f"shipping: {answer.status_code}")
            elif answer.json()["version"] != 2:
                answer.failure("shipping: not the next version")

    @task(1)
    def browse(self) -> None:
        """List the newest orders."""
        with self.client.get("/orders?limit=20", headers=self.authorization, catch_response=True) as answer:
            if answer.status_code != 200:
                answer.failure(f"listing: {answer.status_code}")


@events.quitting.add_listener
def verdict(environment: Environment, **_: Any) -> None:
    """Say what came out, in one line."""
    total = environment.stats.total
    print(  # noqa: T201
        f"load: {total.num_requests} requests, {total.num_failures} failed, {total.total_rps:.0f}/s, "
        f"p50 {total.get_response_time_percentile(0.5)} ms, p99 {total.get_response_time_percentile(0.99)} ms"
    )
    if not total.num_requests:
        environment.process_exit_code = 1
