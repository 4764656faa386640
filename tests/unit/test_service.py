"""The use cases, over memory."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule
from msgspec import structs

from app.core.auth.caller import ANONYMOUS, Caller
from app.core.errors import IdempotencyKeyReused, InvalidCursor, NotFound, VersionConflict
from app.core.ids import new_id
from app.core.memory import FixedCursorKey
from app.core.models import fingerprint
from app.core.service import Service
from app.core.store import sort_key
from app.orders.errors import AttachmentTooLarge, IllegalTransition, TooManyAttachments, UploadQuotaExceeded
from app.orders.memory import MemoryDocumentStore, MemoryOrderRepository
from app.orders.models import TRANSITIONS, AttachmentType, NewAttachment, Order, OrderCreate, OrderStatus
from app.orders.service import DAILY_UPLOADS, MAX_ATTACHMENTS, OrderService

ALICE = Caller("alice", frozenset({"orders:read", "orders:write"}))
BOB = Caller("bob", frozenset({"orders:read", "orders:write"}))
ADMIN = Caller("root", frozenset({"orders:admin"}))
BOSS = Caller("boss", frozenset({"orders:admin"}))


def a_service() -> OrderService:
    return OrderService(MemoryOrderRepository(), MemoryDocumentStore(), FixedCursorKey())


async def place(
    service: OrderService, caller: Caller = ANONYMOUS, key: str | None = None, quantity: int = 5
) -> Order:
    return (await service.create(caller, body(quantity), key)).entity


def body(quantity: int = 5) -> OrderCreate:
    return OrderCreate(customer="John Doe", product="Widget", quantity=quantity)


def attachment(name: str, size_bytes: int | None = None) -> NewAttachment:
    return NewAttachment(name=name, content_type=AttachmentType.PDF, size_bytes=size_bytes)


class TestCreate:
    def test_is_pending_at_version_1(self) -> None:
        order = asyncio.run(place(a_service()))
        assert (order.status, order.version) == (OrderStatus.PENDING, 1)
        assert order.created_at == order.updated_at

    def test_a_replay_shows_the_first_answer_whatever_happened_since(self) -> None:
        async def run() -> None:
            service = a_service()
            first = await service.create(ALICE, body(), "key")
            await service.change_status(ALICE, first.entity.id, OrderStatus.SHIPPED)
            again = await service.create(ALICE, body(), "key")
            assert again.entity == first.entity
            assert (first.replayed, again.replayed) == (False, True)

        asyncio.run(run())

    def test_a_replay_is_one_after_a_field_was_added(self) -> None:
        class Later(OrderCreate, forbid_unknown_fields=True):
            priority: str = "normal"

        later = Later(customer="John Doe", product="Widget", quantity=5)
        assert fingerprint(later) == fingerprint(body())
        assert fingerprint(structs.replace(later, priority="high")) != fingerprint(body())

    def test_the_key_with_another_body_is_refused(self) -> None:
        async def run() -> None:
            service = a_service()
            await place(service, key="key")
            with pytest.raises(IdempotencyKeyReused):
                await place(service, key="key", quantity=6)

        asyncio.run(run())

    def test_another_callers_equal_key_is_another_order(self) -> None:
        async def run() -> None:
            service = a_service()
            assert (await place(service, ALICE, "key")).id != (await place(service, BOB, "key")).id

        asyncio.run(run())


class TestChangeStatus:
    @pytest.mark.parametrize("source", OrderStatus)
    @pytest.mark.parametrize("target", OrderStatus)
    def test_follows_the_table(self, source: OrderStatus, target: OrderStatus) -> None:
        async def run() -> None:
            service = a_service()
            order = await place(service)
            for step in PATHS[source]:
                order = await service.change_status(ANONYMOUS, order.id, step)
            if target == source:  # asking again changes nothing
                assert await service.change_status(ANONYMOUS, order.id, target) == order
            elif target in TRANSITIONS[source]:
                changed = await service.change_status(ANONYMOUS, order.id, target)
                assert (changed.status, changed.version) == (target, order.version + 1)
            else:
                with pytest.raises(IllegalTransition) as refused:
                    await service.change_status(ANONYMOUS, order.id, target)
                assert refused.value.current == order

        asyncio.run(run())

    def test_a_stale_version_is_refused_with_the_current_order(self) -> None:
        async def run() -> None:
            service = a_service()
            order = await place(service)
            current = await service.change_status(ANONYMOUS, order.id, OrderStatus.PROCESSING, 1)
            with pytest.raises(VersionConflict) as refused:
                await service.change_status(ANONYMOUS, order.id, OrderStatus.SHIPPED, 1)
            assert refused.value.current == current

        asyncio.run(run())


class TestOwnership:
    def test_others_find_nothing_and_change_nothing(self) -> None:
        async def run() -> None:
            service = a_service()
            order = await place(service, ALICE)
            with pytest.raises(NotFound):
                await service.get(BOB, order.id)
            with pytest.raises(NotFound):
                await service.change_status(BOB, order.id, OrderStatus.SHIPPED)
            assert (await service.list(BOB, 10)).items == []
            assert await service.get(ALICE, order.id) == order
            assert (await service.list(ADMIN, 10)).items == [order]

        asyncio.run(run())

    @pytest.mark.parametrize(
        ("holder", "other"), [(ALICE, BOB), (ADMIN, BOSS), (ADMIN, ALICE), (ALICE, ADMIN)]
    )
    def test_a_cursor_of_another_caller_is_refused(self, holder: Caller, other: Caller) -> None:
        async def run() -> None:
            service = a_service()
            for _ in range(3):
                await place(service, ALICE)
            token = (await service.list(holder, 1)).next_cursor
            assert token is not None
            assert len((await service.list(holder, 1, token)).items) == 1
            with pytest.raises(InvalidCursor):
                await service.list(other, 1, token)

        asyncio.run(run())

    @pytest.mark.parametrize(
        "issued", [None, {"customer": "John Doe"}, {"customer": "John Doe", "status": "pending"}]
    )
    @pytest.mark.parametrize(
        "used", [None, {"customer": "John Doe"}, {"status": "pending"}, {"customer": "x"}]
    )
    def test_a_cursor_is_of_use_with_the_same_filters_only(
        self, issued: dict[str, str] | None, used: dict[str, str] | None
    ) -> None:
        async def run() -> None:
            service = a_service()
            for _ in range(3):
                await place(service, ALICE)
            token = (await service.list(ALICE, 1, filters=issued)).next_cursor
            with nullcontext() if issued == used else pytest.raises(InvalidCursor):
                await service.list(ALICE, 1, token, used)

        asyncio.run(run())

    def test_a_cursor_of_another_resource_is_refused(self) -> None:
        async def run() -> None:
            orders, key = MemoryOrderRepository(), FixedCursorKey()
            service = OrderService(orders, MemoryDocumentStore(), key)
            for _ in range(3):
                await place(service, ALICE)
            token = (await service.list(ALICE, 1)).next_cursor
            with pytest.raises(InvalidCursor):
                await Service("others", orders, key).list(ALICE, 1, token)

        asyncio.run(run())


class Counted:
    """A port that keeps the names of the calls to it."""

    def __init__(self, port: Any, calls: list[str]) -> None:
        self._port = port
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        self._calls.append(name)
        return getattr(self._port, name)


class TestForeignOrders:
    """Another caller's order and one that never was: the same answer, and the same calls for it."""

    @pytest.mark.parametrize(
        ("use_case", "arguments"),
        [
            ("get", ()),
            ("change_status", (OrderStatus.SHIPPED,)),
            ("change_status", (OrderStatus.SHIPPED, 1)),
            ("change_status", (OrderStatus.SHIPPED, 7)),
            ("change_status", (OrderStatus.PENDING,)),
            ("offer_upload", (attachment("a.pdf"),)),
            ("offer_upload", (attachment("a.pdf", 10**9),)),
            ("list_attachments", ()),
            ("receipt_url", ()),
        ],
    )
    def test_is_as_one_that_never_was(self, use_case: str, arguments: tuple[Any, ...]) -> None:
        calls: list[str] = []
        store, documents = Counted(MemoryOrderRepository(), calls), Counted(MemoryDocumentStore(), calls)
        service = OrderService(store, documents, FixedCursorKey())  # type: ignore[arg-type]

        async def outcome(order_id: str) -> tuple[str, list[str]]:
            calls.clear()
            with pytest.raises(NotFound) as refused:
                await getattr(service, use_case)(BOB, order_id, *arguments)
            return str(refused.value).replace(order_id, "it"), [*calls]

        async def case() -> None:
            foreign = await outcome((await place(service, ALICE)).id)
            missing = await outcome(new_id())
            assert foreign == missing
            assert len(foreign[1]) == 1

        asyncio.run(case())


