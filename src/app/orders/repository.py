"""The orders' items, and the two kinds of items that bound uploads. These are in no index and have no events:

    pk            attachments#<order id>
    names (SS)    of the order's attachments, uploaded or offered

    pk            uploads#<day>#<caller's sub>    the sub is empty when the API is open
    reserved (N)  bytes of uploads offered to the caller on that day
    expires_at    (N) a day after it: the table deletes the item some time later

To offer an upload costs, beside the read of the order, 2 WCU (of the names: one for each KB of them).
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Protocol

from app.core.dynamodb.repository import DynamoRepository, Table
from app.core.store import Repository
from app.orders.models import Order

PREFIX = "order"


class OrderRepository(Repository[Order], Protocol):
    """The orders, and what of uploads has been offered."""

    async def add_attachment(self, order_id: str, name: str, limit: int) -> bool:
        """Add the name to those of the order's attachments, `limit` at most; return whether it is there."""

    async def reserve_upload(self, owner: str | None, day: date, size_bytes: int, limit_bytes: int) -> bool:
        """Count the bytes to what the owner uploads that day, unless they go beyond the limit."""


class DynamoOrderRepository(DynamoRepository[Order]):
    """An `OrderRepository` in the table."""

    def __init__(self, table: Table) -> None:
        super().__init__(table, Order, PREFIX, indexed="customer")

    async def add_attachment(self, order_id: str, name: str, limit: int) -> bool:
        """Add the name, unless there are as many others; in one conditional call."""
        return await self._table.update_if(
            {
                "Key": {"pk": {"S": f"attachments#{order_id}"}},
                "UpdateExpression": "ADD #names :names",
                "ConditionExpression": "attribute_not_exists(#names) OR size(#names) < :limit"
                " OR contains(#names, :name)",
                "ExpressionAttributeNames": {"#names": "names"},
                "ExpressionAttributeValues": {
                    ":names": {"SS": [name]},
                    ":name": {"S": name},
                    ":limit": {"N": str(limit)},
                },
            }
        )

    async def reserve_upload(self, owner: str | None, day: date, size_bytes: int, limit_bytes: int) -> bool:
        """Add the bytes in one conditional call. If its response is lost they count twice, never not once."""
        expires_at = datetime.combine(day + timedelta(days=2), time(), UTC)
        return await self._table.update_if(
            {
                "Key": {"pk": {"S": f"uploads#{day}#{owner or ''}"}},
                "UpdateExpression": "ADD #reserved :size SET expires_at = :expires_at",
                "ConditionExpression": "attribute_not_exists(#reserved) OR #reserved <= :room",
                "ExpressionAttributeNames": {"#reserved": "reserved"},
                "ExpressionAttributeValues": {
                    ":size": {"N": str(size_bytes)},
                    ":room": {"N": str(limit_bytes - size_bytes)},
                    ":expires_at": {"N": str(int(expires_at.timestamp()))},
                },
            }
        )
