"""samconfig.toml names only what exists."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tomllib

import pytest
from scripts.delivery.decide import stack_name
from scripts.delivery.deploy import tags_of
from scripts.delivery.stacks import SERVICE
from tests.template.templates import ROOT, Evaluator, template

CONFIG = tomllib.loads((ROOT / "samconfig.toml").read_text())
ENVIRONMENTS = [name for name in CONFIG if name != "version"]
TOOLS = ROOT / ".venv-tools" / "bin" / "python"
# Prints what each command takes. What it does not take SAM passes over in the file, without a word.
TAKEN = """
import json, sys
from click import Context
from samcli.cli.main import cli

context = Context(cli, obj=True)

def parameters(name):
    first, _, second = name.partition("_")
    command = cli.get_command(context, first)
    if second:
        command = command.get_command(context, second.replace("_", "-"))
    return [parameter.name for parameter in command.params]

print(json.dumps({name: parameters(name) for name in sys.argv[1:]}))
"""


def values(environment: str, command: str, key: str) -> list[str]:
    """Return a list of the file, which is a string once `sam deploy --guided` has written it."""
    found = CONFIG[environment].get(command, {}).get("parameters", {}).get(key, [])
    return shlex.split(found) if isinstance(found, str) else list(found)


def overrides(environment: str, command: str) -> dict[str, str]:
    pairs = (pair.partition("=") for pair in values(environment, command, "parameter_overrides"))
    return {name: value for name, _, value in pairs}


def test_environments() -> None:
    assert set(ENVIRONMENTS) >= {"default", "prod"}


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_every_setting_is_one_of_its_command(environment: str) -> None:
    if not TOOLS.exists():
        pytest.skip("the tools environment is missing (make setup): the settings are NOT compared")
    settings = {
        name: set(settings["parameters"])
        for name, settings in CONFIG[environment].items()
        if name != "global"
    }
    command = [str(TOOLS), "-c", TAKEN, *settings]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    taken = json.loads(done.stdout)
    assert {name: keys - set(taken[name]) for name, keys in settings.items() if keys - set(taken[name])} == {}


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_overrides_are_parameters_with_allowed_values(environment: str) -> None:
    for command in ("deploy", "sync"):
        for name, value in overrides(environment, command).items():
            parameter = template()["Parameters"][name]
            if "AllowedValues" in parameter:
                assert value in map(str, parameter["AllowedValues"]), f"{name}={value}"


def test_only_production_waits_for_its_issuer() -> None:
    assert Evaluator(template(), **overrides("default", "deploy")).rejections() == []
    (rejection,) = Evaluator(template(), **overrides("prod", "deploy")).rejections()
    assert "AuthIssuer" in rejection


def test_the_stack_of_sam_deploy_is_none_that_the_pipeline_deploys() -> None:
    """SAM CLI pushes to what stands before the first colon of a function's image (`ImageFunctionSyncFlow`).

    The pipeline's functions name theirs by digest, `...@sha256:...`, and its repository takes no tag twice.
    """
    jobs = (ROOT / ".github" / "workflows" / "deploy.yml").read_text()
    stages = {*re.findall(r"STAGE[=:] ?([a-z]+)", jobs), "dev"}
    assert stages >= {"dev", "prod"}
    name = CONFIG["default"]["global"]["parameters"]["stack_name"]
    assert name not in {stack_name(SERVICE, stage) for stage in stages}
    assert name == stack_name(
        SERVICE, overrides("default", "deploy")["Stage"]
    )  # so `make deploy-cdn STAGE=` finds it
    assert overrides("default", "sync") == overrides("default", "deploy")


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_stacks_have_the_tags_that_the_roles_go_by(environment: str) -> None:
    """An update takes the tags that it is given in place of those that are there."""
    stage = overrides(environment, "deploy")["Stage"]
    for command in ("deploy", "sync"):
        if CONFIG[environment].get(command):
            pairs = (each.split("=") for each in values(environment, command, "tags"))
            assert dict(pairs) == tags_of(stage)


def test_sync_moves_code_alone() -> None:
    # Anything else would need a repository by name, which nobody has before the first deployment.
    assert CONFIG["default"]["sync"]["parameters"]["code"] is True


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_what_the_template_needs_is_acknowledged(environment: str) -> None:
    wanted = {"CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"}
    assert set(values(environment, "deploy", "capabilities")) == wanted
    assert CONFIG[environment]["global"]["parameters"]["stack_name"].startswith("orders-")
