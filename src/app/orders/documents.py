"""The `DocumentStore` on S3.

Keys:

    receipts/<order id>.html            written once, by the consumer of `OrderPlaced`
    attachments/<order id>/<file name>  uploaded by the caller with a presigned POST, which S3 enforces:
                                        this key, this content type, 1 to N bytes, for a few minutes

An upload names no key: the bucket encrypts with the stack's own by default, and its policy rejects others.
A presigned link is made in the process. Only `attachments`, `put_receipt` and `receipt_url` call S3.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from app.core.aws.credentials import CredentialsChain
from app.orders.models import Attachment, AttachmentType, Upload

if TYPE_CHECKING:
    from app.core.aws.sdk_client import SdkClient

UPLOAD_SECONDS = 300
DOWNLOAD_SECONDS = 300
# One ListObjectsV2 at most; an order with more attachments shows the first, by name.
_MAX_LISTED = 1000


class S3DocumentStore:
    """Documents in a bucket, encrypted with the given KMS key."""

    def __init__(
        self, bucket: str, kms_key_arn: str, max_bytes: int, credentials: CredentialsChain | None = None
    ) -> None:
        self._bucket = bucket
        self._key_arn = kms_key_arn
        self.max_bytes = max_bytes
        self._credentials = credentials

    @cached_property
    def _s3(self) -> SdkClient:
        from app.core.aws.s3 import s3_client  # here, for most cold starts serve no document

        return s3_client(self._credentials)

    async def presign_upload(
        self, order_id: str, name: str, content_type: AttachmentType, max_bytes: int
    ) -> Upload:
        """Sign a POST that S3 holds to its key, type and size; it takes no field that is not signed."""
        fields = {"Content-Type": content_type}
        conditions: list[Any] = [fields, ["content-length-range", 1, max_bytes]]
        post = await self._s3.sign(
            lambda s3: s3.generate_presigned_post(
                self._bucket,
                _attachments(order_id) + name,
                Fields=fields,
                Conditions=conditions,
                ExpiresIn=UPLOAD_SECONDS,
            )
        )
        return Upload(
            url=post["url"],
            fields=post["fields"],
            max_bytes=max_bytes,
            expires_in_seconds=UPLOAD_SECONDS,
        )

    async def attachments(self, order_id: str) -> list[Attachment]:
        """List the attachments with links that save the file and never show it in the browser."""
        prefix = _attachments(order_id)

        def listed(s3: Any) -> list[Attachment]:
            response = s3.list_objects_v2(Bucket=self._bucket, Prefix=prefix, MaxKeys=_MAX_LISTED)
            return [
                Attachment(
                    name=(name := stored["Key"].removeprefix(prefix)),
                    size_bytes=stored["Size"],
                    uploaded_at=stored["LastModified"],
                    url=self._link(s3, stored["Key"], f"attachment; filename*=UTF-8''{quote(name)}"),
                )
                for stored in response.get("Contents", [])
            ]

        return await self._s3.run("ListObjectsV2", listed)

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

        return await self._s3.run("PutObject", put, on_error={"PreconditionFailed": False})

    async def receipt_url(self, order_id: str) -> str | None:
        """Link to the receipt if there is one."""
        key = _receipt(order_id)

        def link(s3: Any) -> str | None:
            s3.head_object(Bucket=self._bucket, Key=key)
            return self._link(s3, key, f'inline; filename="receipt-{order_id}.html"')

        return await self._s3.run("HeadObject", link, on_error={"404": None})

    def _link(self, s3: Any, key: str, disposition: str) -> str:
        request = {"Bucket": self._bucket, "Key": key, "ResponseContentDisposition": disposition}
        url: str = s3.generate_presigned_url("get_object", Params=request, ExpiresIn=DOWNLOAD_SECONDS)
        return url


def _attachments(order_id: str) -> str:
    return f"attachments/{order_id}/"


def _receipt(order_id: str) -> str:
    return f"receipts/{order_id}.html"
