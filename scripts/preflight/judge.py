"""Runs the rules over documents, and compares what they find with the exceptions."""

from __future__ import annotations

import json
import subprocess
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.cli import CliError
from scripts.preflight.scenarios import Scenario
from scripts.templates import ACCOUNT_ID, ROOT, Template

ENVIRONMENT = ROOT / ".venv-preflight"  # `make` installs package-lock.json into it
NEEDS_NODE = (
    "Node.js 18 or newer with npm is needed to judge the templates by what AWS rejects. Debian, Ubuntu: "
    "apt-get install nodejs npm. macOS: brew install node. Others: https://nodejs.org/en/download"
)
EXCEPTIONS = Path(__file__).with_name("exceptions.toml")
# No stack of ours: a secret that AWS rejects. Where it goes unnoticed, the rules did not run.
_REJECTED_BY_AWS: Template = {
    "Resources": {
        "Secret": {
            "Type": "AWS::SecretsManager::Secret",
            "Properties": {
                "GenerateSecretString": {"ExcludeCharacters": "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"}
            },
        }
    }
}


@dataclass(frozen=True)
class Document:
    """A template as a stack would hold it."""

    template: str
    scenario: str
    region: str
    body: Template


@dataclass(frozen=True)
class Finding:
    """What a rule says against a resource."""

    template: str
    scenario: str
    resource: str
    rule: str
    message: str


@dataclass(frozen=True)
class Excepted:
    """A finding that is wrong: why, and in whose words."""

    rule: str
    template: str
    resource: str
    why: str
    words: str
    link: str


def documents_of(scenarios: Iterable[Scenario]) -> list[Document]:
    """Return the documents of all scenarios, each once."""
    distinct: dict[tuple[str, str], Document] = {}
    for scenario in scenarios:
        for path, body, _ in scenario.documents():
            same = scenario.region, json.dumps(body, sort_keys=True)
            distinct.setdefault(same, Document(path, scenario.name, scenario.region, body))
    return list(distinct.values())


def evaluate(documents: Sequence[Document]) -> tuple[dict[str, int], list[Finding]]:
    """Return how many rules there are and how many concern us, and what they and the engine say.

    Raises CliError if the rules did not run.
    """
    regions = sorted({each.region for each in documents})
    asked = [Document("", "", region, _REJECTED_BY_AWS) for region in regions] + list(documents)
    request = {
        "accountId": ACCOUNT_ID,
        "documents": [
            {"name": str(number), "region": each.region, "template": each.body}
            for number, each in enumerate(asked)
        ],
    }
    done = subprocess.run(
        ["node", str(Path(__file__).with_name("evaluate.js")), str(ENVIRONMENT)],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise CliError(f"The rules did not run. {done.stderr.strip()[-2000:]}")
    answer = json.loads(done.stdout)
    findings: dict[int, list[Finding]] = defaultdict(list)
    for each in answer["findings"]:
        document = asked[int(each["document"])]
        text = f"{each['message']} {each['link']}".strip()
        found = Finding(document.template, document.scenario, each["resource"], each["rule"], text)
        findings[int(each["document"])].append(found)
    if not all(
        any(each.rule.startswith("pf-") for each in findings[number]) for number in range(len(regions))
    ):
        raise CliError("The rules did not run: they say nothing against what AWS is known to reject.")
    return answer["rules"], [each for number in range(len(regions), len(asked)) for each in findings[number]]


def read_exceptions(path: Path = EXCEPTIONS) -> list[Excepted]:
    return [Excepted(**each) for each in tomllib.loads(path.read_text()).get("exception", [])]


def complaints(findings: Iterable[Finding], exceptions: Iterable[Excepted]) -> list[str]:
    """Return a line for each finding without an exception, and for each exception without a finding."""
    scenarios: dict[tuple[str, str, str, str], list[str]] = defaultdict(list)
    for each in findings:
        scenarios[each.rule, each.template, each.resource, each.message].append(each.scenario)
    excepted = {(each.rule, each.template, each.resource) for each in exceptions}
    said = [
        f"{template}: {resource}: {message} ({rule}; {where[0]}"
        + (f" and {len(where) - 1} more)" if len(where) > 1 else ")")
        for (rule, template, resource, message), where in scenarios.items()
        if (rule, template, resource) not in excepted
    ]
    dead = excepted - {key[:3] for key in scenarios}
    return said + [f"{EXCEPTIONS.name}: no finding needs this exception any more: {each}" for each in dead]
