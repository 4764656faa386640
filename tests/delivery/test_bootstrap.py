"""Who may become which role, and what each role may and may not do.

The policies are read back from the emulator after CloudFormation and Terraform made them, and judged by
`tests/delivery/iam.py`; the emulator, which enforces
trust conditions itself, judges the tokens a second time.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from cfnlint.schema.manager import PROVIDER_SCHEMA_MANAGER
from localcloud.running import Emulator
from scripts.stack import NOT_COMPARED
from scripts.templates import load_template
from tests.delivery.conftest import (
    AUDIENCE,
    REPOSITORY_ID,
    ROOT,
    STAGES,
    Bootstrap,
    client,
    parameters,
    statements_of,
    token,
)
from tests.delivery.iam import allowed, formats, is_of_format, like, taken, trusts
from tests.template.templates import Evaluator, template

pytestmark = pytest.mark.xdist_group("bootstrap")  # one emulator and one Terraform run for all of it

REGION = "us-east-1"
BRANCH_JOBS = {"dev deploy", "dev drift", "prod drift"}
# What GitHub puts into the token of a job, and the roles it may have: of the names alone, and with ids.
# https://docs.github.com/en/actions/reference/security/oidc
# https://github.blog/changelog/2026-04-23-immutable-subject-claims-for-github-actions-oidc-tokens/
SUBJECTS = {
    "repo:acme/orders:ref:refs/heads/main": BRANCH_JOBS,
    "repo:acme@4242/orders@171717:ref:refs/heads/main": BRANCH_JOBS,
    "repo:acme/orders:environment:prod": {"prod deploy"},
    "repo:acme@4242/orders@171717:environment:prod": {"prod deploy"},
    "repo:acme/orders:environment:preview": {"preview deploy"},
    "repo:acme@4242/orders@171717:environment:preview": {"preview deploy"},
    # other ids under the same names: somebody took a name that was given up
    "repo:acme@666/orders@171717:environment:prod": set(),
    "repo:acme@4242/orders@666:environment:prod": set(),
    "repo:acme@666/orders@667:ref:refs/heads/main": set(),
    "repo:acme@4242/orders:environment:prod": set(),
    "repo:acme/orders@171717:environment:prod": set(),
    # another repository, also one whose name begins or ends alike
    "repo:evil/orders:ref:refs/heads/main": set(),
    "repo:evil@4242/orders@171717:ref:refs/heads/main": set(),
    "repo:acme/orders-fork:environment:prod": set(),
    "repo:xacme/orders:environment:prod": set(),
    # a pull request: from a fork GitHub gives no token at all, and this is what one would say
    "repo:acme/orders:pull_request": set(),
    "repo:acme@4242/orders@171717:pull_request": set(),
    "repo:mallory/orders:pull_request": set(),
    # another branch, a tag, another environment, another case
    "repo:acme/orders:ref:refs/heads/feature": set(),
    "repo:acme/orders:ref:refs/heads/main2": set(),
    "repo:acme/orders:ref:refs/tags/main": set(),
    "repo:acme/orders:environment:staging": set(),
    "repo:acme/orders:environment:PROD": set(),
    "": set(),
}
ROLES = ["dev deploy", "dev drift", "preview deploy", "prod deploy", "prod drift"]


def _roles(stages: dict[str, Bootstrap]) -> dict[str, tuple[Bootstrap, str]]:
    return {f"{stage} {role}": (made, role) for stage, made in stages.items() for role in made.roles}


def _statements_of(stages: dict[str, Bootstrap]) -> dict[str, list[dict[str, Any]]]:
    return {name: made.statements(role) for name, (made, role) in _roles(stages).items()}


def _becomes(made: Bootstrap, role: str, subject: str) -> bool:
    try:
        made.client("sts").assume_role_with_web_identity(
            RoleArn=made.arn(role), RoleSessionName="job", WebIdentityToken=token(subject)
        )
    except ClientError as error:
        if error.response["Error"]["Code"] != "AccessDenied":
            raise
        return False
    return True


def own(stage: str) -> dict[str, str]:
    """Return the tags of what the stage's stacks make, as a request's context."""
    return {"aws:ResourceTag/service": "orders", "aws:ResourceTag/stage": stage}


class TestTrust:
    def test_each_stage_has_its_roles(self, stages: dict[str, Bootstrap]) -> None:
        assert sorted(_roles(stages)) == ROLES

    @pytest.mark.parametrize("subject", SUBJECTS)
    def test_a_token_becomes_its_roles_and_no_other(self, stages: dict[str, Bootstrap], subject: str) -> None:
        claims = {"aud": AUDIENCE, "sub": subject, "repository_id": REPOSITORY_ID}
        roles = _roles(stages).items()
        assert {name for name, (made, role) in roles if trusts(made.trust(role), claims)} == SUBJECTS[subject]

    def test_another_audience_and_another_repository_are_rejected(self, stages: dict[str, Bootstrap]) -> None:
        for subject in SUBJECTS:
            for changes in ({"aud": "https://github.com/acme"}, {"repository_id": "666"}):
                claims = {"aud": AUDIENCE, "sub": subject, "repository_id": REPOSITORY_ID, **changes}
                for name, (made, role) in _roles(stages).items():
                    assert not trusts(made.trust(role), claims), (subject, changes, name)

    @pytest.mark.parametrize("subject", [s for s in SUBJECTS if s])
    def test_the_local_aws_agrees(self, stages: dict[str, Bootstrap], subject: str) -> None:
        roles = _roles(stages).items()
        assert {name for name, (made, role) in roles if _becomes(made, role, subject)} == SUBJECTS[subject]

    def test_no_wildcard_is_trusted(self, stages: dict[str, Bootstrap]) -> None:
        for name, (made, role) in _roles(stages).items():
            assert "*" not in json.dumps(made.trust(role)), name

    def test_only_cloudformation_is_the_execution_role(self, bootstrap: Bootstrap) -> None:
        (statement,) = bootstrap.trust("execution")["Statement"]
        assert statement["Principal"] == {"Service": "cloudformation.amazonaws.com"}


def _stack(bootstrap: Bootstrap, name: str) -> str:
    return f"arn:aws:cloudformation:{REGION}:{bootstrap.account}:stack/{name}/0a1b"


class TestJobs:
    """The roles that GitHub's jobs have. What one stage's may do to another's: test_boundaries.py."""

    STACKS = [
        *("orders-dev", "orders-dev-FargateStack-1A2B", "orders-dev-edge"),
        *("orders-prod", "orders-prod-FargateStack-1A2B", "orders-prod-edge"),
        *("orders-preview-12", "orders-preview-12-FargateStack-1A2B"),
        *("orders-bootstrap-dev", "orders-device", "orders-product", "billing-dev"),
    ]

    def test_changes_and_deletes_stacks_of_its_own_stage_only(self, stages: dict[str, Bootstrap]) -> None:
        for name, statements in _statements_of(stages).items():
            stage, role = name.split()
            for call, who in {
                "ExecuteChangeSet": {"deploy"},
                "DeleteStack": {"deploy"} if stage != "prod" else set(),
                "DetectStackDrift": {"drift"},
            }.items():
                may = [
                    stack
                    for stack in self.STACKS
                    if allowed(statements, f"cloudformation:{call}", _stack(stages[stage], stack))
                ]
                mine = [s for s in self.STACKS if s == f"orders-{stage}" or s.startswith(f"orders-{stage}-")]
                assert may == (mine if role in who else []), (name, call)

    def test_data_is_removed_by_no_job_of_prod(self, stages: dict[str, Bootstrap]) -> None:
        account = stages["prod"].account
        for stage, made in stages.items():
            data = {
                f"arn:aws:dynamodb:{REGION}:{account}:table/orders-{stage}-T-1": ["Scan", "DeleteTable"],
                f"arn:aws:events:{REGION}:{account}:archive/orders-{stage}-1a2b3c4d": ["DeleteArchive"],
                f"arn:aws:s3:::orders-{stage}-documentsbucket-1": ["DeleteBucket", "ListBucketVersions"],
                f"arn:aws:s3:::orders-{stage}-documentsbucket-1/receipts/1": ["DeleteObjectVersion"],
                f"arn:aws:kms:{REGION}:{account}:key/1": ["ScheduleKeyDeletion"],
            }
            for resource, actions in data.items():
                for action in actions:
                    call = f"{resource.split(':')[2]}:{action}"
                    may = allowed(made.statements("deploy"), call, resource, **own(stage))
                    assert may == (stage != "prod"), (stage, call)

    def test_keys_and_load_balancers_are_told_by_their_tags(self, stages: dict[str, Bootstrap]) -> None:
        here = f"{REGION}:{stages['dev'].account}"
        key = f"arn:aws:kms:{here}:key/1"
        arn = f"arn:aws:elasticloadbalancing:{here}:loadbalancer/app/orders-LoadB-1/1a"
        change = "elasticloadbalancing:ModifyLoadBalancerAttributes"
        for stage, made in stages.items():
            statements = made.statements("deploy")
            for tagged in ("dev", "prod", "preview12"):
                mine = tagged.startswith(stage)
                assert allowed(statements, change, arn, **own(tagged)) == mine
                removes = mine and stage != "prod"
                assert allowed(statements, "kms:ScheduleKeyDeletion", key, **own(tagged)) == removes
            billing = {"aws:ResourceTag/service": "billing", "aws:ResourceTag/stage": stage}
            for context in ({}, billing):
                assert not allowed(statements, change, arn, **context)
                assert not allowed(statements, "kms:ScheduleKeyDeletion", key, **context)
            assert not allowed(statements, "elasticloadbalancing:DeleteLoadBalancer", arn, **own(stage))

    def test_an_edge_belongs_to_its_stage(self, stages: dict[str, Bootstrap]) -> None:
        for stage, (name, statements) in product(("dev", "prod"), _statements_of(stages).items()):
            mine, account = name == f"{stage} deploy", stages[stage].account
            web_acl = f"arn:aws:cloudformation:us-east-1:{account}:stack/orders-{stage}-waf-{REGION}/0a1b"
            assert allowed(statements, "cloudformation:ExecuteChangeSet", web_acl) is mine, (stage, name)
            if name in (f"{stage} deploy", f"{stage} drift"):
                # By its whole name: the web ACLs of other regions' edges stand there, too.
                named = {r for s in statements for r in s["Resource"] if ":stack/" in r and "waf" in r}
                assert named == {web_acl.replace("0a1b", "*")}, (stage, name)
            console, logs = (
                f"arn:aws:s3:::orders-{stage}-edge-{b}bucket-1/console/a" for b in ("console", "logs")
            )
            assert allowed(statements, "s3:PutObject", console) is mine, (stage, name)
            assert not allowed(statements, "s3:PutObject", logs), (stage, name)
            distribution = f"arn:aws:cloudfront::{account}:distribution/E1A2B"
            refresh = "cloudfront:CreateInvalidation"
            assert allowed(statements, refresh, distribution, **own(stage)) is mine, (stage, name)
            assert not allowed(statements, refresh, distribution), (stage, name)

    @pytest.mark.parametrize(
        ("stage", "path", "writer"),
        [
            ("dev", "artifacts/0a1b/template.yaml", "dev deploy"),
            ("dev", "deployments/orders-dev/1.json", "dev deploy"),
            ("prod", "deployments/orders-prod/1.json", "prod deploy"),
            ("prod", "artifacts/0a1b/template.yaml", None),
            ("preview", "previews/0a1b/template.yaml", "preview deploy"),
            ("preview", "artifacts/0a1b/template.yaml", None),
            ("preview", "deployments/orders-preview-12/1.json", "preview deploy"),
        ],
    )
    def test_each_bucket_has_its_writer(
        self, stages: dict[str, Bootstrap], stage: str, path: str, writer: str | None
    ) -> None:
        resource = f"arn:aws:s3:::{stages[stage].store}/{path}"
        may = {n for n, s in _statements_of(stages).items() if allowed(s, "s3:PutObject", resource)}
        assert may == ({writer} if writer else set())

    def test_prod_reads_what_dev_built_and_pushes_nothing(self, stages: dict[str, Bootstrap]) -> None:
        template = f"arn:aws:s3:::{stages['dev'].store}/artifacts/0a1b/template.yaml"
        record = f"arn:aws:s3:::{stages['dev'].store}/deployments/orders-dev/1.json"
        readers = {n for n, s in _statements_of(stages).items() if allowed(s, "s3:GetObject", template)}
        assert readers == {"dev deploy", "prod deploy"}
        assert not allowed(stages["prod"].statements("deploy"), "s3:GetObject", record)
        image = stages["dev"].repository_arn
        pushers = {n for n, s in _statements_of(stages).items() if allowed(s, "ecr:PutImage", image)}
        assert pushers == {"dev deploy"}

    def test_passes_its_execution_role_to_cloudformation_only(self, stages: dict[str, Bootstrap]) -> None:
        for name, statements in _statements_of(stages).items():
            for stage, made in stages.items():

                def may(arn: str, service: str, statements: Any = statements) -> bool:
                    return allowed(statements, "iam:PassRole", arn, **{"iam:PassedToService": service})

                mine = name == f"{stage} deploy"
                assert may(made.execution_arn, "cloudformation.amazonaws.com") == mine, (name, stage)
                assert not may(made.execution_arn, "lambda.amazonaws.com")
                assert not may(f"arn:aws:iam::{made.account}:role/Admin", "cloudformation.amazonaws.com")

    def test_holds_no_right_beyond_delivery(self, stages: dict[str, Bootstrap]) -> None:
        for name, statements in _statements_of(stages).items():
            for action in (
                *(
                    "iam:CreateRole",
                    "iam:AttachRolePolicy",
                    "iam:CreateUser",
                    "sts:AssumeRole",
                    "kms:Decrypt",
                ),
                *("lambda:UpdateFunctionCode", "lambda:InvokeFunction", "ecs:UpdateService"),
                *("secretsmanager:GetSecretValue", "ec2:RunInstances", "logs:GetLogEvents"),
                *("dynamodb:GetItem", "dynamodb:Query", "sqs:ReceiveMessage"),
            ):
                stage = name.split()[0]
                role = f"arn:aws:iam::{stages[stage].account}:role/orders-{stage}-x"
                for resource in ("*", role):
                    assert not allowed(statements, action, resource, **own(stage)), (name, action)

    def test_the_clean_up_may_look_for_stacks(self, stages: dict[str, Bootstrap]) -> None:
        may = [n for n, s in _statements_of(stages).items() if allowed(s, "cloudformation:ListStacks", "*")]
        assert may == ["preview deploy"]


