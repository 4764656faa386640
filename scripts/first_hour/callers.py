"""Callers who place orders, change them and read them back, all the time, and believe nothing."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from app.core.aws.json_client import ATTEMPT_SECONDS

_CALLERS = 2
# With five requests a turn this stays far below what the web ACL takes from one address.
_PAUSE_SECONDS = 0.2


@dataclass
class Callers:
    """`visit` makes a client of the API; `database` is asked all the time, too."""

    visit: Callable[[], httpx.Client]
    database: Any
    sent: Counter[str] = field(default_factory=Counter)
    answered_by: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    orders: list[dict[str, Any]] = field(default_factory=list)
    # Where the database does not answer in time, the application says so (503, Retry-After), and callers ask
    # again. That is no fault of the application if the database did not answer us either: the emulator is
    # one process for the database and the control plane.
    rejected: list[tuple[float, float]] = field(default_factory=list)
    silences: list[tuple[float, float]] = field(default_factory=list)
    slowest_seconds: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Callers:
        run = f"{time.time_ns():x}"  # keys of an earlier run are still known
        self._threads = [threading.Thread(target=self._call, args=(f"{run}-{n}",)) for n in range(_CALLERS)]
        self._threads.append(threading.Thread(target=self._listen_to_the_database))
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(90)

    def report(self) -> dict[str, Any]:
        """Return what was sent, who answered, and what failed."""
        unexcused = self.rejected_without_reason()
        return {
            "requests": sum(self.sent.values()),
            "by_method": dict(self.sent),
            "orders": len(self.orders),
            "answered_by": dict(self.answered_by),
            "failed_or_wrong": len(self.wrong) + len(unexcused),
            "rejected_while_the_database_was_silent": len(self.rejected) - len(unexcused),
            "first_wrong": self.wrong[:10],
            "slowest_seconds": round(self.slowest_seconds, 2),
        }

    def rejected_without_reason(self) -> list[tuple[float, float]]:
        """Return when the application said that the database is late, although it was not."""
        return [
            (begun, ended)
            for begun, ended in self.rejected
            if not any(start < ended and begun < end for start, end in self.silences)
        ]

    def _call(self, caller: str) -> None:
        number = 0
        with self.visit() as api:
            while not self._stop.wait(_PAUSE_SECONDS):
                number += 1
                self._one_order(api, f"switch-{caller}-{number}")

    def _listen_to_the_database(self) -> None:
        while not self._stop.wait(_PAUSE_SECONDS):
            started = time.monotonic()
            self.database.list_tables(Limit=1)
            if time.monotonic() - started >= ATTEMPT_SECONDS:
                self.silences.append((started, time.monotonic()))

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
            self.rejected.append((started, time.monotonic()))
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
