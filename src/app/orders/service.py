"""The use cases. Every rule about orders is here or in `domain`; HTTP and storage know none."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta

from app.core import cursor
from app.core.errors import (
    AttachmentTooLarge,
    IdempotencyKeyReused,
    IllegalTransition,
    OrderNotFound,
    ReceiptNotReady,
    TooManyAttachments,
    UploadQuotaExceeded,
    VersionConflict,
)
from app.orders.models import (
    AttachmentType,
    Caller,
    Order,
    OrderStatus,
    is_order_id,
    new_order_id,
    now,
    order_id_for,
    sources_of,
)
from app.orders.ports import Attachment, CursorKey, DocumentStore, OrderQuery, OrderStore, Upload

MAX_ATTACHMENTS = 20  # of an order; one of the same name replaces, and is none more
# What a caller is offered in a day (UTC): as many bytes as this number of the largest attachments.
DAILY_UPLOADS = 100


@dataclass(frozen=True, slots=True)
class PlacedOrder:
    """What `place_order` answers. `replayed`: an earlier request with the same key placed it."""

    order: Order
    replayed: bool


@dataclass(frozen=True, slots=True)
class ListedOrders:
    """One page of orders, newest first, and the cursor of the next one."""

    orders: list[Order]
    next_cursor: str | None


class OrderService:
    """The use cases, over the ports they are given."""

    def __init__(self, store: OrderStore, documents: DocumentStore, cursor_key: CursorKey) -> None:
        self._store = store
        self._documents = documents
        self._cursor_key = cursor_key

    async def place_order(
        self, caller: Caller, customer: str, product: str, quantity: int, idempotency_key: str | None = None
    ) -> PlacedOrder:
        """Place an order, once for each caller and idempotency key.

        Raises `IdempotencyKeyReused` when the key came with another order before.
        """
        moment = now()
        order = Order(
            id=new_order_id() if idempotency_key is None else order_id_for(caller, idempotency_key),
            customer=customer,
            product=product,
            quantity=quantity,
            status=OrderStatus.PENDING,
            version=1,
            created_at=moment,
            updated_at=moment,
            owner=caller.subject,
        )
        fingerprint = hashlib.sha256(json.dumps([customer, product, quantity]).encode()).hexdigest()
        placed = await self._store.place(order, fingerprint)
        if placed.created:
            return PlacedOrder(placed.order, replayed=False)
        if placed.fingerprint != fingerprint:
            raise IdempotencyKeyReused
        return PlacedOrder(_as_first_placed(placed.order), replayed=True)

    async def get_order(self, caller: Caller, order_id: str) -> Order:
        """Return the order. Raises `OrderNotFound`, also when it is another caller's."""
        order = await self._store.get(order_id) if is_order_id(order_id) else None
        if order is None or not caller.may_see(order):
            raise OrderNotFound(order_id)
        return order

    async def change_status(
        self, caller: Caller, order_id: str, target: OrderStatus, version: int | None = None
    ) -> Order:
        """Move the order to `target`; asking for the present status changes nothing.

        Raises `OrderNotFound`; `VersionConflict` when `version` is given and stale;
        `IllegalTransition` when the present status does not lead there.
        """
        if not is_order_id(order_id):
            raise OrderNotFound(order_id)
        change = await self._store.change_status(
            order_id,
            target,
            sources=sources_of(target),
            at=now(),
            owner=None if caller.sees_all else caller.subject,
            version=version,
        )
        if change.order is None or not caller.may_see(change.order):
            raise OrderNotFound(order_id)
        if change.changed:
            return change.order
        if version is not None and version != change.order.version:
            raise VersionConflict(change.order)
        if change.order.status != target:
            raise IllegalTransition(change.order, target)
        return change.order

    async def list_orders(
        self,
        caller: Caller,
        limit: int,
        after: str | None = None,
        customer: str | None = None,
        status: OrderStatus | None = None,
    ) -> ListedOrders:
        """List the caller's orders (an admin: all), newest first.

        A page may be short, even empty, and still have a `next_cursor`: filters are applied to a
        bounded number of orders. Raises `InvalidCursor` when `after` is not from this very list.
        """
        scope = cursor.scope_of(caller, customer=customer, status=status)
        before = None if after is None else cursor.decrypt(after, scope, await self._cursor_key.cursor_key())
        page = await self._store.page(
            OrderQuery(
                limit=limit,
                owner=None if caller.sees_all else caller.subject,
                customer=customer,
                status=status,
                before=before,
            )
        )
        if page.next_before is None:
            return ListedOrders(page.orders, None)
        return ListedOrders(
            page.orders, cursor.encrypt(page.next_before, scope, await self._cursor_key.cursor_key())
        )

    async def offer_upload(
        self,
        caller: Caller,
        order_id: str,
        name: str,
        content_type: AttachmentType,
        size_bytes: int | None = None,
    ) -> Upload:
        """Return a presigned upload for an attachment, of that size at most if it is given.

        Raises `OrderNotFound`, `AttachmentTooLarge`, `TooManyAttachments` or `UploadQuotaExceeded`.
        """
        await self.get_order(caller, order_id)
        largest = self._documents.max_bytes
        size = largest if size_bytes is None else size_bytes
        if size > largest:
            raise AttachmentTooLarge(largest)
        if not await self._store.add_attachment(order_id, name, MAX_ATTACHMENTS):
            raise TooManyAttachments(MAX_ATTACHMENTS)
        moment = now()
        if not await self._store.reserve_upload(caller.subject, moment.date(), size, DAILY_UPLOADS * largest):
            tomorrow = datetime.combine(moment.date() + timedelta(days=1), time(), UTC)
            raise UploadQuotaExceeded(int((tomorrow - moment).total_seconds()) + 1)
        return await self._documents.presign_upload(order_id, name, content_type, size)

    async def list_attachments(self, caller: Caller, order_id: str) -> list[Attachment]:
        """Return the order's attachments. Raises `OrderNotFound`."""
        await self.get_order(caller, order_id)
        return await self._documents.attachments(order_id)

    async def receipt_url(self, caller: Caller, order_id: str) -> str:
        """Return a link to the receipt. Raises `OrderNotFound` or `ReceiptNotReady`."""
        await self.get_order(caller, order_id)
        url = await self._documents.receipt_url(order_id)
        if url is None:
            raise ReceiptNotReady(order_id)
        return url

    async def check_dependencies(self) -> None:
        """Return if the database answers. Raises `DependencyUnavailable`."""
        await self._store.ping()


def _as_first_placed(order: Order) -> Order:
    """Return the order as its first answer showed it, whatever has happened to it since."""
    return order._replace(status=OrderStatus.PENDING, version=1, updated_at=order.created_at)
