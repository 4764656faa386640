"""One CloudFormation stack: what it holds, its changes, their progress and the reason of a failure."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from botocore.exceptions import ClientError
from scripts.cli import CliError, one_line, say
from scripts.delivery.decide import let_go, retained_by, stack_policy
from scripts.templates import load_template

_CAPABILITIES = ["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"]
_POLL_SECONDS = 2.0
_OPERATION_SECONDS = 3600
_DRIFT_SECONDS = 900
# CloudFormation compares what it reads, and who looks for drift may read no secret: its value, a header of a
# distribution, task definitions (which never change, and are read of a whole account or not at all).
NOT_COMPARED = {
    "AWS::CloudFront::Distribution",
    "AWS::ECS::TaskDefinition",
    "AWS::SecretsManager::Secret",
}
_CONSUMER = {"Name", "Handler", "QueueUrl", "DeadLetterQueueUrl"}
_NO_CHANGE = ("didn't contain changes", "No updates are to be performed")


class Stack:
    """A stack by its name. Raises CliError where an operation ends badly."""

    def __init__(
        self, cloudformation: Any, name: str, say: Callable[[str], None] = say, poll: float = _POLL_SECONDS
    ) -> None:
        self._cfn, self.name, self._say, self._poll = cloudformation, name, say, poll

    def describe(self) -> dict[str, Any] | None:
        """Return what CloudFormation says of the stack, or None if there is none or it was deleted."""
        try:
            found: dict[str, Any] = self._cfn.describe_stacks(StackName=self.name)["Stacks"][0]
        except ClientError as error:
            if "does not exist" in str(error):
                return None
            raise
        return None if found["StackStatus"] == "DELETE_COMPLETE" else found

    def require(self) -> dict[str, Any]:
        """Return what CloudFormation says of the stack. Raises CliError if there is none."""
        if found := self.describe():
            return found
        region = self._cfn.meta.region_name
        raise CliError(f"there is no stack {self.name} in {region}: are the name and AWS_REGION right?")

    def status(self) -> str | None:
        found = self.describe()
        return str(found["StackStatus"]) if found else None

    def outputs(self) -> dict[str, str]:
        return outputs_of(self.describe() or {})

    def parameters(self) -> dict[str, str]:
        return parameters_of(self.describe() or {})

    def output(self, name: str) -> str:
        """Return an output. Raises CliError if the stack or the output is missing."""
        if name in (outputs := outputs_of(self.require())):
            return outputs[name]
        raise CliError(f"stack {self.name} has no output {name}")

    def ids(self) -> dict[str, str]:
        """Return physical ids by logical id, of nested stacks too; the stack's own come first."""
        found = reversed(self.resources())
        return {r["LogicalResourceId"]: r["PhysicalResourceId"] for r in found if r.get("PhysicalResourceId")}

    def consumers(self) -> dict[str, dict[str, str]]:
        """Return the outputs of each stack of lambda/consumer.yaml by its consumer's name.

        Two consumers have the same logical ids, so `ids` knows only one of them.
        """
        _, own = next(self._tree(self.name))
        nested = (r for r in own if r["ResourceType"] == "AWS::CloudFormation::Stack" and _stands(r))
        found = [Stack(self._cfn, r["PhysicalResourceId"]).outputs() for r in nested]
        return {each["Name"]: each for each in found if each.keys() >= _CONSUMER}

    def template(self) -> str:
        """Return the template as it was deployed."""
        return self._template(self.name)

    def _template(self, stack: str) -> str:
        body = self._cfn.get_template(StackName=stack, TemplateStage="Original")["TemplateBody"]
        return body if isinstance(body, str) else json.dumps(body)

    def _declared(self, stack: str) -> dict[str, Any]:
        declared: dict[str, Any] = load_template(self._template(stack)).get("Resources", {})
        return declared

    def resources(self) -> list[dict[str, Any]]:
        """Return the resources of the stack and of the stacks nested in it."""
        return [resource for _, own in self._tree(self.name) for resource in own]

    def retained(self) -> list[dict[str, Any]]:
        """Return the resources that stand and that their templates retain, of nested stacks too."""
        found = []
        for stack, own in self._tree(self.name):
            kept = retained_by(self._declared(stack))
            found += [r for r in own if r["LogicalResourceId"] in kept and _stands(r)]
        return found

    def _tree(self, stack: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """Yield the stack, and those nested in it, each with its own resources."""
        pages = self._cfn.get_paginator("list_stack_resources").paginate(StackName=stack)
        own = [resource for page in pages for resource in page["StackResourceSummaries"]]
        yield stack, own
        for each in own:
            if each["ResourceType"] == "AWS::CloudFormation::Stack" and _stands(each):
                yield from self._tree(each["PhysicalResourceId"])

    def drifted(self) -> list[str]:
        """Return what is not as the templates say, a line each, here and in the stacks nested in it.

        Raises CliError if CloudFormation could not compare all of it.
        """
        return [line for stack, own in self._tree(self.name) for line in self._drifted(stack, own)]

    def _drifted(self, stack: str, own: list[dict[str, Any]]) -> Iterator[str]:
        compared = [r["LogicalResourceId"] for r in own if r["ResourceType"] not in NOT_COMPARED]
        chosen = {"LogicalResourceIds": compared} if len(compared) < len(own) else {}
        run = self._cfn.detect_stack_drift(StackName=stack, **chosen)["StackDriftDetectionId"]
        found: dict[str, Any] = {}
        for _ in self._ticks(f"looking for drift in {stack}", _DRIFT_SECONDS):
            found = self._cfn.describe_stack_drift_detection_status(StackDriftDetectionId=run)
            if found["DetectionStatus"] != "DETECTION_IN_PROGRESS":
                break
        if found["DetectionStatus"] == "DETECTION_FAILED":
            raise CliError(f"drift of {stack}: {found.get('DetectionStatusReason', 'detection failed')}")
        asked = {"StackName": stack, "StackResourceDriftStatusFilters": ["MODIFIED", "DELETED"]}
        while True:  # the SDK has no paginator for it
            page = self._cfn.describe_stack_resource_drifts(**asked)
            for each in page["StackResourceDrifts"]:
                if (changed := _changed(each)) or not each.get("PropertyDifferences"):
                    what = f"{each['LogicalResourceId']} ({each['ResourceType']})"
                    yield " ".join([f"{what}: {each['StackResourceDriftStatus'].lower()}", *changed])
            if not page.get("NextToken"):
                return
            asked["NextToken"] = page["NextToken"]

    def load_balancers(self) -> list[str]:
        """Return the ARNs of the load balancers in the stack and in the stacks nested in it."""
        return [
            r["PhysicalResourceId"]
            for r in self.resources()
            if r["ResourceType"] == "AWS::ElasticLoadBalancingV2::LoadBalancer" and _stands(r)
        ]

    def skipped(self, stack_id: str = "") -> list[dict[str, Any]]:
        """Return what its deletion, or the rollback of its creation, left standing, in nested stacks too.

        Its events tell. A deleted stack must be asked for by its id.
        https://docs.aws.amazon.com/AWSCloudFormation/latest/APIReference/API_DescribeStackEvents.html
        """
        return list(
            {event["PhysicalResourceId"]: event for event in self._skipped(stack_id or self.name)}.values()
        )

    def _skipped(self, stack: str) -> Iterator[dict[str, Any]]:
        for event in self._events(stack):  # the newest first
            status, physical = event["ResourceStatus"], event.get("PhysicalResourceId")
            if physical == event["StackId"]:
                if not status.startswith(("DELETE_", "ROLLBACK_")):
                    return  # an operation before
            elif event["ResourceType"] == "AWS::CloudFormation::Stack" and status == "DELETE_COMPLETE":
                yield from self._skipped(physical)
            # A version of a function goes with its function.
            elif status == "DELETE_SKIPPED" and physical and event["ResourceType"] != "AWS::Lambda::Version":
                yield event

    def matches(self, template: str, parameters: Mapping[str, str]) -> bool:
        """Tell whether exactly this is deployed and complete."""
        found = self.describe()
        if not found or found["StackStatus"] not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
            return False
        declared = load_template(template).get("Parameters", {})
        given = {name: str(each.get("Default", "")) for name, each in declared.items()} | dict(parameters)
        return parameters_of(found) == given and self.template() == template

    def apply(
        self,
        kind: str,
        template: str,
        parameters: Mapping[str, str],
        tags: Mapping[str, str] = MappingProxyType({}),
        role: str | None = None,
        url: str = "",
    ) -> bool:
        """Carry out a change set of a template; return False if there was nothing to change.

        `url` is where the template lies in a bucket: a text of more than 51,200 bytes must lie in one.
        """
        change_set = f"deploy-{time.time_ns()}"
        request: dict[str, Any] = {
            **({"TemplateURL": url} if url else {"TemplateBody": template}),
            **({"RoleARN": role} if role else {}),
            "Tags": [{"Key": k, "Value": v} for k, v in tags.items()],
            "StackName": self.name,
            "ChangeSetName": change_set,
            "ChangeSetType": kind,
            "Parameters": [{"ParameterKey": k, "ParameterValue": v} for k, v in parameters.items()],
            "Capabilities": _CAPABILITIES,
        }
        self._cfn.create_change_set(**request)
        if not self._await_change_set(change_set):
            return False
        update = kind == "UPDATE"
        before = self.retained() if update else []
        if update:
            self._release(template)
        # What an update that fails made anew goes again, whatever an older template retains: a version of a
        # function would otherwise stay and be in the way. Not what a creation made: a load balancer's log is
        # in its bucket before the first request, and CloudFormation deletes no bucket that holds something.
        # https://docs.aws.amazon.com/AWSCloudFormation/latest/APIReference/API_ExecuteChangeSet.html
        # And what fails is rolled back: the same page names another default.
        how = {"RetainExceptOnCreate": update, "DisableRollback": False}
        named = {"StackName": self.name, "ChangeSetName": change_set}
        self._complete(lambda: self._cfn.execute_change_set(**named, **how))
        there = {each.get("PhysicalResourceId") for each in self.resources()} if before else set()
        for each in before:
            if each["PhysicalResourceId"] not in there:
                what = f"{each['LogicalResourceId']} ({each['PhysicalResourceId']})"
                self._say(f"  {what} left the stack: it stays in the account, with what it holds")
        return True

    def _release(self, template: str) -> None:
        """Let the stack policy allow what the template says may leave the stack.

        Its metadata names that in `LeavesTheStack`; what is only missing may have been forgotten. A change
        set brings no policy of its own for the time of the update, so the stack's is set before:
        https://docs.aws.amazon.com/AWSCloudFormation/latest/APIReference/API_ExecuteChangeSet.html
        """
        deployed, following = self._declared(self.name), load_template(template)
        if leaving := let_go(deployed, following):
            self._set_policy({name: each for name, each in deployed.items() if name not in leaving})

    def change(self, **changes: str) -> None:
        """Update the stack to other values of some parameters; all else stays as it is."""
        parameters = parameters_of(self.require())
        if missing := sorted(changes.keys() - parameters.keys()):
            raise CliError(f"stack {self.name} has no parameter {', '.join(missing)}")
        kept = [{"ParameterKey": k, "UsePreviousValue": True} for k in parameters if k not in changes]
        request = {
            "StackName": self.name,
            "UsePreviousTemplate": True,
            "Parameters": [*kept, *({"ParameterKey": k, "ParameterValue": v} for k, v in changes.items())],
            "Capabilities": _CAPABILITIES,
        }
        try:
            self._complete(lambda: self._cfn.update_stack(**request))
        except ClientError as error:
            if not any(text in str(error) for text in _NO_CHANGE):
                raise

    def _complete(self, start: Callable[[], Any]) -> None:
        """Start an operation and wait until it is complete."""
        seen = self._seen()
        start()
        end = self.wait(seen)
        if end not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
            raise CliError(f"{self.name} is {end}: {self.reason(seen)}")

    def _seen(self) -> set[str]:
        return {event["EventId"] for event in self._events()}

    def _await_change_set(self, change_set: str) -> bool:
        name = {"StackName": self.name, "ChangeSetName": change_set}
        for _ in self._ticks(f"the change set of {self.name}"):
            found = self._cfn.describe_change_set(**name)
            if found["Status"] == "CREATE_COMPLETE":
                return True
            if found["Status"] == "FAILED":
                self._cfn.delete_change_set(**name)
                reason = found.get("StatusReason", "")
                if any(text in reason for text in _NO_CHANGE):
                    return False
                raise CliError(f"the change set of {self.name} failed: {one_line(reason)}")
        return False

    def delete(self) -> None:
        """Delete the stack and wait until it is gone."""
        found = self.describe()
        if not found:
            return
        self.name, named = found["StackId"], self.name  # a deleted stack is known by its id only
        try:
            seen = self._seen()
            self._start_deletion(named)
            end = self.wait(seen)
            if end:
                raise CliError(f"{named} is {end}: {self.reason(seen)}")
        finally:
            self.name = named

    def _start_deletion(self, name: str) -> None:
        try:
            self._cfn.delete_stack(StackName=name)
        except ClientError as error:
            # CloudFormation acts as the role of the last deployment, which a bootstrap made.
            if "cannot be assumed" not in str(error):
                raise
            raise CliError(
                f"{one_line(error)}; if its bootstrap is gone: `aws cloudformation delete-stack "
                f"--stack-name {name} --role-arn <a role for CloudFormation>`, then `make destroy` again"
            ) from error

    def protect(self, template: str, *, termination: bool) -> None:
        """Forbid updates that would replace or delete retained resources, and deletion if asked."""
        self._set_policy(load_template(template).get("Resources", {}))
        if termination:
            self.protect_from_deletion(on=True)

    def _set_policy(self, declared: Mapping[str, Any]) -> None:
        policy = json.dumps(stack_policy(declared))
        self._cfn.set_stack_policy(StackName=self.name, StackPolicyBody=policy)

    def protect_from_deletion(self, *, on: bool) -> None:
        self._cfn.update_termination_protection(StackName=self.name, EnableTerminationProtection=on)

    def wait(self, seen: set[str] | None = None) -> str | None:
        """Wait for the running operation, saying each step; return the status it ends in, if it stands."""
        known = self._seen() if seen is None else set(seen)
        started = time.monotonic()
        for _ in self._ticks(self.name):
            found = self.describe()  # before its events, so that none of them is missed
            for event in reversed(list(self._events())):
                if event["EventId"] not in known:
                    known.add(event["EventId"])
                    self._say(
                        f"  {time.monotonic() - started:5.0f} s  {event.get('LogicalResourceId', ''):32} "
                        f"{event.get('ResourceStatus', '')}"
                    )
            if not found or not found["StackStatus"].endswith("_IN_PROGRESS"):
                return str(found["StackStatus"]) if found else None
        return None

    def reason(self, seen: set[str] | None = None) -> str:
        """Return why the last operation failed: the first failure, from the innermost stack."""
        return self._reason(self.name, seen or set())

    def _reason(self, stack: str, seen: set[str]) -> str:
        for event in reversed(list(self._events(stack))):
            text = event.get("ResourceStatusReason", "")
            if event["EventId"] in seen or not event.get("ResourceStatus", "").endswith("_FAILED"):
                continue
            if not text or "cancelled" in text.lower():
                continue
            nested = event.get("ResourceType") == "AWS::CloudFormation::Stack"
            inner = event.get("PhysicalResourceId", "")
            if nested and inner and inner != event.get("StackId"):
                deeper = self._reason(inner, set())
                if deeper != "no reason given":
                    return deeper
            return f"{event.get('LogicalResourceId')}: {one_line(text)}"
        return "no reason given"

    def _events(self, stack: str | None = None) -> Iterator[dict[str, Any]]:
        try:
            pages = self._cfn.get_paginator("describe_stack_events").paginate(StackName=stack or self.name)
            for page in pages:
                yield from page["StackEvents"]
        except ClientError as error:
            if "does not exist" not in str(error):
                raise

    def _ticks(self, what: str, seconds: int = _OPERATION_SECONDS) -> Iterator[None]:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            yield
            time.sleep(self._poll)
        raise CliError(f"{what} took longer than {seconds} s; it goes on by itself")


def outputs_of(described: Mapping[str, Any]) -> dict[str, str]:
    """Return the outputs of a described stack by name."""
    return {o["OutputKey"]: o["OutputValue"] for o in described.get("Outputs", [])}


def parameters_of(described: Mapping[str, Any]) -> dict[str, str]:
    """Return the parameters of a described stack by name."""
    return {p["ParameterKey"]: p.get("ParameterValue", "") for p in described.get("Parameters", [])}


def _changed(drift: Mapping[str, Any]) -> list[str]:
    """Return the properties that differ, but for an environment that is encrypted with a key of the stack.

    Lambda shows it to those who may use the key: https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars-encryption.html
    """
    paths = [str(each["PropertyPath"]) for each in drift.get("PropertyDifferences", [])]
    hidden = "KmsKeyArn" in json.loads(drift.get("ExpectedProperties") or "{}")
    return [path for path in paths if not (hidden and path.startswith("/Environment"))]


def _stands(resource: Mapping[str, Any]) -> bool:
    """Tell whether it was made and is still there; what could not be deleted is."""
    return bool(resource.get("PhysicalResourceId")) and resource["ResourceStatus"] != "DELETE_COMPLETE"
