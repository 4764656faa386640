"""Who may do what, as far as it can be read from the templates."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.template.templates import (
    ALL_TEMPLATES,
    ROOT,
    handed_over,
    mentions,
    of_type,
    stack_documents,
    stacks,
    template,
)


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
    function = template("lambda/template.yaml")["Resources"]["ApiFunctionRole"]["Properties"]
    task = template("fargate/template.yaml")["Resources"]["TaskRole"]["Properties"]
    assert function["ManagedPolicyArns"] == task["ManagedPolicyArns"] == [{"Ref": "AppPolicyArn"}]
    for stack in ("LambdaStack", "FargateStack"):
        assert handed_over(stack)["AppPolicyArn"] == {"Ref": "AppPolicy"}
    # What Lambda does with the function's role, ECS does with the execution role.
    own = [s["Sid"] for p in function["Policies"] for s in p["PolicyDocument"]["Statement"]]
    assert own == ["WriteLog", "WriteTrace", "DecryptEnvironment"]
    assert "Policies" not in task


def test_a_consumer_writes_what_its_prefix_says_and_nothing_without() -> None:
    def rights(prefix: str) -> dict[str, Any]:
        given = {"Name": "stock", "WritePrefix": prefix, "BucketName": "documents"}
        [(_, document, _)] = stack_documents("lambda/consumer.yaml", given)
        [policy] = document["Resources"]["ConsumerFunctionRole"]["Properties"]["Policies"]
        return {each["Sid"]: each["Resource"] for each in policy["PolicyDocument"]["Statement"]}

    assert rights("stock/")["WriteDocuments"] == "arn:aws:s3:::documents/stock/*"
    assert rights("stock/").keys() - rights("").keys() == {"WriteDocuments", "EncryptDocuments"}


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
        if statement["Resource"] in ({"Fn::GetAtt": ["DataKey", "Arn"]}, {"Ref": "KmsKeyArn"})
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
    for path in ALL_TEMPLATES:
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
    """An archive's name leaves a stack 39 characters."""
    pattern = template("lambda/consumer.yaml")["Parameters"]["Name"]["AllowedPattern"]
    assert re.fullmatch(pattern, "n" * 24)
    assert not re.fullmatch(pattern, "n" * 25)
    longest = {"AWS::StackName": "s" * 39, "ServiceName": "s" * 39, "Name": "n" * 24}
    documents = [*stacks(**{"AWS::StackName": "s" * 39}).values()]
    documents += [document for _, document, _ in stack_documents("lambda/consumer.yaml", longest)]
    room = {
        # https://docs.aws.amazon.com/eventbridge/latest/APIReference/API_CreateArchive.html
        ("AWS::Events::Archive", "ArchiveName"): 48,
        # https://docs.aws.amazon.com/eventbridge/latest/APIReference/API_CreateEventBus.html
        ("AWS::Events::EventBus", "Name"): 256,
        # https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_PutMetricAlarm.html
        ("AWS::CloudWatch::Alarm", "AlarmName"): 255,
        # https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_CreateQueue.html
        ("AWS::SQS::Queue", "QueueName"): 80,
        # https://docs.aws.amazon.com/lambda/latest/api/API_CreateFunction.html
        ("AWS::Lambda::Function", "FunctionName"): 64,
    }
    names: dict[tuple[str, str], set[str]] = {}
    for (kind, key), most in room.items():
        for document in documents:
            for resource in of_type(document["Resources"], kind).values():
                given = json.dumps(resource["Properties"].get(key, ""))
                given = re.sub(r"\$\{\w+[.]Version\}", "9" * 6, given)
                assert len(given.removeprefix('{"Fn::Sub": ').strip('"}')) <= most, given
                names.setdefault((kind, key), set()).add(given)
    assert names.keys() == room.keys()
    # Those of two consumers differ, and the key's policy lets EventBridge fill a queue whose name begins so.
    assert len(names["AWS::SQS::Queue", "QueueName"]) == 5  # one is not given
    assert all(name.startswith(f'"{"s" * 39}-') for name in names["AWS::SQS::Queue", "QueueName"] - {'""'})
    assert len(names["AWS::Lambda::Function", "FunctionName"]) == 5


def test_only_what_must_be_named_has_a_name() -> None:
    allowed = {
        "AWS::KMS::Alias",  # an alias is a name
        "AWS::Events::EventBus",  # a bus must be named
        "AWS::Events::Archive",  # or roles could not tell whose it is
        "AWS::Logs::LogGroup",  # found by people
        "AWS::Serverless::Function",  # its role names it, and it names its role
        "AWS::CloudWatch::Dashboard",  # found by people
        "AWS::Logs::QueryDefinition",  # must be named
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
            elif kind == "AWS::SQS::Queue" and named:  # its comment says why
                assert path == "lambda/consumer.yaml"
            elif kind not in allowed:
                assert not named, f"{name}: {named}"
