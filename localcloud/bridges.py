"""What ministack 1.5.33 lacks and our templates need. One section for each gap; each says what AWS does.

Every section replaces functions of ministack's by name, so its version is pinned; a fix that lands there
deletes the section here. `install()` applies all of them and returns the ASGI app to serve.
Whether a resource type works or is only recorded stands in `coverage.py`.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import random
import re
import socket
import time
import zipfile
from collections.abc import Callable
from typing import Any

import ministack.app
from ministack import app as ministack_app
from ministack.app import app
from ministack.core import iam_actions, iam_evaluator, lambda_runtime
from ministack.core.concurrency import spawn_background
from ministack.core.responses import get_account_id, get_region, new_uuid
from ministack.services import (
    alb,
    apigateway,
    backup,
    budgets,
    cloudfront,
    cloudwatch,
    cloudwatch_logs,
    dynamodb,
    ec2,
    ecr,
    ecs,
    eventbridge,
    lambda_svc,
    s3,
    sts,
    waf,
)
from ministack.services.cloudformation import provisioners, stacks

_HANDLERS = provisioners._RESOURCE_HANDLERS
_PORT = os.environ["GATEWAY_PORT"]


def install() -> Any:
    """Apply every bridge and return the ASGI app."""
    for bridge in (
        network_types,
        recorded_types,
        scaling_targets,
        event_archives,
        events_to_logs,
        alarms,
        firewall_and_budgets,
        backup_selections,
        default_encryption,
        failed_nested_stacks,
        unchanged_nested_resources,
        numbers_in_services,
        secrets_of_tasks,
        services_become_stable,
        stream_mappings,
        streams_survive_a_restart,
        http_api_from_openapi,
        addresses_that_answer,
        registry,
        image_digests,
        images_without_docker,
        images_with_docker,
        versions_of_functions,
        unchanged_versions,
        containers_by_the_dozen,
        deleted_functions_leave_no_container,
        task_credentials_and_limits,
        loopback_as_tls,
        live_targets,
        api_as_origin,
        conditions_of_policies,
    ):
        bridge()
    return app


def _arn(service: str, resource: str) -> str:
    return f"arn:aws:{service}:{get_region()}:{get_account_id()}:{resource}"


def _id(prefix: str) -> str:
    return prefix + "".join(random.choices("0123456789abcdef", k=17))  # noqa: S311  # a name, not a secret


def _answer(response: Any, what: str) -> Any:
    """Return the JSON (or text) of a service's response; an error fails the resource, as it should."""
    status, _headers, body = response
    text = body.decode() if isinstance(body, bytes) else body
    if status >= 400:
        raise ValueError(f"{what}: {text}")
    try:
        return json.loads(text or "{}")
    except ValueError:
        return text


def _changed(module: Any, name: str, wrap: Callable[[Any], Any]) -> None:
    setattr(module, name, wrap(getattr(module, name)))


# CloudFormation types ---------------------------------------------------------------------------------


def network_types() -> None:
    """AWS: addresses, NAT gateways and standalone security-group rules. Here: recorded in EC2's own API.

    AWS: a security group in a VPC that does not exist is refused (InvalidVpcID.NotFound,
    https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html). ministack makes it.
    """

    def create_address(logical_id: str, props: dict[str, Any], stack: str) -> Any:
        before = set(ec2._addresses)
        _answer(ec2._allocate_address({"Domain": "vpc"}), logical_id)
        allocation = (set(ec2._addresses) - before).pop()
        provisioners._ec2_apply_tags(allocation, props)
        address = ec2._addresses[allocation]["PublicIp"]
        return address, {"AllocationId": allocation, "PublicIp": address}

    def delete_address(physical_id: str, props: dict[str, Any]) -> None:
        for allocation, address in list(ec2._addresses.items()):
            if address["PublicIp"] == physical_id:
                ec2._release_address({"AllocationId": allocation})

    def create_gateway(logical_id: str, props: dict[str, Any], stack: str) -> Any:
        request = {k: props.get(k, "") for k in ("SubnetId", "AllocationId")}
        body = _answer(ec2._create_nat_gateway({**request, "ConnectivityType": "public"}), logical_id)
        gateway = re.search(r"nat-[0-9a-fA-F]+", body).group(0)  # type: ignore[union-attr]
        provisioners._ec2_apply_tags(gateway, props)
        return gateway, {"NatGatewayId": gateway}

    def delete_gateway(physical_id: str, props: dict[str, Any]) -> None:
        ec2._delete_nat_gateway({"NatGatewayId": physical_id})

    def rule(direction: str) -> dict[str, Any]:
        def create(logical_id: str, props: dict[str, Any], stack: str) -> Any:
            group = ec2._security_groups.get(props.get("GroupId"))
            if group is None:
                raise ValueError(f"The security group '{props.get('GroupId')}' does not exist")
            permission = provisioners._ec2_sg_permissions([props])[0]
            permission["SecurityGroupRuleId"] = _id("sgr-")
            group[direction].append(permission)
            return permission["SecurityGroupRuleId"], {"Id": permission["SecurityGroupRuleId"]}

        def delete(physical_id: str, props: dict[str, Any]) -> None:
            group = ec2._security_groups.get(props.get("GroupId"))
            if group:
                group[direction] = [
                    p for p in group[direction] if p.get("SecurityGroupRuleId") != physical_id
                ]

        return {"create": create, "delete": delete}

    def in_a_vpc(create: Any) -> Any:
        def made(logical_id: str, props: dict[str, Any], stack: str) -> Any:
            vpc = props.get("VpcId")
            ec2._ensure_defaults_initialized()
            if vpc and vpc not in ec2._vpcs:
                raise ValueError(f"The vpc ID '{vpc}' does not exist")
            return create(logical_id, props, stack)

        return made

    group = _HANDLERS["AWS::EC2::SecurityGroup"]
    group["create"] = in_a_vpc(group["create"])
    _HANDLERS["AWS::EC2::EIP"] = {"create": create_address, "delete": delete_address}
    _HANDLERS["AWS::EC2::NatGateway"] = {"create": create_gateway, "delete": delete_gateway}
    _HANDLERS["AWS::EC2::SecurityGroupIngress"] = rule("IpPermissions")
    _HANDLERS["AWS::EC2::SecurityGroupEgress"] = rule("IpPermissionsEgress")


