"""The CloudFront distribution of a stage: what its two stacks are given, and the console's files."""

from __future__ import annotations

import mimetypes
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.cli import CliError
from scripts.delivery.decide import named

CONSOLE = Path(__file__).resolve().parents[2] / "console"
# CloudFront takes a web ACL from this region only.
WEB_ACL_REGION = "us-east-1"
_ORIGINS = {"lambda": "LambdaOriginDomain", "fargate": "FargateOriginDomain"}
# Parameters that nobody gives: they follow from the stacks.
_WORKED_OUT = {"ActiveOrigin", "DocumentsBucketName", "Scope", "WebAclArn", *_ORIGINS.values()}
# The names stay the same from release to release, so a browser asks each time whether the file did too.
_CACHE = "no-cache"


def web_acl_stack_name(orders: str, region: str) -> str:
    """Name the stack of the web ACL of a CDN; CDNs of other regions have theirs beside it in us-east-1."""
    return f"{orders}-waf-{region}"


def edge_parameters(orders: Mapping[str, str], active: str) -> dict[str, str]:
    """Return what the CDN must know of the orders stack, by its outputs. Raises CliError.

    `active` is the runtime that requests go to.
    """
    if _ORIGINS[active] not in orders:
        raise CliError(f"the CDN sends requests to {active}, which does not stand: deploy it first")
    names = {*_ORIGINS.values(), "DocumentsBucketName"} & orders.keys()
    return {"ActiveOrigin": active} | {name: orders[name] for name in names}


def given_parameters(
    pairs: Sequence[str], web_acl: Mapping[str, Any], edge: Mapping[str, Any]
) -> tuple[dict[str, str], dict[str, str]]:
    """Share out Name=value pairs between the templates that declare the names. Raises CliError.

    `web_acl` and `edge` are the templates' declared parameters.
    """
    given = named(pairs)
    for name in given:
        if name in _WORKED_OUT:
            raise CliError(f"{name} is worked out from the stacks: leave it out")
        if name not in web_acl and name not in edge:
            raise CliError(f"neither waf/ nor edge/ has a parameter {name}")
    return (
        {name: value for name, value in given.items() if name in web_acl},
        {name: value for name, value in given.items() if name in edge},
    )


def publish(client: Callable[[str], Any], bucket: str, distribution: str) -> int:
    """Upload every file of the console under the key that the CDN asks for; return how many."""
    s3 = client("s3")
    files = sorted(path for path in CONSOLE.rglob("*") if path.is_file())
    # The page last: it never names a file that is not there yet.
    for path in sorted(files, key=lambda path: path.suffix == ".html"):
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        if kind.startswith("text/"):
            kind += "; charset=utf-8"
        key = f"console/{path.relative_to(CONSOLE).as_posix()}"
        s3.put_object(Bucket=bucket, Key=key, Body=path.read_bytes(), ContentType=kind, CacheControl=_CACHE)
    batch = {"Paths": {"Quantity": 1, "Items": ["/console*"]}, "CallerReference": str(time.time_ns())}
    client("cloudfront").create_invalidation(DistributionId=distribution, InvalidationBatch=batch)
    return len(files)
