"""The baseline: FastAPI + Mangum + boto3 with models, response models and the table resource."""

import os
import uuid
from datetime import UTC, datetime

import boto3
from boto3.dynamodb.conditions import Key
from fastapi import FastAPI, HTTPException, Query
from mangum import Mangum
from pydantic import BaseModel, Field

app = FastAPI(title="Orders")
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


@app.get("/health")
def health() -> dict[str, str]:
    return {"status": "ok"}


@app.post("/orders", status_code=201, response_model=Order)
def place_order(body: OrderIn):
    now = datetime.now(UTC).isoformat()
    order_id = str(uuid.uuid4())
    item = {
        "pk": f"order#{order_id}",
        "id": order_id,
        **body.model_dump(),
        "status": "pending",
        "version": 1,
        "created_at": now,
        "updated_at": now,
        "sort_key": f"{now}#{order_id}",
        "shard": "order#0",
        "filter_key": f"customer#{body.customer}",
    }
    table.put_item(Item=item, ConditionExpression="attribute_not_exists(pk)")
    return item


@app.get("/orders/{order_id}", response_model=Order)
def get_order(order_id: str):
    found = table.get_item(Key={"pk": f"order#{order_id}"}).get("Item")
    if not found:
        raise HTTPException(404, "There is no such order")
    return found


@app.get("/orders", response_model=OrderList)
def list_orders(limit: int = Query(20, ge=1, le=100)):
    answer = table.query(
        IndexName="by-shard",
        KeyConditionExpression=Key("shard").eq("orders"),
        ScanIndexForward=False,
        Limit=limit,
    )
    last = answer.get("LastEvaluatedKey")
    return {"items": answer["Items"], "next_cursor": last["sort_key"] if last else None}


handler = Mangum(app, lifespan="off")
