"""Whatever is done to orders at the same time comes out as if done one after the other (linearizability).

Hypothesis makes batches of requests of two callers; a batch is sent at once, through the whole application to
the database. For each order, some sequence of the batch, run on a plain model, must give the very same
answers, and when all is quiet the API must show the model's orders and no others. Lists are part of it: the
local AWS emulator keeps its indexes up to date, while those of DynamoDB follow within moments.
"""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, ClassVar

import httpx
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from localcloud.running import Emulator
from tests.builders import AN_ORDER, a_settings, an_app

from app.core import service, times
from app.core.auth.caller import ANONYMOUS, Caller
from app.core.aws.json_client import AwsJsonClient
from app.core.dynamodb.repository import Table
from app.core.ids import id_for
from app.core.memory import FixedCursorKey
from app.orders.memory import MemoryDocumentStore
from app.orders.models import TRANSITIONS, OrderCreate, OrderStatus
from app.orders.repository import DynamoOrderRepository
from app.orders.service import OrderService

CALLERS = ("alice", "bob")
KEYS = ("one", "two")

# What a call said of one order: its status code, and the order where it showed one (and whether as a replay).
Answer = tuple[Any, ...]


@dataclass(frozen=True)
class Ref:
    """An order, by whose it is and the idempotency key that it is placed with."""

    owner: str
    key: str


@dataclass(frozen=True)
class Model:
    """One order, or none yet; every rule of the API and nothing else."""

    status: OrderStatus | None = None
    version: int = 0
    quantity: int = 0

    @property
    def seen(self) -> Answer:
        return (self.status, self.version, self.quantity)


@dataclass(frozen=True)
class Place:
    who: str
    key: str
    quantity: int

    def touches(self, ref: Ref) -> bool:
        return ref == Ref(self.who, self.key)

    def request(self, ids: dict[Ref, str]) -> tuple[str, str, dict[str, str], Any]:
        return "POST", "/orders", {"idempotency-key": self.key}, AN_ORDER | {"quantity": self.quantity}

    def on(self, model: Model, ref: Ref) -> tuple[Model, Answer]:
        if model.status is None:
            placed = Model(OrderStatus.PENDING, 1, self.quantity)
            return placed, (201, *placed.seen, False)
        if self.quantity != model.quantity:
            return model, (422,)
        return model, (201, OrderStatus.PENDING, 1, self.quantity, True)


@dataclass(frozen=True)
class Get:
    who: str
    ref: Ref

    def touches(self, ref: Ref) -> bool:
        return ref == self.ref

    def request(self, ids: dict[Ref, str]) -> tuple[str, str, dict[str, str], Any]:
        return "GET", f"/orders/{ids[self.ref]}", {}, None

    def on(self, model: Model, ref: Ref) -> tuple[Model, Answer]:
        if model.status is None or self.who != ref.owner:
            return model, (404,)
        return model, (200, *model.seen, False)


@dataclass(frozen=True)
class Change:
    who: str
    ref: Ref
    target: OrderStatus
    version: int | None

    def touches(self, ref: Ref) -> bool:
        return ref == self.ref

    def request(self, ids: dict[Ref, str]) -> tuple[str, str, dict[str, str], Any]:
        condition = {} if self.version is None else {"if-match": f'"{self.version}"'}
        return "PUT", f"/orders/{ids[self.ref]}/status", condition, {"status": self.target}

    def on(self, model: Model, ref: Ref) -> tuple[Model, Answer]:
        if model.status is None or self.who != ref.owner:
            return model, (404,)
        if self.version is not None and self.version != model.version:
            return model, (412, *model.seen)
        if self.target == model.status:
            return model, (200, *model.seen, False)
        if self.target not in TRANSITIONS[model.status]:
            return model, (409, *model.seen)
        moved = replace(model, status=self.target, version=model.version + 1)
        return moved, (200, *moved.seen, False)


@dataclass(frozen=True)
class List:
    who: str

    def touches(self, ref: Ref) -> bool:
        return True

    def request(self, ids: dict[Ref, str]) -> tuple[str, str, dict[str, str], Any]:
        return "GET", "/orders?limit=100", {}, None

    def on(self, model: Model, ref: Ref) -> tuple[Model, Answer]:
        return model, () if model.status is None or self.who != ref.owner else model.seen


Call = Place | Get | Change | List

# Most calls are on few orders, for only those can get in each other's way.
WHO = st.sampled_from(["alice", "alice", "alice", "bob"])
REFS = st.builds(Ref, WHO, st.sampled_from(KEYS))
CALLS = (
    st.builds(Place, WHO, st.sampled_from(KEYS), st.sampled_from([1, 1, 2]))
    | st.builds(Change, WHO, REFS, st.sampled_from(OrderStatus), st.none() | st.integers(1, 3))
    | st.builds(Get, WHO, REFS)
    | st.builds(List, WHO)
)


def said(response: httpx.Response, order_id: str) -> Answer:
    """Return what the response says of the order."""
    body = response.json()
    if "items" in body:
        found = [shown(item) for item in body["items"] if item["id"] == order_id]
        assert len(found) <= 1, "listed twice"
        return found[0] if found else ()
    if response.status_code in (200, 201):
        assert response.headers["etag"] == f'"{body["version"]}"'
        return (response.status_code, *shown(body), "idempotent-replayed" in response.headers)
    return (response.status_code, *(shown(body["current"]) if "current" in body else ()))


def shown(order: dict[str, Any]) -> Answer:
    return (order["status"], order["version"], order["quantity"])