class TestDrift:
    """The role reads how its stage is set up: all that CloudFormation compares, and no more than it must."""

    # Reading calls that take no resource, or one without name and tags; and what they tell of the account.
    # https://docs.aws.amazon.com/service-authorization/latest/reference/reference_policies_actions-resources-contextkeys.html
    UNSCOPED = {
        "apigateway:GET": "which API a domain leads to, tags of APIs: /domainnames/*/apimappings*, /tags/*",
        "application-autoscaling:Describe*": "limits of scaling",
        "cloudformation:BatchDescribeTypeConfigurations": "settings of resource types",
        "cloudformation:DescribeStackDriftDetectionStatus": "whether a search has ended",
        "cloudfront:GetCachePolicy": "what a CDN keeps",
        "cloudfront:GetOriginAccessControl": "how a CDN signs",
        "cloudfront:GetResponseHeadersPolicy": "which headers a CDN adds",
        "cloudwatch:DescribeAlarms": "alarms",
        "cloudwatch:GetDashboard": "dashboards",
        "cloudwatch:ListTagsForResource": "tags of alarms and dashboards",
        **dict.fromkeys(
            [
                *("ec2:DescribeAddresses", "ec2:DescribeFlowLogs", "ec2:DescribeInternetGateways"),
                *("ec2:DescribeNatGateways", "ec2:DescribeNetworkAcls", "ec2:DescribeRouteTables"),
                *("ec2:DescribeSecurityGroup*", "ec2:DescribeSubnets", "ec2:DescribeVpc*"),
            ],
            "networks; no instance, so no user data",
        ),
        "elasticloadbalancing:Describe*": "load balancers",
        "elasticloadbalancing:GetLoadBalancerWebACL": "their web ACLs",
        "kms:ListAliases": "names of keys",
        "lambda:ListTags": "tags of functions and of what feeds them",
        "logs:DescribeLogGroups": "names of log groups",
        "logs:DescribeQueryDefinitions": "saved queries",
        "logs:DescribeResourcePolicies": "who may write logs",
        "route53:ListHostedZones": "names of zones",
        "sns:GetSubscriptionAttributes": "who gets a topic's messages",
        "wafv2:GetWebACLForResource": "which web ACL guards a load balancer",
    }

    def test_reads_all_that_cloudformation_compares(self, stages: dict[str, Bootstrap]) -> None:
        for stage in ("dev", "prod"):
            made = stages[stage]
            for kind in sorted(_types(STACK_TEMPLATES) - NOT_COMPARED):
                calls = _used(_calls(kind, "read"))
                reading = {c for c in calls if READS.match(c) and not c.startswith("cloudformation:")}
                assert reading - _permitted(made, "drift", kind, reading) == set(), kind
            statements = made.statements("drift")
            # https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/detect-drift-stack.html
            for call in ("BatchDescribeTypeConfigurations", "DescribeStackDriftDetectionStatus"):
                assert allowed(statements, f"cloudformation:{call}", "*"), call
            for call in ("DetectStackDrift", "DetectStackResourceDrift", "DescribeStackResourceDrifts"):
                web_acl = (
                    f"arn:aws:cloudformation:us-east-1:{made.account}:stack/orders-{stage}-waf-{REGION}/0a1b"
                )
                assert allowed(statements, f"cloudformation:{call}", web_acl), call

    def test_only_calls_that_take_no_resource_are_unscoped(self, stages: dict[str, Bootstrap]) -> None:
        for stage in ("dev", "prod"):
            wide = {
                action
                for s in stages[stage].statements("drift")
                if s["Effect"] == "Allow"
                and "Condition" not in s
                and f"orders-{stage}" not in str(s["Resource"])
                for action in _list(s["Action"])
            }
            assert wide - {"route53:GetHostedZone", "route53:ListResourceRecordSets"} == set(self.UNSCOPED)

    def test_reads_nothing_of_other_projects(self, stages: dict[str, Bootstrap]) -> None:
        made = stages["prod"]
        others = {**_resources(made, "billing"), "route53:GetHostedZone": "arn:aws:route53:::hostedzone/Z2"}
        tags = {"aws:ResourceTag/service": "billing", "aws:ResourceTag/stage": "prod"}
        mapping = {"lambda:FunctionArn": f"arn:aws:lambda:{REGION}:{made.account}:function:billing"}
        for call, resource in others.items():
            for context in ({}, tags):
                assert not allowed(made.statements("drift"), call, resource, **context, **mapping), call
        mine = {
            **_resources(made, "orders-prod-x"),
            "route53:GetHostedZone": "arn:aws:route53:::hostedzone/Z1",
        }
        mapping = {"lambda:FunctionArn": f"arn:aws:lambda:{REGION}:{made.account}:function:orders-prod-x"}
        for call, resource in mine.items():
            assert allowed(made.statements("drift"), call, resource, **own("prod"), **mapping), call

    def test_reads_no_secret_and_no_data(self, stages: dict[str, Bootstrap]) -> None:
        made = stages["prod"]
        everything = [*made.statements("drift"), {"Effect": "Allow", "Action": "*", "Resource": "*"}]
        for call in (
            *("secretsmanager:GetSecretValue", "ssm:GetParameter", "ssm:GetParametersByPath", "kms:Decrypt"),
            *("s3:GetObject", "s3:GetObjectVersion", "dynamodb:GetItem", "dynamodb:BatchGetItem"),
            *("dynamodb:Query", "dynamodb:Scan", "dynamodb:GetRecords", "sqs:ReceiveMessage"),
            *("logs:GetLogEvents", "logs:FilterLogEvents", "logs:StartQuery", "lambda:InvokeFunction"),
            *(
                "cloudfront:GetDistribution",
                "cloudfront:GetDistributionConfig",
            ),  # the origin secret in a header
            "ecs:DescribeTaskDefinition",  # takes no resource, and tells the environment of everybody's tasks
        ):
            assert not allowed(everything, call, "*", **own("prod")), f"{call}, whatever is attached"

    def test_changes_nothing(self, stages: dict[str, Bootstrap]) -> None:
        for stage in ("dev", "prod"):
            for statement in stages[stage].statements("drift"):
                if statement["Effect"] == "Allow":
                    for action in _list(statement["Action"]):
                        assert re.match(r"\w[\w-]+:(BatchDescribe|Describe|Detect|Get|List|GET)", action), (
                            action
                        )