def _recorded(make_id: Callable[..., str], *attributes: str) -> dict[str, Any]:
    """Return handlers that accept a resource and keep nothing but its id, the value of `attributes`."""

    def create(logical_id: str, props: dict[str, Any], stack: str) -> Any:
        physical_id = make_id(logical_id, props, stack)
        return physical_id, dict.fromkeys(attributes, physical_id)

    def update(physical_id: str, old: Any, new: Any, stack: str, logical_id: str = "") -> Any:
        return physical_id, dict.fromkeys(attributes, physical_id)

    return {
        "create": create,
        "update": update,
        "update_with_logical_id": True,
        "delete": lambda physical_id, props: None,
    }


def scaling_targets() -> None:
    """AWS: registering a service brings its tasks within the bounds, and scales. Here: the bounds only."""
    recorded = _recorded(
        lambda lid, p, s: f"{p['ResourceId']}|{p['ScalableDimension']}|{p['ServiceNamespace']}", "Id"
    )

    def bound(props: dict[str, Any]) -> None:
        kind, _, rest = props["ResourceId"].partition("/")
        if kind != "service":
            return
        cluster, _, service = rest.partition("/")
        found = _answer(ecs._describe_services({"cluster": cluster, "services": [service]}), service)
        present = found["services"][0]["desiredCount"]
        wanted = min(max(present, int(props["MinCapacity"])), int(props["MaxCapacity"]))
        if wanted != present:
            request = {"cluster": cluster, "service": service, "desiredCount": wanted}
            _answer(ecs._update_service(request), service)

    def create(lid: str, props: dict[str, Any], stack: str) -> Any:
        bound(props)
        return recorded["create"](lid, props, stack)

    def update(pid: str, old: Any, new: dict[str, Any], stack: str, lid: str = "") -> Any:
        bound(new)
        return recorded["update"](pid, old, new, stack, lid)

    _HANDLERS["AWS::ApplicationAutoScaling::ScalableTarget"] = {
        **recorded,
        "create": create,
        "update": update,
    }


def recorded_types() -> None:
    """AWS: policies, canaries, logs and traces of other services. Here: recorded only, no API, no effect."""

    def named(key: str) -> Callable[..., str]:
        return lambda lid, props, stack: props.get(key) or provisioners._physical_name(stack, lid)

    def policy(lid: str, props: dict[str, Any], stack: str) -> str:
        return _arn("autoscaling", f"scalingPolicy:{new_uuid()}:policyName/{props['PolicyName']}")

    _HANDLERS.update(
        {
            "AWS::ApplicationAutoScaling::ScalingPolicy": _recorded(policy, "Arn"),
            "AWS::CloudWatch::AnomalyDetector": _recorded(lambda lid, p, s: _id("ad-"), "Id"),
            "AWS::CodeDeploy::Application": _recorded(named("ApplicationName")),
            "AWS::CodeDeploy::DeploymentConfig": _recorded(named("DeploymentConfigName")),
            "AWS::CodeDeploy::DeploymentGroup": _recorded(named("DeploymentGroupName")),
            "AWS::EC2::FlowLog": _recorded(lambda lid, p, s: _id("fl-"), "Id"),
            "AWS::ECS::ClusterCapacityProviderAssociations": _recorded(lambda lid, p, s: p["Cluster"]),
            "AWS::Events::EventBusPolicy": _recorded(lambda lid, p, s: f"{s}-{lid}"),
            "AWS::Logs::QueryDefinition": _recorded(lambda lid, p, s: new_uuid(), "QueryDefinitionId"),
            "AWS::WAFv2::IPSet": _recorded(lambda lid, p, s: _arn("wafv2", f"ipset/{_id('')}"), "Arn", "Id"),
            "AWS::WAFv2::LoggingConfiguration": _recorded(lambda lid, p, s: p["ResourceArn"]),
            "AWS::XRay::Group": _recorded(
                lambda lid, p, s: _arn("xray", f"group/{lid}/{_id('')}"), "GroupARN"
            ),
        }
    )


def event_archives() -> None:
    """AWS: archives keep a bus's events and replay them. Here: they work, through EventBridge's own API."""

    def create(logical_id: str, props: dict[str, Any], stack: str) -> Any:
        name = props.get("ArchiveName") or provisioners._physical_name(stack, logical_id, max_len=48)
        pattern = props.get("EventPattern", "")
        request = {
            "ArchiveName": name,
            "EventSourceArn": props.get("SourceArn", ""),
            "EventPattern": json.dumps(pattern) if isinstance(pattern, dict) else pattern,
            "Description": props.get("Description", ""),
            "RetentionDays": int(props.get("RetentionDays", 0)),
        }
        created = _answer(eventbridge._create_archive(request), logical_id)
        return name, {"Arn": created["ArchiveArn"], "ArchiveName": name}

    def update(physical_id: str, old: Any, new: dict[str, Any], stack: str, logical_id: str = "") -> Any:
        eventbridge._update_archive(
            {"ArchiveName": physical_id, "RetentionDays": int(new.get("RetentionDays", 0))}
        )
        return physical_id, {"Arn": _arn("events", f"archive/{physical_id}"), "ArchiveName": physical_id}

    _HANDLERS["AWS::Events::Archive"] = {
        "create": create,
        "update": update,
        "update_with_logical_id": True,
        "delete": lambda physical_id, props: eventbridge._delete_archive({"ArchiveName": physical_id}),
    }


def events_to_logs() -> None:
    """AWS: a log group can be the target of a rule, by its ARN without `:*`. ministack has no such target."""

    def wrap(invoke: Any) -> Any:
        def invoked(target: dict[str, Any], event: Any, rule: Any, view: Any = None) -> Any:
            _, _, service, *_, group = target.get("Arn", "").split(":", 6)
            if service != "logs":
                return invoke(target, event, rule, view)
            view = view or eventbridge._pattern_event_view(event)
            entry = {"timestamp": int(time.time() * 1000), "message": json.dumps(view.event_with_detail())}
            request = {"logGroupName": group, "logStreamName": new_uuid()}
            cloudwatch_logs._create_log_stream(request)
            return cloudwatch_logs._put_log_events({**request, "logEvents": [entry]})

        return invoked

    _changed(eventbridge, "_invoke_target", wrap)


