"""Deployments: package, deploy, deploy-cdn, rollback and bootstrap; and drift, which compares."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from scripts.cli import CliError, say
from scripts.delivery.artifact import ROOT, attested, put_once
from scripts.delivery.cdn import WEB_ACL_REGION, edge_parameters, given_parameters, publish
from scripts.delivery.data import Kept
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
    named,
    rollback_target,
    serving,
    stack_name,
    stage_parameters,
)
from scripts.delivery.stacks import SERVICE, Stacks, bootstrap_name
from scripts.release import version_of
from scripts.stack import Stack, parameters_of
from scripts.templates import Template, load_template


class Deployer(Stacks):
    """The commands that change a stage's stacks to what the sources or an artifact say."""

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
        """Deploy the artifact (made now if none is named) to the stage, with the parameters."""
        parameters = self._parameters(stage, extra)
        if not artifact:
            self._admitted(parameters, _source())
        name = artifact or self.package(stage, extra, force=force)
        if boundary := self._bootstrap(stage).get("PermissionsBoundaryArn"):
            parameters.setdefault("PermissionsBoundaryArn", boundary)
        self._deploy(stage, name, parameters)

    def _parameters(self, stage: str, extra: Sequence[str]) -> dict[str, str]:
        return stage_parameters(samconfig(), stage, extra)

    def _admitted(self, given: Mapping[str, str], source: Template, region: str = "") -> dict[str, str]:
        """Return the parameters if the template takes them here, or in a region. Raises CliError."""
        here = self.client("cloudformation").meta
        parameters = checked_parameters(given, source.get("Parameters", {}))
        check_rules(source, parameters, region or here.region_name, here.partition)
        return parameters

    def _deploy(self, stage: str, name: str, parameters: Mapping[str, str], instead_of: str = "") -> None:
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
            raise CliError(f"artifact {key} is built for {built_for}: give Architecture={built_for}")
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
                self._unprotect_load_balancers(stack)
            url, role = artifacts.url(key), self._bootstrap(stage).get("ExecutionRoleArn")
            changed = stack.apply(kind, url, parameters, tags_of(stage), role)
            say(f"{stack.name}: {'complete' if changed else 'nothing to change'}")
        stack.protect(template, termination=stage == PRODUCTION)
        if changed:
            self._record(stage, record)
        # Behind a CDN the API may answer nobody else.
        url = edge.get("EdgeUrl") or stack.outputs().get("ApiUrl", "")
        if url:
            say(f"Address: {url}")
        self._tell(artifact=name, api_url=url, changed=str(changed).lower())

    def deploy_cdn(self, stage: str, extra: Sequence[str]) -> None:
        """Deploy the CloudFront distribution: its web ACL in us-east-1, its own stack, the console."""
        orders = self.stack(stack_name(SERVICE, stage))
        found = orders.describe()
        if not found:
            raise CliError(f"there is no stack {orders.name}: deploy it first")
        web_acl = self._web_acl(orders.name)
        edge = self.stack(f"{orders.name}-edge")
        before = edge.describe()
        deployed = parameters_of(found)
        # What `make switch` set stays.
        active = edge.outputs().get("ActiveOrigin", deployed["Runtime"])
        known = edge_parameters(orders.outputs(), active)
        templates, of_web_acl, of_edge = edge_templates(extra)
        of_web_acl["Scope"] = "CLOUDFRONT"
        # Both, before either stack is touched.
        known = self._admitted(known | of_edge, load_template(templates[1]))
        of_web_acl = self._admitted(of_web_acl, load_template(templates[0]), WEB_ACL_REGION)
        self._deploy_beside(stage, web_acl, templates[0], of_web_acl)
        known["WebAclArn"] = web_acl.outputs()["WebAclArn"]
        self._deploy_beside(stage, edge, templates[1], known)
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

    def _deploy_beside(self, stage: str, stack: Stack, template: str, parameters: Mapping[str, str]) -> None:
        """Deploy a template of the sources to a stack beside the stage's, and protect it."""
        kind = self._prepare(stack)
        say(f"{stack.name}: {kind.lower()}")
        role = self._made(stage).get(
            "ExecutionRoleArn"
        )  # without a bootstrap CloudFormation acts for the caller
        changed = stack.apply(kind, template, parameters, tags_of(stage), role)
        say(f"{stack.name}: {'complete' if changed else 'nothing to change'}")
        stack.protect(template, termination=stage == PRODUCTION)

    def _prepare(self, stack: Stack) -> str:
        """Act on the decision until a change set can be made; return the kind of it."""
        while True:
            status = stack.status()
            holds = str(status).startswith("ROLLBACK_") and self._data().held(self._retained(stack))
            decision = decide(status, holds_data=holds, stack=stack.name)
            if decision.action is Action.REJECT:
                raise CliError(f"{stack.name} is left alone: {decision.reason}")
            if decision.action in (Action.CREATE, Action.UPDATE):
                return decision.action.name
            say(f"{stack.name}: {decision.reason}; {decision.action.value}")
            if decision.action is Action.WAIT:
                stack.wait()
            else:
                # Before the stack, which alone knows of it, should this be interrupted.
                if left := self._data().remove(self._retained(stack)):
                    raise CliError(f"not removed: {_names(left)}; see above, then deploy again")
                stack.delete()

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
        self._deploy(stage, target.artifact, target.parameters, instead_of=records[-1].release)

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
            put_back = "`make deploy` and `make deploy-cdn` put back most"
            raise CliError(f"{name} has drifted in {count} resources; {put_back}")

    def bootstrap(self, stage: str, extra: Sequence[str]) -> None:
        """Create or update the stack that a stage's delivery stands on; previews share `preview`."""
        template = (ROOT / "bootstrap" / "template.yaml").read_text()
        source = load_template(template)
        declared = source["Parameters"]
        given = checked_parameters(named([*extra, f"Stage={bootstrap_stage(stage)}"]), declared)
        if missing := [
            name for name, each in declared.items() if "Default" not in each and name not in given
        ]:
            raise CliError(f"give {', '.join(missing)} in PARAMETERS, as docs/delivery.md shows")
        self._admitted(given, source)
        stack = self.stack(bootstrap_name(stage))
        status = stack.status()
        if str(status).endswith("_IN_PROGRESS") and status != "REVIEW_IN_PROGRESS":
            status = stack.wait()
        if str(status).startswith("ROLLBACK_"):  # it is never deleted from here
            raise CliError(
                f"the creation of {stack.name} failed: {stack.reason()}; fix that, then "
                f"`aws cloudformation delete-stack --stack-name {stack.name}`, then `make bootstrap` again"
            )
        decision = decide(status, holds_data=True, stack=stack.name)
        if decision.action not in (Action.CREATE, Action.UPDATE):
            raise CliError(f"{stack.name} is left alone: {decision.reason}")
        changed = stack.apply(decision.action.name, template, given)
        say(f"{stack.name}: {'complete' if changed else 'nothing to change'}")
        for name, value in sorted(stack.outputs().items()):
            say(f"  {name}: {value}")

    def _tell(self, **outputs: str) -> None:
        """Hand results to a GitHub workflow."""
        if path := self._environ.get("GITHUB_OUTPUT"):
            with open(path, "a", encoding="utf-8") as file:
                file.writelines(f"{name}={value}\n" for name, value in outputs.items())


def _source() -> Template:
    return load_template((ROOT / "template.yaml").read_text())


def samconfig() -> dict[str, Any]:
    try:
        return tomllib.loads((ROOT / "samconfig.toml").read_text())
    except (OSError, ValueError) as error:
        raise CliError(f"samconfig.toml cannot be read: {error}") from error


def edge_templates(pairs: Sequence[str]) -> tuple[list[str], dict[str, str], dict[str, str]]:
    """Return the templates of web ACL and CDN, and the parameters given to each. Raises CliError."""
    templates = [(ROOT / name / "template.yaml").read_text() for name in ("waf", "edge")]
    declared = [load_template(template)["Parameters"] for template in templates]
    given = given_parameters(pairs, *declared)
    of_web_acl, of_edge = (checked_parameters(*each) for each in zip(given, declared, strict=True))
    return templates, of_web_acl, of_edge


def tags_of(stage: str) -> dict[str, str]:
    """Return what tells the stage's resources from others' in the roles' policies."""
    return {"service": SERVICE, "stage": stage}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _names(kept: Iterable[Kept]) -> str:
    return ", ".join(each.physical_id for each in kept)
