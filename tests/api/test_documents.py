"""Attachments and receipts, through each runtime."""

from __future__ import annotations

import httpx
import pytest
from tests.support import AN_ORDER

from orders.adapters.memory import MemoryDocumentStore

PDF = {"name": "invoice.pdf", "content_type": "application/pdf"}
UNKNOWN = "0199a6f5-1c00-7000-8000-00000000dead"


@pytest.fixture
def order_id(client: httpx.Client) -> str:
    return str(client.post("/orders", json=AN_ORDER).json()["id"])


class TestOfferUpload:
    def test_answers_with_a_form_bound_to_the_order(self, client: httpx.Client, order_id: str) -> None:
        response = client.post(f"/orders/{order_id}/attachments", json=PDF)
        assert response.status_code == 200
        assert response.headers["cache-control"] == "no-store"
        upload = response.json()
        assert upload.keys() == {"url", "fields", "max_bytes", "expires_in_seconds"}
        assert upload["fields"]["key"] == f"attachments/{order_id}/invoice.pdf"
        assert upload["fields"]["Content-Type"] == "application/pdf"

    @pytest.mark.parametrize(
        "name",
        [
            "",
            ".htaccess",
            "..",
            "../../receipts/x.html",
            "a/b.pdf",
            "a\\b.pdf",
            "${filename}",
            'a".pdf',
            "a\n",
            "a\x00.pdf",
            "é.pdf",
            "x" * 101,
        ],
    )
    def test_a_name_that_is_no_plain_file_name_is_refused(
        self, client: httpx.Client, order_id: str, name: str
    ) -> None:
        assert client.post(f"/orders/{order_id}/attachments", json=PDF | {"name": name}).status_code == 422

    @pytest.mark.parametrize(
        "content_type", ["text/html", "image/svg+xml", "application/javascript", "", "*/*"]
    )
    def test_a_type_that_a_browser_might_run_is_refused(
        self, client: httpx.Client, order_id: str, content_type: str
    ) -> None:
        body = PDF | {"content_type": content_type}
        assert client.post(f"/orders/{order_id}/attachments", json=body).status_code == 422

    def test_an_unknown_order_has_no_attachments(self, client: httpx.Client) -> None:
        assert client.post(f"/orders/{UNKNOWN}/attachments", json=PDF).status_code == 404


class TestListAttachments:
    def test_lists_by_name(self, client: httpx.Client, order_id: str, documents: MemoryDocumentStore) -> None:
        assert client.get(f"/orders/{order_id}/attachments").json() == {"items": []}
        documents.uploads[order_id] = {"b.txt": b"two", "a.txt": b"one more"}
        response = client.get(f"/orders/{order_id}/attachments")
        assert response.headers["cache-control"] == "no-store"
        items = response.json()["items"]
        assert [(item["name"], item["size_bytes"]) for item in items] == [("a.txt", 8), ("b.txt", 3)]
        assert items[0].keys() == {"name", "size_bytes", "uploaded_at", "url"}

    def test_an_unknown_order_has_no_attachments(self, client: httpx.Client) -> None:
        assert client.get(f"/orders/{UNKNOWN}/attachments").status_code == 404


class TestGetReceipt:
    def test_is_not_there_at_once_and_then_elsewhere(
        self, client: httpx.Client, order_id: str, documents: MemoryDocumentStore
    ) -> None:
        early = client.get(f"/orders/{order_id}/receipt")
        assert early.status_code == 404
        assert early.json()["type"] == "urn:orders:problem:receipt-not-ready"
        documents.receipts[order_id] = b"<!DOCTYPE html>"
        found = client.get(f"/orders/{order_id}/receipt")
        assert found.status_code == 303
        assert found.headers["location"].endswith(f"/receipts/{order_id}.html")
        assert found.headers["cache-control"] == "no-store"

    def test_an_unknown_order_has_no_receipt(self, client: httpx.Client) -> None:
        response = client.get(f"/orders/{UNKNOWN}/receipt")
        assert response.status_code == 404
        assert response.json()["type"] == "urn:orders:problem:order-not-found"
