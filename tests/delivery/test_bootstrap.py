"""Who may become which role, and what each role may and may not do.

The policies are read back from the local AWS after CloudFormation and Terraform made them, and judged by
`tests/delivery/iam.py`; the emulator, which enforces
trust conditions itself, judges the tokens a second time.
"""

from __future__ import annotations

import json
import re
import subprocess
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from cfnlint.decode import cfn_yaml
from cfnlint.schema.manager import PROVIDER_SCHEMA_MANAGER
from localcloud.embedded import EmbeddedAws
from scripts.delivery.stack import NOT_COMPARED, load_template
from tests.delivery.conftest import AUDIENCE, ROOT, Bootstrap, client, token
from tests.delivery.iam import allowed, like, trusts

pytestmark = pytest.mark.xdist_group("bootstrap")  # one emulator and one Terraform run for all of it

REGION = "us-east-1"
# What GitHub puts into the token of a job, and the roles it may have.
SUBJECTS = {
    "repo:acme/orders:ref:refs/heads/main": {"dev", "drift"},
    "repo:acme/orders:environment:prod": {"prod"},
    "repo:acme/orders:environment:preview": {"pull-request"},
    # another repository, also one whose name begins or ends alike
    "repo:evil/orders:ref:refs/heads/main": set(),
    "repo:acme/orders-fork:environment:prod": set(),
    "repo:xacme/orders:environment:prod": set(),
    # a pull request: from a fork GitHub gives no token at all, and this is what one would say
    "repo:acme/orders:pull_request": set(),
    "repo:mallory/orders:pull_request": set(),
    # another branch, a tag, another environment, another case
    "repo:acme/orders:ref:refs/heads/feature": set(),
    "repo:acme/orders:ref:refs/heads/main2": set(),
    "repo:acme/orders:ref:refs/tags/main": set(),
    "repo:acme/orders:environment:staging": set(),
    "repo:acme/orders:environment:PROD": set(),
    "": set(),
}
STAGES, PULL_REQUESTS = ["dev", "drift", "prod"], ["pull-request"]
ROLES = [*STAGES, *PULL_REQUESTS]


def _becomes(bootstrap: Bootstrap, role: str, subject: str) -> bool:
    try:
        bootstrap.client("sts").assume_role_with_web_identity(
            RoleArn=bootstrap.arn(role), RoleSessionName="job", WebIdentityToken=token(subject)
        )
    except ClientError as error:
        if error.response["Error"]["Code"] != "AccessDenied":
            raise
        return False
    return True


class TestTrust:
    def test_an_account_that_takes_pull_requests_has_no_role_for_dev_and_prod(
        self, stages: Bootstrap, previews: Bootstrap
    ) -> None:
        assert stages.roles == STAGES
        assert previews.roles == PULL_REQUESTS

    @pytest.mark.parametrize("subject", SUBJECTS)
    def test_a_token_becomes_its_roles_and_no_other(self, bootstrap: Bootstrap, subject: str) -> None:
        claims = {"aud": AUDIENCE, "sub": subject}
        may = {r for r in bootstrap.roles if trusts(bootstrap.trust(r), claims)}
        assert may == SUBJECTS[subject] & set(bootstrap.roles)

    def test_another_audience_is_refused(self, bootstrap: Bootstrap) -> None:
        for environment in ("prod", "preview"):
            claims = {"aud": "https://github.com/acme", "sub": f"repo:acme/orders:environment:{environment}"}
            assert not [r for r in bootstrap.roles if trusts(bootstrap.trust(r), claims)]

    @pytest.mark.parametrize("subject", [s for s in SUBJECTS if s])
    def test_the_local_aws_agrees(self, bootstrap: Bootstrap, subject: str) -> None:
        may = {r for r in bootstrap.roles if _becomes(bootstrap, r, subject)}
        assert may == SUBJECTS[subject] & set(bootstrap.roles)

    def test_only_cloudformation_is_the_execution_role(self, bootstrap: Bootstrap) -> None:
        (statement,) = bootstrap.trust("execution")["Statement"]
        assert statement["Principal"] == {"Service": "cloudformation.amazonaws.com"}