def _resources(made: Bootstrap, name: str) -> dict[str, str]:
    """Return a reading call on something of that name, or that AWS named, of each service."""
    here = f"{REGION}:{made.account}"
    return {
        "apigateway:GET": f"arn:aws:apigateway:{REGION}::/apis/1a2b",
        "cloudfront:GetFunction": f"arn:aws:cloudfront::{made.account}:function/{name}",
        "codedeploy:GetApplication": f"arn:aws:codedeploy:{here}:application:{name}",
        "dynamodb:DescribeTable": f"arn:aws:dynamodb:{here}:table/{name}",
        "ecs:DescribeServices": f"arn:aws:ecs:{here}:service/{name}/{name}",
        "events:DescribeRule": f"arn:aws:events:{here}:rule/{name}",
        "iam:GetRolePolicy": f"arn:aws:iam::{made.account}:role/{name}",
        "kms:GetKeyPolicy": f"arn:aws:kms:{here}:key/1",
        "lambda:GetEventSourceMapping": f"arn:aws:lambda:{here}:event-source-mapping:1",
        "lambda:GetFunction": f"arn:aws:lambda:{here}:function:{name}",
        "logs:ListTagsForResource": f"arn:aws:logs:{here}:log-group:/{name}/api",
        "s3:GetBucketPolicy": f"arn:aws:s3:::{name}",
        "s3:ListBucket": f"arn:aws:s3:::{name}",
        "sns:GetTopicAttributes": f"arn:aws:sns:{here}:{name}",
        "sqs:GetQueueAttributes": f"arn:aws:sqs:{here}:{name}",
        "wafv2:GetWebACL": f"arn:aws:wafv2:{here}:regional/webacl/WebAcl-1/1",
    }


