"""Our function with Powertools' Logger and Metrics in place of our own: the same line and metrics."""

import time
from typing import Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit

from bench.baselines.orders_silent import handler as inner

logger = Logger(service="orders")
metrics = Metrics(namespace="Orders", service="orders")
cold = True


def handler(event: dict[str, Any], context: Any) -> Any:
    global cold
    began = time.perf_counter()
    logger.set_correlation_id(context.aws_request_id)
    answer = inner(event, context)
    latency = round((time.perf_counter() - began) * 1e3, 2)
    metrics.add_metric("Requests", MetricUnit.Count, 1)
    metrics.add_metric("ServerErrors", MetricUnit.Count, answer["statusCode"] >= 500)
    metrics.add_metric("Latency", MetricUnit.Milliseconds, latency)
    metrics.flush_metrics()
    logger.info(
        "request",
        extra={
            "method": event["requestContext"]["http"]["method"],
            "route": event["rawPath"],
            "status": answer["statusCode"],
            "latency_ms": latency,
            "cold_start": cold,
            "trace_id": event["headers"]["x-amzn-trace-id"],
        },
    )
    cold = False
    return answer
