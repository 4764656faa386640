"""The throw-away stage: its commands on a copy of the sources, its stacks, its API."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from localcloud.engine import architecture
from scripts.cli import CliError
from scripts.delivery.artifact import ROOT, sources
from scripts.delivery.stacks import SERVICE, Stacks
from scripts.first_hour.left import Left, Leftovers
from scripts.stack import Stack

STAGE = "testaws"  # whatever begins with "test" is a stage for a while
NAME = f"{SERVICE}-{STAGE}"
BOOTSTRAP = f"{SERVICE}-bootstrap-{STAGE}"
# One task is enough, its processor this machine's own, so that no image is built by emulation.
PARAMETERS = ("FargateMinTasks=1", "LogRetentionDays=1", f"Architecture={architecture()}")
_COPIED = (*sources(), "bootstrap", "console", "edge", "waf", "scripts", "samconfig.toml", "pyproject.toml")
# What Terraform's users set, and what a workflow does: this run has a bootstrap of its own.
_UNSET = (
    *("ARTIFACT_BUCKET", "HISTORY_BUCKET", "IMAGE_REPOSITORY", "EXECUTION_ROLE", "PERMISSIONS_BOUNDARY"),
    *("ATTESTED_BY", "GITHUB_OUTPUT", "SMOKE_TOKEN"),
)
_COMMAND_SECONDS = 4500


@dataclass(frozen=True)
class Target:
    """The account, by a session of the SDK; `local` if another than AWS answers."""

    session: Any
    account: str
    region: str
    endpoint: str
    local: bool

    def client(self, service: str, region: str | None = None) -> Any:
        return self.session.client(service, region_name=region)

    def __str__(self) -> str:
        return f"the emulator at {self.endpoint}" if self.local else f"account {self.account}, {self.region}"


class Stage:
    """The throw-away stage: its commands, its stacks, its API. `facts` outlive an interrupted run."""

    def __init__(
        self,
        target: Target,
        facts: dict[str, str],
        folder: Path,
        log: Path,
        say: Callable[[str], None],
        poll: float = 2.0,
    ) -> None:
        self.target, self.facts, self.sources = target, facts, folder / "sources"
        self._log, self.say, self._poll = log, say, poll
        self.leftovers = Leftovers(target.client, SERVICE, STAGE, target.region)

    # Commands

    def copy_sources(self) -> None:
        """Copy what the commands need, unless it was."""
        if self.sources.exists():
            return
        new = self.sources.with_suffix(".new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        for name in _COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, new / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, new / name)
        (new / ".venv-tools").symlink_to(ROOT / ".venv-tools")
        new.rename(self.sources)

    def delivery(self, command: str, *words: str) -> str:
        return self.run("-m", "scripts.delivery", command, "--stage", STAGE, *words)

    def deploy(self, artifact: str, *parameters: str) -> str:
        given = " ".join((*PARAMETERS, *parameters))
        return self.delivery("deploy", "--artifact", artifact, "--parameters", given)

    def smoke(self) -> None:
        self.run("-m", "scripts.smoke", self.url, "--access", "open")

    def run(self, *words: str) -> str:
        """Run a program of the project; return what it said. Raises CliError with its error."""
        status, said = self._run(words)
        if status:
            raise CliError(f"{' '.join(words[:3])}: {_error(said)}")
        return said

    def fail(self, *words: str) -> str:
        """Run a program that must fail; return its error. Raises CliError if it does not."""
        status, said = self._run(words)
        if status != 1:
            raise CliError(f"{' '.join(words[:3])}: must fail, and ended with {status}")
        return _error(said)

    def _run(self, words: tuple[str, ...]) -> tuple[int, str]:
        command = [sys.executable, *words]
        region = {"AWS_REGION": self.target.region, "AWS_DEFAULT_REGION": self.target.region}
        environ = {name: value for name, value in os.environ.items() if name not in _UNSET}
        environ |= {"PYTHONPATH": f"{self.sources}:{self.sources / 'src'}", "PYTHONUNBUFFERED": "1", **region}
        lines: list[str] = []
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with (
            self._log.open("a") as log,
            subprocess.Popen(
                *(command,), cwd=self.sources, env=environ, text=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            ) as process,
        ):  # fmt: skip
            clock = threading.Timer(_COMMAND_SECONDS, process.kill)
            clock.start()
            try:
                log.write(f"$ {' '.join(words)}\n")
                for line in process.stdout or ():
                    lines.append(line)
                    log.write(line)
                    self.say(f"    {line.rstrip()}")
            except BaseException:
                process.terminate()
                raise
            finally:
                clock.cancel()
        return process.returncode, "".join(lines)

    # What is there

    def client(self, service: str, region: str | None = None) -> Any:
        return self.target.client(service, region)

    def stack(self, name: str, region: str | None = None) -> Stack:
        return Stacks(self.target.session, {}, self._poll).stack(name, region)

    def stacks(self) -> list[Left]:
        """Return the stacks of the stage; of nested ones nothing."""
        found = self.leftovers.found("stack")
        return [each for each in found if not re.search(r"-(Fargate|Monitoring|Network)Stack-", each.name)]

    @property
    def outputs(self) -> dict[str, str]:
        return self.stack(NAME).outputs()

    @property
    def url(self) -> str:
        return self.outputs["ApiUrl"]

    def api(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60)

    def edge(self) -> httpx.Client:
        """Call the CDN; on the emulator, which has no DNS and no TLS, as the owner of its name would."""
        made = self.stack(f"{NAME}-edge").outputs()
        if not self.target.local:
            return httpx.Client(base_url=made["EdgeUrl"], timeout=60)
        headers = {"host": made["DistributionDomain"], "x-forwarded-proto": "https"}
        return httpx.Client(base_url=self.target.endpoint, headers=headers, timeout=60)

    def front(self) -> httpx.Client:
        """Call the API where it answers: at the CDN, once the origins answer nobody else."""
        return self.edge() if self.stack(NAME).parameters().get("OriginSecretArn") else self.api()

    def version(self) -> str:
        with self.api() as api:
            return str(api.get("/").json()["version"])

    def kinds(self, what: str) -> list[str]:
        return [left.name for left in self.leftovers.found(what)]


def _error(said: str) -> str:
    lines = [line for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("error:", "make "))]
    return (errors or lines or ["it said nothing"])[-1].removeprefix("error: ")


def expect(condition: Any, what: str) -> None:
    if not condition:
        raise CliError(what)


def until(seconds: float, look: Callable[[], Any], what: str) -> Any:
    """Return what `look` finds; names that spread answer nobody at first. Raises CliError."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            found, why = look(), ""
        except httpx.TransportError as error:
            found, why = None, f" ({error})"
        if found:
            return found
        if time.monotonic() > deadline:
            raise CliError(f"{what}: not within {seconds:.0f} s{why}")
        time.sleep(0.5)