def _stack(bootstrap: Bootstrap, name: str) -> str:
    return f"arn:aws:cloudformation:{REGION}:{bootstrap.account}:stack/{name}/0a1b"


class TestJobs:
    """The four roles that GitHub's jobs have."""

    # role -> stacks that it may change
    STACKS = {
        "dev": ["orders-dev", "orders-dev-FargateStack-1A2B", "orders-dev-edge"],
        "prod": ["orders-prod", "orders-prod-FargateStack-1A2B", "orders-prod-edge"],
        "pull-request": ["orders-preview12", "orders-preview12-FargateStack-1A2B"],
        "drift": [],
    }
    EVERY_STACK = [
        *("orders-dev", "orders-dev-FargateStack-1A2B", "orders-dev-edge"),
        *("orders-prod", "orders-prod-FargateStack-1A2B", "orders-prod-edge"),
        *("orders-preview12", "orders-preview12-FargateStack-1A2B", "orders-bootstrap", "billing-dev"),
    ]

    def test_changes_its_own_stacks_only(self, bootstrap: Bootstrap) -> None:
        for role in bootstrap.roles:
            statements = bootstrap.statements(role)
            may = [
                stack
                for stack in self.EVERY_STACK
                if allowed(statements, "cloudformation:ExecuteChangeSet", _stack(bootstrap, stack))
            ]
            assert may == self.STACKS[role], role

    def test_prod_can_be_deleted_by_no_job(self, bootstrap: Bootstrap) -> None:
        named = [stack for stack in self.EVERY_STACK if "Fargate" not in stack]
        deletes = {"dev": ["orders-dev", "orders-dev-edge"], "pull-request": ["orders-preview12"]}
        for role in bootstrap.roles:
            statements = bootstrap.statements(role)
            may = [
                s for s in named if allowed(statements, "cloudformation:DeleteStack", _stack(bootstrap, s))
            ]
            assert may == deletes.get(role, []), role

    def test_prod_data_can_be_touched_by_no_job(self, bootstrap: Bootstrap) -> None:
        account = bootstrap.account
        data = {
            f"arn:aws:dynamodb:{REGION}:{account}:table/orders-prod-OrdersTable-1": ["Scan", "DeleteTable"],
            f"arn:aws:events:{REGION}:{account}:archive/orders-prod-1a2b3c4d": ["DeleteArchive"],
            "arn:aws:s3:::orders-prod-documentsbucket-1": ["DeleteBucket", "ListBucketVersions"],
            "arn:aws:s3:::orders-prod-documentsbucket-1/receipts/1": ["DeleteObjectVersion", "GetObject"],
        }
        for role in bootstrap.roles:
            for resource, actions in data.items():
                for action in actions:
                    call = f"{resource.split(':')[2]}:{action}"
                    assert not allowed(bootstrap.statements(role), call, resource), (role, call)

    def test_keys_are_removed_of_its_own_stage_only(self, bootstrap: Bootstrap) -> None:
        key = f"arn:aws:kms:{REGION}:{bootstrap.account}:key/1"
        own = {"dev": "orders-dev", "pull-request": "orders-preview7"}
        for role in bootstrap.roles:
            for stack in ("orders-dev", "orders-preview7", "orders-prod"):
                tag = {"aws:ResourceTag/orders-stack": stack}
                may = allowed(bootstrap.statements(role), "kms:ScheduleKeyDeletion", key, **tag)
                assert may == (stack == own.get(role)), (role, stack)
            assert not allowed(bootstrap.statements(role), "kms:ScheduleKeyDeletion", key)

    def test_prod_lets_its_own_load_balancer_go(self, stages: Bootstrap) -> None:
        arn = f"arn:aws:elasticloadbalancing:{REGION}:{stages.account}:loadbalancer/app/orders-LoadB-1/1a2b"
        action = "elasticloadbalancing:ModifyLoadBalancerAttributes"
        own, other = ({"aws:ResourceTag/orders-stack": f"orders-{stage}"} for stage in ("prod", "dev"))
        assert allowed(stages.statements("prod"), action, arn, **own)
        assert not allowed(stages.statements("prod"), action, arn, **other)
        assert not allowed(stages.statements("prod"), "elasticloadbalancing:DeleteLoadBalancer", arn, **own)

    def test_an_edge_belongs_to_its_stage(self, stages: Bootstrap) -> None:
        for stage, role in product(("dev", "prod"), stages.roles):
            statements, own = stages.statements(role), role == stage
            web_acl = f"arn:aws:cloudformation:us-east-1:{stages.account}:stack/orders-{stage}-waf/0a1b"
            assert allowed(statements, "cloudformation:ExecuteChangeSet", web_acl) is own, (stage, role)
            console, logs = (
                f"arn:aws:s3:::orders-{stage}-edge-{b}bucket-1/console/a" for b in ("console", "logs")
            )
            assert allowed(statements, "s3:PutObject", console) is own, (stage, role)
            assert not allowed(statements, "s3:PutObject", logs), (stage, role)
            distribution = f"arn:aws:cloudfront::{stages.account}:distribution/E1A2B"
            tag = {"aws:ResourceTag/orders-stack": f"orders-{stage}"}
            refresh = "cloudfront:CreateInvalidation"
            assert allowed(statements, refresh, distribution, **tag) is own, (stage, role)
            assert not allowed(statements, refresh, distribution), (stage, role)

    @pytest.mark.parametrize(
        ("path", "writers"),
        [
            ("artifacts/0a1b/template.yaml", {"dev"}),
            ("previews/0a1b/template.yaml", {"pull-request"}),
            ("deployments/orders-dev/1.json", {"dev"}),
            ("deployments/orders-prod/1.json", {"prod"}),
            ("deployments/orders-preview12/1.json", {"pull-request"}),
        ],
    )
    def test_artefacts_and_history_have_their_writers(
        self, bootstrap: Bootstrap, path: str, writers: set[str]
    ) -> None:
        resource = f"arn:aws:s3:::{bootstrap.bucket}/{path}"
        may = {r for r in bootstrap.roles if allowed(bootstrap.statements(r), "s3:PutObject", resource)}
        assert may == writers & set(bootstrap.roles)

    def test_prod_pushes_no_image(self, bootstrap: Bootstrap) -> None:
        pushers = {
            r
            for r in bootstrap.roles
            if allowed(bootstrap.statements(r), "ecr:PutImage", bootstrap.repository_arn)
        }
        assert pushers == {"dev", "pull-request"} & set(bootstrap.roles)

    def test_passes_the_execution_role_to_cloudformation_only(self, bootstrap: Bootstrap) -> None:
        for role in bootstrap.roles:
            statements = bootstrap.statements(role)

            def may(arn: str, service: str, statements: Any = statements) -> bool:
                return allowed(statements, "iam:PassRole", arn, **{"iam:PassedToService": service})

            deploys = role != "drift"
            assert may(bootstrap.execution_arn, "cloudformation.amazonaws.com") == deploys
            assert not may(bootstrap.execution_arn, "lambda.amazonaws.com")
            assert not may(f"arn:aws:iam::{bootstrap.account}:role/Admin", "cloudformation.amazonaws.com")

    def test_holds_no_right_beyond_delivery(self, bootstrap: Bootstrap) -> None:
        for role in bootstrap.roles:
            statements = bootstrap.statements(role)
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
                assert not allowed(statements, action, "*"), action
                assert not allowed(
                    statements, action, f"arn:aws:iam::{bootstrap.account}:role/orders-dev-x"
                ), action

    def test_the_clean_up_may_look_for_stacks(self, bootstrap: Bootstrap) -> None:
        may = [
            r for r in bootstrap.roles if allowed(bootstrap.statements(r), "cloudformation:ListStacks", "*")
        ]
        assert may == [r for r in bootstrap.roles if r == "pull-request"]

    def test_drift_reads_all_that_cloudformation_compares(self, stages: Bootstrap) -> None:
        statements = stages.statements("drift")
        compared = _types(STACK_TEMPLATES) - {NOT_COMPARED}
        calls = {call for kind in compared for call in _calls(kind, "read")}
        reading = {c for c in _used(calls) if READS.match(c) and not c.startswith("cloudformation:")}
        assert len(reading) > 50
        assert {call for call in reading if not allowed(statements, call, "*")} == set()
        # https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/detect-drift-stack.html
        for call in ("BatchDescribeTypeConfigurations", "DescribeStackDriftDetectionStatus"):
            assert allowed(statements, f"cloudformation:{call}", "*"), call
        for call in ("DetectStackDrift", "DetectStackResourceDrift", "DescribeStackResourceDrifts"):
            for stack in ("orders-prod", "orders-dev-FargateStack-1A2B", "orders-dev-edge"):
                assert allowed(statements, f"cloudformation:{call}", _stack(stages, stack)), call
            web_acl = f"arn:aws:cloudformation:us-east-1:{stages.account}:stack/orders-prod-waf/0a1b"
            assert allowed(statements, f"cloudformation:{call}", web_acl), call
        assert not [s for s in statements if any(word in str(s["Action"]) for word in ("Put", "Delete"))]


