"""What every `OrderStore` does: one suite over memory and DynamoDB."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import boto3
import msgspec
import pytest
from localcloud.embedded import EmbeddedAws
from tests.support import an_order

from app.core.aws.client import AwsClient
from app.core.dynamodb.memory import MemoryOrderStore
from app.core.dynamodb.repository import DynamoOrderStore
from app.orders.models import Order, OrderStatus, new_order_id, now, sources_of
from app.orders.ports import OrderQuery, OrderStore

Run = Callable[[Awaitable[None]], None]


def a_fresh_order(**changes: object) -> Order:
    moment = now()
    return an_order(**({"id": new_order_id(), "created_at": moment, "updated_at": moment} | changes))


async def place(store: OrderStore, **changes: object) -> Order:
    return (await store.place(a_fresh_order(**changes), "f")).order


class TestPlace:
    def test_stores_every_field(self, store: OrderStore, run: Run) -> None:
        async def case() -> None:
            order = a_fresh_order(customer="Zoë 北京 🚚", quantity=1_000_000, owner="alice")
            placed = await store.place(order, "fingerprint")
            assert (placed.order, placed.created, placed.fingerprint) == (order, True, "fingerprint")
            assert await store.get(order.id) == order

        run(case())

    def test_the_first_one_stays(self, store: OrderStore, run: Run) -> None:
        async def case() -> None:
            first = await place(store)
            again = await store.place(first._replace(quantity=99), "other")
            assert (again.order, again.created, again.fingerprint) == (first, False, "f")
            assert await store.get(first.id) == first

        run(case())

    def test_ten_racing_twins_make_one_order(self, store: OrderStore, run: Run) -> None:
        async def case() -> None:
            order_id = new_order_id()
            twins = [a_fresh_order(id=order_id, quantity=n) for n in range(1, 11)]
            placed = await asyncio.gather(*(store.place(twin, str(twin.quantity)) for twin in twins))
            assert sum(each.created for each in placed) == 1
            assert len({each.order.quantity for each in placed}) == 1
            assert len({each.fingerprint for each in placed}) == 1

        run(case())


class TestGet:
    def test_an_unknown_order_is_none(self, store: OrderStore, run: Run) -> None:
        async def case() -> None:
            assert await store.get(new_order_id()) is None

        run(case())


class TestChangeStatus:
    def test_sets_status_version_and_time_and_nothing_else(self, store: OrderStore, run: Run) -> None:
        async def case() -> None:
            order = await place(store)
            at = order.created_at + timedelta(seconds=1)
            change = await store.change_status(
                order.id, OrderStatus.SHIPPED, sources=sources_of(OrderStatus.SHIPPED), at=at
            )
            expected = order._replace(status=OrderStatus.SHIPPED, version=2, updated_at=at)
            assert change.changed
            assert change.order == expected
            assert await store.get(order.id) == expected

        run(case())

    @pytest.mark.parametrize(
        ("target", "owner", "version"),
        [
            (OrderStatus.DELIVERED, None, None),  # from pending: not a source
            (OrderStatus.PENDING, None, None),  # has no source at all
            (OrderStatus.SHIPPED, "bob", None),
            (OrderStatus.SHIPPED, None, 2),
            (OrderStatus.SHIPPED, "alice", 0),
        ],
    )
    def test_refuses_and_shows_what_is_stored(
        self, store: OrderStore, run: Run, target: OrderStatus, owner: str | None, version: int | None
    ) -> None:
        async def case() -> None:
            order = await place(store, owner="alice")
            change = await store.change_status(
                order.id, target, sources=sources_of(target), at=now(), owner=owner, version=version
            )
            assert (change.changed, change.order) == (False, order)
            assert await store.get(order.id) == order

        run(case())

    def test_an_unknown_order_is_not_made(self, store: OrderStore, run: Run) -> None:
        async def case() -> None:
            order_id = new_order_id()
            sources = sources_of(OrderStatus.SHIPPED)
            change = await store.change_status(order_id, OrderStatus.SHIPPED, sources=sources, at=now())
            assert (change.changed, change.order) == (False, None)
            assert await store.get(order_id) is None

        run(case())

    def test_of_ten_at_once_on_one_version_exactly_one_wins(self, store: OrderStore, run: Run) -> None:
        async def case() -> None:
            order = await place(store)
            targets = [OrderStatus.SHIPPED, OrderStatus.CANCELLED] * 5
            changes = await asyncio.gather(
                *(
                    store.change_status(order.id, t, sources=sources_of(t), at=now(), version=1)
                    for t in targets
                )
            )
            assert sum(change.changed for change in changes) == 1
            stored = await store.get(order.id)
            assert stored is not None
            assert stored.version == 2
            assert all(change.order == stored for change in changes)

        run(case())


class LosesAnswers:
    """A client that carries every write out, loses the answer, and sends the same again."""

    def __init__(self, client: AwsClient) -> None:
        self._client = client

    async def call(self, operation: str, request: dict[str, Any], shape: type[Any] = dict) -> Any:
        if operation in ("PutItem", "UpdateItem"):
            await self._client.call(operation, request)
        return await self._client.call(operation, request, shape)


@pytest.mark.parametrize("dynamodb_client", ["lean client", "boto3"], indirect=True)
class TestLostAnswers:
    """The refusal of the second try shows what the first one wrote; `write_id` tells whose it is."""

    @pytest.fixture
    def lossy(self, dynamodb_client: AwsClient, aws: EmbeddedAws) -> OrderStore:
        return DynamoOrderStore(LosesAnswers(dynamodb_client), aws.outputs["OrdersTableName"], shards=4)

    def test_an_order_is_placed_by_its_own_first_try(self, lossy: OrderStore, run: Run) -> None:
        async def case() -> None:
            order = a_fresh_order()
            placed = await lossy.place(order, "f")
            assert (placed.order, placed.created) == (order, True)
            again = await lossy.place(order, "f")
            assert (again.order, again.created) == (order, False)

        run(case())

    @pytest.mark.parametrize("version", [1, None])
    def test_a_status_is_changed_once_by_its_own_first_try(
        self, lossy: OrderStore, run: Run, version: int | None
    ) -> None:
        async def case() -> None:
            order = await place(lossy)
            sources = sources_of(OrderStatus.SHIPPED)
            change = await lossy.change_status(
                order.id, OrderStatus.SHIPPED, sources=sources, at=now(), version=version
            )
            assert change.changed
            assert change.order is not None
            assert (change.order.status, change.order.version) == (OrderStatus.SHIPPED, 2)
            again = await lossy.change_status(
                order.id, OrderStatus.SHIPPED, sources=sources, at=now(), version=version
            )
            assert (again.changed, again.order) == (False, change.order)

        run(case())


class TestPage:
    def test_pages_are_complete_and_newest_first_while_others_are_placed(
        self, store: OrderStore, run: Run
    ) -> None:
        async def case() -> None:
            placed = [(await place(store)).id for _ in range(50)]
            seen: list[str] = []
            before: str | None = None
            for _ in range(100):
                page = await store.page(OrderQuery(limit=7, before=before))
                seen += [order.id for order in page.orders]
                before = page.next_before
                if before is None:
                    break
                await place(store)
            assert [order_id for order_id in seen if order_id in placed] == placed[::-1]
            assert len(seen) == len(set(seen))

        run(case())

    def test_narrows_to_owner_customer_and_status(self, store: OrderStore, run: Run) -> None:
        async def case() -> None:
            one, two, ann = (f"{name} {uuid.uuid4()}" for name in ("one", "two", "Ann"))
            mine = await place(store, owner=one, customer=ann)
            await place(store, owner=one, customer="Bob")
            other = await place(store, owner=two, customer=ann)
            sources = sources_of(OrderStatus.SHIPPED)
            shipped = (
                await store.change_status(other.id, OrderStatus.SHIPPED, sources=sources, at=now())
            ).order

            async def ids(query: OrderQuery) -> list[Order]:
                return (await store.page(query)).orders

            assert len(await ids(OrderQuery(limit=10, owner=one))) == 2
            assert await ids(OrderQuery(limit=10, owner=one, customer=ann)) == [mine]
            assert await ids(OrderQuery(limit=10, customer=ann)) == [shipped, mine]
            assert await ids(OrderQuery(limit=10, customer=ann, status=OrderStatus.SHIPPED)) == [shipped]
            assert await ids(OrderQuery(limit=10, owner=one, status=OrderStatus.SHIPPED)) == []
            assert await ids(OrderQuery(limit=10, customer=f"nobody {ann}")) == []

        run(case())


class CountsReads:
    """A client that keeps what DynamoDB says of every Query: items read, and capacity used."""

    def __init__(self, client: AwsClient) -> None:
        self._client = client
        self.queries: list[tuple[int, float]] = []

    async def call(self, operation: str, request: dict[str, Any], shape: type[Any] = dict) -> Any:
        answer = await self._client.call(operation, {**request, "ReturnConsumedCapacity": "TOTAL"})
        if operation == "Query":
            self.queries.append((answer["ScannedCount"], answer["ConsumedCapacity"]["CapacityUnits"]))
        return msgspec.convert(answer, shape)


class TestForeignOrders:
    """What others have neither shows in an owner's list, nor in its pages, nor in what it costs."""

    @pytest.fixture
    def reads(self, dynamodb_client: AwsClient | None) -> CountsReads | None:
        return CountsReads(dynamodb_client) if dynamodb_client else None

    @pytest.fixture
    def store(self, reads: CountsReads | None, request: pytest.FixtureRequest) -> OrderStore:
        if reads is None:
            return MemoryOrderStore()
        aws: EmbeddedAws = request.getfixturevalue("aws")
        return DynamoOrderStore(reads, aws.outputs["OrdersTableName"], shards=4)

    def test_a_thousand_of_the_same_customer_change_nothing(
        self, store: OrderStore, reads: CountsReads | None, run: Run
    ) -> None:
        alice, mallory, ann = (f"{name} {uuid.uuid4()}" for name in ("alice", "mallory", "Ann"))
        newest = now()

        def aged(seconds: float, owner: str) -> Order:
            moment = newest - timedelta(seconds=seconds)
            return a_fresh_order(owner=owner, customer=ann, created_at=moment, updated_at=moment)

        async def pages(**filters: Any) -> list[tuple[list[Order], str | None]]:
            found, before = [], None
            for _ in range(100):
                page = await store.page(OrderQuery(limit=3, owner=alice, before=before, **filters))
                found.append((page.orders, page.next_before))
                before = page.next_before
                if before is None:
                    return found
            raise AssertionError("the list did not end")

        async def walks() -> list[Any]:
            filtered = [
                await pages(),
                await pages(customer=ann),
                await pages(status=OrderStatus.PENDING),
                await pages(customer=ann, status=OrderStatus.PENDING),
                await pages(customer=ann, status=OrderStatus.SHIPPED),
                await pages(customer="nobody"),
            ]
            queries = list(reads.queries) if reads else []
            if reads:
                reads.queries.clear()
            return [filtered, queries]

        async def case() -> None:
            for number in range(10):
                await store.place(aged(number, alice), "f")
            alone = await walks()
            assert [len(orders) for orders, _ in alone[0][1]] == [3, 3, 3, 1]
            for batch in range(20):
                foreign = [aged(batch / 2 + number / 100, mallory) for number in range(50)]
                await asyncio.gather(*(store.place(order, "f") for order in foreign))
            assert await walks() == alone

        run(case())


