"""The commands behind `make package deploy edge rollback destroy drift sweep bootstrap`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import tomllib
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.request import Request, urlopen

from botocore.exceptions import ClientError
from scripts.command import explained, is_denied, reported, session
from scripts.delivery.artifact import ROOT, Artifacts, attested, put_once, source_key
from scripts.delivery.data import KEY_REMOVAL_DAYS, Data, Kept, kept_of, retained
from scripts.delivery.decide import (
    PRODUCTION,
    Action,
    DeliveryError,
    Record,
    architecture,
    bootstrap_stage,
    check_artifact,
    check_destroy,
    check_rules,
    check_stage,
    checked_parameters,
    decide,
    keeps_serving,
    may_destroy,
    named,
    open_pull_requests,
    rollback_target,
    serving,
    stack_name,
    stage_parameters,
    stale_previews,
)
from scripts.delivery.edge import (
    WEB_ACL_REGION,
    edge_parameters,
    given_parameters,
    publish,
    web_acl_stack_name,
)
from scripts.delivery.stack import Stack, parameters_of
from scripts.release import ReleaseError, version_of
from scripts.templates import Template, load_template

SERVICE = "orders"
# CloudFormation passes on WAF's sentence, not the name of the exception (WAFAssociatedItemException).
# https://docs.aws.amazon.com/waf/latest/APIReference/API_DeleteWebACL.html
_STILL_ASSOCIATED = "associated with another resource"
_TRIES = 15  # with the usual pause five minutes


def say(text: str) -> None:
    print(text, flush=True)


class Delivery:
    """The commands, over an AWS session. `poll` is the time between two looks at CloudFormation."""

    def __init__(self, session: Any, environ: Mapping[str, str], poll: float = 2.0) -> None:
        self._session, self._environ, self._poll = session, environ, poll
        self._outputs: dict[str, dict[str, str]] = {}  # of bootstraps, by stack
        self._clients: dict[tuple[str, str | None], Any] = {}

    def client(self, service: str, region: str | None = None) -> Any:
        if (service, region) not in self._clients:
            self._clients[service, region] = self._session.client(service, region_name=region)
        return self._clients[service, region]

    def stack(self, name: str, region: str | None = None) -> Stack:
        return Stack(self.client("cloudformation", region), name, say, self._poll)

    def _made(self, stage: str) -> dict[str, str]:
        """Return what the stage's bootstrap made: its stack's outputs, or the environment's, by Terraform."""
        names = {
            "ArtifactBucketName": "ARTIFACT_BUCKET",
            "HistoryBucketName": "HISTORY_BUCKET",
            "ImageRepositoryUri": "IMAGE_REPOSITORY",
            "ExecutionRoleArn": "EXECUTION_ROLE",
            "PermissionsBoundaryArn": "PERMISSIONS_BOUNDARY",
        }
        given = {o: self._environ[name] for o, name in names.items() if self._environ.get(name)}
        if "ArtifactBucketName" in given:
            return given
        name = _bootstrap_name(stage)
        if name not in self._outputs:
            self._outputs[name] = self.stack(name).outputs()
        return self._outputs[name] | given

    def _bootstrap(self, stage: str) -> dict[str, str]:
        """Return what the stage's bootstrap made. Raises DeliveryError if it did not."""
        made = self._made(stage)
        if "ArtifactBucketName" not in made:
            raise DeliveryError(
                f"there is no stack {_bootstrap_name(stage)} in this account and region: "
                "run `make bootstrap` first, or set ARTIFACT_BUCKET, HISTORY_BUCKET and IMAGE_REPOSITORY"
            )
        return made

    def artifacts(self, stage: str) -> Artifacts:
        made = self._bootstrap(stage)
        prefix = "previews" if bootstrap_stage(stage) == "preview" else "artifacts"
        return Artifacts(
            *(self.client("s3"), self.client("ecr")),
            *(made["ArtifactBucketName"], made.get("ImageRepositoryUri", ""), prefix),
        )

    def package(self, stage: str, extra: Sequence[str] = (), *, force: bool) -> str:
        """Make the artifact of the sources, unless it is there; return its name."""
        declared = _source()["Parameters"]
        parameters = checked_parameters(self._parameters(stage, extra), declared)
        processor = architecture(parameters, declared)
        artifacts = self.artifacts(stage)
        name, built = artifacts.package(version_of(), say, architecture=processor, force=force)
        say(f"ARTIFACT={name}")
        self._tell(artifact=name, built=str(built).lower())
        return name

    def deploy(self, stage: str, artifact: str, extra: Sequence[str], *, force: bool = False) -> None:
        """Bring the stage's stack to the artifact (made now if none is named) and the parameters."""
        parameters = self._parameters(stage, extra)
        if not artifact:
            self._admitted(parameters, _source())
        name = artifact or self.package(stage, extra, force=force)
        if boundary := self._bootstrap(stage).get("PermissionsBoundaryArn"):
            parameters.setdefault("PermissionsBoundaryArn", boundary)
        self._bring(stage, name, parameters)

    def _parameters(self, stage: str, extra: Sequence[str]) -> dict[str, str]:
        return stage_parameters(_samconfig(), stage, extra)

    def _admitted(self, given: Mapping[str, str], source: Template, region: str = "") -> dict[str, str]:
        """Return the parameters if the template takes them here, or in a region. Raises DeliveryError."""
        here = self.client("cloudformation").meta
        parameters = checked_parameters(given, source.get("Parameters", {}))
        check_rules(source, parameters, region or here.region_name, here.partition)
        return parameters

    def _bring(self, stage: str, name: str, parameters: Mapping[str, str], instead_of: str = "") -> None:
        artifacts, key = self.artifacts(stage), name.partition("@")[0]
        name = name if "@" in name else artifacts.named(key)
        manifest, template = artifacts.verified(name)
        if workflow := self._environ.get("ATTESTED_BY"):
            attested(manifest, self._environ["GITHUB_REPOSITORY"], workflow)
        release = json.loads(manifest)
        source = load_template(template)
        parameters, declared = self._admitted(parameters, source), source.get("Parameters", {})
        built_for = release["architecture"]
        if architecture(parameters, declared) != built_for:
            raise DeliveryError(f"artifact {key} is built for {built_for}: give Architecture={built_for}")
        values = {name: str(each.get("Default", "")) for name, each in declared.items()} | parameters
        stack = self.stack(stack_name(SERVICE, stage))
        edge = self.stack(f"{stack.name}-edge").outputs()
        if edge:
            keeps_serving(edge["ActiveOrigin"], values)
        kind = self._prepare(stack)
        record = Record(_now(), name, str(release["version"]), dict(parameters), instead_of)
        if kind == "UPDATE" and stack.matches(template, parameters):
            say(f"{stack.name} runs artifact {key} with these parameters: nothing to do")
            # A run that was interrupted did the work and could not record it.
            changed = record.release not in [last.release for last in self.records(stage)[-1:]]
        else:
            say(f"{stack.name}: {kind.lower()} with artifact {key}")
            if stage == PRODUCTION and kind == "UPDATE" and "fargate" not in serving(values):
                self._let_load_balancers_go(stack)
            url, role = artifacts.url(key), self._bootstrap(stage).get("ExecutionRoleArn")
            changed = stack.apply(kind, url, parameters, _tags(stage), role)
            say(f"{stack.name}: {'complete' if changed else 'nothing to change'}")
        stack.protect(template, termination=stage == PRODUCTION)
        if changed:
            self._record(stage, record)
        # Behind an edge the API may answer nobody else.
        url = edge.get("EdgeUrl") or stack.outputs().get("ApiUrl", "")
        if url:
            say(f"Address: {url}")
        self._tell(artifact=name, api_url=url, changed=str(changed).lower())

    def edge(self, stage: str, extra: Sequence[str]) -> None:
        """Bring the stage's edge to the sources: its web ACL in us-east-1, its own stack, the console."""
        orders = self.stack(stack_name(SERVICE, stage))
        found = orders.describe()
        if not found:
            raise DeliveryError(f"there is no stack {orders.name}: deploy it first")
        web_acl = self._web_acl(orders.name)
        edge = self.stack(f"{orders.name}-edge")
        before = edge.describe()
        deployed = parameters_of(found)
        # What `make switch` set stays.
        active = edge.outputs().get("ActiveOrigin", deployed["Runtime"])
        known = edge_parameters(orders.outputs(), active)
        templates, of_web_acl, of_edge = _edge_templates(extra)
        of_web_acl["Scope"] = "CLOUDFRONT"
        # Both, before either stack is touched.
        known = self._admitted(known | of_edge, load_template(templates[1]))
        of_web_acl = self._admitted(of_web_acl, load_template(templates[0]), WEB_ACL_REGION)
        self._bring_small(stage, web_acl, templates[0], of_web_acl)
        known["WebAclArn"] = web_acl.outputs()["WebAclArn"]
        self._bring_small(stage, edge, templates[1], known)
        if before and parameters_of(before).get("WebAclArn", "") not in ("", known["WebAclArn"]):
            say(f"{edge.name} had another web ACL, of the stack {orders.name}-waf in {WEB_ACL_REGION}.")
            say("  That stack is left; docs/edge.md says when to delete it")
        made = edge.outputs()
        count = publish(self.client, made["ConsoleBucketName"], made["DistributionId"])
        say(f"{count} files published at {made['EdgeUrl']}/console/")
        keep = {"OriginSecretArn": made["OriginSecretArn"], "CorsOrigins": made["EdgeUrl"]}
        if any(value not in deployed[name].split(",") for name, value in keep.items()):
            say(f"Until {orders.name} has these, its origins answer everybody and the console cannot upload:")
            say(f"  {' '.join(f'{name}={value}' for name, value in keep.items())}")

    def _web_acl(self, orders: str) -> Stack:
        """Return the stack of the web ACL before the edge of an orders stack."""
        here = self.client("cloudformation").meta.region_name
        return self.stack(web_acl_stack_name(orders, here), WEB_ACL_REGION)

    def _bring_small(self, stage: str, stack: Stack, template: str, parameters: Mapping[str, str]) -> None:
        """Bring a stack beside the stage's to a template of the sources, and guard it."""
        kind = self._prepare(stack)
        say(f"{stack.name}: {kind.lower()}")
        role = self._made(stage).get(
            "ExecutionRoleArn"
        )  # without a bootstrap CloudFormation acts for the caller
        changed = stack.apply_body(kind, template, parameters, _tags(stage), role)
        say(f"{stack.name}: {'complete' if changed else 'nothing to change'}")
        stack.protect(template, termination=stage == PRODUCTION)

    def _let_load_balancers_go(self, stack: Stack) -> None:
        """Turn off their deletion protection, or CloudFormation would leave them standing."""
        off = [{"Key": "deletion_protection.enabled", "Value": "false"}]
        for arn in stack.load_balancers():
            self.client("elbv2").modify_load_balancer_attributes(LoadBalancerArn=arn, Attributes=off)

    def _prepare(self, stack: Stack) -> str:
        """Act on the decision until a change set can be made; return the kind of it."""
        while True:
            status = stack.status()
            holds = str(status).startswith("ROLLBACK_") and self._data().held(self._retained(stack))
            decision = decide(status, holds_data=holds, stack=stack.name)
            if decision.action is Action.REFUSE:
                raise DeliveryError(f"{stack.name} is left alone: {decision.reason}")
            if decision.action in (Action.CREATE, Action.UPDATE):
                return decision.action.name
            say(f"{stack.name}: {decision.reason}; {decision.action.value}")
            if decision.action is Action.WAIT:
                stack.wait()
            else:
                # Before the stack, which alone knows of it, should this be interrupted.
                if left := self._data().remove(self._retained(stack)):
                    raise DeliveryError(f"not removed: {_names(left)}; see above, then deploy again")
                stack.delete()

    def _data(self) -> Data:
        return Data(self.client, say, self._poll)

    def _retained(self, stack: Stack) -> list[Kept]:
        """Return what the stack keeps, or kept already when it was rolled back or half deleted."""
        if stack.status() == "REVIEW_IN_PROGRESS":  # nothing was ever made
            return []
        declared = load_template(stack.template()).get("Resources", {})
        return _each_once([*retained(stack.resources(), declared), *kept_of(stack.skipped())])

    def _record(self, stage: str, record: Record) -> None:
        key = f"deployments/{stack_name(SERVICE, stage)}/{record.at}.json"
        body = json.dumps(asdict(record), sort_keys=True).encode()
        put_once(self.client("s3"), self._history(stage), key, body)

    def _history(self, stage: str) -> str:
        made = self._bootstrap(stage)
        return made.get("HistoryBucketName", made["ArtifactBucketName"])

    def records(self, stage: str) -> list[Record]:
        """Return the deployments of a stage, oldest first."""
        s3, bucket = self.client("s3"), self._history(stage)
        prefix = f"deployments/{stack_name(SERVICE, stage)}/"
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        keys = sorted(o["Key"] for page in pages for o in page.get("Contents", []))[-50:]
        bodies = [s3.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys]
        return [Record(**json.loads(body)) for body in bodies]

    def rollback(self, stage: str) -> None:
        """Deploy what ran before, with the parameters it had."""
        records = self.records(stage)
        target = rollback_target(records)
        say(f"going back to version {target.version}, artifact {target.artifact}, deployed {target.at}")
        self._bring(stage, target.artifact, target.parameters, instead_of=records[-1].release)

    def destroy(self, stage: str, *, yes: bool, data: bool) -> None:
        """Delete the stage's stacks; keep its data, unless asked, and say what that costs.

        A run that a fault ended is taken up by the next, by what CloudFormation says of stacks that are gone.
        """
        name = stack_name(SERVICE, stage)
        # Requests come by the edge first, and its distribution holds the web ACL.
        edge, orders = self.stack(f"{name}-edge"), self.stack(name)
        stacks = [each for each in (edge, *self._web_acls(name, edge), orders) if each.status()]
        # Data of an earlier stack is not that of the one that stands; an edge keeps nothing but logs.
        names = [edge.name] if orders in stacks else [edge.name, name]
        gone = self._gone() if data or not stacks else []
        if yes and bootstrap_stage(stage) == stage:
            # Nobody reads what is of which stack: it may end what an interrupted run began, and no more.
            gone = list({each["StackName"]: each for each in reversed(gone)}.values())
        earlier = self._left_by(names, gone)
        own = (orders.describe() or {}).get("StackId")
        # A queue is seen for a minute after it was deleted, so those of this run do not count below.
        removed = {own} if own else {each["StackId"] for each in gone}
        if not stacks and not earlier:
            say(f"there is no stack {name}, and nothing left of it")
            self._say_of_others(stage, removed)
            return
        kept = {each.name: self._retained(each) for each in stacks}
        self._announce(name, kept, earlier, data=data)
        if stacks or data:
            typed = None if yes else _ask(f"Type {name} to go on: ")
            may_destroy(name, stage, yes=yes, data=data, typed=typed)
        failed, left = self._delete_each(stage, stacks, kept)
        left = _each_once([*left, *(each for some in earlier.values() for each in some)])
        if data:
            failed += [each.physical_id for each in self._data().remove(left)]
        elif left:
            say("Retained:")
            for line in self._data().report(left):
                say(line)
        if failed:
            raise DeliveryError(f"not removed: {', '.join(failed)}; `make destroy` again goes on from here")
        if data:
            self._say_of_others(stage, removed)

    def _say_of_others(self, stage: str, removed: Container[str | None]) -> None:
        """Say so if stacks of this name kept something, other than those that were looked at."""
        name = stack_name(SERVICE, stage)
        if self._left_by([name], [each for each in self._gone() if each["StackId"] not in removed]):
            asks = f"`make destroy STAGE={stage} DATA=delete`"
            say(f"An earlier {name} kept data, too: {asks} shows it and asks.")

    def _announce(
        self,
        name: str,
        kept: Mapping[str, Sequence[Kept]],
        earlier: Mapping[str, Sequence[Kept]],
        *,
        data: bool,
    ) -> None:
        """Say what goes and what stays."""
        if kept:
            what = " and ALL ITS DATA:" if data else ". Its data is kept:"
            say(f"This deletes the stack {', '.join(kept)}{what}")
        else:
            say(f"there is no stack {name}")
        own = _each_once(each for some in kept.values() for each in some)
        for title, resources in {"": own, **earlier}.items():
            if title:
                say(f"{'And all that ' if data else ''}{title} left:")
            for resource in resources:
                say(f"  {resource.logical_id:26} {resource.physical_id}")

    def _delete_each(
        self, stage: str, stacks: Sequence[Stack], kept: Mapping[str, Sequence[Kept]]
    ) -> tuple[list[str], list[Kept]]:
        """Delete the stacks; return the names of those that stay, and what those that are gone keep."""
        failed, left = list[str](), list[Kept]()
        for stack in stacks:
            try:
                left += _each_once([*kept[stack.name], *self._delete(stage, stack)])
            except (DeliveryError, ClientError) as error:  # the others are still to go
                say(f"{stack.name}: NOT deleted: {explained(error)}")
                failed.append(stack.name)
        return failed, left

    def _has_edges(self) -> bool:
        """Tell whether an edge can stand here. Its web ACL is in us-east-1, of the partition aws."""
        return bool(self.client("cloudformation").meta.partition == "aws")

    def _web_acls(self, orders: str, edge: Stack) -> list[Stack]:
        """Return the stacks of web ACLs that are this region's edge's alone."""
        if not self._has_edges():
            return []
        own = self._web_acl(orders)
        # Before a web ACL's stack was named after the region, whichever region had an edge had the other.
        stacks = (own, self.stack(f"{orders}-waf", WEB_ACL_REGION))
        used, found = parameters_of(edge.describe() or {}).get("WebAclArn"), []
        for stack in stacks:
            try:
                arn = stack.outputs().get("WebAclArn")
            except ClientError as error:
                if not is_denied(error):
                    raise
                continue  # a role may look at one of them
            if stack is own or (used and used == arn):
                found.append(stack)
        return found

    def _delete(self, stage: str, stack: Stack) -> list[Kept]:
        """Delete a stack, with what is in the buckets that go with it; return what it keeps."""
        found = stack.describe() or {}
        status = found.get("StackStatus", "")
        if status.endswith("_IN_PROGRESS") and status != "REVIEW_IN_PROGRESS":
            say(f"{stack.name}: another operation runs ({status}); wait")
            stack.wait()
        if stack.status():
            self._delete_standing(stage, stack)
        say(f"{stack.name} is gone")
        return kept_of(stack.skipped(found["StackId"])) if found else []

    def _delete_standing(self, stage: str, stack: Stack) -> None:
        kept = {each.physical_id for each in self._retained(stack)}
        if stage == PRODUCTION:
            stack.protect_from_deletion(on=False)
            self._let_load_balancers_go(stack)
        for resource in stack.resources():
            bucket = resource.get("PhysicalResourceId")
            if resource["ResourceType"] == "AWS::S3::Bucket" and bucket and bucket not in kept:
                self._data().empty(bucket)
        self._delete_patiently(stack)

    def _delete_patiently(self, stack: Stack) -> None:
        """Delete the stack. A web ACL is associated for a while with a distribution that is gone.

        https://docs.aws.amazon.com/waf/latest/APIReference/API_DeleteWebACL.html
        """
        for tries_left in reversed(range(_TRIES)):
            try:
                stack.delete()
                return
            except DeliveryError as error:
                if _STILL_ASSOCIATED not in str(error) or not tries_left:
                    raise
                time.sleep(self._poll * 10)

    def _gone(self) -> list[dict[str, Any]]:
        """Return the stacks that are no more, the last one first; CloudFormation remembers them for 90 days.

        https://docs.aws.amazon.com/AWSCloudFormation/latest/APIReference/API_ListStacks.html
        """
        pages = self.client("cloudformation").get_paginator("list_stacks")
        try:
            found = list(pages.paginate(StackStatusFilter=["DELETE_COMPLETE"]))
        except ClientError as error:
            if not is_denied(error):
                raise
            say("These rights do not let it look for what an interrupted run left behind.")
            return []
        stacks = [stack for page in found for stack in page["StackSummaries"]]
        return sorted(stacks, key=_deleted, reverse=True)

    def _left_by(self, names: Sequence[str], gone: Iterable[Mapping[str, Any]]) -> dict[str, list[Kept]]:
        """Return what stacks of these names kept, if it stands, by name and end of each."""
        left: dict[str, list[Kept]] = {}
        for stack in gone:
            if stack["StackName"] in names:
                kept = kept_of(self.stack(stack["StackName"]).skipped(stack["StackId"]))
                title = f"{stack['StackName']}, deleted {_deleted(stack):%Y-%m-%d %H:%M:%S},"
                if self._data().stand(kept):
                    left.setdefault(title, []).extend(kept)
        return left

    def sweep(self, open_numbers: Sequence[int]) -> None:
        """Destroy the stacks of pull requests that are no longer open, with their data."""
        pages = self.client("cloudformation").get_paginator("list_stacks").paginate()
        stacks = [stack for page in pages for stack in page["StackSummaries"]]
        names = {s["StackName"] for s in stacks if s["StackStatus"] != "DELETE_COMPLETE"}
        # Those that an earlier run removed halfway. Keys go last, and are gone for good after these days.
        since = datetime.now(UTC) - timedelta(days=KEY_REMOVAL_DAYS)
        for stack in stacks:
            name, deleted = (
                stack["StackName"].removesuffix("-edge"),
                stack["StackStatus"] == "DELETE_COMPLETE",
            )
            ours = stale_previews({name} - names, SERVICE, open_numbers)
            if ours and deleted and stack.get("DeletionTime", since) >= since:
                names |= {name} if self._left_by([stack["StackName"]], [stack]) else set()
        stale = stale_previews(names, SERVICE, open_numbers)
        say(f"{len(stale)} stacks of closed pull requests")
        failed = []
        for name in stale:
            try:
                self.destroy(name.removeprefix(f"{SERVICE}-").replace("-", ""), yes=True, data=True)
            except (DeliveryError, ClientError) as error:  # the others are still to go
                say(f"{name}: {explained(error)}")
                failed.append(name)
        if failed:
            raise DeliveryError(f"not removed: {', '.join(failed)}")

    def drift(self, stage: str) -> None:
        """Raise if anything in the stage's stacks, if it has any, is not as its template says."""
        name = stack_name(SERVICE, stage)
        orders = self.stack(name)
        if orders.status() is None:
            say(f"there is no stack {name}: nothing to compare")
            return
        beside = (self.stack(f"{name}-edge"), self._web_acl(name)) if self._has_edges() else ()
        count = 0
        for stack in (orders, *(each for each in beside if each.status())):
            drifted = stack.drifted()
            say(f"{stack.name} {'has drifted:' if drifted else 'is as its templates say'}")
            for line in drifted:
                say(f"  {line}")
            count += len(drifted)
        if count:
            put_back = "`make deploy` and `make edge` put back most"
            raise DeliveryError(f"{name} has drifted in {count} resources; {put_back}")

    def bootstrap(self, stage: str, extra: Sequence[str]) -> None:
        """Create or update the stack that a stage's delivery stands on; previews share `preview`."""
        template = (ROOT / "bootstrap" / "template.yaml").read_text()
        source = load_template(template)
        declared = source["Parameters"]
        given = checked_parameters(named([*extra, f"Stage={bootstrap_stage(stage)}"]), declared)
        if missing := [
            name for name, each in declared.items() if "Default" not in each and name not in given
        ]:
            raise DeliveryError(f"give {', '.join(missing)} in PARAMETERS, as docs/delivery.md shows")
        self._admitted(given, source)
        stack = self.stack(_bootstrap_name(stage))
        status = stack.status()
        if str(status).endswith("_IN_PROGRESS") and status != "REVIEW_IN_PROGRESS":
            status = stack.wait()
        if str(status).startswith("ROLLBACK_"):  # it is never deleted from here
            raise DeliveryError(
                f"the creation of {stack.name} failed: {stack.reason()}; mend that, then "
                f"`aws cloudformation delete-stack --stack-name {stack.name}`, then `make bootstrap` again"
            )
        decision = decide(status, holds_data=True, stack=stack.name)
        if decision.action not in (Action.CREATE, Action.UPDATE):
            raise DeliveryError(f"{stack.name} is left alone: {decision.reason}")
        changed = stack.apply_body(decision.action.name, template, given)
        say(f"{stack.name}: {'complete' if changed else 'nothing to change'}")
        for name, value in sorted(stack.outputs().items()):
            say(f"  {name}: {value}")

    def _tell(self, **outputs: str) -> None:
        """Hand results to a GitHub workflow."""
        if path := self._environ.get("GITHUB_OUTPUT"):
            with open(path, "a", encoding="utf-8") as file:
                file.writelines(f"{name}={value}\n" for name, value in outputs.items())


