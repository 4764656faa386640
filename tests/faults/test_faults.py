"""Orders placed and changed while everything under them fails: nothing acknowledged may be lost or doubled.

    make faults               one round with a fresh seed
    make faults SEED=7        the same round again (the seed fixes every choice, not the scheduler's)
    make faults ROUNDS=10     ten seeds in a row

A round: clients place orders and move them along through a real server, over a proxy that throttles, fails,
delays, cuts and loses calls to DynamoDB, EventBridge and S3, while server, relay and receipts are killed and
a service goes down for a while. Then only calls still fail, fewer, until all is done; then the invariants.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from localcloud.embedded import EmbeddedAws, embedded_aws
from tests.faults.proxy import FaultProxy
from tests.support import AN_ORDER

ROOT = Path(__file__).parents[2]
SEED = int(os.environ.get("SEED") or random.randrange(1_000_000))  # noqa: S311
ROUNDS = int(os.environ.get("ROUNDS") or 1)
ORDERS = 80
CLIENTS = 8
CHAOS_SECONDS = 15
PATIENCE_SECONDS = 60


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """The API server on a fixed port, to be killed and started again."""

    def __init__(self, environ: dict[str, str]) -> None:
        self.port = free_port()
        # There is no folder for temporary files: the task's file system is read-only too.
        self._environ = (
            os.environ | environ | {"PORT": str(self.port), "PYTHONPATH": "src", "TMPDIR": "/nowhere"}
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "orders.server"],
            cwd=ROOT,
            env=self._environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    @contextmanager
    def running(self) -> Iterator[None]:
        self.start()
        try:
            yield
        finally:
            self.kill()


class Acknowledged:
    """What clients were told, under one lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.versions: dict[str, list[int]] = defaultdict(list)  # order id -> versions answered, in turn
        self.keys: dict[str, set[str]] = defaultdict(set)  # idempotency key -> order ids answered

    def note(self, key: str, order: dict[str, Any]) -> None:
        with self._lock:
            self.keys[key].add(order["id"])
            self.versions[order["id"]].append(order["version"])


