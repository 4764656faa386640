"""What deployments decide: every stack status, parameters, rollback targets, and what may be destroyed."""

from __future__ import annotations

from typing import Any

import botocore.session
import pytest
from scripts.cli import CliError
from scripts.delivery.artifact import ROOT
from scripts.delivery.decide import (
    Action,
    Record,
    bootstrap_stage,
    check_artifact,
    check_stage,
    checked_parameters,
    decide,
    let_go,
    open_pull_requests,
    rollback_target,
    stack_name,
    stack_policy,
    stage_parameters,
    stale_previews,
)
from scripts.templates import load_template

# As the SDK has it: https://docs.aws.amazon.com/AWSCloudFormation/latest/APIReference/API_Stack.html
STATUSES: list[str] = (
    botocore.session.get_session().get_service_model("cloudformation").shape_for("StackStatus").enum
)
ACTIONS: dict[str | None, Action] = {
    None: Action.CREATE,
    "CREATE_COMPLETE": Action.UPDATE,
    "CREATE_FAILED": Action.REJECT,
    "CREATE_IN_PROGRESS": Action.WAIT,
    "DELETE_COMPLETE": Action.CREATE,
    "DELETE_FAILED": Action.REJECT,
    "DELETE_IN_PROGRESS": Action.WAIT,
    "IMPORT_COMPLETE": Action.UPDATE,
    "IMPORT_IN_PROGRESS": Action.WAIT,
    "IMPORT_ROLLBACK_COMPLETE": Action.UPDATE,
    "IMPORT_ROLLBACK_FAILED": Action.REJECT,
    "IMPORT_ROLLBACK_IN_PROGRESS": Action.WAIT,
    "REVIEW_IN_PROGRESS": Action.CREATE,
    "ROLLBACK_COMPLETE": Action.DELETE_THEN_CREATE,
    "ROLLBACK_FAILED": Action.DELETE_THEN_CREATE,
    "ROLLBACK_IN_PROGRESS": Action.WAIT,
    "UPDATE_COMPLETE": Action.UPDATE,
    "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS": Action.WAIT,
    "UPDATE_FAILED": Action.REJECT,
    "UPDATE_IN_PROGRESS": Action.WAIT,
    "UPDATE_ROLLBACK_COMPLETE": Action.UPDATE,
    "UPDATE_ROLLBACK_COMPLETE_CLEANUP_IN_PROGRESS": Action.WAIT,
    "UPDATE_ROLLBACK_FAILED": Action.REJECT,
    "UPDATE_ROLLBACK_IN_PROGRESS": Action.WAIT,
}


class TestDecide:
    def test_every_status_of_cloudformation_has_its_action(self) -> None:
        assert {None, *STATUSES} == set(ACTIONS)
        assert {status: decide(status, may_delete=True).action for status in ACTIONS} == ACTIONS

    @pytest.mark.parametrize("status", STATUSES)
    def test_nothing_is_deleted_where_it_may_not_be(self, status: str) -> None:
        assert decide(status).action is not Action.DELETE_THEN_CREATE

    @pytest.mark.parametrize(
        ("status", "command"),
        [
            ("UPDATE_ROLLBACK_FAILED", "aws cloudformation continue-update-rollback --stack-name orders-dev"),
            ("UPDATE_FAILED", "aws cloudformation rollback-stack --stack-name orders-dev"),
            ("CREATE_FAILED", "make destroy"),
            ("ROLLBACK_COMPLETE", "make destroy"),
            ("DELETE_FAILED", "make destroy"),
            ("IMPORT_ROLLBACK_FAILED", "aws cloudformation describe-stack-events --stack-name orders-dev"),
            ("SOMETHING_NEW", "aws cloudformation describe-stack-events --stack-name orders-dev"),
        ],
    )
    def test_what_is_rejected_comes_with_the_command_that_fixes_it(self, status: str, command: str) -> None:
        decision = decide(status, stack="orders-dev")
        assert decision.action is Action.REJECT
        assert command in decision.reason
        assert "\n" not in decision.reason


