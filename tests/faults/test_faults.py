"""Every resource created and changed while all under it fails: nothing acknowledged may be lost or doubled.

    make faults               one round with a fresh seed
    make faults SEED=7        the same round again (the seed fixes every choice, not the scheduler's)
    make faults ROUNDS=10     ten seeds in a row

A round: clients add products, place orders and move these along through a real server, over a proxy that
throttles, fails, delays, cuts and loses calls to DynamoDB, EventBridge and S3. Meanwhile server, relay and
receipts are killed, each before and after its call to the next in line, and services go down, one for longer
than any retry lasts. All of it happens in every round, in a sequence of its own. Then only calls still fail,
fewer, until all is done; then the invariants.
"""

from __future__ import annotations

import gc
import itertools
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
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import httpx
import pytest
from localcloud.running import Emulator, free_port, running_emulator
from scripts.dlq import DeadLetterQueues
from scripts.stack import Stack
from tests.builders import AN_ORDER
from tests.faults.proxy import FAULTS, SERVICES, FaultProxy

from app.orders.models import TRANSITIONS, OrderStatus
from app.resources import RESOURCES

ROOT = Path(__file__).parents[2]
SEED = int(os.environ.get("SEED") or random.randrange(1_000_000))  # noqa: S311
ROUNDS = int(os.environ.get("ROUNDS") or 1)
CLIENTS = 8
LONG_SECONDS = 10  # json_client.DEADLINE_SECONDS is six
PATIENCE_SECONDS = 60
HANDLERS = {"relay": "app.entrypoints.lambda_relay.handler", "receipts": "app.orders.receipts.handler"}


class Resource(NamedTuple):
    """How the clients create one: `text` is the field that gets a name of its own."""

    entity: str
    body: dict[str, Any]
    text: str


CREATED = {
    "orders": Resource("order", AN_ORDER, "customer"),
    "products": Resource("product", {"name": "", "price_cents": 1999}, "name"),
}
# As on a full disk, no file can be written; and then none may be needed.
ON_A_FULL_DISK = ("/bin/sh", "-c", 'ulimit -f 0 && exec "$0" "$@"', sys.executable)


class Server:
    """The API server on a fixed port, to be killed and started again."""

    def __init__(self, environ: dict[str, str]) -> None:
        self.port = free_port()
        self._environ = os.environ | environ | {"PORT": str(self.port), "PYTHONPATH": "src"}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [*ON_A_FULL_DISK, "-m", "app.entrypoints.server"],
            cwd=ROOT,
            env=self._environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def restart(self) -> None:
        self.kill()
        self.start()

    @contextmanager
    def running(self) -> Iterator[None]:
        self.start()
        try:
            yield
        finally:
            self.kill()


