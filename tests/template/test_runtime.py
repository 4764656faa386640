"""`Runtime` adds and removes an entry point, and touches nothing else."""

from __future__ import annotations

import json
import re
from ipaddress import ip_network
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from cfnlint.schema import PROVIDER_SCHEMA_MANAGER
from tests.delivery.iam import allowed
from tests.template.templates import (
    ALL_TEMPLATES,
    PSEUDO,
    ROOT,
    STATEFUL,
    Evaluator,
    Template,
    expanded,
    handed_over,
    mentions,
    of_type,
    stacks,
    template,
    transformed,
)

from app.core.settings import Settings
from app.entrypoints.custom_resources import settings_of

API, CUSTOM, FARGATE = "lambda/template.yaml", "lambda/custom_resources.yaml", "fargate/template.yaml"
EVENTS = {"lambda/relay.yaml", "lambda/consumer.yaml"}
FUNCTION = "AWS::Lambda::Function"
DOMAIN = {"DomainName": "orders.example.com", "CertificateArn": "arn", "HostedZoneId": "Z1"}


class TestEntryPoints:
    @pytest.mark.parametrize(
        ("given", "entry_points"),
        [
            ({"Runtime": "lambda"}, {API}),
            ({"Runtime": "fargate"}, {FARGATE, "fargate/network.yaml"}),
            ({"Runtime": "lambda", "BothRuntimes": "true"}, {API, FARGATE, "fargate/network.yaml"}),
            ({"Runtime": "fargate", "BothRuntimes": "true"}, {API, FARGATE, "fargate/network.yaml"}),
        ],
    )
    def test_runtime_decides_which_stand(self, given: dict[str, str], entry_points: set[str]) -> None:
        found = stacks(**given).keys()
        assert found & {API, FARGATE, "fargate/network.yaml"} == entry_points
        assert found >= EVENTS

    def test_a_switch_adds_and_removes_entry_points_only(self) -> None:
        before, after = (stacks(Runtime=runtime, **DOMAIN) for runtime in ("lambda", "fargate"))
        root, then = before["template.yaml"]["Resources"], after["template.yaml"]["Resources"]
        assert then.keys() - root.keys() == {"FargateStack"}
        assert root.keys() - then.keys() == {"LambdaStack", "HttpApiDomain", "HttpApiDomainMapping"}
        changed = {name for name in root.keys() & then.keys() if root[name] != then[name]}
        assert changed == {"ApiRecord", "MonitoringStack"}
        for path in (CUSTOM, *EVENTS):
            assert before[path] == after[path], path

    @pytest.mark.parametrize("runtime", ["lambda", "fargate"])
    def test_api_url_follows_runtime(self, runtime: str) -> None:
        for both in ("false", "true"):
            url = stacks(Runtime=runtime, BothRuntimes=both)["template.yaml"]["Outputs"]["ApiUrl"]["Value"]
            assert url == {"Fn::GetAtt": [f"{runtime.capitalize()}Stack", "Outputs.Url"]}
        named = stacks(Runtime=runtime, **DOMAIN)["template.yaml"]["Outputs"]["ApiUrl"]["Value"]
        assert named == "https://orders.example.com"


def _references(value: Any) -> list[str]:
    """Return what a value names, in either branch of an `Fn::If` too."""
    if isinstance(value, list):
        return [found for item in value for found in _references(item)]
    if not isinstance(value, dict):
        return []
    found: list[str] = []
    for key, item in value.items():
        if key == "Ref":
            found.append(item)
        elif key == "Fn::GetAtt":
            found.append((item if isinstance(item, list) else item.split("."))[0])
        elif key == "Fn::Sub":
            text = item if isinstance(item, str) else item[0]
            found += [name.split(".")[0] for name in re.findall(r"\$\{([A-Za-z0-9.]+)\}", text)]
            found += _references(item)
        else:
            found += _references(item)
    return found