def _deleted(stack: Mapping[str, Any]) -> datetime:
    """Return when a stack was deleted, or made if it does not say."""
    when: datetime = stack.get("DeletionTime", stack["CreationTime"])
    return when


def _source() -> Template:
    return load_template((ROOT / "template.yaml").read_text())


def github_pull_requests(environ: Mapping[str, str]) -> str:
    """Ask GitHub for the numbers of the open pull requests. Raises DeliveryError."""
    api, repository = environ.get("GITHUB_API_URL", ""), environ.get("GITHUB_REPOSITORY", "")
    if not api.startswith(("https://", "http://127.0.0.1")) or not repository:
        raise DeliveryError("name the open pull requests: make sweep OPEN='3 14' (or OPEN=none)")
    headers = {"Authorization": f"Bearer {environ.get('GITHUB_TOKEN', '')}", "Accept": "application/json"}
    numbers: list[str] = []
    for page in range(1, 101):
        url = f"{api}/repos/{repository}/pulls?state=open&per_page=100&page={page}"
        try:
            with urlopen(Request(url, headers=headers), timeout=30) as answer:  # noqa: S310 (checked above)
                found = [str(pull["number"]) for pull in json.load(answer)]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DeliveryError(f"GitHub did not list the open pull requests: {error}") from None
        numbers += found
        if len(found) < 100:
            return " ".join(numbers) or "none"
    raise DeliveryError("more than 10,000 open pull requests")