class Told:
    """What clients were told, under one lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.statuses: dict[str, list[tuple[int, str]]] = defaultdict(list)  # by entity: versions, in turn
        self.keys: dict[str, set[str]] = defaultdict(set)  # idempotency key -> ids of responses
        self.unsure: set[str] = set()  # names in requests without a key that got no response
        self.wrong: list[str] = []

    def note(self, entity: dict[str, Any], key: str = "") -> None:
        with self._lock:
            self.statuses[entity["id"]].append((entity["version"], entity.get("status", "")))
            if key:
                self.keys[key].add(entity["id"])


def until(done: Callable[[], Any], what: str, missing: Callable[[], object] = str) -> Any:
    """Wait for the answer for as long as what is missing changes: a busy machine is slow, not wrong."""
    deadline, left = time.monotonic() + PATIENCE_SECONDS, missing()
    while time.monotonic() < deadline:
        if result := done():
            return result
        if (now := missing()) != left:
            deadline, left = time.monotonic() + PATIENCE_SECONDS, now
        time.sleep(0.2)
    raise AssertionError(f"nothing changed for {PATIENCE_SECONDS} s: {what} {left}")


def attempt(call: Callable[[], httpx.Response]) -> httpx.Response | None:
    """Return the answer, None for silence or a 503."""
    try:
        answer = call()
    except httpx.TransportError:
        return None
    if answer.status_code == 503:
        assert answer.headers["retry-after"]
        return None
    return answer


def insist(call: Callable[[], httpx.Response]) -> tuple[httpx.Response, bool]:
    """Repeat the request until it is answered, as a client does; return whether the first try was."""
    if first := attempt(call):
        return first, True
    return until(lambda: attempt(call), "no answer"), False


def work(seed: str, api: httpx.Client, told: Told, over: threading.Event) -> None:
    """Create entities, with and without a key, and move orders along, until told that it is over."""
    rng = random.Random(seed)  # noqa: S311
    number = 0
    while not over.is_set():
        number += 1
        for name in RESOURCES:
            entity = create(name, f"{seed}-{name}-{number}", rng.random() < 0.7, api, told)
            if name == "orders":
                order = entity
        for status in rng.choice([[], ["shipped"], ["processing", "shipped", "delivered"], ["cancelled"]]):
            if order:
                order = move(order, status, api, told)
        time.sleep(rng.uniform(0, 0.3))


def create(resource: str, name: str, with_key: bool, api: httpx.Client, told: Told) -> dict[str, Any] | None:
    body, path = CREATED[resource].body | {CREATED[resource].text: name}, f"/{resource}"
    if not with_key:  # nobody may repeat this one for the client, and it does not
        answer = attempt(lambda: api.post(path, json=body))
        if answer is None:
            told.unsure.add(name)
            return None
        first = True
    else:
        answer, first = insist(lambda: api.post(path, json=body, headers={"idempotency-key": name}))
    assert answer.status_code == 201, answer.text
    if first and "idempotent-replayed" in answer.headers:
        told.wrong.append(f"{name}: called a replay of itself")
    entity: dict[str, Any] = answer.json()
    told.note(entity, key=name if with_key else "")
    return entity


def move(order: dict[str, Any], status: str, api: httpx.Client, told: Told) -> dict[str, Any]:
    path, condition = f"/orders/{order['id']}/status", {"if-match": f'"{order["version"]}"'}
    answer, first = insist(lambda: api.put(path, json={"status": status}, headers=condition))
    found: dict[str, Any] = answer.json()
    if answer.status_code == 412:
        # Nobody else changes this order: a try before, of which the client heard nothing, has done it.
        found = found["current"]
        if first or (found["version"], found["status"]) != (order["version"] + 1, status):
            told.wrong.append(f"{order['id']}: {status} rejected in favour of {found}")
    else:
        assert answer.status_code == 200, answer.text
    told.note(found)
    return found


def chaos(rng: random.Random, proxy: FaultProxy, server: Server, emulator: int) -> None:
    """Do every deed once, in a sequence of the seed's."""

    def killed(service: str, moment: str, kill: Callable[[], None]) -> None:
        with proxy.holding(service, moment):
            kill()

    def down(service: str, seconds: float) -> None:
        proxy.down.add(service)
        time.sleep(seconds)
        proxy.down.discard(service)

    victims: dict[str, tuple[str, Callable[[], None]]] = {
        "server": ("dynamodb", server.restart),
        "relay": ("events", partial(kill_function, emulator, "relay")),
        "receipts": ("s3", partial(kill_function, emulator, "receipts")),
    }
    deeds: dict[str, Callable[[], None]] = {
        f"{victim} killed {moment} its call to {service}": partial(killed, service, moment, kill)
        for victim, (service, kill) in victims.items()
        for moment in ("before", "after")
    }
    deeds |= {f"{service} down": partial(down, service, rng.uniform(0.2, 2)) for service in SERVICES}
    unlucky = rng.choice(SERVICES)
    deeds[f"{unlucky} down for {LONG_SECONDS} s"] = partial(down, unlucky, LONG_SECONDS)
    proxy.rate = 0.35
    for name in rng.sample(sorted(deeds), len(deeds)):
        time.sleep(rng.uniform(0.2, 1.0))
        deeds[name]()
        proxy.happened[name] += 1
    proxy.rate = 0.15  # nothing is killed any more, but relay and receipts still have to work through this


def kill_function(emulator: int, name: str) -> None:
    """Kill the processes that run the function, below the emulator's process."""
    listed = subprocess.run(
        ["ps", "-o", "pid=,args=", "-s", str(emulator)], capture_output=True, text=True, check=False
    ).stdout.splitlines()
    pids = [int(line.split()[0]) for line in listed if HANDLERS[name] in line]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert pids, f"{name} called, and does not run"


