"""One account for all stages: what one stage's roles are denied on another's resources, as a table.

Each of dev's roles makes every call on prod's resource, and again on dev's own, where at least one of them must
be allowed it; and the other way round. `UPDATE_DOCS=1 pytest tests/delivery/test_boundaries.py` writes the table.
"""

# ruff: noqa: E501 (rows of tables, and the document's own lines)

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from itertools import permutations, product
from typing import Any

import pytest
from botocore.exceptions import ClientError
from cfnlint.schema.manager import PROVIDER_SCHEMA_MANAGER
from tests.delivery.conftest import ROOT, Bootstrap, client
from tests.delivery.iam import is_of_format, taken, verdict
from tests.delivery.test_bootstrap import NAMED, REGION, STACK_TEMPLATES, _types, own

pytestmark = pytest.mark.xdist_group("bootstrap")

DOCUMENT = ROOT / "docs" / "delivery-boundaries.md"
WHO = ("deploying job", "CloudFormation", "function or task", "drift job")

# Of what AWS names, the stage's tags are all that tells whose it is. Of what has the stack's name in its own, the name alone
# must do: there the request says nothing of tags.
TAGGED = {"aws:RequestedRegion": REGION, "tagged": "yes"}
CLUSTER = {
    "aws:RequestedRegion": REGION,
    "ecs:cluster": "arn:aws:ecs:{here}:cluster/{s}-FargateStack-1-Cluster-1",
}
FUNCTION = "lambda:{here}:function:{s}-ApiFunction-1"
# What there is of a stage: group -> calls on an ARN, with what the request says. {s} is the stage's prefix.
CALLS: dict[str, list[tuple[str, str, dict[str, Any]]]] = {
    "Roles": [
        ("iam:PassRole", "iam::{account}:role/{s}-ApiFunctionRole-1", {"iam:PassedToService": "lambda.amazonaws.com"}),
        ("iam:PassRole", "{execution}", {"iam:PassedToService": "cloudformation.amazonaws.com"}),
        ("iam:PutRolePolicy", "iam::{account}:role/{s}-ApiFunctionRole-1", {"iam:PermissionsBoundary": "{boundary}"}),
        ("iam:AttachRolePolicy", "iam::{account}:role/{s}-ApiFunctionRole-1", {"iam:PermissionsBoundary": "{boundary}"}),
        ("iam:PutRolePermissionsBoundary", "iam::{account}:role/{s}-ApiFunctionRole-1", {"iam:PermissionsBoundary": "{boundary}"}),
        ("iam:TagRole", "iam::{account}:role/{s}-ApiFunctionRole-1", {}),
        ("iam:UpdateAssumeRolePolicy", "iam::{account}:role/{s}-ApiFunctionRole-1", {}),
        ("iam:CreatePolicyVersion", "iam::{account}:policy/{s}-AppPolicy-1", {}),
        ("iam:GetRolePolicy", "iam::{account}:role/{s}-ApiFunctionRole-1", {}),
    ],
    "Stacks": [
        ("cloudformation:ExecuteChangeSet", "cloudformation:{here}:stack/{s}/1", {}),
        ("cloudformation:CreateChangeSet", "cloudformation:{here}:stack/{s}-edge/1", {}),
        ("cloudformation:DeleteStack", "cloudformation:{here}:stack/{s}-FargateStack-1/1", {}),
        ("cloudformation:UpdateStack", "cloudformation:{here}:stack/{s}-MonitoringStack-1/1", {}),
        ("cloudformation:SetStackPolicy", "cloudformation:{here}:stack/{s}/1", {}),
        ("cloudformation:ExecuteChangeSet", "cloudformation:us-east-1:{account}:stack/{s}-waf-us-east-1/1", {}),
    ],
    "Functions and tasks": [
        ("lambda:UpdateFunctionCode", FUNCTION, {}),
        ("lambda:UpdateFunctionConfiguration", FUNCTION, {}),
        ("lambda:AddPermission", FUNCTION, {}),
        ("lambda:PutFunctionConcurrency", FUNCTION, {}),
        ("lambda:UntagResource", FUNCTION, TAGGED),
        ("lambda:UpdateAlias", FUNCTION + ":live", {}),
        ("lambda:InvokeFunction", FUNCTION, {}),
        ("lambda:GetFunction", FUNCTION, {}),
        ("lambda:CreateEventSourceMapping", "*", {"lambda:FunctionArn": "arn:aws:" + FUNCTION}),
        ("lambda:UpdateEventSourceMapping", "lambda:{here}:event-source-mapping:1", {"lambda:FunctionArn": "arn:aws:" + FUNCTION}),
        ("codedeploy:CreateDeployment", "codedeploy:{here}:deploymentgroup:{s}-App-1/{s}-Group-1", {}),
        ("ecs:CreateService", "ecs:{here}:service/{s}-FargateStack-1-Cluster-1/1", CLUSTER),
        ("ecs:UpdateService", "ecs:{here}:service/{s}-FargateStack-1-Cluster-1/1", CLUSTER),
        ("ecs:CreateTaskSet", "ecs:{here}:task-set/{s}-FargateStack-1-Cluster-1/1/1", CLUSTER),
        ("ecs:RunTask", "ecs:{here}:task-definition/anything:1", CLUSTER),
        ("ecs:StopTask", "ecs:{here}:task/{s}-FargateStack-1-Cluster-1/1a2b", CLUSTER),
        ("ecs:ExecuteCommand", "ecs:{here}:task/{s}-FargateStack-1-Cluster-1/1a2b", TAGGED),
        ("ecs:DeleteCluster", "ecs:{here}:cluster/{s}-FargateStack-1-Cluster-1", TAGGED),
        ("application-autoscaling:RegisterScalableTarget", "application-autoscaling:{here}:scalable-target/1a2b", TAGGED),
    ],
    "Events": [
        ("events:PutRule", "events:{here}:rule/{s}-1a2b3c4d/{s}-ReceiptsConsumer-1-Rule-1", {}),
        ("events:PutTargets", "events:{here}:rule/{s}-1a2b3c4d/{s}-ReceiptsConsumer-1-Rule-1", {"events:TargetArn": ["arn:aws:sqs:{here}:{s}-receipts-1a2b3c4d"]}),
        ("events:DisableRule", "events:{here}:rule/{s}-MonitoringStack-1-TaskStopsRule-1", {}),
        ("events:DeleteEventBus", "events:{here}:event-bus/{s}-1a2b3c4d", {}),
        ("events:PutEvents", "events:{here}:event-bus/{s}-1a2b3c4d", {}),
        ("events:DeleteArchive", "events:{here}:archive/{s}-1a2b3c4d", {}),
        ("events:CreateArchive", "events:{here}:event-bus/{s}-1a2b3c4d", {}),
        ("sqs:SendMessage", "sqs:{here}:{s}-receipts-1a2b3c4d", {}),
        ("sqs:SetQueueAttributes", "sqs:{here}:{s}-receipts-1a2b3c4d", {}),
        ("sns:Publish", "sns:{here}:{s}-MonitoringStack-1-AlarmTopic-1", {}),
        ("sns:SetTopicAttributes", "sns:{here}:{s}-MonitoringStack-1-AlarmTopic-1", {}),
        ("sns:Subscribe", "sns:{here}:{s}-MonitoringStack-1-AlarmTopic-1", {}),
    ],
    "Keys and secrets": [
        ("kms:PutKeyPolicy", "kms:{here}:key/1a2b", TAGGED),
        ("kms:ScheduleKeyDeletion", "kms:{here}:key/1a2b", TAGGED),
        ("kms:Decrypt", "kms:{here}:key/1a2b", TAGGED),
        ("kms:GenerateMac", "kms:{here}:key/1a2b", TAGGED),
        ("kms:CreateGrant", "kms:{here}:key/1a2b", TAGGED),
        ("kms:GetKeyPolicy", "kms:{here}:key/1a2b", TAGGED),
        ("kms:UntagResource", "kms:{here}:key/1a2b", TAGGED),
        ("kms:TagResource", "kms:{here}:key/1a2b", TAGGED),
        ("kms:UpdateAlias", "kms:{here}:alias/{s}", {}),
        ("secretsmanager:GetSecretValue", "secretsmanager:{here}:secret:OriginSecret-1a2b", TAGGED),
        ("secretsmanager:PutResourcePolicy", "secretsmanager:{here}:secret:OriginSecret-1a2b", TAGGED),
        ("secretsmanager:UntagResource", "secretsmanager:{here}:secret:OriginSecret-1a2b", TAGGED),
    ],
    "Data": [
        ("dynamodb:GetItem", "dynamodb:{here}:table/{s}-OrdersTable-1", {}),
        ("dynamodb:PutItem", "dynamodb:{here}:table/{s}-OrdersTable-1", {}),
        ("dynamodb:Scan", "dynamodb:{here}:table/{s}-OrdersTable-1", {}),
        ("dynamodb:UpdateTable", "dynamodb:{here}:table/{s}-OrdersTable-1", {}),
        ("dynamodb:PutResourcePolicy", "dynamodb:{here}:table/{s}-OrdersTable-1", {}),
        ("dynamodb:DeleteTable", "dynamodb:{here}:table/{s}-OrdersTable-1", {}),
        ("s3:GetObject", "s3:::{s}-documentsbucket-1/receipts/1", {}),
        ("s3:PutObject", "s3:::{s}-documentsbucket-1/attachments/1", {}),
        ("s3:PutBucketPolicy", "s3:::{s}-documentsbucket-1", {}),
        ("s3:PutBucketNotification", "s3:::{s}-documentsbucket-1", {}),
        ("s3:DeleteBucket", "s3:::{s}-documentsbucket-1", {}),
        ("s3:PutObject", "s3:::{s}-edge-consolebucket-1/console/index.html", {}),
        ("s3:PutObject", "s3:::{store}/deployments/{s}/1.json", {}),
    ],
    "Entry points": [
        ("route53:ChangeResourceRecordSets", "route53:::hostedzone/Z1", {"route53:ChangeResourceRecordSetsNormalizedRecordNames": ["{domain}"]}),
        ("apigateway:PATCH", "apigateway:{region}::/apis/1a2b", TAGGED),
        ("apigateway:DELETE", "apigateway:{region}::/apis/1a2b/stages/$default", TAGGED),
        ("apigateway:PATCH", "apigateway:{region}::/domainnames/{domain}", TAGGED),
        # a mapping inherits its domain's tags: https://docs.aws.amazon.com/apigateway/latest/developerguide/apigateway-tagging-supported-resources.html
        ("apigateway:POST", "apigateway:{region}::/domainnames/{domain}/apimappings", TAGGED),
        ("elasticloadbalancing:ModifyListener", "elasticloadbalancing:{here}:listener/app/orders-LoadB-1/1/1", TAGGED),
        ("elasticloadbalancing:CreateRule", "elasticloadbalancing:{here}:listener/app/orders-LoadB-1/1/1", TAGGED),
        ("elasticloadbalancing:RegisterTargets", "elasticloadbalancing:{here}:targetgroup/orders-Targe-1/1", TAGGED),
        ("elasticloadbalancing:ModifyLoadBalancerAttributes", "elasticloadbalancing:{here}:loadbalancer/app/orders-LoadB-1/1", TAGGED),
        ("elasticloadbalancing:CreateWebACLAssociation", "elasticloadbalancing:{here}:loadbalancer/app/orders-LoadB-1/1", TAGGED),
        ("elasticloadbalancing:DeleteWebACLAssociation", "elasticloadbalancing:{here}:loadbalancer/app/orders-LoadB-1/1", TAGGED),
        ("ec2:AuthorizeSecurityGroupIngress", "ec2:{here}:security-group/sg-1", TAGGED),
        ("ec2:CreateRoute", "ec2:{here}:route-table/rtb-1", TAGGED),
        ("ec2:DeleteTags", "ec2:{here}:vpc/vpc-1", TAGGED),
        ("cloudfront:UpdateDistribution", "cloudfront::{account}:distribution/E1", TAGGED),
        ("cloudfront:CreateInvalidation", "cloudfront::{account}:distribution/E1", TAGGED),
        ("cloudfront:GetDistribution", "cloudfront::{account}:distribution/E1", TAGGED),
        ("cloudfront:UpdateFunction", "cloudfront::{account}:function/{s}-edge-us-east-1-index", {}),
        ("wafv2:UpdateWebACL", "wafv2:us-east-1:{account}:global/webacl/WebAcl-1/1", TAGGED),
        ("wafv2:PutLoggingConfiguration", "wafv2:us-east-1:{account}:global/webacl/WebAcl-1/1", TAGGED),
    ],
    "Logs and alarms": [
        ("logs:PutLogEvents", "logs:{here}:log-group:/{s}/api:log-stream:1", {}),
        ("logs:GetLogEvents", "logs:{here}:log-group:/{s}/api:log-stream:1", {}),
        ("logs:DeleteLogGroup", "logs:{here}:log-group:/aws/vendedlogs/{s}/api-gateway", {}),
        ("logs:PutSubscriptionFilter", "logs:{here}:log-group:/{s}/api", {}),
        ("logs:DeleteLogGroup", "logs:us-east-1:{account}:log-group:aws-waf-logs-{s}-waf-us-east-1", {}),
        ("cloudwatch:PutMetricAlarm", "cloudwatch:{here}:alarm:{s}-api-1-5xx", TAGGED),
        ("cloudwatch:PutAlarmMuteRule", "cloudwatch:{here}:alarm:{s}-api-1-5xx", TAGGED),
        ("cloudwatch:PutDashboard", "cloudwatch::{account}:dashboard/Dashboard-1", TAGGED),
        ("cloudwatch:DeleteAlarms", "cloudwatch:{here}:alarm:{s}-MonitoringStack-1-AvailabilityStack-1-FastBurnAlarm-1", TAGGED),
    ],
}  # fmt: skip