class TestExecutionRole:
    """What CloudFormation may do for the stacks."""

    def test_roles_are_made_inside_the_boundary_only(self, bootstrap: Bootstrap) -> None:
        statements = bootstrap.statements("execution")
        role = f"arn:aws:iam::{bootstrap.account}:role/orders-dev-ApiFunctionRole-1"
        inside = {"iam:PermissionsBoundary": bootstrap.boundary_arn}
        other = {"iam:PermissionsBoundary": f"arn:aws:iam::{bootstrap.account}:policy/Everything"}
        for action in ("CreateRole", "PutRolePolicy", "AttachRolePolicy", "PutRolePermissionsBoundary"):
            assert allowed(statements, f"iam:{action}", role, **inside), action
            assert not allowed(statements, f"iam:{action}", role), action
            assert not allowed(statements, f"iam:{action}", role, **other), action
        assert not allowed(statements, "iam:DeleteRolePermissionsBoundary", role)

    def test_its_own_fence_is_out_of_reach(self, bootstrap: Bootstrap) -> None:
        statements = bootstrap.statements("execution")
        inside = {"iam:PermissionsBoundary": bootstrap.boundary_arn}
        for arn in (bootstrap.execution_arn, *bootstrap.role_arns.values()):
            for action in ("PutRolePolicy", "UpdateAssumeRolePolicy", "DeleteRole", "PassRole"):
                assert not allowed(statements, f"iam:{action}", arn, **inside), (action, arn)
        for action in ("CreatePolicyVersion", "SetDefaultPolicyVersion", "DeletePolicy"):
            assert not allowed(statements, f"iam:{action}", bootstrap.boundary_arn), action
        bucket = f"arn:aws:s3:::{bootstrap.bucket}"
        assert not allowed(statements, "s3:PutBucketPolicy", bucket)
        assert not allowed(statements, "s3:DeleteBucket", bucket)
        assert allowed(statements, "s3:GetObject", f"{bucket}/artifacts/0a1b/template.yaml")

    def test_nothing_outside_its_names_region_and_services(self, bootstrap: Bootstrap) -> None:
        statements = bootstrap.statements("execution")
        account = bootstrap.account
        for action, resource in (
            ("dynamodb:DeleteTable", f"arn:aws:dynamodb:{REGION}:{account}:table/billing"),
            ("dynamodb:GetItem", f"arn:aws:dynamodb:{REGION}:{account}:table/orders-dev-OrdersTable-1"),
            ("s3:GetObject", "arn:aws:s3:::orders-dev-documentsbucket-1/receipts/1"),
            ("s3:DeleteBucket", "arn:aws:s3:::billing"),
            ("lambda:DeleteFunction", f"arn:aws:lambda:{REGION}:{account}:function:billing"),
            ("iam:CreateUser", f"arn:aws:iam::{account}:user/x"),
            ("iam:DeleteRole", f"arn:aws:iam::{account}:role/Admin"),
            ("iam:CreateAccessKey", f"arn:aws:iam::{account}:user/x"),
            ("ec2:RunInstances", "*"),
            ("ecr:PutImage", bootstrap.repository_arn),
            ("organizations:LeaveOrganization", "*"),
        ):
            assert not allowed(statements, action, resource), action
        # The web ACL of an edge logs where it stands, whatever the region of the rest.
        (logs,) = [s["Resource"] for s in statements if "logs:*" in s["Action"]]
        assert f"arn:aws:logs:us-east-1:{account}:log-group:aws-waf-logs-orders-*" in logs
        inside, outside = {"aws:RequestedRegion": REGION}, {"aws:RequestedRegion": "eu-north-1"}
        assert allowed(statements, "ecs:CreateCluster", "*", **inside)
        assert not allowed(statements, "ecs:CreateCluster", "*", **outside)


