"""The CDN: what the console may reach, what reaches the API, and what is kept."""

from __future__ import annotations

import re
from typing import Any

import pytest
from cfnlint.helpers import REGIONS
from cfnlint.schema import PROVIDER_SCHEMA_MANAGER
from tests.template.templates import ROOT, Evaluator, mentions, template, whole_templates

from app.core.settings import Settings

SOURCE = template("edge/template.yaml")
PARTITION_AWS = r"(us|eu|ap|sa|ca|me|af|il|mx)-\w+-\d$"
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
    kept = {
        response["ErrorCode"]: response["ErrorCachingMinTTL"] for response in SETTINGS["CustomErrorResponses"]
    }
    # Of what CloudFront keeps for ten seconds unless told otherwise, all that the API answers.
    # https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/HTTPStatusCodes.html#HTTPStatusCodes-cached-errors
    assert kept == dict.fromkeys((404, 405, 414, 500, 502, 503, 504), 0)
    assert not any("ResponsePagePath" in response for response in SETTINGS["CustomErrorResponses"])


def test_both_origins_are_shown_the_secret_and_the_bucket_is_not() -> None:
    for origin in SETTINGS["Origins"]:
        headers = mentions(origin, "OriginCustomHeaders")
        if mentions(origin, "S3OriginConfig"):
            assert headers == []
        else:
            ((header,),) = headers
            assert header["HeaderName"].lower() == "x-origin-secret"
            assert header["HeaderValue"]["Fn::Sub"].startswith("{{resolve:secretsmanager:${OriginSecret}:")
    middleware = (ROOT / "src/app/core/http/middleware.py").read_text()
    assert 'ORIGIN_SECRET_HEADER = b"x-origin-secret"' in middleware


def test_the_secret_of_an_edge_that_stands_is_not_generated_again() -> None:
    """Another property here is another value at the next update, which the origins do not know.

    It has no punctuation, over which JSON, a dynamic reference or a header could stumble.

    https://github.com/aws-cloudformation/cloudformation-coverage-roadmap/issues/2210
    """
    assert SOURCE["Resources"]["OriginSecret"]["Properties"]["GenerateSecretString"] == {
        "SecretStringTemplate": '{"previous": "none"}',
        "GenerateStringKey": "current",
        "PasswordLength": 48,
        "ExcludePunctuation": True,
    }


def test_the_generated_secret_is_one_that_the_application_takes() -> None:
    generated = SOURCE["Resources"]["OriginSecret"]["Properties"]["GenerateSecretString"]
    made = generated["SecretStringTemplate"].removesuffix("}") + f', "current": "{"n" * 48}"}}'
    required = dict.fromkeys(
        ("TABLE_NAME", "BUCKET_NAME", "EVENT_BUS_NAME", "KMS_KEY_ARN", "CURSOR_KEY_ARN"), "x"
    )
    environ = {f"APP_{name}": value for name, value in (required | {"ORIGIN_SECRETS": made}).items()}
    assert Settings.from_env(environ).origin_secrets == ("n" * 48,)


# Properties that hold a name of the whole account, or of more, and how long it may be. CloudFront: "must be
# unique [...] in this Amazon Web Services account" (https://docs.aws.amazon.com/cloudfront/latest/APIReference/API_ResponseHeadersPolicyConfig.html).
# Dashboards: "All dashboards in your account are global, not region-specific"
# (https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_PutDashboard.html).
ACCOUNT_WIDE = {
    "AWS::CloudFront::CachePolicy": ("Name", 128),
    "AWS::CloudFront::Function": ("Name", 64),
    "AWS::CloudFront::OriginAccessControl": ("Name", 64),
    "AWS::CloudFront::ResponseHeadersPolicy": ("Name", 128),
    "AWS::CloudWatch::Dashboard": ("DashboardName", 255),
    "AWS::IAM::ManagedPolicy": ("ManagedPolicyName", 128),
    "AWS::IAM::Role": ("RoleName", 64),
    "AWS::S3::Bucket": ("BucketName", 63),
}