class TestData:
    def test_ids_are_frozen(self) -> None:
        found = {
            (path, name): resource["Type"]
            for path in ALL_TEMPLATES
            for name, resource in of_type(expanded(path)["Resources"], *STATEFUL.values()).items()
        }
        assert found == STATEFUL

    @pytest.mark.parametrize(("path", "name"), STATEFUL)
    def test_is_kept_and_does_not_depend_on_the_runtime(self, path: str, name: str) -> None:
        resource = template(path)["Resources"][name]
        assert resource["DeletionPolicy"].startswith("Retain")
        assert resource["UpdateReplacePolicy"] == "Retain"
        assert "Condition" not in resource
        lambda_, fargate = (stacks(Runtime=runtime)[path]["Resources"] for runtime in ("lambda", "fargate"))
        assert lambda_[name] == fargate[name]

    def test_a_first_deployment_that_fails_leaves_nothing_that_costs(self) -> None:
        """What is kept "except on create" goes with the operation that made it, if that is rolled back.

        https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-attribute-deletionpolicy.html
        A bucket with a load balancer's test file in it cannot be deleted: the rollback would fail.
        """
        kept = {
            name
            for path in ALL_TEMPLATES
            for name, resource in expanded(path)["Resources"].items()
            if resource.get("DeletionPolicy") == "Retain"
        }
        assert kept == {"AccessLogsBucket"}

    def test_production_table_rejects_deletion(self) -> None:
        protection = template()["Resources"]["OrdersTable"]["Properties"]["DeletionProtectionEnabled"]
        assert protection == {"Fn::If": ["IsProduction", True, False]}

    def test_is_encrypted_with_the_data_key(self) -> None:
        key = {"Fn::GetAtt": ["DataKey", "Arn"]}
        # What a resource calls its key, where it has one.
        keys = ("KMSMasterKeyId", "KMSMasterKeyID", "KmsMasterKeyId", "KmsKeyIdentifier", "KmsKeyId")
        kinds = {*STATEFUL.values(), "AWS::Logs::LogGroup"} - {"AWS::KMS::Key"}
        for path in ALL_TEMPLATES:
            ours = key if path == "template.yaml" else {"Ref": "KmsKeyArn"}
            for name, resource in of_type(template(path)["Resources"], *kinds).items():
                named = [found for each in keys for found in mentions(resource["Properties"], each)]
                assert named == ([] if name == "AccessLogsBucket" else [ours]), name
                if resource["Type"] == "AWS::Logs::LogGroup":
                    assert resource["Properties"]["RetentionInDays"] == {"Ref": "LogRetentionDays"}
            for stack in of_type(template(path)["Resources"], "AWS::CloudFormation::Stack"):
                assert handed_over(stack, path).get("KmsKeyArn", ours) == ours


class TestDataKey:
    """What EventBridge may do with the key: whatever it does for this stack's bus and queues, and no other's.

    https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-encryption-event-bus-cmkey.html
    https://docs.aws.amazon.com/eventbridge/latest/userguide/encryption-archives.html
    """

    def may(self, action: str, **context: str) -> bool:
        policy = template()["Resources"]["DataKey"]["Properties"]["KeyPolicy"]
        theirs = [s for s in policy["Statement"] if s["Principal"] == {"Service": "events.amazonaws.com"}]
        names = {"bus": "kms:EncryptionContext:aws:events:event-bus:arn", "account": "aws:SourceAccount"}
        names["queue"] = "kms:EncryptionContext:aws:sqs:arn"
        told = {names[name]: value for name, value in context.items()}
        return allowed(Evaluator(template()).resolved(theirs), action, "*", **told)

    def test_for_the_bus_and_its_archive(self) -> None:
        name = Evaluator(template()).resolved(template()["Resources"]["OrdersEventBus"]["Properties"]["Name"])
        arn = "arn:aws:events:eu-central-1:111122223333:event-bus/"
        for action in ("kms:GenerateDataKey", "kms:Decrypt", "kms:ReEncryptFrom"):
            assert self.may(action, bus=arn + name)
            assert not self.may(action, bus=arn + "another", account="111122223333")
        assert self.may("kms:DescribeKey")

    def test_for_the_queues_that_its_rules_fill(self) -> None:
        arn = "arn:aws:sqs:eu-central-1:111122223333:"
        other = arn.replace("111122223333", "444455556666")
        consumer = of_type(stacks()["lambda/consumer.yaml"]["Resources"], "AWS::SQS::Queue").values()
        names = [queue["Properties"]["QueueName"] for queue in consumer]
        assert len(names) == 2
        for action in ("kms:GenerateDataKey", "kms:Decrypt"):
            # CloudFormation begins a name that it makes with the stack's.
            for name in [*names, "orders-dev-RelayDeadLetterQueue-1A2B"]:
                assert self.may(action, queue=arn + name)
                assert not self.may(action, queue=other + name)
            assert not self.may(action, queue=f"{arn}another-queue")
            assert not self.may(action, account="111122223333")


