"""What protects the data and the events on their way, as the templates declare it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from moto.events.models import EventPattern
from tests.template.templates import (
    ALL_TEMPLATES,
    ROOT,
    STATEFUL,
    expanded,
    handed_over,
    mentions,
    of_type,
    stack_documents,
    stacks,
    template,
)

from app.core.dynamodb.repository import INDEXES

RESOURCES = template()["Resources"]
BUCKETS = [name for (_, name), kind in STATEFUL.items() if kind == "AWS::S3::Bucket"]
QUEUES = [place for place, kind in STATEFUL.items() if kind == "AWS::SQS::Queue"]
CONSUMER, RELAY = "lambda/consumer.yaml", "lambda/relay.yaml"
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


def test_the_table_has_the_indexes_that_the_repository_reads() -> None:
    table = properties("OrdersTable")
    found = {each["IndexName"]: each["KeySchema"] for each in table["GlobalSecondaryIndexes"]}
    assert found == {
        name: [
            {"AttributeName": key, "KeyType": "HASH"},
            {"AttributeName": "sort_key", "KeyType": "RANGE"},
        ]
        for name, key in INDEXES.items()
    }


class TestKeys:
    def test_the_data_key_serves_only_this_account(self) -> None:
        assert properties("DataKey")["PendingWindowInDays"] == 30
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


class TestBuckets:
    """What checkov does not look at: `make check` has it see to versions, and that nothing is public."""

    @pytest.mark.parametrize("name", BUCKETS)
    def test_each_rejects_plain_http_and_objects_of_others(self, name: str) -> None:
        assert mentions(properties(name), "ObjectOwnership") == ["BucketOwnerEnforced"]
        assert properties(f"{name}Policy")["Bucket"] == {"Ref": name}
        assert statements(f"{name}Policy")["RefusePlainHttp"] == {
            "Sid": "RefusePlainHttp",
            "Effect": "Deny",
            "Principal": "*",
            "Action": "s3:*",
            "Resource": [arn(name), {"Fn::Sub": f"${{{name}.Arn}}/*"}],
            "Condition": {"Bool": {"aws:SecureTransport": "false"}},
        }

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
    @pytest.mark.parametrize(("path", "name"), QUEUES)
    def test_what_waits_is_kept_for_two_weeks(self, path: str, name: str) -> None:
        assert template(path)["Resources"][name]["Properties"]["MessageRetentionPeriod"] == 14 * DAY

    def test_an_event_is_tried_five_times_and_then_set_aside(self) -> None:
        resources = expanded(CONSUMER)["Resources"]
        queue = resources["Queue"]["Properties"]
        assert queue["RedrivePolicy"] == {"deadLetterTargetArn": arn("DeadLetterQueue"), "maxReceiveCount": 5}
        # https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html#events-sqs-queueconfig
        timeout = resources["ConsumerFunction"]["Properties"]["Timeout"]
        assert queue["VisibilityTimeout"] >= 6 * timeout

    @pytest.mark.parametrize("path", ["template.yaml", CONSUMER])
    def test_every_queue_rejects_plain_http_and_takes_events_of_this_account(self, path: str) -> None:
        resources = template(path)["Resources"]
        queues = of_type(resources, "AWS::SQS::Queue")
        [policy] = of_type(resources, "AWS::SQS::QueuePolicy").values()
        assert policy["Properties"]["Queues"] == [{"Ref": name} for name in queues]
        rejection, delivery = policy["Properties"]["PolicyDocument"]["Statement"]
        assert (rejection["Effect"], rejection["Principal"], rejection["Action"]) == ("Deny", "*", "sqs:*")
        assert rejection["Resource"] == "*"
        assert rejection["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
        assert delivery["Principal"] == {"Service": "events.amazonaws.com"}
        assert (delivery["Action"], delivery["Condition"]) == ("sqs:SendMessage", OUR_ACCOUNT)
        named = delivery["Resource"] if isinstance(delivery["Resource"], list) else [delivery["Resource"]]
        assert named == [arn(name) for name in queues]


class TestBus:
    def test_what_it_cannot_deliver_is_set_aside(self) -> None:
        sources = [template(path)["Resources"] for path in ALL_TEMPLATES]
        rules = [rule for source in sources for rule in of_type(source, "AWS::Events::Rule").values()]
        targets = [
            target
            for rule in rules
            if "EventBusName" in rule["Properties"]
            for target in rule["Properties"]["Targets"]
        ]
        assert len(targets) == 2
        found = [sender["DeadLetterConfig"]["Arn"] for sender in [properties("OrdersEventBus"), *targets]]
        assert all("DeadLetterQueue" in str(queue) for queue in found), found

    def test_every_event_is_archived(self) -> None:
        archive = properties("OrdersArchive")
        assert archive["SourceArn"] == arn("OrdersEventBus")
        assert archive["RetentionDays"] == 90
        assert archive["EventPattern"] == {"source": ["orders"]}

    def test_a_consumer_gets_the_events_of_its_type(self) -> None:
        given = {"DetailType": "StockCounted", "BusName": "the-bus"}
        [(_, document, _)] = stack_documents(CONSUMER, given)
        rule = document["Resources"]["Rule"]["Properties"]
        assert rule["EventBusName"] == "the-bus"
        assert rule["EventPattern"] == {"source": ["orders"], "detail-type": ["StockCounted"]}
        assert [target["Arn"] for target in rule["Targets"]] == [arn("Queue")]
        assert handed_over("ReceiptsConsumer")["BusName"] == {"Ref": "OrdersEventBus"}

    @pytest.mark.parametrize(("stage", "logged"), [("prod", False), ("dev", True)])
    def test_events_hold_names_and_are_logged_outside_production_only(self, stage: str, logged: bool) -> None:
        resources = stacks(Stage=stage)["monitoring/template.yaml"]["Resources"]
        assert ("EventsLogRule" in resources, "EventsLogGroup" in resources) == (logged, logged)


class TestRelay:
    """How the table's stream comes to the relay."""

    def mapping(self, **parameters: object) -> dict[str, Any]:
        [mapping] = of_type(
            stacks(**parameters)[RELAY]["Resources"], "AWS::Lambda::EventSourceMapping"
        ).values()
        return dict(mapping["Properties"])

    def test_one_bad_record_neither_stops_its_shard_nor_is_lost(self) -> None:
        mapping = self.mapping(EventConcurrency=3)
        assert mapping["EventSourceArn"] == {"Ref": "StreamArn"}
        assert mapping["FunctionName"] == {"Ref": "RelayFunction"}
        assert mapping["StartingPosition"] == "TRIM_HORIZON"
        assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
        assert mapping["BisectBatchOnFunctionError"] is True
        assert "DeadLetterQueue" in str(mapping["DestinationConfig"]["OnFailure"]["Destination"])
        assert mapping["MaximumRetryAttempts"] == 10
        assert (
            0 < mapping["MaximumRecordAgeInSeconds"] <= 3600
        )  # the stream keeps it for a day, to be redriven
        assert (mapping["BatchSize"], mapping["ParallelizationFactor"]) == (100, 3)
        given = handed_over("RelayStack")
        assert given["StreamArn"] == {"Fn::GetAtt": ["OrdersTable", "StreamArn"]}
        queues = [value["Fn::GetAtt"][0] for name, value in given.items() if name.startswith("DeadLetter")]
        assert set(queues) == {"RelayDeadLetterQueue"}

    def test_changes_of_every_resource_reach_it_and_nothing_else(self) -> None:
        [chosen] = self.mapping()["FilterCriteria"]["Filters"]
        pattern = EventPattern.load(chosen["Pattern"])
        for name in ("relay-order-placed", "relay-product-created", "relay-status-changed"):
            for record in json.loads((ROOT / f"events/{name}.json").read_text())["Records"]:
                assert pattern.matches_event(record), name
        others = [
            {"eventName": "REMOVE", "dynamodb": {"Keys": {"pk": {"S": "order#1"}}}},
            {"eventName": "MODIFY", "dynamodb": {"NewImage": {"pk": {"S": "uploads#1"}, "open": {"N": "1"}}}},
        ]
        for record in others:
            assert not pattern.matches_event(record)


@pytest.mark.parametrize(("given", "at_once"), [(1, 2), (2, 2), (10, 10)])
def test_a_consumer_takes_ten_events_at_a_time_and_no_more_concurrency_than_asked(
    given: int, at_once: int
) -> None:
    """A new account may have ten: https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html"""
    parameter = template()["Parameters"]["EventConcurrency"]
    assert (parameter["Default"], parameter["MinValue"], parameter["MaxValue"]) == (1, 1, 10)
    resources = stacks(EventConcurrency=given)[CONSUMER]["Resources"]
    mapping = resources["ConsumerFunctionEvent"]["Properties"]
    assert mapping["EventSourceArn"] == arn("Queue")
    assert mapping["FunctionName"] == {"Ref": "ConsumerFunction"}
    assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert mapping["BatchSize"] == 10
    # https://docs.aws.amazon.com/lambda/latest/api/API_ScalingConfig.html: 2 to 1,000
    assert mapping["ScalingConfig"]["MaximumConcurrency"] == at_once >= 2
