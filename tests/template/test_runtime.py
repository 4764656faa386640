"""`Runtime` adds and removes an entry point, and touches nothing else."""

from __future__ import annotations

import re
from dataclasses import fields
from graphlib import TopologicalSorter
from ipaddress import ip_network
from itertools import combinations
from typing import Any

import pytest
from tests.delivery.iam import allowed
from tests.template.templates import (
    PSEUDO,
    ROOT,
    STATEFUL,
    Evaluator,
    expanded,
    mentions,
    of_type,
    template,
    transformed,
)

from app.core.settings import Settings

ALL_TEMPLATES = ["template.yaml", "fargate/template.yaml", "fargate/network.yaml"]
FARGATE_PREFIXES = (
    "AWS::EC2::",
    "AWS::ECS::",
    "AWS::ElasticLoadBalancingV2::",
    "AWS::ApplicationAutoScaling::",
)


def types(**parameters: object) -> dict[str, str]:
    stack = Evaluator(expanded(), **parameters).resources()
    return {name: resource["Type"] for name, resource in stack.items()}


class TestEntryPoints:
    def test_lambda_has_no_network_balancer_or_task(self) -> None:
        found = types(Runtime="lambda")
        assert found.keys() >= {"HttpApi", "ApiFunction", "ApiFunctionAliaslive"}
        assert "FargateStack" not in found
        assert not [name for name in found.values() if name.startswith(FARGATE_PREFIXES)]

    def test_fargate_has_no_api_gateway(self) -> None:
        found = types(Runtime="fargate")
        assert "FargateStack" in found
        assert "ApiFunction" not in found
        foreign = ("AWS::ApiGateway", "AWS::CodeDeploy::")
        assert not [name for name in found.values() if name.startswith(foreign)]

    @pytest.mark.parametrize("runtime", ["lambda", "fargate"])
    def test_both_stand_during_a_switch(self, runtime: str) -> None:
        found = types(Runtime=runtime, BothRuntimes="true")
        assert found.keys() >= {"HttpApi", "ApiFunction", "FargateStack"}

    def test_the_events_flow_in_either(self) -> None:
        for runtime in ("lambda", "fargate"):
            assert types(Runtime=runtime).keys() >= {"RelayFunction", "ReceiptsFunction", "ReceiptsRule"}

    def test_a_switch_adds_and_removes_entry_points_only(self) -> None:
        before, after = types(Runtime="lambda"), types(Runtime="fargate")
        gone, new = before.keys() - after.keys(), after.keys() - before.keys()
        assert new == {"FargateStack"}
        assert gone
        assert all(re.match(r"Api|HttpApi|Deployment|ServerlessDeployment", name) for name in gone), gone

    def test_every_reference_is_to_something_that_stands(self) -> None:
        """What stands for a runtime never reads what does not, outside an `Fn::If`."""
        source = expanded()
        for parameters in ({"Runtime": "lambda"}, {"Runtime": "fargate"}, {"BothRuntimes": "true"}):
            stack = Evaluator(source, **parameters).resources()
            for name, resource in stack.items():
                for found in _plain_references(resource):
                    if found in source["Resources"]:
                        assert found in stack, f"{name} reads {found}, which is not there with {parameters}"

    def test_nothing_waits_for_itself(self) -> None:
        """CloudFormation rejects a circle; the references of update policies count."""
        resources = expanded()["Resources"]
        needs = {
            name: {found for found in _all_references(resource) if found in resources}
            | set(_listed(resource.get("DependsOn", [])))
            for name, resource in resources.items()
        }
        assert "ApiErrorsAlarm" in needs["ApiFunctionDeploymentGroup"]
        assert "ApiFunctionDeploymentGroup" in needs["ApiFunctionAliaslive"]
        TopologicalSorter(needs).prepare()

    def test_api_url_follows_runtime(self) -> None:
        url = template()["Outputs"]["ApiUrl"]
        assert "Condition" not in url
        assert url["Value"]["Fn::If"][0] == "HasDomain"
        condition, when_lambda, when_fargate = url["Value"]["Fn::If"][2]["Fn::If"]
        assert condition == "ServesFromLambda"
        assert when_lambda == {"Fn::GetAtt": ["HttpApi", "ApiEndpoint"]}
        assert when_fargate == {"Fn::GetAtt": ["FargateStack", "Outputs.Url"]}


