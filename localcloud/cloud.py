"""`make cloud-up|cloud-down|cloud-status`: the stack in containers, deployed by `sam deploy` itself.

No account. The emulator stays up in the background, with its state in .local/cloud/. Functions and tasks
run the image that `sam build` made and `sam deploy` pushed to the emulator's registry, as on AWS.

    from localcloud import cloud                     # what the deployment tests use
    cloud.start(state) -> endpoint                   # the emulator, in the background
    cloud.deploy(endpoint, "orders", runtime="lambda") -> outputs      # sam build and sam deploy
    cloud.stop(state)                                # the emulator, its containers, images and builds
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.cli import CliError

from localcloud import engine
from localcloud.running import (
    LOCAL_PYTHON,
    ROOT,
    aws_environ,
    emulator_environ,
    is_healthy,
    wait_until_healthy,
)

STATE = Path(os.environ.get("LOCALCLOUD_STATE", ROOT / ".local")) / "cloud"
STACK = "orders"
_TOOLS = ROOT / ".venv-tools"
_BUILDS = ROOT / ".aws-sam"
_REPOSITORY = "orders"
_RUNTIMES = ("lambda", "fargate")
_CAPABILITIES = ("CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND")


def main(arguments: Sequence[str]) -> int:
    """Run one of up, down and status."""
    try:
        match arguments:
            case ["up", runtime] if runtime in _RUNTIMES:
                _up(runtime)
            case ["down"]:
                _down()
            case ["status"]:
                _status()
            case _:
                raise CliError("RUNTIME must be lambda or fargate: make cloud-up RUNTIME=fargate")
    except CliError as error:
        print(f"make cloud: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; `make cloud-down` removes what was made.")
        return 130
    return 0


def _up(runtime: str) -> None:
    started = time.monotonic()
    _require_engine()
    _say("Starting the local AWS emulator ...")
    endpoint = start(STATE)
    _say(f"Building the image and deploying template.yaml with Runtime={runtime} (about two minutes) ...")
    outputs = deploy(endpoint, STACK, runtime=runtime, echo=True)
    _say("Waiting for the API ...")
    wait_until_healthy(outputs["ApiUrl"])
    print(_panel(endpoint, outputs, time.monotonic() - started), flush=True)


def _down() -> None:
    if not STATE.exists():
        _say("Nothing is up.")
        return
    _say("Stopping the local AWS emulator, its functions and its tasks ...")
    stop(STATE)
    _say("Gone: containers, images and data.")


def _status() -> None:
    endpoint = running_endpoint(STATE)
    if not endpoint:
        print("The local AWS emulator is not up. make cloud-up RUNTIME=lambda|fargate starts it.")
        return
    print(f"  AWS       {endpoint}")
    stack = describe(endpoint, STACK)
    if stack is None:
        print("  Stack     none is deployed")
        return
    outputs = stack_outputs(stack)
    url = outputs.get("ApiUrl", "")
    print(f"  Stack     {STACK}: {stack['StackStatus']}, Runtime={outputs.get('Runtime', '?')}")
    print(f"  API       {url or '-'} ({'healthy' if url and is_healthy(url) else 'does not answer'})")
    for line in containers(endpoint) or ["none"]:
        print(f"  Container {line}")


def _panel(endpoint: str, outputs: Mapping[str, str], seconds: float) -> str:
    lines = [
        ("API", outputs["ApiUrl"]),
        ("Runtime", outputs["Runtime"]),
        ("AWS", f"{endpoint} (AWS_ENDPOINT_URL for the aws command line; any credentials)"),
        ("Switch", f"make cloud-up RUNTIME={'fargate' if outputs['Runtime'] == 'lambda' else 'lambda'}"),
        ("Stop", "make cloud-down"),
    ]
    return "\n".join(["", f"  Up after {seconds:.0f} s", *(f"  {n:<9}{v}" for n, v in lines), ""])


def _say(text: str) -> None:
    print(text, flush=True)


# The emulator ----------------------------------------------------------------------------------------


def start(state: Path, *, auth: bool = False) -> str:
    """Start the emulator in the background unless it runs; return its endpoint. `auth` enforces IAM."""
    running = running_endpoint(state)
    if running:
        return running
    state.mkdir(parents=True, exist_ok=True)
    command = [str(LOCAL_PYTHON), "-m", "localcloud.emulator", "--detached", "--state", str(state / "aws")]
    gateway = engine.gateway()
    if gateway:
        command += ["--also-bind", gateway]
    environ = emulator_environ(auth=auth) | {"LOCALCLOUD_RIE": str(runtime_interface_emulator(state))}
    with (state / "aws.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
    (state / "pid").write_text(str(process.pid))
    assert process.stdout is not None  # noqa: S101  # it is a pipe
    message: dict[str, Any] = json.loads(process.stdout.readline() or b"{}")
    process.stdout.close()
    process.returncode = 0  # or Popen warns that it still runs, which is the point
    if "port" not in message:
        raise CliError(message.get("error", f"the emulator did not start (log: {state / 'aws.log'})"))
    endpoint = f"http://127.0.0.1:{message['port']}"
    (state / "endpoint").write_text(endpoint)
    return endpoint


def running_endpoint(state: Path) -> str:
    """Return the endpoint of the emulator that `start` left running, or nothing."""
    try:
        endpoint = (state / "endpoint").read_text() if _pid(state) else ""
        with urllib.request.urlopen(f"{endpoint}/_ministack/health", timeout=5):  # noqa: S310  # ours
            return endpoint
    except (OSError, ValueError):
        return ""


def stop(state: Path) -> None:
    """End the emulator, remove its containers, its images and what was built for it, and delete `state`."""
    endpoint = (state / "endpoint").read_text() if (state / "endpoint").exists() else ""
    pid = _pid(state)
    if pid:
        _end(pid)
    if endpoint and engine.problem() == "":
        ours = engine.docker(
            "ps", "--all", "--quiet", "--filter", f"label=ministack.instance={_instance(endpoint)}"
        )
        if ours:
            engine.docker("rm", "--force", "--volumes", *ours)
        registry = f"reference={endpoint.removeprefix('http://')}/*"
        for shape in ("{{.Repository}}:{{.Tag}}", "{{.Repository}}@{{.Digest}}"):
            names = engine.docker("images", "--digests", "--filter", registry, "--format", shape)
            for name in (n for n in names if "<none>" not in n):
                engine.docker("rmi", name)
        _remove_build(endpoint)
    shutil.rmtree(state, ignore_errors=True)


def _remove_build(endpoint: str) -> None:
    ours = _images_of(_build_directory(endpoint))
    shutil.rmtree(_build_directory(endpoint), ignore_errors=True)
    for image in ours - _images_of(_BUILDS):  # `sam build` names them alike for everyone
        engine.docker("rmi", image)


def _build_directory(endpoint: str) -> Path:
    return _BUILDS / f"localcloud-{endpoint.rsplit(':', 1)[1]}"


def _images_of(directory: Path) -> set[str]:
    """Name the images of the built templates below `directory`."""
    texts = [path.read_text() for path in directory.rglob("template.yaml")]
    return {image for text in texts for image in re.findall(r"(?m)^\s+ImageUri: (\w+:orders)$", text)}


def _pid(state: Path) -> int:
    """Return the emulator's process id, or 0: the id on file may be another program's since a reboot."""
    try:
        pid = int((state / "pid").read_text())
    except (OSError, ValueError):
        return 0
    shown = subprocess.run(["ps", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return pid if "localcloud.emulator" in shown.stdout else 0


def _end(pid: int) -> None:
    for number, seconds in ((signal.SIGTERM, 60), (signal.SIGKILL, 10)):
        deadline = time.monotonic() + seconds
        while _lives(pid) and time.monotonic() < deadline:
            os.kill(pid, number)
            time.sleep(0.2)


def _lives(pid: int) -> bool:
    with contextlib.suppress(ChildProcessError):  # another command started it
        os.waitpid(pid, os.WNOHANG)  # a dead child of ours stays until somebody asks
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def containers(endpoint: str) -> list[str]:
    """Name the containers that the emulator at `endpoint` has: functions and tasks."""
    owner = f"label=ministack.instance={_instance(endpoint)}"
    return engine.docker("ps", "--filter", owner, "--format", "{{.Names}} {{.Image}} {{.Status}}")


def _instance(endpoint: str) -> str:
    return f"{platform.node()}:{endpoint.rsplit(':', 1)[1]}"


# Deployment ------------------------------------------------------------------------------------------


def deploy(
    endpoint: str,
    stack: str,
    *,
    runtime: str,
    parameters: Mapping[str, str] | None = None,
    build: bool = True,
    template: Path = ROOT / "template.yaml",
    image: str = "",
    echo: bool = False,
) -> dict[str, str]:
    """Run `sam build` and `sam deploy` against the emulator and return the stack's outputs.

    `image` deploys that local image in place of the one that was built. `echo` shows what SAM prints;
    otherwise it is shown only when it fails. Raises CliError.
    """
    environ = _environ(endpoint)
    values = {"Runtime": runtime, "Architecture": engine.architecture(), **(parameters or {})}
    overrides = ["--parameter-overrides", *(f"{name}={value}" for name, value in values.items())]
    built = _build_directory(endpoint) / stack
    if build:
        arguments = ["--template", str(template), "--build-dir", str(built), "--cached", "--parallel"]
        _sam(["build", *arguments, *overrides], environ, echo)
    packaged = built / "template.yaml"
    if image:
        packaged = shutil.copytree(built, built.with_name(f"{stack}-other-image")) / "template.yaml"
        for path in packaged.parent.rglob("template.yaml"):
            path.write_text(re.sub(r"(?m)^(\s+ImageUri:) \w+:orders$", rf"\1 {image}", path.read_text()))
    _make_repository(endpoint)
    _sam(
        [
            "deploy",
            *("--template-file", str(packaged), "--stack-name", stack),
            *("--image-repository", f"{endpoint.removeprefix('http://')}/{_REPOSITORY}", "--resolve-s3"),
            *("--capabilities", *_CAPABILITIES),
            *("--no-confirm-changeset", "--no-fail-on-empty-changeset", "--no-progressbar"),
            *overrides,
        ],
        environ,
        echo,
    )
    found = describe(endpoint, stack)
    if found is None:
        raise CliError(f"the stack {stack} is not there after sam deploy")
    return stack_outputs(found)


def sync(endpoint: str, stack: str) -> None:
    """Run `sam sync --code`, as it brings new code to the functions of a deployed stack. Raises CliError."""
    arguments = ["sync", "--code", "--stack-name", stack, "--no-dependency-layer"]
    arguments += ["--image-repository", f"{endpoint.removeprefix('http://')}/{_REPOSITORY}"]
    arguments += ["--capabilities", *_CAPABILITIES]
    arguments += ["--parameter-overrides", f"Architecture={engine.architecture()}"]
    _sam(arguments, _environ(endpoint), echo=False, answer="y\n")  # is it a stack for development?


def _environ(endpoint: str) -> dict[str, str]:
    environ = {**os.environ, **aws_environ(endpoint), "DOCKER_BUILDKIT": "0", "SAM_CLI_TELEMETRY": "0"}
    environ.pop("AWS_PROFILE", None)
    return environ


def _sam(arguments: Sequence[str], environ: Mapping[str, str], echo: bool, answer: str = "") -> None:
    sam = _TOOLS / "bin" / "sam"
    if not sam.exists():
        raise CliError(".venv-tools is missing: `make setup` makes it")
    # An environment of samconfig.toml that is not there: its settings are for AWS.
    command = [str(sam), *arguments, "--config-env", "localcloud", "--region", "us-east-1"]
    shown = {} if echo else {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    done = subprocess.run(command, cwd=ROOT, env=environ, input=answer.encode(), check=False, **shown)
    if done.returncode:
        shown = "" if echo else "\n" + done.stdout.decode(errors="replace")[-4000:]
        raise CliError(f"sam {arguments[0]} failed{shown or '; its error stands above'}")


def client(endpoint: str, service: str) -> Any:
    """Return an SDK client for the emulator."""
    import boto3

    sdk: Any = boto3  # whose stubs want the service's name as a literal
    environ = aws_environ(endpoint)
    return sdk.client(
        service,
        endpoint_url=endpoint,
        region_name=environ["AWS_REGION"],
        aws_access_key_id=environ["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environ["AWS_SECRET_ACCESS_KEY"],
    )


def _make_repository(endpoint: str) -> None:
    registry = client(endpoint, "ecr")
    try:
        registry.create_repository(repositoryName=_REPOSITORY)
    except registry.exceptions.RepositoryAlreadyExistsException:
        return


def describe(endpoint: str, stack: str) -> dict[str, Any] | None:
    """Return the stack as CloudFormation describes it, or None when there is none."""
    from botocore.exceptions import ClientError

    try:
        found: list[dict[str, Any]] = client(endpoint, "cloudformation").describe_stacks(StackName=stack)[
            "Stacks"
        ]
    except ClientError:
        return None
    return found[0] if found else None


def stack_outputs(stack: Mapping[str, Any]) -> dict[str, str]:
    """Return the outputs of a described stack by name."""
    return {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}


def create_stack(endpoint: str, stack: str, template: Path, parameters: Mapping[str, str]) -> dict[str, str]:
    """Create the stack of a template that needs no packaging; return its outputs. Raises `WaiterError`."""
    formation = client(endpoint, "cloudformation")
    formation.create_stack(
        StackName=stack,
        TemplateBody=template.read_text(),
        Capabilities=["CAPABILITY_IAM"],
        Parameters=[{"ParameterKey": k, "ParameterValue": v} for k, v in parameters.items()],
    )
    patience = {"Delay": 1, "MaxAttempts": 60}
    formation.get_waiter("stack_create_complete").wait(StackName=stack, WaiterConfig=patience)
    return stack_outputs(formation.describe_stacks(StackName=stack)["Stacks"][0])


# The container engine --------------------------------------------------------------------------------


def _require_engine() -> None:
    problem = engine.problem()
    if problem:
        raise CliError(problem)


def runtime_interface_emulator(directory: Path) -> Path:
    """Copy AWS's runtime interface emulator out of the SAM CLI package, made executable."""
    rapid = f"lib/python3*/site-packages/samcli/local/rapid/aws-lambda-rie-{engine.architecture()}"
    found = list(_TOOLS.glob(rapid))
    if not found:
        raise CliError(".venv-tools has no runtime interface emulator: `make setup` makes it")
    copy = directory / "aws-lambda-rie"
    shutil.copy(found[0], copy)
    copy.chmod(0o755)
    return copy.resolve()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