@pytest.mark.parametrize("path", whole_templates())
def test_a_name_of_the_whole_account_holds_the_region_and_fits(path: str) -> None:
    found = template(path)
    # A service and a stage of bootstrap/ have sixteen characters at most.
    longest = {"AWS::StackName": f"{'s' * 16}-{'t' * 16}-edge", "AWS::Region": "ap-southeast-1"}
    for name, resource in found["Resources"].items():
        if resource["Type"] in ACCOUNT_WIDE:
            key, limit = ACCOUNT_WIDE[resource["Type"]]
            for given in mentions(resource["Properties"], key):
                assert "${AWS::StackName}-${AWS::Region}" in given["Fn::Sub"], name
                assert len(Evaluator(found, **longest).resolved(given)) <= limit, name


def test_a_first_try_that_fails_leaves_no_bucket_behind() -> None:
    """The rollback of a creation keeps what is marked Retain, and removes RetainExceptOnCreate.

    https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-attribute-deletionpolicy.html
    """
    for name, resource in SOURCE["Resources"].items():
        if resource.get("DeletionPolicy", "Delete") != "Delete":
            policies = resource["DeletionPolicy"], resource["UpdateReplacePolicy"]
            assert policies == ("RetainExceptOnCreate", "Retain"), name


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
    def test_what_cannot_work_is_rejected(self, parameters: dict[str, str]) -> None:
        assert len(Evaluator(SOURCE, **(self.COMPLETE | parameters)).rejections()) == 1

    # "Regions launched before March 20, 2019 are enabled by default"; all others are opt-in:
    # https://docs.aws.amazon.com/accounts/latest/reference/manage-acct-regions.html
    ENABLED_BY_DEFAULT = (
        "us-(east|west)-[12]|ca-central-1|sa-east-1|eu-(central-1|north-1|west-[123])"
        "|ap-(south-1|northeast-[123]|southeast-[12])"
    )

    @pytest.mark.parametrize("region", [region for region in REGIONS if re.match(PARTITION_AWS, region)])
    def test_the_log_goes_to_a_region_that_cloudfront_delivers_to(self, region: str) -> None:
        """Opt-in regions: "CloudFront doesn't deliver access logs to buckets in these Regions".

        https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/standard-logging-legacy-s3.html
        """
        here = self.COMPLETE | {"AWS::Region": region}
        rejected = Evaluator(SOURCE, **here).rejections()
        enabled = bool(re.fullmatch(self.ENABLED_BY_DEFAULT, region))
        assert (rejected == []) is enabled
        pattern = SOURCE["Parameters"]["AccessLogBucketDomain"]["AllowedPattern"]
        bucket = f"logs-of-mine.s3.{region}.amazonaws.com"
        assert bool(re.fullmatch(pattern, bucket)) is enabled
        elsewhere = here | {"AccessLogBucketDomain": "logs.s3.us-east-1.amazonaws.com"}
        assert Evaluator(SOURCE, **elsewhere).rejections() == []
        logging = Evaluator(SOURCE, **elsewhere).resolved(SETTINGS["Logging"])
        assert logging["Bucket"] == "logs.s3.us-east-1.amazonaws.com"

    @pytest.mark.parametrize(
        ("partition", "region"), [("aws-us-gov", "us-gov-west-1"), ("aws-cn", "cn-north-1")]
    )
    def test_it_stands_in_no_partition_without_its_parts(self, partition: str, region: str) -> None:
        """CloudFormation has no distribution in GovCloud, and no CloudFront function in China.

        So its schemas say, which cfn-lint brings along.
        """
        kinds = {resource["Type"] for resource in SOURCE["Resources"].values()}
        assert kinds - set(PROVIDER_SCHEMA_MANAGER.get_resource_types(region))
        here = self.COMPLETE | {"AWS::Partition": partition, "AWS::Region": region}
        [rejected] = Evaluator(SOURCE, **here).rejections()
        assert "commercial regions only" in rejected

    @pytest.mark.parametrize(
        "parameters",
        [{}, {"ActiveOrigin": "fargate", "FargateOriginDomain": "f.example.com", "LambdaOriginDomain": ""}],
    )
    def test_what_can_is_not(self, parameters: dict[str, str]) -> None:
        assert Evaluator(SOURCE, **(self.COMPLETE | parameters)).rejections() == []


def test_its_parameters_and_the_outputs_of_the_orders_stack_fit() -> None:
    outputs = template()["Outputs"]
    fed_by_outputs = ["LambdaOriginDomain", "FargateOriginDomain", "DocumentsBucketName"]
    assert set(fed_by_outputs) <= outputs.keys() & SOURCE["Parameters"].keys()
    described: list[Any] = [parameter.get("Description") for parameter in SOURCE["Parameters"].values()]
    assert all(described)
