"""CloudFront: our entry points as origins."""

from __future__ import annotations

import re
from typing import Any

from ministack.core import iam_evaluator
from ministack.services import cloudfront

from localcloud.patches import patch
from localcloud.patches.tools import PORT, replace


@patch
def api_as_origin() -> None:
    """AWS does: resolve an origin's host name by DNS. https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/DownloadDistS3AndCustomOrigins.html
    The emulator does: not connect to `execute-api` names, and return 502.
    Reported as: not reported.
    """

    @replace(cloudfront, "_forward_to_origin")
    def forward_to_origin(original: Any, origin: dict[str, Any], method: str, uri: str, *rest: Any) -> Any:
        api = re.match(r"^([0-9a-f]{8})\.execute-api\.", origin["domain_name"])
        # A load balancer's name holds a path already: see load_balancing.load_balancer_names.
        path = f"_aws/execute-api/{api[1]}/$default" if api else origin["domain_name"].partition("/")[2]
        if path:
            here = {"domain_name": "127.0.0.1", "http_port": int(PORT), "protocol_policy": "http-only"}
            origin, uri = {**origin, **here}, f"/{path}{uri}"
        return original(origin, method, uri, *rest)


@patch
def bucket_origins_over_tls() -> None:
    """AWS does: use HTTPS to a bucket whose origin access control is on, which `aws:SecureTransport` sees. https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/private-content-restricting-access-to-s3.html
    The emulator does: fetch on a thread that has no address and no transport, which such a policy rejects.
    Reported as: not reported.
    """

    @replace(cloudfront, "_serve_s3_origin")
    def serve_s3_origin(original: Any, *args: Any, **kwargs: Any) -> Any:
        iam_evaluator.pin_request_origin("127.0.0.1", True)
        return original(*args, **kwargs)
