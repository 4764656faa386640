"""Deployments: package, deploy, deploy_cdn, roll_back and bootstrap; and drift, which compares."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import ClientError
from scripts.cli import CliError, say
from scripts.delivery.artifact import ROOT, attested, put_once
from scripts.delivery.cdn import WEB_ACL_REGION, edge_parameters, given_parameters, publish
from scripts.delivery.data import kept_of
from scripts.delivery.decide import (
    PRODUCTION,
    Action,
    Record,
    architecture,
    bootstrap_stage,
    check_rules,
    checked_parameters,
    decide,
    keeps_serving,
    rollback_target,
    serving,
    stack_name,
)
from scripts.delivery.stacks import SERVICE, Stacks, bootstrap_name
from scripts.release import version_of
from scripts.stack import Stack, parameters_of
from scripts.templates import Template, load_template


@dataclass(frozen=True)
class Packaged:
    """An artifact, `<key>@<hash>`, and whether it was built now."""

    artifact: str
    built: bool


@dataclass(frozen=True)
class Deployed:
    """The artifact that a stage runs, its address, and whether that is new."""

    artifact: str
    api_url: str
    changed: bool


def package(stacks: Stacks, stage: str, given: Mapping[str, str], *, force: bool = False) -> Packaged:
    """Make the artifact of the sources, unless it is there; with `force`, another one beside it."""
    source = load_template((ROOT / "template.yaml").read_text())
    processor = architecture(_admitted(stacks, given, source), source["Parameters"])
    made = stacks.artifacts(stage).package(version_of(), say, architecture=processor, force=force)
    say(f"ARTIFACT={made[0]}")
    return Packaged(*made)


def deploy(stacks: Stacks, stage: str, artifact: str, parameters: Mapping[str, str]) -> Deployed:
    """Deploy an artifact to the stage, inside the boundary of its bootstrap."""
    boundary = stacks.bootstrap(stage).get("PermissionsBoundaryArn")
    default = {"PermissionsBoundaryArn": boundary} if boundary else {}
    return _deploy(stacks, stage, artifact, {**default, **parameters})


def roll_back(stacks: Stacks, stage: str) -> Deployed:
    """Deploy what ran before, with the parameters it had."""
    known = records(stacks, stage)
    target = rollback_target(known)
    say(f"going back to version {target.version}, artifact {target.artifact}, deployed {target.at}")
    return _deploy(stacks, stage, target.artifact, target.parameters, instead_of=known[-1].release)


def _admitted(stacks: Stacks, given: Mapping[str, str], source: Template, region: str = "") -> dict[str, str]:
    """Return the parameters if the template takes them here, or in a region. Raises CliError."""
    here = stacks.client("cloudformation").meta
    parameters = checked_parameters(given, source.get("Parameters", {}))
    check_rules(source, parameters, region or here.region_name, here.partition)
    return parameters


def _deploy(
    stacks: Stacks, stage: str, name: str, given: Mapping[str, str], instead_of: str = ""
) -> Deployed:
    artifacts, key = stacks.artifacts(stage), name.partition("@")[0]
    name = name if "@" in name else artifacts.named(key)
    manifest, template = artifacts.verified(name)
    if workflow := stacks.environ.get("ATTESTED_BY"):
        attested(manifest, stacks.environ["GITHUB_REPOSITORY"], workflow)
    release, source = json.loads(manifest), load_template(template)
    parameters, declared = _admitted(stacks, given, source), source.get("Parameters", {})
    built_for = release["architecture"]
    if architecture(parameters, declared) != built_for:
        raise CliError(f"artifact {key} is built for {built_for}: give Architecture={built_for}")
    values = {name: str(each.get("Default", "")) for name, each in declared.items()} | parameters
    stack, edge = stacks.of(stage), stacks.edge(stage).outputs()
    if edge:
        keeps_serving(edge["ActiveOrigin"], values)
    kind = _prepare(stacks, stack, may_delete=stage != PRODUCTION)
    at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    record = Record(at, name, str(release["version"]), parameters, instead_of)
    if kind == "UPDATE" and stack.matches(template, parameters):
        say(f"{stack.name} runs artifact {key} with these parameters: nothing to do")
        # A run that was interrupted did the work and could not record it.
        changed = record.release not in [last.release for last in records(stacks, stage)[-1:]]
        _protect(stack, stage, template)
    else:
        if stage == PRODUCTION and kind == "UPDATE" and "fargate" not in serving(values):
            stacks.unprotect_load_balancers(stack)
        role, url = stacks.bootstrap(stage).get("ExecutionRoleArn"), artifacts.url(key)
        changed = _apply(stack, stage, kind, template, parameters, role, url)
    if changed:
        body = json.dumps(asdict(record), sort_keys=True).encode()
        put_once(stacks.client("s3"), *_history(stacks, stage, f"{record.at}.json"), body)
    # Behind a CDN the API may answer nobody else.
    address = edge.get("EdgeUrl") or stack.outputs().get("ApiUrl", "")
    if address:
        say(f"Address: {address}")
    return Deployed(name, address, changed)


def _apply(
    stack: Stack,
    stage: str,
    kind: str,
    template: str,
    parameters: Mapping[str, str],
    role: str | None,
    url: str = "",
) -> bool:
    """Create or update a stack of the stage, and protect it; return whether anything changed."""
    say(f"{stack.name}: {kind.lower()}")
    changed = stack.apply(kind, template, parameters, tags_of(stage), role, url)
    say(f"{stack.name}: {'complete' if changed else 'nothing to change'}")
    _protect(stack, stage, template)
    return changed


def _protect(stack: Stack, stage: str, template: str) -> None:
    stack.protect(template, termination=stage == PRODUCTION)


def _prepare(stacks: Stacks, stack: Stack, *, may_delete: bool) -> str:
    """Act on the decision until a change set can be made; return the kind of it."""
    while True:
        decision = decide(stack.status(), may_delete=may_delete, stack=stack.name)
        if decision.action is Action.REJECT:
            raise CliError(f"{stack.name} is left alone: {decision.reason}")
        if decision.action in (Action.CREATE, Action.UPDATE):
            return decision.action.name
        say(f"{stack.name}: {decision.reason}; {decision.action.value}")
        if decision.action is Action.WAIT:
            stack.wait()
        else:
            own = stack.require()["StackId"]
            stack.delete()
            for left in kept_of(stack.skipped(own)):
                gone = left.kind == "AWS::S3::Bucket" and _removed_empty(
                    stacks.client("s3"), left.physical_id
                )
                what = "removed, it was empty" if gone else "stays in the account, with what it holds"
                say(f"  {left.logical_id} ({left.physical_id}) {what}")


def _removed_empty(s3: Any, bucket: str) -> bool:
    """Delete a bucket unless something is in it; tell whether it went."""
    try:
        s3.delete_bucket(Bucket=bucket)
    except ClientError:
        return False
    return True


def _history(stacks: Stacks, stage: str, name: str = "") -> tuple[str, str]:
    """Return the bucket and the key of a record of the stage, or what all their keys begin with."""
    made = stacks.bootstrap(stage)
    bucket = made.get("HistoryBucketName", made["ArtifactBucketName"])
    return bucket, f"deployments/{stack_name(SERVICE, stage)}/{name}"


def records(stacks: Stacks, stage: str) -> list[Record]:
    """Return the deployments of a stage, oldest first."""
    s3, (bucket, prefix) = stacks.client("s3"), _history(stacks, stage)
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    keys = sorted(o["Key"] for page in pages for o in page.get("Contents", []))[-50:]
    bodies = [s3.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys]
    return [Record(**json.loads(body)) for body in bodies]


def deploy_cdn(stacks: Stacks, stage: str, pairs: Sequence[str]) -> None:
    """Deploy the CloudFront distribution: its web ACL in us-east-1, its own stack, the console."""
    orders, web_acl, edge = stacks.of(stage), stacks.web_acl(stage), stacks.edge(stage)
    found, before = orders.describe(), edge.describe()
    if not found:
        raise CliError(f"there is no stack {orders.name}: deploy it first")
    deployed = parameters_of(found)
    # What `make switch` set stays.
    active = edge.outputs().get("ActiveOrigin", deployed["Runtime"])
    known = edge_parameters(orders.outputs(), active)
    templates, of_web_acl, of_edge = edge_templates(pairs)
    of_web_acl["Scope"] = "CLOUDFRONT"
    # Both, before either stack is touched.
    known = _admitted(stacks, known | of_edge, load_template(templates[1]))
    of_web_acl = _admitted(stacks, of_web_acl, load_template(templates[0]), WEB_ACL_REGION)
    # Without a bootstrap CloudFormation acts for the caller.
    role, may_delete = stacks.made(stage).get("ExecutionRoleArn"), stage != PRODUCTION
    _apply(web_acl, stage, _prepare(stacks, web_acl, may_delete=may_delete), templates[0], of_web_acl, role)
    known["WebAclArn"] = web_acl.outputs()["WebAclArn"]
    _apply(edge, stage, _prepare(stacks, edge, may_delete=may_delete), templates[1], known, role)
    if before and parameters_of(before).get("WebAclArn", "") not in ("", known["WebAclArn"]):
        say(f"{edge.name} had another web ACL, of the stack {orders.name}-waf in {WEB_ACL_REGION}.")
        say("  That stack is left; docs/edge.md says when to delete it")
    made = edge.outputs()
    count = publish(stacks.client, made["ConsoleBucketName"], made["DistributionId"])
    say(f"{count} files published at {made['EdgeUrl']}/console/")
    keep = {"OriginSecretArn": made["OriginSecretArn"], "CorsOrigins": made["EdgeUrl"]}
    if any(value not in deployed[name].split(",") for name, value in keep.items()):
        say(f"Until {orders.name} has these, its origins answer everybody and the console cannot upload:")
        say(f"  {' '.join(f'{name}={value}' for name, value in keep.items())}")


def edge_templates(pairs: Sequence[str]) -> tuple[list[str], dict[str, str], dict[str, str]]:
    """Return the templates of web ACL and CDN, and the parameters given to each. Raises CliError."""
    templates = [(ROOT / name / "template.yaml").read_text() for name in ("waf", "edge")]
    declared = [load_template(template)["Parameters"] for template in templates]
    given = given_parameters(pairs, *declared)
    of_web_acl, of_edge = (checked_parameters(*each) for each in zip(given, declared, strict=True))
    return templates, of_web_acl, of_edge


def drift(stacks: Stacks, stage: str) -> None:
    """Raise if anything in the stage's stacks, if it has any, is not as its template says."""
    orders = stacks.of(stage)
    if orders.status() is None:
        say(f"there is no stack {orders.name}: nothing to compare")
        return
    beside = (stacks.edge(stage), stacks.web_acl(stage)) if stacks.has_cdn() else ()
    count = 0
    for stack in (orders, *(each for each in beside if each.status())):
        drifted = stack.drifted()
        say(f"{stack.name} {'has drifted:' if drifted else 'is as its templates say'}")
        for line in drifted:
            say(f"  {line}")
        count += len(drifted)
    if count:
        put_back = "a drift-aware change set puts them back, docs/delivery.md"
        raise CliError(f"{orders.name} has drifted in {count} resources; {put_back}")


