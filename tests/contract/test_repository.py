"""What every repository does: one suite over resources, memory and DynamoDB."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import boto3
import msgspec
import pytest
from localcloud.running import Emulator
from msgspec import structs
from tests.builders import a_product, an_order

from app.core.aws.client import AwsClient
from app.core.dynamodb.codec import Codec
from app.core.dynamodb.repository import DynamoRepository, Table
from app.core.ids import new_id
from app.core.memory import MemoryRepository
from app.core.models import Id, Model, Owner, UtcTime, Version
from app.core.store import Page, Query, Repository
from app.core.times import now
from app.orders.memory import MemoryOrderRepository
from app.orders.models import Order, OrderStatus
from app.orders.repository import DynamoOrderRepository, OrderRepository
from app.products.models import Category, Product


@dataclass(frozen=True)
class Resource:
    """A resource, and what the suite has to know of it: a field to change, and two to filter by."""

    build: Callable[..., Any]
    in_memory: Callable[[], Any]
    in_table: Callable[[Table], Any]
    change: tuple[str, Any, Any]  # name, value before, value after
    texts: tuple[str, str]  # a field of text, and one of an enumeration that is filtered by
    indexed: bool

    def fresh(self, **changes: Any) -> Any:
        moment = now()
        return self.build(**({"id": new_id(), "created_at": moment, "updated_at": moment} | changes))


RESOURCES = {
    "orders": Resource(
        an_order,
        MemoryOrderRepository,
        DynamoOrderRepository,
        ("status", OrderStatus.PENDING, OrderStatus.SHIPPED),
        ("customer", "status"),
        indexed=True,
    ),
    "products": Resource(
        a_product,
        lambda: MemoryRepository(Product),
        lambda table: DynamoRepository(table, Product, "product"),
        ("category", Category.OTHER, Category.TOOLS),
        ("name", "category"),
        indexed=False,
    ),
}


@pytest.fixture(params=sorted(RESOURCES))
def resource(request: pytest.FixtureRequest) -> Resource:
    return RESOURCES[request.param]


@pytest.fixture
def table(dynamodb_client: AwsClient | None, request: pytest.FixtureRequest) -> Table | None:
    if dynamodb_client is None:
        return None
    return Table(dynamodb_client, request.getfixturevalue("aws").outputs["OrdersTableName"], shards=4)


@pytest.fixture
def store(resource: Resource, table: Table | None) -> Repository[Any]:
    return resource.in_memory() if table is None else resource.in_table(table)


class TestCreate:
    async def test_stores_every_field(self, store: Repository[Any], resource: Resource) -> None:
        text = resource.texts[0]
        entity = resource.fresh(**{text: "Zoë 北京 🚚"}, version=1_000_000, owner="alice")
        created = await store.create(entity, "fingerprint")
        assert (created.entity, created.created, created.fingerprint) == (entity, True, "fingerprint")
        assert await store.get(entity.id) == entity

    async def test_the_first_one_stays(self, store: Repository[Any], resource: Resource) -> None:
        first = await create(store, resource)
        again = await store.create(structs.replace(first, version=99), "other")
        assert (again.entity, again.created, again.fingerprint) == (first, False, "f")
        assert await store.get(first.id) == first

    async def test_ten_racing_twins_make_one(self, store: Repository[Any], resource: Resource) -> None:
        entity_id = new_id()
        twins = [resource.fresh(id=entity_id, version=n) for n in range(1, 11)]
        results = await asyncio.gather(*(store.create(twin, str(twin.version)) for twin in twins))
        assert sum(result.created for result in results) == 1
        assert len({result.entity.version for result in results}) == 1
        assert len({result.fingerprint for result in results}) == 1


class TestGet:
    async def test_an_unknown_one_is_none(self, store: Repository[Any]) -> None:
        assert await store.get(new_id()) is None

    async def test_what_another_resource_has_is_none(
        self, store: Repository[Any], resource: Resource, table: Table | None
    ) -> None:
        others = [other for other in RESOURCES.values() if other is not resource]
        if table is None:
            pytest.skip("in memory each resource has its own dictionary")
        for other in others:
            entity = await create(other.in_table(table), other, owner=f"alice {uuid.uuid4()}")
            assert await store.get(entity.id) is None
            assert (await store.page(Query(10, owner=entity.owner))).items == []


class TestUpdate:
    async def test_sets_field_version_and_time_and_nothing_else(
        self, store: Repository[Any], resource: Resource
    ) -> None:
        entity = await create(store, resource)
        name, before, after = resource.change
        at = entity.created_at + timedelta(seconds=1)
        result = await store.update(entity.id, {name: after, "updated_at": at}, allowed={name: [before]})
        expected = structs.replace(entity, **{name: after}, version=2, updated_at=at)
        assert (result.updated, result.entity) == (True, expected)
        assert await store.get(entity.id) == expected

    @pytest.mark.parametrize(
        "field", ["allowed", "nothing allowed", "owner", "owner before", "version", "version with owner"]
    )
    async def test_rejects_and_shows_what_is_stored(
        self, store: Repository[Any], resource: Resource, field: str
    ) -> None:
        name, _before, after = resource.change
        more: dict[str, Any] = {
            "allowed": {"allowed": {name: [after]}},
            "nothing allowed": {"allowed": {name: []}},
            "owner": {"owner": "bob"},
            "owner before": {"owner": "aaron"},
            "version": {"version": 2},
            "version with owner": {"version": 0, "owner": "alice"},
        }[field]
        entity = await create(store, resource, owner="alice")
        result = await store.update(entity.id, {name: after, "updated_at": now()}, **more)
        assert (result.updated, result.entity) == (False, entity)
        assert await store.get(entity.id) == entity

    async def test_an_unknown_one_is_not_made(self, store: Repository[Any], resource: Resource) -> None:
        entity_id = new_id()
        name, before, after = resource.change
        for allowed in ({name: [before]}, None):
            result = await store.update(entity_id, {name: after, "updated_at": now()}, allowed=allowed)
            assert (result.updated, result.entity) == (False, None)
        assert await store.get(entity_id) is None

    async def test_of_ten_at_once_on_one_version_exactly_one_wins(
        self, store: Repository[Any], resource: Resource
    ) -> None:
        entity = await create(store, resource)
        name, before, after = resource.change
        changes = {name: after, "updated_at": now()}
        results = await asyncio.gather(
            *(store.update(entity.id, changes, allowed={name: [before, after]}, version=1) for _ in range(10))
        )
        assert sum(result.updated for result in results) == 1
        stored = await store.get(entity.id)
        assert stored is not None
        assert stored.version == 2
        assert all(result.entity == stored for result in results)


class LosesAnswers:
    """A client that carries every write out, loses the answer, and sends the same again."""

    def __init__(self, client: AwsClient) -> None:
        self._client = client

    async def call(self, operation: str, request: dict[str, Any], response_type: type[Any] = dict) -> Any:
        if operation in ("PutItem", "UpdateItem"):
            await self._client.call(operation, request)
        return await self._client.call(operation, request, response_type)


@pytest.mark.parametrize("dynamodb_client", ["json client", "boto3"], indirect=True)
class TestLostAnswers:
    """The rejection of the second try shows what the first one wrote; `write_id` tells whose it is."""

    @pytest.fixture
    def lossy(self, dynamodb_client: AwsClient, aws: Emulator, resource: Resource) -> Repository[Any]:
        lossy = LosesAnswers(dynamodb_client)
        return resource.in_table(Table(lossy, aws.outputs["OrdersTableName"], shards=4))  # type: ignore[no-any-return]

    async def test_it_is_created_by_its_own_first_try(
        self, lossy: Repository[Any], resource: Resource
    ) -> None:
        entity = resource.fresh()
        created = await lossy.create(entity, "f")
        assert (created.entity, created.created) == (entity, True)
        again = await lossy.create(entity, "f")
        assert (again.entity, again.created) == (entity, False)

    @pytest.mark.parametrize("version", [1, None])
    async def test_it_is_updated_once_by_its_own_first_try(
        self, lossy: Repository[Any], resource: Resource, version: int | None
    ) -> None:
        entity = await create(lossy, resource)
        name, before, after = resource.change
        changes, allowed = {name: after, "updated_at": now()}, {name: [before]}
        result = await lossy.update(entity.id, changes, allowed=allowed, version=version)
        assert result.updated
        assert result.entity is not None
        assert (getattr(result.entity, name), result.entity.version) == (after, 2)
        again = await lossy.update(entity.id, changes, allowed=allowed, version=version)
        assert (again.updated, again.entity) == (False, result.entity)


class TestPage:
    async def test_pages_are_complete_and_newest_first_while_others_are_created(
        self, store: Repository[Any], resource: Resource
    ) -> None:
        created = [(await create(store, resource)).id for _ in range(50)]
        seen: list[str] = []
        start_after: str | None = None
        for _ in range(100):
            page = await store.page(Query(7, start_after=start_after))
            seen += [entity.id for entity in page.items]
            start_after = page.next_key
            if start_after is None:
                break
            await create(store, resource)
        assert [entity_id for entity_id in seen if entity_id in created] == created[::-1]
        assert len(seen) == len(set(seen))

    async def test_a_page_that_is_just_full_is_the_last(
        self, store: Repository[Any], resource: Resource
    ) -> None:
        owner = f"alice {uuid.uuid4()}"
        created = [await create(store, resource, owner=owner) for _ in range(3)]
        assert await store.page(Query(3, owner)) == Page(created[::-1], None)

    async def test_narrows_to_owner_and_filters(self, store: Repository[Any], resource: Resource) -> None:
        text, kind = resource.texts
        _, before, after = resource.change
        one, two, ann = (f"{name} {uuid.uuid4()}" for name in ("one", "two", "Ann"))
        mine = await create(store, resource, owner=one, **{text: ann})
        await create(store, resource, owner=one, **{text: "Bob"})
        other = await create(store, resource, owner=two, **{text: ann})
        changed = (await store.update(other.id, {kind: after, "updated_at": now()})).entity

        async def found(owner: str | None = None, **filters: Any) -> list[Any]:
            return await every(store, Query(10, owner=owner, filters=filters))

        assert len(await found(one)) == 2
        assert await found(one, **{text: ann}) == [mine]
        assert await found(**{text: ann}) == [changed, mine]
        assert await found(**{text: ann, kind: after}) == [changed]
        assert await found(**{text: ann, kind: None}) == [changed, mine]
        assert await found(one, **{kind: after}) == []
        assert len(await found(one, **{kind: before})) == 2
        assert await found(**{text: f"nobody {ann}"}) == []

    @pytest.mark.parametrize("dynamodb_client", ["json client", "boto3"], indirect=True)
    async def test_an_item_that_is_older_than_a_field_has_its_default(
        self, store: Repository[Any], resource: Resource, aws: Emulator
    ) -> None:
        if resource is not RESOURCES["products"]:
            pytest.skip("no field with a default was added to orders yet")
        owner = f"alice {uuid.uuid4()}"
        entity = await create(store, resource, owner=owner)
        boto3.client("dynamodb").update_item(
            TableName=aws.outputs["OrdersTableName"],
            Key={"pk": {"S": f"product#{entity.id}"}},
            UpdateExpression="REMOVE category",
        )
        assert await store.get(entity.id) == entity
        for query in (Query(10, owner), Query(10, owner, {"category": Category.OTHER})):
            assert (await store.page(query)).items == [entity]
        assert (await store.page(Query(10, owner, {"category": Category.TOOLS}))).items == []
        changes = {"price_cents": 5, "updated_at": now()}
        wrong = await store.update(entity.id, changes, allowed={"category": [Category.TOOLS]})
        assert (wrong.updated, wrong.entity) == (False, entity)
        right = await store.update(entity.id, changes, allowed={"category": [Category.OTHER]})
        assert right.updated


class Note(Model):
    """An entity with fields that may be None; the index by-filter holds its tag."""

    id: Id
    version: Version
    created_at: UtcTime
    updated_at: UtcTime
    owner: Owner = None
    text: str | None
    tag: str | None = None
    is_done: bool = False


class TestFieldsThatMayBeNone:
    @pytest.fixture
    def notes(self, table: Table | None) -> Repository[Any]:
        if table is None:
            return MemoryRepository(Note)
        return DynamoRepository(table, Note, "note", indexed="tag")

    async def test_none_is_stored_changed_and_found(self, notes: Repository[Any]) -> None:
        urgent, later = f"urgent {uuid.uuid4()}", f"later {uuid.uuid4()}"

        async def tagged(tag: str) -> list[Any]:
            return await every(notes, Query(10, filters={"tag": tag}))

        async def update(note: Any, changes: dict[str, Any], allowed: dict[str, Any]) -> Any:
            result = await notes.update(note.id, changes, allowed=allowed)
            assert result.updated
            assert await notes.get(note.id) == result.entity
            return result.entity

        moment = now()
        note = Note(id=new_id(), version=1, created_at=moment, updated_at=moment, text=None)
        await notes.create(note, "f")
        assert await notes.get(note.id) == note
        note = await update(note, {"tag": urgent, "text": "call", "is_done": True}, {"tag": [None]})
        assert (note.tag, note.text, note.is_done) == (urgent, "call", True)
        assert await tagged(urgent) == [note]
        note = await update(note, {"tag": later}, {"text": ["call", None]})
        assert [await tagged(urgent), await tagged(later)] == [[], [note]]
        note = await update(note, {"tag": None, "text": None}, {"is_done": [True]})
        assert (note.tag, note.text) == (None, None)
        assert [await tagged(urgent), await tagged(later)] == [[], []]
        assert not (await notes.update(note.id, {"is_done": False}, allowed={"tag": [later]})).updated

    def test_no_other_default_goes_with_it(self) -> None:
        class Wrong(Note):
            color: str | None = "red"

        with pytest.raises(TypeError, match="color may be None, so its default has to be None"):
            Codec(Wrong)


async def create(store: Repository[Any], resource: Resource, **changes: Any) -> Any:
    return (await store.create(resource.fresh(**changes), "f")).entity


async def every(store: Repository[Any], query: Query) -> list[Any]:
    found: list[Any] = []
    for _ in range(1_000):
        page: Page[Any] = await store.page(query)
        found += page.items
        if page.next_key is None:
            return found
        query = structs.replace(query, start_after=page.next_key)
    raise AssertionError("the list did not end")


class CountsReads:
    """A client that keeps what DynamoDB says of every Query: items read, and capacity used."""

    def __init__(self, client: AwsClient) -> None:
        self._client = client
        self.queries: list[tuple[int, float]] = []

    async def call(self, operation: str, request: dict[str, Any], response_type: type[Any] = dict) -> Any:
        answer = await self._client.call(operation, {**request, "ReturnConsumedCapacity": "TOTAL"})
        if operation == "Query":
            self.queries.append((answer["ScannedCount"], answer["ConsumedCapacity"]["CapacityUnits"]))
        return msgspec.convert(answer, response_type)


class TestForeignOrders:
    """What others have neither shows in an owner's list, nor in its pages, nor in what it costs."""

    @pytest.fixture
    def reads(self, dynamodb_client: AwsClient | None) -> CountsReads | None:
        return CountsReads(dynamodb_client) if dynamodb_client else None

    @pytest.fixture
    def orders(self, reads: CountsReads | None, request: pytest.FixtureRequest) -> OrderRepository:
        if reads is None:
            return MemoryOrderRepository()
        aws: Emulator = request.getfixturevalue("aws")
        return DynamoOrderRepository(Table(reads, aws.outputs["OrdersTableName"], shards=4))

    async def test_a_thousand_of_the_same_customer_change_nothing(
        self, orders: OrderRepository, reads: CountsReads | None
    ) -> None:
        alice, mallory, ann = (f"{name} {uuid.uuid4()}" for name in ("alice", "mallory", "Ann"))
        newest = now()

        def aged(seconds: float, owner: str) -> Order:
            moment = newest - timedelta(seconds=seconds)
            return RESOURCES["orders"].fresh(owner=owner, customer=ann, created_at=moment, updated_at=moment)

        async def pages(**filters: Any) -> list[tuple[list[Order], str | None]]:
            found, before = [], None
            for _ in range(100):
                page = await orders.page(Query(3, alice, filters, before))
                found.append((page.items, page.next_key))
                before = page.next_key
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

        for number in range(10):
            await orders.create(aged(number, alice), "f")
        alone = await walks()
        assert [len(orders) for orders, _ in alone[0][1]] == [3, 3, 3, 1]
        for batch in range(20):
            foreign = [aged(batch / 2 + number / 100, mallory) for number in range(50)]
            await asyncio.gather(*(orders.create(order, "f") for order in foreign))
        assert await walks() == alone