class Observer:
    """Keeps every event of the bus, from a queue of its own."""

    def __init__(self, aws: Emulator) -> None:
        keys = {"endpoint_url": aws.endpoint, "region_name": aws.environ["AWS_REGION"]}
        keys |= {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
        self.sqs = boto3.client("sqs", **keys)
        self.s3 = boto3.client("s3", **keys)
        self.dynamodb = boto3.resource("dynamodb", **keys)
        events = boto3.client("events", **keys)
        self.stack = Stack(boto3.client("cloudformation", **keys), "orders-local")
        self.queue = self.sqs.create_queue(QueueName="observer")["QueueUrl"]
        arn = self.sqs.get_queue_attributes(QueueUrl=self.queue, AttributeNames=["QueueArn"])["Attributes"]
        bus = aws.outputs["OrdersEventBusName"]
        events.put_rule(Name="observer", EventBusName=bus, EventPattern='{"source": ["orders"]}')
        events.put_targets(
            Rule="observer", EventBusName=bus, Targets=[{"Id": "observer", "Arn": arn["QueueArn"]}]
        )
        # What failed comes back in seconds, not in the three minutes that a real function may need.
        self.sqs.set_queue_attributes(
            QueueUrl=self.stack.consumers()["receipts"]["QueueUrl"], Attributes={"VisibilityTimeout": "2"}
        )
        self.seen: Counter[str] = Counter()
        self.details: dict[str, dict[str, Any]] = {}  # by event id, as first published
        self.different: set[str] = set()

    def collect(self) -> None:
        while messages := self.sqs.receive_message(QueueUrl=self.queue, MaxNumberOfMessages=10).get(
            "Messages"
        ):
            for message in messages:
                event = json.loads(message["Body"])["detail"]
                self.seen[event["event_id"]] += 1
                if self.details.setdefault(event["event_id"], event) != event:
                    self.different.add(event["event_id"])
                self.sqs.delete_message(QueueUrl=self.queue, ReceiptHandle=message["ReceiptHandle"])


def entity_of(item: dict[str, Any]) -> str:
    return str(item["pk"].partition("#")[0])


def follow_from_each_other(item: dict[str, Any], details: dict[str, dict[str, Any]]) -> bool:
    """Whether the events of a stored entity lead, for an order step by allowed step, to what is stored."""
    if entity_of(item) != "order":  # it never changes
        published = details[f"{item['id']}:1"][entity_of(item)]
        return published == {name: item.get(name) for name in published}
    order = item
    history = [details[f"{order['id']}:{n}"] for n in range(1, int(order["version"]) + 1)]
    statuses = [OrderStatus(event["order"]["status"]) for event in history]
    return (
        statuses[0] == "pending"
        and all(new in TRANSITIONS[old] for old, new in itertools.pairwise(statuses))
        and [event["previous_status"] for event in history[1:]] == statuses[:-1]
        and [event["order"]["version"] for event in history] == list(range(1, len(history) + 1))
        and (statuses[-1], history[-1]["occurred_at"]) == (order["status"], order["updated_at"])
    )


def test_on_a_full_disk_no_file_can_be_written() -> None:
    """Or the server of the next test would prove nothing."""
    command = [*ON_A_FULL_DISK, "-c", "import tempfile; tempfile.TemporaryFile()"]
    tried = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "No usable temporary directory" in tried.stderr


def test_a_call_whose_client_hung_up_goes_on_to_its_end() -> None:
    """Nothing but the proxy holds such a call, so the garbage collector could end it."""
    proxy = FaultProxy(seed=0)
    with socket.create_server(("127.0.0.1", 0)) as upstream, proxy.running():
        proxy.upstream = upstream.getsockname()
        with socket.create_connection(("127.0.0.1", proxy.port)) as client:
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            passed_on, _ = upstream.accept()
        with passed_on:
            time.sleep(0.1)  # for the proxy to hear the client leave
            gc.collect()
            assert proxy.under_way["other"] == 1
            passed_on.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
            until(lambda: not proxy.under_way["other"], "under way")
            assert passed_on.recv(65536).startswith(b"GET / ")
            assert passed_on.recv(1) == b""


@pytest.mark.timeout(60 + 600 * ROUNDS)
@pytest.mark.parametrize("turn", range(ROUNDS))
def test_nothing_is_lost_or_doubled(
    turn: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = SEED + turn
    rng = random.Random(seed)  # noqa: S311
    proxy = FaultProxy(seed)
    told = Told()
    port = free_port()
    proxy.upstream = ("127.0.0.1", port)
    with (
        proxy.running() as url,
        running_emulator(port=port, environ={"LOCALCLOUD_FUNCTIONS_ENDPOINT": url}) as aws,
    ):
        observer = Observer(aws)
        for name, value in aws.environ.items():
            monkeypatch.setenv(name, value)
        said: list[str] = []
        dead = DeadLetterQueues(observer.stack, said.append)
        server = Server(aws.environ | {"AWS_ENDPOINT_URL": url})
        with (
            server.running(),
            httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=12) as api,
            ThreadPoolExecutor(CLIENTS) as pool,
        ):
            over = threading.Event()
            clients = [pool.submit(work, f"{seed}-{n}", api, told, over) for n in range(CLIENTS)]
            try:
                chaos(rng, proxy, server, aws.process.pid)
            finally:
                over.set()
                for client in clients:
                    client.result()

        until(lambda: not proxy.under_way["dynamodb"], "writes on their way")
        stored = {
            item["id"]: item
            for page in observer.dynamodb.meta.client.get_paginator("scan").paginate(
                TableName=aws.outputs["OrdersTableName"]
            )
            for item in page["Items"]
        }
        orders = {entity_id for entity_id, item in stored.items() if entity_of(item) == "order"}
        assert {entity_of(item) for item in stored.values()} == {found.entity for found in CREATED.values()}
        expected = {
            f"{entity_id}:{n}"
            for entity_id, item in stored.items()
            for n in range(1, int(item["version"]) + 1)
        }

        def all_events() -> bool:
            dead.redrive(dead.chosen(["relay"]), really=True)  # as `make dlq` does, once the fault is fixed
            observer.collect()
            return expected <= set(observer.seen)

        written: set[str] = set()

        def all_receipts() -> bool:
            dead.redrive(dead.chosen(["receipts"]), really=True)
            pages = observer.s3.get_paginator("list_object_versions").paginate(
                Bucket=aws.outputs["DocumentsBucketName"], Prefix="receipts/"
            )
            keys = [version["Key"] for page in pages for version in page.get("Versions", [])]
            assert len(keys) == len(set(keys)), "a receipt was written twice"
            written.update(Path(key).stem for key in keys)
            return orders <= written

        until(all_events, "events are missing:", lambda: sorted(expected - set(observer.seen)))
        until(all_receipts, "receipts are missing:", lambda: sorted(orders - written))

    published = {
        event_id: event["order"]["status"] if "order" in event else ""
        for event_id, event in observer.details.items()
    }
    texts = {resource.entity: resource.text for resource in CREATED.values()}
    names = {entity_id: item[texts[entity_of(item)]] for entity_id, item in stored.items()}
    asked = Counter(names.values())
    violations = {
        "acknowledged and lost": set(told.statuses) - set(stored),
        "stored without being asked for": {
            i for i, name in names.items() if i not in told.statuses and name not in told.unsure
        },
        "created twice by one request": {name for name, count in asked.items() if count > 1},
        "created twice under one key": {key for key, ids in told.keys.items() if len(ids) > 1},
        "answered wrongly": set(told.wrong),
        "older than acknowledged": {
            i for i, v in told.statuses.items() if i in stored and stored[i]["version"] < max(v)[0]
        },
        "versions went back": {
            i for i, v in told.statuses.items() if any(a >= b for (a, _), (b, _) in itertools.pairwise(v))
        },
        "told by an event otherwise than to the client": {
            f"{i}:{version}"
            for i, v in told.statuses.items()
            for version, status in v
            if published.get(f"{i}:{version}") != status
        },
        "two events of one id": observer.different,
        "events that do not lead to what is stored": {
            i for i, item in stored.items() if not follow_from_each_other(item, observer.details)
        },
        "events of nothing": set(observer.seen) - expected,
        "receipts of nothing": written - orders,
    }
    found = {kind: sorted(which) for kind, which in violations.items() if which}
    report = [
        f"\nfaults, seed {seed}: {len(orders)} orders, {len(stored) - len(orders)} others, "
        f"{len(expected)} events ({sum(observer.seen.values()) - len(expected)} repeated), "
        f"{len(written)} receipts, {sum(' of ' in line for line in said)} batches redriven",
        "  calls: " + ", ".join(f"{count} {service}" for service, count in sorted(proxy.calls.items())),
        *(f"  {count:4} x {what}" for what, count in sorted(proxy.happened.items())),
        f"  violations: {sum(map(len, found.values()))}; again: make faults SEED={seed}\n",
    ]
    with capsys.disabled():
        sys.stdout.write("\n".join(report))
    assert not found
    faults = {f"{service}: {fault}" for service in SERVICES for fault in FAULTS}
    assert faults <= set(proxy.happened), "what did not go wrong proves nothing"
