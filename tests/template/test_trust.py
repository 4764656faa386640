"""Whose tokens of GitHub the pipeline's roles take, read from the template itself."""

from __future__ import annotations

import pytest
from scripts.templates import Evaluator, template

GITHUB = {"Repository": "acme/orders", "OwnerId": "4242", "RepositoryId": "171717"}


@pytest.mark.parametrize(
    ("given", "job"),
    [
        ({"Stage": "dev"}, "ref:refs/heads/main"),
        ({"Stage": "prod", "Environment": "prod"}, "environment:prod"),
    ],
)
def test_both_forms_of_a_subject_are_taken_and_no_other(given: dict[str, str], job: str) -> None:
    """GitHub gives the form with ids to repositories made, renamed or moved since July 2026.

    https://github.blog/changelog/2026-04-23-immutable-subject-claims-for-github-actions-oidc-tokens/
    """
    made = Evaluator(template("bootstrap/template.yaml"), **GITHUB, **given)
    policies = [
        role["Properties"]["AssumeRolePolicyDocument"]["Statement"][0]["Condition"]
        for role in made.document()["Resources"].values()
        if role["Type"] == "AWS::IAM::Role" and "Federated" in str(role["Properties"])
    ]
    subjects = [policy["StringEquals"]["token.actions.githubusercontent.com:sub"] for policy in policies]
    deploys, drift = subjects
    assert deploys == [f"repo:acme/orders:{job}", f"repo:acme@4242/orders@171717:{job}"]
    assert all(
        subject.startswith(("repo:acme/orders:", "repo:acme@4242/orders@171717:")) for subject in drift
    )
    assert len(drift) == 2
