"""Elastic Load Balancing: an address that clients reach, and targets that live."""

from __future__ import annotations

import asyncio
import random
import socket
from typing import Any

from ministack.services import alb

from localcloud.patches import patch
from localcloud.patches.tools import PORT, Properties, replace, replace_handler


@patch
def load_balancer_names() -> None:
    """AWS does: answer at a name in DNS. https://docs.aws.amazon.com/elasticloadbalancing/latest/application/application-load-balancers.html
    The emulator does: answer at a host name that not every client resolves, or at a path.
    Reported as: not reported.
    """

    @replace_handler("AWS::ElasticLoadBalancingV2::LoadBalancer", "create", "update")
    def handle(original: Any, *args: Any) -> Any:
        arn, attributes = original(*args)
        return arn, {**attributes, "DNSName": f"127.0.0.1:{PORT}/_alb/{attributes['LoadBalancerName']}"}


@patch
def live_targets() -> None:
    """AWS does: forward to healthy targets, and return 503 when there is no target. https://docs.aws.amazon.com/elasticloadbalancing/latest/application/target-group-health-checks.html
    The emulator does: forward to any target, and return 502 while that one starts.
    Reported as: not reported.
    Here a target that accepts a connection is healthy; HealthCheckPath is not asked.
    """

    @replace(alb, "_forward_to_tg")
    async def forward(
        original: Any,
        arn: str,
        method: str,
        path: str,
        headers: Any,
        body: Any,
        query: Any,
        raw_query: Any = None,
        raw: Any = None,
    ) -> Any:
        group = alb._tgs.get(arn)
        targets = list(alb._targets.get(arn, []))
        if not group or group.get("TargetType") not in ("ip", "instance") or not targets:
            return await original(arn, method, path, headers, body, query, raw_query, raw)
        random.shuffle(targets)
        for target in targets:
            if await asyncio.to_thread(_accepts, target, group):
                return await alb._proxy_http_target(
                    target, group, method, raw or path, headers, body, query, raw_query
                )
        return 503, {"Content-Type": "text/html"}, b"<h1>503 Service Temporarily Unavailable</h1>"


def _accepts(target: Properties, group: Properties) -> bool:
    try:
        address = target["Id"], int(target.get("Port") or group.get("Port") or 80)
        socket.create_connection(address, 0.3).close()
    except OSError:
        return False
    return True
