"""What the OpenAPI document allows is taken, and what it does not allow is refused, through each runtime."""

from __future__ import annotations

import json
import sys
from typing import Any
from urllib.parse import quote

import httpx
import jsonschema_rs
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import TypeAdapter, ValidationError
from tests.builders import ROOT

from app.core.http.pydantic_models import request_type
from app.core.models import NOT_WHITE_SPACE, Name

DOCUMENT = json.loads((ROOT / "docs/openapi.json").read_text())
SCHEMAS = DOCUMENT["components"]["schemas"]
CUSTOMER = next(
    parameter["schema"]
    for parameter in DOCUMENT["paths"]["/orders"]["get"]["parameters"]
    if parameter["name"] == "customer"
)
SPACES = "".join(filter(str.isspace, map(chr, range(sys.maxunicode + 1))))


def parsed(body: str) -> Any:
    """Read JSON, with numbers of any length."""
    return json.loads(body, parse_int=lambda digits: int(digits) if len(digits) < 4_000 else 10**4_000)


names = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=5),
    st.text(st.sampled_from(SPACES + "\ufeff\u200b\u180ex"), max_size=4),
    st.builds(
        lambda before, character, count: before + character * count,
        st.sampled_from(["", " ", "\u3000\n", "x"]),
        st.sampled_from(["x", " ", "\U0001f600", "e\u0301"]),
        st.integers(198, 201),
    ),
)
# JSON has one type of number; here is how it may be written.
numbers = st.one_of(
    st.integers(-2, 1_000_002).map(str),
    st.integers(-2, 1_000_002).map(float).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(str),
    st.sampled_from(["5.0", "5e0", "5E+0", "50e-1", "1e6", "1.0e6", "1000001.0", "1e7", "5.5", "-0", "-0.0"]),
    st.sampled_from(["0.1e1", "1e-1", "1e22", "1e400", "9" * 30, "9" * 5_000, "5.000000000000000000001"]),
)
odd = st.sampled_from(['"5"', "true", "false", "null", "[]", "{}", '""', "[5]"])
text = names.map(json.dumps)
orders = st.builds(
    lambda pairs: f"{{{', '.join(f'{json.dumps(name)}: {value}' for name, value in pairs.items())}}}",
    st.fixed_dictionaries(
        {"customer": text | odd, "product": text, "quantity": numbers | odd},
        optional={"extra": numbers},
    )
    | st.dictionaries(st.sampled_from(["customer", "product", "quantity"]), text | numbers, max_size=3),
)


def is_documented(schema: dict[str, Any], instance: Any) -> bool:
    return Draft202012Validator(schema | {"components": {"schemas": SCHEMAS}}).is_valid(instance)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=orders)
@example(body='{"customer": " ", "product": "x", "quantity": 1}')
@example(body=json.dumps({"customer": " " + "x" * 200, "product": "x", "quantity": 1}))
@example(body='{"customer": "x", "product": "x", "quantity": 5.0}')
def test_an_order_is_taken_if_the_document_allows_it(client: httpx.Client, body: str) -> None:
    allowed = is_documented(SCHEMAS["OrderCreate"], parsed(body))
    response = client.post("/orders", content=body, headers={"content-type": "application/json"})
    assert response.status_code == (201 if allowed else 422), response.text
    if allowed:
        order, sent = response.json(), parsed(body)
        assert (order["customer"], order["product"]) == (sent["customer"].strip(), sent["product"].strip())
        assert order["quantity"] == sent["quantity"]
        assert type(order["quantity"]) is int


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=names)
def test_a_filter_is_taken_if_the_document_allows_it(client: httpx.Client, name: str) -> None:
    response = client.get(f"/orders?customer={quote(name)}")
    assert response.status_code == (200 if is_documented(CUSTOMER, name) else 422), response.text


@pytest.mark.parametrize("status", ["shipped", "Shipped", " shipped", "", 1, None, ["shipped"], {}])
def test_a_status_is_taken_if_the_document_allows_it(client: httpx.Client, status: Any) -> None:
    allowed = is_documented(SCHEMAS["StatusUpdate"], {"status": status})
    order = client.post("/orders", json={"customer": "a", "product": "b", "quantity": 1}).json()
    response = client.put(f"/orders/{order['id']}/status", json={"status": status})
    assert response.status_code == (200 if allowed else 422)


attachments = st.fixed_dictionaries(
    {
        "content_type": st.sampled_from(["application/pdf", "text/plain", "image/png", "text/html", "", 5]),
        "name": st.sampled_from(["a.pdf", "a.txt", "a.TXT", "a.png", "a", ".pdf", "a b.pdf", "a\n.pdf"]),
    },
    optional={"size_bytes": numbers.map(parsed) | st.sampled_from([None, "5", True])},
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=attachments)
def test_an_attachment_is_taken_if_the_document_allows_it(client: httpx.Client, body: dict[str, Any]) -> None:
    placed = client.post("/orders", json={"customer": "a", "product": "b", "quantity": 1})
    text = json.dumps(body).replace("Infinity", "1e400")
    path, headers = f"{placed.headers['location']}/attachments", {"content-type": "application/json"}
    response = client.post(path, content=text, headers=headers)
    refused = response.json().get("type") == "urn:orders:problem:invalid-request"
    assert refused is not is_documented(SCHEMAS["NewAttachment"], body), response.text


def test_white_space_is_the_same_whoever_looks() -> None:
    """Python strips it, pydantic checks it (by Rust's expressions), others read the document."""
    others = jsonschema_rs.Draft202012Validator({"type": "string", "pattern": NOT_WHITE_SPACE})
    ours = TypeAdapter(request_type(Name))

    def taken(character: str) -> bool:
        try:
            return bool(ours.validate_python(character))
        except ValidationError:
            return False

    plane = [chr(number) for number in range(0x10000) if not 0xD800 <= number < 0xE000]
    for character in [*plane, "\U0001f600", "\U000e0020"]:
        expected = not character.isspace()
        assert (taken(character), others.is_valid(character)) == (expected, expected), repr(character)
    assert max(SPACES) < "\uffff"
