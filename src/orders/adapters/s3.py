"""The `DocumentStore` on S3.

Keys:

    receipts/<order id>.html            written once, by the consumer of `OrderPlaced`
    attachments/<order id>/<file name>  uploaded by the caller with a presigned POST, which S3 enforces:
                                        this key, this content type, 1 to N bytes, for a few minutes

An upload names no key: the bucket encrypts with the stack's own by default, and its policy refuses others.

boto3 is imported when it is first used, in a thread: the API starts, and takes orders, without it.
A presigned link is made in the process; only `attachments`, `put_receipt` and `receipt_url` call S3.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, Literal, TypeVar
from urllib.parse import quote, urlsplit

from orders.domain import AttachmentType
from orders.errors import DependencyUnavailable
from orders.ports import Attachment, Upload

UPLOAD_SECONDS = 300
DOWNLOAD_SECONDS = 300
# One ListObjectsV2 at most; an order with more attachments shows the first, by name.
_MAX_LISTED = 1000

Answer = TypeVar("Answer")


class S3DocumentStore:
    """Documents in a bucket, encrypted with the given KMS key."""

    def __init__(self, bucket: str, kms_key_arn: str, max_bytes: int) -> None:
        self._bucket = bucket
        self._key_arn = kms_key_arn
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        self._made: Any = None

    async def presign_upload(
        self, order_id: str, name: str, content_type: AttachmentType, max_bytes: int
    ) -> Upload:
        """Sign a POST that S3 holds to its key, type and size; it takes no field that is not signed."""
        fields = {"Content-Type": content_type}
        conditions: list[Any] = [fields, ["content-length-range", 1, max_bytes]]
        post = await self._run(
            lambda s3: s3.generate_presigned_post(
                self._bucket,
                _attachments(order_id) + name,
                Fields=fields,
                Conditions=conditions,
                ExpiresIn=UPLOAD_SECONDS,
            )
        )
        return Upload(post["url"], post["fields"], max_bytes, UPLOAD_SECONDS)

    async def attachments(self, order_id: str) -> list[Attachment]:
        """List the attachments with links that save the file and never show it in the browser."""
        prefix = _attachments(order_id)

        def listed(s3: Any) -> list[Attachment]:
            answer = s3.list_objects_v2(Bucket=self._bucket, Prefix=prefix, MaxKeys=_MAX_LISTED)
            return [
                Attachment(
                    name=(name := stored["Key"].removeprefix(prefix)),
                    size_bytes=stored["Size"],
                    uploaded_at=stored["LastModified"],
                    url=self._link(s3, stored["Key"], f"attachment; filename*=UTF-8''{quote(name)}"),
                )
                for stored in answer.get("Contents", [])
            ]

        return await self._run(listed)

    async def put_receipt(self, order_id: str, html: bytes) -> bool:
        """Put the receipt if its key is free: a second event makes no second version."""

        def put(s3: Any) -> bool:
            s3.put_object(
                Bucket=self._bucket,
                Key=_receipt(order_id),
                Body=html,
                ContentType="text/html; charset=utf-8",
                ServerSideEncryption="aws:kms",
                SSEKMSKeyId=self._key_arn,
                IfNoneMatch="*",
            )
            return True

        return await self._run(put, if_refused={"PreconditionFailed": False})

    async def receipt_url(self, order_id: str) -> str | None:
        """Link to the receipt if there is one."""
        key = _receipt(order_id)

        def link(s3: Any) -> str | None:
            s3.head_object(Bucket=self._bucket, Key=key)
            return self._link(s3, key, f'inline; filename="receipt-{order_id}.html"')

        return await self._run(link, if_refused={"404": None})

    def _link(self, s3: Any, key: str, disposition: str) -> str:
        request = {"Bucket": self._bucket, "Key": key, "ResponseContentDisposition": disposition}
        url: str = s3.generate_presigned_url("get_object", Params=request, ExpiresIn=DOWNLOAD_SECONDS)
        return url

    async def _run(
        self, call: Callable[[Any], Answer], if_refused: dict[str, Answer] | None = None
    ) -> Answer:
        """Run `call` with the client in a thread. `if_refused`: the answers to expected refusals, by code."""
        return await asyncio.to_thread(self._call, call, if_refused or {})

    def _call(self, call: Callable[[Any], Any], if_refused: dict[str, Any]) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return call(self._client())
        except ClientError as refused:
            code = refused.response["Error"]["Code"]
            if code in if_refused:
                return if_refused[code]
            status = refused.response["ResponseMetadata"]["HTTPStatusCode"]
            # 409: another put of the same key is under way; like 5xx and 429, it passes.
            if status in (409, 429) or status >= 500:
                raise DependencyUnavailable("s3") from refused
            raise
        except BotoCoreError as broken:
            raise DependencyUnavailable("s3") from broken

    def _client(self) -> Any:
        with self._lock:
            if self._made is None:
                self._made = _new_client()
            return self._made


def _new_client() -> Any:
    import boto3
    from botocore.config import Config

    def client(addressing: Literal["virtual", "path"]) -> Any:
        config = Config(
            connect_timeout=1,
            read_timeout=3,
            retries={"mode": "standard", "max_attempts": 3},
            max_pool_connections=32,
            signature_version="s3v4",  # KMS asks for it
            s3={"addressing_style": addressing},
        )
        return boto3.client("s3", config=config)

    # Named by its host, so that links lead to the bucket's own region. A local S3 has no such hosts.
    made = client("virtual")
    on_aws = ".amazonaws.com" in f"{urlsplit(made.meta.endpoint_url).hostname}"
    return made if on_aws else client("path")


def _attachments(order_id: str) -> str:
    return f"attachments/{order_id}/"


def _receipt(order_id: str) -> str:
    return f"receipts/{order_id}.html"
