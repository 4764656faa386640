"""Chalice + boto3: a REST API handler, checked by hand, as its documentation shows."""

import os
import uuid
from datetime import UTC, datetime

import boto3
from boto3.dynamodb.conditions import Key
from chalice import BadRequestError, Chalice, NotFoundError, Response

app = Chalice(app_name="orders")
table = boto3.resource("dynamodb").Table(os.environ["APP_TABLE_NAME"])
PUBLIC = ("id", "customer", "product", "quantity", "status", "version", "created_at", "updated_at")


def public(item):
    return {name: int(item[name]) if name in ("quantity", "version") else item[name] for name in PUBLIC}


@app.route("/orders", methods=["POST"])
def place_order():
    body = app.current_request.json_body
    if not isinstance(body, dict) or set(body) != {"customer", "product", "quantity"}:
        raise BadRequestError("customer, product and quantity are needed")
    if not isinstance(body["quantity"], int) or not 1 <= body["quantity"] <= 1_000_000:
        raise BadRequestError("quantity is a number from 1")
    now = datetime.now(UTC).isoformat()
    order_id = str(uuid.uuid4())
    item = {
        "pk": f"order#{order_id}",
        "id": order_id,
        **body,
        "status": "pending",
        "version": 1,
        "created_at": now,
        "updated_at": now,
        "sort_key": f"{now}#{order_id}",
        "shard": "order#0",
        "filter_key": f"customer#{body['customer']}",
    }
    table.put_item(Item=item, ConditionExpression="attribute_not_exists(pk)")
    return Response(public(item), status_code=201)


@app.route("/orders/{order_id}", methods=["GET"])
def get_order(order_id):
    found = table.get_item(Key={"pk": f"order#{order_id}"}).get("Item")
    if not found:
        raise NotFoundError("There is no such order")
    return public(found)


@app.route("/orders", methods=["GET"])
def list_orders():
    limit = int((app.current_request.query_params or {}).get("limit", "20"))
    answer = table.query(
        IndexName="by-shard",
        KeyConditionExpression=Key("shard").eq("orders"),
        ScanIndexForward=False,
        Limit=limit,
    )
    last = answer.get("LastEvaluatedKey")
    return {
        "items": [public(item) for item in answer["Items"]],
        "next_cursor": last["sort_key"] if last else None,
    }


handler = app