class TestExecutionRole:
    """What CloudFormation may do for the stacks."""

    def test_roles_are_made_inside_the_stages_boundary_only(self, stages: dict[str, Bootstrap]) -> None:
        for (stage, made), (other, others) in product(stages.items(), stages.items()):
            statements, mine = made.statements("execution"), stage == other
            role = f"arn:aws:iam::{made.account}:role/orders-{stage}-ApiFunctionRole-1"
            for action in ("CreateRole", "PutRolePolicy", "AttachRolePolicy", "PutRolePermissionsBoundary"):
                inside = {"iam:PermissionsBoundary": others.boundary_arn}
                assert allowed(statements, f"iam:{action}", role, **inside) == mine, (stage, other, action)
                assert not allowed(statements, f"iam:{action}", role), action
            assert not allowed(statements, "iam:DeleteRolePermissionsBoundary", role)

    def test_its_own_fence_is_out_of_reach(self, stages: dict[str, Bootstrap], bootstrap: Bootstrap) -> None:
        statements = bootstrap.statements("execution")
        for made in stages.values():
            inside = {"iam:PermissionsBoundary": made.boundary_arn}
            for arn in (made.execution_arn, *made.role_arns.values()):
                for action in ("PutRolePolicy", "UpdateAssumeRolePolicy", "DeleteRole", "PassRole"):
                    assert not allowed(statements, f"iam:{action}", arn, **inside), (action, arn)
            for action in ("CreatePolicyVersion", "SetDefaultPolicyVersion", "DeletePolicy"):
                assert not allowed(statements, f"iam:{action}", made.boundary_arn), action
            for action in ("PutBucketPolicy", "DeleteBucket", "PutLifecycleConfiguration"):
                assert not allowed(statements, f"s3:{action}", f"arn:aws:s3:::{made.store}"), action
            stack = _stack(made, f"orders-bootstrap-{made.stage}")
            assert not allowed(statements, "cloudformation:UpdateStack", stack)
        template = f"arn:aws:s3:::{bootstrap.bucket}/artifacts/0a1b/template.yaml"
        assert allowed(statements, "s3:GetObject", template)

    def test_its_own_fence_is_out_of_reach_whatever_its_name(self, bootstrap: Bootstrap) -> None:
        """Also of a bootstrap that is named as the stage's stacks are."""
        anything = {"Effect": "Allow", "Action": "*", "Resource": "*"}
        for arn in (bootstrap.execution_arn, bootstrap.boundary_arn, *bootstrap.role_arns.values()):
            for action in ("PutRolePolicy", "UpdateAssumeRolePolicy", "CreatePolicyVersion"):
                assert not allowed([*bootstrap.statements("execution"), anything], f"iam:{action}", arn)

    def test_nothing_outside_its_names_region_and_services(self, bootstrap: Bootstrap) -> None:
        statements = bootstrap.statements("execution")
        account, prefix = bootstrap.account, f"orders-{bootstrap.stage}"
        for action, resource in (
            ("dynamodb:DeleteTable", f"arn:aws:dynamodb:{REGION}:{account}:table/billing"),
            ("dynamodb:GetItem", f"arn:aws:dynamodb:{REGION}:{account}:table/{prefix}-OrdersTable-1"),
            ("s3:GetObject", f"arn:aws:s3:::{prefix}-documentsbucket-1/receipts/1"),
            ("s3:DeleteBucket", "arn:aws:s3:::billing"),
            ("lambda:DeleteFunction", f"arn:aws:lambda:{REGION}:{account}:function:billing"),
            ("iam:CreateUser", f"arn:aws:iam::{account}:user/x"),
            ("iam:DeleteRole", f"arn:aws:iam::{account}:role/Admin"),
            ("iam:CreateAccessKey", f"arn:aws:iam::{account}:user/x"),
            ("ec2:RunInstances", "*"),
            ("ecr:PutImage", bootstrap.repository_arn),
            ("ecr:BatchDeleteImage", bootstrap.repository_arn),
            ("organizations:LeaveOrganization", "*"),
        ):
            assert not allowed(statements, action, resource), action
        # The web ACL of a CDN logs where it stands, whatever the region of the rest.
        (logs,) = [s["Resource"] for s in statements if "logs:*" in s["Action"]]
        assert f"arn:aws:logs:us-east-1:{account}:log-group:aws-waf-logs-{prefix}-*" in logs
        inside, outside = {"aws:RequestedRegion": REGION}, {"aws:RequestedRegion": "eu-north-1"}
        assert allowed(statements, "ecs:CreateCluster", "*", **inside)
        assert not allowed(statements, "ecs:CreateCluster", "*", **outside)

    def test_records_are_those_given_to_the_bootstrap(self, stages: dict[str, Bootstrap]) -> None:
        names = {"dev": ["dev.example.com", "a.dev.example.com"], "prod": ["example.com"], "preview": []}
        key = "route53:ChangeResourceRecordSetsNormalizedRecordNames"
        for (stage, made), changed in product(
            stages.items(), [*names["dev"], *names["prod"], "x.example.com", "dev.example.com.evil"]
        ):
            mine = changed in names[stage]
            for zone, right in {"Z1": True, "Z2": False, "": False}.items():
                arn = f"arn:aws:route53:::hostedzone/{zone}"
                may = allowed(
                    made.statements("execution"), "route53:ChangeResourceRecordSets", arn, **{key: [changed]}
                )
                assert may == (mine and right), (stage, changed, zone)
        both = {key: ["dev.example.com", "example.com"]}
        zone = "arn:aws:route53:::hostedzone/Z1"
        for stage in ("dev", "prod"):
            statements = stages[stage].statements("execution")
            assert not allowed(statements, "route53:ChangeResourceRecordSets", zone, **both), "all of a batch"
            assert not allowed(statements, "route53:ChangeResourceRecordSets", zone)


class TestBoundary:
    def test_no_workload_touches_roles_stacks_or_others_data(self, bootstrap: Bootstrap) -> None:
        statements = bootstrap.managed(bootstrap.boundary_arn)["Statement"]
        account, prefix = bootstrap.account, f"orders-{bootstrap.stage}"
        assert allowed(
            statements, "dynamodb:PutItem", f"arn:aws:dynamodb:{REGION}:{account}:table/{prefix}-T-1"
        )
        for action, resource in (
            ("dynamodb:PutItem", f"arn:aws:dynamodb:{REGION}:{account}:table/billing"),
            ("dynamodb:DeleteTable", f"arn:aws:dynamodb:{REGION}:{account}:table/{prefix}-T-1"),
            ("dynamodb:Scan", f"arn:aws:dynamodb:{REGION}:{account}:table/{prefix}-T-1"),
            ("s3:GetObject", "arn:aws:s3:::billing/1"),
            ("iam:PassRole", f"arn:aws:iam::{account}:role/{prefix}-x"),
            ("sts:AssumeRole", f"arn:aws:iam::{account}:role/{prefix}-x"),
            ("cloudformation:UpdateStack", _stack(bootstrap, prefix)),
            ("kms:ScheduleKeyDeletion", f"arn:aws:kms:{REGION}:{account}:key/1"),
            ("kms:Decrypt", f"arn:aws:kms:{REGION}:{account}:key/1"),  # that has no tags
            ("cloudwatch:PutMetricData", "*"),
        ):
            assert not allowed(statements, action, resource), action


