"""The workflows name only what exists: targets, variables, paths, outputs; and keep to the house rules."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest
import yaml
from scripts.delivery.artifact import SUBJECTS, source_key, sources
from scripts.delivery.deploy import Deployed, Packaged
from scripts.pipeline_check import ready, remarks
from tests.delivery.conftest import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text()
# Variables of a repository, its environments and secrets that docs/delivery.md tells to set.
DOCUMENT = (ROOT / "docs" / "delivery.md").read_text()


# Variables that the set-up check names.
CHECKED = (ROOT / "scripts" / "pipeline_check.py").read_text()
DRIFT_ROLES = {f"AWS_{stage}_{kind}" for stage in ("DEV", "PROD") for kind in ("ROLE", "DRIFT_ROLE")}
# Outputs that the commands write.
OUTPUTS = {
    "package": {field.name for field in fields(Packaged)},
    "deploy": {field.name for field in fields(Deployed)},
    "rollback": {field.name for field in fields(Deployed)},
    "pipeline-check": set(ready({})[0]),
}
# What the commands take in place of the bootstrap stack's outputs.
OF_TERRAFORM = {
    *("ARTIFACT_BUCKET", "HISTORY_BUCKET", "IMAGE_REPOSITORY", "EXECUTION_ROLE", "PERMISSIONS_BOUNDARY"),
}
ATTESTED_BY = (
    "${{ vars.ATTESTATIONS != 'off' && format('{0}/{1}/.github/workflows/deploy.yml@refs/heads/main', "
    "github.server_url, github.repository) || '' }}"
)
# What only reaches these steps through an action.
ACTION_OUTPUTS = {"actions/setup-python": {"python-version"}}


def _load(path: Any) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(path.read_text())
    return loaded


def _jobs() -> Iterator[tuple[str, str, dict[str, Any], dict[str, Any]]]:
    for path in WORKFLOWS:
        workflow = _load(path)
        for name, job in workflow["jobs"].items():
            yield path.name, name, job, workflow


def _steps() -> Iterator[tuple[str, str, dict[str, Any], dict[str, Any], dict[str, Any]]]:
    for file, name, job, workflow in _jobs():
        for step in job["steps"]:
            yield file, name, step, job, workflow


RUNS = [(f, j, s, job) for f, j, s, job, _ in _steps() if "run" in s]
USES = [(f, j, s) for f, j, s, _, _ in _steps() if "uses" in s]


def _expanded(step: dict[str, Any], job: dict[str, Any]) -> list[list[str]]:
    """Return the words of each make call of a step, the matrix filled in."""
    matrix = job.get("strategy", {}).get("matrix", {})
    lines = [line.strip() for line in step["run"].splitlines() if line.strip()]
    if '"$TARGET"' in step["run"]:
        lines = [line.replace('"$TARGET"', target) for line in lines for target in matrix["target"]]
    return [line.split() for line in lines]


class TestNames:
    @pytest.mark.parametrize(("file", "name", "step", "job"), RUNS)
    def test_a_variable_given_to_make_is_one_that_it_reads(
        self, file: str, name: str, step: dict[str, Any], job: dict[str, Any]
    ) -> None:
        for words in _expanded(step, job):
            read = _read_by(words[1])
            given = {word.partition("=")[0] for word in words[2:]} | set(step.get("env", {}))
            given -= {"TARGET", "PYTEST_ADDOPTS"}  # the shell's and pytest's own
            assert given <= read, f"{file}/{name}: make {words[1]} does not read {given - read}"

    def test_a_variable_given_to_a_job_is_read_by_one_of_its_steps(self) -> None:
        for file, name, job, _ in _jobs():
            steps = [words[1] for s in job["steps"] if "run" in s for words in _expanded(s, job)]
            read = set().union(*(_read_by(target) for target in steps))
            assert set(job.get("env", {})) <= read, f"{file}/{name}"

    @pytest.mark.parametrize(("file", "name", "step", "job"), RUNS)
    def test_a_run_step_is_a_call_that_make_accepts(
        self, file: str, name: str, step: dict[str, Any], job: dict[str, Any]
    ) -> None:
        for words in _expanded(step, job):
            assert words[0] == "make", f"{file}/{name}: {words}"
            command = ["make", "--dry-run", "--question", "PYTHON=true", *words[1:]]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
            assert "No rule to make target" not in done.stderr, f"{file}/{name}: {done.stderr}"
            assert done.returncode in (0, 1), f"{file}/{name}: {done.stderr}"

    def test_every_output_that_is_read_is_written(self) -> None:
        for file, name, job, workflow in _jobs():
            for step_id, output in re.findall(r"steps\.([\w-]+)\.outputs\.([\w-]+)", str(job)):
                step = next((s for s in job["steps"] if s.get("id") == step_id), None)
                assert step is not None, f"{file}/{name}: no step {step_id}"
                if "uses" in step:
                    assert output in ACTION_OUTPUTS[step["uses"].partition("@")[0]]
                else:
                    assert output in OUTPUTS[step["run"].split()[1]], f"{file}/{name}: {output}"
            for needed, output in re.findall(r"needs\.([\w-]+)\.outputs\.([\w-]+)", str(job)):
                assert needed in job["needs"], f"{file}/{name}: reads {needed} and does not wait for it"
                assert output in workflow["jobs"][needed]["outputs"], f"{file}/{name}: {needed}.{output}"

    def test_every_setting_is_documented(self) -> None:
        for path in WORKFLOWS:
            for kind, name in re.findall(r"\b(vars|secrets)\.(\w+)", path.read_text()):
                assert f"`{name}`" in DOCUMENT, f"{path.name}: {kind}.{name} is not in docs/delivery.md"

    def test_every_environment_is_one_that_the_bootstrap_trusts(self) -> None:
        known = set(re.findall(r"Environment=(\w+)", DOCUMENT))
        assert {job["environment"] for _, _, job, _ in _jobs() if "environment" in job} == known

    def test_every_path_exists(self) -> None:
        for file, _, step in USES:
            given = step.get("with", {})
            for path in [*str(given.get("path", "")).split(), str(given.get("subject-checksums", ""))]:
                root = path.split("/")[0]
                known = root.startswith(".venv") or root == "reports" or (ROOT / root).exists()
                assert not path or known, f"{file}: {path}"
            for pattern in re.findall(r"hashFiles\('([^']+)'\)", str(step)):
                assert list(ROOT.glob(pattern)), f"{file}: {pattern}"


def _read_by(target: str) -> set[str]:
    """Return the variables that a target's recipe reads, by make or from the environment."""
    found = re.search(rf"^{target}:(?!=).*?(?=^\S)", MAKEFILE + "\nend:", re.M | re.S)
    assert found is not None, target
    recipe = found[0].replace("$(stage)", "$${STAGE:-dev}")
    names = set(re.findall(r"\$\$?[({]?(?:if \$\(call only,|if )?([A-Z][A-Z_]+)", recipe))
    own = {
        "smoke": {"SMOKE_TOKEN"},
        "pipeline-check": set(re.findall(r"[A-Z]+_[A-Z_]+|ATTESTATIONS", CHECKED)) | DRIFT_ROLES,
        "clean-up-previews": {"GITHUB_TOKEN", *OF_TERRAFORM},
        "package": OF_TERRAFORM,
        "deploy": {*OF_TERRAFORM, "ATTESTED_BY", "GH_TOKEN"},  # the token is gh's
        "rollback": {*OF_TERRAFORM, "ATTESTED_BY", "GH_TOKEN"},
        "destroy": OF_TERRAFORM,
        "release-publish": {"GITHUB_TOKEN"},
    }
    return names | own.get(target, set())


