"""Runs in a fresh process: call a Lambda handler once (cold) or often (warm), print the CPU time as JSON."""

import importlib
import json
import sys
import time

ORDER_ID = "0199a6f5-1c00-7000-8000-000000000001"
# Of each resource, what is sent to create one; the canned DynamoDB holds the same.
BODIES = {
    "orders": '{"customer": "John Doe", "product": "Widget", "quantity": 5}',
    "products": '{"name": "Widget", "price_cents": 1999, "category": "tools"}',
}


def operations_of(resource: str) -> dict:
    """Return the method, path, query and body of each operation on a resource."""
    return {
        "get": ("GET", f"/{resource}/{ORDER_ID}", "", None),
        "post": ("POST", f"/{resource}", "", BODIES[resource]),
        "list": ("GET", f"/{resource}", "limit=50", None),
    }


OPERATIONS = operations_of("orders")
TURNS = 20  # resources are called in turn, so that other work on the machine hits all alike
HEADERS = {
    "accept": "*/*",
    "content-type": "application/json",
    "host": "api.test",
    "user-agent": "bench",
    "x-amzn-trace-id": "Root=1-5e1b4151-5ac6c58dc39a6a4b1d1f7f3e",
    "x-forwarded-for": "203.0.113.7",
    "x-forwarded-port": "443",
    "x-forwarded-proto": "https",
}


class Context:
    """What handlers read of Lambda's context."""

    aws_request_id = "00000000-0000-4000-8000-000000000000"
    function_name = "api"
    function_version = "1"
    invoked_function_arn = "arn:aws:lambda:eu-west-1:123456789012:function:api"
    memory_limit_in_mb = 1024
    log_group_name = log_stream_name = "log"

    @staticmethod
    def get_remaining_time_in_millis() -> int:
        return 30_000


def event_of(operation: str, kind: str, resource: str = "orders") -> dict:
    """Return the event of an HTTP API ("v2") or of a REST API ("v1")."""
    method, path, query, body = operations_of(resource)[operation]
    parameters = dict(pair.split("=") for pair in query.split("&")) if query else None
    event = {"headers": HEADERS, "body": body, "isBase64Encoded": False, "queryStringParameters": parameters}
    http = {
        "method": method,
        "path": path,
        "protocol": "HTTP/1.1",
        "sourceIp": "203.0.113.7",
        "userAgent": "bench",
    }
    context = {"accountId": "123456789012", "apiId": "api", "domainName": "api.test", "requestId": "request"}
    if kind == "v2":
        context |= {"http": http, "stage": "$default", "timeEpoch": 1767323045678}
        return event | {
            "version": "2.0",
            "routeKey": "$default",
            "rawPath": path,
            "rawQueryString": query,
            "requestContext": context,
        }
    route = "/orders" if path == "/orders" else "/orders/{order_id}"
    context |= {"httpMethod": method, "path": path, "resourcePath": route, "stage": "api", "identity": {}}
    return event | {
        "version": "1.0",
        "resource": route,
        "path": path,
        "httpMethod": method,
        "pathParameters": None if path == "/orders" else {"order_id": ORDER_ID},
        "multiValueHeaders": {name: [value] for name, value in HEADERS.items()},
        "multiValueQueryStringParameters": parameters
        and {name: [value] for name, value in parameters.items()},
        "stageVariables": None,
        "requestContext": context,
    }


def check(operation: str, answer: dict, resource: str = "orders") -> None:
    """Fail unless the answer is the right one: a fast error is no result."""
    assert answer["statusCode"] == (201 if operation == "post" else 200), answer
    body = json.loads(answer["body"])
    if operation == "list":
        assert len(body["items"]) == 50, body
        body = body["items"][0]
    name, value = next(iter(json.loads(BODIES[resource]).items()))
    assert body.get(name) == value, body


def main(mode: str, module: str, kind: str, calls: str, *others: str) -> None:
    """Measure `module`'s handler; warm, also `others`: what they cost as a ratio to orders."""
    handler = importlib.import_module(module).handler
    context = Context()
    if mode == "cold":
        answer = handler(event_of("get", kind), context)
        cpu = time.process_time()
        check("get", answer)
        print(json.dumps({"cpu_ms": cpu * 1e3, "modules": len(sys.modules)}))
        return
    found = {}
    for operation in OPERATIONS:
        events = {resource: event_of(operation, kind, resource) for resource in ("orders", *others)}
        count = max(1, int(calls) // (4 if operation == "list" else 1) // TURNS)
        for resource, event in events.items():
            for _ in range(count * TURNS // 4 + 1):
                answer = handler(event, context)
            check(operation, answer, resource)
        seconds = dict.fromkeys(events, 0.0)
        for resource in TURNS * [*events]:
            began = time.process_time()
            for _ in range(count):
                handler(events[resource], context)
            seconds[resource] += time.process_time() - began
        found[operation] = seconds["orders"] / count / TURNS * 1e6
        found |= {f"{other}_{operation}": seconds[other] / seconds["orders"] for other in others}
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
