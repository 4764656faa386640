"""The edge: what the console may reach, what reaches the API, and what is kept."""

from __future__ import annotations

import re
from typing import Any

import pytest
from tests.template.templates import ROOT, Evaluator, mentions, template

from orders.settings import Settings

SOURCE = template("edge/template.yaml")
SETTINGS = SOURCE["Resources"]["Distribution"]["Properties"]["DistributionConfig"]


def test_the_console_has_one_policy_here_and_under_make_run() -> None:
    local = re.search(
        r"CONSOLE_POLICY = \((.*?)\n\)", (ROOT / "localcloud/dev_app.py").read_text(), re.DOTALL
    )
    assert local
    expected = "".join(re.findall(r'"([^"]*)"', local[1]))
    headers = SOURCE["Resources"]["ConsoleHeaders"]["Properties"]["ResponseHeadersPolicyConfig"]
    here = headers["SecurityHeadersConfig"]["ContentSecurityPolicy"]["ContentSecurityPolicy"]["Fn::Sub"]
    documents = "https://${DocumentsBucketName}.s3.${AWS::Region}.${AWS::URLSuffix}"
    assert here == expected.replace("{documents}", documents)
    assert "unsafe" not in here


def test_the_api_gets_every_header_but_the_host() -> None:
    # https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/using-managed-origin-request-policies.html
    assert SETTINGS["DefaultCacheBehavior"]["OriginRequestPolicyId"] == "b689b0a8-53d0-40ab-baf2-68738e2966ac"
    key = SOURCE["Resources"]["ApiCachePolicy"]["Properties"]["CachePolicyConfig"]
    assert "Host" not in key["ParametersInCacheKeyAndForwardedToOrigin"]["HeadersConfig"]["Headers"]


def test_nothing_of_the_api_is_kept_that_it_does_not_offer_and_none_of_its_errors() -> None:
    policy = SOURCE["Resources"]["ApiCachePolicy"]["Properties"]["CachePolicyConfig"]
    assert (policy["MinTTL"], policy["DefaultTTL"]) == (0, 0)
    key = policy["ParametersInCacheKeyAndForwardedToOrigin"]
    assert "Authorization" in key["HeadersConfig"]["Headers"]
    assert key["QueryStringsConfig"] == {"QueryStringBehavior": "all"}
    kept = {each["ErrorCode"]: each["ErrorCachingMinTTL"] for each in SETTINGS["CustomErrorResponses"]}
    # Of what CloudFront keeps for ten seconds unless told otherwise, all that the API answers.
    assert kept == dict.fromkeys((404, 500, 502, 503, 504), 0)
    assert not any("ResponsePagePath" in each for each in SETTINGS["CustomErrorResponses"])


def test_both_origins_are_shown_the_secret_and_the_bucket_is_not() -> None:
    for origin in SETTINGS["Origins"]:
        headers = mentions(origin, "OriginCustomHeaders")
        if mentions(origin, "S3OriginConfig"):
            assert headers == []
        else:
            ((header,),) = headers
            assert header["HeaderName"].lower() == "x-origin-secret"
            assert header["HeaderValue"]["Fn::Sub"].startswith("{{resolve:secretsmanager:${OriginSecret}:")
    middleware = (ROOT / "src/orders/api/middleware.py").read_text()
    assert 'ORIGIN_SECRET_HEADER = b"x-origin-secret"' in middleware


def test_the_generated_secret_is_one_that_the_application_takes() -> None:
    generated = SOURCE["Resources"]["OriginSecret"]["Properties"]["GenerateSecretString"]
    assert generated["PasswordLength"] >= 32
    assert {'"', "\\", "}"} <= set(generated["ExcludeCharacters"])
    made = generated["SecretStringTemplate"].removesuffix("}") + f', "current": "{"n" * 48}"}}'
    required = dict.fromkeys(
        ("TABLE_NAME", "BUCKET_NAME", "EVENT_BUS_NAME", "KMS_KEY_ARN", "CURSOR_KEY_ARN"), "x"
    )
    environ = {f"ORDERS_{name}": each for name, each in (required | {"ORIGIN_SECRETS": made}).items()}
    assert Settings.from_env(environ).origin_secrets == ("n" * 48,)


class TestRules:
    COMPLETE = {"LambdaOriginDomain": "l.example.com", "DocumentsBucketName": "documents"}

    @pytest.mark.parametrize(
        "parameters",
        [
            {"ActiveOrigin": "fargate"},
            {"LambdaOriginDomain": ""},
            {"DomainName": "orders.example.com"},
            {"FargateOriginName": "origin.example.com"},
        ],
    )
    def test_what_cannot_work_is_refused(self, parameters: dict[str, str]) -> None:
        assert len(Evaluator(SOURCE, **(self.COMPLETE | parameters)).refusals()) == 1

    @pytest.mark.parametrize(
        "parameters",
        [{}, {"ActiveOrigin": "fargate", "FargateOriginDomain": "f.example.com", "LambdaOriginDomain": ""}],
    )
    def test_what_can_is_not(self, parameters: dict[str, str]) -> None:
        assert Evaluator(SOURCE, **(self.COMPLETE | parameters)).refusals() == []


def test_its_parameters_and_the_outputs_of_the_orders_stack_fit() -> None:
    outputs = template()["Outputs"]
    fed_by_outputs = ["LambdaOriginDomain", "FargateOriginDomain", "DocumentsBucketName"]
    assert set(fed_by_outputs) <= outputs.keys() & SOURCE["Parameters"].keys()
    described: list[Any] = [each.get("Description") for each in SOURCE["Parameters"].values()]
    assert all(described)
