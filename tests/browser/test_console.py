"""The orders console as people use it: mouse, keyboard, either colour scheme, any sequence of events."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from localcloud.issuer import Issuer
from playwright.sync_api import Page, expect
from tests.browser.conftest import Visit

pytestmark = pytest.mark.browser


def place(page: Page, customer: str, product: str = "Widget", quantity: int = 2) -> None:
    page.get_by_label("Customer", exact=True).fill(customer)
    page.get_by_label("Product").fill(product)
    page.get_by_label("Quantity").fill(str(quantity))
    page.get_by_role("button", name="Place order").click()
    expect(page.locator("#announcement")).to_contain_text("is placed")


def test_an_order_is_placed_and_its_receipt_appears(visit: Visit) -> None:
    visit.expected_statuses = {404}  # the receipt, until it is written
    page = visit.open()
    expect(page.locator("#runtime")).to_have_text("local")
    place(page, "Ada Lovelace", "Engine <b>No. 2</b>", 3)
    expect(page.locator("#order-customer")).to_have_text("Ada Lovelace")
    expect(page.locator("#order-product")).to_have_text("Engine <b>No. 2</b>")
    expect(page.locator("#order-status")).to_have_text("pending")
    expect(page.locator("#orders tr").first).to_contain_text("Ada Lovelace")
    link = page.get_by_role("link", name="Open receipt")
    expect(link).to_be_visible(timeout=30_000)
    visit.picture("order")
    with page.context.expect_page() as opened:
        link.click()
    expect(opened.value.locator("body")).to_contain_text("Ada Lovelace")


def test_lists_are_paged_and_filtered(visit: Visit, api: httpx.Client) -> None:
    for number in range(12):
        body = {"customer": "Page Turner", "product": f"Page {number:02}", "quantity": 1}
        assert api.post("/orders", json=body).status_code == 201
    page = visit.open()
    page.get_by_label("Customer is").fill("Page Turner")
    page.get_by_role("button", name="Show").click()
    rows = page.locator("#orders tr")
    expect(rows).to_have_count(10)
    expect(rows.first).to_contain_text("Page 11")
    page.get_by_role("button", name="Next page").click()
    expect(rows).to_have_count(2)
    expect(page.locator("#page")).to_have_text("Page 2")
    expect(page.get_by_role("button", name="Next page")).to_be_disabled()
    page.get_by_role("button", name="Previous page").click()
    expect(rows.first).to_contain_text("Page 11")
    page.get_by_label("Status is").select_option("shipped")
    page.get_by_role("button", name="Show").click()
    expect(page.locator("#orders")).to_contain_text("No orders.")


def test_pages_follow_the_list_that_is_shown(visit: Visit, api: httpx.Client) -> None:
    for number in range(12):
        body = {"customer": "Slow Turner", "product": f"Page {number:02}", "quantity": 1}
        assert api.post("/orders", json=body).status_code == 201
    page = visit.open()
    rows = page.locator("#orders tr")
    page.get_by_label("Customer is").fill("Slow Turner")
    page.get_by_role("button", name="Show").click()
    expect(rows).to_have_count(10)
    page.evaluate(
        """() => {
            const send = window.fetch;
            window.fetch = async (...call) => {
                if (String(call[0]).includes("orders?")) await new Promise((sent) => setTimeout(sent, 500));
                return send(...call);
            };
        }"""
    )
    page.get_by_role("button", name="Show").click()
    page.get_by_role("button", name="Next page").click()  # before the list is there
    expect(rows).to_have_count(2)
    page.get_by_role("button", name="Previous page").click()
    expect(rows).to_have_count(10)
    page.get_by_label("Customer is").fill("Somebody else")  # and not asked for
    page.get_by_role("button", name="Next page").click()
    expect(rows).to_have_count(2)


def test_a_status_is_changed_and_an_illegal_change_explained(visit: Visit) -> None:
    visit.expected_statuses = {404, 409}
    page = visit.open()
    place(page, "Grace Hopper")
    page.get_by_label("New status").select_option("shipped")
    page.get_by_role("button", name="Change status").click()
    expect(page.locator("#order-status")).to_have_text("shipped")
    expect(page.locator("#order-version")).to_have_text("2")
    expect(page.locator("#orders tr").first).to_contain_text("shipped")
    page.get_by_label("New status").select_option("pending")
    page.get_by_role("button", name="Change status").click()
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("Illegal transition (409)")
    expect(alert).to_contain_text("shipped")
    visit.picture("error")
    page.get_by_role("button", name="Close").click()
    expect(alert).to_be_hidden()


def test_what_others_change_is_seen_and_never_overwritten(visit: Visit, api: httpx.Client) -> None:
    visit.expected_statuses = {404, 412}
    page = visit.open()
    place(page, "Two Hands")
    order_id = page.locator("#order-id").inner_text()
    page.clock.install()  # the page's own timer does not run
    assert api.put(f"/orders/{order_id}/status", json={"status": "cancelled"}).status_code == 200
    page.get_by_label("New status").select_option("shipped")
    page.get_by_role("button", name="Change status").click()
    expect(page.get_by_role("alert")).to_contain_text("412")
    expect(page.locator("#order-status")).to_have_text("cancelled")


def test_the_order_shown_follows_the_one_stored(visit: Visit, api: httpx.Client) -> None:
    visit.expected_statuses = {404}
    page = visit.open()
    place(page, "Watcher")
    order_id = page.locator("#order-id").inner_text()
    assert api.put(f"/orders/{order_id}/status", json={"status": "processing"}).status_code == 200
    expect(page.locator("#order-status")).to_have_text("processing")


def test_a_rejected_form_is_explained_field_by_field(visit: Visit) -> None:
    visit.expected_statuses = {422}
    page = visit.open()
    page.get_by_label("Customer", exact=True).fill("   ")  # enough for the browser, not for the API
    page.get_by_label("Product").fill("Widget")
    page.get_by_role("button", name="Place order").click()
    expect(page.get_by_role("alert")).to_contain_text("422")
    expect(page.locator("#message-errors li")).to_contain_text("#/customer")


def test_an_order_is_placed_once_however_often_it_is_sent(visit: Visit, api: httpx.Client) -> None:
    visit.expected_statuses = {404}
    page = visit.open()
    lost = []

    def lose_the_answer(route) -> None:  # type: ignore[no-untyped-def]
        if route.request.method == "POST" and not lost:
            lost.append(route.fetch())  # the API did it; nobody was told
            route.abort()
        else:
            route.continue_()

    page.route("**/orders", lose_the_answer)
    page.get_by_label("Customer", exact=True).fill("Only Once")
    page.get_by_label("Product").fill("Widget")
    page.get_by_role("button", name="Place order").click()
    expect(page.get_by_role("alert")).to_contain_text("could not be reached")
    visit.complaints.clear()  # Chromium reported the broken connection
    page.get_by_role("button", name="Place order").click()
    expect(page.locator("#announcement")).to_contain_text("is placed")
    assert len(api.get("/orders", params={"customer": "Only Once"}).json()["items"]) == 1


def test_an_attachment_is_uploaded_and_listed(visit: Visit, a_file: Path) -> None:
    visit.expected_statuses = {404}
    page = visit.open()
    place(page, "Attached")
    page.get_by_label("File").set_input_files(a_file)
    page.get_by_role("button", name="Upload").click()
    listed = page.locator("#attachments li")
    expect(listed).to_contain_text(f"{a_file.name} {a_file.stat().st_size} bytes")
    with page.expect_download() as download:
        listed.get_by_role("link").click()
    assert download.value.path().read_text() == a_file.read_text()


def test_an_api_that_asks_for_a_token_gets_it(visit: Visit, guarded_site: str, issuer: Issuer) -> None:
    visit.expected_statuses = {401, 404}
    visit.site = guarded_site
    page = visit.open()
    token = page.get_by_label("Bearer token")
    token.fill("nonsense")
    token.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("Not authenticated (401)")
    visit.picture("token")
    token.fill(issuer.token("ada"))
    token.press("Enter")
    expect(page.locator("#announcement")).to_have_text("The token is in use.")
    place(page, "Ada Lovelace")
    expect(page.locator("#orders tr")).to_have_count(1)  # her own, not those of the tests before
    expect(page.get_by_role("link", name="Open receipt")).to_be_visible(timeout=30_000)
    # The token is nowhere but in the page.
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]


def test_everything_can_be_done_from_the_keyboard(visit: Visit) -> None:
    visit.expected_statuses = {404}
    page = visit.open()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the orders")).to_be_focused()
    page.get_by_label("Customer", exact=True).focus()
    for text in ("Keyboard", "Widget", "4"):
        page.keyboard.type(text)
        page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Place order")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#order-heading")).to_be_focused()
    receipt = page.get_by_role("link", name="Open receipt")
    expect(receipt).to_be_visible(timeout=30_000)
    page.keyboard.press("Tab")
    expect(receipt).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_label("New status")).to_be_focused()


def test_nothing_serious_stands_in_anyones_way(visit: Visit, scheme: str) -> None:
    visit.expected_statuses = {404, 409}
    page = visit.open()
    place(page, "Axe")
    page.get_by_label("New status").select_option("delivered")
    page.get_by_role("button", name="Change status").click()
    expect(page.get_by_role("alert")).to_be_visible()
    expect(page.get_by_role("link", name="Open receipt")).to_be_visible(timeout=30_000)
    visit.picture(f"console-{scheme}")
    # axe runs by evaluation, which the page's own policy forbids its scripts.
    found = Axe().run(page)
    grave = [each for each in found.response["violations"] if each["impact"] in ("serious", "critical")]
    assert grave == [], found.generate_report()


def test_a_narrow_window_needs_no_sideways_scrolling(visit: Visit) -> None:
    visit.expected_statuses = {404}
    visit.page.set_viewport_size({"width": 360, "height": 740})
    page = visit.open()
    place(page, "Narrow")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    visit.picture("narrow")


def test_the_api_documentation_loads_under_its_policy(visit: Visit) -> None:
    page = visit.open("/docs")
    expect(page.get_by_text("Place an order").first).to_be_visible()
    visit.picture("docs")