def bootstrap(stacks: Stacks, stage: str, given: Mapping[str, str]) -> None:
    """Create or update the stack that a stage's delivery stands on; previews share `preview`."""
    template = (ROOT / "bootstrap" / "template.yaml").read_text()
    source = load_template(template)
    declared = source["Parameters"]
    given = checked_parameters({**given, "Stage": bootstrap_stage(stage)}, declared)
    if missing := [n for n, each in declared.items() if "Default" not in each and n not in given]:
        raise CliError(f"give {', '.join(missing)} in PARAMETERS, as docs/delivery.md shows")
    _admitted(stacks, given, source)
    stack = stacks.stack(bootstrap_name(stage))
    try:
        kind = _prepare(stacks, stack, may_delete=False)
    except CliError:
        if not str(stack.status()).startswith("ROLLBACK_"):
            raise
        raise CliError(
            f"the creation of {stack.name} failed: {stack.reason()}; fix that, then "
            f"`aws cloudformation delete-stack --stack-name {stack.name}`, then `make bootstrap` again"
        ) from None
    changed = stack.apply(kind, template, given)
    say(f"{stack.name}: {'complete' if changed else 'nothing to change'}")
    for name, value in sorted(stack.outputs().items()):
        say(f"  {name}: {value}")


def tags_of(stage: str) -> dict[str, str]:
    """Return what tells the stage's resources from others' in the roles' policies."""
    return {"service": SERVICE, "stage": stage}