class TestParameters:
    SAMCONFIG: dict[str, Any] = {
        "default": {"deploy": {"parameters": {"parameter_overrides": ["Stage=dev", "Runtime=lambda"]}}},
        "prod": {"deploy": {"parameters": {"parameter_overrides": ["Stage=prod", "LogRetentionDays=365"]}}},
    }

    def test_a_stage_takes_its_section(self) -> None:
        found = stage_parameters(self.SAMCONFIG, "prod", [])
        assert found == {"Stage": "prod", "LogRetentionDays": "365"}

    def test_a_stage_without_a_section_takes_the_default_under_its_own_name(self) -> None:
        assert stage_parameters(self.SAMCONFIG, "preview7", []) == {"Stage": "preview7", "Runtime": "lambda"}

    def test_the_file_that_guided_wrote_is_read_too(self) -> None:
        written = (
            'Stage="dev" Runtime="fargate" AuthIssuer="" CorsOrigins="https://a.example,https://b.example"'
        )
        guided = {"default": {"deploy": {"parameters": {"parameter_overrides": written}}}}
        assert stage_parameters(guided, "dev", []) == {
            "Stage": "dev",
            "Runtime": "fargate",
            "AuthIssuer": "",
            "CorsOrigins": "https://a.example,https://b.example",
        }

    def test_the_command_has_the_last_word(self) -> None:
        found = stage_parameters(self.SAMCONFIG, "dev", ["Runtime=fargate", "AuthIssuer=https://a/?b=c"])
        assert found["Runtime"] == "fargate"
        assert found["AuthIssuer"] == "https://a/?b=c"

    @pytest.mark.parametrize("pair", ["Runtime", "=x", "Run time=x", "Stage=prod"])
    def test_what_is_no_parameter_is_rejected(self, pair: str) -> None:
        with pytest.raises(CliError):
            stage_parameters(self.SAMCONFIG, "dev", [pair])

    def test_a_name_that_the_template_lacks_is_rejected(self) -> None:
        declared: dict[str, Any] = {"Stage": {}, "Runtime": {}}
        assert checked_parameters({"Stage": "dev"}, declared) == {"Stage": "dev"}
        with pytest.raises(CliError, match="Runtme"):
            checked_parameters({"Runtme": "lambda"}, declared)

    @pytest.mark.parametrize(
        ("declared", "good", "bad", "why"),
        [
            ({"AllowedValues": ["lambda", "fargate"]}, ["lambda"], ["Lambda", ""], "one of lambda, fargate"),
            ({"Type": "Number", "AllowedValues": [256, 512]}, ["256"], ["257"], "one of 256, 512"),
            ({"AllowedPattern": "|https://[^ ]+"}, ["", "https://a"], ["http://a"], "must match"),
            ({"AllowedPattern": "[a-z]+"}, ["a"], ["a1", "1a"], "must match"),  # as a whole
            ({"AllowedPattern": "[a-z]+", "ConstraintDescription": "a word"}, ["a"], ["1"], "a word"),
            ({"Type": "Number", "MinValue": 1, "MaxValue": 9.5}, ["1", "9.5"], ["0"], "at least 1"),
            ({"Type": "Number", "MinValue": 0, "MaxValue": 9}, ["0"], ["10"], "at most 9"),
            ({"Type": "Number"}, ["-1"], ["many", ""], "a number"),
            ({"MinLength": 2, "MaxLength": 3}, ["ab"], ["a"], "at least 2 characters"),
            ({"MaxLength": 3}, [""], ["abcd"], "at most 3 characters"),
            ({"Type": "CommaDelimitedList", "AllowedPattern": "[a-z]"}, ["a,b", "a, b"], ["a,1"], "match"),
            ({"Type": "CommaDelimitedList", "AllowedValues": ["a", "b"]}, ["a,b"], ["a,c"], "one of a, b"),
        ],
    )
    def test_a_value_that_the_template_rejects_is_rejected(
        self, declared: dict[str, Any], good: list[str], bad: list[str], why: str
    ) -> None:
        """https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/parameters-section-structure.html."""
        for value in good:
            assert checked_parameters({"Name": value}, {"Name": declared}) == {"Name": value}
        for value in bad:
            with pytest.raises(CliError, match=f"Name={value} is rejected: .*{why}"):
                checked_parameters({"Name": value}, {"Name": declared})

    def test_defaults_and_examples_of_every_template_are_taken(self) -> None:
        for path in [ROOT / "template.yaml", *ROOT.glob("[a-z]*/*.yaml")]:
            declared = load_template(path.read_text())["Parameters"]
            defaults = {name: str(each["Default"]) for name, each in declared.items() if "Default" in each}
            assert checked_parameters(defaults, declared) == defaults, path

    def test_a_stage_must_be_meant(self) -> None:
        samconfig = self.SAMCONFIG | {"qa": {}, "version": 0.1}
        samconfig["default"] = {"deploy": {"parameters": {"parameter_overrides": "Stage=sam"}}}
        for stage in ("dev", "prod", "qa", "sam", "preview12", "test", "test1a2b"):
            check_stage(stage, samconfig)
        for stage in ("prodd", "prd", "devv", "staging", "version", "previewer", "preview", "Dev", ""):
            with pytest.raises(CliError):
                check_stage(stage, samconfig)

    @pytest.mark.parametrize("stage", ["", "Dev", "a-b", "1a", "bootstrap", "preview", "x" * 17])
    def test_what_is_no_stage_is_rejected(self, stage: str) -> None:
        with pytest.raises(CliError):
            stack_name("orders", stage)

    def test_a_stage_names_its_stack(self) -> None:
        assert stack_name("orders", "dev") == "orders-dev"
        assert stack_name("orders", "preview12") == "orders-preview-12"

    def test_previews_share_a_bootstrap(self) -> None:
        stages = {"dev": "dev", "prod": "prod", "preview12": "preview", "previewer": "previewer"}
        assert {stage: bootstrap_stage(stage) for stage in stages} == stages


