"""The bootstrap stack on one emulator: by CloudFormation and by Terraform, for stages and for pull requests.

An account each.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest
from localcloud.embedded import EmbeddedAws, embedded_aws

ROOT = Path(__file__).resolve().parents[2]
TERRAFORM = ROOT / "bootstrap" / "terraform"
REPOSITORY = "acme/orders"
AUDIENCE = "sts.amazonaws.com"
# Terraform waits a minute on the bucket's lifecycle rules, here as on AWS: planned only. The rest is applied.
ACCOUNTS = {
    ("cloudformation", "stages"): "111111111111",
    ("terraform", "stages"): "222222222222",
    ("cloudformation", "pull requests"): "555555555555",
    ("terraform", "pull requests"): "666666666666",
}
TARGETS = [
    "aws_ecr_lifecycle_policy.image",
    "aws_ecr_repository_policy.image",
    "aws_iam_role_policy.execution",
    "aws_iam_role_policy.jobs",
    "aws_iam_role_policy_attachment.jobs",
    "aws_s3_bucket_policy.artifacts",
    "aws_s3_bucket_public_access_block.artifacts",
]


@dataclass
class Bootstrap:
    """What was made in one account. Roles by the name that the documentation gives them."""

    account: str
    endpoint: str
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
            self.known[role] = self._statements(role)
        return self.known[role]

    def _statements(self, role: str) -> list[dict[str, Any]]:
        iam, name = self.client("iam"), _name(self.arn(role))
        documents = [
            iam.get_role_policy(RoleName=name, PolicyName=policy)["PolicyDocument"]
            for policy in iam.list_role_policies(RoleName=name)["PolicyNames"]
        ]
        documents += [
            self.managed(policy["PolicyArn"])
            for policy in iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"]
            if ":aws:policy/" not in policy["PolicyArn"]
        ]
        return [statement for document in documents for statement in document["Statement"]]

    def managed(self, arn: str) -> dict[str, Any]:
        """Return the document of one of our managed policies."""
        iam = self.client("iam")
        version = iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
        found = iam.get_policy_version(PolicyArn=arn, VersionId=version)["PolicyVersion"]["Document"]
        document: dict[str, Any] = json.loads(found) if isinstance(found, str) else found
        return document

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
            (self.bucket, "<bucket>"),
            (self.account, "<account>"),
        ):
            text = text.replace(physical, name)
        return text


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


def token(subject: str) -> str:
    """Return a token as GitHub gives to a job; the local AWS does not look at its signature."""

    def part(value: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    claims = {"iss": "https://token.actions.githubusercontent.com", "aud": AUDIENCE, "sub": subject}
    return ".".join([part({"alg": "RS256", "typ": "JWT"}), part(claims), "c2lnbmF0dXJl"])


def _name(arn: str) -> str:
    return arn.rsplit("/", 1)[1]


@pytest.fixture(scope="session")
def bare_aws() -> Iterator[EmbeddedAws]:
    """The emulator with IAM enforced and nothing deployed."""
    with embedded_aws(template=None, source=None, auth=True) as aws:
        yield aws


@pytest.fixture(scope="session", params=ACCOUNTS, ids="-".join)
def bootstrap(request: pytest.FixtureRequest) -> Bootstrap:
    tool, kind = request.param
    made: dict[str, Bootstrap] = request.getfixturevalue(f"by_{tool}")
    return made[kind]


@pytest.fixture(scope="session", params=["cloudformation", "terraform"])
def stages(request: pytest.FixtureRequest) -> Bootstrap:
    """The account of dev and prod."""
    made: dict[str, Bootstrap] = request.getfixturevalue(f"by_{request.param}")
    return made["stages"]


@pytest.fixture(scope="session", params=["cloudformation", "terraform"])
def previews(request: pytest.FixtureRequest) -> Bootstrap:
    """The account of pull requests."""
    made: dict[str, Bootstrap] = request.getfixturevalue(f"by_{request.param}")
    return made["pull requests"]


@pytest.fixture(scope="session")
def by_cloudformation(bare_aws: EmbeddedAws) -> dict[str, Bootstrap]:
    return {
        "stages": _by_cloudformation(bare_aws, ACCOUNTS["cloudformation", "stages"], ""),
        "pull requests": _by_cloudformation(bare_aws, ACCOUNTS["cloudformation", "pull requests"], "preview"),
    }


def _by_cloudformation(bare_aws: EmbeddedAws, account: str, environment: str) -> Bootstrap:
    # The emulator has no AWS::IAM::OIDCProvider: the template is given a provider, Terraform makes one.
    provider = client(bare_aws.endpoint, account, "iam").create_open_id_connect_provider(
        Url="https://token.actions.githubusercontent.com", ClientIDList=["sts.amazonaws.com"]
    )["OpenIDConnectProviderArn"]
    cloudformation = client(bare_aws.endpoint, account, "cloudformation")
    parameters = {
        "Repository": REPOSITORY,
        "PullRequestEnvironment": environment,
        "OidcProviderArn": provider,
    }
    cloudformation.create_stack(
        StackName="orders-bootstrap",
        TemplateBody=(ROOT / "bootstrap" / "template.yaml").read_text(),
        Capabilities=["CAPABILITY_IAM"],
        Parameters=[{"ParameterKey": k, "ParameterValue": v} for k, v in parameters.items()],
    )
    deadline = time.monotonic() + 30
    while True:
        stack = cloudformation.describe_stacks(StackName="orders-bootstrap")["Stacks"][0]
        if not stack["StackStatus"].endswith("IN_PROGRESS"):
            break
        assert time.monotonic() < deadline, stack
        time.sleep(0.1)
    assert stack["StackStatus"] == "CREATE_COMPLETE", stack
    out = {o["OutputKey"]: o["OutputValue"] for o in stack["Outputs"]}
    names = {
        "dev": "DevRoleArn",
        "prod": "ProdRoleArn",
        "drift": "DriftRoleArn",
        "pull-request": "PullRequestRoleArn",
    }
    return Bootstrap(
        account=account,
        endpoint=bare_aws.endpoint,
        bucket=out["ArtifactBucketName"],
        role_arns={role: out[name] for role, name in names.items() if name in out},
        boundary_arn=out["PermissionsBoundaryArn"],
        execution_arn=out["ExecutionRoleArn"],
        repository_arn=_repository_arn(account, out["ImageRepositoryUri"]),
    )


def _repository_arn(account: str, uri: str) -> str:
    return f"arn:aws:ecr:us-east-1:{account}:repository/{uri.rsplit('/', 1)[1]}"


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
        if (mirror / "registry.terraform.io/hashicorp/aws").is_dir():
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
def by_terraform(bare_aws: EmbeddedAws, terraform: dict[str, str]) -> dict[str, Bootstrap]:
    return {
        "stages": _by_terraform(bare_aws, terraform, ACCOUNTS["terraform", "stages"], ""),
        "pull requests": _by_terraform(
            bare_aws, terraform, ACCOUNTS["terraform", "pull requests"], "preview"
        ),
    }


def _by_terraform(
    bare_aws: EmbeddedAws, terraform: dict[str, str], account: str, environment: str
) -> Bootstrap:
    environ = {**terraform, **bare_aws.environ, "AWS_ACCESS_KEY_ID": account}
    environ |= {"TF_VAR_repository": REPOSITORY, "TF_VAR_pull_request_environment": environment}
    module, state = Path(environ["MODULE"]), f"-state={account}.tfstate"
    targets = [f"-target={target}" for target in TARGETS]
    applied = _terraform(environ, module, "apply", "-auto-approve", state, *targets)
    assert applied.returncode == 0, applied.stderr
    shown = _terraform(environ, module, "output", "-json", state)
    out = {name: entry["value"] for name, entry in json.loads(shown.stdout).items()}
    return Bootstrap(
        account=account,
        endpoint=bare_aws.endpoint,
        bucket=out["artifact_bucket_name"],
        role_arns=out["role_arns"],
        boundary_arn=out["permissions_boundary_arn"],
        execution_arn=out["execution_role_arn"],
        repository_arn=_repository_arn(account, out["image_repository_uri"]),
    )


@pytest.fixture(scope="session")
def terraform_plan(bare_aws: EmbeddedAws, terraform: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """A plan of everything, over whatever is there."""
    environ = {**terraform, **bare_aws.environ, "AWS_ACCESS_KEY_ID": "333333333333"}
    return _terraform(
        environ | {"TF_VAR_repository": REPOSITORY}, Path(environ["MODULE"]), "plan", "-state=other.tfstate"
    )


@pytest.fixture(scope="session")
def terraform_format(terraform: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return _terraform(terraform, Path(terraform["MODULE"]), "fmt", "-check")