class TestBoundary:
    def test_no_workload_touches_roles_stacks_or_others_data(self, bootstrap: Bootstrap) -> None:
        statements = bootstrap.managed(bootstrap.boundary_arn)["Statement"]
        account = bootstrap.account
        assert allowed(
            statements, "dynamodb:PutItem", f"arn:aws:dynamodb:{REGION}:{account}:table/orders-dev-T-1"
        )
        for action, resource in (
            ("dynamodb:PutItem", f"arn:aws:dynamodb:{REGION}:{account}:table/billing"),
            ("dynamodb:DeleteTable", f"arn:aws:dynamodb:{REGION}:{account}:table/orders-dev-T-1"),
            ("dynamodb:Scan", f"arn:aws:dynamodb:{REGION}:{account}:table/orders-dev-T-1"),
            ("s3:GetObject", "arn:aws:s3:::billing/1"),
            ("iam:PassRole", f"arn:aws:iam::{account}:role/orders-dev-x"),
            ("sts:AssumeRole", f"arn:aws:iam::{account}:role/orders-dev-x"),
            ("cloudformation:UpdateStack", _stack(bootstrap, "orders-dev")),
            ("kms:ScheduleKeyDeletion", f"arn:aws:kms:{REGION}:{account}:key/1"),
        ):
            assert not allowed(statements, action, resource), action


