"""Which line item each resource type of the templates has, for docs/generated/costs.md.

A type that a template uses and that stands nowhere here fails a test: a new resource gets a line item, a
reason why it is not counted, or its place among those without a price.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatch

COUNTED = {
    "AWS::CloudFront::Distribution": ("CloudFront",),
    "AWS::CloudWatch::Alarm": ("CloudWatch: metrics, alarms, dashboard",),
    "AWS::CloudWatch::CompositeAlarm": ("CloudWatch: metrics, alarms, dashboard",),
    "AWS::CloudWatch::Dashboard": ("CloudWatch: metrics, alarms, dashboard",),
    "AWS::DynamoDB::Table": ("DynamoDB: requests", "DynamoDB: storage and recovery"),
    "AWS::EC2::EIP": ("Network: public addresses",),
    "AWS::EC2::NatGateway": ("Network: NAT",),
    "AWS::EC2::VPCEndpoint": ("Network: interface endpoints",),
    "AWS::ECS::Cluster": ("Container Insights",),
    "AWS::ECS::Service": ("Compute: Fargate",),
    "AWS::ElasticLoadBalancingV2::LoadBalancer": ("API: load balancer", "Network: public addresses"),
    "AWS::Events::Archive": ("EventBridge: bus and archive",),
    "AWS::Events::EventBus": ("EventBridge: bus and archive",),
    "AWS::KMS::Key": ("KMS",),
    "AWS::Logs::LogGroup": ("CloudWatch: logs", "Logs of the HTTP API"),
    "AWS::S3::Bucket": ("S3: receipts",),
    "AWS::SQS::Queue": ("SQS",),
    "AWS::Serverless::Function": (
        "Compute: Lambda requests",
        "Compute: Lambda GB-seconds",
        "Lambda: relay and receipts",
        "X-Ray: API function",
        "X-Ray: relay and receipts",
    ),
    "AWS::Serverless::HttpApi": ("API: HTTP API",),
}
# What no resource stands for.
BESIDE = {"Transfer to the internet"}
# Each has a price, on the page that is named, and no line item.
NOT_COUNTED = {
    "AWS::Backup::BackupPlan": "what the vault stores: https://aws.amazon.com/backup/pricing/",
    "AWS::CloudFront::Function": "its invocations: https://aws.amazon.com/cloudfront/pricing/",
    "AWS::EC2::FlowLog": "the log of rejected packets: https://aws.amazon.com/cloudwatch/pricing/",
    "AWS::ECR::Repository": "the storage of images: https://aws.amazon.com/ecr/pricing/",
    "AWS::Logs::QueryDefinition": "the queries that you run: https://aws.amazon.com/cloudwatch/pricing/",
    "AWS::Route53::RecordSet": "your hosted zone: https://aws.amazon.com/route53/pricing/",
    "AWS::SNS::Topic": "alarms by e-mail: https://aws.amazon.com/sns/pricing/",
    "AWS::SecretsManager::Secret": "the CDN's secret: https://aws.amazon.com/secrets-manager/pricing/",
    "AWS::WAFv2::WebACL": "the CDN's web ACL: https://aws.amazon.com/waf/pricing/",
}
# By the page of the service's prices, which has none for them: they belong to another resource, or are
# settings. `*` stands for any.
WITHOUT_PRICE = {
    "https://aws.amazon.com/api-gateway/pricing/": (
        "AWS::ApiGatewayV2::ApiMapping",
        "AWS::ApiGatewayV2::DomainName",
    ),
    "https://aws.amazon.com/autoscaling/pricing/": ("AWS::ApplicationAutoScaling::*",),
    "https://aws.amazon.com/backup/pricing/": ("AWS::Backup::BackupSelection", "AWS::Backup::BackupVault"),
    # "There is no additional charge for using AWS CloudFormation with resource providers in the following
    # namespaces: AWS::*, Alexa::*, and Custom::*."
    "https://aws.amazon.com/cloudformation/pricing/": ("AWS::CloudFormation::Stack", "Custom::*"),
    "https://aws.amazon.com/cloudfront/pricing/": (
        "AWS::CloudFront::CachePolicy",
        "AWS::CloudFront::OriginAccessControl",
        "AWS::CloudFront::ResponseHeadersPolicy",
    ),
    "https://aws.amazon.com/cloudwatch/pricing/": ("AWS::Logs::ResourcePolicy",),
    "https://aws.amazon.com/vpc/pricing/": (
        "AWS::EC2::InternetGateway",
        "AWS::EC2::Route",
        "AWS::EC2::RouteTable",
        "AWS::EC2::SecurityGroup",
        "AWS::EC2::SecurityGroupIngress",
        "AWS::EC2::Subnet",
        "AWS::EC2::SubnetRouteTableAssociation",
        "AWS::EC2::VPC",
        "AWS::EC2::VPCGatewayAttachment",
    ),
    "https://aws.amazon.com/fargate/pricing/": (
        "AWS::ECS::ClusterCapacityProviderAssociations",
        "AWS::ECS::TaskDefinition",
    ),
    "https://aws.amazon.com/elasticloadbalancing/pricing/": (
        "AWS::ElasticLoadBalancingV2::Listener",
        "AWS::ElasticLoadBalancingV2::TargetGroup",
    ),
    "https://aws.amazon.com/eventbridge/pricing/": ("AWS::Events::Rule",),
    "https://aws.amazon.com/iam/": ("AWS::IAM::*",),
    "https://aws.amazon.com/kms/pricing/": ("AWS::KMS::Alias",),
    "https://aws.amazon.com/s3/pricing/": ("AWS::S3::BucketPolicy",),
    "https://aws.amazon.com/sns/pricing/": ("AWS::SNS::Subscription", "AWS::SNS::TopicPolicy"),
    "https://aws.amazon.com/sqs/pricing/": ("AWS::SQS::QueuePolicy",),
    "https://aws.amazon.com/waf/pricing/": (
        "AWS::WAFv2::LoggingConfiguration",
        "AWS::WAFv2::WebACLAssociation",
    ),
}


class UnknownCost(Exception):
    """A resource type that stands nowhere here."""


def cost_of(kind: str) -> str:
    """Return what a resource type costs, in words. Raises `UnknownCost`."""
    if kind in COUNTED:
        return "; ".join(COUNTED[kind])
    if kind in NOT_COUNTED:
        return f"not counted: {NOT_COUNTED[kind]}"
    for page, patterns in WITHOUT_PRICE.items():
        if any(fnmatch(kind, pattern) for pattern in patterns):
            return f"no price: {page}"
    raise UnknownCost(f"costs/services.py does not say what a resource of type {kind} costs")


def rows(templates: Mapping[str, list[str]]) -> list[list[str]]:
    """Return type, templates and cost of each resource type."""
    return [[kind, ", ".join(paths), cost_of(kind)] for kind, paths in sorted(templates.items())]
