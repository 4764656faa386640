"""Removal: destroy, and the clean-up of previews."""

from __future__ import annotations

import time
from collections.abc import Container, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from subprocess import PIPE
from typing import Any

from botocore.exceptions import ClientError
from scripts.aws import explained, is_denied
from scripts.cli import CliError, ask, run_program, say
from scripts.delivery.artifact import ROOT
from scripts.delivery.cdn import WEB_ACL_REGION
from scripts.delivery.data import KEY_REMOVAL_DAYS, Kept, kept_of
from scripts.delivery.decide import PRODUCTION, bootstrap_stage, may_destroy, stack_name, stale_previews
from scripts.delivery.stacks import SERVICE, Stacks, each_once
from scripts.stack import Stack, parameters_of

# CloudFormation passes on WAF's sentence, not the name of the exception (WAFAssociatedItemException).
# https://docs.aws.amazon.com/waf/latest/APIReference/API_DeleteWebACL.html
_STILL_ASSOCIATED = "associated with another resource"
_TRIES = 15  # with the usual pause five minutes


class Destroyer(Stacks):
    """The commands that remove a stage's stacks."""

    def destroy(self, stage: str, *, yes: bool, data: bool) -> None:
        """Delete the stage's stacks; keep its data, unless asked, and say what that costs.

        A run that a fault ended is taken up by the next, by what CloudFormation says of stacks that are gone.
        """
        name = stack_name(SERVICE, stage)
        # Requests come by the CDN first, and its distribution holds the web ACL.
        edge, orders = self.stack(f"{name}-edge"), self.stack(name)
        stacks = [each for each in (edge, *self._web_acls(name, edge), orders) if each.status()]
        # Data of an earlier stack is not that of the one that stands; a CDN keeps nothing but logs.
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
            typed = None if yes else ask(f"Type {name} to go on: ")
            may_destroy(name, stage, yes=yes, data=data, typed=typed)
        failed, left = self._delete_each(stage, stacks, kept)
        left = each_once([*left, *(each for some in earlier.values() for each in some)])
        if data:
            failed += [each.physical_id for each in self._data().remove(left)]
        elif left:
            say("Retained:")
            for line in self._data().report(left):
                say(line)
        if failed:
            raise CliError(f"not removed: {', '.join(failed)}; `make destroy` again goes on from here")
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
        own = each_once(each for some in kept.values() for each in some)
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
                left += each_once([*kept[stack.name], *self._delete(stage, stack)])
            except (CliError, ClientError) as error:  # the others are still to go
                say(f"{stack.name}: NOT deleted: {explained(error)}")
                failed.append(stack.name)
        return failed, left

    def _web_acls(self, orders: str, edge: Stack) -> list[Stack]:
        """Return the stacks of web ACLs that are this region's edge's alone."""
        if not self._has_edges():
            return []
        own = self._web_acl(orders)
        # Before a web ACL's stack was named after the region, whichever region had a CDN had the other.
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
            self._unprotect_load_balancers(stack)
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
            except CliError as error:
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

    def clean_up_previews(self, open_numbers: Sequence[int]) -> None:
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
            except (CliError, ClientError) as error:  # the others are still to go
                say(f"{name}: {explained(error)}")
                failed.append(name)
        if failed:
            raise CliError(f"not removed: {', '.join(failed)}")


def _deleted(stack: Mapping[str, Any]) -> datetime:
    """Return when a stack was deleted, or made if it does not say."""
    when: datetime = stack.get("DeletionTime", stack["CreationTime"])
    return when


def github_pull_requests(environ: Mapping[str, str]) -> str:
    """Ask GitHub for the numbers of the open pull requests. Raises CliError."""
    if not (repository := environ.get("GITHUB_REPOSITORY")):
        raise CliError("name the open pull requests: make clean-up-previews OPEN='3 14' (or OPEN=none)")
    path = f"repos/{repository}/pulls?state=open&per_page=100"
    numbers = run_program("gh", "api", "--paginate", path, "--jq", ".[].number", cwd=ROOT, output=PIPE)
    return " ".join(numbers.split()) or "none"
