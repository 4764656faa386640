"""CloudWatch: alarms on metric math, and composite alarms."""

from __future__ import annotations

from typing import Any

from ministack.services import cloudwatch
from ministack.services.cloudformation import provisioners

from localcloud.patches import patch
from localcloud.patches.tools import Properties, add_type, arn, replace_handler, result


def _name(logical_id: str, props: Properties, stack: str) -> str:
    return props.get("AlarmName") or provisioners._physical_name(stack, logical_id)


def _attributes(name: str) -> dict[str, str]:
    return {"Arn": arn("cloudwatch", f"alarm:{name}")}


@patch
def alarms() -> None:
    """AWS does: evaluate metric math, and the states of other alarms. https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/Create_Composite_Alarm.html
    The emulator does: reject `Metrics` in an alarm, and the type of composite alarms.
    Reported as: https://github.com/ministackorg/ministack/pull/265, which rejects `Metrics` on purpose.
    Here alarms on metric math have no behaviour.
    """
    stubs: set[str] = set()  # CloudWatch's own API does not know these

    @replace_handler("AWS::CloudWatch::Alarm", "create")
    def create(original: Any, logical_id: str, props: Properties, stack: str) -> Any:
        if not props.get("Metrics"):
            return original(logical_id, props, stack)
        name = _name(logical_id, props, stack)
        stubs.add(name)
        return name, _attributes(name)

    @replace_handler("AWS::CloudWatch::Alarm", "update")
    def update(original: Any, name: str, old: Properties, new: Properties, *rest: Any) -> Any:
        if new.get("Metrics") or old.get("Metrics"):
            return name, _attributes(name)
        return original(name, old, new, *rest)

    @replace_handler("AWS::CloudWatch::Alarm", "delete")
    def delete(original: Any, name: str, props: Properties) -> None:
        if not props.get("Metrics"):
            original(name, props)

    def create_composite(logical_id: str, props: Properties, stack: str) -> Any:
        name = _name(logical_id, props, stack)
        if not any(alarm in props["AlarmRule"] for alarm in stubs):
            result(cloudwatch._put_composite_alarm({}, {**props, "AlarmName": name}, False, True))
        return name, _attributes(name)

    def delete_composite(name: str, props: Properties) -> None:
        cloudwatch._composite_alarms.pop(name, None)

    add_type("AWS::CloudWatch::CompositeAlarm", create_composite, delete_composite)
