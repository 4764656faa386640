"""Who may become which role, and what each role may and may not do.

The policies are read back from the local AWS after CloudFormation and Terraform made them, and judged by
`tests/delivery/iam.py`; the emulator, which enforces
trust conditions itself, judges the tokens a second time.
"""

from __future__ import annotations

import base64
import json
import subprocess
from typing import Any

import pytest
from botocore.exceptions import ClientError
from cfnlint.decode import cfn_yaml
from localcloud.embedded import EmbeddedAws
from scripts.delivery.stack import load_template
from tests.delivery.conftest import ROOT, Bootstrap, client
from tests.delivery.iam import allowed, like, trusts

pytestmark = pytest.mark.xdist_group("bootstrap")  # one emulator and one Terraform run for all of it

AUDIENCE = "sts.amazonaws.com"
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
ROLES = ["dev", "prod", "drift", "pull-request"]


def _token(claims: dict[str, str]) -> str:
    def part(value: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    issuer = "https://token.actions.githubusercontent.com"
    return ".".join([part({"alg": "RS256", "typ": "JWT"}), part({"iss": issuer, **claims}), "c2lnbmF0dXJl"])


def _becomes(bootstrap: Bootstrap, role: str, token: str) -> bool:
    try:
        bootstrap.client("sts").assume_role_with_web_identity(
            RoleArn=bootstrap.arn(role), RoleSessionName="job", WebIdentityToken=token
        )
    except ClientError as error:
        if error.response["Error"]["Code"] != "AccessDenied":
            raise
        return False
    return True


class TestTrust:
    @pytest.mark.parametrize("subject", SUBJECTS)
    def test_a_token_becomes_its_roles_and_no_other(self, bootstrap: Bootstrap, subject: str) -> None:
        claims = {"aud": AUDIENCE, "sub": subject}
        assert {r for r in ROLES if trusts(bootstrap.trust(r), claims)} == SUBJECTS[subject]

    def test_another_audience_is_refused(self, bootstrap: Bootstrap) -> None:
        claims = {"aud": "https://github.com/acme", "sub": "repo:acme/orders:environment:prod"}
        assert not [r for r in ROLES if trusts(bootstrap.trust(r), claims)]

    @pytest.mark.parametrize("subject", [s for s in SUBJECTS if s])
    def test_the_local_aws_agrees(self, bootstrap: Bootstrap, subject: str) -> None:
        token = _token({"aud": AUDIENCE, "sub": subject})
        assert {r for r in ROLES if _becomes(bootstrap, r, token)} == SUBJECTS[subject]

    def test_only_cloudformation_is_the_execution_role(self, bootstrap: Bootstrap) -> None:
        (statement,) = bootstrap.trust("execution")["Statement"]
        assert statement["Principal"] == {"Service": "cloudformation.amazonaws.com"}


def _stack(bootstrap: Bootstrap, name: str) -> str:
    return f"arn:aws:cloudformation:{REGION}:{bootstrap.account}:stack/{name}/0a1b"


class TestJobs:
    """The four roles that GitHub's jobs have."""

    # role -> stacks that it may change
    STACKS = {
        "dev": ["orders-dev", "orders-dev-FargateStack-1A2B"],
        "prod": ["orders-prod", "orders-prod-FargateStack-1A2B"],
        "pull-request": ["orders-preview12", "orders-preview12-FargateStack-1A2B"],
        "drift": [],
    }
    EVERY_STACK = [
        *("orders-dev", "orders-dev-FargateStack-1A2B", "orders-prod", "orders-prod-FargateStack-1A2B"),
        *("orders-preview12", "orders-preview12-FargateStack-1A2B", "orders-bootstrap", "billing-dev"),
    ]

    @pytest.mark.parametrize("role", ROLES)
    def test_changes_its_own_stacks_only(self, bootstrap: Bootstrap, role: str) -> None:
        statements = bootstrap.statements(role)
        may = [
            stack
            for stack in self.EVERY_STACK
            if allowed(statements, "cloudformation:ExecuteChangeSet", _stack(bootstrap, stack))
        ]
        assert may == self.STACKS[role]

    @pytest.mark.parametrize(
        ("role", "stacks"),
        [("dev", ["orders-dev"]), ("prod", []), ("drift", []), ("pull-request", ["orders-preview12"])],
    )
    def test_prod_can_be_deleted_by_no_job(self, bootstrap: Bootstrap, role: str, stacks: list[str]) -> None:
        statements = bootstrap.statements(role)
        named = [stack for stack in self.EVERY_STACK if "Fargate" not in stack]
        may = [s for s in named if allowed(statements, "cloudformation:DeleteStack", _stack(bootstrap, s))]
        assert may == stacks

    @pytest.mark.parametrize("role", ROLES)
    def test_prod_data_can_be_touched_by_no_job(self, bootstrap: Bootstrap, role: str) -> None:
        statements = bootstrap.statements(role)
        account = bootstrap.account
        data = {
            f"arn:aws:dynamodb:{REGION}:{account}:table/orders-prod-OrdersTable-1": ["Scan", "DeleteTable"],
            "arn:aws:s3:::orders-prod-documentsbucket-1": ["DeleteBucket", "ListBucketVersions"],
            "arn:aws:s3:::orders-prod-documentsbucket-1/receipts/1": ["DeleteObjectVersion", "GetObject"],
        }
        for resource, actions in data.items():
            for action in actions:
                assert not allowed(statements, f"{resource.split(':')[2]}:{action}", resource), resource

    def test_keys_are_removed_of_its_own_stage_only(self, bootstrap: Bootstrap) -> None:
        key = f"arn:aws:kms:{REGION}:{bootstrap.account}:key/1"
        for role, own in (("dev", "orders-dev"), ("pull-request", "orders-preview7")):
            for stack in ("orders-dev", "orders-preview7", "orders-prod"):
                tag = {"aws:ResourceTag/orders-stack": stack}
                may = allowed(bootstrap.statements(role), "kms:ScheduleKeyDeletion", key, **tag)
                assert may == (stack == own), (role, stack)
            assert not allowed(bootstrap.statements(role), "kms:ScheduleKeyDeletion", key)

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
    def test_a_pull_request_cannot_change_what_prod_deploys(
        self, bootstrap: Bootstrap, path: str, writers: set[str]
    ) -> None:
        resource = f"arn:aws:s3:::{bootstrap.bucket}/{path}"
        assert {r for r in ROLES if allowed(bootstrap.statements(r), "s3:PutObject", resource)} == writers

    def test_prod_pushes_no_image(self, bootstrap: Bootstrap) -> None:
        pushers = {
            r for r in ROLES if allowed(bootstrap.statements(r), "ecr:PutImage", bootstrap.repository_arn)
        }
        assert pushers == {"dev", "pull-request"}

    @pytest.mark.parametrize("role", ROLES)
    def test_passes_the_execution_role_to_cloudformation_only(self, bootstrap: Bootstrap, role: str) -> None:
        statements = bootstrap.statements(role)

        def may(arn: str, service: str) -> bool:
            return allowed(statements, "iam:PassRole", arn, **{"iam:PassedToService": service})

        deploys = role != "drift"
        assert may(bootstrap.execution_arn, "cloudformation.amazonaws.com") == deploys
        assert not may(bootstrap.execution_arn, "lambda.amazonaws.com")
        assert not may(f"arn:aws:iam::{bootstrap.account}:role/Admin", "cloudformation.amazonaws.com")

    @pytest.mark.parametrize("role", ROLES)
    def test_holds_no_right_beyond_delivery(self, bootstrap: Bootstrap, role: str) -> None:
        statements = bootstrap.statements(role)
        for action in (
            *("iam:CreateRole", "iam:AttachRolePolicy", "iam:CreateUser", "sts:AssumeRole", "kms:Decrypt"),
            *(
                "lambda:UpdateFunctionCode",
                "ecs:UpdateService",
                "secretsmanager:GetSecretValue",
                "ec2:RunInstances",
            ),
        ):
            assert not allowed(statements, action, "*"), action
            assert not allowed(statements, action, f"arn:aws:iam::{bootstrap.account}:role/orders-dev-x"), (
                action
            )


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
    @pytest.mark.parametrize("role", ["execution", *ROLES])
    def test_policies_fit_into_iam(self, bootstrap: Bootstrap, role: str) -> None:
        inline = bootstrap.client("iam").get_role_policy(
            RoleName=bootstrap.arn(role).rsplit("/", 1)[1], PolicyName="Stacks"
        )["PolicyDocument"]
        assert _size(inline) < INLINE_CHARACTERS
        assert _size(bootstrap.trust(role)) < TRUST_CHARACTERS

    def test_boundary_fits_into_iam(self, bootstrap: Bootstrap) -> None:
        assert _size(bootstrap.managed(bootstrap.boundary_arn)) < MANAGED_CHARACTERS

    @pytest.mark.parametrize("role", ["execution", *ROLES])
    def test_terraform_says_what_the_template_says(
        self, by_cloudformation: Bootstrap, by_terraform: Bootstrap, role: str
    ) -> None:
        first, second = by_cloudformation, by_terraform
        assert _meaning(first, first.statements(role)) == _meaning(second, second.statements(role))
        assert _meaning(first, first.trust(role)["Statement"]) == _meaning(
            second, second.trust(role)["Statement"]
        )

    def test_terraform_has_the_same_boundary_and_stores(
        self, by_cloudformation: Bootstrap, by_terraform: Bootstrap
    ) -> None:
        meanings, stores = [], []
        for made in (by_cloudformation, by_terraform):
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


# For each type in our templates (and what SAM makes of them) a call that making it takes, and on what:
# {} is a name that CloudFormation makes from the stack's, * what AWS names.
TYPES = {
    "AWS::ApiGatewayV2::Api": ("apigateway:POST", "*"),
    "AWS::ApiGatewayV2::ApiMapping": ("apigateway:POST", "*"),
    "AWS::ApiGatewayV2::DomainName": ("apigateway:POST", "*"),
    "AWS::ApiGatewayV2::Stage": ("apigateway:POST", "*"),
    "AWS::ApplicationAutoScaling::ScalableTarget": ("application-autoscaling:RegisterScalableTarget", "*"),
    "AWS::ApplicationAutoScaling::ScalingPolicy": ("application-autoscaling:PutScalingPolicy", "*"),
    "AWS::CloudFormation::CustomResource": ("lambda:InvokeFunction", "arn:aws:lambda:{}:function:{}"),
    "AWS::CloudFormation::Stack": ("cloudformation:CreateStack", "arn:aws:cloudformation:{}:stack/{}/1"),
    "AWS::CloudWatch::Alarm": ("cloudwatch:PutMetricAlarm", "*"),
    "AWS::CloudWatch::AnomalyDetector": ("cloudwatch:PutAnomalyDetector", "*"),
    "AWS::CloudWatch::CompositeAlarm": ("cloudwatch:PutCompositeAlarm", "*"),
    "AWS::CloudWatch::Dashboard": ("cloudwatch:PutDashboard", "*"),
    "AWS::CodeDeploy::Application": ("codedeploy:CreateApplication", "*"),
    "AWS::CodeDeploy::DeploymentGroup": ("codedeploy:CreateDeploymentGroup", "*"),
    "AWS::DynamoDB::Table": ("dynamodb:UpdateContinuousBackups", "arn:aws:dynamodb:{}:table/{}"),
    "AWS::EC2::EIP": ("ec2:AllocateAddress", "*"),
    "AWS::EC2::FlowLog": ("ec2:CreateFlowLogs", "*"),
    "AWS::EC2::InternetGateway": ("ec2:CreateInternetGateway", "*"),
    "AWS::EC2::NatGateway": ("ec2:CreateNatGateway", "*"),
    "AWS::EC2::Route": ("ec2:CreateRoute", "*"),
    "AWS::EC2::RouteTable": ("ec2:CreateRouteTable", "*"),
    "AWS::EC2::SecurityGroup": ("ec2:CreateSecurityGroup", "*"),
    "AWS::EC2::SecurityGroupEgress": ("ec2:AuthorizeSecurityGroupEgress", "*"),
    "AWS::EC2::SecurityGroupIngress": ("ec2:AuthorizeSecurityGroupIngress", "*"),
    "AWS::EC2::Subnet": ("ec2:CreateSubnet", "*"),
    "AWS::EC2::SubnetRouteTableAssociation": ("ec2:AssociateRouteTable", "*"),
    "AWS::EC2::VPC": ("ec2:ModifyVpcAttribute", "*"),
    "AWS::EC2::VPCEndpoint": ("ec2:CreateVpcEndpoint", "*"),
    "AWS::EC2::VPCGatewayAttachment": ("ec2:AttachInternetGateway", "*"),
    "AWS::ECS::Cluster": ("ecs:CreateCluster", "*"),
    "AWS::ECS::ClusterCapacityProviderAssociations": ("ecs:PutClusterCapacityProviders", "*"),
    "AWS::ECS::Service": ("ecs:CreateService", "*"),
    "AWS::ECS::TaskDefinition": ("ecs:RegisterTaskDefinition", "*"),
    "AWS::ElasticLoadBalancingV2::Listener": ("elasticloadbalancing:CreateListener", "*"),
    "AWS::ElasticLoadBalancingV2::ListenerRule": ("elasticloadbalancing:CreateRule", "*"),
    "AWS::ElasticLoadBalancingV2::LoadBalancer": ("elasticloadbalancing:CreateLoadBalancer", "*"),
    "AWS::ElasticLoadBalancingV2::TargetGroup": ("elasticloadbalancing:CreateTargetGroup", "*"),
    "AWS::Events::Archive": ("events:CreateArchive", "arn:aws:events:{}:archive/OrdersArchive-1"),
    "AWS::Events::EventBus": ("events:CreateEventBus", "arn:aws:events:{}:event-bus/{}"),
    "AWS::Events::Rule": ("events:PutRule", "arn:aws:events:{}:rule/{}/rule"),
    "AWS::IAM::ManagedPolicy": ("iam:CreatePolicy", "arn:aws:iam::{}:policy/{}"),
    "AWS::IAM::Role": ("iam:CreateRole", "arn:aws:iam::{}:role/{}"),
    "AWS::KMS::Alias": ("kms:CreateAlias", "*"),
    "AWS::KMS::Key": ("kms:CreateKey", "*"),
    "AWS::Lambda::Alias": ("lambda:CreateAlias", "arn:aws:lambda:{}:function:{}:live"),
    "AWS::Lambda::EventSourceMapping": ("lambda:CreateEventSourceMapping", "*"),
    "AWS::Lambda::Function": ("lambda:CreateFunction", "arn:aws:lambda:{}:function:{}"),
    "AWS::Lambda::Permission": ("lambda:AddPermission", "arn:aws:lambda:{}:function:{}"),
    "AWS::Lambda::Version": ("lambda:PublishVersion", "arn:aws:lambda:{}:function:{}"),
    "AWS::Logs::LogGroup": ("logs:CreateLogGroup", "arn:aws:logs:{}:log-group:/aws/vendedlogs/{}/http-api"),
    "AWS::Logs::MetricFilter": ("logs:PutMetricFilter", "arn:aws:logs:{}:log-group:/{}/api"),
    "AWS::Logs::QueryDefinition": ("logs:PutQueryDefinition", "*"),
    "AWS::Logs::ResourcePolicy": ("logs:PutResourcePolicy", "*"),
    "AWS::Route53::RecordSet": ("route53:ChangeResourceRecordSets", "*"),
    "AWS::S3::Bucket": ("s3:PutLifecycleConfiguration", "arn:aws:s3:::{}"),
    "AWS::S3::BucketPolicy": ("s3:PutBucketPolicy", "arn:aws:s3:::{}"),
    "AWS::SNS::Subscription": ("sns:Subscribe", "arn:aws:sns:{}:{}"),
    "AWS::SNS::Topic": ("sns:CreateTopic", "arn:aws:sns:{}:{}"),
    "AWS::SNS::TopicPolicy": ("sns:SetTopicAttributes", "arn:aws:sns:{}:{}"),
    "AWS::SQS::Queue": ("sqs:CreateQueue", "arn:aws:sqs:{}:{}"),
    "AWS::SQS::QueuePolicy": ("sqs:SetQueueAttributes", "arn:aws:sqs:{}:{}"),
    "AWS::WAFv2::WebACL": ("wafv2:CreateWebACL", "*"),
    "AWS::WAFv2::WebACLAssociation": ("wafv2:AssociateWebACL", "*"),
    "AWS::WAFv2::LoggingConfiguration": ("wafv2:PutLoggingConfiguration", "*"),
    "AWS::XRay::Group": ("xray:CreateGroup", "*"),
}
BY_SAM = {
    "AWS::Serverless::Function": [
        *("Lambda::Function", "Lambda::Version", "Lambda::Alias", "Lambda::Permission"),
        *("Lambda::EventSourceMapping", "CodeDeploy::Application", "CodeDeploy::DeploymentGroup"),
    ],
    "AWS::Serverless::HttpApi": ["ApiGatewayV2::Api", "ApiGatewayV2::Stage"],
}
STACK_TEMPLATES = [
    ROOT / "template.yaml",
    *sorted(ROOT.glob("fargate/*.yaml")),
    *sorted(ROOT.glob("monitoring/*.yaml")),
]


def _types() -> set[str]:
    found: set[str] = set()
    for path in STACK_TEMPLATES:
        for resource in load_template(path.read_text())["Resources"].values():
            kind = (
                "AWS::CloudFormation::CustomResource"
                if resource["Type"].startswith("Custom::")
                else resource["Type"]
            )
            found |= {f"AWS::{each}" for each in BY_SAM[kind]} if kind in BY_SAM else {kind}
    return found


class TestCoverage:
    """The bootstrap keeps up with the templates."""

    @pytest.mark.parametrize("kind", sorted(_types()))
    def test_cloudformation_may_make_each_type(self, by_cloudformation: Bootstrap, kind: str) -> None:
        assert kind in TYPES, f"say in TYPES what making {kind} takes, and allow it in bootstrap/"
        action, resource = TYPES[kind]
        if resource.startswith("arn:aws:s3"):
            resource = resource.format("orders-dev-documents-1")
        elif resource != "*":
            where = (
                by_cloudformation.account if ":iam:" in resource else f"{REGION}:{by_cloudformation.account}"
            )
            resource = resource.format(where, "orders-dev-Resource-1")
        context = {
            "aws:RequestedRegion": REGION,
            "iam:PermissionsBoundary": by_cloudformation.boundary_arn,
        }
        assert allowed(by_cloudformation.statements("execution"), action, resource, **context), (
            action,
            resource,
        )

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
        self, by_cloudformation: Bootstrap, aws: EmbeddedAws
    ) -> None:
        """As deployed: every statement of every role, its own resources held against the boundary's."""
        iam = client(aws.endpoint, "000000000000", "iam")
        boundary = json.dumps(by_cloudformation.managed(by_cloudformation.boundary_arn)["Statement"])
        fence = json.loads(boundary.replace(by_cloudformation.account, "000000000000"))
        roles = [
            r["RoleName"] for r in iam.list_roles()["Roles"] if r["RoleName"].startswith("orders-local-")
        ]
        assert len(roles) >= 4
        for role in roles:
            for statement in _statements(iam, role):
                for action in _list(statement["Action"]):
                    for resource in _list(statement["Resource"]):
                        assert allowed(fence, action, resource), f"{role}: {action} on {resource}"

    def test_what_fargate_roles_ask_for_lies_inside_the_boundary(self, by_cloudformation: Bootstrap) -> None:
        fence = by_cloudformation.managed(by_cloudformation.boundary_arn)["Statement"]
        patterns = [p for s in fence for p in _list(s["Action"])]
        asked = set()
        for path in STACK_TEMPLATES[1:]:
            for resource in load_template(path.read_text())["Resources"].values():
                for policy in resource.get("Properties", {}).get("Policies", []):
                    asked |= {a for s in policy["PolicyDocument"]["Statement"] for a in _list(s["Action"])}
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