def _plain_references(value: Any) -> list[str]:
    if isinstance(value, list):
        return [found for item in value for found in _plain_references(item)]
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
        elif key != "Fn::If":
            found += _plain_references(item)
    return found


def _all_references(value: Any) -> list[str]:
    """What a value names, in either branch of an `Fn::If` too."""
    return _plain_references(value) + [
        name for condition in mentions(value, "Fn::If") for name in _all_references(condition)
    ]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


class TestData:
    def test_ids_are_frozen(self) -> None:
        found = of_type(template()["Resources"], *STATEFUL.values())
        assert {name: resource["Type"] for name, resource in found.items()} == STATEFUL

    @pytest.mark.parametrize("name", STATEFUL)
    def test_is_kept_and_unconditional(self, name: str) -> None:
        resource = template()["Resources"][name]
        assert resource["DeletionPolicy"].startswith("Retain")
        assert resource["UpdateReplacePolicy"] == "Retain"
        assert "Condition" not in resource
        for runtime in ("lambda", "fargate"):
            assert types(Runtime=runtime)[name] == STATEFUL[name]

    @pytest.mark.parametrize("name", STATEFUL)
    def test_does_not_depend_on_the_runtime(self, name: str) -> None:
        text = str(template()["Resources"][name])
        assert not re.search(r"Runtime|UseLambda|UseFargate|ServesFromLambda|FargateStack|HttpApi", text)

    def test_a_first_deployment_that_fails_leaves_nothing_that_costs(self) -> None:
        """What is kept "except on create" goes with the operation that made it, if that is rolled back.

        https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-attribute-deletionpolicy.html
        A bucket with a load balancer's test file in it cannot be deleted: the rollback would fail.
        """
        kept = {
            name
            for name, resource in expanded()["Resources"].items()
            if resource.get("DeletionPolicy") == "Retain"
        }
        assert kept == {"AccessLogsBucket"}

    def test_production_table_rejects_deletion(self) -> None:
        protection = template()["Resources"]["OrdersTable"]["Properties"]["DeletionProtectionEnabled"]
        assert protection == {"Fn::If": ["IsProduction", True, False]}

    def test_is_encrypted_with_the_data_key(self) -> None:
        resources = template()["Resources"]
        key = {"Fn::GetAtt": ["DataKey", "Arn"]}
        assert resources["OrdersTable"]["Properties"]["SSESpecification"]["KMSMasterKeyId"] == key
        assert mentions(resources["DocumentsBucket"], "KMSMasterKeyID") == [key]
        for name, kind in STATEFUL.items():
            if kind == "AWS::SQS::Queue":
                assert resources[name]["Properties"]["KmsMasterKeyId"] == key
            if kind.startswith("AWS::Events::"):
                assert resources[name]["Properties"]["KmsKeyIdentifier"] == key
        for path in ALL_TEMPLATES:
            for group in of_type(template(path)["Resources"], "AWS::Logs::LogGroup").values():
                assert group["Properties"]["KmsKeyId"] in (key, {"Ref": "KmsKeyArn"})
                assert group["Properties"]["RetentionInDays"] == {"Ref": "LogRetentionDays"}


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
        for action in ("kms:GenerateDataKey", "kms:Decrypt"):
            assert self.may(action, queue=f"{arn}orders-dev-ReceiptsQueue-1A2B")
            assert not self.may(action, queue=f"{arn}another-queue")
            other = arn.replace("111122223333", "444455556666")
            assert not self.may(action, queue=f"{other}orders-dev-ReceiptsQueue-1A2B")
            assert not self.may(action, account="111122223333")


FINGERPRINTS = ("Configuration", "ApiConfiguration")


