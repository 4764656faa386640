"""The bootstrap on one emulator: by CloudFormation and by Terraform, each with all stages in one account."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest
from localcloud.running import Emulator, running_emulator

ROOT = Path(__file__).resolve().parents[2]
TERRAFORM = ROOT / "bootstrap" / "terraform"
REPOSITORY, OWNER_ID, REPOSITORY_ID = "acme/orders", "4242", "171717"
AUDIENCE = "sts.amazonaws.com"
ACCOUNTS = {"cloudformation": "111111111111", "terraform": "222222222222"}
# Prod takes what dev builds. The account of a prod elsewhere may read it too.
STAGES = {
    "dev": {
        "ProdAccountId": "777777777777",
        "HostedZoneId": "Z1",
        "RecordNames": "dev.example.com,a.dev.example.com",
    },
    "prod": {"Environment": "prod", "HostedZoneId": "Z1", "RecordNames": "example.com"},
    "preview": {"Environment": "preview"},
}
# Terraform waits a minute on the bucket's lifecycle rules, here as on AWS: planned only. The rest is applied.
TARGETS = [
    "aws_ecr_lifecycle_policy.image",
    "aws_ecr_repository_policy.image",
    "aws_iam_policy.boundary",
    "aws_iam_role_policy.execution",
    "aws_iam_role_policy.jobs",
    "aws_s3_bucket_policy.store",
    "aws_s3_bucket_public_access_block.store",
]


@dataclass
class Bootstrap:
    """What was made for one stage. `store` is its own bucket, `bucket` that of the artifacts."""

    stage: str
    account: str
    endpoint: str
    store: str
    bucket: str
    role_arns: dict[str, str]
    boundary_arn: str
    execution_arn: str
    repository_arn: str
    known: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def client(self, service: str) -> Any:
        return client(self.endpoint, self.account, service)

    def trust(self, role: str) -> dict[str, Any]:
        """Return the role's trust policy."""
        found = self.client("iam").get_role(RoleName=_name(self.arn(role)))
        policy: dict[str, Any] = found["Role"]["AssumeRolePolicyDocument"]
        return policy

    def statements(self, role: str) -> list[dict[str, Any]]:
        """Return what the role's own and attached policies say; AWS's managed ones apart."""
        if role not in self.known:
            self.known[role] = statements_of(self.client("iam"), _name(self.arn(role)))
        return self.known[role]

    def managed(self, arn: str) -> dict[str, Any]:
        """Return the document of one of our managed policies."""
        return managed_policy(self.client("iam"), arn)

    @property
    def roles(self) -> list[str]:
        """The jobs' roles that there are."""
        return sorted(self.role_arns)

    def arn(self, role: str) -> str:
        return self.execution_arn if role == "execution" else self.role_arns[role]

    def logical(self, text: str) -> str:
        """Replace what differs between two accounts by what it stands for."""
        for physical, name in (
            (self.execution_arn, "<execution>"),
            (self.boundary_arn, "<boundary>"),
            (self.repository_arn, "<image repository>"),
            (self.store, "<store>"),
            (self.bucket, "<bucket>"),
            (self.account, "<account>"),
        ):
            text = text.replace(physical, name)
        return text


def statements_of(iam: Any, role: str) -> list[dict[str, Any]]:
    """Return what a role's own and attached policies say; AWS's managed ones apart."""
    documents = [
        iam.get_role_policy(RoleName=role, PolicyName=policy)["PolicyDocument"]
        for policy in iam.list_role_policies(RoleName=role)["PolicyNames"]
    ]
    documents += [
        managed_policy(iam, policy["PolicyArn"])
        for policy in iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]
        if ":aws:policy/" not in policy["PolicyArn"]
    ]
    return [statement for document in documents for statement in document["Statement"]]


def managed_policy(iam: Any, arn: str) -> dict[str, Any]:
    version = iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
    found = iam.get_policy_version(PolicyArn=arn, VersionId=version)["PolicyVersion"]["Document"]
    document: dict[str, Any] = json.loads(found) if isinstance(found, str) else found
    return document


