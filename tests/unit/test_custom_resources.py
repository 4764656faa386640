"""The custom resources always respond: with the digest of the image, or with settings that are checked."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.request import Request

import pytest

from app.core.settings import Settings
from app.entrypoints import custom_resources

VERSION = "arn:aws:lambda:eu-west-1:111122223333:function:orders-dev-custom-resources:7"
IMAGE = "444455556666.dkr.ecr.eu-central-1.amazonaws.com/team/orders@sha256:" + "a" * 64


class FakeLambda:
    def __init__(self, answer: dict[str, Any] | Exception) -> None:
        self._answer = answer

    def get_function(self, **request: str) -> dict[str, Any]:
        assert request == {"FunctionName": VERSION}
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """Every request that the handler sends to CloudFormation."""
    requests: list[Request] = []

    class Answer:
        def close(self) -> None: ...

    def urlopen(request: Request, timeout: float) -> Answer:
        assert timeout < 30
        requests.append(request)
        return Answer()

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    return requests


def event(kind: str = "Create") -> dict[str, Any]:
    return {
        "RequestType": kind,
        "ResponseURL": "https://answers.example/abc?signature=1",
        "StackId": "stack",
        "RequestId": "request",
        "LogicalResourceId": "ImageVersion",
        "ResourceProperties": {"FunctionVersionArn": VERSION},
    }


def answer_of(monkeypatch: pytest.MonkeyPatch, sent: list[Request], result: Any, kind: str = "Create") -> Any:
    monkeypatch.setattr("boto3.client", lambda _: FakeLambda(result))
    custom_resources.handler(event(kind), None)
    (request,) = sent
    assert request.get_method() == "PUT"
    assert request.get_header("Content-type") == ""
    assert isinstance(request.data, bytes)
    return json.loads(request.data)


@pytest.mark.parametrize("kind", ["Create", "Update"])
def test_answers_the_digest(monkeypatch: pytest.MonkeyPatch, sent: list[Request], kind: str) -> None:
    answer = answer_of(monkeypatch, sent, {"Code": {"ImageUri": "x:tag", "ResolvedImageUri": IMAGE}}, kind)
    assert answer == {
        "StackId": "stack",
        "RequestId": "request",
        "LogicalResourceId": "ImageVersion",
        "PhysicalResourceId": "ImageVersion",
        "Status": "SUCCESS",
        "Data": {
            "ImageUri": IMAGE,
            "RepositoryArn": "arn:aws:ecr:eu-central-1:444455556666:repository/team/orders",
        },
    }


def test_deletes_without_asking(monkeypatch: pytest.MonkeyPatch, sent: list[Request]) -> None:
    answer = answer_of(monkeypatch, sent, AssertionError("not to be called"), "Delete")
    assert answer["Status"] == "SUCCESS"


def test_a_failure_is_answered_too(monkeypatch: pytest.MonkeyPatch, sent: list[Request]) -> None:
    answer = answer_of(monkeypatch, sent, RuntimeError("no such function"))
    assert answer["Status"] == "FAILED"
    assert answer["Reason"] == "RuntimeError: no such function"
    assert "Data" not in answer


def test_a_registry_that_is_not_ecr() -> None:
    arn = custom_resources.repository_arn("127.0.0.1:4566/orders:tag", VERSION)
    assert arn == "arn:aws:ecr:eu-west-1:111122223333:repository/orders"


VALUES = {
    "table_name": "table",
    "bucket_name": "bucket",
    "event_bus_name": "bus",
    "kms_key_arn": "key",
    "cursor_key_arn": "cursor",
    "log_level": "INFO",
    "auth_issuer": "",
}


class TestSettings:
    @pytest.fixture
    def response_to(self, sent: list[Request]) -> Callable[..., Any]:
        def respond(values: dict[str, str], **properties: Any) -> Any:
            sent.clear()
            asked = {**event("Update"), "ResourceProperties": {"Values": values, **properties}}
            custom_resources.handler(asked, None)
            assert isinstance(sent[0].data, bytes)
            return json.loads(sent[0].data)

        return respond

    def test_those_that_have_a_value_are_returned(self, response_to: Callable[..., Any]) -> None:
        response = response_to(VALUES)
        assert response["Status"] == "SUCCESS"
        given = {name: value for name, value in VALUES.items() if value}
        assert json.loads(response["Data"]["Json"]) == given

    def test_a_value_is_data_and_no_json(self, response_to: Callable[..., Any]) -> None:
        issuer = 'https://issuer.example/", "log_level": "DEBUG\\'
        text = response_to(VALUES | {"auth_issuer": issuer})["Data"]["Json"]
        settings = Settings.from_env({"APP_SETTINGS": text})
        assert (settings.auth_issuer, settings.log_level) == (issuer, "INFO")

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"log_levle": "INFO"}, "log_levle in APP_SETTINGS is no setting"),
            ({"log_level": "LOUD"}, "APP_LOG_LEVEL is not valid: 'LOUD'"),
            ({"list_shards": "65"}, "APP_LIST_SHARDS is not valid: '65'"),
            ({"table_name": ""}, "APP_TABLE_NAME is not set"),
        ],
    )
    def test_what_the_application_does_not_take_fails_with_the_reason(
        self, response_to: Callable[..., Any], change: dict[str, str], reason: str
    ) -> None:
        response = response_to(VALUES | change)
        assert (response["Status"], response["Reason"]) == ("FAILED", f"ValueError: {reason}")
        assert "Data" not in response

    def test_the_fingerprint_differs_when_anything_does(self, response_to: Callable[..., Any]) -> None:
        changes = [{}, *({name: f"{value}2"} for name, value in VALUES.items() if name != "log_level")]
        changes += [{"log_level": "DEBUG"}, {"list_shards": "8"}]
        responses = [response_to(VALUES | change) for change in changes]
        responses += [response_to(VALUES, OriginSecret=["arn", version]) for version in ("", "1", "2")]
        found = [response["Data"]["Fingerprint"] for response in responses]
        assert len(set(found)) == len(found)
        assert response_to(VALUES)["Data"]["Fingerprint"] == found[0]