class TestSettings:
    """They are declared once, and what reads them gets all of them."""

    PROPERTIES = template()["Resources"]["Settings"]["Properties"]

    def test_each_is_one_of_the_application_and_none_that_it_needs_is_missing(self) -> None:
        fields = Settings.__struct_fields__
        required = fields[: -len(Settings.__struct_defaults__)]
        assert set(required) <= self.PROPERTIES["Values"].keys() <= set(fields)

    def test_every_function_and_the_task_get_them_and_little_else(self) -> None:
        found = stacks(BothRuntimes="true", OriginSecretArn="arn")
        [container] = found[FARGATE]["Resources"]["TaskDefinition"]["Properties"]["ContainerDefinitions"]
        environments = {"task": {each["Name"]: each["Value"] for each in container["Environment"]}}
        for document in found.values():
            for name, function in of_type(document["Resources"], FUNCTION).items():
                environments[name] = function["Properties"].get("Environment", {}).get("Variables", {})
        assert environments.pop("CustomResourcesFunction") == {}
        assert environments["ApiFunction"].pop("APP_ORIGIN_SECRETS")
        for name, environment in environments.items():
            runtime = "fargate" if name == "task" else "lambda"
            assert environment == {"APP_SETTINGS": {"Ref": "Settings"}, "APP_RUNTIME": runtime}, name
        nested = of_type(template()["Resources"], "AWS::CloudFormation::Stack")
        handed = [stack for stack in nested if "Settings" in handed_over(stack)]
        assert {"LambdaStack", "FargateStack", "RelayStack", "ReceiptsConsumer"} <= set(handed)
        for stack in handed:
            assert handed_over(stack)["Settings"] == {"Fn::GetAtt": ["Settings", "Json"]}

    def test_one_that_changes_makes_a_new_version_and_new_tasks(self) -> None:
        """That the fingerprint changes with each is shown by tests/unit/test_custom_resources.py.

        Both properties are replaced, not updated, by the schemas of CloudFormation that cfn-lint carries.
        """
        fingerprint = {"Ref": "SettingsFingerprint"}
        assert handed_over("LambdaStack")["SettingsFingerprint"] == {
            "Fn::GetAtt": ["Settings", "Fingerprint"]
        }
        [version] = of_type(expanded(API)["Resources"], "AWS::Lambda::Version").values()
        assert version["Properties"]["Description"] == fingerprint
        for kind, name in (
            ("AWS::Lambda::Version", "Description"),
            ("AWS::ECS::TaskDefinition", "ContainerDefinitions"),
        ):
            schema = PROVIDER_SCHEMA_MANAGER.get_resource_schema("us-east-1", kind).schema
            assert f"/properties/{name}" in schema["createOnlyProperties"]

    @pytest.mark.parametrize("name", ["OriginSecretArn", "OriginSecretVersion"])
    def test_another_secret_makes_a_new_version(self, name: str) -> None:
        given = {"OriginSecretArn": "arn", "OriginSecretVersion": "1"}
        before, after = (stacks(**each)["template.yaml"] for each in (given, given | {name: "new"}))
        assert before["Resources"]["Settings"] != after["Resources"]["Settings"]

    def test_another_version_of_the_secret_makes_another_function(self) -> None:
        """Lambda publishes no version of one that has not changed, and the secret may hold the same value."""
        found = [
            stacks(OriginSecretArn="arn", OriginSecretVersion=version)[API]["Resources"]["ApiFunction"]
            for version in "12"
        ]
        assert found[0]["Properties"]["Description"] != found[1]["Properties"]["Description"]

    def test_the_longest_fit_in_what_carries_them(self) -> None:
        quotes = '"' * 256  # nothing takes more room in JSON, and in the response it is JSON in JSON
        given = {
            "AWS::StackName": "s" * 39,  # see test_identity
            "AWS::Region": "ap-southeast-4",
            "Stage": "s" * 16,
            "LogLevel": "WARNING",
            "CorsOrigins": f"https://{'c' * 504}",
            "AuthIssuer": f"https://{quotes[8:]}",
            "AuthAudience": quotes,
        }
        parameters = template()["Parameters"]
        used = set(_references(self.PROPERTIES["Values"])) & parameters.keys()
        assert used == given.keys() & parameters.keys()
        for name in used:
            pattern, text = parameters[name].get("AllowedPattern", ".*"), given[name]
            assert re.fullmatch(pattern, text), name
            longest = max(map(len, parameters[name].get("AllowedValues", [])), default=None)
            longest = parameters[name].get("MaxLength", longest)
            assert len(text) == longest if longest else not re.fullmatch(pattern, text + "s"), name
        values = Evaluator(template(), **given).resolved(self.PROPERTIES["Values"])
        arn = "arn:aws:kms:ap-southeast-4:111122223333:key/mrk-" + "0" * 32
        made = {"table_name": f"{'s' * 39}-OrdersTable-1A2B3C4D5E6F7", "bucket_name": "b" * 63}
        made |= {"event_bus_name": f"{'s' * 39}-{'0' * 36}", "kms_key_arn": arn, "cursor_key_arn": arn}
        assert made.keys() == {name for name, value in values.items() if isinstance(value, dict)}
        data = settings_of({"Values": values | made})
        response = {
            "StackId": f"arn:aws:cloudformation:ap-southeast-4:111122223333:stack/{'s' * 39}/{'0' * 36}",
            "RequestId": "0" * 36,
            "LogicalResourceId": "Settings",
            "PhysicalResourceId": "Settings",
            "Status": "SUCCESS",
            "Data": data,
        }
        # "The total size of the response body can't exceed 4096 bytes":
        # https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/crpg-ref-responses.html
        assert len(json.dumps(response)) <= 4096
        # A parameter's value, 4,096 bytes:
        # https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/cloudformation-limits.html
        # All environment variables of a function, 4 KB:
        # https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
        secrets = json.dumps({"previous": "s" * 48, "current": "s" * 48})
        variables = {"APP_SETTINGS": data["Json"], "APP_RUNTIME": "lambda", "APP_ORIGIN_SECRETS": secrets}
        assert sum(len(name) + len(value) for name, value in variables.items()) <= 4096