class TestOfferUpload:
    def test_what_is_refused_takes_nothing_of_the_callers_day(self) -> None:
        async def case() -> None:
            service = OrderService(
                MemoryOrderRepository(), MemoryDocumentStore(max_bytes=1), FixedCursorKey()
            )
            order = await place(service, ALICE)
            for number in range(MAX_ATTACHMENTS):
                await service.offer_upload(ALICE, order.id, attachment(f"{number}.pdf"))
            for _ in range(DAILY_UPLOADS):
                with pytest.raises(TooManyAttachments):
                    await service.offer_upload(ALICE, order.id, attachment("more.pdf"))
                with pytest.raises(AttachmentTooLarge):
                    await service.offer_upload(ALICE, order.id, attachment("0.pdf", 2))
                with pytest.raises(NotFound):
                    await service.offer_upload(ALICE, new_id(), attachment("0.pdf"))
            for _ in range(DAILY_UPLOADS - MAX_ATTACHMENTS):
                await service.offer_upload(ALICE, order.id, attachment("0.pdf"))
            with pytest.raises(UploadQuotaExceeded):
                await service.offer_upload(ALICE, order.id, attachment("0.pdf"))
            # Others have a day of their own.
            assert await service.offer_upload(ADMIN, order.id, attachment("0.pdf"))

        asyncio.run(case())


