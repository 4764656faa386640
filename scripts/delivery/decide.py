"""What to do, decided from what is there. Pure functions; the rest of the package carries it out."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from scripts.cli import CliError
from scripts.templates import Evaluator, Template

PRODUCTION = "prod"


class Action(Enum):
    """What a deployment does first."""

    CREATE = "create"
    UPDATE = "update"
    DELETE_THEN_CREATE = "delete, then create"
    WAIT = "wait"
    REJECT = "reject"


@dataclass(frozen=True)
class Decision:
    """An action with its reason, one line for the log."""

    action: Action
    reason: str


# Every StackStatus of CloudFormation; tests hold the names against the SDK's.
# https://docs.aws.amazon.com/AWSCloudFormation/latest/APIReference/API_Stack.html
_HEALTHY = {
    "CREATE_COMPLETE",
    "UPDATE_COMPLETE",
    "UPDATE_ROLLBACK_COMPLETE",
    "IMPORT_COMPLETE",
    "IMPORT_ROLLBACK_COMPLETE",
}
_FAILED_CREATION = ("ROLLBACK_COMPLETE", "ROLLBACK_FAILED")
_EVENTS = "`aws cloudformation describe-stack-events --stack-name {stack}` says why"
_HELP = {
    # https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/using-cfn-updating-stacks-continueupdaterollback.html
    "UPDATE_ROLLBACK_FAILED": f"{_EVENTS}; fix that, never delete the stack, then "
    "`aws cloudformation continue-update-rollback --stack-name {stack}`, and deploy again",
    "UPDATE_FAILED": f"{_EVENTS}; go back with `aws cloudformation rollback-stack --stack-name {{stack}}`, "
    "and deploy again",
    **dict.fromkeys(
        ("CREATE_FAILED", *_FAILED_CREATION), f"{_EVENTS}; then `make destroy`, and deploy again"
    ),
    "DELETE_FAILED": f"{_EVENTS}; then `make destroy` again",
}


def decide(status: str | None, *, may_delete: bool = False, stack: str = "it") -> Decision:
    """Return what a deployment may do to a stack in this status; `None` is no stack.

    A stack is deleted in one case only: its first creation failed and was rolled back, so it never served.
    A stack that was ever complete is updated or left alone.
    """
    if status is None or status == "DELETE_COMPLETE":
        return Decision(Action.CREATE, "there is no stack yet")
    if status == "REVIEW_IN_PROGRESS":
        return Decision(Action.CREATE, "only a change set was ever made")
    if status.endswith("_IN_PROGRESS"):
        return Decision(Action.WAIT, f"another operation runs ({status})")
    if status in _HEALTHY:
        return Decision(Action.UPDATE, f"the stack is {status}")
    if status in _FAILED_CREATION and may_delete:
        return Decision(Action.DELETE_THEN_CREATE, "its creation failed")
    return Decision(Action.REJECT, f"the stack is {status}: {_HELP.get(status, _EVENTS).format(stack=stack)}")


_PREVIEW = re.compile(r"preview([0-9]+)")


def bootstrap_stage(stage: str) -> str:
    """Return the stage whose bootstrap serves this one: all pull requests' previews share one."""
    return "preview" if _PREVIEW.fullmatch(stage) else stage