def alarms() -> None:
    """AWS: alarms on one metric, on expressions, on other alarms. Here: those on expressions are recorded."""
    plain = dict(_HANDLERS["AWS::CloudWatch::Alarm"])
    recorded: set[str] = set()

    def name(lid: str, props: dict[str, Any], stack: str) -> str:
        return props.get("AlarmName") or provisioners._physical_name(stack, lid)

    def attributes(physical_id: str) -> dict[str, str]:
        return {"Arn": _arn("cloudwatch", f"alarm:{physical_id}")}

    def create(lid: str, props: dict[str, Any], stack: str) -> Any:
        if not props.get("Metrics"):
            return plain["create"](lid, props, stack)
        physical_id = name(lid, props, stack)
        recorded.add(physical_id)
        return physical_id, attributes(physical_id)

    def update(physical_id: str, old: Any, new: dict[str, Any], stack: str, lid: str = "") -> Any:
        if new.get("Metrics") or old.get("Metrics"):
            return physical_id, attributes(physical_id)
        more = (lid,) if plain.get("update_with_logical_id") else ()
        return plain["update"](physical_id, old, new, stack, *more)

    def delete(physical_id: str, props: dict[str, Any]) -> None:
        if not props.get("Metrics"):
            plain["delete"](physical_id, props)

    def create_composite(lid: str, props: dict[str, Any], stack: str) -> Any:
        request = {**props, "AlarmName": name(lid, props, stack)}
        if any(alarm in props["AlarmRule"] for alarm in recorded):  # CloudWatch's API does not know them
            return request["AlarmName"], attributes(request["AlarmName"])
        _answer(cloudwatch._put_composite_alarm({}, request, False, True), lid)
        return request["AlarmName"], attributes(request["AlarmName"])

    _HANDLERS["AWS::CloudWatch::Alarm"] = {
        **plain,
        "create": create,
        "update": update,
        "update_with_logical_id": True,
        "delete": delete,
    }
    _HANDLERS["AWS::CloudWatch::CompositeAlarm"] = {
        "create": create_composite,
        "delete": lambda physical_id, props: cloudwatch._composite_alarms.pop(physical_id, None),
    }


def firewall_and_budgets() -> None:
    """AWS: a web ACL in front of a resource; budgets that warn. Here: both readable by API, neither acts."""

    def associate(lid: str, props: dict[str, Any], stack: str) -> Any:
        _answer(
            waf._associate_web_acl({"WebACLArn": props["WebACLArn"], "ResourceArn": props["ResourceArn"]}),
            lid,
        )
        return f"{props['ResourceArn']}|{props['WebACLArn']}", {}

    def create_budget(lid: str, props: dict[str, Any], stack: str) -> Any:
        budget = {"BudgetName": provisioners._physical_name(stack, lid, max_len=100), **props["Budget"]}
        if isinstance(budget.get("BudgetLimit"), dict):
            budget["BudgetLimit"] = {k: str(v) for k, v in budget["BudgetLimit"].items()}
        subscribers = props.get("NotificationsWithSubscribers") or []
        request = {"Budget": budget, "NotificationsWithSubscribers": subscribers}
        _answer(budgets._create_budget(request), lid)
        return budget["BudgetName"], {}

    _HANDLERS["AWS::WAFv2::WebACLAssociation"] = {
        "create": associate,
        "delete": lambda pid, props: waf._disassociate_web_acl({"ResourceArn": props["ResourceArn"]}),
    }
    _HANDLERS["AWS::Budgets::Budget"] = {
        "create": create_budget,
        "delete": lambda pid, props: budgets._delete_budget({"BudgetName": pid}),
    }


def backup_selections() -> None:
    """AWS: what a backup plan backs up. Here: readable by API, and nothing is backed up."""

    def create(lid: str, props: dict[str, Any], stack: str) -> Any:
        made = _answer(backup._create_selection(props["BackupPlanId"], props), lid)
        physical_id = f"{made['SelectionId']}_{made['BackupPlanId']}"
        return physical_id, {"Id": physical_id, **{k: made[k] for k in ("SelectionId", "BackupPlanId")}}

    def delete(physical_id: str, props: dict[str, Any]) -> None:
        selection, _, plan = physical_id.partition("_")
        backup._delete_selection(plan, selection)

    # On AWS, too, every change makes a new one.
    _HANDLERS["AWS::Backup::BackupSelection"] = {"create": create, "delete": delete}


def default_encryption() -> None:
    """AWS: an object that names no encryption gets its bucket's. ministack does not read it in a template."""

    def xml(encryption: dict[str, Any]) -> bytes:
        [rule] = encryption["ServerSideEncryptionConfiguration"]
        default = rule["ServerSideEncryptionByDefault"].items()
        fields = "".join(f"<{name}>{value}</{name}>" for name, value in default)
        return f"<ServerSideEncryptionConfiguration>{fields}</ServerSideEncryptionConfiguration>".encode()

    provisioners._S3_BUCKET_CONFIGURATIONS += (
        ("BucketEncryption", xml, s3._put_bucket_encryption, s3._delete_bucket_encryption),
    )


def failed_nested_stacks() -> None:
    """AWS: a nested stack that could not be made goes when its parent is rolled back. ministack leaves it."""
    from ministack.services.cloudformation import _stacks

    handler = _HANDLERS["AWS::CloudFormation::Stack"]
    create = handler["create"]

    def created(logical_id: str, props: dict[str, Any], stack: str) -> Any:
        before = set(_stacks)
        try:
            return create(logical_id, props, stack)
        except Exception:
            for child in sorted(set(_stacks) - before, key=len, reverse=True):  # the innermost first
                handler["delete"](child, {})
            raise

    handler["create"] = created


def unchanged_nested_resources() -> None:
    """AWS: a resource that an update leaves alone keeps its attributes. In nested stacks they were lost."""
    from ministack.services.cloudformation import _stacks

    def wrap(update: Any) -> Any:
        def updated(
            rtype: str, pid: str, old: Any, new: Any, stack: str, lid: Any = None, attrs: Any = None
        ) -> Any:
            if attrs is None:
                resources = (_stacks.get(stack) or {}).get("_resources") or {}
                attrs = (resources.get(lid) or {}).get("Attributes")
            return update(rtype, pid, old, new, stack, lid, attrs)

        return updated

    _changed(provisioners, "_update_resource", wrap)