class TestStores:
    """The policies of buckets and repository let nobody replace or delete an artifact."""

    def test_nothing_is_replaced_or_deleted(self, bootstrap: Bootstrap) -> None:
        policy = bootstrap.client("s3").get_bucket_policy(Bucket=bootstrap.store)["Policy"]
        everything = [*json.loads(policy)["Statement"], {"Effect": "Allow", "Action": "*", "Resource": "*"}]
        secure = {"aws:SecureTransport": "true"}
        for path in (
            "artifacts/1/template.yaml",
            "previews/1/release.json",
            "deployments/orders-prod/1.json",
        ):
            arn = f"arn:aws:s3:::{bootstrap.store}/{path}"
            creates = {**secure, "s3:ObjectCreationOperation": "true"}
            assert not allowed(everything, "s3:PutObject", arn, **creates), (
                "by a put, copy or completed upload"
            )
            assert allowed(everything, "s3:PutObject", arn, **creates, **{"s3:if-none-match": "*"})
            part = {**secure, "s3:ObjectCreationOperation": "false"}
            assert allowed(everything, "s3:PutObject", arn, **part), "a part of an upload"
            for call in ("DeleteObject", "DeleteObjectVersion", "ReplicateObject", "ReplicateDelete"):
                assert not allowed(everything, f"s3:{call}", arn, **secure), call
            assert allowed(everything, "s3:GetObject", arn, **secure)
            assert not allowed(everything, "s3:GetObject", arn, **{"aws:SecureTransport": "false"})

    def test_no_role_of_the_bootstrap_can_lift_that(self, stages: dict[str, Bootstrap]) -> None:
        for made, other in product(stages.values(), stages.values()):
            for role in ("execution", *made.roles):
                for call in (
                    *("PutBucketPolicy", "DeleteBucketPolicy", "PutBucketVersioning"),
                    *("PutLifecycleConfiguration", "DeleteBucket", "PutReplicationConfiguration"),
                ):
                    bucket = f"arn:aws:s3:::{other.store}"
                    assert not allowed(made.statements(role), f"s3:{call}", bucket), (made.stage, role, call)
                for call in (
                    "BatchDeleteImage",
                    "DeleteRepository",
                    "PutImageTagMutability",
                    "SetRepositoryPolicy",
                ):
                    assert not allowed(made.statements(role), f"ecr:{call}", other.repository_arn), call

    def test_prod_of_another_account_reads_artifacts_and_images_only(
        self, stages: dict[str, Bootstrap]
    ) -> None:
        made = stages["dev"]
        root = {"AWS": "arn:aws:iam::777777777777:root"}
        policy = json.loads(made.client("s3").get_bucket_policy(Bucket=made.store)["Policy"])
        (reads,) = [s for s in policy["Statement"] if s["Effect"] == "Allow"]
        assert reads["Principal"] == root
        assert allowed([reads], "s3:GetObject", f"arn:aws:s3:::{made.store}/artifacts/1/template.yaml")
        assert not allowed(
            [reads], "s3:GetObject", f"arn:aws:s3:::{made.store}/deployments/orders-dev/1.json"
        )
        assert not allowed([reads], "s3:PutObject", f"arn:aws:s3:::{made.store}/artifacts/1/template.yaml")
        ecr, name = made.client("ecr"), made.repository_arn.rsplit("/", 1)[1]
        statements = json.loads(ecr.get_repository_policy(repositoryName=name)["policyText"])["Statement"]
        (pulls,) = [s for s in statements if s["Principal"] == root]
        assert allowed([pulls], "ecr:BatchGetImage", "*")
        assert not allowed([pulls], "ecr:PutImage", "*")
        (by_lambda,) = [s for s in statements if s["Principal"] == {"Service": "lambda.amazonaws.com"}]
        for account, function, may in (
            *((made.account, "orders-dev-x", True), ("777777777777", "orders-prod-x", True)),
            *(("777777777777", "billing", False), ("666666666666", "orders-prod-x", False)),
        ):
            source = {"aws:SourceArn": f"arn:aws:lambda:{REGION}:{account}:function:{function}"}
            assert allowed([by_lambda], "ecr:BatchGetImage", "*", **source) == may, source


# https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html, "character limits"
INLINE_CHARACTERS, MANAGED_CHARACTERS, TRUST_CHARACTERS = 10_240, 6_144, 2_048


Plan = Callable[..., subprocess.CompletedProcess[str]]
STORES = {"ArtifactBucketName": "a", "ImageRepositoryArn": "arn:aws:ecr:us-east-1:1:repository/a"}
REJECTED = [
    {"Stage": "prod", **STORES},  # nobody would approve it
    {"Stage": "prod", "Environment": "prod"},  # it would build
    {"ArtifactBucketName": "a"},
    {"ImageRepositoryArn": STORES["ImageRepositoryArn"]},
    {"Stage": "bootstrap"},  # all bootstraps are named orders-bootstrap-*
]


