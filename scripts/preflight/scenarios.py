"""The stacks that are judged: every condition of every template holds in one of them and not in another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from scripts.cli import CliError
from scripts.templates import (
    ACCOUNT_ID,
    REGION,
    UUID,
    Evaluator,
    Template,
    stack_documents,
)

VIRGINIA = "us-east-1"  # what CloudFront uses stands there
_ZONE = "Z0123456789ABCDEFGHIJ"
_PROVIDER = f"arn:aws:iam::{ACCOUNT_ID}:oidc-provider/token.actions.githubusercontent.com"


def _certificate(region: str) -> str:
    return f"arn:aws:acm:{region}:{ACCOUNT_ID}:certificate/{UUID}"


def _web_acl(region: str, scope: str) -> str:
    return f"arn:aws:wafv2:{region}:{ACCOUNT_ID}:{scope}/webacl/orders/{UUID}"


_OPTIONS: dict[str, Any] = {
    "EventConcurrency": 5,
    "AlarmEmail": "on-call@example.com",
    "AuthIssuer": "https://issuer.example.com",
    "AuthAudience": "orders",
    "CertificateArn": _certificate(REGION),
    "CorsOrigins": "https://console.example.com",
    "DomainName": "orders.example.com",
    "HostedZoneId": _ZONE,
    "OriginSecretArn": f"arn:aws:secretsmanager:{REGION}:{ACCOUNT_ID}:secret:orders-prod-edge-AbCdEf",
    "OriginSecretVersion": UUID,
    "PermissionsBoundaryArn": f"arn:aws:iam::{ACCOUNT_ID}:policy/orders-prod-boundary",
    "WebAclArn": _web_acl(REGION, "regional"),
}
_OWN_NETWORK = {
    "VpcId": "vpc-0123456789abcdef0",
    "PublicSubnetIds": "subnet-0123456789abcdef0,subnet-0123456789abcdef1",
    "PrivateSubnetIds": "subnet-0123456789abcdef2,subnet-0123456789abcdef3",
}


@dataclass(frozen=True)
class Scenario:
    """A stack of one template with parameters, and the stacks that it nests."""

    name: str
    template: str
    parameters: dict[str, Any] = field(default_factory=dict)
    region: str = REGION
    stack: str = "orders-dev"

    def documents(self) -> Iterator[tuple[str, Template, Evaluator]]:
        """Yield path, document and evaluator of each template.

        Raises CliError if a template's rules reject the parameters.
        """
        pseudo = {"AWS::Region": self.region, "AWS::StackName": self.stack}
        stacks = stack_documents(self.template, {**pseudo, **self.parameters})
        for path, document, evaluator in stacks:
            if rejections := evaluator.rejections():
                raise CliError(f"{path} ({self.name}): {'; '.join(rejections)}")
            yield path, document, evaluator


def scenarios() -> list[Scenario]:
    return [*_root(), *_edge(), *_waf(), *_backup(), *_bootstrap()]


def _root() -> Iterator[Scenario]:
    path = "template.yaml"
    for runtime, both in product(("lambda", "fargate"), ("false", "true")):
        given = {"Runtime": runtime, "BothRuntimes": both}
        name = f"{runtime}{' and the other' if both == 'true' else ''}"
        yield Scenario(f"dev, {name}", path, given)
        yield Scenario(f"prod, {name}", path, {**given, **_OPTIONS, "Stage": "prod"}, stack="orders-prod")
    for egress, options in product(("nat-per-az", "single-nat", "endpoints"), (False, True)):
        secret = {"OriginSecretArn": _OPTIONS["OriginSecretArn"]} if options else {}
        given = {"Runtime": "fargate", "NetworkEgress": egress, "Architecture": "arm64"}
        yield Scenario(f"{egress}{', behind the CDN' if options else ''}", path, {**given, **secret})
    yield Scenario("own network", path, {"Runtime": "fargate", **_OWN_NETWORK})
    given = {
        "Name": "stock",
        "Handler": "app.stock.handler",
        "DetailType": "OrderPlaced",
        "EventConcurrency": 1,
    }
    yield Scenario("consumer that writes no documents", "lambda/consumer.yaml", given)
    china = {"AWS::Partition": "aws-cn", "AWS::URLSuffix": "amazonaws.com.cn", "VpcId": "", "CpuUnits": 256}
    given = {**china, "NetworkEgress": "endpoints", "AvailabilityZones": "cn-north-1a,cn-north-1b"}
    yield Scenario("China", "fargate/template.yaml", given, "cn-north-1")


def _edge() -> Iterator[Scenario]:
    by_lambda = {"LambdaOriginDomain": f"a1b2c3d4e5.execute-api.{REGION}.amazonaws.com"}
    by_fargate = {"FargateOriginDomain": f"orders-1234567890.{REGION}.elb.amazonaws.com"}
    named = {
        "DomainName": "orders.example.com",
        "HostedZoneId": _ZONE,
        "CertificateArn": _certificate(VIRGINIA),
        "WebAclArn": _web_acl(VIRGINIA, "global"),
        "AccessLogBucketDomain": f"logs.s3.{VIRGINIA}.amazonaws.com",
    }
    for name, origins in {
        "lambda": by_lambda,
        "fargate": {**by_fargate, "ActiveOrigin": "fargate"},
        "both": {**by_lambda, **by_fargate},
    }.items():
        given = {"DocumentsBucketName": "orders-dev-documentsbucket-1a2b3c4d5e6f", **origins}
        more = {"FargateOriginName": "origin.orders.example.com"} if name != "lambda" else {}
        path, stack = "edge/template.yaml", "orders-dev-edge"
        yield Scenario(f"{name}", path, given, stack=stack)
        yield Scenario(f"{name}, own domain", path, {**given, **named, **more}, stack=stack)


def _waf() -> Iterator[Scenario]:
    for scope, mode in product(("REGIONAL", "CLOUDFRONT"), ("block", "count")):
        region = VIRGINIA if scope == "CLOUDFRONT" else REGION
        given = {"Scope": scope, "Mode": mode}
        yield Scenario(f"{scope}, {mode}", "waf/template.yaml", given, region, "orders-dev-waf")


def _backup() -> Iterator[Scenario]:
    given = {
        "OrdersTableName": "orders-prod-OrdersTable-1A2B3C4D5E6F7",
        "DocumentsBucketName": "orders-prod-documentsbucket-1a2b3c4d5e6f",
        "AlarmTopicArn": f"arn:aws:sns:{REGION}:{ACCOUNT_ID}:orders-prod-AlarmTopic-1A2B3C4D5E6F7",
    }
    copies = {"CopyVaultArn": f"arn:aws:backup:eu-west-1:{ACCOUNT_ID}:backup-vault:copies"}
    for lock, more in product(("false", "true"), ({}, copies)):
        name = f"{'locked' if lock == 'true' else 'open'}{', copied' if more else ''}"
        yield Scenario(
            name, "backup/template.yaml", {**given, **more, "LockVault": lock}, stack="orders-prod-backup"
        )


def _bootstrap() -> Iterator[Scenario]:
    given = {"Repository": "acme/orders", "OwnerId": "4242", "RepositoryId": "171717"}
    records = {"HostedZoneId": _ZONE, "RecordNames": "example.com,a.example.com"}
    stores = {
        "ArtifactBucketName": "orders-bootstrap-dev-store-1a2b3c4d5e6f",
        "ImageRepositoryArn": f"arn:aws:ecr:{REGION}:{ACCOUNT_ID}:repository/orders",
    }
    for stage, more in {
        "dev": {"ProdAccountId": "777777777777", **records},
        "prod": {"Environment": "prod", "OidcProviderArn": _PROVIDER, **stores, **records},
        "preview": {"Environment": "preview", "OidcProviderArn": _PROVIDER},
    }.items():
        yield Scenario(
            stage,
            "bootstrap/template.yaml",
            {**given, **more, "Stage": stage},
            stack=f"orders-bootstrap-{stage}",
        )