# What dev's CloudFormation may do to prod's all the same, for AWS knows neither name nor tag of it; and what that means.
LEFT = {
    ("apigateway:POST", "apigateway:{region}::/apis/1a2b/stages"): "another stage of an API; what it has stays",
    ("cloudfront:UpdateCachePolicy", "cloudfront::{account}:cache-policy/1"): "a CDN's cache policy",
    ("cloudfront:UpdateResponseHeadersPolicy", "cloudfront::{account}:response-headers-policy/1"): "a CDN's headers",
    ("cloudfront:DeleteOriginAccessControl", "cloudfront::{account}:origin-access-control/1"): "how a CDN signs (rejected while in use)",
    ("ecs:DeregisterTaskDefinition", "*"): "a task definition; what runs goes on",
    ("elasticloadbalancing:SetWebACL", "*"): "a load balancer's web ACL, by the older right that WAF takes, too",
    ("logs:DeleteLogDelivery", "*"): "an API's access log",
    ("logs:DeleteResourcePolicy", "*"): "the web ACL's right to write its log",
    ("logs:DeleteQueryDefinition", "*"): "saved queries",
    ("sns:Unsubscribe", "*"): "who is told of alarms",
}  # fmt: skip


def _filled(value: Any, made: Bootstrap) -> Any:
    if isinstance(value, list):
        return [_filled(each, made) for each in value]
    names = {
        "here": f"{REGION}:{made.account}",
        "region": REGION,
        "account": made.account,
        "s": f"orders-{made.stage}",
        "store": made.store,
        "execution": made.execution_arn.removeprefix("arn:aws:"),
        "boundary": made.boundary_arn,
        "domain": {"prod": "example.com"}.get(made.stage, f"{made.stage}.example.com"),
    }
    return str(value).format(**names)


