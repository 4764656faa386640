"""`make publish-console`: put the files of the console into the bucket of the edge, and refresh the edge."""

from __future__ import annotations

import argparse
import mimetypes
import time
from pathlib import Path

import boto3

CONSOLE = Path(__file__).resolve().parent.parent / "console"
# The names stay the same from release to release, so a browser asks each time whether the file did too.
_CACHE = "no-cache"


def publish(bucket: str, distribution: str) -> int:
    """Upload every file under the key that the edge asks for; return how many."""
    s3 = boto3.client("s3")
    files = sorted(path for path in CONSOLE.rglob("*") if path.is_file())
    # The page last: it never names a file that is not there yet.
    for path in sorted(files, key=lambda path: path.suffix == ".html"):
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        if kind.startswith("text/"):
            kind += "; charset=utf-8"
        key = f"console/{path.relative_to(CONSOLE).as_posix()}"
        s3.put_object(Bucket=bucket, Key=key, Body=path.read_bytes(), ContentType=kind, CacheControl=_CACHE)
    batch = {"Paths": {"Quantity": 1, "Items": ["/console*"]}, "CallerReference": str(time.time_ns())}
    boto3.client("cloudfront").create_invalidation(DistributionId=distribution, InvalidationBatch=batch)
    return len(files)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="make publish-console", description=__doc__)
    parser.add_argument("--edge", default="orders-dev-edge", help="the edge stack (default: %(default)s)")
    stack = boto3.client("cloudformation").describe_stacks(StackName=parser.parse_args().edge)["Stacks"][0]
    outputs = {each["OutputKey"]: each["OutputValue"] for each in stack["Outputs"]}
    count = publish(outputs["ConsoleBucketName"], outputs["DistributionId"])
    print(f"{count} files published at {outputs['EdgeUrl']}/console/")
