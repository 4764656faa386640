"""What `make cloud-up` and its companions say when they cannot work. The deployments are in tests/cloud."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from localcloud import cloud, engine
from localcloud.running import ROOT


def _cloud(state: Path, *arguments: str, **environ: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "localcloud.cloud", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "LOCALCLOUD_STATE": str(state), **environ},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout + done.stderr


def test_no_docker_command_is_one_clear_line(tmp_path: Path) -> None:
    code, said = _cloud(tmp_path, "up", "lambda", PATH="/nowhere")
    assert (code, said) == (
        1,
        "make cloud: Docker is needed and there is no `docker` command; `make run` needs none\n",
    )


def test_no_engine_is_one_clear_line(tmp_path: Path) -> None:
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\nexit 1\n")
    docker.chmod(0o755)
    code, said = _cloud(tmp_path, "up", "lambda", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert (code, said) == (1, "make cloud: no container engine runs: start Docker and try again\n")


def test_unknown_runtime_is_one_clear_line(tmp_path: Path) -> None:
    code, said = _cloud(tmp_path, "up", "")
    assert code == 1
    assert said.count("\n") == 1
    assert "RUNTIME=fargate" in said


def test_status_and_down_with_nothing_up(tmp_path: Path) -> None:
    assert _cloud(tmp_path, "status")[0] == 0
    assert _cloud(tmp_path, "down") == (0, "Nothing is up.\n")


def test_down_removes_its_build_and_spares_an_image_that_another_build_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def built(name: str, *images: str) -> Path:
        template = tmp_path / "builds" / name / "template.yaml"
        template.parent.mkdir(parents=True)
        template.write_text("".join(f"      ImageUri: {image}\n" for image in images))
        return template

    ours = built("localcloud-4566/orders", "relayfunction:orders", "apifunction:orders")
    others = built("build", "apifunction:orders")
    (tmp_path / "cloud").mkdir()
    (tmp_path / "cloud/endpoint").write_text("http://127.0.0.1:4566")
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(cloud, "_BUILDS", tmp_path / "builds")
    monkeypatch.setattr(engine, "problem", str)
    monkeypatch.setattr(engine, "docker", lambda *words: calls.append(words) or [])
    cloud.stop(tmp_path / "cloud")
    assert [words for words in calls if words[0] == "rmi"] == [("rmi", "relayfunction:orders")]
    assert not ours.parent.parent.exists()
    assert others.exists()


def test_down_spares_a_stranger_with_the_emulators_old_process_id(tmp_path: Path) -> None:
    state = tmp_path / "cloud"
    state.mkdir()
    (state / "pid").write_text(str(os.getpid()))
    assert _cloud(tmp_path, "down")[0] == 0  # and this process goes on
    assert not state.exists()
