"""Whatever is done to an order at the same time comes out as if done one after the other (linearizability).

Hypothesis makes batches of calls on one idempotency key; a batch runs at once against the database, and some
sequence of its calls, run on a plain model, must give the very same answers and the same order at the end.
"""

from __future__ import annotations

import asyncio
import itertools
import uuid
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from localcloud.embedded import EmbeddedAws

from orders import domain, service
from orders.adapters.dynamodb import DynamoOrderStore
from orders.adapters.lean_client import LeanClient
from orders.adapters.memory import FixedCursorKey, MemoryDocumentStore
from orders.domain import ANYONE, TRANSITIONS, OrderStatus, order_id_for
from orders.errors import IdempotencyKeyReused, IllegalTransition, OrderNotFound, VersionConflict
from orders.service import OrderService


@dataclass(frozen=True)
class Place:
    quantity: int


@dataclass(frozen=True)
class Change:
    target: OrderStatus
    version: int | None


Call = Place | Change
# What a call answered: the name of its error, or status, version, quantity and whether it was a replay.
Answer = str | tuple[OrderStatus, int, int, bool]


@dataclass(frozen=True)
class Model:
    """One order, or none yet; every rule of `docs` and nothing else."""

    status: OrderStatus | None = None
    version: int = 0
    quantity: int = 0

    def after(self, call: Call) -> tuple[Model, Answer]:
        if isinstance(call, Place):
            if self.status is None:
                placed = Model(OrderStatus.PENDING, 1, call.quantity)
                return placed, (OrderStatus.PENDING, 1, call.quantity, False)
            if call.quantity != self.quantity:
                return self, "IdempotencyKeyReused"
            return self, (OrderStatus.PENDING, 1, self.quantity, True)
        if self.status is None:
            return self, "OrderNotFound"
        if call.version is not None and call.version != self.version:
            return self, "VersionConflict"
        if call.target == self.status:
            return self, (self.status, self.version, self.quantity, False)
        if call.target not in TRANSITIONS[self.status]:
            return self, "IllegalTransition"
        moved = replace(self, status=call.target, version=self.version + 1)
        return moved, (moved.status or call.target, moved.version, moved.quantity, False)


async def answer(orders: OrderService, key: str, call: Call) -> Answer:
    try:
        if isinstance(call, Place):
            placed = await orders.place_order(ANYONE, "c", "p", call.quantity, key)
            found = placed.order
            return found.status, found.version, found.quantity, placed.replayed
        found = await orders.change_status(ANYONE, order_id_for(ANYONE, key), call.target, call.version)
        return found.status, found.version, found.quantity, False
    except (IdempotencyKeyReused, IllegalTransition, OrderNotFound, VersionConflict) as refused:
        return type(refused).__name__


def possible_ends(models: set[Model], calls: list[Call], answers: list[Answer]) -> set[Model]:
    """Return every state that some sequence of the calls with these answers can end in."""
    ends = set()
    for start, turn in itertools.product(models, itertools.permutations(range(len(calls)))):
        model = start
        for n in turn:
            model, said = model.after(calls[n])
            if said != answers[n]:
                break
        else:
            ends.add(model)
    return ends


PLACES = st.builds(Place, st.sampled_from([1, 1, 2]))
CHANGES = st.builds(Change, st.sampled_from(OrderStatus), st.none() | st.integers(1, 3))
BATCHES = st.lists(st.lists(PLACES | CHANGES, min_size=1, max_size=5), min_size=1, max_size=3)


@pytest.fixture
def table(aws: EmbeddedAws, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in aws.environ.items():
        monkeypatch.setenv(name, value)
    return aws.outputs["OrdersTableName"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=BATCHES)
def test_calls_at_once_come_out_as_calls_in_turn(table: str, batches: list[list[Call]]) -> None:
    async def case() -> None:
        client = LeanClient("dynamodb", "DynamoDB_20120810")
        store = DynamoOrderStore(client, table, 4)
        orders = OrderService(store, MemoryDocumentStore(), FixedCursorKey())
        key = str(uuid.uuid4())
        models = {Model()}
        for calls in batches:
            answers = list(await asyncio.gather(*(answer(orders, key, call) for call in calls)))
            models = possible_ends(models, calls, answers)
            assert models, f"no sequence of {calls} gives {answers}"
        stored = await store.get(order_id_for(ANYONE, key))
        client.close()
        found = Model(stored.status, stored.version, stored.quantity) if stored else Model()
        assert found in models

    asyncio.run(asyncio.wait_for(case(), 60))


def test_a_clock_that_goes_back_loses_no_change(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers disagree about the time; what counts is the version."""

    async def case() -> None:
        client = LeanClient("dynamodb", "DynamoDB_20120810")
        orders = OrderService(DynamoOrderStore(client, table, 4), MemoryDocumentStore(), FixedCursorKey())
        placed = (await orders.place_order(ANYONE, "c", "p", 1)).order
        monkeypatch.setattr(service, "now", lambda: domain.now() - timedelta(hours=1))
        shipped = await orders.change_status(ANYONE, placed.id, OrderStatus.SHIPPED, 1)
        assert (shipped.status, shipped.version) == (OrderStatus.SHIPPED, 2)
        delivered = await orders.change_status(ANYONE, placed.id, OrderStatus.DELIVERED, 2)
        assert (await orders.get_order(ANYONE, placed.id)) == delivered
        early = (await orders.place_order(ANYONE, "c", "p", 2)).order
        listed = await orders.list_orders(ANYONE, 100, customer="c")
        client.close()
        ids = [order.id for order in listed.orders]
        assert ids.index(placed.id) < ids.index(early.id)  # by the clock that placed each, and both are there

    asyncio.run(asyncio.wait_for(case(), 60))
