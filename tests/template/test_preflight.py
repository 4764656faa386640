"""`make check` judges the templates by what AWS was seen to reject. Here is what shows that it looks."""

from __future__ import annotations

import dataclasses
import os
import string
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripts.cli import CliError
from scripts.preflight import __main__ as command
from scripts.preflight import judge
from scripts.preflight.judge import Document, Excepted, Finding, complaints, evaluate, read_exceptions
from scripts.preflight.scenarios import VIRGINIA, scenarios
from scripts.templates import REGION, Template, template, whole_templates

pytestmark = pytest.mark.xdist_group("preflight")  # the engine takes seconds to start

EDGE, NETWORK, WAF = "edge/template.yaml", "fargate/network.yaml", "waf/template.yaml"
# As fargate/template.yaml pairs them, and one that Fargate does not offer.
SIZES = [
    (units, size["MemoryMb"])
    for units, size in template("fargate/template.yaml")["Mappings"]["TaskSizes"].items()
]
NO_SIZE = ("256", "4096")


def document(path: str, scenario: str) -> Template:
    """Return what a stack of a scenario holds of a template."""
    (wanted,) = (candidate for candidate in scenarios() if candidate.name == scenario)
    (found,) = (body for template, body, _ in wanted.documents() if template == path)
    return found


def exclude_all_punctuation(properties: dict[str, Any]) -> None:
    properties["OriginSecret"]["GenerateSecretString"] = {"ExcludeCharacters": string.punctuation}


def ask_for_another_region(properties: dict[str, Any]) -> None:
    for name in ("KmsEndpoint", "S3Endpoint"):
        properties[name]["ServiceName"] = properties[name]["ServiceName"].replace(REGION, "eu-west-1")


def misspell(properties: dict[str, Any]) -> None:
    properties["WebAcl"]["DefaultActions"] = properties["WebAcl"].pop("DefaultAction")


# What AWS rejects, made of our own templates: path, scenario, region, change; the rule, and what it names.
REJECTED = [
    (
        EDGE,
        "both",
        REGION,
        exclude_all_punctuation,
        "pf-secretsmanager-generate-secret-string",
        "OriginSecret",
    ),
    (NETWORK, "endpoints", REGION, ask_for_another_region, "pf-ec2-vpce-service-region", "KmsEndpoint"),
    (WAF, "CLOUDFRONT, block", REGION, dict, "pf-wafv2-scope-region", "WebAcl"),
    (WAF, "CLOUDFRONT, block", VIRGINIA, misspell, "F3002", "WebAcl"),
]
RULES = [rule for *_, rule, _ in REJECTED]


def rejected() -> Iterator[Document]:
    for path, scenario, region, change, rule, _ in REJECTED:
        body = document(path, scenario)
        change({name: resource.get("Properties", {}) for name, resource in body["Resources"].items()})
        yield Document(path, rule, region, body)


def task(units: str, memory: str) -> Document:
    container = {"Name": "api", "Image": "111122223333.dkr.ecr.eu-central-1.amazonaws.com/orders:tag"}
    properties = {
        "Cpu": units,
        "Memory": memory,
        "NetworkMode": "awsvpc",
        "RequiresCompatibilities": ["FARGATE"],
        "ContainerDefinitions": [container],
    }
    body = {"Resources": {"Task": {"Type": "AWS::ECS::TaskDefinition", "Properties": properties}}}
    return Document("task", f"{units} {memory}", REGION, body)


@pytest.fixture(scope="module")
def environment() -> Path:
    if not (judge.ENVIRONMENT / "node_modules").is_dir():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(judge.NEEDS_NODE)
    return judge.ENVIRONMENT


@pytest.fixture(scope="module")
def findings(environment: Path) -> list[Finding]:
    """Return what is said of all that AWS rejects, by one run of the engine."""
    return evaluate([*rejected(), *(task(*size) for size in [*SIZES, NO_SIZE])])[1]


