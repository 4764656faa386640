"""Who may do what, as far as it can be read from the templates."""

from __future__ import annotations

import json
import re
import uuid
from typing import Any

from scripts.delivery.decide import stack_name
from tests.template.templates import ROOT, Evaluator, mentions, of_type, template
from tests.template.test_runtime import ALL_TEMPLATES


def policies() -> list[tuple[str, dict[str, Any]]]:
    """Every identity policy statement, with the resource it stands in."""
    found = []
    for path in ALL_TEMPLATES:
        for name, resource in template(path)["Resources"].items():
            if resource["Type"] in ("AWS::IAM::Role", "AWS::IAM::ManagedPolicy"):
                documents = mentions(resource["Properties"], "PolicyDocument")
                statements = [statement for document in documents for statement in document["Statement"]]
                found += [
                    (name, statement["Fn::If"][1] if "Fn::If" in statement else statement)
                    for statement in statements
                ]
    return found


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def test_the_application_has_the_same_rights_in_both_runtimes() -> None:
    function = template()["Resources"]["ApiFunctionRole"]["Properties"]
    task = template("fargate/template.yaml")["Resources"]["TaskRole"]["Properties"]
    assert function["ManagedPolicyArns"] == [{"Ref": "AppPolicy"}]
    assert task["ManagedPolicyArns"] == [{"Ref": "AppPolicyArn"}]
    handed_over = template()["Resources"]["FargateStack"]["Properties"]["Parameters"]
    assert handed_over["AppPolicyArn"] == {"Ref": "AppPolicy"}
    # What Lambda does with the function's role, ECS does with the execution role.
    own = [s["Sid"] for p in function["Policies"] for s in p["PolicyDocument"]["Statement"]]
    assert own == ["WriteLog", "WriteTrace", "DecryptEnvironment"]
    assert "Policies" not in task


def test_no_action_is_a_wildcard() -> None:
    assert policies()
    for name, statement in policies():
        assert statement["Effect"] == "Allow"
        for action in listed(statement["Action"]):
            assert "*" not in action, f"{name}: {action}"


def test_a_wildcard_resource_has_its_reason_beside_it() -> None:
    for name, statement in policies():
        if "*" in listed(statement["Resource"]):
            text = "\n".join((ROOT / path).read_text() for path in ALL_TEMPLATES)
            assert re.search(rf"- Sid: {statement['Sid']} # \w", text), f"{name}: {statement['Sid']}"


def test_the_data_key_is_used_only_through_the_service_and_for_the_thing() -> None:
    uses = [
        statement
        for _, statement in policies()
        if statement["Resource"] == {"Fn::GetAtt": ["DataKey", "Arn"]}
    ]
    assert len(uses) >= 6
    for statement in uses:
        condition = {key for operator in statement["Condition"].values() for key in operator}
        assert "kms:ViaService" in condition or statement["Sid"] == "DecryptEnvironment", statement["Sid"]
        assert any(key.startswith("kms:EncryptionContext:aws:") for key in condition), statement["Sid"]


def test_nothing_names_an_account_a_region_or_a_partition() -> None:
    for path in ALL_TEMPLATES:
        text = (ROOT / path).read_text()
        assert not re.search(r"arn:aws:|\b\d{12}\b|\b(eu|us|ap)-[a-z]+-\d\b", text), path


def test_rules_may_write_their_log_groups_by_the_groups_own_policies() -> None:
    """An account has room for ten policies of logs beyond those, however many stacks it has.

    The emulator would deliver without: EventBridge takes a group without `:*` as a target, and names the
    rule when it writes, but not when it makes a stream.
    """
    targets = 0
    for path in (*ALL_TEMPLATES, "monitoring/template.yaml"):
        resources = template(path)["Resources"]
        assert "AWS::Logs::ResourcePolicy" not in {resource["Type"] for resource in resources.values()}
        rules = of_type(resources, "AWS::Events::Rule").values()
        for target in (t["Arn"] for rule in rules for t in rule["Properties"]["Targets"]):
            found = re.search(r":log-group:\$\{(\w+)\}$", target.get("Fn::Sub", ""))
            if not found:
                name = target["Fn::GetAtt"][0]
                assert resources[name]["Type"] != "AWS::Logs::LogGroup", f"{path}: {name}.Arn ends in :*"
                continue
            targets += 1
            group = resources[found[1]]["Properties"]
            statements = {
                statement["Action"]: statement for statement in group["ResourcePolicyDocument"]["Statement"]
            }
            assert statements.keys() == {"logs:CreateLogStream", "logs:PutLogEvents"}
            for statement in statements.values():
                name = group["LogGroupName"]["Fn::Sub"]
                assert statement["Resource"]["Fn::Sub"].endswith(f":log-group:{name}:*")
                assert "events.amazonaws.com" in statement["Principal"]["Service"]
            assert "Condition" not in statements["logs:CreateLogStream"]
            (source,) = statements["logs:PutLogEvents"]["Condition"]["ArnLike"].values()
            assert re.search(r":rule/\$\{(AWS::StackName|ServiceName)\}-\*$", source["Fn::Sub"])
    assert targets == 2


def test_names_have_room_for_the_longest_name_of_a_stack() -> None:
    """Of sixteen characters for the service, and as many for the stage: the bootstrap takes no more."""
    stack_id = "arn:aws:cloudformation:eu-central-1:111122223333:stack/x/" + str(uuid.uuid4())
    stack = Evaluator(
        template(), **{"AWS::StackName": stack_name("s" * 16, "a" * 16), "AWS::StackId": stack_id}
    )
    room = {
        # https://docs.aws.amazon.com/eventbridge/latest/APIReference/API_CreateArchive.html
        ("OrdersArchive", "ArchiveName"): 48,
        # https://docs.aws.amazon.com/eventbridge/latest/APIReference/API_CreateEventBus.html
        ("OrdersEventBus", "Name"): 256,
        # https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_PutMetricAlarm.html
        ("ApiErrorsAlarm", "AlarmName"): 255,
        ("ApiServerErrorsAlarm", "AlarmName"): 255,
    }
    for (name, key), most in room.items():
        given = json.dumps(template()["Resources"][name]["Properties"][key])
        given = given.replace("${ApiFunction.Version.Version}", "9" * 6)
        assert len(stack.resolved(json.loads(given))) <= most, name


def test_only_what_must_be_named_has_a_name() -> None:
    allowed = {
        "AWS::KMS::Alias",  # an alias is a name
        "AWS::Events::EventBus",  # a bus must be named
        "AWS::Events::Archive",  # or roles could not tell whose it is
        "AWS::Logs::LogGroup",  # found by people
        "AWS::ApiGatewayV2::DomainName",
        "AWS::ApiGatewayV2::ApiMapping",
        "AWS::Route53::RecordSet",
        "AWS::ApplicationAutoScaling::ScalingPolicy",  # unique within its target
    }
    for path in ALL_TEMPLATES:
        for name, resource in template(path)["Resources"].items():
            kind = resource["Type"]
            own = {"Name", f"{kind.rsplit('::')[-1]}Name", "FunctionName", "RoleName", "GroupName"}
            named = own & resource.get("Properties", {}).keys()
            if kind == "AWS::CloudWatch::Alarm" and named:
                # A deployment's, each version with its own; their comment says why.
                assert "${ApiFunction.Version.Version}" in resource["Properties"]["AlarmName"]["Fn::Sub"]
            elif kind not in allowed:
                assert not named, f"{name}: {named}"