class TestOneApplication:
    def environment(self) -> dict[str, Any]:
        """That of the API's function."""
        variables: dict[str, Any] = expanded()["Resources"]["ApiFunction"]["Properties"]["Environment"][
            "Variables"
        ]
        return variables

    def container(self) -> dict[str, Any]:
        (container,) = template("fargate/template.yaml")["Resources"]["TaskDefinition"]["Properties"][
            "ContainerDefinitions"
        ]
        return dict(container)

    def test_environment_is_the_settings_in_both_runtimes(self) -> None:
        names = {f"APP_{field.name.upper()}" for field in fields(Settings)}
        assert self.environment().keys() == names
        container = self.container()
        secrets = container["Secrets"]["Fn::If"][1]
        task = [variable["Name"] for variable in [*container["Environment"], *secrets]]
        assert len(task) == len(set(task))
        assert set(task) == names

    def test_environment_has_the_same_values_in_both_runtimes(self) -> None:
        handed_over = template()["Resources"]["FargateStack"]["Properties"]["Parameters"]
        for variable in self.container()["Environment"]:
            if variable["Name"] == "APP_RUNTIME":
                assert variable["Value"] == "fargate"
                assert self.environment()["APP_RUNTIME"] == "lambda"
            else:
                assert handed_over[variable["Value"]["Ref"]] == self.environment()[variable["Name"]]

    def test_no_function_has_settings_of_its_own_but_the_apis_secret(self) -> None:
        for name, function in of_type(template()["Resources"], "AWS::Serverless::Function").items():
            own = function["Properties"].get("Environment", {"Variables": {}})["Variables"]
            assert own.keys() == ({"APP_ORIGIN_SECRETS"} if name == "ApiFunction" else set()), name

    def test_a_parameter_that_changes_publishes_the_functions_anew(self) -> None:
        source = template()
        resources = source["Resources"]

        def used(*parts: Any) -> set[str]:
            subs = [text for part in parts for text in mentions(part, "Fn::Sub")]
            named = {name for text in subs for name in re.findall(r"\$\{(\w+)\}", text)}
            return (named | {name for part in parts for name in mentions(part, "Ref")}) & source[
                "Parameters"
            ].keys()

        values = {name: resources[name]["Properties"]["Values"] for name in FINGERPRINTS}
        # An image is built for one architecture, so another one comes with another image.
        common = used(source["Globals"]["Function"]) - {"Architecture"}
        assert {reference["Ref"] for reference in values["Configuration"]} == common
        api = resources["ApiFunction"]["Properties"]
        assert values["ApiConfiguration"].pop(0) == {"Fn::GetAtt": ["Configuration", "Fingerprint"]}
        own = used(api["Environment"], api["Description"])
        assert {reference["Ref"] for reference in values["ApiConfiguration"]} == own
        for name, resource in resources.items():
            if resource.get("Properties", {}).get("AutoPublishAlias"):
                of = "ApiConfiguration" if name == "ApiFunction" else "Configuration"
                described = resource["Properties"]["VersionDescription"]
                assert described == {"Fn::GetAtt": [of, "Fingerprint"]}, name

    def test_a_version_is_asked_for_only_when_its_function_changes(self) -> None:
        """Lambda publishes none of a function that has not: the old version would be taken for a new one."""
        resources = template()["Resources"]
        # A version of the secret may hold the same value.
        assert "${OriginSecretVersion}" in resources["ApiFunction"]["Properties"]["Description"]["Fn::Sub"]
        assert "OriginSecret" not in str(resources["Configuration"])

    def test_a_call_leaves_one_line_and_the_platform_adds_its_own_for_failed_ones_only(self) -> None:
        # "start" and "report" of a call that succeeded are of level INFO, those of one that failed WARN:
        # https://docs.aws.amazon.com/lambda/latest/dg/monitoring-cloudwatchlogs-log-level.html
        for name, function in of_type(expanded()["Resources"], "AWS::Lambda::Function").items():
            config = function["Properties"]["LoggingConfig"]
            assert (config["LogFormat"], config["SystemLogLevel"]) == ("JSON", "WARN"), name
            assert config["LogGroup"] == {"Ref": f"{name.removesuffix('Function')}LogGroup"}

    def test_a_property_that_changes_publishes_the_functions_anew(self) -> None:
        changed = template()
        changed["Globals"]["Function"]["Timeout"] += 1
        before, after = (
            of_type(stack["Resources"], "AWS::Lambda::Version")
            for stack in (expanded(), transformed(changed))
        )
        assert len(before) == len(after) == 3
        assert not before.keys() & after.keys()

    def test_a_version_goes_with_the_deployment_that_is_rolled_back(self) -> None:
        """Or the next deployment of the same image ends with "Version already exists".

        "Lambda doesn't publish a version if the function's configuration and code haven't changed since the
        last version": https://docs.aws.amazon.com/lambda/latest/api/API_PublishVersion.html
        SAM keeps them unless it is told:
        https://docs.aws.amazon.com/serverless-application-model/latest/developerguide/sam-specification-resource-attributes.html
        """
        versions = of_type(expanded()["Resources"], "AWS::Lambda::Version").values()
        assert [version.get("DeletionPolicy") for version in versions] == ["Delete"] * 3
        # It is Delete unless the template says another.
        assert not [version for version in versions if "UpdateReplacePolicy" in version]

    def test_nothing_but_the_alias_and_the_digest_reads_a_version(self) -> None:
        """Both are given the new one before the one that is replaced goes."""
        resources = expanded()["Resources"]
        versions = of_type(resources, "AWS::Lambda::Version").keys()
        readers = {
            resource["Type"] for resource in resources.values() if versions & set(_plain_references(resource))
        }
        assert readers == {"AWS::Lambda::Alias", "Custom::ImageVersion", "AWS::CloudWatch::Alarm"}
        mappings = of_type(resources, "AWS::Lambda::EventSourceMapping").values()
        assert len(mappings) == 2
        assert all(mapping["Properties"]["FunctionName"]["Ref"].endswith("Aliaslive") for mapping in mappings)

    def test_every_function_runs_the_one_image(self) -> None:
        functions = of_type(template()["Resources"], "AWS::Serverless::Function")
        assert len(functions) >= 4
        assert len({str(function["Metadata"]) for function in functions.values()}) == 1
        for function in functions.values():
            assert function["Properties"]["PackageType"] == "Image"
            config = function["Properties"]["ImageConfig"]
            assert config["EntryPoint"] == ["python", "-m", "awslambdaric"]
            (command,) = config["Command"]
            module, _, attribute = command.rpartition(".")
            assert attribute == "handler"
            assert (ROOT / "src" / f"{module.replace('.', '/')}.py").is_file()

    def test_tasks_run_the_digest_of_a_function_that_always_stands(self) -> None:
        resources = template()["Resources"]
        handed_over = resources["FargateStack"]["Properties"]["Parameters"]
        assert handed_over["ImageUri"] == {"Fn::GetAtt": ["ImageVersion", "ImageUri"]}
        source = resources["ImageVersion"]["Properties"]["FunctionVersionArn"]["Ref"]
        assert source == "RelayFunction.Version"
        assert "Condition" not in resources["RelayFunction"]
        assert resources["RelayFunction"]["Properties"]["AutoPublishAlias"]
        assert self.container()["Image"] == {"Ref": "ImageUri"}

    def test_nested_parameters_are_all_handed_over(self) -> None:
        pairs = [
            (template()["Resources"]["FargateStack"], "fargate/template.yaml"),
            (template("fargate/template.yaml")["Resources"]["NetworkStack"], "fargate/network.yaml"),
        ]
        for stack, path in pairs:
            assert stack["Properties"]["Parameters"].keys() == template(path)["Parameters"].keys()