class TestOneApplication:
    def functions(self) -> dict[str, Any]:
        return {
            name: function["Properties"]
            for document in stacks().values()
            for name, function in of_type(document["Resources"], FUNCTION).items()
        }

    def versions(self, *sources: Template) -> list[dict[str, Any]]:
        return [of_type(source["Resources"], "AWS::Lambda::Version") for source in sources]

    def test_a_call_leaves_one_line_and_the_platform_adds_its_own_for_failed_ones_only(self) -> None:
        # "start" and "report" of a call that succeeded are of level INFO, those of one that failed WARN:
        # https://docs.aws.amazon.com/lambda/latest/dg/monitoring-cloudwatchlogs-log-level.html
        for name, function in self.functions().items():
            config = function["LoggingConfig"]
            assert (config["LogFormat"], config["SystemLogLevel"]) == ("JSON", "WARN"), name
        for stack in of_type(template()["Resources"], "AWS::CloudFormation::Stack"):
            group = "ApiLogGroup" if stack in ("LambdaStack", "FargateStack") else "FunctionsLogGroup"
            assert handed_over(stack).get("LogGroupName", {"Ref": group}) == {"Ref": group}, stack

    @pytest.mark.parametrize(
        ("path", "function", "change"),
        [
            (API, "ApiFunction", {"Timeout": 20}),
            (CUSTOM, "CustomResourcesFunction", {"ImageUri": "other:tag"}),
        ],
    )
    def test_a_property_that_changes_publishes_the_function_anew(
        self, path: str, function: str, change: dict[str, Any]
    ) -> None:
        changed = template(path)
        changed["Resources"][function]["Properties"] |= change
        before, after = self.versions(expanded(path), transformed(changed))
        assert len(before) == len(after) == 1
        assert before.keys() != after.keys()

    def test_a_version_goes_with_the_deployment_that_is_rolled_back(self) -> None:
        """Or the next deployment of the same image ends with "Version already exists".

        "Lambda doesn't publish a version if the function's configuration and code haven't changed since the
        last version": https://docs.aws.amazon.com/lambda/latest/api/API_PublishVersion.html
        SAM keeps them unless it is told:
        https://docs.aws.amazon.com/serverless-application-model/latest/developerguide/sam-specification-resource-attributes.html
        """
        found = self.versions(*map(expanded, ALL_TEMPLATES))
        versions = [version for versions in found for version in versions.values()]
        assert [version.get("DeletionPolicy") for version in versions] == ["Delete"] * 2
        # It is Delete unless the template says another.
        assert not [version for version in versions if "UpdateReplacePolicy" in version]

    def test_nothing_but_the_alias_and_what_is_made_anew_with_it_reads_a_version(self) -> None:
        """Both are given the new one before the one that is replaced goes."""
        readers = {
            resource["Type"]
            for source in map(expanded, ALL_TEMPLATES)
            for resource in source["Resources"].values()
            if of_type(source["Resources"], "AWS::Lambda::Version").keys() & set(_references(resource))
        }
        assert readers == {"AWS::Lambda::Alias", "Custom::ImageVersion", "AWS::CloudWatch::Alarm"}

    def test_every_function_runs_the_one_image(self) -> None:
        functions = self.functions()
        assert len(functions) >= 4
        for function in functions.values():
            assert function["PackageType"] == "Image"
            config = function["ImageConfig"]
            assert config["EntryPoint"] == ["python", "-m", "awslambdaric"]
            (command,) = config["Command"]
            module, _, attribute = command.rpartition(".")
            assert attribute == "handler"
            assert (ROOT / "src" / f"{module.replace('.', '/')}.py").is_file()
        built = {
            ((ROOT / path).parent / Path(metadata["DockerContext"]) / metadata["Dockerfile"]).resolve()
            for path in ALL_TEMPLATES
            for function in of_type(template(path)["Resources"], "AWS::Serverless::Function").values()
            for metadata in [function["Metadata"]]
        }
        assert built == {ROOT / "Dockerfile"}

    def test_tasks_run_the_digest_of_a_function_that_always_stands(self) -> None:
        assert handed_over("FargateStack")["ImageUri"] == {
            "Fn::GetAtt": ["CustomResourcesStack", "Outputs.ImageUri"]
        }
        assert "Condition" not in template()["Resources"]["CustomResourcesStack"]
        source = template(CUSTOM)
        assert source["Outputs"]["ImageUri"]["Value"] == {"Fn::GetAtt": ["ImageVersion", "ImageUri"]}
        version = source["Resources"]["ImageVersion"]["Properties"]["FunctionVersionArn"]["Ref"]
        assert version == "CustomResourcesFunction.Version"
        [container] = template(FARGATE)["Resources"]["TaskDefinition"]["Properties"]["ContainerDefinitions"]
        assert container["Image"] == {"Ref": "ImageUri"}