# https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html, "character limits"
INLINE_CHARACTERS, MANAGED_CHARACTERS, TRUST_CHARACTERS = 10_240, 6_144, 2_048


class TestBothWays:
    def test_policies_fit_into_iam(self, bootstrap: Bootstrap) -> None:
        for role in ("execution", *bootstrap.roles):
            inline = bootstrap.client("iam").get_role_policy(
                RoleName=bootstrap.arn(role).rsplit("/", 1)[1], PolicyName="Stacks"
            )["PolicyDocument"]
            assert _size(inline) < INLINE_CHARACTERS
            assert _size(bootstrap.trust(role)) < TRUST_CHARACTERS

    def test_boundary_fits_into_iam(self, bootstrap: Bootstrap) -> None:
        assert _size(bootstrap.managed(bootstrap.boundary_arn)) < MANAGED_CHARACTERS

    @pytest.mark.parametrize("role", ["execution", *ROLES])
    def test_terraform_says_what_the_template_says(
        self, by_cloudformation: dict[str, Bootstrap], by_terraform: dict[str, Bootstrap], role: str
    ) -> None:
        kind = "pull requests" if role in PULL_REQUESTS else "stages"
        first, second = by_cloudformation[kind], by_terraform[kind]
        assert _meaning(first, first.statements(role)) == _meaning(second, second.statements(role))
        assert _meaning(first, first.trust(role)["Statement"]) == _meaning(
            second, second.trust(role)["Statement"]
        )

    def test_terraform_has_the_same_boundary_and_stores(
        self, by_cloudformation: dict[str, Bootstrap], by_terraform: dict[str, Bootstrap]
    ) -> None:
        meanings, stores = [], []
        for made in (by_cloudformation["stages"], by_terraform["stages"]):
            meanings.append(_meaning(made, made.managed(made.boundary_arn)["Statement"]))
            ecr, name = made.client("ecr"), made.repository_arn.rsplit("/", 1)[1]
            repository = ecr.describe_repositories(repositoryNames=[name])["repositories"][0]
            lifecycle = json.loads(ecr.get_lifecycle_policy(repositoryName=name)["lifecyclePolicyText"])
            stores.append(
                (
                    repository["imageTagMutability"],
                    repository["imageScanningConfiguration"],
                    lifecycle,
                    made.client("s3").get_public_access_block(Bucket=made.bucket)[
                        "PublicAccessBlockConfiguration"
                    ],
                    json.loads(
                        made.logical(made.client("s3").get_bucket_policy(Bucket=made.bucket)["Policy"])
                    ),
                )
            )
        assert meanings[0] == meanings[1]
        assert stores[0] == stores[1]
        assert stores[0][0] == "IMMUTABLE"
        assert stores[0][1] == {"scanOnPush": True}

    def test_terraform_plans_everything(self, terraform_plan: subprocess.CompletedProcess[str]) -> None:
        assert terraform_plan.returncode == 0, terraform_plan.stderr
        for resource in ("aws_s3_bucket_lifecycle_configuration.artifacts", "aws_iam_role.execution"):
            assert f"# {resource} will be created" in terraform_plan.stdout
        assert "0 to change, 0 to destroy" in terraform_plan.stdout
        assert '"orders-bootstrap-prod"' in terraform_plan.stdout
        assert "pull-request" not in terraform_plan.stdout, "no environment given, so no such role"

    def test_terraform_is_formatted(self, terraform_format: subprocess.CompletedProcess[str]) -> None:
        assert terraform_format.returncode == 0, terraform_format.stdout


