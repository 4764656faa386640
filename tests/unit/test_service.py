"""The use cases, over memory."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule
from msgspec import structs

from app.core.auth.caller import ANONYMOUS, Caller
from app.core.errors import InvalidCursor, NotFound, VersionConflict
from app.core.ids import new_id
from app.core.memory import FixedCursorKey
from app.core.models import fingerprint
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
    def test_a_replay_is_one_after_a_field_was_added(self) -> None:
        class Later(OrderCreate, forbid_unknown_fields=True):
            priority: str = "normal"

        later = Later(customer="John Doe", product="Widget", quantity=5)
        assert fingerprint(later) == fingerprint(body())
        assert fingerprint(structs.replace(later, priority="high")) != fingerprint(body())


class TestChangeStatus:
    @pytest.mark.parametrize("source", OrderStatus)
    @pytest.mark.parametrize("target", OrderStatus)
    async def test_follows_the_table(self, source: OrderStatus, target: OrderStatus) -> None:
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
            with pytest.raises(IllegalTransition) as rejected:
                await service.change_status(ANONYMOUS, order.id, target)
            assert rejected.value.current == order


class TestOwnership:
    @pytest.mark.parametrize(
        ("holder", "other"), [(ALICE, BOB), (ADMIN, BOSS), (ADMIN, ALICE), (ALICE, ADMIN)]
    )
    async def test_a_cursor_of_another_caller_is_rejected(self, holder: Caller, other: Caller) -> None:
        service = a_service()
        for _ in range(3):
            await place(service, ALICE)
        token = (await service.list(holder, 1)).next_cursor
        assert token is not None
        assert len((await service.list(holder, 1, token)).items) == 1
        with pytest.raises(InvalidCursor):
            await service.list(other, 1, token)

    @pytest.mark.parametrize(
        "issued", [None, {"customer": "John Doe"}, {"customer": "John Doe", "status": "pending"}]
    )
    @pytest.mark.parametrize(
        "used", [None, {"customer": "John Doe"}, {"status": "pending"}, {"customer": "x"}]
    )
    async def test_a_cursor_is_of_use_with_the_same_filters_only(
        self, issued: dict[str, str] | None, used: dict[str, str] | None
    ) -> None:
        service = a_service()
        for _ in range(3):
            await place(service, ALICE)
        token = (await service.list(ALICE, 1, filters=issued)).next_cursor
        with nullcontext() if issued == used else pytest.raises(InvalidCursor):
            await service.list(ALICE, 1, token, used)


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
    async def test_is_as_one_that_never_was(self, use_case: str, arguments: tuple[Any, ...]) -> None:
        calls: list[str] = []
        store, documents = Counted(MemoryOrderRepository(), calls), Counted(MemoryDocumentStore(), calls)
        service = OrderService(store, documents, FixedCursorKey())  # type: ignore[arg-type]

        async def outcome(order_id: str) -> tuple[str, list[str]]:
            calls.clear()
            with pytest.raises(NotFound) as rejected:
                await getattr(service, use_case)(BOB, order_id, *arguments)
            return str(rejected.value).replace(order_id, "it"), [*calls]

        foreign = await outcome((await place(service, ALICE)).id)
        missing = await outcome(new_id())
        assert foreign == missing
        assert len(foreign[1]) == 1


class TestOfferUpload:
    async def test_what_is_rejected_takes_nothing_of_the_callers_day(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        late = datetime(2026, 1, 1, 23, 59, 58, 500_000, UTC)
        monkeypatch.setattr("app.orders.service.now", lambda: late)
        service = OrderService(MemoryOrderRepository(), MemoryDocumentStore(max_bytes=1), FixedCursorKey())
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
        with pytest.raises(UploadQuotaExceeded) as caught:
            await service.offer_upload(ALICE, order.id, attachment("0.pdf"))
        assert caught.value.headers["retry-after"] == "2"
        # Others have a day of their own.
        assert await service.offer_upload(ADMIN, order.id, attachment("0.pdf"))


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