class TestBothWays:
    def test_policies_fit_into_iam(self, bootstrap: Bootstrap) -> None:
        for role in ("execution", *bootstrap.roles):
            documents = bootstrap.statements(role)
            assert _size(documents) < INLINE_CHARACTERS, "of all inline policies of a role together"
            assert _size(bootstrap.trust(role)) < TRUST_CHARACTERS

    def test_boundary_fits_into_iam(self, bootstrap: Bootstrap) -> None:
        assert _size(bootstrap.managed(bootstrap.boundary_arn)) < MANAGED_CHARACTERS

    @pytest.mark.parametrize("stage", STAGES)
    def test_terraform_says_what_the_template_says(
        self, stages: dict[str, Bootstrap], by_terraform: dict[str, Bootstrap], stage: str
    ) -> None:
        first, second = stages[stage], by_terraform[stage]
        assert first.roles == second.roles
        for role in ("execution", *first.roles):
            assert _meaning(first, first.statements(role)) == _meaning(second, second.statements(role)), role
            assert _meaning(first, first.trust(role)["Statement"]) == _meaning(
                second, second.trust(role)["Statement"]
            ), role

    @pytest.mark.parametrize("stage", STAGES)
    def test_terraform_has_the_same_boundary_and_stores(
        self, stages: dict[str, Bootstrap], by_terraform: dict[str, Bootstrap], stage: str
    ) -> None:
        meanings, stores = [], []
        for made in (stages[stage], by_terraform[stage]):
            meanings.append(_meaning(made, made.managed(made.boundary_arn)["Statement"]))
            s3, ecr, name = made.client("s3"), made.client("ecr"), made.repository_arn.rsplit("/", 1)[1]
            repository = ecr.describe_repositories(repositoryNames=[name])["repositories"][0]
            policies = (
                ecr.get_repository_policy(repositoryName=name)["policyText"],
                s3.get_bucket_policy(Bucket=made.store)["Policy"],
            )
            meanings[-1] += [_meaning(made, json.loads(policy)["Statement"]) for policy in policies]
            stores.append(
                (
                    repository["imageTagMutability"],
                    repository["imageScanningConfiguration"],
                    json.loads(ecr.get_lifecycle_policy(repositoryName=name)["lifecyclePolicyText"]),
                    s3.get_public_access_block(Bucket=made.store)["PublicAccessBlockConfiguration"],
                )
            )
        assert meanings[0] == meanings[1]
        assert stores[0] == stores[1]
        assert stores[0][0] == "IMMUTABLE"
        assert stores[0][1] == {"scanOnPush": True}

    def test_terraform_takes_the_templates_parameters(self) -> None:
        template = load_template((ROOT / "bootstrap" / "template.yaml").read_text())
        declared = {name: str(each.get("Default", "none")) for name, each in template["Parameters"].items()}
        text = (ROOT / "bootstrap" / "terraform" / "variables.tf").read_text()
        found = re.findall(r'^variable "(\w+)" \{.*?^\}', text, re.M | re.S)
        blocks = dict(re.findall(r'^variable "(\w+)" \{(.*?)^\}', text, re.M | re.S))
        defaults = {
            n: (re.findall(r'default += "(.*)"', block) or ["none"])[0] for n, block in blocks.items()
        }
        names = {re.sub("(?<!^)(?=[A-Z])", "_", name).lower(): value for name, value in declared.items()}
        assert len(found) == len(blocks)
        assert defaults == names | {"name": "orders-bootstrap"}

    def test_terraform_plans_everything(self, terraform_plan: Plan) -> None:
        plan = terraform_plan()
        assert plan.returncode == 0, plan.stderr
        for resource in ("aws_s3_bucket_lifecycle_configuration.store", "aws_iam_role.execution"):
            assert f"# {resource} will be created" in plan.stdout
        assert "0 to change, 0 to destroy" in plan.stdout
        assert '"orders-bootstrap-dev-deploy"' in plan.stdout

    @pytest.mark.parametrize("changes", REJECTED)
    def test_parameters_that_cannot_work_together_are_rejected(
        self, terraform_plan: Plan, changes: dict[str, str]
    ) -> None:
        given = parameters("dev", {}, "") | changes
        assert Evaluator(template("bootstrap/template.yaml"), **given).rejections()
        plan = terraform_plan(**changes)
        assert plan.returncode == 1
        assert "Resource precondition failed" in plan.stderr

    @pytest.mark.parametrize("stage", STAGES)
    def test_the_templates_rules_take_what_the_documentation_gives(
        self, stages: dict[str, Bootstrap], stage: str
    ) -> None:
        given = parameters(stage, stages, "")
        assert Evaluator(template("bootstrap/template.yaml"), **given).rejections() == []

    def test_terraform_is_formatted(self, terraform_format: subprocess.CompletedProcess[str]) -> None:
        assert terraform_format.returncode == 0, terraform_format.stdout


def _size(document: Any) -> int:
    return len(json.dumps(document, separators=(",", ":")))