PATHS: dict[OrderStatus, list[OrderStatus]] = {
    OrderStatus.PENDING: [],
    OrderStatus.PROCESSING: [OrderStatus.PROCESSING],
    OrderStatus.SHIPPED: [OrderStatus.SHIPPED],
    OrderStatus.DELIVERED: [OrderStatus.SHIPPED, OrderStatus.DELIVERED],
    OrderStatus.CANCELLED: [OrderStatus.CANCELLED],
}


class OrdersMachine(RuleBasedStateMachine):
    """Any sequence of calls leaves the service as a plain dictionary of orders would be."""

    placed = Bundle("placed")

    def __init__(self) -> None:
        super().__init__()
        self.service = a_service()
        self.model: dict[str, Order] = {}

    @rule(target=placed, key=st.none() | st.sampled_from("abc"))
    def place(self, key: str | None) -> str:
        order = asyncio.run(place(self.service, key=key))
        self.model.setdefault(order.id, order)
        return order.id

    @rule(order_id=placed, status=st.sampled_from(OrderStatus), offset=st.none() | st.integers(-1, 1))
    def change(self, order_id: str, status: OrderStatus, offset: int | None) -> None:
        known = self.model[order_id]
        version = None if offset is None else known.version + offset
        try:
            changed = asyncio.run(self.service.change_status(ANONYMOUS, order_id, status, version))
        except VersionConflict:
            assert version != known.version
        except IllegalTransition:
            assert status not in TRANSITIONS[known.status]
        else:
            assert changed.status == status
            assert changed.version == known.version + (status != known.status)
            self.model[order_id] = changed

    @invariant()
    def everything_is_as_the_model_says(self) -> None:
        listed = asyncio.run(self.service.list(ANONYMOUS, 100)).items
        expected = sorted(self.model.values(), key=sort_key, reverse=True)
        assert listed == expected[:100]


TestOrdersMachine = OrdersMachine.TestCase
TestOrdersMachine.settings = hypothesis_settings(max_examples=50, stateful_step_count=20, deadline=None)
