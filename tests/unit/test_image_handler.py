"""The custom resource that resolves the image: it always answers, and it names the right repository."""

from __future__ import annotations

import json
from typing import Any
from urllib.request import Request

import pytest

from app.entrypoints import image_digest

VERSION = "arn:aws:lambda:eu-west-1:111122223333:function:orders-dev-RelayFunction-x:7"
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
    image_digest.handler(event(kind), None)
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
    arn = image_digest.repository_arn("127.0.0.1:4566/orders:tag", VERSION)
    assert arn == "arn:aws:ecr:eu-west-1:111122223333:repository/orders"


class TestConfiguration:
    def fingerprint(self, monkeypatch: pytest.MonkeyPatch, sent: list[Request], *values: str) -> str:
        sent.clear()
        asked = {**event("Update"), "ResourceProperties": {"Values": list(values)}}
        monkeypatch.setattr("boto3.client", lambda _: pytest.fail("nothing is asked of AWS"))
        image_digest.handler(asked, None)
        assert isinstance(sent[0].data, bytes)
        answer = json.loads(sent[0].data)
        assert answer["Status"] == "SUCCESS"
        found: str = answer["Data"]["Fingerprint"]
        return found

    def test_it_differs_when_any_value_does(
        self, monkeypatch: pytest.MonkeyPatch, sent: list[Request]
    ) -> None:
        configurations = [("1024", ""), ("2048", ""), ("", "1024"), ("1024", "https://issuer")]
        found = {self.fingerprint(monkeypatch, sent, *values) for values in configurations}
        assert len(found) == len(configurations)
        assert self.fingerprint(monkeypatch, sent, "1024", "") in found
