"""Another AWS service over `SdkClient`: the page about it works as it stands, and faults end as S3's do."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest
from botocore.exceptions import ClientError
from cfnlint.decode import decode_str
from tests.builders import ROOT, a_settings
from tests.faulty_server import Behaviour, rejects, resets, responds, serving
from tests.template.templates import template

from app.core.aws import client
from app.core.aws.sdk_client import SdkClient
from app.core.errors import DependencyUnavailable
from app.core.http.middleware import MAX_IN_FLIGHT
from app.core.telemetry import Telemetry

SENT = responds(b'{"MessageId": "1"}')


def blocks(language: str) -> list[str]:
    """Return the code of the page."""
    page = (ROOT / "docs/another-aws-service.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


class TestThePage:
    def test_the_places_leave_some_for_requests_that_need_no_service(self) -> None:
        found: dict[str, Any] = {}
        exec(blocks("python")[0], found)  # noqa: S102 - our own page
        assert found["PLACES"].keys() == client.PLACES.keys() | {"sqs"}
        assert sum(found["PLACES"].values()) < MAX_IN_FLIGHT

    @pytest.mark.parametrize("test", re.findall(r"^def (test_\w+)", blocks("python")[2], re.MULTILINE))
    def test_its_tests_pass_with_its_adapter(
        self, test: str, moto: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        places, adapter, tests = blocks("python")
        found: dict[str, Any] = {}
        exec(places, found)  # noqa: S102
        monkeypatch.setattr(client, "PLACES", found["PLACES"])
        exec(adapter, found)  # noqa: S102
        exec(tests, found)  # noqa: S102
        found[test](None)

    def test_the_permission_is_the_one_of_the_call(self) -> None:
        statements, _ = decode_str(blocks("yaml")[0])
        assert [statement["Action"] for statement in statements] == [
            "sqs:SendMessage",
            ["kms:Decrypt", "kms:GenerateDataKey"],
        ]
        resources = [statement["Resource"]["Fn::GetAtt"] for statement in statements]
        assert resources == [["WarehouseQueue", "Arn"], ["DataKey", "Arn"]]

    def test_the_endpoint_is_like_the_others(self) -> None:
        endpoints, _ = decode_str(blocks("yaml")[1])
        text = json.dumps(endpoints["SqsEndpoint"]).replace("}.sqs", "}.kms")
        assert json.loads(text) == template("fargate/network.yaml")["Resources"]["KmsEndpoint"]


class TestFaults:
    @pytest.fixture(autouse=True)
    def keys(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
            monkeypatch.setenv(name, "eu-central-1")
        monkeypatch.setattr("botocore.endpoint.time.sleep", lambda _: None)
        monkeypatch.setattr(client, "PLACES", client.PLACES | {"sqs": 2})

    @staticmethod
    def send(monkeypatch: pytest.MonkeyPatch, *script: Behaviour, **options: Any) -> Any:
        async def case() -> Any:
            async with serving(*script) as server:
                monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
                sqs = SdkClient("sqs")
                url = f"{server.url}/1/q"
                return await sqs.call("SendMessage", QueueUrl=url, MessageBody="x", **options)

        return asyncio.run(asyncio.wait_for(case(), 60))

    @pytest.mark.parametrize(
        ("fault", "dependency"),
        [
            (rejects("ThrottlingException"), "sqs"),
            (rejects("InternalError", 500), "sqs"),
            (rejects("KMS.DisabledException"), "sqs"),
            (resets, "sqs"),
            (rejects("ExpiredToken", 403), "credentials"),
            (rejects("InvalidClientTokenId", 403), "credentials"),
        ],
    )
    def test_what_may_pass_is_a_dependency_that_fails(
        self, fault: Behaviour, dependency: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(DependencyUnavailable) as caught:
            self.send(monkeypatch, *[fault] * 9)
        assert caught.value.dependency == dependency

    def test_missing_rights_are_a_fault_of_the_deployment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(ClientError, match="AccessDenied"):
            self.send(monkeypatch, rejects("AccessDenied", 403))

    def test_an_error_that_is_expected_has_its_result(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fault = rejects("QueueDoesNotExist")
        assert self.send(monkeypatch, fault, on_error={"QueueDoesNotExist": "gone"}) == "gone"

    @pytest.mark.parametrize("fault", [SENT, rejects("AccessDenied", 403)])
    def test_the_log_entry_counts_the_call(
        self, fault: Behaviour, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        telemetry = Telemetry(a_settings(debug_sample_percent=100))
        with telemetry.log_operation("api", "request", "r-1"):
            try:
                self.send(monkeypatch, fault)
            except ClientError as error:
                assert error.response["Error"]["Code"] == "AccessDenied"  # noqa: PT017
        entry = json.loads(capsys.readouterr().out)
        assert entry["dependency_calls"] == 1
        assert [call.split()[0] for call in entry["calls"]] == ["SendMessage"]