def _statements(made: Bootstrap, who: str) -> list[dict[str, Any]]:
    """Return the policies of one of the stage's roles; a function's own says anything, its boundary less."""
    match who:
        case "function or task":
            document: list[dict[str, Any]] = made.managed(made.boundary_arn)["Statement"]
            return document
        case "CloudFormation":
            return made.statements("execution")
        case "deploying job":
            return made.statements("deploy")
    return made.statements("drift")


def _asked(
    by: Bootstrap, of: Bootstrap, call: str, arn: str, given: dict[str, Any]
) -> dict[str, tuple[bool, str]]:
    """Return what each of a stage's roles is told when it makes the call on a stage's resource."""
    context: dict[str, Any] = {name: _filled(value, of) for name, value in given.items()}
    if "tagged" in given:
        context |= own(of.stage)
    resource = arn if arn == "*" else "arn:aws:" + _filled(arn, of)
    return {who: verdict(_statements(by, who), call, resource, context) for who in WHO}


# The reference has a topic for it, and so IAM could tell; the bootstrap allows it on anything.
WIDER_THAN_IT_MUST_BE = {"sns:Unsubscribe"}


@pytest.mark.parametrize(
    ("call", "arn", "given"), [*(row for rows in CALLS.values() for row in rows), *((*left, {}) for left in LEFT)],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_every_call_is_one_of_aws_on_what_it_takes(
    stages: dict[str, Bootstrap], call: str, arn: str, given: dict[str, Any]
) -> None:
    """And where the tags decide, IAM is told of them. A rejection of anything else would say nothing."""
    kinds = taken(call)
    if arn == "*":
        assert not kinds or call in WIDER_THAN_IT_MUST_BE
        return
    resource = "arn:aws:" + _filled(arn, stages["dev"])
    fitting = [
        kind for kind in kinds.values() if any(is_of_format(resource, text) for text in kind["ARNFormats"])
    ]
    assert fitting, (resource, kinds)
    if "tagged" in given:
        assert any("aws:ResourceTag/${TagKey}" in kind.get("ConditionKeys", []) for kind in fitting)


ROWS = [(group, *row) for group, rows in CALLS.items() for row in rows]
IDS = [f"{call}-{arn.rsplit(':', 1)[-1]}" for _, call, arn, _ in ROWS]


@pytest.mark.parametrize(("group", "call", "arn", "given"), ROWS, ids=IDS)
class TestCalls:
    def test_no_role_of_a_stage_may_make_it_on_another_stages(
        self, stages: dict[str, Bootstrap], group: str, call: str, arn: str, given: dict[str, Any]
    ) -> None:
        """Nor on that of a stage whose name begins alike."""
        for by, other in permutations(("dev", "prod"), 2):
            for of in (stages[other], replace(stages[other], stage=f"{by}2")):
                told = _asked(stages[by], of, call, arn, given)
                assert {who for who, (may, _) in told.items() if may} == set(), f"{by} on {of.stage}"

    def test_some_role_may_make_it_on_its_own(
        self, stages: dict[str, Bootstrap], group: str, call: str, arn: str, given: dict[str, Any]
    ) -> None:
        """Or the rejections above would say nothing."""
        told = _asked(stages["dev"], stages["dev"], call, arn, given)
        assert {who for who, (may, _) in told.items() if may}


@pytest.mark.parametrize("part", ["routes", "integrations/1", "authorizers", "deployments", "models/1"])
def test_nobody_adds_to_an_api_that_stands(stages: dict[str, Bootstrap], part: str) -> None:
    """What hangs on an API has no tags of its own; a template could give it to any, by its id."""
    for made in stages.values():
        arn = f"arn:aws:apigateway:{REGION}::/apis/1a2b"
        for call in ("POST", "PUT", "PATCH", "DELETE"):
            for resource, may in {f"{arn}/{part}": False, f"{arn}/stages": True}.items():
                told = verdict(made.statements("execution"), f"apigateway:{call}", resource, TAGGED)
                assert told[0] == may, (resource, call)


# What cuts a load balancer off and carries no tags of its stack: a setting of the account, and the access list that each network
# has from the beginning and its subnets use. https://docs.aws.amazon.com/vpc/latest/userguide/security-vpc-bpa.html,
# https://docs.aws.amazon.com/vpc/latest/userguide/default-network-acl.html
CLOSES_NETWORKS = {
    "ec2:ModifyVpcBlockPublicAccessOptions": "*",
    "ec2:CreateNetworkAclEntry": "arn:aws:ec2:{here}:network-acl/acl-1",
    "ec2:ReplaceNetworkAclAssociation": "arn:aws:ec2:{here}:network-acl/acl-1",
}


@pytest.mark.parametrize("call", CLOSES_NETWORKS)
def test_nobody_closes_a_network(stages: dict[str, Bootstrap], call: str) -> None:
    for made, who in product(stages.values(), WHO[:3]):
        resource = CLOSES_NETWORKS[call].format(here=f"{REGION}:{made.account}")
        assert not verdict(_statements(made, who), call, resource, TAGGED)[0], (made.stage, who)


@pytest.mark.parametrize(("call", "arn"), LEFT, ids=[call for call, _ in LEFT])
def test_what_iam_cannot_tell_apart_is_named(stages: dict[str, Bootstrap], call: str, arn: str) -> None:
    """When one of these is rejected one day, take it out of the document."""
    resource = arn if arn == "*" else "arn:aws:" + _filled(arn, stages["prod"])
    told = {who: verdict(_statements(stages["dev"], who), call, resource, TAGGED)[0] for who in WHO}
    assert [who for who, may in told.items() if may] == ["CloudFormation"]


# Types without name and tag in what IAM sees, and what keeps other stages' CloudFormation from them.
UNTAGGED = {
    "ApiGatewayV2::ApiMapping": "their domain name's tags",
    "ApplicationAutoScaling::ScalingPolicy": "their scalable target's tags",
    "CloudFront::CachePolicy": "nothing: see LEFT",
    "CloudFront::OriginAccessControl": "nothing: see LEFT",
    "CloudFront::ResponseHeadersPolicy": "nothing: see LEFT",
    "EC2::Route": "their table's tags",
    "EC2::SecurityGroupIngress": "their group's tags",
    "EC2::SubnetRouteTableAssociation": "their table's tags",
    "EC2::VPCGatewayAttachment": "their network's tags",
    "ECS::ClusterCapacityProviderAssociations": "their cluster's tags",
    "Logs::QueryDefinition": "nothing: see LEFT",
    "Logs::ResourcePolicy": "nothing: see LEFT",
    "Route53::RecordSet": "the names given to the bootstrap",
    "WAFv2::LoggingConfiguration": "their web ACL's tags",
    "WAFv2::WebACLAssociation": "their load balancer's tags",
}


def test_what_is_not_told_by_its_name_carries_the_stages_tags() -> None:
    """CloudFormation gives a stack's tags to every resource of a type that takes tags."""
    without = set()
    for kind in _types(STACK_TEMPLATES) - {"AWS::CloudFormation::CustomResource"}:
        schema, name = (
            PROVIDER_SCHEMA_MANAGER.get_resource_schema(REGION, kind).schema,
            kind.removeprefix("AWS::"),
        )
        if name not in NAMED and not schema.get("tagging", {}).get("taggable"):
            without.add(name)
    assert without == set(UNTAGGED)


class TestEnforced:
    """The local AWS emulator, which enforces names in policies and boundaries, denies a function of dev what is prod's."""

    def test_a_role_inside_devs_boundary_reads_devs_table_only(self, stages: dict[str, Bootstrap]) -> None:
        made = stages["dev"]
        iam, root = made.client("iam"), f"arn:aws:iam::{made.account}:root"
        trust = {"Effect": "Allow", "Principal": {"AWS": root}, "Action": "sts:AssumeRole"}
        role = iam.create_role(
            RoleName="orders-dev-anything",
            AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]}),
            PermissionsBoundary=made.boundary_arn,
        )["Role"]["Arn"]
        anything = {"Effect": "Allow", "Action": "*", "Resource": "*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [anything]})
        iam.put_role_policy(RoleName="orders-dev-anything", PolicyName="Anything", PolicyDocument=policy)
        for stage in ("dev", "prod"):
            made.client("dynamodb").create_table(
                TableName=f"orders-{stage}-BoundaryTable",
                BillingMode="PAY_PER_REQUEST",
                AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
                KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
            )
            made.client("s3").create_bucket(Bucket=f"orders-{stage}-boundary")
        keys = made.client("sts").assume_role(RoleArn=role, RoleSessionName="function")["Credentials"]
        table, bucket = (client(made.endpoint, made.account, name, keys) for name in ("dynamodb", "s3"))

        def calls(stage: str) -> list[Callable[[], Any]]:
            key = {"pk": {"S": "order#1"}}
            return [
                lambda: table.put_item(TableName=f"orders-{stage}-BoundaryTable", Item=key),
                lambda: table.get_item(TableName=f"orders-{stage}-BoundaryTable", Key=key),
                lambda: bucket.put_object(Bucket=f"orders-{stage}-boundary", Key="receipts/1", Body=b"1"),
            ]

        for call in calls("dev"):
            call()
        for call in calls("prod"):
            with pytest.raises(ClientError, match=r"AccessDenied|not authorized"):
                call()


HEADER = """# What one stage may do to another, in one account

Written by `UPDATE_DOCS=1 pytest tests/delivery/test_boundaries.py`; the test fails when it is out of date, and when a call is
allowed. How stages are set up: [delivery](delivery.md). Each call is put to the policies as the bootstrap made them
(`tests/delivery/iam.py` evaluates them), by four of dev's roles on a resource of prod:

- the **deploying job**: what main's jobs have;
- **CloudFormation**: dev's execution role, and so whatever a template that main deploys asks for;
- a **function or task** of dev with a policy that allows it everything: what dev's boundary leaves of that;
- the **drift job** of dev.

A cell says what rejects the call: the statement that denies it, or that no statement gives the right. What has its stack's name
in its own name is told by that alone, what AWS names by the tags that CloudFormation puts on it (`NotOtherStages`). The last
column is the control: who may make the same call on dev's own resource. The test asks the same
with dev and prod exchanged, and gets the same.

"""
FOOTER = """## What IAM cannot tell apart

These calls know neither a name nor a tag, so dev's execution role may make them on prod's resources too. Only CloudFormation
has that role, and it changes what its own stack made; it takes up nothing that another stack manages.

{left}

An account's stages also share what no policy divides. Each is a reason for two accounts:

- quotas, above all Lambda's concurrency: a loop in dev throttles prod;
- the namespace `Orders` of metrics: a function of dev that writes a log entry as prod's would moves prod's alarms;
- the network: ECS starts a task where its service says. A template of dev could name prod's subnets, security groups and target
  group, and its task, though it has dev's rights, would stand beside prod's;
- alarms: prod's topic takes those of the whole account, so one of dev could call prod's engineers;
- the account's administrators.
"""


def _document(stages: dict[str, Bootstrap]) -> str:
    lines = []
    for group, rows in CALLS.items():
        lines += [
            f"## {group}\n",
            "| call | on prod's | " + " | ".join(f"dev's {who}" for who in WHO) + " | on dev's own may |",
            "| --- | --- |" + " --- |" * len(WHO) + " --- |",
        ]
        for call, arn, given in rows:
            on_prod = _asked(stages["dev"], stages["prod"], call, arn, given)
            on_dev = _asked(stages["dev"], stages["dev"], call, arn, given)
            cells = ["**allowed**" if may else sid or "no right" for may, sid in on_prod.values()]
            may_own = ", ".join(who for who, (may, _) in on_dev.items() if may)
            lines.append(
                f"| `{call}` | {_shown(arn, given, stages['prod'])} | {' | '.join(cells)} | {may_own} |"
            )
        lines.append("")
    left = ["| call | on |", "| --- | --- |", *(f"| `{call}` | {what} |" for (call, _), what in LEFT.items())]
    return HEADER + "\n".join(lines) + "\n" + FOOTER.format(left="\n".join(left))


def _shown(arn: str, given: dict[str, Any], made: Bootstrap) -> str:
    """Return a resource without account and region, which are alike in all rows."""
    if arn == "{execution}":
        return "execution role"
    if "{store}" in arn:
        return "history"
    if "route53" in arn:
        return str(_filled("{domain}", made))
    named = given["lambda:FunctionArn"].removeprefix("arn:aws:") if "lambda:FunctionArn" in given else arn
    return str(_filled(named, made)).split(":", 3)[-1].lstrip(":")


def test_the_table_is_what_the_policies_say(stages: dict[str, Bootstrap]) -> None:
    text = _document(stages)
    if os.environ.get("UPDATE_DOCS"):
        DOCUMENT.write_text(text)
    assert DOCUMENT.read_text() == text
    assert "**allowed**" not in text