class TestRules:
    @pytest.mark.parametrize(("file", "name", "step"), USES)
    def test_an_action_is_pinned_by_commit_with_its_version_beside_it(
        self, file: str, name: str, step: dict[str, Any]
    ) -> None:
        action, _, commit = step["uses"].partition("@")
        assert re.fullmatch(r"[0-9a-f]{40}", commit), f"{file}/{name}: {action}"
        text = (ROOT / ".github" / "workflows" / file).read_text()
        assert re.search(rf"{re.escape(step['uses'])} # v\d+\.\d+\.\d+\n", text), f"{file}: {action}"

    def test_an_action_has_one_version_everywhere(self) -> None:
        pins: dict[str, set[str]] = {}
        for _, _, step in USES:
            action, _, commit = step["uses"].partition("@")
            pins.setdefault(action, set()).add(commit)
        assert {action: commits for action, commits in pins.items() if len(commits) > 1} == {}

    @pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
    def test_a_workflow_may_read_and_jobs_ask_for_more(self, path: Any) -> None:
        workflow = _load(path)
        assert workflow["permissions"] == {"contents": "read"}
        for name, job in workflow["jobs"].items():
            assert job.get("concurrency", workflow.get("concurrency"))["group"], name
            assert job["timeout-minutes"] <= 90, name
            uses = " ".join(step.get("uses", "") for step in job["steps"])
            may = job.get("permissions", {})
            signs = "configure-aws-credentials" in uses or "attest-build-provenance" in uses
            assert (may.get("id-token") == "write") == signs, name
            verifies = "ATTESTED_BY" in job.get("env", {})
            assert not (verifies and "attest-build-provenance" in uses), name
            attests = {"write"} if "attest-build-provenance" in uses else {"read"} if verifies else set()
            assert {may[name] for name in ("attestations",) if name in may} == attests, name
            assert may.get("contents", "read") == ("write" if path.name == "release.yml" else "read")

    def test_a_checkout_leaves_no_token_behind(self) -> None:
        for file, name, step in USES:
            if step["uses"].startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False, f"{file}/{name}"

    def test_no_stored_key(self) -> None:
        for path in WORKFLOWS:
            secrets = set(re.findall(r"secrets\.(\w+)", path.read_text()))
            assert secrets <= {"SMOKE_TOKEN"}, path.name
            assert "aws-access-key-id" not in path.read_text()

    def test_each_stage_is_deployed_one_at_a_time_and_never_broken_off(self) -> None:
        for name in ("deploy.yml", "rollback.yml"):
            workflow = _load(ROOT / ".github" / "workflows" / name)
            # Had all runs one group, a run that waits for prod's approval would keep the others from dev.
            assert "github.sha" in workflow.get("concurrency", {}).get("group", "github.sha"), name
            for stage in ("dev", "prod"):
                group = {"group": f"deploy-{stage}", "cancel-in-progress": False}
                assert workflow["jobs"][stage]["concurrency"] == group, (name, stage)

    def test_no_run_gets_round_the_smoke_test(self) -> None:
        """Nor its second try, which finds the stack as the first left it."""
        jobs = _load(ROOT / ".github" / "workflows" / "deploy.yml")["jobs"]
        for stage in ("dev", "prod"):
            (smoke,) = [s for s in jobs[stage]["steps"] if s.get("id") == "smoke"]
            assert "if" not in smoke, stage
            (back,) = [s for s in jobs[stage]["steps"] if "rollback" in s.get("run", "")]
            for condition in ("failure()", "steps.smoke.outcome", "steps.deploy.outputs.changed == 'true'"):
                assert condition in back["if"], stage
        assert "dev" in jobs["prod"]["needs"]

    def test_the_bootstraps_tests_run_in_ci_in_both_languages(self) -> None:
        """tests/delivery/conftest.py fails there, where it would skip elsewhere."""
        (job,) = _load(ROOT / ".github" / "workflows" / "ci.yml")["jobs"].values()
        (step,) = [s for s in job["steps"] if "setup-terraform" in s.get("uses", "")]
        assert step["if"] == "matrix.target == 'test' || matrix.target == 'test-rename'"
        assert step["with"]["terraform_wrapper"] is False

    def test_prod_waits_for_dev_its_approval_and_gets_the_same_artifact(self) -> None:
        jobs = _load(ROOT / ".github" / "workflows" / "deploy.yml")["jobs"]
        assert jobs["prod"]["environment"] == "prod"
        assert {"dev", "build"} <= set(jobs["prod"]["needs"])
        artifacts = {
            stage: next(s["env"]["ARTIFACT"] for s in jobs[stage]["steps"] if s.get("id") == "deploy")
            for stage in ("dev", "prod")
        }
        assert set(artifacts.values()) == {"${{ needs.build.outputs.artifact }}"}
        packages = [s for job in jobs.values() for s in job["steps"] if "make package" in s.get("run", "")]
        assert len(packages) == 1
        assert packages[0]["env"]["PARAMETERS"] == "${{ vars.DEV_PARAMETERS }}", "they name the architecture"

    def test_prod_asks_who_built_what_it_deploys(self) -> None:
        """In both ways to prod; and nobody else is asked for a secret for it."""
        for file in ("deploy.yml", "rollback.yml"):
            job = _load(ROOT / ".github" / "workflows" / file)["jobs"]["prod"]
            assert job["env"]["ATTESTED_BY"] == ATTESTED_BY, file
            calls = [s for s in job["steps"] if re.match(r"make (deploy|rollback) ", s.get("run", ""))]
            assert calls
            for step in calls:
                assert step["env"]["GH_TOKEN"] == "${{ github.token }}", (file, step["run"])
                assert "ATTESTED_BY" not in step["env"]

    def test_what_is_attested_is_what_this_run_built(self) -> None:
        steps = _load(ROOT / ".github" / "workflows" / "deploy.yml")["jobs"]["build"]["steps"]
        (attests,) = [s for s in steps if "attest-build-provenance" in s.get("uses", "")]
        assert attests["if"] == "steps.package.outputs.built == 'true' && vars.ATTESTATIONS != 'off'"
        assert attests["with"] == {"subject-checksums": SUBJECTS}

    def test_each_stages_drift_is_looked_for_with_its_own_role(self) -> None:
        (job,) = _load(ROOT / ".github" / "workflows" / "drift.yml")["jobs"].values()
        assert job["if"] == "vars.AWS_DEV_DRIFT_ROLE != ''"
        assert "vars.AWS_PROD_DRIFT_ROLE != '' &&" in job["strategy"]["matrix"]["stage"]
        (role,) = [s["with"]["role-to-assume"] for s in job["steps"] if "role-to-assume" in s.get("with", {})]
        assert role == "${{ matrix.stage == 'prod' && vars.AWS_PROD_DRIFT_ROLE || vars.AWS_DEV_DRIFT_ROLE }}"

    def test_previews_are_for_own_branches_and_always_removed(self) -> None:
        jobs = _load(ROOT / ".github" / "workflows" / "preview.yml")["jobs"]
        for job in jobs.values():
            assert "head.repo.full_name == github.repository" in job["if"]
        (removal,) = [s["run"] for s in jobs["remove"]["steps"] if "run" in s]
        assert removal == "make destroy YES=1 DATA=delete"
        assert (
            "closed" in _load(ROOT / ".github" / "workflows" / "preview.yml")[True]["pull_request"]["types"]
        )
        assert "pull_request_target" not in "".join(p.read_text() for p in WORKFLOWS)


