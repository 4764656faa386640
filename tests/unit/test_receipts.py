"""The receipts consumer: which messages it takes, which it reports, and what it writes."""

from __future__ import annotations

import asyncio
import json
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from unicodedata import category

import msgspec
import pytest
from tests.builders import a_message, a_settings, an_envelope, an_order, placed, sample, status_changed

from app.core import context
from app.core.errors import DependencyUnavailable
from app.core.events.consumer import MalformedEvent
from app.core.telemetry import Telemetry
from app.orders.memory import MemoryDocumentStore
from app.orders.models import OrderStatus
from app.orders.receipts import ReceiptOrder, receipt_html, write_receipt

MALICIOUS = ["<script>alert(1)</script>", "</td></table>&\"'", "{id} %s", "é漢"]
TOLD = Telemetry(a_settings())
PLACED = an_envelope(placed(an_order()))


def failures(answer: dict[str, Any]) -> list[str]:
    return [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]


class Page(HTMLParser):
    """Collects a document's tags and text, and checks that every element is closed where it must be."""

    VOID = frozenset({"meta", "br", "link", "img"})

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def has(self, name: str, **attributes: str) -> bool:
        return any(tag == name and attributes.items() <= found.items() for tag, found in self.tags)


class TestConsume:
    def test_an_order_placed_gets_its_receipt_once(self) -> None:
        documents = MemoryDocumentStore()
        for _ in range(2):
            assert write_receipt.consume({"Records": [a_message(PLACED)]}, TOLD, documents) == {
                "batchItemFailures": []
            }
        assert documents.receipts.keys() == {an_order().id}
        assert b"John Doe" in documents.receipts[an_order().id]

    def test_another_event_needs_no_receipt(self) -> None:
        documents = MemoryDocumentStore()
        shipped = an_order(status=OrderStatus.SHIPPED, version=2)
        changed = an_envelope(status_changed(shipped, OrderStatus.PENDING))
        assert failures(write_receipt.consume({"Records": [a_message(changed)]}, TOLD, documents)) == []
        assert documents.receipts == {}

    def test_a_poison_message_is_reported_alone(self) -> None:
        documents = MemoryDocumentStore()
        messages = [a_message("not an event", "poison"), a_message(PLACED, "good")]
        assert failures(write_receipt.consume({"Records": messages}, TOLD, documents)) == ["poison"]
        assert documents.receipts.keys() == {an_order().id}

    def test_a_message_comes_again_when_the_storage_does_not_answer(self) -> None:
        class Unavailable(MemoryDocumentStore):
            async def put_receipt(self, order_id: str, html: bytes) -> bool:
                raise DependencyUnavailable("s3")

        assert failures(
            write_receipt.consume({"Records": [a_message(PLACED, "m")]}, TOLD, Unavailable())
        ) == ["m"]

    def test_messages_are_handled_side_by_side_each_under_its_own_correlation_id(self) -> None:
        class Recording(MemoryDocumentStore):
            def __init__(self) -> None:
                super().__init__()
                self.barrier = asyncio.Barrier(2)
                self.seen: dict[str, str] = {}

            async def put_receipt(self, order_id: str, html: bytes) -> bool:
                async with asyncio.timeout(5):
                    await self.barrier.wait()
                self.seen[order_id] = context.correlation_id.get()
                return True

        documents = Recording()
        ids = [f"0199a6f5-1c00-7000-8000-00000000000{n}" for n in (1, 2)]
        messages = [
            a_message(an_envelope(placed(an_order(id=each), correlation_id=f"for {each}")), each)
            for each in ids
        ]
        assert failures(write_receipt.consume({"Records": messages}, TOLD, documents)) == []
        assert documents.seen == {each: f"for {each}" for each in ids}


class TestReading:
    @pytest.mark.parametrize(
        "change",
        [
            {"schema_version": 2},
            {"order": None},
            {"order": {**placed(an_order()).detail["order"], "id": "../../etc"}},
            {"order": {**placed(an_order()).detail["order"], "created_at": "yesterday"}},
        ],
    )
    def test_an_event_that_we_cannot_rely_on_is_malformed(self, change: dict[str, Any]) -> None:
        envelope = json.loads(PLACED)
        envelope["detail"] |= change
        with pytest.raises(MalformedEvent):
            write_receipt.read(json.dumps(envelope))

    @pytest.mark.parametrize("message", ["", "[]", "{}", '{"detail-type": "OrderPlaced"}', "\ud800"])
    def test_a_message_that_is_no_event_is_malformed(self, message: str) -> None:
        with pytest.raises(MalformedEvent):
            write_receipt.read(message)


class TestDocument:
    def facts(self, **changes: Any) -> ReceiptOrder:
        placed = write_receipt.read(PLACED)
        assert placed is not None
        return msgspec.structs.replace(placed.order, **changes)

    def test_is_well_formed_and_accessible(self) -> None:
        html = receipt_html(self.facts()).decode()
        page = Page(html)
        assert html.startswith("<!DOCTYPE html>")
        assert page.has("html", lang="en")
        assert page.has("meta", charset="utf-8")
        assert page.has("th", scope="row")
        assert page.has("time", datetime="2026-01-02T03:04:05.678901+00:00")
        assert {"title", "main", "h1", "caption"} <= {tag for tag, _ in page.tags}
        for fact in (an_order().id, "John Doe", "Widget", "5", "02 January 2026, 03:04 UTC"):
            assert fact in page.text

    @pytest.mark.parametrize("malicious", MALICIOUS)
    def test_shows_whatever_a_field_holds_as_text(self, malicious: str) -> None:
        page = Page(receipt_html(self.facts(customer=malicious, product=malicious)).decode())
        assert page.text.count(malicious) == 2
        assert not page.has("script")

    def test_control_characters_which_html_does_not_allow_are_replaced(self) -> None:
        given = "".join(map(chr, range(256)))
        shown = "".join("\ufffd" if category(each) == "Cc" else escape(each) for each in given)
        assert shown in receipt_html(self.facts(customer=given)).decode()

    def test_is_the_same_for_the_same_order(self) -> None:
        assert receipt_html(self.facts()) == receipt_html(self.facts())


@pytest.mark.parametrize("path", sorted(Path("events").glob("receipts-*.json")), ids=lambda path: path.stem)
def test_sample_events_do_what_their_names_say(path: Path) -> None:
    documents = MemoryDocumentStore()
    event = sample(path.stem)
    expected = [event["Records"][1]["messageId"]] if "unreadable" in path.stem else []
    assert failures(write_receipt.consume(event, TOLD, documents)) == expected
    assert len(documents.receipts) == 1
