"""CloudFormation: nested stacks, and types that the emulator does not know."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from ministack.services import backup, budgets, s3, waf
from ministack.services.cloudformation import _stacks, changesets, engine, provisioners
from ministack.services.cloudformation.stacks import _add_event

from localcloud.patches import patch
from localcloud.patches.tools import HANDLERS, Properties, add_type, replace, replace_handler, result

# Whether what is deployed just now is a nested stack.
_NESTED: ContextVar[bool] = ContextVar("nested", default=False)


@patch
def stub_types() -> None:
    """AWS does: scale, deploy, log and observe as the resource says. https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-template-resource-type-ref.html
    The emulator does: reject every template that names one of these types.
    Reported as: not reported.
    Here they are accepted, and have no behaviour.
    """

    def add_stub(name: str, *attributes: str) -> None:
        def create(logical_id: str, props: Properties, stack: str) -> Any:
            physical_id = provisioners._physical_name(stack, logical_id)
            return physical_id, dict.fromkeys(attributes, physical_id)

        def update(physical_id: str, old: Properties, new: Properties, stack: str, logical_id: str) -> Any:
            return physical_id, dict.fromkeys(attributes, physical_id)

        add_type(name, create, update=update)

    add_stub("AWS::ApplicationAutoScaling::ScalingPolicy", "Arn")
    add_stub("AWS::CloudWatch::AnomalyDetector", "Id")
    add_stub("AWS::CodeDeploy::Application")
    add_stub("AWS::CodeDeploy::DeploymentConfig")
    add_stub("AWS::CodeDeploy::DeploymentGroup")
    add_stub("AWS::EC2::FlowLog", "Id")
    add_stub("AWS::ECS::ClusterCapacityProviderAssociations")
    add_stub("AWS::Events::EventBusPolicy")
    add_stub("AWS::Logs::QueryDefinition", "QueryDefinitionId")
    add_stub("AWS::WAFv2::IPSet", "Arn", "Id")
    add_stub("AWS::WAFv2::LoggingConfiguration")
    add_stub("AWS::XRay::Group", "GroupARN")


@patch
def web_acl_associations() -> None:
    """AWS does: apply the web ACL to the resource's requests. https://docs.aws.amazon.com/waf/latest/APIReference/API_AssociateWebACL.html
    The emulator does: reject the type, though its WAF has the call.
    Reported as: not reported.
    Here it is recorded in WAF's own API, and nothing is blocked.
    """

    def create(logical_id: str, props: Properties, stack: str) -> Any:
        result(waf._associate_web_acl({name: props[name] for name in ("WebACLArn", "ResourceArn")}))
        return f"{props['ResourceArn']}|{props['WebACLArn']}", {}

    def delete(physical_id: str, props: Properties) -> None:
        waf._disassociate_web_acl({"ResourceArn": props["ResourceArn"]})

    add_type("AWS::WAFv2::WebACLAssociation", create, delete)


@patch
def account_budgets() -> None:
    """AWS does: warn when costs pass the limit. https://docs.aws.amazon.com/cost-management/latest/userguide/budgets-managing-costs.html
    The emulator does: reject the type, though it has the API.
    Reported as: not reported.
    Here it is recorded in the budgets' own API, and there are no costs.
    """

    def create(logical_id: str, props: Properties, stack: str) -> Any:
        budget = {
            "BudgetName": provisioners._physical_name(stack, logical_id, max_len=100),
            **props["Budget"],
        }
        if isinstance(budget.get("BudgetLimit"), dict):
            budget["BudgetLimit"] = {name: str(value) for name, value in budget["BudgetLimit"].items()}
        subscribers = props.get("NotificationsWithSubscribers") or []
        result(budgets._create_budget({"Budget": budget, "NotificationsWithSubscribers": subscribers}))
        return budget["BudgetName"], {}

    add_type("AWS::Budgets::Budget", create, lambda pid, props: budgets._delete_budget({"BudgetName": pid}))


@patch
def backup_selections() -> None:
    """AWS does: back up the selected resources, and replace a selection at every change. https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-backup-backupselection.html
    The emulator does: reject the type, though it has the API.
    Reported as: not reported.
    Here they are recorded in the own API of AWS Backup, and nothing is backed up.
    """

    def create(logical_id: str, props: Properties, stack: str) -> Any:
        made = result(backup._create_selection(props["BackupPlanId"], props))
        physical_id = f"{made['SelectionId']}_{made['BackupPlanId']}"
        return physical_id, {"Id": physical_id, **{k: made[k] for k in ("SelectionId", "BackupPlanId")}}

    def delete(physical_id: str, props: Properties) -> None:
        selection, _, plan = physical_id.partition("_")
        backup._delete_selection(plan, selection)

    add_type("AWS::Backup::BackupSelection", create, delete)


@patch
def default_encryption() -> None:
    """AWS does: encrypt an object that names no encryption with its bucket's default. https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucket-encryption.html
    The emulator does: the same by API, but ignores `BucketEncryption` in a template.
    Reported as: not reported.
    """

    def xml(encryption: Properties) -> bytes:
        [rule] = encryption["ServerSideEncryptionConfiguration"]
        default = rule["ServerSideEncryptionByDefault"].items()
        fields = "".join(f"<{name}>{value}</{name}>" for name, value in default)
        return f"<ServerSideEncryptionConfiguration>{fields}</ServerSideEncryptionConfiguration>".encode()

    provisioners._S3_BUCKET_CONFIGURATIONS += (
        ("BucketEncryption", xml, s3._put_bucket_encryption, s3._delete_bucket_encryption),
    )


@patch
def transforms_of_nested_stacks() -> None:
    """AWS does: apply the transforms of a nested stack's template. https://docs.aws.amazon.com/serverless-application-model/latest/developerguide/serverless-sam-template-nested-applications.html
    The emulator does: apply those of the root only.
    Reported as: not reported.
    """

    @replace(engine, "_parse_template")
    def parse_template(original: Any, body: str) -> Any:
        template = original(body)
        return engine._apply_transforms(template) if _NESTED.get() else template

    @replace_handler("AWS::CloudFormation::Stack", "create", "update")
    def deploy(original: Any, *args: Any) -> Any:
        token = _NESTED.set(True)
        try:
            return original(*args)
        finally:
            _NESTED.reset(token)


@patch
def dynamic_references_of_nested_stacks() -> None:
    """AWS does: fill in the secret that a template refers to. https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/dynamic-references-secretsmanager.html
    The emulator does: so in the root only.
    Reported as: not reported.
    """

    @replace(engine, "_resolve_refs")
    def resolve_refs(original: Any, value: Any, *args: Any) -> Any:
        resolved = original(value, *args)
        return engine._resolve_dynamic_references(resolved)[0] if _NESTED.get() else resolved


@patch
def conditions_in_change_sets() -> None:
    """AWS does: list a resource as added or removed when its condition changes. https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/conditions-section-structure.html
    The emulator does: compare templates without their conditions, and say that nothing changes.
    Reported as: not reported.
    """

    @replace(changesets, "_resolve_props_for_diff")
    def resolve(original: Any, template: Any, params: Any, *rest: Any) -> Any:
        resolved = original(template, params, *rest)
        if template:
            holds = engine._evaluate_conditions(template, params)
            kept = resolved["Resources"].items()
            resolved["Resources"] = {k: v for k, v in kept if holds.get(v.get("Condition"), True)}
        return resolved


@patch
def failed_nested_stacks() -> None:
    """AWS does: delete a failed nested stack when its parent is rolled back. https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/using-cfn-nested-stacks.html
    The emulator does: leave it, with its resources.
    Reported as: not reported.
    """

    @replace_handler("AWS::CloudFormation::Stack", "create")
    def create(original: Any, logical_id: str, props: Properties, stack: str) -> Any:
        before = set(_stacks)
        try:
            return original(logical_id, props, stack)
        except Exception:
            for child in sorted(set(_stacks) - before, key=len, reverse=True):  # the innermost first
                HANDLERS["AWS::CloudFormation::Stack"]["delete"](child, {})
            raise


@patch
def retained_nested_resources() -> None:
    """AWS does: keep what a nested stack's template retains, unless the stack's creation is rolled back. https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-attribute-deletionpolicy.html
    The emulator does: delete it with the nested stack.
    Reported as: not reported.
    """

    @replace_handler("AWS::CloudFormation::Stack", "delete")
    def delete(original: Any, physical_id: str, props: Properties) -> None:
        by_id = {each["StackId"]: each for each in _stacks.values()}
        name = provisioners._nested_stack_lookup_name(physical_id)
        root = stack = _stacks.get(name) or {}
        while parent := by_id.get(root.get("ParentId")):
            root = parent
        if stack and root["StackStatus"].startswith(("DELETE_", "UPDATE_")):
            here = stack["StackId"], name
            for logical_id, each in stack["_template"]["Resources"].items():
                retained = str(each.get("DeletionPolicy", "")).startswith("Retain")
                if retained and (kept := stack["_resources"].pop(logical_id, None)):
                    what = kept["ResourceType"], "DELETE_SKIPPED", "", kept["PhysicalResourceId"]
                    _add_event(*here, logical_id, *what)
            _add_event(*here, name, "AWS::CloudFormation::Stack", "DELETE_COMPLETE", "", stack["StackId"])
        original(physical_id, props)


@patch
def unchanged_nested_resources() -> None:
    """AWS does: leave an unchanged resource alone, so `Fn::GetAtt` of it still works. https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/using-cfn-updating-stacks-update-behaviors.html
    The emulator does: lose these attributes in nested stacks, so the update fails and is rolled back.
    Reported as: not reported.
    """

    @replace(provisioners, "_update_resource")
    def update_resource(
        original: Any, kind: str, pid: str, old: Any, new: Any, stack: str, lid: Any = None, attrs: Any = None
    ) -> Any:
        if attrs is None:
            resources = (_stacks.get(stack) or {}).get("_resources") or {}
            attrs = (resources.get(lid) or {}).get("Attributes")
        return original(kind, pid, old, new, stack, lid, attrs)