def _bootstrap_name(stage: str) -> str:
    return f"{SERVICE}-bootstrap-{bootstrap_stage(stage)}"


def _samconfig() -> dict[str, Any]:
    try:
        return tomllib.loads((ROOT / "samconfig.toml").read_text())
    except (OSError, ValueError) as error:
        raise DeliveryError(f"samconfig.toml cannot be read: {error}") from error


def _edge_templates(pairs: Sequence[str]) -> tuple[list[str], dict[str, str], dict[str, str]]:
    """Return the templates of web ACL and edge, and the parameters given to each. Raises DeliveryError."""
    templates = [(ROOT / name / "template.yaml").read_text() for name in ("waf", "edge")]
    declared = [load_template(template)["Parameters"] for template in templates]
    given = given_parameters(pairs, *declared)
    of_web_acl, of_edge = (checked_parameters(*each) for each in zip(given, declared, strict=True))
    return templates, of_web_acl, of_edge


def _tags(stage: str) -> dict[str, str]:
    """Return what tells the stage's resources from others' in the roles' policies."""
    return {"service": SERVICE, "stage": stage}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _each_once(kept: Iterable[Kept]) -> list[Kept]:
    return list({each.physical_id: each for each in kept}.values())


def _names(kept: Iterable[Kept]) -> str:
    return ", ".join(each.physical_id for each in kept)


