"""samconfig.toml names only what exists."""

from __future__ import annotations

import tomllib

import pytest
from tests.template.templates import ROOT, Evaluator, template

CONFIG = tomllib.loads((ROOT / "samconfig.toml").read_text())
ENVIRONMENTS = [name for name in CONFIG if name != "version"]


def overrides(environment: str, command: str) -> dict[str, str]:
    parameters = CONFIG[environment].get(command, {}).get("parameters", {})
    return dict(each.split("=", 1) for each in parameters.get("parameter_overrides", []))


def test_environments() -> None:
    assert set(ENVIRONMENTS) >= {"default", "prod"}


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_overrides_are_parameters_with_allowed_values(environment: str) -> None:
    for command in ("deploy", "sync"):
        for name, value in overrides(environment, command).items():
            parameter = template()["Parameters"][name]
            if "AllowedValues" in parameter:
                assert value in map(str, parameter["AllowedValues"]), f"{name}={value}"


def test_only_production_waits_for_its_issuer() -> None:
    assert Evaluator(template(), **overrides("default", "deploy")).refusals() == []
    (refusal,) = Evaluator(template(), **overrides("prod", "deploy")).refusals()
    assert "AuthIssuer" in refusal


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_what_the_template_needs_is_acknowledged(environment: str) -> None:
    assert set(CONFIG[environment]["deploy"]["parameters"]["capabilities"]) == {
        "CAPABILITY_IAM",
        "CAPABILITY_AUTO_EXPAND",
    }
    assert CONFIG[environment]["global"]["parameters"]["stack_name"].startswith("orders-")