_NUMBERS = {
    "Base",
    "ContainerPort",
    "DesiredCount",
    "HardLimit",
    "HealthCheckGracePeriodSeconds",
    "HostPort",
    "Interval",
    "MaximumPercent",
    "MinimumHealthyPercent",
    "Retries",
    "SoftLimit",
    "StartPeriod",
    "Timeout",
    "Weight",
}


def numbers_in_services() -> None:
    """AWS: a Ref to a Number parameter is a number. Here it is text, which ECS subtracts from a number."""

    def numbers(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {k: numbers(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [numbers(v, key) for v in value]
        return int(value) if key in _NUMBERS and isinstance(value, str) and value.isdigit() else value

    def wrap(handler: dict[str, Any]) -> dict[str, Any]:
        create, update = handler["create"], handler["update"]
        more = bool(handler.get("update_with_logical_id"))
        return {
            **handler,
            "create": lambda lid, props, stack: create(lid, numbers(props), stack),
            "update": lambda pid, old, new, stack, lid=None: update(
                pid, numbers(old), numbers(new), stack, *((lid,) if more else ())
            ),
            "update_with_logical_id": True,
        }

    for rtype in ("AWS::ECS::Service", "AWS::ECS::TaskDefinition"):
        _HANDLERS[rtype] = wrap(_HANDLERS[rtype])


def secrets_of_tasks() -> None:
    """AWS: a task gets the secrets of its definition. ministack knows them, but not from a template."""

    def wrap(normalize: Any) -> Any:
        def normalized(definitions: list[dict[str, Any]]) -> Any:
            found = normalize(definitions)
            for each in found:
                each["secrets"] = provisioners._pascal_to_camel(each.get("secrets", []))
            return found

        return normalized

    _changed(provisioners, "_normalize_container_defs", wrap)


_STABLE_SECONDS = 180


def services_become_stable() -> None:
    """AWS: CloudFormation waits until a service's deployment is through, and fails when it is taken back."""
    _changed(
        stacks,
        "_runs_on_worker_thread",
        lambda runs: lambda rtype: rtype == "AWS::ECS::Service" or runs(rtype),
    )

    def wrap(handler: Any) -> Any:
        def handled(*args: Any) -> Any:
            arn, attributes = handler(*args)
            cluster, name = arn.split("/")[-2:]
            service = ecs._services[f"{cluster}/{name}"]
            deployment = ecs._primary_deployment(service)
            deadline = time.monotonic() + _STABLE_SECONDS
            while deployment["rolloutState"] == "IN_PROGRESS" and time.monotonic() < deadline:
                time.sleep(0.1)
            if deployment["rolloutState"] != "COMPLETED":
                reason = deployment.get("rolloutStateReason") or "no answer in time"
                raise ValueError(f"The service did not become stable: {reason}")
            return arn, attributes

        return handled

    for action in ("create", "update"):
        _HANDLERS["AWS::ECS::Service"][action] = wrap(_HANDLERS["AWS::ECS::Service"][action])


# Events ----------------------------------------------------------------------------------------------

_RETRY_SECONDS = 0.2  # AWS waits longer and longer; tests should not


def stream_mappings() -> None:
    """AWS: a mapping of a table's stream takes partial failures, bisects, counts retries, then gives up.

    ministack knows success and failure of a whole batch, and runs it on the thread that polls the queues.
    Here: ReportBatchItemFailures, BisectBatchOnFunctionError, MaximumRetryAttempts and the on-failure queue
    work; each mapping runs on its own thread. MaximumRecordAgeInSeconds works. ParallelizationFactor and
    the batching window are ignored.
    """
    busy: set[str] = set()
    attempts: dict[str, int] = {}
    sizes: dict[str, int] = {}  # after a bisection, until the batch is through
    positions = lambda_svc._dynamodb_stream_positions

    def poll() -> bool:
        found = False
        for account, region, mapping in lambda_svc._iter_all_esms():
            tokens = lambda_svc._request_account_id.set(account), lambda_svc._request_region.set(region)
            try:
                found = start(mapping) or found
            finally:
                lambda_svc._request_account_id.reset(tokens[0])
                lambda_svc._request_region.reset(tokens[1])
        return found

    def start(mapping: dict[str, Any]) -> bool:
        source, name = mapping.get("EventSourceArn", ""), mapping["UUID"]
        if ":dynamodb:" not in source or not mapping.get("Enabled", True) or name in busy:
            return False
        table = source.split("/stream/")[0].split("/")[-1]
        function, _ = lambda_svc._get_func_record_for_qualifier(
            mapping["FunctionName"], mapping.get("Qualifier")
        )
        if function is None or (dynamodb._tables.get(table) or {}).get("LatestStreamArn") != source:
            return False
        if lambda_svc._esm_backoff_until.get(name, 0) > time.time():
            return False
        lambda_svc._init_stream_position(name, source, mapping.get("StartingPosition", "LATEST"))
        position = max(positions[name], dynamodb.stream_start_position(table))
        batch = dynamodb.stream_records_since(table, position, sizes.get(name, mapping.get("BatchSize", 100)))
        if not batch:
            return False
        busy.add(name)

        def run() -> None:
            try:
                positions[name] = position + done_of(mapping, function, batch)
            finally:
                busy.discard(name)
                lambda_svc._esm_wake.set()

        spawn_background(run, thread_name="localcloud-stream")
        return True

    def done_of(mapping: dict[str, Any], function: dict[str, Any], batch: list[Any]) -> int:
        """Run one batch and return how many of its records are behind us."""
        name = mapping["UUID"]
        wanted = lambda_svc._apply_filter_criteria(batch, mapping)
        if not wanted:
            return len(batch)
        result = lambda_svc._execute_function(function, {"Records": wanted})
        done = first_failure(mapping, batch, result)
        if done == len(batch):
            mapping["LastProcessingResult"] = f"OK - {len(wanted)} records"
            attempts.pop(name, None)
            sizes.pop(name, None)
            return done
        mapping["LastProcessingResult"] = "FAILED"
        if done:
            attempts.pop(name, None)
            return done
        if len(batch) > 1 and mapping.get("BisectBatchOnFunctionError"):
            sizes[name] = len(batch) // 2
            return 0
        attempts[name] = attempts.get(name, 0) + 1
        condition = given_up(mapping, batch, attempts[name])
        if not condition:
            lambda_svc._esm_backoff_until[name] = time.time() + _RETRY_SECONDS
            return 0
        lambda_svc._send_ddb_stream_failure_record(
            mapping, function, batch, mapping["EventSourceArn"], result, condition
        )
        attempts.pop(name, None)
        sizes.pop(name, None)
        return len(batch)

    def first_failure(mapping: dict[str, Any], batch: list[Any], result: dict[str, Any]) -> int:
        if result.get("error"):
            return 0
        body = result.get("body")
        failures = body.get("batchItemFailures") if isinstance(body, dict) else None
        if not failures or "ReportBatchItemFailures" not in mapping.get("FunctionResponseTypes", []):
            return len(batch)
        failed = {f.get("itemIdentifier") for f in failures}
        for index, record in enumerate(batch):
            if record["dynamodb"]["SequenceNumber"] in failed:
                return index
        return 0  # an identifier that is not in the batch fails all of it

    def given_up(mapping: dict[str, Any], batch: list[Any], attempt: int) -> str:
        limit = int(mapping.get("MaximumRetryAttempts", -1))
        if 0 <= limit < attempt:
            return "RetryAttemptsExhausted"
        seconds = int(mapping.get("MaximumRecordAgeInSeconds") or -1)
        oldest = batch[0]["dynamodb"]["ApproximateCreationDateTime"]
        return "MaxRecordAgeExceeded" if 0 < seconds < time.time() - float(oldest) else ""

    lambda_svc._poll_dynamodb_streams = poll


def streams_survive_a_restart() -> None:
    """AWS: a stream outlives whoever reads it. ministack saves the reader's position but not the records."""

    def wrap_get(get_state: Any) -> Any:
        def state() -> Any:
            saved = get_state()
            saved["localcloud_streams"] = [
                [*key, dynamodb._stream_trimmed.get_scoped(*key, 0), list(records)]
                for key, records in dynamodb._stream_records.all_items()
            ]
            saved["localcloud_sequence"] = dynamodb._stream_seq_counter
            return saved

        return state

    def wrap_load(load: Any) -> Any:
        def loaded(saved: Any) -> None:
            load(saved)
            for account, region, table, trimmed, records in saved.get("localcloud_streams", []):
                dynamodb._stream_records.set_scoped(account, region, table, records)
                dynamodb._stream_trimmed.set_scoped(account, region, table, trimmed)
            dynamodb._stream_seq_counter = saved.get("localcloud_sequence", 0)

        return loaded

    _changed(dynamodb, "get_state", wrap_get)
    _changed(dynamodb, "load_persisted_state", wrap_load)


# Front doors -----------------------------------------------------------------------------------------

_ANY = "x-amazon-apigateway-any-method"
_METHODS = {"get", "put", "post", "delete", "options", "head", "patch", _ANY}


def http_api_from_openapi() -> None:
    """AWS: an HTTP API imports its routes from an OpenAPI body, which SAM writes. ministack ignores it."""

    def authorizers_of(api_id: str, body: dict[str, Any]) -> dict[str, str]:
        made: dict[str, str] = {}
        for name, scheme in ((body.get("components") or {}).get("securitySchemes") or {}).items():
            given = scheme.get("x-amazon-apigateway-authorizer") or {}
            if str(given.get("type", "")).lower() != "jwt":
                continue
            source = given.get("identitySource") or "$request.header.Authorization"
            request = {
                "name": name,
                "authorizerType": "JWT",
                "identitySource": [source] if isinstance(source, str) else source,
                "jwtConfiguration": {
                    "issuer": given["jwtConfiguration"]["issuer"],
                    "audience": given["jwtConfiguration"].get("audience", []),
                },
            }
            made[name] = _answer(apigateway._create_authorizer(api_id, request), name)["authorizerId"]
        return made

    def add_route(
        api_id: str, path: str, method: str, operation: dict[str, Any], auth: dict[str, str]
    ) -> None:
        given = operation.get("x-amazon-apigateway-integration") or {}
        integration = {
            "integrationType": given.get("type", "aws_proxy").upper(),
            "integrationUri": given.get("uri", ""),
            "integrationMethod": given.get("httpMethod", "POST"),
            "payloadFormatVersion": given.get("payloadFormatVersion", "2.0"),
            "timeoutInMillis": int(given.get("timeoutInMillis", 30000)),
        }
        made = _answer(apigateway._create_integration(api_id, integration), path)
        verb = "ANY" if method == _ANY else method.upper()
        route: dict[str, Any] = {
            "routeKey": "$default" if path.strip("/") == "$default" else f"{verb} {path}",
            "target": f"integrations/{made['integrationId']}",
        }
        for requirement in operation.get("security") or []:
            for name, scopes in requirement.items():
                if name in auth:
                    route |= {"authorizationType": "JWT", "authorizerId": auth[name]}
                    route |= {"authorizationScopes": scopes} if scopes else {}
                elif name == "AWS_IAM":
                    route["authorizationType"] = "AWS_IAM"
        _answer(apigateway._create_route(api_id, route), path)

    def import_body(api_id: str, body: Any) -> None:
        body = json.loads(body) if isinstance(body, str) else body
        for store in (apigateway._routes, apigateway._integrations, apigateway._authorizers):
            store[api_id] = {}
        auth = authorizers_of(api_id, body)
        for path, item in (body.get("paths") or {}).items():
            for method, operation in (item or {}).items():
                if method.lower() in _METHODS and isinstance(operation, dict):
                    add_route(api_id, path, method.lower(), operation, auth)
        if body.get("x-amazon-apigateway-cors"):
            apigateway._apis[api_id]["corsConfiguration"] = body["x-amazon-apigateway-cors"]

    def wrap_create(create: Any) -> Any:
        def created(lid: str, props: dict[str, Any], stack: str) -> Any:
            body = props.get("Body")
            if isinstance(body, dict):
                props = {"Name": (body.get("info") or {}).get("title"), **props}
            api_id, attributes = create(lid, props, stack)
            if body:
                import_body(api_id, body)
            return api_id, attributes

        return created

    def wrap_update(update: Any) -> Any:
        def updated(pid: str, old: Any, new: dict[str, Any], stack: str, lid: Any = None) -> Any:
            out = update(pid, old, new, stack, lid)
            if new.get("Body"):
                import_body(out[0], new["Body"])
            return out

        return updated

    _changed(provisioners, "_apigw_v2_api_create", wrap_create)
    _changed(provisioners, "_apigw_v2_api_update", wrap_update)
    _HANDLERS["AWS::ApiGatewayV2::Api"].update(
        create=provisioners._apigw_v2_api_create, update=provisioners._apigw_v2_api_update
    )


def addresses_that_answer() -> None:
    """AWS: ApiEndpoint and DNSName resolve in DNS. Here they are addresses that any client can reach."""

    def wrap_api(handler: Any) -> Any:
        def handled(*args: Any) -> Any:
            api_id, attributes = handler(*args)
            # The stage is $default, encoded, because a shell would take that for a variable of its own.
            address = f"http://127.0.0.1:{_PORT}/_aws/execute-api/{api_id}/%24default"
            apigateway._apis[api_id]["apiEndpoint"] = address
            return api_id, {**attributes, "ApiEndpoint": address}

        return handled

    def wrap_balancer(handler: Any) -> Any:
        def handled(*args: Any) -> Any:
            arn, attributes = handler(*args)
            return arn, {**attributes, "DNSName": f"127.0.0.1:{_PORT}/_alb/{attributes['LoadBalancerName']}"}

        return handled

    for rtype, wrap in (
        ("AWS::ApiGatewayV2::Api", wrap_api),
        ("AWS::ElasticLoadBalancingV2::LoadBalancer", wrap_balancer),
    ):
        for action in ("create", "update"):
            _HANDLERS[rtype][action] = wrap(_HANDLERS[rtype][action])


def loopback_as_tls() -> None:
    """AWS: endpoints speak TLS. Here: plain HTTP on loopback, which `aws:SecureTransport` takes for TLS.

    Otherwise every policy that refuses plain HTTP would refuse everything (with AUTH=true).
    """

    def wrap(pin: Any) -> Any:
        return lambda source_ip, secure: pin(source_ip, True)

    _changed(ministack.app, "pin_request_origin", wrap)

    def wrap_fetch(serve: Any) -> Any:
        def served(*args: Any, **kwargs: Any) -> Any:
            iam_evaluator.pin_request_origin("127.0.0.1", True)  # CloudFront's own request to a bucket
            return serve(*args, **kwargs)

        return served

    _changed(cloudfront, "_serve_s3_origin", wrap_fetch)


def live_targets() -> None:
    """AWS: a load balancer sends requests to healthy targets only, else answers 503. ministack picks any.

    A target counts as healthy when it accepts a connection; HealthCheckPath is not asked.
    """
    forward = alb._forward_to_tg

    def accepts(target: dict[str, Any], group: dict[str, Any]) -> bool:
        try:
            address = target["Id"], int(target.get("Port") or group.get("Port") or 80)
            socket.create_connection(address, 0.3).close()
        except OSError:
            return False
        return True

    async def to_live(
        arn: str,
        method: str,
        path: str,
        headers: Any,
        body: Any,
        query: Any,
        raw_query: Any = None,
        raw: Any = None,
    ) -> Any:
        group = alb._tgs.get(arn)
        targets = list(alb._targets.get(arn, []))
        if not group or group.get("TargetType") not in ("ip", "instance") or not targets:
            return await forward(arn, method, path, headers, body, query, raw_query, raw)
        random.shuffle(targets)
        for target in targets:
            if await asyncio.to_thread(accepts, target, group):
                return await alb._proxy_http_target(
                    target, group, method, raw or path, headers, body, query, raw_query
                )
        return 503, {"Content-Type": "text/html"}, b"<h1>503 Service Temporarily Unavailable</h1>"

    alb._forward_to_tg = to_live


def api_as_origin() -> None:
    """AWS: CloudFront resolves the host name of a front door. Here it becomes the emulator's path."""

    def wrap(forward: Any) -> Any:
        def forwarded(
            origin: dict[str, Any], method: str, uri: str, query: Any, *args: Any, **kwargs: Any
        ) -> Any:
            api = re.match(r"^([0-9a-f]{8})\.execute-api\.", origin["domain_name"])
            # A load balancer's name holds a path already: see addresses_that_answer.
            path = f"_aws/execute-api/{api[1]}/$default" if api else origin["domain_name"].partition("/")[2]
            if path:
                here = {"domain_name": "127.0.0.1", "http_port": int(_PORT), "protocol_policy": "http-only"}
                origin, uri = {**origin, **here}, f"/{path}{uri}"
            return forward(origin, method, uri, query, *args, **kwargs)

        return forwarded

    _changed(cloudfront, "_forward_to_origin", wrap)


def conditions_of_policies() -> None:
    """AWS: policies may ask how a caller came and what it asks for. ministack lacks some of these keys.

    For AUTH=true. aws:SecureTransport is true here although nothing is encrypted: policies that refuse
    plain HTTP would refuse everything. kms:MacAlgorithm, events:source, events:detail-type and the keys
    that an upload names come from the request; the tags of a distribution from the distribution.
    """
    encryption = [f"x-amz-server-side-encryption-{x}" for x in ("aws-kms-key-id", "customer-algorithm")]

    def wrap(context: Any) -> Any:
        def keys(service: str, action: str, body: bytes, parameters: Any) -> dict[str, Any]:
            found = dict(context(service, action, body, parameters))
            if action.endswith("Mac") and service == "kms":
                found["kms:macalgorithm"] = json.loads(body).get("MacAlgorithm", "")
            if action == "events:PutEvents":
                entries = json.loads(body).get("Entries", [])
                found["events:source"] = [entry.get("Source", "") for entry in entries]
                found["events:detail-type"] = [entry.get("DetailType", "") for entry in entries]
            return found

        return keys

    def wrap_object(context: Any) -> Any:
        def keys(action: str, parameters: Any, path: str, headers: dict[str, str]) -> dict[str, Any]:
            found = dict(context(action, parameters, path, headers))
            return found | {f"s3:{name}": headers[name] for name in encryption if name in headers}

        return keys

    def wrap_enforce(enforce: Any) -> Any:
        def enforced(*call: Any, resource_arn: str = "*", service_context: Any = None) -> Any:
            tags = {f"aws:ResourceTag/{t['Key']}": t["Value"] for t in cloudfront._tags.get(resource_arn, [])}
            context = tags | (service_context or {})
            return enforce(*call, resource_arn=resource_arn, service_context=context)

        return enforced

    _changed(iam_evaluator, "enforce", wrap_enforce)
    _changed(iam_actions, "request_tag_context", wrap)
    _changed(iam_actions, "_s3_object_context", wrap_object)
    _changed(ministack_app, "pin_request_origin", lambda pin: lambda source, secure: pin(source, True))


# Images ----------------------------------------------------------------------------------------------


def registry() -> None:
    """AWS: a repository's URI is where docker logs in and pushes. Here that is the emulator's own port."""
    here = f"127.0.0.1:{_PORT}"  # dockerd takes plain HTTP from loopback, and nowhere else
    ecr._repo_uri = lambda name: f"{here}/{name}"

    def wrap(token: Any) -> Any:
        def given(data: Any) -> Any:
            status, headers, body = token(data)
            answer = json.loads(body)
            for entry in answer["authorizationData"]:
                entry["proxyEndpoint"] = f"http://{here}"
            return status, headers, json.dumps(answer).encode()

        return given

    _changed(ecr, "_get_authorization_token", wrap)


def image_digests() -> None:
    """AWS: GetFunction says which digest a version runs (ResolvedImageUri). ministack echoes the tag."""

    def digest_of(uri: str) -> str:
        repository, _, tag = uri.rpartition(":")
        name = repository.partition("/")[2]
        try:
            request = {"repositoryName": name, "imageIds": [{"imageTag": tag}]}
            found = _answer(ecr._describe_images(request), uri)
            return f"{repository}@{found['imageDetails'][0]['imageDigest']}"
        except (ValueError, KeyError, IndexError):
            # Not in the registry: a run without Docker, which has the source and no image.
            return f"{repository}@sha256:{hashlib.sha256(uri.encode()).hexdigest()}"

    def wrap(get: Any) -> Any:
        def got(name: str, qualifier: str | None = None) -> Any:
            status, headers, body = get(name, qualifier)
            if status == 200:
                answer = json.loads(body)
                uri = answer.get("Code", {}).get("ImageUri")
                if uri and "@" not in uri:
                    answer["Code"]["ResolvedImageUri"] = digest_of(uri)
                    body = json.dumps(answer).encode()
            return status, headers, body

        return got

    _changed(lambda_svc, "_get_function", wrap)


def images_without_docker() -> None:
    """AWS: a function runs its image's command. With --source, that command runs here, from the source.

    The process is the image's own (EntryPoint and Command, so awslambdaric), speaking the Lambda runtime
    API, with the function's own environment and role. It starts again when a source file changes.
    """
    source, python = os.environ["LOCALCLOUD_SOURCE"], os.environ["LOCALCLOUD_PYTHON"]
    if not source:
        return
    stamp = [_newest(source)]

    def bootstrap(config: dict[str, Any]) -> bytes:
        image = (
            (config.get("ImageConfigResponse") or {}).get("ImageConfig") or config.get("ImageConfig") or {}
        )
        command = [*(image.get("EntryPoint") or []), *(image.get("Command") or [])]
        words = " ".join("'" + word.replace("'", "'\\''") + "'" for word in command)
        path = f"{os.path.dirname(python)}:{os.environ.get('PATH', '')}"
        script = f"#!/bin/sh\nexport PYTHONPATH='{source}' PATH='{path}'\nexec {words}\n"
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr(zipfile.ZipInfo("bootstrap", (2020, 1, 1, 0, 0, 0)), script)
        return archive.getvalue()

    def wrap(dispatch: Any) -> Any:
        def dispatched(func: Any, config: dict[str, Any], event: Any, request_id: str, started: float) -> Any:
            if config.get("PackageType") != "Image":
                return dispatch(func, config, event, request_id, started)
            newest = _newest(source)
            if newest != stamp[0]:
                stamp[0] = newest
                lambda_runtime.reset()
            provided = {**config, "Runtime": "provided.al2023"}
            record = {**func, "config": provided, "code_zip": bootstrap(config)}
            return lambda_svc._execute_function_provided_warm(record, event, request_id)

        return dispatched

    _changed(lambda_svc, "_execute_function_dispatch", wrap)


def _newest(directory: str) -> float:
    times = [0.0]
    for folder, _, files in os.walk(directory):
        times += [os.stat(os.path.join(folder, f)).st_mtime for f in files if f.endswith(".py")]
    return max(times)


def images_with_docker() -> None:
    """AWS: Lambda gives every image its runtime API. Here the runtime interface emulator is put before it.

    The emulator's binary is mounted (LOCALCLOUD_RIE names it); the image has no part of it.
    """
    rie = os.environ.get("LOCALCLOUD_RIE")
    if not rie:
        return
    inside = "/usr/local/bin/aws-lambda-rie"
    lambda_svc.LAMBDA_DOCKER_FLAGS = f"-v {rie}:{inside}:ro {lambda_svc.LAMBDA_DOCKER_FLAGS}".strip()

    def wrap(spawn: Any) -> Any:
        def spawned(config: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
            for holder in (config, config.get("ImageConfigResponse") or {}):
                image = holder.get("ImageConfig")
                if image and image.get("EntryPoint") and image["EntryPoint"][0] != inside:
                    holder["ImageConfig"] = {**image, "EntryPoint": [inside, *image["EntryPoint"]]}
            return spawn(config, *args, **kwargs)

        return lambda config, *args, **kwargs: spawned(json.loads(json.dumps(config)), *args, **kwargs)

    _changed(lambda_svc, "_spawn_lambda_container", wrap)


def versions_of_functions() -> None:
    """AWS: a container serves one version, whatever becomes of $LATEST, and an alias may weigh two versions.

    ministack lets an image's containers serve any version, ends them all, requests and all, when the function
    changes, and follows the alias's first version only.
    """

    def wrap_key(key: Any) -> Any:
        # The name by which an update finds the containers to end is then that of $LATEST's.
        return lambda name, config: key(_served(name, config.get("Version", "$LATEST")), config)

    def wrap_record(record_of: Any) -> Any:
        def weighed(func: Any, qualifier: str | None) -> Any:
            alias = (func or {}).get("aliases", {}).get(qualifier, {})
            for version, weight in alias.get("RoutingConfig", {}).get("AdditionalVersionWeights", {}).items():
                if random.random() < weight:  # noqa: S311
                    return record_of(func, version)
            return record_of(func, qualifier)

        return weighed

    _changed(lambda_svc, "_warm_pool_key", wrap_key)
    _changed(lambda_svc, "_effective_func_record_for_qualifier", wrap_record)


def unchanged_versions() -> None:
    """AWS: Lambda publishes no version of what has not changed since the last; CloudFormation fails then.

    https://docs.aws.amazon.com/lambda/latest/api/API_PublishVersion.html. ministack goes by a number that
    each write of the function changes, so that an update which is rolled back counts as a change.
    """
    passing = ("FunctionArn", "LastModified", "LastUpdateStatus", "RevisionId", "State", "Version")

    def content(function: Any) -> dict[str, Any]:
        return {k: v for k, v in function["config"].items() if not k.startswith(passing)}

    def last(function: Any) -> dict[str, Any]:
        found: dict[str, Any] = function["versions"].get(max(function["versions"], key=int, default=""), {})
        return found

    def compare(function: Any) -> None:
        if function and last(function).get("content") == content(function):
            last(function)["function_revision"] = function["config"]["RevisionId"]

    def wrap_publish(publish: Any) -> Any:
        def published(name: str, data: Any) -> Any:
            function = lambda_svc._functions.get(name)
            compare(function)
            answer = publish(name, data)
            if function:
                last(function).setdefault("content", content(function))
            return answer

        return published

    def wrap_create(create: Any) -> Any:
        def created(logical_id: str, props: dict[str, Any], stack: str) -> Any:
            compare(provisioners._lambda_version_function(props)[0])
            return create(logical_id, props, stack)

        return created

    _changed(lambda_svc, "_publish_version", wrap_publish)
    _changed(provisioners, "_lambda_version_create", wrap_create)
    _HANDLERS["AWS::Lambda::Version"]["create"] = provisioners._lambda_version_create


def _served(name: str, version: str) -> str:
    return name if version == "$LATEST" else f"{name}@{version}"


def containers_by_the_dozen() -> None:
    """AWS: a function's 64 environments serve side by side.

    Before each call ministack asks Docker how every container of the function is, one after the other and
    with the others waiting. Here an answer holds for a while; a container that is not running is asked again.
    """
    holds_seconds = 5.0
    ran: dict[str, float] = {}

    def wrap(is_running: Any) -> Any:
        def running(container: Any) -> bool:
            if time.monotonic() - ran.get(container.id, -holds_seconds) < holds_seconds:
                return True
            ran.pop(container.id, None)
            if alive := bool(is_running(container)):
                ran[container.id] = time.monotonic()
            return alive

        return running

    _changed(lambda_svc, "_is_container_running", wrap)


def deleted_functions_leave_no_container() -> None:
    """AWS: a deleted function is gone at once. ministack keeps its idle containers for minutes."""
    delete = _HANDLERS["AWS::Lambda::Function"]["delete"]

    def deleted(physical_id: str, props: dict[str, Any]) -> None:
        delete(physical_id, props)
        # Of versions that went before it, too: here a function made again has the same name.
        served = {key.split(":")[2] for key in list(lambda_svc._warm_pool)}
        for name in served:
            if name.partition("@")[0] == physical_id:
                lambda_svc._pool_kill_function(get_account_id(), name)

    _HANDLERS["AWS::Lambda::Function"]["delete"] = deleted


def _for_containers(endpoint: str) -> str:
    return endpoint.replace("//127.0.0.1:", "//host.docker.internal:")


def task_credentials_and_limits() -> None:
    """AWS: a task has its region, its role's credentials, its memory limit and a read-only root if asked.

    ministack gives credentials by an address that botocore refuses, and they are not the role's.
    """

    def role_session(role: str, session: str) -> dict[str, str]:
        account, name = role.split(":")[4], role.rsplit("/", 1)[-1]
        seed = hashlib.sha256(f"{role}:{session}".encode()).hexdigest()
        keys = {
            "AWS_ACCESS_KEY_ID": f"ASIA{seed[:16].upper()}",
            "AWS_SECRET_ACCESS_KEY": hashlib.sha256(f"secret:{seed}".encode()).hexdigest(),
            "AWS_SESSION_TOKEN": hashlib.sha256(f"token:{seed}".encode()).hexdigest(),
        }
        identity = {
            "Arn": f"arn:aws:sts::{account}:assumed-role/{name}/{session}",
            "UserId": f"{name}:{session}",
            "SecretAccessKey": keys["AWS_SECRET_ACCESS_KEY"],
            "SessionToken": keys["AWS_SESSION_TOKEN"],
        }
        sts.register_session(keys["AWS_ACCESS_KEY_ID"], identity)
        return keys

    def wrap_metadata(register: Any) -> Any:
        def registered(
            task: str, cluster: str, definition: dict[str, Any], cdef: Any, kind: Any, env: Any, *rest: Any
        ) -> Any:
            from ministack.app import AUTH

            token = register(task, cluster, definition, cdef, kind, env, *rest)
            env["AWS_ENDPOINT_URL"] = _for_containers(os.environ["AWS_ENDPOINT_URL"])
            env.setdefault("AWS_REGION", get_region())
            env.setdefault("AWS_DEFAULT_REGION", get_region())
            for name in ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN"):
                env.pop(name, None)
            if AUTH and definition.get("taskRoleArn"):
                env.update(role_session(definition["taskRoleArn"], task.rsplit("/", 1)[-1]))
            elif not AUTH:
                env.update(AWS_ACCESS_KEY_ID=get_account_id(), AWS_SECRET_ACCESS_KEY="test")  # noqa: S106
            return token

        return registered

    def wrap_run(build: Any) -> Any:
        def built(cdef: dict[str, Any], definition: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
            options = build(cdef, definition, *args, **kwargs)
            memory = cdef.get("memory") or definition.get("memory")
            if memory:
                options["mem_limit"] = f"{int(memory)}m"
            if cdef.get("readonlyRootFilesystem"):
                options["read_only"] = True
            return options

        return built

    _changed(ecs, "_register_metadata", wrap_metadata)
    _changed(ecs, "_build_run_kwargs", wrap_run)
