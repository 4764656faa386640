"""The words that `make rename` changes, and those that it leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripts.rename import NAME, main, renamed
from scripts.templates import load_template

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("orders", "invoices"),
        ("an order", "an invoice"),
        ("ORDERS_TABLE_NAME", "INVOICES_TABLE_NAME"),
        ("OrdersTable OrderPlaced", "InvoicesTable InvoicePlaced"),
        ("place_order list_orders", "place_invoice list_invoices"),
        ("test_orders.py", "test_invoices.py"),
        ("order#1 orders-by-shard", "invoice#1 invoices-by-shard"),
        ("AnOrder, anOrder", "AnInvoice, anInvoice"),
        ("border recorder ordering OrderedDict reorder", "border recorder ordering OrderedDict reorder"),
        ("in order to, out of order", "in order to, out of order"),
        (
            "for x in order: [y for y in order] in order.z",
            "for x in invoice: [y for y in invoice] in invoice.z",
        ),
        ("def f(order: Order) -> None: the order.", "def f(invoice: Invoice) -> None: the invoice."),
    ],
)
def test_words(text: str, expected: str) -> None:
    assert renamed(text, "invoices", "invoice") == expected


def test_the_article_follows_the_sound() -> None:
    assert renamed("an order, An order, orders", "bookings", "booking") == "a booking, A booking, bookings"


def test_a_name_is_one_that_the_bootstrap_takes() -> None:
    bootstrap = load_template((ROOT / "bootstrap" / "template.yaml").read_text())
    assert bootstrap["Parameters"]["Service"]["AllowedPattern"] == NAME.pattern


@pytest.mark.parametrize(
    "arguments", [["Invoices", "invoice"], ["in-voices", "invoice"], ["same", "same"], ["i" * 17, "invoice"]]
)
def test_bad_names_get_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1
