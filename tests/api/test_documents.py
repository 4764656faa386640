"""Attachments and receipts, through each runtime."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import ValidationError
from tests.builders import AN_ORDER

from app.core.http.pydantic_models import request_model
from app.core.settings import Settings
from app.orders.memory import MemoryDocumentStore
from app.orders.models import AttachmentType, NewAttachment
from app.orders.service import DAILY_UPLOADS

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
            # Not what its type is, or nothing at all.
            "invoice",
            "pdf",
            ".pdf",
            "invoice.hta",
            "invoice.pdf.exe",
            "invoice.pdf.",
            "invoice.pdf ",
            "invoice.pdf\n",
            "invoice.pdf\u00a0",
            "invoice.pdf.hta.txt",
            # Drawn as "invoiceath.pdf" and the like, or not drawn at all.
            "invoice\u202efdp.hta",
            "invoice\u202eath.pdf",
            "invoice\u2066.pdf",
            "invoice\u200b.pdf",
            "\ufeffinvoice.pdf",
            "invoice\uff0epdf",
            # Devices on Windows, whatever follows the dot.
            "CON.pdf",
            "nul.pdf",
            "Aux .pdf",
            "prn.tar.pdf",
            "com1.pdf",
            "LPT9.pdf",
        ],
    )
    def test_a_name_that_is_no_plain_file_name_is_refused(
        self, client: httpx.Client, order_id: str, name: str
    ) -> None:
        refused = client.post(f"/orders/{order_id}/attachments", json=PDF | {"name": name})
        assert refused.status_code == 422
        [error] = refused.json()["errors"]
        assert error["pointer"] == "#/name"
        assert "ends in .pdf for application/pdf" in error["detail"]

    @pytest.mark.parametrize(
        ("name", "content_type"),
        [
            ("invoice.pdf", "application/pdf"),
            ("INVOICE 2026-01.PDF", "application/pdf"),
            ("invoice.hta.pdf", "application/pdf"),  # the last ending decides what opens it
            ("a.png", "image/png"),
            ("a.jpg", "image/jpeg"),
            ("a.JPEG", "image/jpeg"),
            ("console.txt", "text/plain"),
            ("con_2.csv", "text/csv"),
        ],
    )
    def test_a_name_that_ends_as_its_type_does_is_taken(
        self, client: httpx.Client, order_id: str, name: str, content_type: str
    ) -> None:
        body = {"name": name, "content_type": content_type}
        upload = client.post(f"/orders/{order_id}/attachments", json=body)
        assert upload.status_code == 200
        assert upload.json()["fields"]["key"].endswith(f"/{name}")

    @pytest.mark.parametrize("size", [1, 1000, None])
    def test_the_size_that_is_said_bounds_the_upload(
        self, client: httpx.Client, order_id: str, settings: Settings, size: int | None
    ) -> None:
        upload = client.post(f"/orders/{order_id}/attachments", json=PDF | {"size_bytes": size})
        assert upload.json()["max_bytes"] == (size or settings.attachment_max_bytes)

    @pytest.mark.parametrize("size", [-1, "1", True, 10_000_001, 1_000_000_001])
    def test_a_size_that_cannot_be_is_refused(self, client: httpx.Client, order_id: str, size: Any) -> None:
        refused = client.post(f"/orders/{order_id}/attachments", json=PDF | {"size_bytes": size})
        assert refused.status_code == 422
        too_large = refused.json()["type"] == "urn:orders:problem:attachment-too-large"
        assert too_large == (size == 10_000_001)

    def test_an_order_has_a_bounded_number_of_attachments(self, client: httpx.Client, order_id: str) -> None:
        def ask(number: int) -> httpx.Response:
            return client.post(f"/orders/{order_id}/attachments", json=PDF | {"name": f"{number}.pdf"})

        assert {ask(number).status_code for number in range(20)} == {200}
        refused = ask(20)
        assert (refused.status_code, refused.json()["type"]) == (
            409,
            "urn:orders:problem:too-many-attachments",
        )
        assert ask(0).status_code == 200  # replaces
        assert "order can have 20 attachments" in client.get("/openapi.json").text.replace("\\n", " ")

    def test_a_caller_is_offered_a_bounded_number_of_bytes_in_a_day(self, client: httpx.Client) -> None:
        def ask(**more: Any) -> httpx.Response:
            placed = client.post("/orders", json=AN_ORDER).json()["id"]
            return client.post(f"/orders/{placed}/attachments", json=PDF | more)

        assert ask(size_bytes=1).status_code == 200
        assert {ask().status_code for _ in range(DAILY_UPLOADS - 1)} == {200}
        refused = ask()
        assert (refused.status_code, refused.json()["type"]) == (
            429,
            "urn:orders:problem:upload-quota-exceeded",
        )
        assert 0 < int(refused.headers["retry-after"]) <= 86_400
        assert ask(size_bytes=1).status_code == 200  # there is room for less

    @pytest.mark.parametrize(
        "content_type", ["text/html", "image/svg+xml", "application/javascript", "", "*/*"]
    )
    def test_a_type_that_a_browser_might_run_is_refused(
        self, client: httpx.Client, order_id: str, content_type: str
    ) -> None:
        body = PDF | {"content_type": content_type}
        assert client.post(f"/orders/{order_id}/attachments", json=body).status_code == 422


BODY = request_model(NewAttachment)
# "$" of JSON Schema (ECMA-262) is the very end; Python's matches before a last line break, too.
_SCHEMA = json.loads(json.dumps(BODY.model_json_schema()).replace('$"', '\\\\Z"'))
_DOCUMENTED = Draft202012Validator(_SCHEMA)
_PIECES = st.sampled_from(
    [
        "a",
        "0",
        " ",
        ".",
        "-",
        "\u202e",
        "\n",
        "con",
        "NUL",
        "com1",
        ".pdf",
        ".PDF",
        ".jpeg",
        ".txt",
        ".hta",
        "x" * 90,
    ]
)


@given(
    st.lists(_PIECES, max_size=6).map("".join) | st.text(max_size=5),
    st.sampled_from([*AttachmentType, "text/html"]),
    st.none() | st.integers(-1, 2) | st.integers(10**9 - 1, 10**9 + 1),
)
def test_document_and_check_agree(name: str, content_type: str, size: int | None) -> None:
    body = {"name": name, "content_type": str(content_type), "size_bytes": size}
    try:
        BODY.model_validate(body)
        taken = True
    except ValidationError:
        taken = False
    assert _DOCUMENTED.is_valid(body) == taken


class TestListAttachments:
    def test_lists_by_name(self, client: httpx.Client, order_id: str, documents: MemoryDocumentStore) -> None:
        assert client.get(f"/orders/{order_id}/attachments").json() == {"items": []}
        documents.uploads[order_id] = {"b.txt": b"two", "a.txt": b"one more"}
        response = client.get(f"/orders/{order_id}/attachments")
        assert response.headers["cache-control"] == "no-store"
        items = response.json()["items"]
        assert [(item["name"], item["size_bytes"]) for item in items] == [("a.txt", 8), ("b.txt", 3)]
        assert items[0].keys() == {"name", "size_bytes", "uploaded_at", "url"}


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
