"""The backup stack: that it holds what it says, for as long as it says, and is left when the stack goes."""

from __future__ import annotations

import re
from typing import Any

import pytest
from tests.template.cloudwatch import Metrics, Samples, key, state
from tests.template.templates import Evaluator, template

SOURCE = template("backup/template.yaml")
RESOURCES: dict[str, dict[str, Any]] = SOURCE["Resources"]
PARAMETERS = SOURCE["Parameters"]
TOPIC = "arn:aws:sns:eu-central-1:111122223333:orders-dev-MonitoringStack-1-AlarmTopic-1"
GIVEN = {
    "OrdersTableName": "orders-dev-OrdersTable-1",
    "DocumentsBucketName": "orders-dev-documentsbucket-1",
    "AlarmTopicArn": TOPIC,
}
VAULT = "arn:aws:backup:eu-west-1:111122223333:backup-vault:orders-copies"


def properties(name: str) -> dict[str, Any]:
    return dict(RESOURCES[name]["Properties"])


def rule() -> dict[str, Any]:
    [only] = properties("BackupPlan")["BackupPlan"]["BackupPlanRule"]
    return dict(only)


def test_the_table_and_the_documents_are_backed_up_and_nothing_else() -> None:
    selection = properties("BackupSelection")
    assert selection["BackupPlanId"] == {"Ref": "BackupPlan"}
    chosen = selection["BackupSelection"]
    assert chosen.keys() == {"SelectionName", "IamRoleArn", "Resources"}  # neither by tags nor by types
    assert [arn["Fn::Sub"] for arn in chosen["Resources"]] == [
        "arn:${AWS::Partition}:dynamodb:${AWS::Region}:${AWS::AccountId}:table/${OrdersTableName}",
        "arn:${AWS::Partition}:s3:::${DocumentsBucketName}",
    ]
    assert GIVEN.keys() <= template()["Outputs"].keys()
    assert template()["Outputs"]["OrdersTableName"]["Value"] == {"Ref": "OrdersTable"}
    assert template()["Outputs"]["DocumentsBucketName"]["Value"] == {"Ref": "DocumentsBucket"}


def test_what_is_backed_up_is_what_aws_backup_takes() -> None:
    # https://docs.aws.amazon.com/aws-backup/latest/devguide/s3-backups.html
    data = template()["Resources"]
    assert data["DocumentsBucket"]["Properties"]["VersioningConfiguration"] == {"Status": "Enabled"}
    # The managed policies use KMS by IAM alone; this statement of the data key lets them.
    policy = data["DataKey"]["Properties"]["KeyPolicy"]["Statement"]
    assert "AccountDecidesByIam" in [statement["Sid"] for statement in policy]


@pytest.mark.parametrize("name", ["BackupVault", "BackupKey"])
def test_backups_and_their_key_outlive_the_stack(name: str) -> None:
    # Empty ones go with a creation that is rolled back:
    # https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-attribute-deletionpolicy.html
    assert RESOURCES[name]["DeletionPolicy"] == "RetainExceptOnCreate"
    assert RESOURCES[name]["UpdateReplacePolicy"] == "Retain"
    assert "Condition" not in RESOURCES[name]


def test_the_vault_has_a_key_of_its_own() -> None:
    assert properties("BackupVault")["EncryptionKeyArn"] == {"Fn::GetAtt": ["BackupKey", "Arn"]}
    key = properties("BackupKey")
    # 7 to 30: https://docs.aws.amazon.com/kms/latest/developerguide/deleting-keys.html
    assert key["EnableKeyRotation"] is True
    assert key["PendingWindowInDays"] == 30
    [statement] = key["KeyPolicy"]["Statement"]
    assert statement["Principal"].keys() == {"AWS"}


def test_a_backup_is_made_every_day_and_kept_for_as_long_as_asked() -> None:
    assert rule()["TargetBackupVault"] == {"Ref": "BackupVault"}
    assert re.fullmatch(r"cron\(\d+ \d+ \* \* \? \*\)", rule()["ScheduleExpression"])
    assert rule()["Lifecycle"] == {"DeleteAfterDays": {"Ref": "RetentionDays"}}


def test_a_copy_is_made_only_where_asked_and_for_as_long() -> None:
    condition, [copy], nothing = rule()["CopyActions"]["Fn::If"]
    assert copy == {
        "DestinationBackupVaultArn": {"Ref": "CopyVaultArn"},
        "Lifecycle": {"DeleteAfterDays": {"Ref": "CopyRetentionDays"}},
    }
    assert nothing == {"Ref": "AWS::NoValue"}
    assert not Evaluator(SOURCE, **GIVEN).is_true({"Condition": condition})
    assert Evaluator(SOURCE, **GIVEN, CopyVaultArn=VAULT).is_true({"Condition": condition})


