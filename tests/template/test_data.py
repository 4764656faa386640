"""What protects the data and the events on their way, as template.yaml declares it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from moto.events.models import EventPattern
from tests.template.templates import STATEFUL, Evaluator, expanded, mentions, of_type, template

from app.resources import load

RESOURCES = template()["Resources"]
BUCKETS = [name for name, kind in STATEFUL.items() if kind == "AWS::S3::Bucket"]
QUEUES = [name for name, kind in STATEFUL.items() if kind == "AWS::SQS::Queue"]
OUR_ACCOUNT = {"StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}}
DAY = 24 * 3600


def properties(name: str) -> dict[str, Any]:
    return dict(RESOURCES[name]["Properties"])


def arn(name: str) -> dict[str, Any]:
    return {"Fn::GetAtt": [name, "Arn"]}


def statements(name: str) -> dict[str, dict[str, Any]]:
    """The statements of a resource's policy, by their ids."""
    document = properties(name).get("PolicyDocument") or properties(name)["KeyPolicy"]
    return {statement["Sid"]: statement for statement in document["Statement"]}


class TestKeys:
    def test_the_data_key_rotates_and_serves_only_this_account(self) -> None:
        key = properties("DataKey")
        assert key["EnableKeyRotation"] is True
        assert key["PendingWindowInDays"] == 30
        services = statements("DataKey")
        assert services.pop("AccountDecidesByIam")["Principal"].keys() == {"AWS"}
        logs = services.pop("LogGroupsOfThisStackUseIt")
        assert (
            "${AWS::StackName}"
            in logs["Condition"]["ArnLike"]["kms:EncryptionContext:aws:logs:arn"]["Fn::Sub"]
        )
        # Says what kind of key it is; what else the bus may is held by test_runtime.TestDataKey.
        assert services.pop("BusAndArchiveCheckIt")["Action"] == "kms:DescribeKey"
        assert services.pop("BusAndArchiveUseIt")["Condition"].keys() == {"StringEquals"}
        # AWS's own policy for what EventBridge fills has no condition on the source.
        # https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-key-management.html
        queues = services.pop("RulesFillQueuesOfThisStack")
        assert queues["Condition"].keys() == {"ArnLike"}
        assert queues["Condition"]["ArnLike"].keys() == {"kms:EncryptionContext:aws:sqs:arn"}
        uses = re.compile(r"kms:(Decrypt|DescribeKey|Encrypt\*|GenerateDataKey\*?|ReEncrypt\*)")
        for statement in [logs, queues, *services.values()]:
            assert statement["Principal"].keys() == {"Service"}
            assert all(uses.fullmatch(action) for action in statement["Action"])
        assert [statement["Principal"]["Service"] for statement in services.values()] == [
            "cloudwatch.amazonaws.com"
        ]
        assert all(statement["Condition"].items() >= OUR_ACCOUNT.items() for statement in services.values())

    def test_the_cursor_key_makes_macs_for_whom_iam_lets(self) -> None:
        key = properties("CursorKey")
        assert (key["KeySpec"], key["KeyUsage"]) == ("HMAC_256", "GENERATE_VERIFY_MAC")
        assert key["PendingWindowInDays"] == 30
        assert statements("CursorKey").keys() == {"AccountDecidesByIam"}


