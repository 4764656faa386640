"""`make smoke API_URL=...`: place, read, list and cancel an order, as a client would. Standard library only.

Run after each deployment. A check that fails ends it with one line on standard error and exit code 1.
SMOKE_TOKEN is sent as the caller's token. Without one, an API that asks for tokens is checked as far as
anyone may go, and that it really asks; `--access closed` demands that it asks, `open` that it does not.
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from scripts.cli import Arguments, CliError, run_command, say

READY_SECONDS = 120.0  # names spread and first tasks start
WORD_SECONDS = 15.0  # while it waits, it says so this often
LIST_SECONDS = 15.0  # an index follows its table, usually within a second
_REQUEST_SECONDS = 35.0  # longer than the API's own limit


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: Any


class Api:
    """The API at its address."""

    def __init__(self, url: str, token: str = "") -> None:
        self._url, self.token = url.rstrip("/"), token

    def call(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        """Send a request; every answer is returned, none raised, but no answer at all."""
        sent = {"accept": "application/json", "user-agent": "smoke", **(headers or {})}
        data = None
        if body is not None:
            data, sent["content-type"] = json.dumps(body).encode(), "application/json"
        if self.token:
            sent["authorization"] = f"Bearer {self.token}"
        request = urllib.request.Request(self._url + path, data, sent, method=method)  # noqa: S310 (checked in main)
        try:
            with urllib.request.urlopen(request, timeout=_REQUEST_SECONDS) as answer:  # noqa: S310
                return _answer(answer.status, answer)
        except urllib.error.HTTPError as error:
            with error:
                return _answer(error.code, error)
        except (OSError, ValueError) as error:
            raise CliError(f"{method} {path}: no answer from {self._url}: {error}") from None


def _answer(status: int, source: Any) -> Answer:
    raw = source.read()
    try:
        body = json.loads(raw)
    except ValueError:
        body = raw.decode(errors="replace")
    return Answer(status, {k.lower(): v for k, v in source.headers.items()}, body)


def _expect(condition: bool, what: str, answer: Answer) -> None:
    if not condition:
        raise CliError(f"{what}: got {answer.status} {str(answer.body)[:200]}")


def _until(
    seconds: float,
    look: Callable[[], Answer],
    done: Callable[[Answer], bool],
    waiting: Callable[[str], None] = lambda _: None,
) -> Answer:
    """Look until it is done or the time is up; say what it waits for, at once and now and again."""
    deadline, word = time.monotonic() + seconds, 0.0
    while True:
        try:
            answer = look()
            why = f"answers {answer.status}"
        except CliError as failed:
            if time.monotonic() > deadline:
                raise
            why = str(failed)
        else:
            if done(answer) or time.monotonic() > deadline:
                return answer
        if time.monotonic() > word:
            waiting(f"waiting up to {seconds:.0f} s: {why}")
            word = time.monotonic() + WORD_SECONDS
        time.sleep(0.5)


def smoke(
    api: Api, *, access: str = "any", ready_seconds: float = READY_SECONDS, say: Callable[[str], None] = say
) -> None:
    """Go through the API once. Raises CliError at the first thing that is wrong."""
    started = time.monotonic()

    def passed(what: str) -> None:
        say(f"  {time.monotonic() - started:5.1f} s  {what}")

    answer = _until(
        ready_seconds, lambda: api.call("GET", "/health/ready"), lambda a: a.status == 200, waiting=passed
    )
    _expect(answer.status == 200, "GET /health/ready is not 200", answer)
    passed("ready")
    answer = api.call("GET", "/")
    _expect(answer.status == 200 and bool(answer.body.get("version")), "GET / names no version", answer)
    passed(f"version {answer.body['version']} on {answer.body.get('runtime')}")

    customer = f"smoke-{uuid.uuid4()}"
    order = {"customer": customer, "product": "smoke test", "quantity": 1}
    key = {"idempotency-key": str(uuid.uuid4())}
    answer = api.call("POST", "/orders", order, key)
    if answer.status == 401 and access != "open":
        answer = api.call("GET", "/orders")
        _expect(answer.status == 401, "the list of orders is open though placing one is not", answer)
        passed("closed to callers without a token; set SMOKE_TOKEN to go further")
        return
    if access == "closed" and not api.token:
        raise CliError(f"POST /orders without a token must be 401: got {answer.status}")
    _expect(answer.status == 201, "POST /orders is not 201", answer)
    placed = answer.body
    _expect(placed["customer"] == customer and placed["quantity"] == 1, "the order is another", answer)
    passed(f"placed {placed['id']}")

    answer = api.call("POST", "/orders", order, key)
    _expect(answer.body.get("id") == placed["id"], "the same Idempotency-Key made another order", answer)
    passed("placed again under the same key: the same order")

    answer = api.call("GET", f"/orders/{placed['id']}")
    _expect(
        answer.status == 200 and answer.body == placed, "GET /orders/{id} is not the order placed", answer
    )
    passed("read")

    answer = _until(
        LIST_SECONDS,
        lambda: api.call("GET", f"/orders?customer={customer}"),
        lambda a: a.status == 200 and [o["id"] for o in a.body["items"]] == [placed["id"]],
    )
    listed = answer.status == 200 and [o["id"] for o in answer.body["items"]] == [placed["id"]]
    _expect(listed, "GET /orders does not list the order", answer)
    passed("listed")

    answer = api.call("PUT", f"/orders/{placed['id']}/status", {"status": "cancelled"})
    _expect(answer.status == 200, "PUT /orders/{id}/status is not 200", answer)
    passed("cancelled")


def main(argv: list[str] | None = None) -> int:
    """Run the smoke test against the address given; return the exit code."""
    parser = Arguments(prog="make smoke", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("api_url")
    parser.add_argument("--access", default="any", help="any, open or closed")
    given = parser.parse_args(argv)
    if given.access not in ("any", "open", "closed"):
        parser.error(f"ACCESS is open or closed, not {given.access!r}")
    if not given.api_url.startswith(("https://", "http://")):
        parser.error("API_URL must be an http or https address")
    return run_command("make smoke", lambda: _run(given.api_url, given.access))


def _run(url: str, access: str) -> int:
    say(f"smoke test of {url}")
    smoke(Api(url, os.environ.get("SMOKE_TOKEN", "")), access=access)
    say("smoke test passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
