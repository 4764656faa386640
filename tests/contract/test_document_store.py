"""What every `DocumentStore` does; and of the one on S3, what the links and forms it signs say."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs, urlsplit

import boto3
import pytest
from botocore.exceptions import ClientError
from localcloud.running import Emulator
from tests.faulty_server import Behaviour, Server, hangs, resets, responds, sends, serving
from tests.template.templates import mentions, template

from app.core.aws import client as aws_adapters
from app.core.aws import sdk_client
from app.core.errors import DependencyUnavailable
from app.core.ids import new_id
from app.orders.documents import S3DocumentStore
from app.orders.memory import MemoryDocumentStore
from app.orders.models import AttachmentType, Upload
from app.orders.service import DocumentStore

ID = "0199a6f5-1c00-7000-8000-000000000001"
Attach = Callable[[str, str, bytes], object]


@pytest.fixture
def live_store(at_aws: Emulator) -> S3DocumentStore:
    outputs = at_aws.outputs
    return S3DocumentStore(outputs["DocumentsBucketName"], outputs["DataKeyArn"], max_bytes=1000)


@pytest.fixture
def key_arn(moto: None) -> str:
    return str(boto3.client("kms").create_key()["KeyMetadata"]["Arn"])


@pytest.fixture
def s3_store(key_arn: str) -> S3DocumentStore:
    boto3.client("s3").create_bucket(
        Bucket="documents", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"}
    )
    return S3DocumentStore("documents", key_arn, max_bytes=1000)


@pytest.fixture(params=["memory", "s3"])
def documents(request: pytest.FixtureRequest) -> DocumentStore:
    if request.param == "memory":
        return MemoryDocumentStore(max_bytes=1000)
    store: DocumentStore = request.getfixturevalue("live_store")
    return store


@pytest.fixture
def attach(documents: DocumentStore, request: pytest.FixtureRequest) -> Attach:
    """Put an attachment, by order, name and content, where an upload would have put it."""
    if isinstance(documents, MemoryDocumentStore):
        uploads = documents.uploads
        return lambda order_id, name, body: uploads.setdefault(order_id, {}).update({name: body})
    aws: Emulator = request.getfixturevalue("aws")
    bucket = aws.outputs["DocumentsBucketName"]
    return lambda order_id, name, body: boto3.client("s3").put_object(
        Bucket=bucket, Key=f"attachments/{order_id}/{name}", Body=body
    )


class TestEveryStore:
    async def test_the_first_receipt_stays(self, documents: DocumentStore) -> None:
        order_id, other = new_id(), new_id()
        assert await documents.receipt_url(order_id) is None
        assert await documents.put_receipt(order_id, b"first")
        assert not await documents.put_receipt(order_id, b"second")
        assert f"receipts/{order_id}.html" in (await documents.receipt_url(order_id) or "")
        assert await documents.receipt_url(other) is None

    async def test_of_four_receipts_at_once_one_is_put(self, documents: DocumentStore) -> None:
        order_id = new_id()
        put = await asyncio.gather(*(documents.put_receipt(order_id, b"<p>") for _ in range(4)))
        assert sorted(put) == [False, False, False, True]

    def test_lists_an_orders_own_attachments_by_name(self, documents: DocumentStore, attach: Attach) -> None:
        order_id, other = new_id(), new_id()
        attach(order_id, "b.txt", b"two")
        attach(order_id, "a.txt", b"one more")
        attach(other, "c.txt", b"")
        listed = asyncio.run(documents.attachments(order_id))
        assert [(attachment.name, attachment.size_bytes) for attachment in listed] == [
            ("a.txt", 8),
            ("b.txt", 3),
        ]
        assert all(attachment.uploaded_at.tzinfo for attachment in listed)

    def test_an_upload_is_bound_to_its_key_and_type(self, documents: DocumentStore) -> None:
        upload = asyncio.run(documents.presign_upload(ID, "invoice.pdf", AttachmentType.PDF, 500))
        assert upload.fields["key"] == f"attachments/{ID}/invoice.pdf"
        assert upload.fields["Content-Type"] == "application/pdf"
        assert (upload.max_bytes, documents.max_bytes) == (500, 1000)


class TestS3:
    async def test_a_receipt_is_encrypted_with_the_key_and_has_one_version(
        self, live_store: S3DocumentStore, aws: Emulator
    ) -> None:
        order_id, s3 = new_id(), boto3.client("s3")
        bucket, key = aws.outputs["DocumentsBucketName"], f"receipts/{order_id}.html"
        await asyncio.gather(*(live_store.put_receipt(order_id, b"<p>") for _ in range(4)))
        stored = s3.get_object(Bucket=bucket, Key=key)
        assert (stored["ServerSideEncryption"], stored["SSEKMSKeyId"]) == (
            "aws:kms",
            aws.outputs["DataKeyArn"],
        )
        assert stored["ContentType"] == "text/html; charset=utf-8"
        assert len(s3.list_object_versions(Bucket=bucket, Prefix=key)["Versions"]) == 1

    def test_the_form_leaves_the_uploader_no_choice(self, s3_store: S3DocumentStore) -> None:
        upload = asyncio.run(s3_store.presign_upload(ID, "a b.txt", AttachmentType.TEXT, 500))
        conditions = policy(upload)["conditions"]
        for condition in (
            {"bucket": "documents"},
            {"key": f"attachments/{ID}/a b.txt"},
            {"Content-Type": "text/plain"},
            ["content-length-range", 1, 500],
        ):
            assert condition in conditions
        # The bucket's default encryption, and so its key, is not the uploader's to choose or to know.
        assert not [text for text in (*upload.fields, str(conditions)) if "server-side-encryption" in text]
        assert "arn:" not in f"{upload}{conditions}"
        assert not [
            condition
            for condition in conditions
            if isinstance(condition, list) and condition[0] == "starts-with"
        ]

    @pytest.mark.parametrize(
        ("region", "suffix"),
        [
            ("us-east-1", "amazonaws.com"),
            ("eu-central-1", "amazonaws.com"),
            ("me-central-1", "amazonaws.com"),
            ("us-gov-west-1", "amazonaws.com"),
            ("cn-north-1", "amazonaws.com.cn"),
        ],
    )
    def test_links_lead_where_the_console_may_go(
        self, moto: None, monkeypatch: pytest.MonkeyPatch, region: str, suffix: str
    ) -> None:
        headers = template("edge/template.yaml")["Resources"]["ConsoleHeaders"]["Properties"]
        [policy] = [value for value in mentions(headers, "Fn::Sub") if "connect-src" in value]
        for name, value in {
            "${DocumentsBucketName}": "documents",
            "${AWS::Region}": region,
            "${AWS::URLSuffix}": suffix,
        }.items():
            policy = policy.replace(name, value)
        [allowed] = [
            directive.split()[2:]
            for directive in policy.split(";")
            if directive.split()[:2] == ["connect-src", "'self'"]
        ]
        monkeypatch.setenv("AWS_DEFAULT_REGION", region)
        elsewhere = (
            {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        )
        boto3.client("s3").create_bucket(Bucket="documents", **elsewhere)
        boto3.client("s3").put_object(Bucket="documents", Key=f"attachments/{ID}/a.txt", Body=b"x")
        store = S3DocumentStore("documents", "arn:any", max_bytes=1000)
        upload = asyncio.run(store.presign_upload(ID, "a.txt", AttachmentType.TEXT, 500))
        [listed] = asyncio.run(store.attachments(ID))
        for url in (upload.url, listed.url):
            parts = urlsplit(url)
            assert [f"{parts.scheme}://{parts.netloc}"] == allowed

    def test_a_link_saves_the_file(self, s3_store: S3DocumentStore) -> None:
        boto3.client("s3").put_object(Bucket="documents", Key=f'attachments/{ID}/a "b".txt', Body=b"x")
        [listed] = asyncio.run(s3_store.attachments(ID))
        query = parse_qs(urlsplit(listed.url).query)
        # As an attachment it is saved and never shown, so its content type cannot be guessed into a page.
        assert query["response-content-disposition"] == ["attachment; filename*=UTF-8''a%20%22b%22.txt"]
        assert query["X-Amz-Expires"] == ["300"]

    def test_signing_needs_no_network(
        self, moto: None, key_arn: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def reject(*_: Any, **__: Any) -> None:
            raise AssertionError("the network was used")

        monkeypatch.setattr("botocore.httpsession.URLLib3Session.send", reject)
        store = S3DocumentStore("documents", key_arn, max_bytes=1000)
        assert asyncio.run(store.presign_upload(ID, "a.txt", AttachmentType.TEXT, 500)).url

    def test_a_storage_that_does_not_answer_is_unavailable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        with socket.socket() as nobody_listens:
            nobody_listens.bind(("127.0.0.1", 0))
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{nobody_listens.getsockname()[1]}")
            store = S3DocumentStore("documents", "arn:key", max_bytes=1000)
            with pytest.raises(DependencyUnavailable):
                asyncio.run(store.receipt_url(ID))


def rejects(code: str, status: int) -> Behaviour:
    return responds(f"<Error><Code>{code}</Code><Message>No.</Message></Error>".encode(), status)


EMPTY_LIST = responds(b"<ListBucketResult></ListBucketResult>")


class TestFaultsOfS3:
    """Against a faulty server."""

    @pytest.fixture(autouse=True)
    def keys(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
            monkeypatch.setenv(name, "eu-central-1")
        monkeypatch.setattr("botocore.endpoint.time.sleep", lambda _: None)

    @staticmethod
    def store_at(monkeypatch: pytest.MonkeyPatch, server: Server) -> S3DocumentStore:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        return S3DocumentStore("documents", "arn:key", max_bytes=1000)

    @pytest.mark.parametrize(
        ("fault", "dependency"),
        [
            *((rejects(code, 403), "credentials") for code in ("InvalidAccessKeyId", "RequestTimeTooSkewed")),
            *((rejects(code, 400), "credentials") for code in ("ExpiredToken", "InvalidToken")),
            (rejects("SignatureDoesNotMatch", 403), "credentials"),
            (rejects("KMS.DisabledException", 400), "s3"),
            (rejects("KMS.KMSInvalidStateException", 400), "s3"),
            (rejects("RequestTimeout", 400), "s3"),
            (rejects("SlowDown", 503), "s3"),
            (rejects("OperationAborted", 409), "s3"),
            (rejects("TooManyRequests", 429), "s3"),
            (rejects("InternalError", 500), "s3"),
            (responds(b"", 302, "location: http://127.0.0.1:1/"), "s3"),
            (responds(b"<html>not XML"), "s3"),
            (sends(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n<List"), "s3"),
            (sends(b"SSH-2.0-OpenSSH_9.9\r\n"), "s3"),
            (resets, "s3"),
        ],
    )
    async def test_what_is_not_ours_is_a_dependency_that_fails(
        self, fault: Behaviour, dependency: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with serving(*[fault] * 9) as server:
            store = self.store_at(monkeypatch, server)
            with pytest.raises(DependencyUnavailable) as caught:
                await store.attachments(ID)
            assert caught.value.dependency == dependency
            server.script = [EMPTY_LIST]
            assert await store.attachments(ID) == []

    @pytest.mark.parametrize(
        ("fault", "tries"),
        [(rejects("InternalError", 500), 2), (resets, 2), (rejects("AccessDenied", 403), 1)],
    )
    async def test_what_may_pass_is_tried_twice(
        self, fault: Behaviour, tries: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with serving(*[fault] * 9) as server:
            with pytest.raises((DependencyUnavailable, ClientError)):
                await self.store_at(monkeypatch, server).attachments(ID)
            assert len(server.requests) == tries

    @pytest.mark.parametrize(("status", "dependency"), [(400, "credentials"), (403, "s3")])
    async def test_a_rejection_without_words_is_one_too(
        self, status: int, dependency: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A HEAD has no body that could say why."""
        async with serving(*[responds(b"", status)] * 9) as server:
            with pytest.raises(DependencyUnavailable) as caught:
                await self.store_at(monkeypatch, server).receipt_url(ID)
            assert caught.value.dependency == dependency

    @pytest.mark.parametrize(("code", "status"), [("AccessDenied", 403), ("NoSuchBucket", 404)])
    async def test_what_is_ours_is_no_such_thing(
        self, code: str, status: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with serving(rejects(code, status)) as server:
            with pytest.raises(ClientError, match=code):
                await self.store_at(monkeypatch, server).attachments(ID)

    async def test_rejected_keys_are_replaced_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def keys(name: str) -> Behaviour:
            found = {"AccessKeyId": name, "SecretAccessKey": "s", "Expiration": "2999-01-01T00:00:00Z"}
            return responds(json.dumps(found).encode(), keep=False)

        async with (
            serving(keys("old"), keys("new")) as source,
            serving(rejects("ExpiredToken", 400), EMPTY_LIST) as server,
        ):
            monkeypatch.delenv("AWS_ACCESS_KEY_ID")
            monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{source.url}/creds")
            assert await self.store_at(monkeypatch, server).attachments(ID) == []
            used = [headers["Authorization"].partition("Credential=")[2] for headers, _ in server.requests]
            assert [key.partition("/")[0] for key in used] == ["old", "new"]
            assert len(source.requests) == 2

    async def test_one_that_hangs_keeps_its_place_after_its_caller_gave_up(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(aws_adapters, "PLACES", {"s3": 3})
        monkeypatch.setattr(sdk_client, "READ_SECONDS", 60)
        monkeypatch.setattr("tests.faulty_server.OK", EMPTY_LIST)
        async with serving(EMPTY_LIST, *[hangs] * 3) as server:
            store = self.store_at(monkeypatch, server)
            await store.attachments(ID)  # all is imported
            monkeypatch.setattr(sdk_client, "DEADLINE_SECONDS", 2.0)
            waiting = [asyncio.create_task(store.attachments(ID)) for _ in range(3)]
            for error in await asyncio.gather(*waiting, return_exceptions=True):
                assert isinstance(error, DependencyUnavailable)
                assert isinstance(error.__cause__, TimeoutError)
            monkeypatch.setattr(sdk_client, "DEADLINE_SECONDS", 60.0)
            with pytest.raises(DependencyUnavailable) as caught:
                await store.attachments(ID)
            assert isinstance(caught.value.__cause__, ConnectionRefusedError)
            while len(server.requests) < 4:  # noqa: ASYNC110 - the three, however late on a busy machine
                await asyncio.sleep(0.01)
            # Needs no thread, and no S3
            assert await store.presign_upload(ID, "a.txt", AttachmentType.TEXT, 500)
            for writer in server.writers:
                writer.transport.abort()
            while True:
                with suppress(DependencyUnavailable):
                    assert await store.attachments(ID) == []
                    break
                await asyncio.sleep(0.05)  # until one of the threads has heard of it

    async def test_a_call_that_gets_no_thread_keeps_no_place(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(aws_adapters, "PLACES", {"s3": 1})

        def no_more(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        async with serving(EMPTY_LIST) as server:
            store = self.store_at(monkeypatch, server)
            with monkeypatch.context() as limit:
                limit.setattr(threading.Thread, "start", no_more)
                with pytest.raises(RuntimeError):
                    await store.attachments(ID)
            assert await store.attachments(ID) == []

    def test_the_tries_end_with_the_deadline(self) -> None:
        """botocore waits a second at most before its second try."""
        assert (
            sdk_client.TRIES * sdk_client.READ_SECONDS + (sdk_client.TRIES - 1) <= sdk_client.DEADLINE_SECONDS
        )


def policy(upload: Upload) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(base64.b64decode(upload.fields["policy"]))
    return decoded