def _meaning(made: Bootstrap, statements: list[dict[str, Any]]) -> list[str]:
    """Return the statements without what does not matter: order, `Sid`, one against a list of one."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in sorted(value.items())}
        if isinstance(value, list):
            return plain(value[0]) if len(value) == 1 else sorted(plain(v) for v in value)
        return made.logical(value) if isinstance(value, str) else value

    return sorted(json.dumps(plain({k: v for k, v in s.items() if k != "Sid"})) for s in statements)


def test_the_template_keeps_its_stores() -> None:
    template = load_template((ROOT / "bootstrap" / "template.yaml").read_text())
    for name in ("Store", "ImageRepository"):
        assert template["Resources"][name]["DeletionPolicy"] == "Retain"
        assert template["Resources"][name]["UpdateReplacePolicy"] == "Retain"


@pytest.mark.parametrize("name", ["bootstrap", "edge", "waf"])
def test_a_template_sent_with_the_call_fits_into_it(name: str) -> None:
    """The others are read from the bucket, where they may have 1 MB.

    https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/cloudformation-limits.html
    """
    assert (ROOT / name / "template.yaml").stat().st_size <= 51_200


BY_SAM = {
    "AWS::Serverless::Function": [
        *("Lambda::Function", "Lambda::Version", "Lambda::Alias", "Lambda::Permission"),
        *("Lambda::EventSourceMapping", "CodeDeploy::Application", "CodeDeploy::DeploymentGroup"),
    ],
    "AWS::Serverless::HttpApi": ["ApiGatewayV2::Api", "ApiGatewayV2::Stage"],
}
STACK_TEMPLATES = [
    ROOT / "template.yaml",
    *(
        path
        for each in ("fargate", "lambda", "monitoring", "edge", "waf")
        for path in sorted((ROOT / each).glob("*.yaml"))
    ),
]
READS = re.compile(r"[\w-]+:(BatchGet|Describe|Get|List|GET)")

# What a handler may call for something that our templates do not have.
UNUSED = {
    "vpc endpoints of other kinds": ("vpc-lattice:*", "vpce:*"),
    "gateways to other networks": ("ec2:*VpnGateway*",),
    "logs to other places": ("firehose:*", "s3:REST.PUT.OBJECT", "autoscaling:DescribeTags"),
    "functions of archives and file systems": ("s3:GetObjectVersion", "elasticfilesystem:*", "s3files:*"),
    "mutual TLS and users of Cognito": ("cognito-idp:*",),
    "web ACLs of other services": (
        *("amplify:*", "apprunner:*", "appsync:*", "bedrock-agentcore:*", "ec2:*VerifiedAccess*"),
        *("iam:DescribeOrganization", "payments:*"),
    ),
    "users and groups": ("iam:*GroupPolicy", "iam:*UserPolicy"),
    "boundaries taken away, which is denied": ("iam:DeleteRolePermissionsBoundary",),
    "keys turned off": ("kms:DisableKey",),
    "tables imported, replicated, streamed to Kinesis": (
        *("dynamodb:*Item", "dynamodb:*TableReplica", "dynamodb:DescribeImport", "dynamodb:Query"),
        *("dynamodb:Scan", "dynamodb:BatchWriteItem", "kinesis:*", "s3:GetObjectMetadata"),
    ),
    "buckets with ACLs and tables": ("s3:PutObjectAcl", "s3:DeleteObject", "s3tables:*"),
    "buses that other accounts use": ("events:PutPermission", "events:RemovePermission"),
}
# What a type takes beyond its handlers, as AWS documents it.
BESIDES = {
    # https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-logging.html
    "AWS::ApiGatewayV2::Stage": [
        *(
            "logs:CreateLogDelivery",
            "logs:GetLogDelivery",
            "logs:UpdateLogDelivery",
            "logs:DeleteLogDelivery",
        ),
        *("logs:ListLogDeliveries", "logs:PutResourcePolicy", "logs:DescribeResourcePolicies"),
        "logs:DescribeLogGroups",
    ],
    "AWS::CloudFormation::CustomResource": ["lambda:InvokeFunction"],
}
# Types that have a name, made from the stack's unless the template gives one: the rights on them end there.
NAMED = {
    "CloudFormation::CustomResource": "lambda:{here}:function:orders-dev-custom-resources",
    "CloudFront::Function": "cloudfront::{account}:function/orders-dev-edge-us-east-1-index",
    "CodeDeploy::Application": "codedeploy:{here}:application:orders-dev-LambdaStack-1-Application-1",
    "CodeDeploy::DeploymentGroup": "codedeploy:{here}:deploymentgroup:orders-dev-App-1/orders-dev-Group-1",
    "CloudFormation::Stack": "cloudformation:{here}:stack/orders-dev-FargateStack-1/1a2b",
    "DynamoDB::Table": "dynamodb:{here}:table/orders-dev-OrdersTable-1",
    "Events::Archive": "events:{here}:archive/orders-dev-1a2b3c4d",
    "Events::EventBus": "events:{here}:event-bus/orders-dev-1a2b3c4d",
    "Events::Rule": "events:{here}:rule/orders-dev-1a2b3c4d/orders-dev-ReceiptsConsumer-1-Rule-1",
    "IAM::ManagedPolicy": "iam::{account}:policy/orders-dev-AppPolicy-1",
    "IAM::Role": "iam::{account}:role/orders-dev-LambdaStack-1-ApiFunctionRole-1",
    "KMS::Alias": "kms:{here}:alias/orders-dev",
    "Lambda::Alias": "lambda:{here}:function:orders-dev-api:live",
    "Lambda::Function": "lambda:{here}:function:orders-dev-api",
    "Lambda::Permission": "lambda:{here}:function:orders-dev-api:live",
    "Lambda::Version": "lambda:{here}:function:orders-dev-api:1",
    "Logs::LogGroup": "logs:{here}:log-group:/aws/vendedlogs/orders-dev/api-gateway",
    "Logs::MetricFilter": "logs:{here}:log-group:/orders-dev/api",
    "S3::Bucket": "s3:::orders-dev-documentsbucket-1",
    "S3::BucketPolicy": "s3:::orders-dev-documentsbucket-1",
    "SNS::Subscription": "sns:{here}:orders-dev-MonitoringStack-1-AlarmTopic-1",
    "SNS::Topic": "sns:{here}:orders-dev-MonitoringStack-1-AlarmTopic-1",
    "SNS::TopicPolicy": "sns:{here}:orders-dev-MonitoringStack-1-AlarmTopic-1",
    "SQS::Queue": "sqs:{here}:orders-dev-receipts-1a2b3c4d",
    "SQS::QueuePolicy": "sqs:{here}:orders-dev-receipts-1a2b3c4d",
    "SecretsManager::Secret": "secretsmanager:{here}:secret:OriginSecret-1a2b",
}
# Calls to these services that know no resource, so that a right on names is none.
# https://docs.aws.amazon.com/service-authorization/latest/reference/
NAMELESS = re.compile(
    r"events:(Put|Remove)Permission|lambda:CreateEventSourceMapping|logs:\w*(LogDeliver|QueryDefinition|ResourcePolic)\w*|logs:DescribeLogGroups"
    r"|secretsmanager:GetRandomPassword"
)
# Roles that a type hands to its service, and those of AWS's own that it may make.
HANDED = {
    "AWS::CodeDeploy::DeploymentGroup": "codedeploy.amazonaws.com",
    "AWS::EC2::FlowLog": "vpc-flow-logs.amazonaws.com",
    "AWS::ECS::TaskDefinition": "ecs-tasks.amazonaws.com",
    "AWS::Lambda::Function": "lambda.amazonaws.com",
}
SERVICE_LINKED = {
    "AWS::ApiGatewayV2::DomainName": "ops.apigateway.amazonaws.com",
    "AWS::ApplicationAutoScaling::ScalableTarget": "ecs.application-autoscaling.amazonaws.com",
    "AWS::ECS::Cluster": "ecs.amazonaws.com",
    "AWS::ElasticLoadBalancingV2::LoadBalancer": "elasticloadbalancing.amazonaws.com",
    "AWS::WAFv2::LoggingConfiguration": "wafv2.amazonaws.com",
}


def _types(templates: list[Path]) -> set[str]:
    found: set[str] = set()
    for path in templates:
        for resource in load_template(path.read_text())["Resources"].values():
            kind = (
                "AWS::CloudFormation::CustomResource"
                if resource["Type"].startswith("Custom::")
                else resource["Type"]
            )
            found |= {f"AWS::{each}" for each in BY_SAM[kind]} if kind in BY_SAM else {kind}
    return found


HANDLERS = ("create", "read", "update", "delete")


def _calls(kind: str, *handlers: str) -> set[str]:
    """Return what a type's handlers call, as AWS publishes it with the type (cfn-lint carries a copy)."""
    if kind == "AWS::CloudFormation::CustomResource":  # its handler is our function
        return set()
    schema = PROVIDER_SCHEMA_MANAGER.get_resource_schema(REGION, kind).schema
    found = {call for each in handlers for call in schema["handlers"].get(each, {}).get("permissions", [])}
    return found - {"iam:PassRole", "iam:CreateServiceLinkedRole"}  # HANDED, SERVICE_LINKED


def _used(calls: set[str]) -> set[str]:
    unused = [pattern for patterns in UNUSED.values() for pattern in patterns]
    return {call for call in calls if not any(like(pattern, call) for pattern in unused)}


def _rejected(made: Bootstrap, kind: str) -> set[str]:
    """Return the calls for a type that the execution role may not make."""
    calls = _calls(kind, *HANDLERS) | set(BESIDES.get(kind, []))
    assert calls, f"{kind}: say in BESIDES what it takes"
    return calls - _permitted(made, "execution", kind, calls)


def _permitted(made: Bootstrap, role: str, kind: str, calls: set[str]) -> set[str]:
    """Return the calls for a type of the stage that a role may make."""
    context: dict[str, Any] = {
        "aws:RequestedRegion": REGION,
        "iam:PermissionsBoundary": made.boundary_arn,
        "ecs:cluster": f"arn:aws:ecs:{REGION}:{made.account}:cluster/orders-{made.stage}-FargateStack-1-C-1",
        "lambda:FunctionArn": f"arn:aws:lambda:{REGION}:{made.account}:function:orders-{made.stage}-relay",
        "events:TargetArn": [
            f"arn:aws:sqs:{REGION}:{made.account}:orders-{made.stage}-receipts-1a2b3c4d",
            f"arn:aws:logs:{REGION}:{made.account}:log-group:/aws/events/orders-{made.stage}/bus",
        ],
        "route53:ChangeResourceRecordSetsNormalizedRecordNames": STAGES[made.stage]["RecordNames"].split(","),
    }
    if kind.removeprefix("AWS::") not in WITHOUT_TAGS:
        context |= own(made.stage)
    statements = made.statements(role)
    return {
        call
        for call in calls
        if any(allowed(statements, call, resource, **context) for resource in _on(made, kind, call))
    }