class TestUploads:
    """What is counted of attachments and uploads, so that callers at once do not get past the bounds."""

    def test_an_order_has_so_many_attachments_and_no_more(self, store: OrderStore, run: Run) -> None:
        async def case() -> None:
            order = await place(store)
            added = await asyncio.gather(*(store.add_attachment(order.id, f"{n}.pdf", 3) for n in range(10)))
            assert sum(added) == 3
            again = [await store.add_attachment(order.id, f"{n}.pdf", 3) for n in range(10)]
            assert again == added  # those that are there are replaced, the others still refused
            assert await store.add_attachment(new_order_id(), "0.pdf", 3)

        run(case())

    def test_an_owner_is_given_so_many_bytes_a_day_and_no_more(self, store: OrderStore, run: Run) -> None:
        async def case() -> None:
            alice, bob = f"alice {uuid.uuid4()}", f"bob {uuid.uuid4()}"
            today = now().date()
            reserved = await asyncio.gather(*(store.reserve_upload(alice, today, 30, 100) for _ in range(10)))
            assert sum(reserved) == 3
            assert not await store.reserve_upload(alice, today, 11, 100)
            assert await store.reserve_upload(alice, today, 10, 100)
            assert not await store.reserve_upload(alice, today, 1, 100)
            assert await store.reserve_upload(alice, today + timedelta(days=1), 100, 100)
            assert await store.reserve_upload(bob, today, 100, 100)
            assert await store.reserve_upload(None, date(2026, 1, 2), 1, 100)

        run(case())

    @pytest.mark.parametrize("dynamodb_client", ["lean client"], indirect=True)
    def test_what_is_counted_is_neither_an_order_nor_kept_for_ever(
        self, store: OrderStore, run: Run, aws: EmbeddedAws
    ) -> None:
        owner, table = f"alice {uuid.uuid4()}", boto3.client("dynamodb")

        async def case() -> None:
            order = await place(store, owner=owner)
            assert await store.add_attachment(order.id, "a.pdf", 3)
            assert await store.reserve_upload(owner, date(2026, 1, 2), 1, 100)
            assert await store.get(order.id) == order
            assert (await store.page(OrderQuery(limit=10, owner=owner))).orders == [order]

        run(case())
        key = {"pk": {"S": f"uploads#2026-01-02#{owner}"}}
        item = table.get_item(TableName=aws.outputs["OrdersTableName"], Key=key)["Item"]
        assert datetime.fromtimestamp(int(item["expires_at"]["N"]), UTC) == datetime(2026, 1, 4, tzinfo=UTC)


def test_answers_a_ping(store: OrderStore, run: Run) -> None:
    run(store.ping())
