"""`make local RUNTIME=lambda|fargate`: the built image in a container, against the local AWS emulator.

lambda: `sam local start-api` under AWS's emulator of the Lambda runtime. fargate: the image's default
command, held to what the task definition allows. The rest (table, bus, queues, their functions) is
`make run`'s. Nothing is kept: every start is a fresh one.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from scripts.cli import CliError

from localcloud.engine import architecture, docker, gateway, problem
from localcloud.running import ROOT, Emulator, running_emulator, wait_until_healthy

BUILD = ROOT / ".aws-sam" / "local"
IMAGE = "orders-local:latest"
_SAM = ROOT / ".venv-tools" / "bin" / "sam"
_ARCHITECTURE = ["--parameter-overrides", f"Architecture={architecture()}"]
# What fargate/template.yaml grants the task.
TASK_LIMITS = [
    *("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
    *("--init", "--memory", "512m", "--cpus", "1", "--stop-timeout", "30"),
]


def main(runtime: str) -> int:
    """Serve until Ctrl-C."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    entry_points: dict[str, Callable[[Emulator, int], contextlib.AbstractContextManager[str]]]
    entry_points = {"lambda": lambda_api, "fargate": fargate_api}
    try:
        if runtime not in entry_points:
            raise CliError("RUNTIME must be lambda or fargate: make local RUNTIME=fargate")
        if reason := problem():
            raise CliError(reason)
        print("Starting the local AWS emulator, building the image ...", flush=True)
        with (
            running_emulator(also_bind=gateway()) as aws,
            entry_points[runtime](aws, int(os.environ["PORT"])) as url,
        ):
            wait_until_healthy(url)
            print(
                f"\n  API       {url}\n  Runtime   {runtime}, in a container\n  Stop      Ctrl-C\n",
                flush=True,
            )
            signal.pause()
    except KeyboardInterrupt:
        print("\nStopped.")
    except CliError as error:
        print(f"make local: {error}", file=sys.stderr)
        return 1
    return 0


def container_environ(aws: Emulator, runtime: str) -> dict[str, str]:
    """Return what makes the image in a container use the emulator."""
    host = gateway() or "host.docker.internal"
    reachable = {"AWS_ENDPOINT_URL": f"http://{host}:{aws.port}", "APP_RUNTIME": runtime}
    files = ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE")
    return {name: value for name, value in aws.environ.items() if name not in files} | reachable


def build_image(tag: str = IMAGE, *arguments: str) -> str:
    """Build the image as SAM does, by the classic builder, and return its id."""
    command = ["docker", "build", "--quiet", "--tag", tag, *arguments, str(ROOT)]
    environ = {**os.environ, "DOCKER_BUILDKIT": "0"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise CliError(f"the image does not build:\n{done.stdout[-1000:]}{done.stderr[-3000:]}")
    return done.stdout.strip()


@contextlib.contextmanager
def fargate_api(aws: Emulator, port: int) -> Iterator[str]:
    """Run the image's default command in a container on `port` of loopback (0: any)."""
    variables = [f"--env={k}={v}" for k, v in container_environ(aws, "fargate").items()]
    published = [f"--publish=127.0.0.1:{port}:8080", *variables]
    with container(build_image(), [*TASK_LIMITS, *published]) as name:
        yield address(name)


@contextlib.contextmanager
def container(image: str, options: list[str], *command: str) -> Iterator[str]:
    """Run a container and remove it at the end; its id is yielded."""
    started = docker("run", "--detach", *options, image, *command)
    if not started:
        raise CliError("the container does not start; is the port free?")
    try:
        yield started[0]
    finally:
        docker("rm", "--force", "--volumes", started[0])


def address(name: str) -> str:
    """Return where a container's published port 8080 answers."""
    return f"http://{docker('port', name, '8080')[0]}"


@contextlib.contextmanager
def lambda_api(aws: Emulator, port: int) -> Iterator[str]:
    """Run `sam local start-api` on `port` of loopback."""
    template = sam_build(container_environ(aws, "lambda")["AWS_ENDPOINT_URL"])
    arguments = [
        "start-api",
        *sam_arguments(aws, template),
        "--port",
        str(port),
        "--warm-containers",
        "EAGER",
    ]
    log = BUILD / "start-api.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(_SAM), "local", *arguments],
            cwd=ROOT,
            env=sam_environ(aws),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is for us; we stop it
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        # On SIGINT it removes its containers, unless it was started with that ignored, as in the background.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
        _remove_forgotten(aws)


def _remove_forgotten(aws: Emulator) -> None:
    """Remove the functions that SAM CLI left: it starts them all at once, and loses some from its list."""
    endpoint = container_environ(aws, "lambda")["AWS_ENDPOINT_URL"]
    for name in docker("ps", "--quiet", "--filter", "label=sam.cli.container.type=lambda"):
        if endpoint in "".join(docker("inspect", "--format", "{{json .Config.Env}}", name)):
            docker("rm", "--force", "--volumes", name)


def sam_build(endpoint: str) -> Path:
    """Run `sam build`, and return its template; add the one variable that only a local AWS emulator needs."""
    command = [str(_SAM), "build", "--build-dir", str(BUILD), "--cache-dir", str(BUILD.parent / "cache")]
    command += _ARCHITECTURE
    environ = {**os.environ, "SAM_CLI_TELEMETRY": "0", "AWS_DEFAULT_REGION": "us-east-1"}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CliError(f"sam build failed:\n{done.stderr[-3000:]}")
    # `sam local` hands over only variables that the template declares; one function declares none.
    variable = f"AWS_ENDPOINT_URL: {endpoint}"
    for template in BUILD.glob("*/template.yaml"):
        text, found = re.subn(r"(?m)^( +)(APP_SETTINGS:)", rf"\1{variable}\n\1\2", template.read_text())
        if not found:
            alone = rf"\1Environment: {{ Variables: {{ {variable} }} }}\n\1\2"
            text = re.sub(r"(?m)^( +)(PackageType: Image)$", alone, text)
        template.write_text(text)
    return BUILD / "template.yaml"


def sam_environ(aws: Emulator) -> Mapping[str, str]:
    """Return the environment of the `sam local` commands."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "SAM_"))}
    keys = {k: v for k, v in aws.environ.items() if k.startswith("AWS_") and k != "AWS_ENDPOINT_URL"}
    return environ | keys | {"SAM_CLI_TELEMETRY": "0"}


def sam_arguments(aws: Emulator, template: Path) -> list[str]:
    """Return what every `sam local` command needs to use the local AWS emulator."""
    values = {k: v for k, v in container_environ(aws, "lambda").items() if k.startswith("APP_")}
    values["APP_ORIGIN_SECRETS"] = ""
    variables = BUILD / "variables.json"
    variables.write_text(json.dumps({"Parameters": values}))
    arguments = ["--template", str(template), "--env-vars", str(variables), "--region", "us-east-1"]
    arguments += ["--skip-pull-image", *_ARCHITECTURE]
    return arguments if gateway() else [*arguments, "--add-host", "host.docker.internal:host-gateway"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
