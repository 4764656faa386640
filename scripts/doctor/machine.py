"""What this machine has: bare Python 3.9 or newer runs it, before anything is installed."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from scripts.doctor import FIX, NOTE, OK, UNKNOWN, Row, default_of

OLDEST_PYTHON, NEWEST_PYTHON = (3, 11), (3, 14)
OLDEST_NODE = (18,)  # what Debian 12 has, and the rules of `make check` were tried on
_COMMAND_SECONDS = 15
# Below the first a build is at risk: the image alone has 251 MB (bench/results/results.md), and its base, the
# build cache and the environments come on top. Below the second it cannot end well.
_ROOMY_GB, _LEAST_GB = 5, 1
# The first version of GNU Make that heeds .SHELLFLAGS, without which a fault inside a pipe goes unnoticed.
# https://git.savannah.gnu.org/cgit/make.git/tree/NEWS ("New special variable: .SHELLFLAGS", 3.82)
_MAKE_WITH_SHELLFLAGS = (3, 82)
# Version 1 has no `aws configure sso`. https://docs.aws.amazon.com/cli/latest/userguide/cliv2-migration-changes.html
_AWS_CLI_WITH_SSO = (2,)
# https://github.blog/changelog/2026-04-23-immutable-subject-claims-for-github-actions-oidc-tokens/
_IMMUTABLE_SINCE = "2026-07-15"


class Machine:
    """The machine as `environ` (its PATH above all) shows it to the repository at `root`."""

    def __init__(
        self,
        environ: Mapping[str, str],
        root: Path,
        python: tuple[int, ...] = tuple(sys.version_info[:3]),
        platform: str = sys.platform,
    ) -> None:
        self._environ, self._root, self._python, self._platform = environ, root, python, platform

    def rows(self) -> list[Row]:
        """Return a row for each tool and each port; they are asked at the same time."""
        checks = [self.python, self.make, self.engine, self.sam, self.aws, self.node, self.git]
        checks += [self.port, self.github]
        with ThreadPoolExecutor(len(checks)) as pool:
            return [row for rows in pool.map(lambda check: check(), checks) for row in rows]

    def python(self) -> list[Row]:
        version = ".".join(str(part) for part in self._python)
        if self._python < OLDEST_PYTHON:
            newer = next((name for name in _pythons() if self._says(name, "--version") is not None), "")
            fix = f"make doctor PYTHON={newer}" if newer else self._install("python3")
            return [Row(FIX, "Python", f"{version}; 3.11 or newer is needed", fix)]
        if not importlib.util.find_spec("ensurepip"):
            return [Row(FIX, "Python", f"{version} lacks the module venv", self._install("python3-venv"))]
        return [Row(OK, "Python", version)]

    def make(self) -> list[Row]:
        text = self._says("make", "--version")
        if text is None:
            fix = "xcode-select --install" if self._platform == "darwin" else self._install("make")
            return [Row(FIX, "make", "not on the PATH", fix)]
        if "GNU Make" not in text:
            return [Row(FIX, "make", "not GNU Make", self._install("make"))]
        version = _version(text)
        if version and _numbers(version) < _MAKE_WITH_SHELLFLAGS:
            found = f"{version} ignores .SHELLFLAGS: a fault inside a pipe goes unnoticed. Then use gmake"
            return [Row(NOTE, "make", found, self._install("make"))]
        return [Row(OK, "make", version)]

    def engine(self) -> list[Row]:
        """Return whether the container engine answers, and what it has."""
        what = "container engine"
        if not self._which("docker"):
            mac = self._platform == "darwin"
            fix = "brew install --cask docker-desktop" if mac else self._install("docker.io", dnf="docker")
            return [Row(FIX, what, "no `docker` on the PATH", fix)]
        # https://docs.docker.com/reference/cli/docker/system/info/
        code, out, problem = self._run("docker", "info", "--format", "{{json .}}")
        info = _json(out)
        if code != 0 or info.get("ServerErrors") or not info:
            problem = " ".join([*info.get("ServerErrors", []), problem]).strip() or "no answer"
            return [Row(FIX, what, f"docker does not answer: {_first_line(problem)}", self._wake(problem))]
        version = info.get("ServerVersion", "")
        processor = {"aarch64": "arm64", "amd64": "x86_64"}.get(found := info.get("Architecture", ""), found)
        text = f"docker {version}, {processor}".rstrip(", ")
        built_for = default_of(self._text("template.yaml"), "Architecture")
        if processor in ("arm64", "x86_64") and processor != built_for:
            text += f"; the stage is {built_for}, so its image is built by emulation, slowly"
            rows = [Row(NOTE, what, text, f'make deploy PARAMETERS="Architecture={processor}"')]
        else:
            rows = [Row(OK, what, text)]
        return [*rows, self._disk(info.get("DockerRootDir", ""))]

    def _disk(self, engine_root: str) -> Row:
        # An engine in a virtual machine keeps its files where we cannot look.
        place = engine_root if os.path.isdir(engine_root) else str(self._root)
        free = shutil.disk_usage(place).free / 1e9
        state = OK if free >= _ROOMY_GB else NOTE if free >= _LEAST_GB else FIX
        fix = "" if state == OK else "docker system prune --all"
        return Row(state, "disk", f"{free:.0f} GB free at {place}", fix)

    def _wake(self, problem: str) -> str:
        if "permission denied" in problem.lower():
            return 'sudo usermod -aG docker "$USER" && newgrp docker'
        return "open -a Docker" if self._platform == "darwin" else "sudo systemctl start docker"

    def sam(self) -> list[Row]:
        """Return which SAM CLI there is. `make deploy` uses the pinned one, `sam deploy` the PATH's."""
        what = "SAM CLI"
        pinned = re.search(r"^aws-sam-cli==(\S+)", self._text("requirements-tools.txt"), re.MULTILINE)
        tested = pinned[1] if pinned else ""
        own = str(self._root / ".venv-tools" / "bin")
        take = f'export PATH="{own}:$PATH"'
        on_path = self._which("sam")
        version = _version(self._says(on_path, "--version") or "") if on_path else ""
        if version:
            if tested and _numbers(version) < _numbers(tested):
                found = f"{version}, older than {tested}, with which this is tested"
                return [Row(NOTE, what, found, f"make setup && {take}")]
            return [Row(OK, what, version)]
        if self._which(f"{own}/sam"):
            return [Row(NOTE, what, f"`make deploy` has its own ({tested}); `sam` is not on the PATH", take)]
        return [Row(FIX, what, "`sam` is not on the PATH, or does not start", f"make setup && {take}")]

    def aws(self) -> list[Row]:
        """Return whether there is an AWS CLI that signs in; most rows of the account are fixed by it."""
        what = "AWS CLI"
        version = _version(self._says("aws", "--version") or "")
        if version and _numbers(version) >= _AWS_CLI_WITH_SSO:
            return [Row(OK, what, version)]
        old = f"{version} cannot `aws configure sso`"
        # https://docs.aws.amazon.com/cli/latest/userguide/getting-started-install.html
        file = "awscli-exe-linux-$(uname -m).zip"
        fix = (
            f"curl -fsSO https://awscli.amazonaws.com/{file} && unzip -qo {file} && sudo aws/install --update"
        )
        if self._platform == "darwin":
            fix = "brew install awscli"
        found = old if version else "`aws` is not on the PATH; the commands for the account need it"
        return [Row(NOTE, what, found, fix)]

    def node(self) -> list[Row]:
        version = _version(self._says("node", "--version") or "")
        fix = self._install("nodejs npm", brew="node")
        if not version or not self._which("npm"):
            missing = "npm" if version else "node"
            return [Row(NOTE, "node", f"{missing} is not on the PATH; `make check` needs it", fix)]
        if _numbers(version) < OLDEST_NODE:
            return [Row(NOTE, "node", f"{version}; `make check` needs {OLDEST_NODE[0]} or newer", fix)]
        return [Row(OK, "node", version)]

    def git(self) -> list[Row]:
        version = _version(self._says("git", "--version") or "")
        if not version:
            return [
                Row(NOTE, "git", "not on the PATH; the tests and the pipeline need it", self._install("git"))
            ]
        return [Row(OK, "git", version)]

    def port(self) -> list[Row]:
        """Return whether `make run` gets its port."""
        text = self._environ.get("PORT") or "8000"
        what = "port"
        if not text.isdigit() or not 0 < int(text) < 65536:
            return [Row(NOTE, what, f"PORT={text} is none from 1 to 65535", "make run PORT=8000")]
        port = int(text)
        if _is_free(port):
            return [Row(OK, what, f"{port} is free for `make run`")]
        free = next(
            each % 65536
            for each in range(port + 1, port + 50000)
            if each % 65536 > 1023 and _is_free(each % 65536)
        )
        return [Row(NOTE, what, f"{port} is taken; `make run` needs one", f"make run PORT={free}")]

    def github(self) -> list[Row]:
        """Return the repository's ids, and which subject GitHub sends for its jobs."""
        what = "GitHub's subject"
        name = self._environ.get("GITHUB_REPOSITORY") or _repository(
            self._says("git", "-C", str(self._root), "remote", "get-url", "origin") or ""
        )
        if not name:
            found = "no remote `origin` on github.com; the pipeline needs one"
            return [Row(NOTE, what, found, "gh repo create --private --source . --push")]
        # https://docs.github.com/en/rest/actions/oidc
        ask = f"gh api repos/{name} --jq '\"OwnerId=\\(.owner.id) RepositoryId=\\(.id)\"'"
        repository = _json(self._run("gh", "api", f"repos/{name}")[1])
        if not repository.get("id"):
            reason = "GitHub did not say" if self._which("gh") else "there is no `gh`"
            return [Row(UNKNOWN, what, f"could not look at {name}: {reason}", ask)]
        owner, number = repository["owner"]["id"], repository["id"]
        ids = f"OwnerId={owner} RepositoryId={number}"
        form = _json(self._run("gh", "api", f"repos/{name}/actions/oidc/customization/sub")[1])
        if form.get("use_default") is False:
            found = f"{ids}; its subject is customized, and the roles trust GitHub's own forms only"
            fix = f"gh api -X PUT repos/{name}/actions/oidc/customization/sub -F use_default=true"
            return [Row(NOTE, what, found, fix)]
        immutable, sure = form.get("use_immutable_subject"), True
        if immutable is None:  # the right to read it is an administrator's
            immutable, sure = repository.get("created_at", "") >= _IMMUTABLE_SINCE, False
        own, short = name.split("/")
        subject = f"repo:{own}@{owner}/{short}@{number}:…" if immutable else f"repo:{name}:…"
        likely = "" if sure else " (by its age)"
        return [Row(OK, what, f"{subject}{likely}; bootstrap takes Repository={name} {ids}")]

    def _which(self, command: str) -> str | None:
        return shutil.which(command, path=self._environ.get("PATH", ""))

    def _says(self, *command: str) -> str | None:
        """Return what a command prints, or None if it is not there or fails."""
        code, out, _ = self._run(*command)
        return out if code == 0 else None

    def _run(self, *command: str) -> tuple[int, str, str]:
        found = self._which(command[0])
        if not found:
            return 127, "", "not on the PATH"
        try:
            done = subprocess.run(
                [found, *command[1:]],
                env={**self._environ, "SAM_CLI_TELEMETRY": "0"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                text=True,
                timeout=_COMMAND_SECONDS,
            )
        except subprocess.TimeoutExpired:
            return 124, "", f"no answer within {_COMMAND_SECONDS} s"
        except (OSError, UnicodeError) as error:
            return 126, "", str(error)
        return done.returncode, done.stdout, done.stderr

    def _install(self, package: str, brew: str = "", dnf: str = "") -> str:
        if self._platform == "darwin":
            return f"brew install {brew or package}"
        if self._which("apt-get"):
            return f"sudo apt-get install -y {package}"
        if self._which("dnf"):
            return f"sudo dnf install -y {dnf or package}"
        return f"install {package} with the package manager of your system"

    def _text(self, name: str) -> str:
        try:
            return (self._root / name).read_text(encoding="utf-8")
        except OSError:
            return ""


def _pythons() -> list[str]:
    return [f"python3.{minor}" for minor in range(NEWEST_PYTHON[1], OLDEST_PYTHON[1] - 1, -1)]


def _version(text: str) -> str:
    found = re.search(r"\d+(?:\.\d+)+", text)
    return found[0] if found else ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _json(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[0][:160]


def _repository(url: str) -> str:
    found = re.search(r"github\.com[:/]([\w.-]+/[\w.-]+?)(?:\.git)?/?$", url.strip())
    return found[1] if found else ""


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