class TestArtifact:
    key, hash_ = "0123456789abcdef" * 2, "0123456789abcdef" * 4

    @pytest.mark.parametrize("name", ["", key, f"{key}@{hash_}", f"{key}-20261130T120000@{hash_}"])
    def test_what_make_package_says_is_taken(self, name: str) -> None:
        check_artifact("dev", name)

    @pytest.mark.parametrize("name", ["", key, f"{key}-20261130T120000"])
    def test_production_takes_none_without_a_hash(self, name: str) -> None:
        with pytest.raises(CliError, match="with its hash"):
            check_artifact("prod", name)

    @pytest.mark.parametrize("name", ["x", f"{key}@", f"@{hash_}", f"{key}@{hash_[:63]}", f"a/{key}@{hash_}"])
    def test_anything_else_is_none(self, name: str) -> None:
        with pytest.raises(CliError, match="<key>@<hash>"):
            check_artifact("dev", name)


def _records(*steps: str) -> list[Record]:
    """One record a step: 'b' deploys b; 'a<b' goes back to a, from b."""
    found = []
    for number, step in enumerate(steps):
        artifact, _, left = step.partition("<")
        instead_of = Record("", left, "1", {}).release if left else ""
        found.append(Record(f"2026-01-01T00:00:{number:02}", artifact, "1", {}, instead_of))
    return found


class TestRollback:
    @pytest.mark.parametrize(
        ("history", "target"),
        [
            (["a", "b"], "a"),
            (["a", "b", "c"], "b"),
            (["a", "b", "b"], "a"),  # deployed twice is one step
            (["a", "b", "c", "b<c"], "a"),  # two in a row go back two steps, not forth to c
            (["a", "b", "a<b", "c"], "a"),  # b was bad
            (["a", "b", "a<b", "b", "c"], "b"),  # b was deployed again on purpose
        ],
    )
    def test_goes_to_what_ran_before(self, history: list[str], target: str) -> None:
        assert rollback_target(_records(*history)).artifact == target
        assert rollback_target(_records(*history)[::-1]).artifact == target

    @pytest.mark.parametrize("history", [[], ["a"], ["a", "a"], ["a", "b", "a<b"]])
    def test_says_when_there_is_nothing_before(self, history: list[str]) -> None:
        with pytest.raises(CliError):
            rollback_target(_records(*history))

    def test_other_parameters_are_another_release(self) -> None:
        first = Record("1", "a", "1", {"Runtime": "lambda"})
        assert rollback_target([first, Record("2", "a", "1", {"Runtime": "fargate"})]) == first


class TestStalePreviews:
    STACKS = (
        *("orders-dev", "orders-prod", "orders-bootstrap-preview", "orders-preview-3", "orders-preview-4"),
        *("orders-preview", "orders-preview-3-FargateStack-1A", "orders-preview5", "billing-preview-3"),
    )

    def test_takes_stacks_of_closed_pull_requests_only(self) -> None:
        assert stale_previews(self.STACKS, "orders", [4]) == ["orders-preview-3"]
        assert stale_previews(self.STACKS, "orders", []) == ["orders-preview-3", "orders-preview-4"]

    def test_a_failed_listing_is_not_an_empty_one(self) -> None:
        assert open_pull_requests("none") == []
        assert open_pull_requests("3\n14 ") == [3, 14]
        for text in ("", " \n", "null", "3 none"):
            with pytest.raises(CliError):
                open_pull_requests(text)


RESOURCES = {
    "OrdersTable": {"DeletionPolicy": "Retain"},
    "DataKey": {"DeletionPolicy": "RetainExceptOnCreate"},
    "ApiFunction": {},
    "Scratch": {"DeletionPolicy": "Delete"},
}


def test_the_stack_policy_guards_what_the_template_retains() -> None:
    allow, deny = stack_policy(RESOURCES)["Statement"]
    assert (allow["Effect"], allow["Action"], allow["Resource"]) == ("Allow", "Update:*", "*")
    assert (deny["Effect"], deny["Action"]) == ("Deny", ["Update:Replace", "Update:Delete"])
    assert deny["Resource"] == ["LogicalResourceId/DataKey", "LogicalResourceId/OrdersTable"]


@pytest.mark.parametrize(
    ("following", "gone"),
    [
        ({"Metadata": {"LeavesTheStack": ["DataKey"]}, "Resources": {}}, {"DataKey"}),
        ({"Metadata": {"LeavesTheStack": ["DataKey"]}, "Resources": RESOURCES}, set()),
        ({"Resources": {}}, set()),
    ],
)
def test_only_what_a_template_has_no_more_and_says_so_is_let_go(following: Any, gone: set[str]) -> None:
    assert let_go(RESOURCES, following) == gone