class TestRules:
    @pytest.mark.parametrize("rule", RULES)
    def test_what_aws_rejects_is_told(self, findings: list[Finding], rule: str) -> None:
        (resource,) = (name for *_, broken, name in REJECTED if broken == rule)
        told = {(finding.rule, finding.resource) for finding in findings if finding.scenario == rule}
        assert (rule, resource) in told

    def test_aws_takes_the_sizes_of_a_task(self, findings: list[Finding]) -> None:
        told = {finding.scenario for finding in findings if finding.template == "task"}
        assert told == {" ".join(NO_SIZE)}

    def test_rules_that_find_nothing_anywhere_did_not_run(
        self, environment: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        harmless = {"Resources": {"Topic": {"Type": "AWS::SNS::Topic"}}}
        monkeypatch.setattr(judge, "_REJECTED_BY_AWS", harmless)
        with pytest.raises(CliError, match="did not run"):
            evaluate([Document("a", "b", REGION, harmless)])

    def test_an_engine_that_stops_is_a_failure(
        self, environment: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(judge, "ENVIRONMENT", tmp_path)
        with pytest.raises(CliError, match="did not run"):
            evaluate([])


class TestScenarios:
    def test_every_template_is_in_one(self) -> None:
        seen = {path for scenario in scenarios() for path, _, _ in scenario.documents()}
        assert sorted(seen) == whole_templates()

    def test_every_condition_holds_in_one_and_not_in_another(self) -> None:
        """A new option of a template needs a scenario."""
        seen: dict[tuple[str, str], set[bool]] = defaultdict(set)
        for scenario in scenarios():
            for path, _, evaluator in scenario.documents():
                for name, holds in evaluator.conditions().items():
                    seen[path, name].add(holds)
        assert [key for key, values in seen.items() if values != {True, False}] == []

    def test_nothing_is_left_that_a_parameter_decides(self) -> None:
        body = document("template.yaml", "prod, lambda and the other")
        text = repr(body)
        assert "Fn::If" not in text
        assert not any(f"'Ref': '{name}'" in text for name in [*template()["Parameters"], "AWS::Region"])

    def test_parameters_that_a_rule_of_ours_rejects_make_no_scenario(self) -> None:
        first = dataclasses.replace(scenarios()[0], parameters={"Stage": "prod"})
        with pytest.raises(CliError, match="AuthIssuer"):
            list(first.documents())


FOUND = Finding("a.yaml", "dev", "Key", "pf-x", "AWS rejects it.")
EXCEPTED = Excepted("pf-x", "a.yaml", "Key", "wrong", "It is taken.", "https://docs.aws.amazon.com")


class TestExceptions:
    def test_a_finding_is_told_once_with_its_scenarios(self) -> None:
        other = dataclasses.replace(FOUND, scenario="prod")
        assert complaints([FOUND, other], []) == ["a.yaml: Key: AWS rejects it. (pf-x; dev and 1 more)"]

    def test_an_exception_is_for_one_rule_and_one_resource(self) -> None:
        assert complaints([FOUND], [EXCEPTED]) == []
        for other in ({"rule": "pf-y"}, {"template": "b.yaml"}, {"resource": "Table"}):
            assert len(complaints([FOUND, dataclasses.replace(FOUND, **other)], [EXCEPTED])) == 1

    def test_an_exception_without_a_finding_is_told(self) -> None:
        (told,) = complaints([], [EXCEPTED])
        assert "pf-x" in told

    def test_each_has_the_words_of_aws(self) -> None:
        ours = ("https://docs.aws.amazon.com/", "https://github.com/aws/")
        for exception in read_exceptions():
            assert exception.why
            assert exception.words
            assert exception.link.startswith(ours), exception


@pytest.mark.parametrize(("ci", "status"), [("true", 1), ("", 0)])
def test_without_node_a_line_says_how_to_get_it_and_ci_fails(
    ci: str,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(command, "ENVIRONMENT", tmp_path)
    assert command.main() == status
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "apt-get install nodejs npm" in told