def _ask(question: str) -> str | None:
    try:
        return input(question).strip()
    except EOFError:
        return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="delivery", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("key", "package", "deploy", "edge", "rollback", "destroy", "drift", "sweep", "bootstrap"):
        command = commands.add_parser(name)
        if name not in ("key", "sweep"):
            command.add_argument("--stage", default="dev")
        if name in ("package", "deploy", "edge", "bootstrap"):
            command.add_argument("--parameters", default="", help="Name=value pairs between spaces")
        if name == "deploy":
            command.add_argument("--artifact", default="", help="deploy this one, built before: <key>@<hash>")
        if name in ("package", "deploy"):
            command.add_argument(
                "--force", action="store_true", help="build another one though the sources are unchanged"
            )
        if name == "destroy":
            command.add_argument("--yes", action="store_true", help="do not ask; not for production")
            command.add_argument(
                "--data", action="store_true", help="remove the data too; not for production"
            )
        if name == "sweep":
            command.add_argument("--open", default="", help="numbers of the open pull requests, or 'none'")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code: 0 done, 1 failed with a line on standard error, 2 misused."""
    given = _parser().parse_args(argv)
    return reported("error", lambda: _run(given), DeliveryError, ReleaseError)


def _run(given: argparse.Namespace) -> int:
    if given.command == "key":
        say(source_key())
        return 0
    # What can be judged without AWS is judged before it.
    pairs = getattr(given, "parameters", "").split()
    named(pairs)
    if given.command == "sweep":
        numbers = open_pull_requests(given.open or github_pull_requests(os.environ))
        Delivery(session(), os.environ).sweep(numbers)
        return 0
    if (given.command, given.stage) != ("bootstrap", "preview"):
        check_stage(given.stage, _samconfig())
    if given.command == "deploy":
        check_artifact(given.stage, given.artifact)
    if given.command == "destroy":
        check_destroy(given.stage, yes=given.yes, data=given.data)
    if given.command == "edge":
        _edge_templates(pairs)
    _run_for_stage(Delivery(session(), os.environ), given, pairs)
    return 0


def _run_for_stage(delivery: Delivery, given: argparse.Namespace, pairs: Sequence[str]) -> None:
    match given.command:
        case "package":
            delivery.package(given.stage, pairs, force=given.force)
        case "deploy":
            delivery.deploy(given.stage, given.artifact, pairs, force=given.force)
        case "edge":
            delivery.edge(given.stage, pairs)
        case "rollback":
            delivery.rollback(given.stage)
        case "destroy":
            delivery.destroy(given.stage, yes=given.yes, data=given.data)
        case "drift":
            delivery.drift(given.stage)
        case "bootstrap":
            delivery.bootstrap(given.stage, pairs)


if __name__ == "__main__":
    sys.exit(main())
