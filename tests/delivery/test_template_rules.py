"""What a template's rules would reject is rejected before CloudFormation is asked."""

from __future__ import annotations

import pytest
from scripts.cli import CliError
from scripts.delivery.decide import check_rules
from scripts.templates import template

EDGE = {"LambdaOriginDomain": "l.example.com", "DocumentsBucketName": "documents"}
CLOSED = {"Stage": "prod", "AuthIssuer": "https://issuer.example", "AuthAudience": "orders"}


def rejection(path: str, given: dict[str, str], region: str, partition: str = "aws") -> str:
    try:
        check_rules(template(path), given, region, partition)
    except CliError as rejected:
        return str(rejected)
    return ""


@pytest.mark.parametrize(
    ("path", "given", "region", "partition", "why"),
    [
        ("edge/template.yaml", EDGE, "eu-central-1", "aws", ""),
        ("edge/template.yaml", EDGE, "us-gov-west-1", "aws-us-gov", "commercial regions only"),
        ("edge/template.yaml", EDGE, "cn-north-1", "aws-cn", "commercial regions only"),
        ("edge/template.yaml", EDGE, "ap-southeast-4", "aws", "Give AccessLogBucketDomain"),
        ("waf/template.yaml", {"Scope": "CLOUDFRONT"}, "us-east-1", "aws", ""),
        (
            "waf/template.yaml",
            {"Scope": "CLOUDFRONT"},
            "eu-central-1",
            "aws",
            "must be deployed in us-east-1",
        ),
        ("template.yaml", {}, "eu-central-1", "aws", ""),
        ("template.yaml", {"Stage": "prod"}, "eu-central-1", "aws", "needs AuthIssuer"),
        ("template.yaml", CLOSED, "eu-central-1", "aws", ""),
    ],
)
def test_what_the_rules_reject(
    path: str, given: dict[str, str], region: str, partition: str, why: str
) -> None:
    rejected = rejection(path, given, region, partition)
    assert why in rejected
    assert bool(rejected) is bool(why)
