"""EventBridge: archives in a template, and log groups as targets."""

from __future__ import annotations

import json
import time
from typing import Any

from ministack.core.responses import new_uuid
from ministack.services import cloudwatch_logs, eventbridge
from ministack.services.cloudformation import provisioners

from localcloud.patches import patch
from localcloud.patches.tools import Properties, add_type, arn, replace, result


@patch
def archives() -> None:
    """AWS does: archive the bus's events. https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-events-archive.html
    The emulator does: reject the type, though its EventBridge has archives and replays.
    Reported as: not reported.
    """

    def create(logical_id: str, props: Properties, stack: str) -> Any:
        name = props.get("ArchiveName") or provisioners._physical_name(stack, logical_id, max_len=48)
        pattern = props.get("EventPattern", "")
        request = {
            "ArchiveName": name,
            "EventSourceArn": props.get("SourceArn", ""),
            "EventPattern": json.dumps(pattern) if isinstance(pattern, dict) else pattern,
            "Description": props.get("Description", ""),
            "RetentionDays": int(props.get("RetentionDays", 0)),
        }
        created = result(eventbridge._create_archive(request))
        return name, {"Arn": created["ArchiveArn"], "ArchiveName": name}

    def update(physical_id: str, old: Properties, new: Properties, stack: str, logical_id: str) -> Any:
        days = int(new.get("RetentionDays", 0))
        eventbridge._update_archive({"ArchiveName": physical_id, "RetentionDays": days})
        return physical_id, {"Arn": arn("events", f"archive/{physical_id}"), "ArchiveName": physical_id}

    def delete(physical_id: str, props: Properties) -> None:
        eventbridge._delete_archive({"ArchiveName": physical_id})

    add_type("AWS::Events::Archive", create, delete, update)


@patch
def log_group_targets() -> None:
    """AWS does: take a log group as a target, by its ARN without `:*`. https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-targets.html
    The emulator does: drop the event, as it has no such target.
    Reported as: not reported.
    """

    @replace(eventbridge, "_invoke_target")
    def invoke_target(original: Any, target: Properties, event: Any, rule: Any, view: Any = None) -> Any:
        _, _, service, *_, group = target.get("Arn", "").split(":", 6)
        if service != "logs":
            return original(target, event, rule, view)
        view = view or eventbridge._pattern_event_view(event)
        entry = {"timestamp": int(time.time() * 1000), "message": json.dumps(view.event_with_detail())}
        request = {"logGroupName": group, "logStreamName": new_uuid()}
        cloudwatch_logs._create_log_stream(request)
        return cloudwatch_logs._put_log_events({**request, "logEvents": [entry]})