def _on(made: Bootstrap, kind: str, call: str) -> list[str]:
    """Return what a call for a type is made on: it, or what else we have of the call's service."""
    if call.lower() == "s3:getobject":
        return [f"arn:aws:s3:::{made.bucket}/artifacts/0a1b/template.yaml"]
    if kind == "AWS::ApiGatewayV2::ApiMapping":
        return [f"arn:aws:apigateway:{REGION}::/domainnames/orders.example.com/apimappings/1a2b"]
    if re.match(r"route53:(Change|GetHostedZone|ListResource)", call):
        return ["arn:aws:route53:::hostedzone/Z1"]
    names = {
        each: "arn:aws:"
        + name.format(here=f"{REGION}:{made.account}", account=made.account).replace("-dev", f"-{made.stage}")
        for each, name in NAMED.items()
        if name.startswith(f"{call.partition(':')[0]}:") and not NAMELESS.match(call)
    }
    own = (
        names.get(kind.removeprefix("AWS::")) if not call.startswith("iam:") else None
    )  # roles take policies
    if own and call.startswith("kms:"):  # an alias and its key
        return [own] if call.endswith("Alias") else ["*"]
    return (
        [own]
        if own
        else [*names.values(), "*"]
        if call.startswith(PARTLY_NAMED)
        else list(names.values()) or ["*"]
    )


# Types whose tags, if they take any, IAM is not told of when it decides (the reference named at UNSCOPED).
WITHOUT_TAGS = {
    *("ApiGatewayV2::ApiMapping", "CloudFront::CachePolicy", "CloudFront::OriginAccessControl"),
    *(
        "CloudFront::ResponseHeadersPolicy",
        "KMS::Alias",
        "Logs::QueryDefinition",
        "Logs::ResourcePolicy",
        "Route53::RecordSet",
    ),
}
# Services of which some things have names and others have not.
PARTLY_NAMED = ("cloudfront:", "codedeploy:", "kms:")


class TestCoverage:
    """The bootstrap keeps up with the templates."""

    @pytest.mark.parametrize("kind", sorted(_types(STACK_TEMPLATES)))
    def test_cloudformation_may_make_read_change_and_delete_each_type(
        self, stages: dict[str, Bootstrap], kind: str
    ) -> None:
        assert _used(_rejected(stages["dev"], kind)) == set()

    def test_nothing_is_called_unused_in_vain(self, stages: dict[str, Bootstrap]) -> None:
        rejected = {call for kind in _types(STACK_TEMPLATES) for call in _rejected(stages["dev"], kind)}
        unused = [pattern for patterns in UNUSED.values() for pattern in patterns]
        assert [pattern for pattern in unused if not any(like(pattern, call) for call in rejected)] == []

    def test_roles_are_handed_and_made_for_the_services_in_use(self, stages: dict[str, Bootstrap]) -> None:
        made, used = stages["dev"], _types(STACK_TEMPLATES)
        statements = made.statements("execution")
        assert (HANDED.keys() | SERVICE_LINKED.keys()) <= used
        role = f"arn:aws:iam::{made.account}:role/orders-dev-LambdaStack-1-ApiFunctionRole-1"
        linked = f"arn:aws:iam::{made.account}:role/aws-service-role/x"
        for service in HANDED.values():
            assert allowed(statements, "iam:PassRole", role, **{"iam:PassedToService": service}), service
        for service in SERVICE_LINKED.values():
            context = {"iam:AWSServiceName": service}
            assert allowed(statements, "iam:CreateServiceLinkedRole", linked, **context), service
        assert not allowed(statements, "iam:PassRole", role, **{"iam:PassedToService": "ec2.amazonaws.com"})

    @pytest.mark.parametrize("kind", NAMED)
    def test_names_have_the_form_that_aws_gives_them(self, kind: str) -> None:
        arn = "arn:aws:" + NAMED[kind].format(here=f"{REGION}:111122223333", account="111122223333")
        assert any(is_of_format(arn, text) for text in formats(arn.split(":")[2])), arn

    def test_calls_without_a_name_take_none(self) -> None:
        calls = (call for kind in _types(STACK_TEMPLATES) for call in _calls(kind, *HANDLERS))
        nameless = {call for call in calls if NAMELESS.match(call)}
        assert nameless
        assert {call for call in nameless if taken(call)} == set()

    def test_every_wildcard_has_its_reason_beside_it(self) -> None:
        text = (ROOT / "bootstrap" / "template.yaml").read_text()
        lines = text.splitlines()
        reasons = {
            found[1]
            for before, line in pairwise(lines)
            if (found := re.match(r" +- Sid: (\w+)( # \w.*)?$", line))
            and (found[2] or before.lstrip().startswith("# "))
        }
        wide = set()
        for resource in load_template(text)["Resources"].values():
            if not resource["Type"].startswith("AWS::IAM::"):
                continue
            properties = resource["Properties"]
            documents = [each["PolicyDocument"] for each in properties.get("Policies", [])]
            documents += [properties["PolicyDocument"]] if "PolicyDocument" in properties else []
            statements = [s for document in documents for s in document["Statement"]]
            for statement in (s["Fn::If"][1] if "Fn::If" in s else s for s in statements):
                wildcards = any("*" in action for action in _list(statement["Action"]))
                if wildcards or "*" in _list(statement["Resource"]):
                    wide.add(statement["Sid"])
        assert len(wide) > 10
        assert wide - reasons == set()

    def test_every_role_is_made_inside_the_boundary(self) -> None:
        for path in STACK_TEMPLATES:
            resources = load_template(path.read_text())["Resources"]
            for name, resource in resources.items():
                if resource["Type"] == "AWS::IAM::Role":
                    boundary = resource["Properties"]["PermissionsBoundary"]
                    assert boundary["Fn::If"][0] == "HasBoundary", (path, name)
                if resource["Type"] == "AWS::Serverless::Function":  # SAM's own role would have none
                    assert resource["Properties"]["Role"] == {"Fn::GetAtt": [f"{name}Role", "Arn"]}, path
                    preference = resource["Properties"].get("DeploymentPreference")
                    assert preference is None or preference["Role"], (path, name)

    def test_what_the_roles_ask_for_lies_inside_the_boundary(
        self, stages: dict[str, Bootstrap], aws: Emulator
    ) -> None:
        """As deployed: every statement of every role, its own resources held against the boundary's."""
        iam, made = client(aws.endpoint, "000000000000", "iam"), stages["dev"]
        boundary = json.dumps(made.managed(made.boundary_arn)["Statement"])
        fence = json.loads(
            boundary.replace(made.account, "000000000000").replace("orders-dev", "orders-local")
        )
        roles = [
            r["RoleName"] for r in iam.list_roles()["Roles"] if r["RoleName"].startswith("orders-local-")
        ]
        assert len(roles) >= 4
        for role in roles:
            for statement in [each for each in statements_of(iam, role) if each["Effect"] == "Allow"]:
                for action in _list(statement["Action"]):
                    for resource in _list(statement["Resource"]):
                        assert allowed(fence, action, resource, **own("dev")), (
                            f"{role}: {action} on {resource}"
                        )

    def test_what_fargate_roles_ask_for_lies_inside_the_boundary(self, stages: dict[str, Bootstrap]) -> None:
        made = stages["dev"]
        fence = made.managed(made.boundary_arn)["Statement"]
        patterns = [p for s in fence for p in _list(s["Action"])]
        asked = set()
        for path in STACK_TEMPLATES[1:]:
            for resource in load_template(path.read_text())["Resources"].values():
                for policy in resource.get("Properties", {}).get("Policies", []):
                    for statement in policy["PolicyDocument"]["Statement"]:
                        granted = statement["Fn::If"][1] if "Fn::If" in statement else statement
                        asked |= set(_list(granted["Action"]))
        assert asked
        assert {a for a in asked if not any(like(p, a) for p in patterns)} == set()


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
