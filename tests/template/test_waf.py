"""The web ACL: what it asks of a request, and that nothing secret gets into its log."""

from __future__ import annotations

from typing import Any

import pytest
from tests.template.templates import Evaluator, template

ACL = template("waf/template.yaml")["Resources"]["WebAcl"]["Properties"]
RULES: dict[str, dict[str, Any]] = {rule["Name"]: rule for rule in ACL["Rules"]}


def test_it_holds_the_managed_rules_and_a_rate() -> None:
    groups = {
        rule["Statement"]["ManagedRuleGroupStatement"]["Name"]
        for rule in RULES.values()
        if "ManagedRuleGroupStatement" in rule["Statement"]
    }
    assert groups == {"AWSManagedRulesCommonRuleSet", "AWSManagedRulesKnownBadInputsRuleSet"}
    rate = RULES["RateOfOneAddress"]["Statement"]["RateBasedStatement"]
    assert rate["Limit"] == {"Ref": "RequestsPerFiveMinutes"}
    assert rate["EvaluationWindowSec"] == 300
    assert len({rule["Priority"] for rule in RULES.values()}) == len(RULES)


@pytest.mark.parametrize("name", RULES)
def test_mode_decides_for_every_rule_between_blocking_and_counting(name: str) -> None:
    rule = RULES[name]
    condition, blocking, counting = (rule.get("Action") or rule["OverrideAction"])["Fn::If"]
    assert condition == "Blocks"
    assert blocking.keys() <= {"Block", "None"}
    assert counting == {"Count": {}}
    source = template("waf/template.yaml")
    assert Evaluator(source).is_true({"Condition": "Blocks"})
    assert not Evaluator(source, Mode="count").is_true({"Condition": "Blocks"})


@pytest.mark.parametrize(
    ("scope", "region", "partition", "why"),
    [
        ("REGIONAL", "eu-central-1", "aws", ""),
        ("REGIONAL", "cn-north-1", "aws-cn", ""),
        ("CLOUDFRONT", "us-east-1", "aws", ""),
        # "you must also specify the Region US East (N. Virginia)":
        # https://docs.aws.amazon.com/waf/latest/APIReference/API_CreateWebACL.html
        ("CLOUDFRONT", "eu-central-1", "aws", "us-east-1"),
        ("CLOUDFRONT", "us-gov-west-1", "aws-us-gov", "commercial regions only"),
        ("CLOUDFRONT", "cn-north-1", "aws-cn", "commercial regions only"),
    ],
)
def test_it_stands_where_its_scope_is(scope: str, region: str, partition: str, why: str) -> None:
    here = {"Scope": scope, "AWS::Region": region, "AWS::Partition": partition}
    rejected = Evaluator(template("waf/template.yaml"), **here).rejections()
    assert [why in reason for reason in rejected[:1]] == ([True] if why else [])


def test_neither_its_log_nor_its_samples_hold_credentials() -> None:
    # Data protection "alters the data that's available for any other data collection activity, including
    # your AWS WAF logging destinations, web ACL request sampling"; logging's own "only affects logging":
    # https://docs.aws.amazon.com/waf/latest/APIReference/API_DataProtectionConfig.html
    protected = {
        protection["Field"]["FieldType"]: protection["Field"].get("FieldKeys")
        for protection in ACL["DataProtectionConfig"]["DataProtections"]
        if not {"ExcludeRuleMatchDetails", "ExcludeRateBasedDetails"} & protection.keys()
    }
    # "Must be omitted for QUERY_STRING": https://docs.aws.amazon.com/waf/latest/APIReference/API_FieldToProtect.html
    assert protected["QUERY_STRING"] is None
    assert set(protected["SINGLE_HEADER"]) == {
        "authorization",
        "cookie",
        "idempotency-key",
        "x-origin-secret",
    }


def test_the_load_balancer_takes_it_by_parameter() -> None:
    nested = template("fargate/template.yaml")
    association = nested["Resources"]["WebAclOfLoadBalancer"]
    assert association["Properties"]["ResourceArn"] == {"Ref": "LoadBalancer"}
    assert association["Condition"] == "HasWebAcl"
    handed = template()["Resources"]["FargateStack"]["Properties"]["Parameters"]
    assert handed["WebAclArn"] == {"Ref": "WebAclArn"}
    assert template()["Parameters"]["WebAclArn"]["Default"] == ""