def possible_ends(starts: Iterable[Model], ref: Ref, calls: list[Call], answers: list[Answer]) -> set[Model]:
    """Return every state that some sequence of the calls with these answers can end in."""
    ends = set()
    for model, turn in itertools.product(starts, itertools.permutations(range(len(calls)))):
        for n in turn:
            model, answer = calls[n].on(model, ref)
            if answer != answers[n]:
                break
        else:
            ends.add(model)
    return ends


class ByName:
    """An `Authenticator` that believes what it is told."""

    async def caller(self, authorization: str | None) -> Caller:
        return Caller(authorization, frozenset({"orders:read", "orders:write"}))


class OrdersApi(RuleBasedStateMachine):
    """The API over the database, and for each order the states that it may be in."""

    aws: ClassVar[Emulator]

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.database = AwsJsonClient("dynamodb", "DynamoDB_20120810", environ=self.aws.environ)
        store = DynamoOrderRepository(Table(self.database, self.aws.outputs["OrdersTableName"], 4))
        orders = OrderService(store, MemoryDocumentStore(), FixedCursorKey())
        app = an_app(orders, a_settings(log_level="CRITICAL"), ByName())
        self.api = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api.test")
        # Names that no run before had, so that the table is empty as far as these callers can see.
        self.names = {who: f"{who} {uuid.uuid4()}" for who in CALLERS}
        self.models = {Ref(*pair): {Model()} for pair in itertools.product(CALLERS, KEYS)}
        self.ids = {ref: id_for(self.names[ref.owner], ref.key) for ref in self.models}

    def teardown(self) -> None:
        self.database.close()
        self.loop.run_until_complete(self.api.aclose())
        self.loop.close()

    async def send(self, call: Call) -> httpx.Response:
        method, path, headers, body = call.request(self.ids)
        headers |= {"authorization": self.names[call.who]}
        return await self.api.request(method, path, headers=headers, json=body)

    def send_at_once(self, calls: list[Call]) -> list[httpx.Response]:
        async def all_of_them() -> list[httpx.Response]:
            async with asyncio.timeout(60):
                return list(await asyncio.gather(*map(self.send, calls)))

        return self.loop.run_until_complete(all_of_them())

    def check(self, calls: list[Call]) -> list[httpx.Response]:
        """Send the calls at once, and narrow down what states the orders may be in now."""
        responses = self.send_at_once(calls)
        for ref, possible in self.models.items():
            touching = [n for n, call in enumerate(calls) if call.touches(ref)]
            answers = [said(responses[n], self.ids[ref]) for n in touching]
            self.models[ref] = possible_ends(possible, ref, [calls[n] for n in touching], answers)
            assert self.models[ref], f"{ref}: no sequence of {calls} gives {answers} from {possible}"
        return responses

    @rule(calls=st.lists(CALLS, min_size=1, max_size=6))
    def at_once(self, calls: list[Call]) -> None:
        self.check(calls)

    @invariant()
    def when_all_is_quiet_reads_and_lists_show_just_the_model(self) -> None:
        for ref in self.models:
            self.check([Get(ref.owner, ref)])
        for who in CALLERS:
            (listed,) = self.check([List(who)])
            items = listed.json()["items"]
            ids = [item["id"] for item in items]
            assert set(ids) <= {self.ids[ref] for ref in self.models}
            assert items == sorted(items, key=lambda item: (item["created_at"], item["id"]), reverse=True)
            assert self.loop.run_until_complete(self.one_by_one(who)) == ids

    async def one_by_one(self, who: str) -> list[str]:
        """Return the ids of the caller's list, read in pages of one."""
        ids, params = list[str](), {"limit": "1"}
        while True:
            headers = {"authorization": self.names[who]}
            page = (await self.api.get("/orders", params=params, headers=headers)).json()
            ids += [item["id"] for item in page["items"]]
            if page["next_cursor"] is None:
                return ids
            params["cursor"] = page["next_cursor"]


def test_calls_at_once_come_out_as_calls_in_turn(aws: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OrdersApi, "aws", aws, raising=False)
    # A race does not come again when asked to: nothing is won by trying to shrink it.
    quick = settings(max_examples=20, stateful_step_count=5, deadline=None, phases=[Phase.generate])
    run_state_machine_as_test(OrdersApi, settings=quick)


async def test_a_clock_that_goes_back_loses_no_change(aws: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers disagree about the time; what counts is the version."""
    client = AwsJsonClient("dynamodb", "DynamoDB_20120810", environ=aws.environ)
    store = DynamoOrderRepository(Table(client, aws.outputs["OrdersTableName"], 4))
    orders = OrderService(store, MemoryDocumentStore(), FixedCursorKey())
    placed = (await orders.create(ANONYMOUS, OrderCreate(customer="c", product="p", quantity=1))).entity
    monkeypatch.setattr(service, "now", lambda: times.now() - timedelta(hours=1))
    shipped = await orders.change_status(ANONYMOUS, placed.id, OrderStatus.SHIPPED, 1)
    assert (shipped.status, shipped.version) == (OrderStatus.SHIPPED, 2)
    delivered = await orders.change_status(ANONYMOUS, placed.id, OrderStatus.DELIVERED, 2)
    assert (await orders.get(ANONYMOUS, placed.id)) == delivered
    early = (await orders.create(ANONYMOUS, OrderCreate(customer="c", product="p", quantity=2))).entity
    listed = await orders.list(ANONYMOUS, 100, filters={"customer": "c"})
    client.close()
    ids = [order.id for order in listed.items]
    assert ids.index(placed.id) < ids.index(early.id)  # by the clock that placed each, and both are there
