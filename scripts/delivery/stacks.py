"""What deploying and destroying share: the session's clients, a stage's stacks and its bootstrap."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from scripts.cli import CliError, say
from scripts.delivery.artifact import Artifacts
from scripts.delivery.cdn import WEB_ACL_REGION, web_acl_stack_name
from scripts.delivery.data import Data, Kept, kept_of
from scripts.delivery.decide import bootstrap_stage, stack_name
from scripts.stack import Stack

SERVICE = "orders"
# What a bootstrap by Terraform gives in place of its stack's outputs.
_GIVEN = {
    "ArtifactBucketName": "ARTIFACT_BUCKET",
    "HistoryBucketName": "HISTORY_BUCKET",
    "ImageRepositoryUri": "IMAGE_REPOSITORY",
    "ExecutionRoleArn": "EXECUTION_ROLE",
    "PermissionsBoundaryArn": "PERMISSIONS_BOUNDARY",
}


class Stacks:
    """The stacks of an AWS session. `poll` is the time between two looks at CloudFormation."""

    def __init__(self, session: Any, environ: Mapping[str, str], poll: float = 2.0) -> None:
        self._session, self.environ, self.poll = session, environ, poll
        self._outputs: dict[str, dict[str, str]] = {}  # of bootstraps, by stack
        self._clients: dict[tuple[str, str | None], Any] = {}

    def client(self, service: str, region: str | None = None) -> Any:
        if (service, region) not in self._clients:
            self._clients[service, region] = self._session.client(service, region_name=region)
        return self._clients[service, region]

    def stack(self, name: str, region: str | None = None) -> Stack:
        return Stack(self.client("cloudformation", region), name, say, self.poll)

    def of(self, stage: str) -> Stack:
        """Return the stage's own stack, which its CDN stands beside."""
        return self.stack(stack_name(SERVICE, stage))

    def edge(self, stage: str) -> Stack:
        return self.stack(f"{stack_name(SERVICE, stage)}-edge")

    def web_acl(self, stage: str) -> Stack:
        """Return the stack of the web ACL before the stage's CDN."""
        here = self.client("cloudformation").meta.region_name
        return self.stack(web_acl_stack_name(stack_name(SERVICE, stage), here), WEB_ACL_REGION)

    def has_cdn(self) -> bool:
        """Tell whether a CDN can stand here. Its web ACL is in us-east-1, of the partition aws."""
        return bool(self.client("cloudformation").meta.partition == "aws")

    def made(self, stage: str) -> dict[str, str]:
        """Return what the stage's bootstrap made: its stack's outputs, or the environment's, by Terraform."""
        given = {output: self.environ[name] for output, name in _GIVEN.items() if self.environ.get(name)}
        if "ArtifactBucketName" in given:
            return given
        name = bootstrap_name(stage)
        if name not in self._outputs:
            self._outputs[name] = self.stack(name).outputs()
        return self._outputs[name] | given

    def bootstrap(self, stage: str) -> dict[str, str]:
        """Return what the stage's bootstrap made. Raises CliError if it did not."""
        made = self.made(stage)
        if "ArtifactBucketName" not in made:
            raise CliError(
                f"there is no stack {bootstrap_name(stage)} in this account and region: "
                "run `make bootstrap` first, or set ARTIFACT_BUCKET, HISTORY_BUCKET and IMAGE_REPOSITORY"
            )
        return made

    def artifacts(self, stage: str) -> Artifacts:
        made = self.bootstrap(stage)
        prefix = "previews" if bootstrap_stage(stage) == "preview" else "artifacts"
        return Artifacts(
            *(self.client("s3"), self.client("ecr")),
            *(made["ArtifactBucketName"], made.get("ImageRepositoryUri", ""), prefix),
        )

    def unprotect_load_balancers(self, stack: Stack) -> None:
        """Turn off their deletion protection, or CloudFormation would leave them standing."""
        off = [{"Key": "deletion_protection.enabled", "Value": "false"}]
        for arn in stack.load_balancers():
            self.client("elbv2").modify_load_balancer_attributes(LoadBalancerArn=arn, Attributes=off)

    def data(self) -> Data:
        return Data(self.client, say, self.poll)

    def retained(self, stack: Stack) -> list[Kept]:
        """Return what the stack keeps, or kept already when it was rolled back or half deleted."""
        if stack.status() == "REVIEW_IN_PROGRESS":  # nothing was ever made
            return []
        return each_once(kept_of([*stack.retained(), *stack.skipped()]))


def bootstrap_name(stage: str) -> str:
    return f"{SERVICE}-bootstrap-{bootstrap_stage(stage)}"


def each_once(kept: Iterable[Kept]) -> list[Kept]:
    return list({each.physical_id: each for each in kept}.values())
