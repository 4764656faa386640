"""Parameters that cannot work together are rejected before anything is made."""

from __future__ import annotations

import re

import pytest
from tests.template.templates import Evaluator, mentions, template, whole_templates

ISSUER = {"AuthIssuer": "https://issuer.example", "AuthAudience": "orders"}
CERTIFICATE = "arn:aws:acm:eu-central-1:111122223333:certificate/0a1b"
DOMAIN = {"DomainName": "orders.example.com", "CertificateArn": CERTIFICATE}
NETWORK = {"VpcId": "vpc-1", "PublicSubnetIds": "subnet-1,subnet-2", "PrivateSubnetIds": "subnet-3,subnet-4"}

ACCEPTED = [
    {},
    {"Runtime": "fargate"},
    {"BothRuntimes": "true"},
    {"Stage": "prod", **ISSUER},
    {"Stage": "prod", "Runtime": "fargate", **ISSUER, **DOMAIN},
    {**DOMAIN, "HostedZoneId": "Z1"},
    {"Runtime": "fargate", **NETWORK},
    {"Runtime": "fargate", "NetworkEgress": "endpoints"},
    {"Runtime": "fargate", "NetworkEgress": "endpoints", **ISSUER, **NETWORK},
]
REJECTED = [
    ({"Stage": "prod"}, "needs AuthIssuer"),
    (ISSUER | {"AuthAudience": ""}, "needs AuthAudience"),
    ({"Stage": "prod", "Runtime": "fargate", **ISSUER}, "plain HTTP"),
    ({"Stage": "prod", "BothRuntimes": "true", **ISSUER}, "plain HTTP"),
    ({"DomainName": "orders.example.com"}, "needs CertificateArn"),
    ({"CertificateArn": CERTIFICATE}, "need DomainName"),
    ({"HostedZoneId": "Z1"}, "need DomainName"),
    *[(NETWORK | {name: ""}, "go together") for name in NETWORK],
    ({"Runtime": "fargate", "NetworkEgress": "endpoints", **ISSUER}, "cannot fetch the keys"),
]


@pytest.mark.parametrize("parameters", ACCEPTED, ids=str)
def test_accepted(parameters: dict[str, object]) -> None:
    assert Evaluator(template(), **parameters).rejections() == []


@pytest.mark.parametrize(("parameters", "reason"), REJECTED, ids=str)
def test_rejected(parameters: dict[str, object], reason: str) -> None:
    (rejection,) = Evaluator(template(), **parameters).rejections()
    assert reason in rejection


def test_every_rule_rejects_something() -> None:
    said = {
        rejection
        for parameters, _ in REJECTED
        for rejection in Evaluator(template(), **parameters).rejections()
    }
    rules = template()["Rules"].values()
    assert said == {assertion["AssertDescription"] for rule in rules for assertion in rule["Assertions"]}


@pytest.mark.parametrize("path", whole_templates())
def test_conditions_and_rules_compare_texts(path: str) -> None:
    """A parameter's value is a text in them, a Number's too.

    https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/parameters-section-structure.html
    """
    source = template(path)
    parts = [source.get("Rules", {}), source.get("Conditions", {})]
    compared = [
        pair for part in parts for name in ("Fn::Equals", "Fn::Contains") for pair in mentions(part, name)
    ]
    flat = [
        text for pair in compared for side in pair for text in (side if isinstance(side, list) else [side])
    ]
    assert [side for side in flat if not isinstance(side, str | dict)] == []


@pytest.mark.parametrize("path", ["template.yaml", "backup/template.yaml"])
def test_every_parameter_is_described_bounded_and_grouped(path: str) -> None:
    source = template(path)  # cfn-lint sees to it that a default is within its bounds (E2015)
    assert all(output["Description"] for output in source["Outputs"].values())
    for name, parameter in source["Parameters"].items():
        assert parameter.get("Description"), name
        assert "Default" in parameter or path != "template.yaml", name
        bounds = {"AllowedValues", "AllowedPattern", "MaxLength"}
        if parameter["Type"] == "Number":
            assert "AllowedValues" in parameter or {"MinValue", "MaxValue"} <= parameter.keys(), name
        else:
            assert bounds & parameter.keys(), name
    groups = source["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    grouped = [name for group in groups for name in group["Parameters"]]
    assert sorted(grouped) == sorted(source["Parameters"])


def test_origins_cannot_be_anybody() -> None:
    pattern = template()["Parameters"]["CorsOrigins"]["AllowedPattern"]
    assert re.fullmatch(pattern, "https://a.example,http://localhost:3000")
    for wrong in ("*", "https://*.example", "https://a.example/", "a.example", "https://a.example,"):
        assert not re.fullmatch(pattern, wrong), wrong