def until(done: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if result := done():
            return result
        time.sleep(0.2)
    raise AssertionError(f"after {PATIENCE_SECONDS} s still: {what}")


def insist(call: Callable[[], httpx.Response]) -> dict[str, Any]:
    """Repeat the request until it is answered, as a client does; only 2xx, 503 and silence are allowed."""

    def attempt() -> dict[str, Any] | None:
        try:
            answer = call()
        except httpx.TransportError:
            return None
        assert answer.status_code in (200, 201, 503), answer.text
        if answer.status_code == 503:
            assert answer.headers["retry-after"]
            return None
        found: dict[str, Any] = answer.json()
        return found

    result: dict[str, Any] = until(attempt, "no answer")
    return result


def use(api: httpx.Client, told: Acknowledged, key: str, steps: list[str]) -> None:
    """Place one order and move it along; the order is noted each time it is acknowledged."""
    order = insist(lambda: api.post("/orders", json=AN_ORDER, headers={"idempotency-key": key}))
    told.note(key, order)
    for status in steps:
        body = {"status": status}
        told.note(key, insist(lambda body=body: api.put(f"/orders/{order['id']}/status", json=body)))  # type: ignore[misc]


def chaos(
    rng: random.Random, proxy: FaultProxy, server: Server, emulator: int, over: threading.Event
) -> None:
    """Break things until the clients are done, and a while longer: relay and receipts come after them."""
    began = time.monotonic()
    proxy.rate = 0.35
    while (elapsed := time.monotonic() - began) < CHAOS_SECONDS:
        if over.is_set() and elapsed > CHAOS_SECONDS / 2:
            break
        time.sleep(rng.uniform(0.2, 1.0))
        deed = rng.choice(["kill server", "kill relay", "kill receipts", "down", "down"])
        if deed == "kill server":
            server.kill()
            server.start()
        elif deed == "down":
            service = rng.choice(["dynamodb", "events", "s3"])
            proxy.down.add(service)
            time.sleep(rng.uniform(0.2, 1.5))
            proxy.down.discard(service)
            deed = f"{service} down for a while"
        elif not kill_function(emulator, deed.removeprefix("kill ")):
            continue
        proxy.happened[deed] += 1
    proxy.rate = 0.15  # nothing is killed any more, but relay and receipts still have to work through this


def kill_function(emulator: int, name: str) -> bool:
    """Kill the processes that run the function, below the emulator's process."""
    listed = subprocess.run(
        ["ps", "-o", "pid=,args=", "-s", str(emulator)], capture_output=True, text=True, check=False
    ).stdout.splitlines()
    pids = [int(line.split()[0]) for line in listed if f"orders.{name}_handler.handler" in line]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    return bool(pids)


class Observer:
    """Keeps every event of the bus, from a queue of its own."""

    def __init__(self, aws: EmbeddedAws) -> None:
        keys = {"endpoint_url": aws.endpoint, "region_name": aws.environ["AWS_REGION"]}
        keys |= {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
        self.sqs = boto3.client("sqs", **keys)
        self.s3 = boto3.client("s3", **keys)
        self.dynamodb = boto3.resource("dynamodb", **keys)
        events = boto3.client("events", **keys)
        self.queue = self.sqs.create_queue(QueueName="observer")["QueueUrl"]
        arn = self.sqs.get_queue_attributes(QueueUrl=self.queue, AttributeNames=["QueueArn"])["Attributes"]
        bus = aws.outputs["OrdersEventBusName"]
        events.put_rule(Name="observer", EventBusName=bus, EventPattern='{"source": ["orders"]}')
        events.put_targets(
            Rule="observer", EventBusName=bus, Targets=[{"Id": "observer", "Arn": arn["QueueArn"]}]
        )
        self.receipts_queue = aws.resources["ReceiptsQueue"]
        self.dead_letters = aws.resources["ReceiptsDeadLetterQueue"]
        # What failed comes back in seconds, not in the three minutes that a real function may need.
        self.sqs.set_queue_attributes(QueueUrl=self.receipts_queue, Attributes={"VisibilityTimeout": "2"})
        self.seen: Counter[str] = Counter()
        self.order_of: dict[str, list[int]] = defaultdict(list)

    def collect(self) -> None:
        while messages := self.sqs.receive_message(QueueUrl=self.queue, MaxNumberOfMessages=10).get(
            "Messages"
        ):
            for message in messages:
                event = json.loads(message["Body"])["detail"]
                self.seen[event["event_id"]] += 1
                self.order_of[event["order"]["id"]].append(event["order"]["version"])
                self.sqs.delete_message(QueueUrl=self.queue, ReceiptHandle=message["ReceiptHandle"])

    def redrive(self) -> int:
        """Send what the consumer gave up on back to it, as the operator does once the fault is mended."""
        moved = 0
        while messages := self.sqs.receive_message(QueueUrl=self.dead_letters, MaxNumberOfMessages=10).get(
            "Messages"
        ):
            for message in messages:
                self.sqs.send_message(QueueUrl=self.receipts_queue, MessageBody=message["Body"])
                self.sqs.delete_message(QueueUrl=self.dead_letters, ReceiptHandle=message["ReceiptHandle"])
                moved += 1
        return moved


@pytest.mark.timeout(60 + 200 * ROUNDS)
@pytest.mark.parametrize("turn", range(ROUNDS))
def test_nothing_is_lost_or_doubled(turn: int, capsys: pytest.CaptureFixture[str]) -> None:
    seed = SEED + turn
    rng = random.Random(seed)  # noqa: S311
    proxy = FaultProxy(seed)
    told = Acknowledged()
    port = free_port()
    proxy.upstream = ("127.0.0.1", port)
    with (
        proxy.running() as url,
        embedded_aws(port=port, environ={"LOCALCLOUD_FUNCTIONS_ENDPOINT": url}) as aws,
    ):
        observer = Observer(aws)
        server = Server(aws.environ | {"AWS_ENDPOINT_URL": url})
        with server.running(), httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=12) as api:
            over = threading.Event()
            breaker = threading.Thread(target=chaos, args=(rng, proxy, server, aws.process.pid, over))
            journeys = [
                rng.choice([[], ["shipped"], ["processing", "shipped", "delivered"], ["cancelled"]])
                for _ in range(ORDERS)
            ]
            breaker.start()
            try:
                with ThreadPoolExecutor(CLIENTS) as pool:
                    done = [
                        pool.submit(use, api, told, f"{seed}-{n}", steps) for n, steps in enumerate(journeys)
                    ]
                    for each in done:
                        each.result()
            finally:
                over.set()
                breaker.join()

        stored = {
            item["id"]: item
            for item in observer.dynamodb.Table(aws.outputs["OrdersTableName"]).scan()["Items"]
        }
        expected = {
            f"{order_id}:{n}" for order_id, item in stored.items() for n in range(1, int(item["version"]) + 1)
        }

        def all_events() -> bool:
            observer.collect()
            return expected <= set(observer.seen)

        def all_receipts() -> set[str] | None:
            redriven[0] += observer.redrive()
            listed = observer.s3.list_object_versions(
                Bucket=aws.outputs["DocumentsBucketName"], Prefix="receipts/"
            )
            keys = [version["Key"] for version in listed.get("Versions", [])]
            assert len(keys) == len(set(keys)), "a receipt was written twice"
            written = {Path(key).stem for key in keys}
            return written if set(stored) <= written else None

        redriven = [0]
        until(all_events, f"events are missing: {sorted(expected - set(observer.seen))}")
        written = until(all_receipts, "receipts are missing")

    violations = {
        "acknowledged and lost": set(told.versions) - set(stored),
        "stored without being asked for": set(stored) - set(told.versions),
        "placed twice under one key": {key for key, ids in told.keys.items() if len(ids) > 1},
        "older than acknowledged": {
            i for i, v in told.versions.items() if i in stored and stored[i]["version"] < max(v)
        },
        "versions went back": {i for i, v in told.versions.items() if v != sorted(set(v))},
        "events of nothing": set(observer.seen) - expected,
        "receipts of nothing": written - set(stored),
    }
    total = sum(map(len, violations.values()))
    report = [
        f"\nfaults, seed {seed}: {len(stored)} orders, {len(expected)} events "
        f"({sum(observer.seen.values()) - len(expected)} repeated), {len(written)} receipts, "
        f"{redriven[0]} redriven",
        "  calls: " + ", ".join(f"{count} {service}" for service, count in sorted(proxy.calls.items())),
        *(f"  {count:4} x {what}" for what, count in sorted(proxy.happened.items())),
        f"  violations: {total}; again: make faults SEED={seed}\n",
    ]
    with capsys.disabled():
        sys.stdout.write("\n".join(report))
    assert not any(violations.values()), violations
    assert sum(proxy.happened.values()) > 10, "hardly anything went wrong: that proves nothing"
