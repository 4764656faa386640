"""The backup stack on the emulator, which backs nothing up: do plan and selection name what is there?"""

from __future__ import annotations

from typing import Any

import pytest
from localcloud.cloud import client, create_stack
from localcloud.running import ROOT, Emulator

pytestmark = pytest.mark.xdist_group("backup")
COPIES = "arn:aws:backup:eu-west-1:000000000000:backup-vault:copies"


def test_the_plan_takes_the_table_and_the_bucket_of_the_stack(aws: Emulator) -> None:
    formation = client(aws.endpoint, "cloudformation")
    backup: Any = client(aws.endpoint, "backup")
    values = {name: aws.outputs[name] for name in ("OrdersTableName", "DocumentsBucketName", "AlarmTopicArn")}
    values |= {"RetentionDays": "40", "CopyVaultArn": COPIES, "CopyRetentionDays": "400"}
    made = create_stack(aws.endpoint, "orders-local-backup", ROOT / "backup/template.yaml", values)

    vault = backup.describe_backup_vault(BackupVaultName=made["BackupVaultName"])
    assert len(vault["BackupVaultName"]) <= 50
    plan = made["BackupPlanId"]
    [rule] = backup.get_backup_plan(BackupPlanId=plan)["BackupPlan"]["Rules"]
    assert rule["TargetBackupVaultName"] == vault["BackupVaultName"]
    assert rule["Lifecycle"]["DeleteAfterDays"] == 40
    [copy] = rule["CopyActions"]
    assert (copy["DestinationBackupVaultArn"], copy["Lifecycle"]["DeleteAfterDays"]) == (COPIES, 400)

    [listed] = backup.list_backup_selections(BackupPlanId=plan)["BackupSelectionsList"]
    chosen = backup.get_backup_selection(BackupPlanId=plan, SelectionId=listed["SelectionId"])
    table = client(aws.endpoint, "dynamodb").describe_table(TableName=aws.outputs["OrdersTableName"])
    assert chosen["BackupSelection"]["Resources"] == [
        table["Table"]["TableArn"],
        f"arn:aws:s3:::{aws.outputs['DocumentsBucketName']}",
    ]
    assert chosen["BackupSelection"]["IamRoleArn"] == made["BackupRoleArn"]

    [about] = [
        {dimension["Value"] for dimension in alarm["Dimensions"]}
        for alarm in client(aws.endpoint, "cloudwatch").describe_alarms()["MetricAlarms"]
        if alarm["MetricName"] == "NumberOfBackupJobsFailed"
    ]
    assert about == {vault["BackupVaultName"]}

    formation.delete_stack(StackName="orders-local-backup")
    waiter = formation.get_waiter("stack_delete_complete")
    waiter.wait(StackName="orders-local-backup", WaiterConfig={"Delay": 1, "MaxAttempts": 60})
    assert backup.describe_backup_vault(BackupVaultName=made["BackupVaultName"])["BackupVaultArn"]
    assert plan not in {listed["BackupPlanId"] for listed in backup.list_backup_plans()["BackupPlansList"]}
