"""Where people start: bad input, and an AWS that cannot be asked, is one line that says what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore import exceptions as sdk
from scripts import dlq, restore, smoke, switch
from scripts.aws import explained, session
from scripts.cli import CliError, run_command, run_program
from scripts.delivery import __main__ as delivery

ROOT = Path(__file__).resolve().parents[2]
Main = Callable[[list[str]], int]
COMMANDS: dict[str, tuple[Main, list[str]]] = {
    **{
        name: (delivery.main, [name])
        for name in ("package", "deploy", "deploy-cdn", "rollback", "destroy", "drift", "bootstrap")
    },
    "clean-up-previews": (delivery.main, ["clean-up-previews", "--open", "none"]),
    "dlq": (dlq.main, ["list"]),
    "switch": (switch.main, ["fargate"]),
    "restore": (restore.main, ["--stack", "orders-dev", "--to", "2026-01-01T00:00:00Z", "--table", ""]),
}


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """No region, no credentials, no profile."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("AWS_ACCESS_KEY_ID", "k"), ("AWS_SECRET_ACCESS_KEY", "s")):
        monkeypatch.setenv(name, value)


def line(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line on standard error."""
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error


@pytest.mark.parametrize("name", COMMANDS)
class TestEachCommand:
    def test_says_that_there_is_no_region(self, name: str, capsys: pytest.CaptureFixture[str]) -> None:
        main, arguments = COMMANDS[name]
        assert main(arguments) == 1
        assert "AWS_REGION=eu-central-1" in line(capsys)

    @pytest.mark.parametrize("variable", ["AWS_REGION", "AWS_DEFAULT_REGION"])
    def test_takes_the_region_and_says_that_there_are_no_credentials(
        self, name: str, variable: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(variable, "eu-central-1")
        main, arguments = COMMANDS[name]
        if name == "bootstrap":
            arguments = [*arguments, "--parameters", "Repository=a/b OwnerId=1 RepositoryId=2"]
        assert main(arguments) == 1
        assert "aws sso login" in line(capsys)


# What is given, and what the line says.
BAD: list[tuple[Main, list[str], list[str]]] = [
    (delivery.main, ["deploy", "--stage", "prodd"], ["'prodd'", "dev, prod", "samconfig.toml"]),
    (delivery.main, ["destroy", "--stage", "Dev"], ["lower-case"]),
    (delivery.main, ["drift", "--stage", "devv"], ["'devv'"]),
    (delivery.main, ["bootstrap", "--stage", "prodd"], ["'prodd'"]),
    (delivery.main, ["deploy", "--parameters", "Runtime"], ["Name=value", "'Runtime'"]),
    (delivery.main, ["bootstrap", "--parameters", "Repository=a/b Foo"], ["Name=value", "'Foo'"]),
    (delivery.main, ["deploy-cdn", "--parameters", "Mode"], ["Name=value"]),
    (delivery.main, ["deploy-cdn", "--parameters", "Mode=off"], ["Mode=off is rejected", "count"]),
    (delivery.main, ["deploy-cdn", "--parameters", "Runtime=lambda"], ["neither waf/ nor edge/"]),
    (delivery.main, ["deploy", "--artifact", "nonsense"], ["<key>@<hash>", "'nonsense'"]),
    (delivery.main, ["deploy", "--stage", "prod"], ["<key>@<hash>", "what dev ran"]),
    (delivery.main, ["destroy", "--stage", "prod", "--yes"], ["not for production"]),
    (delivery.main, ["destroy", "--stage", "prod", "--data"], ["not for production"]),
    (delivery.main, ["clean-up-previews", "--open", "x"], ["OPEN"]),
    (dlq.main, ["--stack", "", "list"], ["STACK=orders-dev"]),
    (dlq.main, ["replay", "--from", "x", "--to", "x"], ["'x'", "2026-11-22T10:00:00Z"]),
    (dlq.main, ["replay", "--from", "2026-01-02", "--to", "2026-01-01"], ["before --to"]),
    (dlq.main, ["replay", "--from", "2026-01-02", "--to", "2999-01-01"], ["future"]),
    (switch.main, [""], ["TO=fargate or TO=lambda"]),
    (switch.main, ["ecs"], ["'ecs'", "TO=fargate or TO=lambda"]),
    (switch.main, ["fargate", "--stack", "a b"], ["STACK=orders-dev"]),
    # As make gives them: what is not set is empty.
    (restore.main, ["--stack", "", "--to", "2026-01-01T00:00:00Z", "--table", ""], ["STACK=orders-dev"]),
    (restore.main, ["--stack", "x", "--to", "", "--table", ""], ["TO=", "TABLE="]),
    (restore.main, ["--stack", "x", "--to", "2026-01-01T00:00:00Z", "--table", "t"], ["TO=", "TABLE="]),
    (restore.main, ["--stack", "x", "--to", "yesterday"], ["'yesterday'", "2026-11-22T10:00:00Z"]),
    (restore.main, ["--stack", "x", "--to", "2026-01-01T00:00:00"], ["2026-01-01T00:00:00Z"]),
    (restore.main, ["--stack", "x", "--to", "2999-01-01T00:00:00Z"], ["future"]),
]


@pytest.mark.parametrize(("main", "arguments", "words"), BAD)
def test_bad_input_is_judged_before_aws_is_asked(
    main: Main,
    arguments: list[str],
    words: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Without a region or credentials, so whatever asked for AWS first would say that instead.
    with suppress(SystemExit):  # argparse's
        assert main(arguments) == 1
    said = line(capsys)
    assert all(word in said for word in words), said


@pytest.mark.parametrize("text", [None, "[default"])
def test_a_samconfig_that_cannot_be_read(
    text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("scripts.delivery.__main__.ROOT", tmp_path)
    if text:
        (tmp_path / "samconfig.toml").write_text(text)
    assert delivery.main(["deploy"]) == 1
    assert "samconfig.toml cannot be read" in line(capsys)


@pytest.mark.usefixtures("keys")
class TestPackageAndDeploy:
    @pytest.mark.parametrize("name", ["package", "deploy"])
    def test_a_value_that_the_template_rejects_is_judged_before_aws_is_asked(
        self,
        name: str,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("AWS_REGION", "eu-central-1")
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        assert delivery.main([name, "--parameters", "Runtime=fargat"]) == 1
        assert "Runtime=fargat is rejected: it must be one of lambda, fargate" in line(capsys)


@pytest.mark.usefixtures("keys")
class TestSession:
    def test_two_regions_are_rejected(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Or SAM CLI, and boto3 by itself, would work in another than the rest of a command."""
        monkeypatch.setenv("AWS_REGION", "eu-north-1")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-2")
        with pytest.raises(CliError, match=r"AWS_REGION is eu-north-1, .*AWS_DEFAULT_REGION is us-west-2"):
            session()

    def test_the_newer_variable_counts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_REGION", "eu-north-1")
        made = session()
        assert made.client("sqs").meta.region_name == "eu-north-1"
        assert boto3.client("sqs").meta.region_name == "eu-north-1", "what the commands call"

    def test_a_profile_that_does_not_exist(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_PROFILE", "nobody")
        with pytest.raises(CliError, match=r"nobody.*aws configure list-profiles"):
            session()

    def test_an_endpoint_that_is_no_address(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_REGION", "eu-north-1")
        monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", "localhost")
        with pytest.raises(CliError, match="AWS_ENDPOINT_URL_SQS=localhost is no address"):
            session()

    def test_an_endpoint_that_does_not_answer(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name, value in {
            "AWS_REGION": "eu-north-1",
            "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
            "AWS_MAX_ATTEMPTS": "1",
        }.items():
            monkeypatch.setenv(name, value)
        assert dlq.main(["list"]) == 1
        assert "AWS_ENDPOINT_URL=http://127.0.0.1:9 is set" in line(capsys)


def rejected(code: str, message: str = "no", operation: str = "PutObject") -> sdk.ClientError:
    return sdk.ClientError({"Error": {"Code": code, "Message": message}}, operation)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        # Codes: https://docs.aws.amazon.com/IAM/latest/APIReference/CommonErrors.html
        (rejected("ExpiredToken", "The provided token has expired."), "aws sso login --profile work"),
        (rejected("ExpiredTokenException"), "have expired"),
        (sdk.UnauthorizedSSOTokenError(), "aws sso login --profile work"),
        (sdk.SSOTokenLoadError(error_msg="Token for work does not exist"), "aws sso login --profile work"),
        (sdk.TokenRetrievalError(provider="sso", error_msg="expired"), "aws sso login --profile work"),
        (sdk.PartialCredentialsError(provider="env", cred_var="secret"), "AWS_SECRET_ACCESS_KEY"),
        (rejected("InvalidClientTokenId", "The security token included is invalid"), "xx-1 is not enabled"),
        (rejected("UnrecognizedClientException"), "rejects these credentials"),
        (rejected("SignatureDoesNotMatch", "Signature expired: 20260101"), "clock"),
        (rejected("RequestTimeTooSkewed"), "clock"),
        (rejected("AccessDenied", "Access Denied"), "arn:aws:iam::1:user/me may not call PutObject"),
        (
            rejected("AccessDenied", "User: u is not authorized to perform: s3:PutObject on resource: r"),
            "u is not authorized to perform: s3:PutObject",
        ),
        (rejected("ValidationError", "Stack with id orders-x does not exist"), "no stack orders-x in xx-1"),
        (rejected("ValidationError", "Stack 'orders-x' does not exist"), "no stack orders-x in xx-1"),
        (rejected("ValidationError", "Stack with id [orders-x] does not exist"), "no stack orders-x in xx-1"),
        (sdk.ConnectTimeoutError(endpoint_url="https://sqs.xx-1.amazonaws.com"), "is xx-1 a region"),
        (sdk.NoRegionError(), "AWS_REGION"),
    ],
)
def test_what_aws_rejects_is_explained(error: Exception, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Sts:
        def get_caller_identity(self) -> dict[str, str]:
            return {"Arn": "arn:aws:iam::1:user/me"}

    def client(*_: Any, **__: Any) -> Sts:
        return Sts()

    monkeypatch.setattr(boto3, "client", client)
    monkeypatch.setenv("AWS_PROFILE", "work")
    monkeypatch.setenv("AWS_REGION", "xx-1")
    said = explained(error)
    assert words in said
    assert "\n" not in said


def test_ctrl_c_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    assert run_command("make dlq", interrupted) == 130
    assert line(capsys).startswith("make dlq: interrupted")


@pytest.mark.parametrize("module", ["smoke", "release", "pipeline_check"])
def test_what_runs_before_anything_is_installed(module: str) -> None:
    command = [sys.executable, "-S", "-c", f"import scripts.{module}"]
    subprocess.run(command, cwd=ROOT, env={}, check=True, timeout=60)


def test_an_error_of_the_code_itself_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        run_command("make dlq", lambda: 1 // 0)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["no-such-program", "x"], "there is no `no-such-program` command"),
        (["sh", "-c", "exit 3"], "sh -c failed; its output is above"),
        (["sleep", "9"], "sleep 9 took longer than 0 s"),
    ],
)
def test_a_program_that_does_not_succeed(command: list[str], words: str) -> None:
    with pytest.raises(CliError, match=words):
        run_program(*command, cwd=ROOT, seconds=0 if command[0] == "sleep" else 60)


@pytest.mark.parametrize(
    ("target", "given"),
    [("destroy", "YES=no"), ("destroy", "YES=0"), ("destroy", "DATA=yes"), ("deploy", "FORCE=false")],
)
def test_make_takes_no_other_word_for_a_yes(target: str, given: str) -> None:
    asked = ["make", "--dry-run", "PYTHON=true", target, given]
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert f"{given} means nothing" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ftp://x"], "API_URL must be"),
        ([""], "API_URL must be"),
        (["http://x", "--access", "opened"], "ACCESS is open or closed, not 'opened'"),
    ],
)
def test_a_smoke_test_of_nothing(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        smoke.main(arguments)
    assert words in line(capsys)


@pytest.mark.parametrize(("old", "new"), [("edge", "deploy-cdn"), ("sweep", "clean-up-previews")])
def test_an_old_name_of_a_command_still_works(old: str, new: str) -> None:
    # Within `make test` a make says which directory it enters.
    command = ["make", "--no-print-directory", "PYTHON=true", "DEV=", "DELIVERY=echo", old]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == f"make {old} is now called make {new}\n"
    assert done.stdout.startswith(new)