class TestSources:
    """The artifact's key covers all that the artifact is made of."""

    def test_the_image_and_nested_templates_are_covered(self) -> None:
        known = sources()
        assert {"template.yaml", "fargate", "monitoring"} <= set(known)
        dockerfile = (ROOT / "Dockerfile").read_text()
        for line in re.findall(r"^COPY (?!--from)(.+)$", dockerfile, re.M):
            for source in line.split()[:-1]:
                assert any(name == source or source.startswith(f"{name}/") for name in known), source

    def test_a_change_makes_another_key(self, tmp_path: Any) -> None:
        nested = "Resources: {{ Nested: {{ Properties: {{ TemplateURL: {} }} }} }}"
        for name, text in {
            "template.yaml": nested.format("lambda/consumer.yaml"),
            "lambda/consumer.yaml": nested.format("../fargate/network.yaml"),
            "fargate/network.yaml": nested.format("https://example.com/other.yaml"),
            "src/app/orders/models.py": "first",
        }.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        keys = [source_key(tmp_path)]
        (tmp_path / "src/app/orders/models.py").write_text("second")
        keys.append(source_key(tmp_path))
        (tmp_path / "src/app/orders/models.py").rename(tmp_path / "src/app/other.py")
        keys.append(source_key(tmp_path))
        (tmp_path / "fargate/network.yaml").write_text("{}")
        keys.append(source_key(tmp_path))
        keys.append(source_key(tmp_path, "arm64"))
        assert len(set(keys)) == 5
        (tmp_path / "README.md").write_text("x")
        (tmp_path / "src/app/__pycache__").mkdir()
        (tmp_path / "src/app/__pycache__/x.pyc").write_text("x")
        assert source_key(tmp_path) == keys[-2]


