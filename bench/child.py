"""Runs in a fresh process: call a Lambda handler once (cold) or often (warm), print the CPU time as JSON."""

import importlib
import json
import sys
import time

ORDER_ID = "0199a6f5-1c00-7000-8000-000000000001"
OPERATIONS = {
    "get": ("GET", f"/orders/{ORDER_ID}", "", None),
    "post": ("POST", "/orders", "", '{"customer": "John Doe", "product": "Widget", "quantity": 5}'),
    "list": ("GET", "/orders", "limit=50", None),
}
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


def event_of(operation: str, kind: str) -> dict:
    """Return the event of an HTTP API ("v2") or of a REST API ("v1")."""
    method, path, query, body = OPERATIONS[operation]
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
    resource = "/orders" if path == "/orders" else "/orders/{order_id}"
    context |= {"httpMethod": method, "path": path, "resourcePath": resource, "stage": "api", "identity": {}}
    return event | {
        "version": "1.0",
        "resource": resource,
        "path": path,
        "httpMethod": method,
        "pathParameters": None if path == "/orders" else {"order_id": ORDER_ID},
        "multiValueHeaders": {name: [value] for name, value in HEADERS.items()},
        "multiValueQueryStringParameters": parameters
        and {name: [value] for name, value in parameters.items()},
        "stageVariables": None,
        "requestContext": context,
    }


def check(operation: str, answer: dict) -> None:
    """Fail unless the answer is the right one: a fast error is no result."""
    assert answer["statusCode"] == (201 if operation == "post" else 200), answer
    body = json.loads(answer["body"])
    assert len(body["items"]) == 50 if operation == "list" else body["customer"] == "John Doe", body


def main(mode: str, module: str, kind: str, calls: str) -> None:
    """Measure `module`'s handler."""
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
        event = event_of(operation, kind)
        count = int(calls) // (4 if operation == "list" else 1)
        for _ in range(count // 4 + 1):
            answer = handler(event, context)
        check(operation, answer)
        began = time.process_time()
        for _ in range(count):
            handler(event, context)
        found[operation] = (time.process_time() - began) / count * 1e6
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
