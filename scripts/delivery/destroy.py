"""Removal: destroy, and the clean-up of previews."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from botocore.exceptions import ClientError
from scripts.aws import explained, is_denied
from scripts.cli import CliError, say
from scripts.delivery.cdn import WEB_ACL_REGION
from scripts.delivery.data import KEY_REMOVAL_DAYS, Kept, kept_of
from scripts.delivery.decide import PRODUCTION, bootstrap_stage, check_destroy, stale_previews
from scripts.delivery.stacks import SERVICE, Stacks, each_once
from scripts.stack import Stack

# CloudFormation passes on WAF's sentence, not the name of the exception (WAFAssociatedItemException).
# https://docs.aws.amazon.com/waf/latest/APIReference/API_DeleteWebACL.html
_STILL_ASSOCIATED = "associated with another resource"
_TRIES = 15  # with the usual pause five minutes


# How the name of a stack is asked for; nobody is asked without.
Ask = Callable[[str], str | None]


def destroy(stacks: Stacks, stage: str, *, data: bool, ask: Ask | None = None) -> None:
    """Delete the stage's stacks; keep its data, unless asked, and say what that costs.

    A run that a fault ended is taken up by the next, by what CloudFormation says of stacks that are gone.
    """
    check_destroy(stage, yes=ask is None, data=data)
    edge, orders = stacks.edge(stage), stacks.of(stage)
    name = orders.name
    # Requests come by the CDN first, and its distribution holds the web ACL.
    standing = [each for each in (edge, *_web_acls(stacks, stage), orders) if each.status()]
    # Data of an earlier stack is not that of the one that stands; a CDN keeps nothing but logs.
    names = [edge.name] if orders in standing else [edge.name, name]
    gone = _gone(stacks) if data or not standing else []
    if ask is None and bootstrap_stage(stage) == stage:
        # Nobody reads what is of which stack: it may end what an interrupted run began, and no more.
        gone = list({each["StackName"]: each for each in reversed(gone)}.values())
    earlier = _left_by(stacks, names, gone)
    own = (orders.describe() or {}).get("StackId")
    # A queue is seen for a minute after it was deleted, so those of this run do not count below.
    removed = {own} if own else {each["StackId"] for each in gone}
    if not standing and not earlier:
        say(f"there is no stack {name}, and nothing left of it")
        _say_of_others(stacks, stage, removed)
        return
    kept = {each.name: stacks.retained(each) for each in standing}
    _announce(name, kept, earlier, data=data)
    if (standing or data) and ask and ask(f"Type {name} to go on: ") != name:
        raise CliError("the name typed is not the stack's; nothing was done")
    left, failed = _delete_each(stacks, stage, standing)
    left = each_once([*left, *(each for some in earlier.values() for each in some)])
    if data:
        failed += [each.physical_id for each in stacks.data().remove(left)]
    elif left:
        say("Retained:")
        for line in stacks.data().report(left):
            say(line)
    if failed:
        raise CliError(f"not removed: {', '.join(failed)}; `make destroy` again goes on from here")
    if data:
        _say_of_others(stacks, stage, removed)


def _say_of_others(stacks: Stacks, stage: str, removed: Container[str | None]) -> None:
    """Say so if stacks of this name kept something, other than those that were looked at."""
    name = stacks.of(stage).name
    if _left_by(stacks, [name], [each for each in _gone(stacks) if each["StackId"] not in removed]):
        asks = f"`make destroy STAGE={stage} DATA=delete`"
        say(f"An earlier {name} kept data, too: {asks} shows it and asks.")


def _announce(
    name: str, kept: Mapping[str, Sequence[Kept]], earlier: Mapping[str, Sequence[Kept]], *, data: bool
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


def _web_acls(stacks: Stacks, stage: str) -> list[Stack]:
    """Return the stacks of web ACLs that are this region's edge's alone."""
    if not stacks.has_cdn():
        return []
    own = stacks.web_acl(stage)
    # Before a web ACL's stack was named after the region, whichever region had a CDN had the other.
    old = stacks.stack(f"{stacks.of(stage).name}-waf", WEB_ACL_REGION)
    used, found = stacks.edge(stage).parameters().get("WebAclArn"), []
    for stack in (own, old):
        try:
            arn = stack.outputs().get("WebAclArn")
        except ClientError as error:
            if not is_denied(error):
                raise
            continue  # a role may look at one of them
        if stack is own or (used and used == arn):
            found.append(stack)
    return found


def _delete_each(stacks: Stacks, stage: str, standing: Sequence[Stack]) -> tuple[list[Kept], list[str]]:
    """Delete the stacks; return what those that are gone keep, and the names of those that stay."""
    left, failed = list[Kept](), list[str]()
    for stack in standing:
        try:
            left += _delete(stacks, stage, stack)
        except (CliError, ClientError) as error:  # the others are still to go
            say(f"{stack.name}: NOT deleted: {explained(error)}")
            failed.append(stack.name)
    return left, failed


def _delete(stacks: Stacks, stage: str, stack: Stack) -> list[Kept]:
    """Delete a stack, with what is in the buckets that go with it; return what it keeps."""
    found = stack.require()
    status, kept = found["StackStatus"], list[Kept]()
    if status.endswith("_IN_PROGRESS") and status != "REVIEW_IN_PROGRESS":
        say(f"{stack.name}: another operation runs ({status}); wait")
        stack.wait()
    if stack.status():
        kept = stacks.retained(stack)
        if stage == PRODUCTION:
            stack.protect_from_deletion(on=False)
            stacks.unprotect_load_balancers(stack)
        going = {r["PhysicalResourceId"] for r in stack.resources() if _is_bucket(r)}
        for bucket in sorted(going - {each.physical_id for each in kept}):
            stacks.data().empty(bucket)
        _delete_patiently(stack, stacks.poll * 10)
    say(f"{stack.name} is gone")
    return each_once([*kept, *kept_of(stack.skipped(found["StackId"]))])


def _is_bucket(resource: Mapping[str, Any]) -> bool:
    return resource["ResourceType"] == "AWS::S3::Bucket" and bool(resource.get("PhysicalResourceId"))


def _delete_patiently(stack: Stack, pause: float) -> None:
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
            time.sleep(pause)


def _gone(stacks: Stacks) -> list[dict[str, Any]]:
    """Return the stacks that are no more, the last one first; CloudFormation remembers them for 90 days.

    https://docs.aws.amazon.com/AWSCloudFormation/latest/APIReference/API_ListStacks.html
    """
    try:
        found = _listed(stacks, StackStatusFilter=["DELETE_COMPLETE"])
    except ClientError as error:
        if not is_denied(error):
            raise
        say("These rights do not let it look for what an interrupted run left behind.")
        return []
    return sorted(found, key=_deleted, reverse=True)


def _listed(stacks: Stacks, **wanted: Any) -> list[dict[str, Any]]:
    pages = stacks.client("cloudformation").get_paginator("list_stacks").paginate(**wanted)
    return [stack for page in pages for stack in page["StackSummaries"]]


def _left_by(
    stacks: Stacks, names: Sequence[str], gone: Iterable[Mapping[str, Any]]
) -> dict[str, list[Kept]]:
    """Return what stacks of these names kept, if it stands, by name and end of each."""
    left: dict[str, list[Kept]] = {}
    for stack in gone:
        if stack["StackName"] in names:
            kept = kept_of(stacks.stack(stack["StackName"]).skipped(stack["StackId"]))
            title = f"{stack['StackName']}, deleted {_deleted(stack):%Y-%m-%d %H:%M:%S},"
            if stacks.data().stand(kept):
                left.setdefault(title, []).extend(kept)
    return left


def clean_up_previews(stacks: Stacks, open_numbers: Sequence[int]) -> None:
    """Destroy the stacks of pull requests that are no longer open, with their data."""
    found = _listed(stacks)
    names = {s["StackName"] for s in found if s["StackStatus"] != "DELETE_COMPLETE"}
    # Those that an earlier run removed halfway. Keys go last, and are gone for good after these days.
    since = datetime.now(UTC) - timedelta(days=KEY_REMOVAL_DAYS)
    for stack in found:
        name = stack["StackName"].removesuffix("-edge")
        ours = stale_previews({name} - names, SERVICE, open_numbers)
        gone = stack["StackStatus"] == "DELETE_COMPLETE" and stack.get("DeletionTime", since) >= since
        if ours and gone and _left_by(stacks, [stack["StackName"]], [stack]):
            names.add(name)
    stale = stale_previews(names, SERVICE, open_numbers)
    say(f"{len(stale)} stacks of closed pull requests")
    failed = []
    for name in stale:
        try:
            destroy(stacks, name.removeprefix(f"{SERVICE}-").replace("-", ""), data=True)
        except (CliError, ClientError) as error:  # the others are still to go
            say(f"{name}: {explained(error)}")
            failed.append(name)
    if failed:
        raise CliError(f"not removed: {', '.join(failed)}")


def _deleted(stack: Mapping[str, Any]) -> datetime:
    """Return when a stack was deleted, or made if it does not say."""
    when: datetime = stack.get("DeletionTime", stack["CreationTime"])
    return when