class TestSetUpCheck:
    ENVIRON = {
        "AWS_REGION": "eu-north-1",
        "AWS_DEV_ROLE": "arn:aws:iam::123456789012:role/orders-bootstrap-dev-DeployRole-1",
        "AWS_PROD_ROLE": "arn:aws:iam::210987654321:role/orders-bootstrap-prod-DeployRole-1",
        "AWS_DEV_DRIFT_ROLE": "arn:aws:iam::123456789012:role/orders-bootstrap-dev-DriftRole-1",
        "AWS_PROD_DRIFT_ROLE": "arn:aws:iam::210987654321:role/orders-bootstrap-prod-DriftRole-1",
        "PROD_PARAMETERS": "AuthIssuer=https://id.example.com AuthAudience=orders",
    }

    def test_a_fresh_fork_deploys_nothing_and_fails_nothing(self) -> None:
        assert ready({}) == ({"dev": False, "prod": False}, [])
        assert remarks({}) == []

    def test_a_set_up_repository_deploys(self) -> None:
        assert ready(self.ENVIRON) == ({"dev": True, "prod": True}, [])
        without_drift = {k: v for k, v in self.ENVIRON.items() if "DRIFT" not in k}
        assert ready(without_drift)[1] == []

    @pytest.mark.parametrize(
        "changes",
        [
            {"AWS_REGION": ""},
            {"AWS_REGION": "europe"},
            {"AWS_DEV_ROLE": "orders-dev", "AWS_DEV_DRIFT_ROLE": ""},
            {"AWS_DEV_ROLE": "", "AWS_DEV_DRIFT_ROLE": ""},
            {"AWS_DEV_DRIFT_ROLE": "orders-dev", "AWS_DEV_ROLE": ""}
            | {"AWS_PROD_ROLE": "", "AWS_PROD_DRIFT_ROLE": ""},
            {"AWS_PROD_DRIFT_ROLE": "arn:aws:iam::123456789012:role/orders-bootstrap-dev-DriftRole-1"},
            {"PROD_PARAMETERS": ""},
            {"PROD_PARAMETERS": "AuthIssuer=https://id.example.com"},
            {"ATTESTATIONS": "false"},
        ],
    )
    def test_a_half_set_up_one_says_what_is_wrong(self, changes: dict[str, str]) -> None:
        assert len(ready(self.ENVIRON | changes)[1]) == 1

    def test_it_says_whether_stages_share_an_account_and_what_is_not_verified(self) -> None:
        assert remarks(self.ENVIRON) == ["dev and prod have an account each"]
        (one,) = remarks(self.ENVIRON | {"AWS_PROD_ROLE": self.ENVIRON["AWS_DEV_ROLE"]})
        assert "docs/delivery-boundaries.md" in one
        assert "ATTESTATIONS=off" in remarks(self.ENVIRON | {"ATTESTATIONS": "off"})[1]