class TestOriginSecret:
    """It reaches the API in either runtime, and nobody else."""

    def test_on_lambda_it_is_in_the_environment_of_the_api_encrypted_with_the_data_key(self) -> None:
        resources = expanded()["Resources"]
        holders = [
            name for name, resource in resources.items() if "{{resolve:secretsmanager" in str(resource)
        ]
        assert holders == ["ApiFunction"]
        function = resources["ApiFunction"]["Properties"]
        assert function["KmsKeyArn"] == {"Fn::GetAtt": ["DataKey", "Arn"]}
        variables = function["Environment"]["Variables"]
        assert [name for name, variable in variables.items() if "{{resolve" in str(variable)] == [
            "APP_ORIGIN_SECRETS"
        ]
        condition, secret, without = variables["APP_ORIGIN_SECRETS"]["Fn::If"]
        assert (condition, without) == ("HasOriginSecret", "")
        version = "{{resolve:secretsmanager:${OriginSecretArn}:SecretString:::${OriginSecretVersion}}}"
        assert secret == {"Fn::Sub": version}

    def test_on_fargate_ecs_reads_it_when_a_task_starts(self) -> None:
        nested = template("fargate/template.yaml")
        [container] = nested["Resources"]["TaskDefinition"]["Properties"]["ContainerDefinitions"]
        condition, [secret], without = container["Secrets"]["Fn::If"]
        assert (condition, without) == ("HasOriginSecret", {"Ref": "AWS::NoValue"})
        assert secret == {
            "Name": "APP_ORIGIN_SECRETS",
            # arn:json-key:version-stage:version-id; the whole of it, as on Lambda.
            "ValueFrom": {
                "Fn::If": [
                    "HasOriginSecretVersion",
                    {"Fn::Sub": "${OriginSecretArn}:::${OriginSecretVersion}"},
                    {"Ref": "OriginSecretArn"},
                ]
            },
        }
        assert "ORIGIN_SECRET" not in str(container["Environment"])
        assert not [name for name, parameter in nested["Parameters"].items() if "NoEcho" in parameter]
        handed_over = template()["Resources"]["FargateStack"]["Properties"]["Parameters"]
        for name in ("OriginSecretArn", "OriginSecretVersion"):
            assert handed_over[name] == {"Ref": name}

    def test_only_the_role_that_starts_tasks_may_read_it_and_nothing_else(self) -> None:
        found = []
        for path in ALL_TEMPLATES:
            for name, resource in template(path)["Resources"].items():
                if "secretsmanager:" in str(resource.get("Properties", {}).get("Policies", "")) + str(
                    resource.get("Properties", {}).get("PolicyDocument", "")
                ):
                    found.append(name)
        assert found == ["ExecutionRole"]
        [policy] = template("fargate/template.yaml")["Resources"]["ExecutionRole"]["Properties"]["Policies"]
        condition, statement, without = policy["PolicyDocument"]["Statement"][-1]["Fn::If"]
        assert (condition, without) == ("HasOriginSecret", {"Ref": "AWS::NoValue"})
        assert statement["Action"] == "secretsmanager:GetSecretValue"
        assert statement["Resource"] == {"Ref": "OriginSecretArn"}