def _size(document: dict[str, Any]) -> int:
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


def test_the_template_keeps_its_artefacts() -> None:
    template = cfn_yaml.load(str(ROOT / "bootstrap" / "template.yaml"))
    for name in ("ArtifactBucket", "ImageRepository"):
        assert template["Resources"][name]["DeletionPolicy"] == "Retain"
        assert template["Resources"][name]["UpdateReplacePolicy"] == "Retain"


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
        for each in ("fargate", "monitoring", "edge", "waf")
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
    "CloudFormation::CustomResource": "lambda:{here}:function:orders-dev-ImageVersionFunction-1",
    "CloudFormation::Stack": "cloudformation:{here}:stack/orders-dev-FargateStack-1/1a2b",
    "DynamoDB::Table": "dynamodb:{here}:table/orders-dev-OrdersTable-1",
    "Events::Archive": "events:{here}:archive/orders-dev-1a2b3c4d",
    "Events::EventBus": "events:{here}:event-bus/orders-dev-1a2b3c4d",
    "Events::Rule": "events:{here}:rule/orders-dev-1a2b3c4d/orders-dev-ReceiptsRule-1",
    "IAM::ManagedPolicy": "iam::{account}:policy/orders-dev-AppPolicy-1",
    "IAM::Role": "iam::{account}:role/orders-dev-ApiFunctionRole-1",
    "Lambda::Alias": "lambda:{here}:function:orders-dev-ApiFunction-1:live",
    "Lambda::Function": "lambda:{here}:function:orders-dev-ApiFunction-1",
    "Lambda::Permission": "lambda:{here}:function:orders-dev-ApiFunction-1:live",
    "Lambda::Version": "lambda:{here}:function:orders-dev-ApiFunction-1:1",
    "Logs::LogGroup": "logs:{here}:log-group:/aws/vendedlogs/orders-dev/http-api",
    "Logs::MetricFilter": "logs:{here}:log-group:/orders-dev/api",
    "S3::Bucket": "s3:::orders-dev-documentsbucket-1",
    "S3::BucketPolicy": "s3:::orders-dev-documentsbucket-1",
    "SNS::Subscription": "sns:{here}:orders-dev-MonitoringStack-1-AlarmTopic-1",
    "SNS::Topic": "sns:{here}:orders-dev-MonitoringStack-1-AlarmTopic-1",
    "SNS::TopicPolicy": "sns:{here}:orders-dev-MonitoringStack-1-AlarmTopic-1",
    "SQS::Queue": "sqs:{here}:orders-dev-ReceiptsQueue-1",
    "SQS::QueuePolicy": "sqs:{here}:orders-dev-ReceiptsQueue-1",
    "SecretsManager::Secret": "secretsmanager:{here}:secret:OriginSecret-1a2b",
}
# Calls to these services that know no resource, so that a right on names is none.
# https://docs.aws.amazon.com/service-authorization/latest/reference/
NAMELESS = re.compile(
    r"events:(Put|Remove)Permission|lambda:CreateEventSourceMapping|logs:\w*(LogDeliver|QueryDefinition|ResourcePolic)\w*|logs:DescribeLogGroups"
    r"|secretsmanager:GetRandomPassword|sns:(GetSubscriptionAttributes|SetSubscriptionAttributes|Unsubscribe)"
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


def _refused(made: Bootstrap, kind: str) -> set[str]:
    """Return the calls for a type that the execution role may not make."""
    calls = _calls(kind, "create", "read", "update", "delete") | set(BESIDES.get(kind, []))
    assert calls, f"{kind}: say in BESIDES what it takes"
    context = {"aws:RequestedRegion": REGION, "iam:PermissionsBoundary": made.boundary_arn}
    statements = made.statements("execution")

    def may(call: str) -> bool:
        return any(allowed(statements, call, resource, **context) for resource in _on(made, kind, call))

    return {call for call in calls if not may(call)}


def _on(made: Bootstrap, kind: str, call: str) -> list[str]:
    """Return what a call for a type is made on: it, or what else we have of the call's service."""
    if call.lower() == "s3:getobject":
        return [f"arn:aws:s3:::{made.bucket}/artifacts/0a1b/template.yaml"]
    names = {
        each: "arn:aws:" + name.format(here=f"{REGION}:{made.account}", account=made.account)
        for each, name in NAMED.items()
        if name.startswith(f"{call.partition(':')[0]}:") and not NAMELESS.match(call)
    }
    own = (
        names.get(kind.removeprefix("AWS::")) if not call.startswith("iam:") else None
    )  # roles take policies
    return [own] if own else list(names.values()) or ["*"]


class TestCoverage:
    """The bootstrap keeps up with the templates."""

    @pytest.mark.parametrize("kind", sorted(_types(STACK_TEMPLATES)))
    def test_cloudformation_may_make_read_change_and_delete_each_type(
        self, by_cloudformation: dict[str, Bootstrap], kind: str
    ) -> None:
        assert _used(_refused(by_cloudformation["stages"], kind)) == set()

    def test_nothing_is_called_unused_in_vain(self, by_cloudformation: dict[str, Bootstrap]) -> None:
        refused = {
            call for kind in _types(STACK_TEMPLATES) for call in _refused(by_cloudformation["stages"], kind)
        }
        unused = [pattern for patterns in UNUSED.values() for pattern in patterns]
        assert [pattern for pattern in unused if not any(like(pattern, call) for call in refused)] == []

    def test_roles_are_handed_and_made_for_the_services_in_use(
        self, by_cloudformation: dict[str, Bootstrap]
    ) -> None:
        made, used = by_cloudformation["stages"], _types(STACK_TEMPLATES)
        statements = made.statements("execution")
        assert (HANDED.keys() | SERVICE_LINKED.keys()) <= used
        role = f"arn:aws:iam::{made.account}:role/orders-dev-ApiFunctionRole-1"
        linked = f"arn:aws:iam::{made.account}:role/aws-service-role/x"
        for service in HANDED.values():
            assert allowed(statements, "iam:PassRole", role, **{"iam:PassedToService": service}), service
        for service in SERVICE_LINKED.values():
            context = {"iam:AWSServiceName": service}
            assert allowed(statements, "iam:CreateServiceLinkedRole", linked, **context), service
        assert not allowed(statements, "iam:PassRole", role, **{"iam:PassedToService": "ec2.amazonaws.com"})

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
            for statement in (s for document in documents for s in document["Statement"]):
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
                    assert resource["Properties"]["PermissionsBoundary"][0] == "HasBoundary", (path, name)
                if resource["Type"] == "AWS::Serverless::Function":  # SAM's own role would have none
                    assert resource["Properties"]["Role"], (path, name)
                    preference = resource["Properties"].get("DeploymentPreference")
                    assert preference is None or preference["Role"], (path, name)

    def test_what_the_roles_ask_for_lies_inside_the_boundary(
        self, by_cloudformation: dict[str, Bootstrap], aws: EmbeddedAws
    ) -> None:
        """As deployed: every statement of every role, its own resources held against the boundary's."""
        iam, made = client(aws.endpoint, "000000000000", "iam"), by_cloudformation["stages"]
        boundary = json.dumps(made.managed(made.boundary_arn)["Statement"])
        fence = json.loads(boundary.replace(made.account, "000000000000"))
        roles = [
            r["RoleName"] for r in iam.list_roles()["Roles"] if r["RoleName"].startswith("orders-local-")
        ]
        assert len(roles) >= 4
        for role in roles:
            for statement in _statements(iam, role):
                for action in _list(statement["Action"]):
                    for resource in _list(statement["Resource"]):
                        assert allowed(fence, action, resource), f"{role}: {action} on {resource}"

    def test_what_fargate_roles_ask_for_lies_inside_the_boundary(
        self, by_cloudformation: dict[str, Bootstrap]
    ) -> None:
        made = by_cloudformation["stages"]
        fence = made.managed(made.boundary_arn)["Statement"]
        patterns = [p for s in fence for p in _list(s["Action"])]
        asked = set()
        for path in STACK_TEMPLATES[1:]:
            for resource in load_template(path.read_text())["Resources"].values():
                for policy in resource.get("Properties", {}).get("Policies", []):
                    for statement in policy["PolicyDocument"]["Statement"]:
                        granted = statement[1] if isinstance(statement, list) else statement  # of an !If
                        asked |= set(_list(granted["Action"]))
        assert asked
        assert {a for a in asked if not any(like(p, a) for p in patterns)} == set()


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _statements(iam: Any, role: str) -> list[dict[str, Any]]:
    documents = [
        iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]
        for name in iam.list_role_policies(RoleName=role)["PolicyNames"]
    ]
    for attached in iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]:
        if ":aws:policy/" not in attached["PolicyArn"]:
            version = iam.get_policy(PolicyArn=attached["PolicyArn"])["Policy"]["DefaultVersionId"]
            found = iam.get_policy_version(PolicyArn=attached["PolicyArn"], VersionId=version)[
                "PolicyVersion"
            ]
            document = found["Document"]
            documents.append(json.loads(document) if isinstance(document, str) else document)
    return [s for document in documents for s in document["Statement"] if s["Effect"] == "Allow"]