def client(endpoint: str, account: str, service: str, keys: Mapping[str, str] | None = None) -> Any:
    """Return a client of the emulator: with keys, or as the account's root, whose key is its number."""
    keys = keys or {"AccessKeyId": account, "SecretAccessKey": "test"}
    return boto3.client(
        service,
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=keys["AccessKeyId"],
        aws_secret_access_key=keys["SecretAccessKey"],
        aws_session_token=keys.get("SessionToken"),
    )


def token(subject: str, repository_id: str = REPOSITORY_ID) -> str:
    """Return a token as GitHub gives to a job; the local AWS emulator does not look at its signature."""

    def part(value: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    claims = {"iss": "https://token.actions.githubusercontent.com", "aud": AUDIENCE, "sub": subject}
    claims["repository_id"] = repository_id
    return ".".join([part({"alg": "RS256", "typ": "JWT"}), part(claims), "c2lnbmF0dXJl"])


def _name(arn: str) -> str:
    return arn.rsplit("/", 1)[1]


@pytest.fixture(scope="session")
def bare_aws() -> Iterator[Emulator]:
    """The emulator with IAM enforced and nothing deployed."""
    with running_emulator(template=None, source=None, auth=True) as aws:
        yield aws


@pytest.fixture(params=STAGES)
def bootstrap(request: pytest.FixtureRequest, stages: dict[str, Bootstrap]) -> Bootstrap:
    return stages[request.param]


@pytest.fixture(scope="session")
def stages(bare_aws: Emulator) -> dict[str, Bootstrap]:
    """All stages of one account, by name."""
    account = ACCOUNTS["cloudformation"]
    # The emulator has no AWS::IAM::OIDCProvider: the template is given a provider, Terraform makes one.
    provider = client(bare_aws.endpoint, account, "iam").create_open_id_connect_provider(
        Url="https://token.actions.githubusercontent.com", ClientIDList=["sts.amazonaws.com"]
    )["OpenIDConnectProviderArn"]
    made: dict[str, Bootstrap] = {}
    for stage in STAGES:
        made[stage] = _stages(bare_aws, account, parameters(stage, made, provider))
    return made


def parameters(stage: str, made: Mapping[str, Bootstrap], provider: str) -> dict[str, str]:
    """Return the bootstrap's parameters for a stage, as docs/delivery.md gives them."""
    of_dev = made["dev"] if stage == "prod" else None
    stores = (
        {"ArtifactBucketName": of_dev.bucket, "ImageRepositoryArn": of_dev.repository_arn} if of_dev else {}
    )
    who = {"Repository": REPOSITORY, "OwnerId": OWNER_ID, "RepositoryId": REPOSITORY_ID}
    return {**who, "Stage": stage, "OidcProviderArn": provider, **STAGES[stage], **stores}


def _stages(bare_aws: Emulator, account: str, given: Mapping[str, str]) -> Bootstrap:
    cloudformation = client(bare_aws.endpoint, account, "cloudformation")
    name = f"orders-bootstrap-{given['Stage']}"
    cloudformation.create_stack(
        StackName=name,
        TemplateBody=(ROOT / "bootstrap" / "template.yaml").read_text(),
        Capabilities=["CAPABILITY_IAM"],
        Parameters=[{"ParameterKey": k, "ParameterValue": v} for k, v in given.items()],
    )
    deadline = time.monotonic() + 100
    while True:
        stack = cloudformation.describe_stacks(StackName=name)["Stacks"][0]
        if not stack["StackStatus"].endswith("IN_PROGRESS"):
            break
        assert time.monotonic() < deadline, stack
        time.sleep(0.1)
    assert stack["StackStatus"] == "CREATE_COMPLETE", stack
    out = {o["OutputKey"]: o["OutputValue"] for o in stack["Outputs"]}
    names = {"deploy": "DeployRoleArn", "drift": "DriftRoleArn"}
    return Bootstrap(
        stage=given["Stage"],
        account=account,
        endpoint=bare_aws.endpoint,
        store=out["HistoryBucketName"],
        bucket=out["ArtifactBucketName"],
        role_arns={role: out[name] for role, name in names.items() if name in out},
        boundary_arn=out["PermissionsBoundaryArn"],
        execution_arn=out["ExecutionRoleArn"],
        repository_arn=out["ImageRepositoryArn"],
    )


@pytest.fixture(scope="session")
def terraform(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An initialised working directory, as the environment that Terraform needs; skips where it cannot be.

    Not in a workflow, which installs Terraform.
    """
    missing = pytest.fail if os.environ.get("GITHUB_ACTIONS") else pytest.skip
    if not shutil.which("terraform"):
        missing("terraform is not installed: bootstrap/terraform is NOT tested")
    work = tmp_path_factory.mktemp("terraform")
    environ = {**os.environ, "TF_DATA_DIR": str(work / "data"), "CHECKPOINT_DISABLE": "1"}
    module = work / "module"
    shutil.copytree(TERRAFORM, module, ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*"))
    mirrors = [Path.home() / ".terraform.d/plugins", Path("/usr/local/share/terraform/plugins")]
    for mirror in [*mirrors, *Path("/opt").glob("*")]:
        if any(mirror.glob("*/hashicorp/aws")):
            config = work / "terraformrc"
            config.write_text(
                f'provider_installation {{\n  filesystem_mirror {{\n    path = "{mirror}"\n  }}\n}}\n'
            )
            environ["TF_CLI_CONFIG_FILE"] = str(config)
            break
    init = _terraform(environ, module, "init")
    if init.returncode:
        missing("terraform cannot get the AWS provider: bootstrap/terraform is NOT tested")
    return {**environ, "MODULE": str(module)}


def _terraform(environ: dict[str, str], module: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = ["terraform", f"-chdir={module}", words[0], "-no-color"]
    command += ["-input=false"] if words[0] in ("init", "plan", "apply") else []
    return subprocess.run([*command, *words[1:]], env=environ, capture_output=True, text=True, timeout=110)


@pytest.fixture(scope="session")
def by_terraform(bare_aws: Emulator, terraform: dict[str, str]) -> dict[str, Bootstrap]:
    made: dict[str, Bootstrap] = {}
    provider = ""  # the first stage makes it
    for stage in STAGES:
        made[stage] = _by_terraform(bare_aws, terraform, parameters(stage, made, provider))
        provider = f"arn:aws:iam::{ACCOUNTS['terraform']}:oidc-provider/token.actions.githubusercontent.com"
    return made


def variables(given: Mapping[str, str]) -> dict[str, str]:
    """Return the template's parameters as Terraform takes them from the environment."""
    return {f"TF_VAR_{re.sub('(?<!^)(?=[A-Z])', '_', name).lower()}": value for name, value in given.items()}


def _by_terraform(bare_aws: Emulator, terraform: dict[str, str], given: Mapping[str, str]) -> Bootstrap:
    account = ACCOUNTS["terraform"]
    environ = {**terraform, **bare_aws.environ, "AWS_ACCESS_KEY_ID": account, **variables(given)}
    module, state = Path(environ["MODULE"]), f"-state={given['Stage']}.tfstate"
    targets = [f"-target={target}" for target in TARGETS]
    applied = _terraform(environ, module, "apply", "-auto-approve", state, *targets)
    assert applied.returncode == 0, applied.stderr
    shown = _terraform(environ, module, "output", "-json", state)
    out = {name: entry["value"] for name, entry in json.loads(shown.stdout).items()}
    return Bootstrap(
        stage=given["Stage"],
        account=account,
        endpoint=bare_aws.endpoint,
        store=out["history_bucket_name"],
        bucket=out["artifact_bucket_name"],
        role_arns=out["role_arns"],
        boundary_arn=out["permissions_boundary_arn"],
        execution_arn=out["execution_role_arn"],
        repository_arn=out["image_repository_arn"],
    )


@pytest.fixture(scope="session")
def terraform_plan(
    bare_aws: Emulator, terraform: dict[str, str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Plans everything for dev, with changed parameters."""
    environ = {**terraform, **bare_aws.environ, "AWS_ACCESS_KEY_ID": "333333333333"}

    def plan(**changes: str) -> subprocess.CompletedProcess[str]:
        given = variables(parameters("dev", {}, "") | changes)
        return _terraform(environ | given, Path(environ["MODULE"]), "plan", "-state=other.tfstate")

    return plan


@pytest.fixture(scope="session")
def terraform_format(terraform: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return _terraform(terraform, Path(terraform["MODULE"]), "fmt", "-check")
