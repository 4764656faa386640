"""Plain builders: what tests are made of."""

from __future__ import annotations

import json
import re
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from app.core.auth.caller import Authenticator
from app.core.dynamodb.repository import DynamoRepository, Table
from app.core.events.event import Event
from app.core.http.app import App
from app.core.memory import FixedCursorKey, MemoryRepository
from app.core.service import Service
from app.core.settings import Settings
from app.main import create_app
from app.orders.events import OrderPlaced, OrderStatusChanged
from app.orders.memory import MemoryDocumentStore, MemoryOrderRepository
from app.orders.models import Order, OrderStatus
from app.orders.repository import DynamoOrderRepository
from app.orders.service import OrderService
from app.products.models import Product
from app.resources import load

ROOT = Path(__file__).parent.parent
# Every metric that the application writes.
METRICS = {
    name
    for path in (ROOT / "src").rglob("*.py")
    for name in re.findall(r'(?:add_metric\(|failures=|metrics\[)"(\w+)"', path.read_text())
}

AN_ORDER = {"customer": "John Doe", "product": "Widget", "quantity": 5}


def a_settings(**changes: Any) -> Settings:
    """Settings for an application over memory."""
    return msgspec.structs.replace(Settings("table", "bucket", "bus", "arn:key", "arn:cursor-key"), **changes)


def an_order(**changes: Any) -> Order:
    """An order as it is right after it was placed."""
    moment = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    order = Order(
        id="0199a6f5-1c00-7000-8000-000000000001",
        customer="John Doe",
        product="Widget",
        quantity=5,
        status=OrderStatus.PENDING,
        version=1,
        created_at=moment,
        updated_at=moment,
    )
    return msgspec.structs.replace(order, **changes)


def a_product(**changes: Any) -> Product:
    """A product as it is right after it was added."""
    moment = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    product = Product(
        id="0199a6f5-1c00-7000-8000-000000000002",
        name="Widget",
        price_cents=1999,
        version=1,
        created_at=moment,
        updated_at=moment,
    )
    return msgspec.structs.replace(product, **changes)


def an_app(
    orders: OrderService | None = None,
    settings: Settings | None = None,
    authenticator: Authenticator | None = None,
    **fastapi_options: Any,
) -> App:
    """The application over memory."""
    documents = MemoryDocumentStore()
    services = {
        "orders": orders or OrderService(MemoryOrderRepository(), documents, FixedCursorKey()),
        "products": Service("products", MemoryRepository(Product), FixedCursorKey()),
    }
    return create_app(services, settings or a_settings(), authenticator, **fastapi_options)


def placed(order: Order, traceparent: str = "", correlation_id: str = "") -> Event:
    """The event that says that the order was placed."""
    return OrderPlaced(order=order).about(order, traceparent, correlation_id)


def status_changed(order: Order, previous: OrderStatus) -> Event:
    """The event that says that the order has left another status."""
    return OrderStatusChanged(order=order, previous_status=previous).about(order, "", "")


_TABLE = Table(None, "table", shards=4)  # type: ignore[arg-type]  # calls nothing
ORDERS = DynamoOrderRepository(_TABLE)
_REPOSITORIES: dict[type[Any], DynamoRepository[Any]] = {
    **{
        source.entity: DynamoRepository(_TABLE, source.entity, source.prefix)
        for source in (module.source for module in load("events").values())
    },
    Order: ORDERS,
}


def a_record(new: Any, old: Any = None, *, sequence: str = "1", **written: str) -> dict[str, Any]:
    """The stream record of a write: of `new`, or of the change from `old` to `new`."""
    repository = _REPOSITORIES[type(new)]
    images = {"NewImage": repository.to_item(new, "fingerprint")}
    images["NewImage"] |= {name: {"S": value} for name, value in written.items()}
    if old is not None:
        images["OldImage"] = repository.to_item(old, "fingerprint")
    return {
        "eventID": sequence,
        "eventName": "INSERT" if old is None else "MODIFY",
        "eventSource": "aws:dynamodb",
        "dynamodb": {"SequenceNumber": sequence, "Keys": {"pk": images["NewImage"]["pk"]}} | images,
    }


def a_message(body: str, message_id: str = "1") -> dict[str, Any]:
    """The record of one message in a batch from a queue."""
    return {
        "messageId": message_id,
        "receiptHandle": "handle",
        "body": body,
        "attributes": {"ApproximateReceiveCount": "1"},
        "messageAttributes": {},
        "eventSource": "aws:sqs",
    }


def an_envelope(event: Event) -> str:
    """The event as EventBridge hands it to a queue."""
    return json.dumps(
        {
            "version": "0",
            "id": str(uuid.uuid4()),
            "detail-type": event.detail_type,
            "source": "orders",
            "time": event.detail["occurred_at"],
            "detail": event.detail,
        }
    )


def a_certificate(folder: Path, host: str) -> Path:
    """The file of a certificate for the host, signed by its own key, which is in the file too."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file = folder / "certificate.pem"
    file.write_bytes(signed.public_bytes(Encoding.PEM) + secret)
    return file


def sample(name: str) -> dict[str, Any]:
    """A sample event of `events/`."""
    event: dict[str, Any] = json.loads((ROOT / "events" / f"{name}.json").read_text())
    return event
