"""The `DocumentStore` on S3.

Keys:

    receipts/<order id>.html            written once, by the consumer of `OrderPlaced`
    attachments/<order id>/<file name>  uploaded by the caller with a presigned POST, which S3 enforces:
                                        this key, this content type, 1 to N bytes, for a few minutes

An upload names no key: the bucket encrypts with the stack's own by default, and its policy refuses others.

boto3 is imported when it is first used, in a thread: the API starts, and takes orders, without it.
A presigned link is made in the process; only `attachments`, `put_receipt` and `receipt_url` call S3,
in threads that are for nothing else. One that hangs keeps its place after its caller has given up.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import quote, urlsplit

from app.core.aws.client import (
    KEY_UNUSABLE,
    KEYS_REFUSED,
    PLACES,
    THROTTLES,
    AwsCallError,
    Bulkhead,
)
from app.core.aws.credentials import Credentials, CredentialsChain
from app.core.aws.endpoints import is_of_aws, region_for_sdk
from app.core.errors import DependencyUnavailable
from app.orders.models import AttachmentType
from app.orders.ports import Attachment, Upload

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

UPLOAD_SECONDS = 300
DOWNLOAD_SECONDS = 300
# One ListObjectsV2 at most; an order with more attachments shows the first, by name.
_MAX_LISTED = 1000

# For a whole call, retries included. Two tries with what may lie between them end at about the same time.
DEADLINE_SECONDS = 5.0
CONNECT_SECONDS = 1
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/optimizing-performance-guidelines.html
READ_SECONDS = 2
TRIES = 2

# Refusals with a status of 4xx that may pass. A HEAD is refused without words: with 400 for expired keys, and
# with 403 for unknown keys or a wrong clock, but also for missing rights.
_PASSING = THROTTLES | KEY_UNUSABLE | {"RequestTimeout", "403"}
_KEYS_REFUSED = KEYS_REFUSED | {"400"}

Answer = TypeVar("Answer")


class S3DocumentStore:
    """Documents in a bucket, encrypted with the given KMS key."""

    def __init__(
        self, bucket: str, kms_key_arn: str, max_bytes: int, credentials: CredentialsChain | None = None
    ) -> None:
        self._bucket = bucket
        self._key_arn = kms_key_arn
        self.max_bytes = max_bytes
        self._credentials = credentials or CredentialsChain()
        self._keys: Credentials | None = None
        self._bulkhead = Bulkhead("s3")
        self._threads: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._made: Any = None

    async def presign_upload(
        self, order_id: str, name: str, content_type: AttachmentType, max_bytes: int
    ) -> Upload:
        """Sign a POST that S3 holds to its key, type and size; it takes no field that is not signed."""
        fields = {"Content-Type": content_type}
        conditions: list[Any] = [fields, ["content-length-range", 1, max_bytes]]
        post = await self._sign(
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

    async def _sign(self, call: Callable[[Any], Answer]) -> Answer:
        """Run `call`, which asks nobody, with the client."""
        await self._fresh_keys()
        return call(self._made or await self._in_thread(self._client))

    async def _fresh_keys(self) -> Credentials:
        """Look up the keys that the client signs with."""
        self._keys = keys = self._credentials.current or await self._credentials.renew()
        return keys

    async def _run(
        self, call: Callable[[Any], Answer], if_refused: dict[str, Answer] | None = None
    ) -> Answer:
        """Run `call` with the client in a thread. `if_refused`: the answers to expected refusals, by code."""
        if self._made is None:
            await self._in_thread(self._client)
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                keys = await self._fresh_keys()
                try:
                    return await self._in_thread(self._call, call, if_refused or {})
                except AwsCallError:
                    await self._credentials.replace(keys)
                await self._fresh_keys()
                return await self._in_thread(self._call, call, if_refused or {})
        except AwsCallError as refused:
            raise DependencyUnavailable("credentials") from refused
        except TimeoutError as late:
            raise DependencyUnavailable("s3") from late

    async def _in_thread(self, function: Callable[..., Answer], *args: Any) -> Answer:
        if self._threads is None:
            from concurrent.futures import ThreadPoolExecutor

            self._threads = ThreadPoolExecutor(PLACES["s3"], "s3")
        self._bulkhead.take()
        try:
            running = self._threads.submit(function, *args)
        except BaseException:  # no thread can be started; those that are there take the call, if any are
            self._bulkhead.give_back()
            raise
        running.add_done_callback(self._bulkhead.give_back)
        return await asyncio.wrap_future(running)

    def _call(self, call: Callable[[Any], Any], if_refused: dict[str, Any]) -> Any:
        """Run `call`. Raises `AwsCallError` when S3 does not take the keys."""
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        try:
            return call(self._client())
        except ClientError as refused:
            error = refused.response["Error"]
            code = error["Code"]
            if code in if_refused:
                return if_refused[code]
            if code in _KEYS_REFUSED:
                raise AwsCallError(code, error.get("Message", "")) from refused
            status = refused.response["ResponseMetadata"]["HTTPStatusCode"]
            # 409: another put of the same key is under way; like 5xx and 429, it passes.
            if code in _PASSING or status in (409, 429) or not 400 <= status < 500:
                raise DependencyUnavailable("s3") from refused
            raise
        except (BotoCoreError, ResponseParserError) as broken:
            raise DependencyUnavailable("s3") from broken

    def _client(self) -> Any:
        with self._lock:
            if self._made is None:
                self._made = _new_client(lambda: self._keys)
            return self._made


def _new_client(keys: Callable[[], Credentials | None]) -> Any:
    import boto3
    from botocore import credentials
    from botocore.config import Config
    from botocore.session import get_session

    class Keys(credentials.Credentials):
        """Those that all our clients use."""

        def get_frozen_credentials(self) -> credentials.ReadOnlyCredentials:
            found = keys()
            assert found is not None  # noqa: S101 - they are looked up before every call
            return credentials.ReadOnlyCredentials(found.access_key, found.secret_key, found.token or None)

    class Provider(credentials.CredentialProvider):
        """In the place of botocore's own chain, which asks, and waits, in every thread."""

        def load(self) -> credentials.Credentials:
            return Keys("", "")

    def client(addressing: Literal["virtual", "path"]) -> Any:
        config = Config(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            retries={"mode": "standard", "total_max_attempts": TRIES},
            max_pool_connections=PLACES["s3"],
            signature_version="s3v4",  # KMS asks for it
            # Or us-east-1 had the host BUCKET.s3.amazonaws.com, to which edge/ lets no console go.
            # https://docs.aws.amazon.com/sdkref/latest/guide/feature-s3-regional-endpoint.html
            s3={"addressing_style": addressing, "us_east_1_regional_endpoint": "regional"},
        )
        return session.client("s3", region_name=region_for_sdk(), config=config)

    core = get_session()
    core.register_component("credential_provider", credentials.CredentialResolver([Provider()]))
    session = boto3.Session(botocore_session=core)
    # Named by its host, so that links lead to the bucket's own region. A local S3 has no such hosts.
    made = client("virtual")
    return made if is_of_aws(f"{urlsplit(made.meta.endpoint_url).hostname}") else client("path")


def _attachments(order_id: str) -> str:
    return f"attachments/{order_id}/"


def _receipt(order_id: str) -> str:
    return f"receipts/{order_id}.html"