class TestServer:
    """What the server, the task and the load balancer must agree on."""

    def attributes(self, name: str, key: str) -> dict[str, Any]:
        resource = template("fargate/template.yaml")["Resources"][name]
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
        handed_over = template()["Resources"]["FargateStack"]["Properties"]["Parameters"]
        condition, on, off = handed_over["DeletionProtection"]["Fn::If"]
        attributes = self.attributes("LoadBalancer", "LoadBalancerAttributes")
        assert attributes["deletion_protection.enabled"] == {"Ref": "DeletionProtection"}
        stack = Evaluator(template(), Stage=stage, Runtime=runtime, BothRuntimes=both)
        assert (on, off) == ("true", "false")
        assert stack.is_true({"Condition": condition}) is protected

    def server(self, argument: str) -> int:
        found = re.search(rf"{argument} ?= ?(\d+)", (ROOT / "src/app/entrypoints/server.py").read_text())
        assert found
        return int(found[1])

    def test_idle_connections_outlive_the_load_balancers(self) -> None:
        idle = self.attributes("LoadBalancer", "LoadBalancerAttributes")["idle_timeout.timeout_seconds"]
        assert self.server("timeout_keep_alive") > int(idle)

    def test_a_dependencys_hiccup_takes_no_task_out(self) -> None:
        """Readiness asks the dependencies: by it, one that is slow would take every task out at once."""
        group = template("fargate/template.yaml")["Resources"]["TargetGroup"]["Properties"]
        assert group["HealthCheckPath"] == "/health"
        [container] = template("fargate/template.yaml")["Resources"]["TaskDefinition"]["Properties"][
            "ContainerDefinitions"
        ]
        assert "/health/ready" not in str(container["HealthCheck"])

    def test_the_server_ends_before_it_is_killed(self) -> None:
        task = template("fargate/template.yaml")["Resources"]["TaskDefinition"]["Properties"]
        (container,) = task["ContainerDefinitions"]
        names = ("DRAIN_SECONDS", "FINISH_SECONDS", "CUT_SECONDS")
        assert sum(map(self.server, names)) < container["StopTimeout"]

    def test_the_task_has_no_more_rights_than_it_needs(self) -> None:
        task = template("fargate/template.yaml")["Resources"]["TaskDefinition"]["Properties"]
        (container,) = task["ContainerDefinitions"]
        assert container["ReadonlyRootFilesystem"] is True
        assert container["LinuxParameters"]["Capabilities"] == {"Drop": ["ALL"]}

    def test_a_task_has_no_more_processor_than_its_one_process_uses(self) -> None:
        assert "workers" not in (ROOT / "src/app/entrypoints/server.py").read_text()
        assert max(template()["Parameters"]["FargateCpuUnits"]["AllowedValues"]) == 1024

    def test_a_bad_deployment_is_taken_back_and_scaling_is_left_alone(self) -> None:
        service = template("fargate/template.yaml")["Resources"]["Service"]["Properties"]
        assert "DesiredCount" not in service
        deployment = service["DeploymentConfiguration"]
        assert deployment["MinimumHealthyPercent"] == 100
        assert deployment["DeploymentCircuitBreaker"] == {"Enable": True, "Rollback": True}
        assert deployment["Alarms"]["Enable"] is deployment["Alarms"]["Rollback"] is True
        assert deployment["Alarms"]["AlarmNames"]

    def test_shares_of_spot_leave_the_first_task_on_demand(self) -> None:
        nested = template("fargate/template.yaml")
        weights = nested["Mappings"]["CapacityWeights"]
        shares = template()["Parameters"]["FargateSpotPercent"]["AllowedValues"]
        assert list(weights) == nested["Parameters"]["SpotPercent"]["AllowedValues"] == list(map(str, shares))
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
        source = template("fargate/template.yaml")
        stack = Evaluator(source, **{"AWS::Partition": partition, "SpotPercent": percent})
        resources = source["Resources"]
        providers = stack.resolved(resources["ClusterCapacity"]["Properties"]["CapacityProviders"])
        strategy = stack.resolved(resources["Service"]["Properties"]["CapacityProviderStrategy"])
        assert providers == ["FARGATE", "FARGATE_SPOT"][: 1 + named]
        assert [provider["CapacityProvider"] for provider in strategy] == providers

    def test_production_functions_shift_by_canary(self) -> None:
        group = expanded()["Resources"]["ApiFunctionDeploymentGroup"]["Properties"]
        condition, production, other = group["DeploymentConfigName"]["Fn::If"]
        assert condition == "IsProduction"
        assert production["Fn::Sub"][1]["ConfigName"].startswith("Canary")
        assert other["Fn::Sub"][1]["ConfigName"] == "AllAtOnce"
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
            "Cidr": template()["Parameters"]["NetworkCidr"]["Default"],
            "AvailabilityZones": template()["Parameters"]["AvailabilityZones"]["Default"],
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
        pattern = template()["Parameters"]["AvailabilityZones"]["AllowedPattern"]
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
        pattern = template()["Parameters"]["NetworkCidr"]["AllowedPattern"]
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
        assert not re.fullmatch(template()["Parameters"]["NetworkCidr"]["AllowedPattern"], given)

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
        resources = template("fargate/template.yaml")["Resources"]
        tasks = resources["ServiceSecurityGroup"]["Properties"]
        assert "SecurityGroupIngress" not in tasks
        (ingress,) = of_type(resources, "AWS::EC2::SecurityGroupIngress").values()
        source = ingress["Properties"]["SourceSecurityGroupId"]
        assert source["Fn::GetAtt"][0] == "LoadBalancerSecurityGroup"
        assert "CidrIp" not in ingress["Properties"]