def stack_name(service: str, stage: str) -> str:
    """Return the name of a stage's stack. Raises CliError for what cannot be a stage.

    A pull request's is `<service>-preview-<number>`, so that every name of a bootstrap's stage begins alike.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]{1,15}", stage):
        raise CliError(f"STAGE must be two to sixteen lower-case letters or digits, not {stage!r}")
    if stage in ("bootstrap", "preview"):
        raise CliError(f"the stage {stage!r} is taken by the bootstrap")
    return f"{service}-" + _PREVIEW.sub(r"preview-\1", stage)


def check_stage(stage: str, samconfig: Mapping[str, Any]) -> None:
    """Return if a stage of this name is meant to be. Raises CliError.

    A misspelt one would be deployed as a new stage with the default parameters.
    """
    stack_name("", stage)
    known = {"dev", PRODUCTION, *(name for name, each in samconfig.items() if isinstance(each, Mapping))}
    known |= {named(_overrides(samconfig, name)).get("Stage", "dev") for name in known}
    if stage not in known and not _PREVIEW.fullmatch(stage) and not stage.startswith("test"):
        names = ", ".join(sorted(known - {"default"}))
        raise CliError(
            f"there is no stage {stage!r}: it is one of {names}, begins with `preview` and a number, or with "
            f"`test`; another one needs its section [{stage}.deploy.parameters] in samconfig.toml"
        )


def _overrides(samconfig: Mapping[str, Any], stage: str) -> list[str]:
    section = samconfig.get(stage, samconfig.get("default", {}))
    given = section.get("deploy", {}).get("parameters", {}).get("parameter_overrides", [])
    # One text, as `sam deploy --guided` writes them.
    return shlex.split(given) if isinstance(given, str) else list(given)


def stage_parameters(samconfig: Mapping[str, Any], stage: str, extra: Sequence[str]) -> dict[str, str]:
    """Return a stage's parameters: its section in samconfig.toml ([default] if it has none), then `extra`.

    Nothing is remembered from the deployment before: the file and the command say all there is.
    """
    parameters = named([*_overrides(samconfig, stage), f"Stage={stage}", *extra])
    if parameters["Stage"] != stage:
        raise CliError(f"Stage={parameters['Stage']} contradicts STAGE={stage}")
    return parameters


def named(pairs: Iterable[str]) -> dict[str, str]:
    """Return the values of Name=value pairs by name, the last one of each. Raises CliError."""
    values: dict[str, str] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not name.isalnum():
            raise CliError(f"a parameter is Name=value, not {pair!r}")
        values[name] = value
    return values


def checked_parameters(parameters: Mapping[str, str], declared: Mapping[str, Any]) -> dict[str, str]:
    """Return the parameters if the template declares them and takes their values. Raises CliError."""
    if unknown := sorted(set(parameters) - set(declared)):
        raise CliError(f"the template has no parameter {', '.join(unknown)}")
    for name, value in parameters.items():
        if why := _rejected(value, declared[name] or {}):
            raise CliError(f"{name}={value} is rejected: {why}")
    return dict(parameters)


def check_rules(source: Template, given: Mapping[str, str], region: str, partition: str) -> None:
    """Return if the template's rules admit the parameters. Raises CliError.

    https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/rules-section-structure.html
    """
    here = {"AWS::Region": region, "AWS::Partition": partition}
    if rejections := Evaluator(source, **{**here, **given}).rejections():
        raise CliError(" ".join(rejections))


def _rejected(value: str, declared: Mapping[str, Any]) -> str:
    """Return why a template does not take the value, or nothing.

    https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/parameters-section-structure.html
    """
    of_list = declared.get("Type") == "CommaDelimitedList"
    values = [each.strip() for each in value.split(",")] if of_list else [value]
    allowed = [str(each) for each in declared.get("AllowedValues", [])]
    if allowed and not set(values) <= set(allowed):
        return f"it must be one of {', '.join(allowed)}"
    pattern = str(declared.get("AllowedPattern", ""))
    if pattern and not all(re.fullmatch(pattern, each) for each in values):
        return str(declared.get("ConstraintDescription") or f"it must match {pattern}")
    of_number = declared.get("Type") == "Number"
    least, most = (declared.get(f"{bound}{'Value' if of_number else 'Length'}") for bound in ("Min", "Max"))
    try:
        size = float(value) if of_number else len(value)
    except ValueError:
        return "it must be a number"
    unit = "" if of_number else " characters"
    if least is not None and size < float(least):
        return f"it must be at least {least}{unit}"
    if most is not None and size > float(most):
        return f"it must be at most {most}{unit}"
    return ""


def serving(parameters: Mapping[str, str]) -> set[str]:
    """Return the runtimes that stand with these parameters."""
    both = parameters.get("BothRuntimes") == "true"
    return {"lambda", "fargate"} if both else {parameters.get("Runtime", "")}


def keeps_serving(active: str, parameters: Mapping[str, str]) -> None:
    """Return if the runtime that the CDN sends requests to stays up. Raises CliError."""
    if active not in serving(parameters):
        raise CliError(
            f"the CDN sends requests to {active}, which these parameters take away: "
            f"give Runtime={active} or BothRuntimes=true, or `make switch` first"
        )


def architecture(parameters: Mapping[str, str], declared: Mapping[str, Any]) -> str:
    """Return the architecture that these parameters of a template ask for."""
    default: str = declared.get("Architecture", {}).get("Default", "x86_64")
    return parameters.get("Architecture", default)


def check_artifact(stage: str, name: str) -> None:
    """Return if a stage may be given an artifact of this name, or none. Raises CliError.

    A key is the hash of the sources, followed by a time if that was taken.
    """
    if stage == PRODUCTION and "@" not in name:
        raise CliError("name what dev ran with its hash: ARTIFACT=<key>@<hash>, as `make package` says it")
    if name and not re.fullmatch(r"[0-9a-f]{32}(-[0-9]{8}T[0-9]{6})?(@[0-9a-f]{64})?", name):
        raise CliError(f"ARTIFACT is <key>@<hash>, as `make package` says it, not {name!r}")


def check_destroy(stage: str, *, yes: bool, data: bool) -> None:
    """Return if a stage may be destroyed in this way. Raises CliError for production's data."""
    if stage == PRODUCTION and (yes or data):
        raise CliError("YES and DATA are not for production: type the stack's name, remove data by hand")