class TestOriginSecret:
    """It reaches the API in either runtime, and nobody else."""

    ARN = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:edge"

    @pytest.mark.parametrize(("version", "suffix"), [("", ""), ("v2", "v2")])
    def test_on_lambda_it_is_in_the_environment_of_the_api_encrypted_with_the_data_key(
        self, version: str, suffix: str
    ) -> None:
        found = stacks(OriginSecretArn=self.ARN, OriginSecretVersion=version)
        resources = [each for document in found.values() for each in document["Resources"].items()]
        [(name, function)] = [each for each in resources if "{{resolve:" in str(each)]
        assert name == "ApiFunction"
        assert function["Properties"]["KmsKeyArn"] == {"Ref": "KmsKeyArn"}
        variables = function["Properties"]["Environment"]["Variables"]
        assert variables.pop("APP_ORIGIN_SECRETS") == (
            f"{{{{resolve:secretsmanager:{self.ARN}:SecretString:::{suffix}}}}}"
        )
        assert "{{resolve:" not in str(variables)
        assert (
            stacks()[API]["Resources"]["ApiFunction"]["Properties"]["Environment"]["Variables"][
                "APP_ORIGIN_SECRETS"
            ]
            == ""
        )

    # arn:json-key:version-stage:version-id; the whole of it, as on Lambda.
    @pytest.mark.parametrize(("version", "suffix"), [("", ""), ("v2", ":::v2")])
    def test_on_fargate_ecs_reads_it_when_a_task_starts(self, version: str, suffix: str) -> None:
        found = stacks(Runtime="fargate", OriginSecretArn=self.ARN, OriginSecretVersion=version)
        [container] = found[FARGATE]["Resources"]["TaskDefinition"]["Properties"]["ContainerDefinitions"]
        assert container["Secrets"] == [{"Name": "APP_ORIGIN_SECRETS", "ValueFrom": self.ARN + suffix}]
        assert "ORIGIN_SECRET" not in str(container["Environment"])
        nested = template(FARGATE)["Parameters"]
        assert not [name for name, parameter in nested.items() if "NoEcho" in parameter]

    def test_only_the_role_that_starts_tasks_may_read_it_and_nothing_else(self) -> None:
        found = stacks(BothRuntimes="true", OriginSecretArn=self.ARN)
        statements = {
            name: statement
            for document in found.values()
            for name, resource in document["Resources"].items()
            for policy in mentions(resource.get("Properties", {}), "PolicyDocument")
            for statement in policy["Statement"]
            if "secretsmanager:" in str(statement["Action"])
        }
        assert statements.keys() == {"ExecutionRole"}
        assert statements["ExecutionRole"]["Action"] == "secretsmanager:GetSecretValue"
        assert statements["ExecutionRole"]["Resource"] == self.ARN
        assert "secretsmanager:" not in str(stacks(Runtime="fargate")[FARGATE])