def test_the_table_can_be_brought_back_and_tells_every_change() -> None:
    table = properties("OrdersTable")
    assert table["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
    assert table["StreamSpecification"] == {"StreamViewType": "NEW_AND_OLD_IMAGES"}


@pytest.mark.parametrize("name", BUCKETS)
class TestEveryBucket:
    def test_nothing_in_it_is_public_or_anothers(self, name: str) -> None:
        bucket = properties(name)
        blocks = ("BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets")
        assert bucket["PublicAccessBlockConfiguration"] == dict.fromkeys(blocks, True)
        assert mentions(bucket, "ObjectOwnership") == ["BucketOwnerEnforced"]

    def test_keeps_versions(self, name: str) -> None:
        assert properties(name)["VersioningConfiguration"] == {"Status": "Enabled"}

    def test_rejects_plain_http(self, name: str) -> None:
        assert properties(f"{name}Policy")["Bucket"] == {"Ref": name}
        assert statements(f"{name}Policy")["RefusePlainHttp"] == {
            "Sid": "RefusePlainHttp",
            "Effect": "Deny",
            "Principal": "*",
            "Action": "s3:*",
            "Resource": [arn(name), {"Fn::Sub": f"${{{name}.Arn}}/*"}],
            "Condition": {"Bool": {"aws:SecureTransport": "false"}},
        }


class TestBuckets:
    def test_documents_are_encrypted_with_the_data_key_at_one_call_a_while(self) -> None:
        [rule] = properties("DocumentsBucket")["BucketEncryption"]["ServerSideEncryptionConfiguration"]
        assert rule == {
            "BucketKeyEnabled": True,
            "ServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": arn("DataKey")},
        }

    def test_other_keys_are_rejected(self) -> None:
        """tests/local/test_enforced.py shows that they are."""
        found = statements("DocumentsBucketPolicy")
        for sid in ("RefuseOtherKeys", "RefuseKeysOfCallers"):
            assert (found[sid]["Effect"], found[sid]["Principal"], found[sid]["Action"]) == (
                "Deny",
                "*",
                "s3:PutObject",
            )
            assert found[sid]["Resource"] == {"Fn::Sub": "${DocumentsBucket.Arn}/*"}

    def test_nothing_old_is_kept_for_ever(self) -> None:
        [documents] = properties("DocumentsBucket")["LifecycleConfiguration"]["Rules"]
        [logs] = properties("AccessLogsBucket")["LifecycleConfiguration"]["Rules"]
        assert documents["NoncurrentVersionExpiration"] == {"NoncurrentDays": 90}
        assert "ExpirationInDays" not in documents  # what is current stays
        assert logs["ExpirationInDays"] == {"Ref": "LogRetentionDays"}
        assert logs["NoncurrentVersionExpiration"] == {"NoncurrentDays": 1}
        for rule in (documents, logs):
            assert rule["Status"] == "Enabled"
            assert rule["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 1}

    def test_who_fetched_which_document_is_logged(self) -> None:
        logging = properties("DocumentsBucket")["LoggingConfiguration"]
        assert logging["DestinationBucketName"] == {"Ref": "AccessLogsBucket"}
        delivery = statements("AccessLogsBucketPolicy")["BucketDeliversItsLog"]
        assert delivery["Principal"] == {"Service": "logging.s3.amazonaws.com"}
        assert delivery["Resource"] == {"Fn::Sub": f"${{AccessLogsBucket.Arn}}/{logging['LogFilePrefix']}*"}
        assert delivery["Condition"] == {"ArnEquals": {"aws:SourceArn": arn("DocumentsBucket")}} | OUR_ACCOUNT

    def test_the_load_balancer_may_write_where_it_does(self) -> None:
        balancer = template("fargate/template.yaml")["Resources"]["LoadBalancer"]["Properties"]
        attributes = {
            attribute["Key"]: attribute["Value"] for attribute in balancer["LoadBalancerAttributes"]
        }
        delivery = statements("AccessLogsBucketPolicy")["LoadBalancerDeliversItsLog"]
        prefix = attributes["access_logs.s3.prefix"]
        where = f"${{AccessLogsBucket.Arn}}/{prefix}/AWSLogs/${{AWS::AccountId}}/*"
        assert delivery["Resource"] == {"Fn::Sub": where}
        # It can deliver to no other encryption.
        assert mentions(properties("AccessLogsBucket"), "SSEAlgorithm") == ["AES256"]


class TestQueues:
    def test_what_waits_is_kept_for_two_weeks(self) -> None:
        assert [properties(name)["MessageRetentionPeriod"] for name in QUEUES] == [14 * DAY] * len(QUEUES)

    def test_a_receipt_is_tried_five_times_and_then_set_aside(self) -> None:
        queue = properties("ReceiptsQueue")
        assert queue["RedrivePolicy"] == {
            "deadLetterTargetArn": arn("ReceiptsDeadLetterQueue"),
            "maxReceiveCount": 5,
        }
        # https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html#events-sqs-queueconfig
        assert queue["VisibilityTimeout"] >= 6 * template()["Globals"]["Function"]["Timeout"]

    def test_the_policy_is_that_of_every_queue_and_rejects_plain_http(self) -> None:
        assert properties("QueuesPolicy")["Queues"] == [{"Ref": name} for name in QUEUES]
        rejection = statements("QueuesPolicy")["RefusePlainHttp"]
        assert (rejection["Effect"], rejection["Principal"], rejection["Action"]) == ("Deny", "*", "sqs:*")
        assert rejection["Resource"] == "*"
        assert rejection["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}

    def test_the_bus_delivers_to_its_targets_and_dead_letter_queues_and_no_others(self) -> None:
        delivery = statements("QueuesPolicy")["BusDelivers"]
        assert delivery["Principal"] == {"Service": "events.amazonaws.com"}
        assert (delivery["Action"], delivery["Condition"]) == ("sqs:SendMessage", OUR_ACCOUNT)
        found = [
            resource for name, resource in RESOURCES.items() if resource["Type"].startswith("AWS::Events::")
        ]
        named = {
            value["Fn::GetAtt"][0]
            for resource in found
            for value in mentions(resource, "Arn")
            if isinstance(value, dict) and "Fn::GetAtt" in value
        }
        assert {queue["Fn::GetAtt"][0] for queue in delivery["Resource"]} == named & set(QUEUES)


class TestBus:
    def test_what_it_cannot_deliver_is_set_aside(self) -> None:
        rules = of_type(RESOURCES, "AWS::Events::Rule").values()
        targets = [target for rule in rules for target in rule["Properties"]["Targets"]]
        assert len(targets) >= 2
        for sender in [properties("OrdersEventBus"), *targets]:
            assert sender["DeadLetterConfig"]["Arn"]["Fn::GetAtt"][0] in QUEUES

    def test_every_event_is_archived_for_as_long_as_asked(self) -> None:
        archive = properties("OrdersArchive")
        assert archive["SourceArn"] == arn("OrdersEventBus")
        assert archive["RetentionDays"] == {"Ref": "ArchiveRetentionDays"}
        assert archive["EventPattern"] == {"source": ["orders"]}

    def test_orders_placed_go_to_the_receipts(self) -> None:
        rule = properties("ReceiptsRule")
        assert rule["EventBusName"] == {"Ref": "OrdersEventBus"}
        assert rule["EventPattern"] == {"source": ["orders"], "detail-type": ["OrderPlaced"]}
        assert [target["Arn"] for target in rule["Targets"]] == [arn("ReceiptsQueue")]


class TestRelay:
    """How the table's stream comes to the relay."""

    def mapping(self) -> dict[str, Any]:
        return dict(expanded()["Resources"]["RelayFunctionOrderChanged"]["Properties"])

    def test_one_bad_record_neither_stops_its_shard_nor_is_lost(self) -> None:
        mapping = self.mapping()
        assert mapping["EventSourceArn"] == {"Fn::GetAtt": ["OrdersTable", "StreamArn"]}
        assert mapping["FunctionName"] == {"Ref": "RelayFunctionAliaslive"}
        assert mapping["StartingPosition"] == "TRIM_HORIZON"
        assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
        assert mapping["BisectBatchOnFunctionError"] is True
        assert mapping["DestinationConfig"]["OnFailure"]["Destination"] == arn("RelayDeadLetterQueue")
        assert mapping["MaximumRetryAttempts"] == 10
        assert (
            0 < mapping["MaximumRecordAgeInSeconds"] <= 3600
        )  # the stream keeps it for a day, to be redriven
        assert (mapping["BatchSize"], mapping["ParallelizationFactor"]) == (100, {"Ref": "EventConcurrency"})

    def test_changes_of_every_resource_reach_it_and_nothing_else(self) -> None:
        [chosen] = self.mapping()["FilterCriteria"]["Filters"]
        pattern = EventPattern.load(chosen["Pattern"])
        for module in load("events").values():
            record = {"dynamodb": {"Keys": {"pk": {"S": f"{module.source.prefix}#1"}}}}
            assert pattern.matches_event(record | {"eventName": "INSERT"}), module.source.prefix
            assert pattern.matches_event(record | {"eventName": "MODIFY"}), module.source.prefix
            assert not pattern.matches_event(record | {"eventName": "REMOVE"})
        for prefix in ("attachments", "uploads", "other"):
            record = {"eventName": "MODIFY", "dynamodb": {"Keys": {"pk": {"S": f"{prefix}#1"}}}}
            assert not pattern.matches_event(record)


def test_receipts_are_made_ten_at_a_time_and_fail_one_by_one() -> None:
    mapping = expanded()["Resources"]["ReceiptsFunctionOrderEvent"]["Properties"]
    assert mapping["EventSourceArn"] == arn("ReceiptsQueue")
    assert mapping["FunctionName"] == {"Ref": "ReceiptsFunctionAliaslive"}
    assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert mapping["BatchSize"] == 10


@pytest.mark.parametrize(("given", "receipts"), [(1, 2), (2, 2), (10, 10)])
def test_events_take_no_more_of_the_accounts_concurrency_than_asked(given: int, receipts: int) -> None:
    """A new account may have ten: https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html"""
    parameter = template()["Parameters"]["EventConcurrency"]
    assert (parameter["Default"], parameter["MinValue"], parameter["MaxValue"]) == (1, 1, 10)
    mapping = expanded()["Resources"]["ReceiptsFunctionOrderEvent"]["Properties"]
    condition, least, otherwise = mapping["ScalingConfig"]["MaximumConcurrency"]["Fn::If"]
    assert otherwise == {"Ref": "EventConcurrency"}
    one = Evaluator(template(), EventConcurrency=given).is_true({"Condition": condition})
    # https://docs.aws.amazon.com/lambda/latest/api/API_ScalingConfig.html: 2 to 1,000
    assert (least if one else given) == receipts >= 2