@dataclass(frozen=True)
class Record:
    """One finished deployment, as kept in the stage's own bucket. `artifact` is `<key>@<hash>`."""

    at: str
    artifact: str
    version: str
    parameters: Mapping[str, str]
    instead_of: str = ""  # the release that a rollback left

    @property
    def release(self) -> str:
        """What was deployed: the artifact with its parameters."""
        parameters = "".join(f"{name}={value}\0" for name, value in sorted(self.parameters.items()))
        return f"{self.artifact}-{hashlib.sha256(parameters.encode()).hexdigest()[:8]}"


def rollback_target(records: Sequence[Record]) -> Record:
    """Return the newest deployment to go back to, of those before the present one. Raises CliError.

    Skips what runs now and what was rolled back from and not deployed again since, so that two rollbacks
    in a row go back two steps and never forth.
    """
    ordered = sorted(records, key=lambda record: record.at)
    if not ordered:
        raise CliError("no deployment is recorded, so there is none to go back to")
    skipped: set[str] = set()
    for record in ordered:
        skipped.discard(record.release)
        if record.instead_of:
            skipped.add(record.instead_of)
    skipped.add(ordered[-1].release)
    for record in reversed(ordered):
        if record.release not in skipped:
            return record
    raise CliError("there is no earlier deployment to go back to")


def stale_previews(stacks: Iterable[str], service: str, open_numbers: Iterable[int]) -> list[str]:
    """Return the pull-request stacks whose pull request is no longer open; no other stack ever."""
    kept = {f"{service}-preview-{number}" for number in open_numbers}
    ours = re.compile(rf"{re.escape(service)}-preview-[0-9]+")
    return sorted(name for name in stacks if ours.fullmatch(name) and name not in kept)


def open_pull_requests(text: str) -> list[int]:
    """Read the numbers of the open pull requests: 'none', or numbers between spaces. Raises CliError.

    An empty text is rejected: a listing that failed must not look like 'every pull request is closed'.
    """
    words = text.split()
    if words == ["none"]:
        return []
    if not words or not all(word.isdigit() for word in words):
        raise CliError("OPEN must be the numbers of the open pull requests, or 'none'")
    return [int(word) for word in words]


def retained_by(resources: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """Return the names of the resources that outlive their stack."""
    return {n for n, each in resources.items() if str(each.get("DeletionPolicy", "")).startswith("Retain")}


def let_go(deployed: Mapping[str, Mapping[str, Any]], following: Mapping[str, Any]) -> set[str]:
    """Return what the deployed template retains, and the following one has no more and says so.

    CloudFormation keeps it by its last policy, and knows it no longer.
    https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-attribute-deletionpolicy.html
    """
    leaves = set(following.get("Metadata", {}).get("LeavesTheStack", []))
    return (retained_by(deployed) & leaves) - following.get("Resources", {}).keys()


def stack_policy(resources: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the stack policy: no update may replace or delete what the template retains.

    It is of one stack, and not of those nested in it.
    https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/protect-stack-resources.html
    https://github.com/aws-cloudformation/cloudformation-coverage-roadmap/issues/1512
    """
    allow = {"Effect": "Allow", "Principal": "*", "Action": "Update:*", "Resource": "*"}
    kept = [f"LogicalResourceId/{name}" for name in sorted(retained_by(resources))]
    deny = allow | {"Effect": "Deny", "Action": ["Update:Replace", "Update:Delete"], "Resource": kept}
    return {"Statement": [allow, deny] if kept else [allow]}