class TestUploads:
    """What is counted of attachments and uploads, so that callers at once do not get past the bounds."""

    @pytest.fixture
    def orders(self, table: Table | None) -> OrderRepository:
        return MemoryOrderRepository() if table is None else DynamoOrderRepository(table)

    async def test_an_order_has_so_many_attachments_and_no_more(self, orders: OrderRepository) -> None:
        order = await create(orders, RESOURCES["orders"])
        added = await asyncio.gather(*(orders.add_attachment(order.id, f"{n}.pdf", 3) for n in range(10)))
        assert sum(added) == 3
        again = [await orders.add_attachment(order.id, f"{n}.pdf", 3) for n in range(10)]
        assert again == added  # those that are there are replaced, the others still rejected
        assert await orders.add_attachment(new_id(), "0.pdf", 3)

    async def test_an_owner_is_given_so_many_bytes_a_day_and_no_more(self, orders: OrderRepository) -> None:
        alice, bob = f"alice {uuid.uuid4()}", f"bob {uuid.uuid4()}"
        today = now().date()
        reserved = await asyncio.gather(*(orders.reserve_upload(alice, today, 30, 100) for _ in range(10)))
        assert sum(reserved) == 3
        assert not await orders.reserve_upload(alice, today, 11, 100)
        assert await orders.reserve_upload(alice, today, 10, 100)
        assert not await orders.reserve_upload(alice, today, 1, 100)
        assert await orders.reserve_upload(alice, today + timedelta(days=1), 100, 100)
        assert await orders.reserve_upload(bob, today, 100, 100)
        assert await orders.reserve_upload(None, date(2026, 1, 2), 1, 100)

    @pytest.mark.parametrize("dynamodb_client", ["json client"], indirect=True)
    async def test_what_is_counted_is_neither_an_order_nor_kept_for_ever(
        self, orders: OrderRepository, aws: Emulator
    ) -> None:
        owner, table = f"alice {uuid.uuid4()}", boto3.client("dynamodb")
        order = await create(orders, RESOURCES["orders"], owner=owner)
        assert await orders.add_attachment(order.id, "a.pdf", 3)
        assert await orders.reserve_upload(owner, date(2026, 1, 2), 1, 100)
        assert await orders.get(order.id) == order
        assert (await orders.page(Query(10, owner))).items == [order]
        key = {"pk": {"S": f"uploads#2026-01-02#{owner}"}}
        item = table.get_item(TableName=aws.outputs["OrdersTableName"], Key=key)["Item"]
        assert datetime.fromtimestamp(int(item["expires_at"]["N"]), UTC) == datetime(2026, 1, 4, tzinfo=UTC)


async def test_is_healthy(store: Repository[Any]) -> None:
    await store.check_health()
