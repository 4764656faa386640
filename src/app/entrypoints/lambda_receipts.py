"""From the receipts queue to receipt documents. The consumer to copy for the next one.

What makes it safe to copy: it reads only the fields it needs (`receipts.placed_order`); it may see
an event twice, or again in a replay, and does its work once (the store keeps the first receipt);
a message that fails is reported alone, comes again, and ends in the dead-letter queue.
"""

from __future__ import annotations

import functools
from typing import Any

from aws_lambda_powertools.utilities.batch import (
    AsyncBatchProcessor,
    EventType,
    async_process_partial_response,
)
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord

from app.core import context, telemetry
from app.core.aws.s3 import S3DocumentStore
from app.core.settings import Settings
from app.core.telemetry import Telemetry
from app.orders.ports import DocumentStore
from app.orders.receipts import placed_order, receipt_html


def handler(event: dict[str, Any], lambda_context: Any) -> dict[str, Any]:
    """Write the receipts for a batch of messages; report the messages that failed."""
    return consume(event, _documents(), _telemetry(), lambda_context)


def consume(
    event: dict[str, Any], documents: DocumentStore, told: Telemetry, lambda_context: Any = None
) -> dict[str, Any]:
    """Handle every message by itself, side by side."""
    request_id = getattr(lambda_context, "aws_request_id", "")
    xray = context.invocation_xray()  # the platform's segments are in this trace, not in the order's

    async def write_receipt(record: SQSRecord) -> None:
        with told.record(
            "receipts", "receipt", request_id, failures="ReceiptFailures", xray_trace=xray
        ) as work:
            telemetry.note(message_id=record.message_id)
            placed = placed_order(record.body)
            if placed is None:
                return
            told.follow(work, placed.correlation_id, placed.traceparent, xray)
            telemetry.note(event_id=placed.event_id, order_id=placed.order.id)
            written = await documents.put_receipt(placed.order.id, receipt_html(placed.order))
            telemetry.note(written=written)  # False: it was there already
            telemetry.count("ReceiptsWritten", int(written))

    # When all fail that is no other case than when some do: each comes again by itself.
    processor = AsyncBatchProcessor(EventType.SQS, raise_on_entire_batch_failure=False)
    return dict(async_process_partial_response(event, write_receipt, processor, lambda_context))


@functools.cache
def _documents() -> DocumentStore:
    settings = Settings.from_env()
    return S3DocumentStore(settings.bucket_name, settings.kms_key_arn, settings.attachment_max_bytes)


@functools.cache
def _telemetry() -> Telemetry:
    told = Telemetry(Settings.from_env())
    told.install()
    return told