class TestServer:
    """What the server, the task and the load balancer must agree on."""

    def attributes(self, name: str, key: str) -> dict[str, Any]:
        resource = template(FARGATE)["Resources"][name]
        return {tag["Key"]: tag["Value"] for tag in resource["Properties"][key]}

    @pytest.mark.parametrize(
        ("stage", "runtime", "both", "protected"),
        [
            ("prod", "fargate", "false", True),
            # A switch is under way, and the load balancer must be able to go.
            ("prod", "fargate", "true", False),
            ("prod", "lambda", "true", False),
            ("dev", "fargate", "false", False),
        ],
    )
    def test_the_load_balancer_is_protected_while_production_has_no_other_entry_point(
        self, stage: str, runtime: str, both: str, protected: bool
    ) -> None:
        given = {"Stage": stage, "Runtime": runtime, "BothRuntimes": both}
        balancer = stacks(**given)[FARGATE]["Resources"]["LoadBalancer"]["Properties"]
        attributes = {each["Key"]: each["Value"] for each in balancer["LoadBalancerAttributes"]}
        assert attributes["deletion_protection.enabled"] == ("true" if protected else "false")

    def server(self, argument: str) -> int:
        found = re.search(rf"{argument} ?= ?(\d+)", (ROOT / "src/app/entrypoints/server.py").read_text())
        assert found
        return int(found[1])

    def test_idle_connections_outlive_the_load_balancers(self) -> None:
        idle = self.attributes("LoadBalancer", "LoadBalancerAttributes")["idle_timeout.timeout_seconds"]
        assert self.server("timeout_keep_alive") > int(idle)

    def test_a_dependencys_hiccup_takes_no_task_out(self) -> None:
        """Readiness asks the dependencies: by it, one that is slow would take every task out at once."""
        group = template(FARGATE)["Resources"]["TargetGroup"]["Properties"]
        assert group["HealthCheckPath"] == "/health"
        [container] = template(FARGATE)["Resources"]["TaskDefinition"]["Properties"]["ContainerDefinitions"]
        assert "/health/ready" not in str(container["HealthCheck"])

    def test_the_server_ends_before_it_is_killed(self) -> None:
        task = template(FARGATE)["Resources"]["TaskDefinition"]["Properties"]
        (container,) = task["ContainerDefinitions"]
        names = ("DRAIN_SECONDS", "FINISH_SECONDS", "CUT_SECONDS")
        assert sum(map(self.server, names)) < container["StopTimeout"]

    def test_the_task_has_no_more_rights_than_it_needs(self) -> None:
        task = template(FARGATE)["Resources"]["TaskDefinition"]["Properties"]
        (container,) = task["ContainerDefinitions"]
        assert container["ReadonlyRootFilesystem"] is True
        assert container["LinuxParameters"]["Capabilities"] == {"Drop": ["ALL"]}

    def test_a_task_has_no_more_processor_than_its_one_process_uses(self) -> None:
        assert "workers" not in (ROOT / "src/app/entrypoints/server.py").read_text()
        sizes = template()["Parameters"]["FargateCpuUnits"]["AllowedValues"]
        assert max(sizes) == 1024
        assert list(template(FARGATE)["Mappings"]["TaskSizes"]) == list(map(str, sizes))

    def test_a_bad_deployment_is_taken_back_and_scaling_is_left_alone(self) -> None:
        service = template(FARGATE)["Resources"]["Service"]["Properties"]
        assert "DesiredCount" not in service
        deployment = service["DeploymentConfiguration"]
        assert deployment["MinimumHealthyPercent"] == 100
        assert deployment["DeploymentCircuitBreaker"] == {"Enable": True, "Rollback": True}
        assert deployment["Alarms"]["Enable"] is deployment["Alarms"]["Rollback"] is True
        assert deployment["Alarms"]["AlarmNames"]

    def test_shares_of_spot_leave_the_first_task_on_demand(self) -> None:
        nested = template(FARGATE)
        weights = nested["Mappings"]["CapacityWeights"]
        assert list(weights) == nested["Parameters"]["SpotPercent"]["AllowedValues"]
        for percent, weight in weights.items():
            assert weight["OnDemand"] > 0  # ECS places no task by a weight of 0, not even as the base
            assert weight["Spot"] * 100 == int(percent) * (weight["OnDemand"] + weight["Spot"])

    @pytest.mark.parametrize(
        ("partition", "percent", "named"),
        [("aws", "0", True), ("aws", "25", True), ("aws-cn", "0", False), ("aws-us-gov", "25", True)],
    )
    def test_spot_is_named_where_it_is_used_or_known_to_be(
        self, partition: str, percent: str, named: bool
    ) -> None:
        """Where there is no Spot, a strategy with it could be rejected, whatever its weight.

        In commercial regions there is, and it stays: "You can only disassociate an existing capacity provider
        from a cluster if it's not being used by any existing tasks".
        https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_PutClusterCapacityProviders.html
        """
        source = template(FARGATE)
        stack = Evaluator(source, **{"AWS::Partition": partition, "SpotPercent": percent})
        resources = source["Resources"]
        providers = stack.resolved(resources["ClusterCapacity"]["Properties"]["CapacityProviders"])
        strategy = stack.resolved(resources["Service"]["Properties"]["CapacityProviderStrategy"])
        assert providers == ["FARGATE", "FARGATE_SPOT"][: 1 + named]
        assert [provider["CapacityProvider"] for provider in strategy] == providers

    @pytest.mark.parametrize(("stage", "how"), [("prod", "Canary10Percent5Minutes"), ("dev", "AllAtOnce")])
    def test_production_functions_shift_by_canary(self, stage: str, how: str) -> None:
        group = stacks(Stage=stage)[API]["Resources"]["ApiFunctionDeploymentGroup"]["Properties"]
        assert group["DeploymentConfigName"] == f"CodeDeployDefault.Lambda{how}"
        # Of the new version alone: test_alarms.TestDeployment has their series.
        assert group["AlarmConfiguration"] == {
            "Enabled": True,
            "Alarms": [{"Name": {"Ref": "ApiErrorsAlarm"}}, {"Name": {"Ref": "ApiServerErrorsAlarm"}}],
        }


