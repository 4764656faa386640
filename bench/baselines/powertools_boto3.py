"""Powertools' own router with validation + boto3: what its documentation shows."""

import os
import uuid
from datetime import UTC, datetime
from typing import Annotated

import boto3
from aws_lambda_powertools.event_handler import APIGatewayHttpResolver, Response, content_types
from aws_lambda_powertools.event_handler.exceptions import NotFoundError
from aws_lambda_powertools.event_handler.openapi.params import Query
from boto3.dynamodb.conditions import Key
from pydantic import BaseModel, Field

app = APIGatewayHttpResolver(enable_validation=True)
table = boto3.resource("dynamodb").Table(os.environ["APP_TABLE_NAME"])


class OrderIn(BaseModel):
    customer: str = Field(min_length=1, max_length=200)
    product: str = Field(min_length=1, max_length=200)
    quantity: int = Field(ge=1, le=1_000_000)


class Order(OrderIn):
    id: str
    status: str
    version: int
    created_at: datetime
    updated_at: datetime


class OrderList(BaseModel):
    items: list[Order]
    next_cursor: str | None = None


@app.post("/orders")
def place_order(body: OrderIn) -> Response[Order]:
    now = datetime.now(UTC)
    order = Order(
        **body.model_dump(), id=str(uuid.uuid4()), status="pending", version=1, created_at=now, updated_at=now
    )
    item = order.model_dump(mode="json")
    table.put_item(
        Item=item
        | {
            "pk": f"order#{order.id}",
            "sort_key": f"{item['created_at']}#{order.id}",
            "shard": "order#0",
            "filter_key": f"customer#{order.customer}",
        },
        ConditionExpression="attribute_not_exists(pk)",
    )
    return Response(201, content_types.APPLICATION_JSON, order)


@app.get("/orders/<order_id>")
def get_order(order_id: str) -> Order:
    found = table.get_item(Key={"pk": f"order#{order_id}"}).get("Item")
    if not found:
        raise NotFoundError("There is no such order")
    return Order(**found)


@app.get("/orders")
def list_orders(limit: Annotated[int, Query(ge=1, le=100)] = 20) -> OrderList:
    answer = table.query(
        IndexName="by-shard",
        KeyConditionExpression=Key("shard").eq("orders"),
        ScanIndexForward=False,
        Limit=limit,
    )
    last = answer.get("LastEvaluatedKey")
    return OrderList(items=answer["Items"], next_cursor=last["sort_key"] if last else None)


def handler(event, context):
    return app.resolve(event, context)