def test_the_lock_is_asked_for_and_never_for_ever() -> None:
    condition, lock, nothing = properties("BackupVault")["LockConfiguration"]["Fn::If"]
    # ChangeableForDays would make it a lock that nobody can undo.
    # https://docs.aws.amazon.com/aws-backup/latest/devguide/API_PutBackupVaultLockConfiguration.html
    assert lock == {"MinRetentionDays": {"Ref": "RetentionDays"}}
    assert nothing == {"Ref": "AWS::NoValue"}
    assert not Evaluator(SOURCE, **GIVEN).is_true({"Condition": condition})
    assert Evaluator(SOURCE, **GIVEN, LockVault="true").is_true({"Condition": condition})


def test_only_the_service_takes_the_role_which_backs_up_and_restores_both() -> None:
    role = properties("BackupRole")
    [trust] = role["AssumeRolePolicyDocument"]["Statement"]
    # https://docs.aws.amazon.com/aws-backup/latest/devguide/iam-service-roles.html
    assert trust["Principal"] == {"Service": "backup.amazonaws.com"}
    assert properties("BackupSelection")["BackupSelection"]["IamRoleArn"]["Fn::GetAtt"][0] == "BackupRole"
    assert SOURCE["Outputs"]["BackupRoleArn"]["Value"]["Fn::GetAtt"] == ["BackupRole", "Arn"]
    # https://docs.aws.amazon.com/aws-backup/latest/devguide/security-iam-awsmanpol.html
    prefix = "arn:${AWS::Partition}:iam::aws:policy/"
    assert {arn["Fn::Sub"].removeprefix(prefix) for arn in role["ManagedPolicyArns"]} == {
        "service-role/AWSBackupServiceRolePolicyForBackup",
        "service-role/AWSBackupServiceRolePolicyForRestores",
        "AWSBackupServiceRolePolicyForS3Backup",
        "AWSBackupServiceRolePolicyForS3Restore",
    }


def hours(jobs: list[int], quiet: list[float]) -> Samples:
    """The jobs of each hour. `quiet` is what comes when there are none."""
    return [[float(job)] if job and minute == 0 else quiet for job in jobs for minute in range(60)]


# The guide does not say whether a metric is sent while nothing happens, so no alarm may depend on it.
# https://docs.aws.amazon.com/aws-backup/latest/devguide/cloudwatch.html
@pytest.mark.parametrize("quiet", [[], [0.0]], ids=["no data", "zeros"])
@pytest.mark.parametrize(
    ("name", "metric", "jobs", "expected"),
    [
        ("BackupFailedAlarm", "NumberOfBackupJobsFailed", [1], "ALARM"),
        ("BackupFailedAlarm", "NumberOfBackupJobsFailed", [1] + 23 * [0], "ALARM"),
        ("BackupFailedAlarm", "NumberOfBackupJobsFailed", [1] + 24 * [0], "OK"),
        ("BackupFailedAlarm", "NumberOfBackupJobsCompleted", 36 * [1], "OK"),
        ("BackupMissingAlarm", "NumberOfBackupJobsCompleted", [], "ALARM"),
        ("BackupMissingAlarm", "NumberOfBackupJobsCompleted", [2] + 35 * [0], "OK"),
        ("BackupMissingAlarm", "NumberOfBackupJobsCompleted", [2] + 36 * [0], "ALARM"),
        ("BackupMissingAlarm", "NumberOfBackupJobsFailed", 36 * [2], "ALARM"),
    ],
)
def test_an_alarm_tells_of_a_failed_backup_and_of_none(
    name: str, metric: str, jobs: list[int], expected: str, quiet: list[float]
) -> None:
    alarm = properties(name)
    assert alarm["Dimensions"] == [{"Name": "BackupVaultName", "Value": {"Ref": "BackupVault"}}]
    assert alarm["AlarmActions"] == alarm["OKActions"] == [{"Ref": "AlarmTopicArn"}]
    # Seven days at most, and a day where a period is shorter than an hour:
    # https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_PutMetricAlarm.html
    assert alarm["Period"] >= 3600
    assert alarm["Period"] * alarm["EvaluationPeriods"] <= 7 * 86_400
    vault = {**alarm, "Dimensions": [{"Name": "BackupVaultName", "Value": "vault"}]}
    series = {key("AWS/Backup", metric, BackupVaultName="vault"): hours(jobs, quiet)}
    assert state(vault, Metrics(series)) == expected


def test_only_names_and_arns_are_taken() -> None:
    good = {**GIVEN, "CopyVaultArn": VAULT}
    for name, value in good.items():
        assert re.fullmatch(PARAMETERS[name]["AllowedPattern"], value), name
    assert re.fullmatch(PARAMETERS["CopyVaultArn"]["AllowedPattern"], "")
    for name, value in {
        "OrdersTableName": "*",
        "DocumentsBucketName": "arn:aws:s3:::orders",
        "CopyVaultArn": "orders-copies",
        "AlarmTopicArn": "orders-alarms",
    }.items():
        assert not re.fullmatch(PARAMETERS[name]["AllowedPattern"], value), name