class TestNetwork:
    @pytest.mark.parametrize(
        ("egress", "gateways", "interfaces"),
        [("nat-per-az", 2, False), ("single-nat", 1, False), ("endpoints", 0, True)],
    )
    def test_egress(self, egress: str, gateways: int, interfaces: bool) -> None:
        source = template("fargate/network.yaml")
        given = dict.fromkeys(source["Parameters"], "x") | {"Egress": egress, "OriginSecretArn": ""}
        stack = Evaluator(source, **given).resources()
        kinds = [resource["Type"] for resource in stack.values()]
        assert kinds.count("AWS::EC2::NatGateway") == gateways
        prefix = f"com.amazonaws.{PSEUDO['AWS::Region']}."
        names = [
            Evaluator(source).resolved(endpoint["Properties"]["ServiceName"]).removeprefix(prefix)
            for endpoint in of_type(stack, "AWS::EC2::VPCEndpoint").values()
        ]
        assert {"dynamodb", "s3"} <= set(names)
        assert ({"ecr.api", "ecr.dkr", "logs", "kms"} <= set(names)) is interfaces
        closed = Evaluator(source, **given | {"OriginSecretArn": "arn"}).resources()
        assert closed.keys() - stack.keys() == ({"SecretsEndpoint"} if interfaces else set())

    def addresses(self, **parameters: str) -> dict[str, str]:
        """Return the ranges of the VPC and of its subnets."""
        source = template("fargate/network.yaml")
        defaults = {
            "Cidr": template(FARGATE)["Parameters"]["NetworkCidr"]["Default"],
            "AvailabilityZones": template(FARGATE)["Parameters"]["AvailabilityZones"]["Default"],
        }
        stack = Evaluator(source, **(defaults | parameters))
        return {
            name: stack.resolved(resource["Properties"]["CidrBlock"])
            for name, resource in source["Resources"].items()
            if "CidrBlock" in resource.get("Properties", {})
        }

    def test_networks_that_stand_keep_their_addresses_and_zones(self) -> None:
        """Another range or zone of a subnet would replace it, and with it all that is in it.

        https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-ec2-subnet.html
        """
        assert self.addresses() == {
            "Vpc": "10.0.0.0/16",
            "PublicSubnetA": "10.0.0.0/24",
            "PublicSubnetB": "10.0.1.0/24",
            "PrivateSubnetA": "10.0.16.0/20",
            "PrivateSubnetB": "10.0.32.0/20",
        }
        assert self.zones("") == {"A": "eu-central-1a", "B": "eu-central-1b"}

    def zones(self, given: str) -> dict[str, str]:
        source = template("fargate/network.yaml")
        found: dict[str, str] = {}
        stack = Evaluator(source, AvailabilityZones=given)
        for name, subnet in of_type(source["Resources"], "AWS::EC2::Subnet").items():
            zone = stack.resolved(subnet["Properties"]["AvailabilityZone"])
            assert found.setdefault(name[-1], zone) == zone, name
        return found

    def test_zones_without_fargate_can_be_avoided(self) -> None:
        """Tokyo: "apne1-az1, apne1-az2, & apne1-az4 only", and an account's first zone may be the other.

        https://docs.aws.amazon.com/AmazonECS/latest/developerguide/AWS_Fargate-Regions.html
        """
        assert self.zones("ap-northeast-1c,ap-northeast-1d") == {
            "A": "ap-northeast-1c",
            "B": "ap-northeast-1d",
        }
        pattern = template(FARGATE)["Parameters"]["AvailabilityZones"]["AllowedPattern"]
        for given, good in {
            "": True,
            "ap-northeast-1c,ap-northeast-1d": True,
            "us-gov-west-1a,us-gov-west-1b": True,
            "ap-northeast-1c": False,
            "apne1-az1,apne1-az2": False,
            "eu-west-1a, eu-west-1b": False,
            "eu-west-1a,eu-west-1b,eu-west-1c": False,
            # A load balancer takes one subnet of a zone, and would say so when the network stands:
            # https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_CreateLoadBalancer.html
            "eu-west-1a,eu-west-1a": False,
        }.items():
            assert bool(re.fullmatch(pattern, given)) is good, given

    @pytest.mark.parametrize("given", ["10.0.0.0/16", "10.255.0.0/16", "172.16.0.0/16", "192.168.0.0/16"])
    def test_another_range_is_cut_up_the_same_way(self, given: str) -> None:
        pattern = template(FARGATE)["Parameters"]["NetworkCidr"]["AllowedPattern"]
        assert re.fullmatch(pattern, given)
        found = {name: ip_network(network) for name, network in self.addresses(Cidr=given).items()}
        vpc = found.pop("Vpc")
        assert str(vpc) == given
        assert vpc.is_private
        for a, b in combinations(found.values(), 2):
            assert not a.overlaps(b)
        for network in found.values():
            assert network.subnet_of(vpc)  # type: ignore[arg-type]
            # "at least a /27 bitmask":
            # https://docs.aws.amazon.com/elasticloadbalancing/latest/application/application-load-balancers.html
            assert network.prefixlen <= 27

    @pytest.mark.parametrize(
        "given",
        [
            *("", "10.0.0.0", "10.0.0.0/8", "10.0.0.0/15", "10.0.0.0/20", "10.0.1.0/16", "10.256.0.0/16"),
            *("10.01.0.0/16", "172.15.0.0/16", "172.32.0.0/16", "192.169.0.0/16", "8.8.0.0/16"),
        ],
    )
    def test_a_range_that_is_not_private_or_not_a_16_is_rejected(self, given: str) -> None:
        assert not re.fullmatch(template(FARGATE)["Parameters"]["NetworkCidr"]["AllowedPattern"], given)

    def test_in_china_the_endpoints_of_the_registry_have_their_own_prefix(self) -> None:
        """By the list of the CDK, which names those that have it.

        https://github.com/aws/aws-cdk/blob/main/packages/aws-cdk-lib/aws-ec2/lib/vpc-endpoint.ts
        """
        source = template("fargate/network.yaml")
        stack = Evaluator(source, **{"AWS::Partition": "aws-cn", "AWS::Region": "cn-north-1"})
        names = {
            stack.resolved(endpoint["Properties"]["ServiceName"])
            for endpoint in of_type(source["Resources"], "AWS::EC2::VPCEndpoint").values()
        }
        assert names == {
            "cn.com.amazonaws.cn-north-1.ecr.api",
            "cn.com.amazonaws.cn-north-1.ecr.dkr",
            "com.amazonaws.cn-north-1.dynamodb",
            "com.amazonaws.cn-north-1.kms",
            "com.amazonaws.cn-north-1.logs",
            "com.amazonaws.cn-north-1.s3",
            "com.amazonaws.cn-north-1.secretsmanager",
        }

    def test_only_the_load_balancer_reaches_the_tasks(self) -> None:
        resources = template(FARGATE)["Resources"]
        tasks = resources["ServiceSecurityGroup"]["Properties"]
        assert "SecurityGroupIngress" not in tasks
        (ingress,) = of_type(resources, "AWS::EC2::SecurityGroupIngress").values()
        source = ingress["Properties"]["SourceSecurityGroupId"]
        assert source["Fn::GetAtt"][0] == "LoadBalancerSecurityGroup"
        assert "CidrIp" not in ingress["Properties"]
