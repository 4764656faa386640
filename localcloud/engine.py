"""The container engine: is it there, and by which address does a container reach this machine?"""

from __future__ import annotations

import ipaddress
import json
import platform
import socket
import subprocess


def problem() -> str:
    """Return why no container engine can be used, or nothing."""
    try:
        found = subprocess.run(["docker", "version"], capture_output=True, timeout=20, check=False)
    except FileNotFoundError:
        return "Docker is needed and there is no `docker` command; `make run` needs none"
    except subprocess.TimeoutExpired:
        return "the container engine does not answer"
    return "" if found.returncode == 0 else "no container engine runs: start Docker and try again"


def docker(*arguments: str, seconds: float = 60) -> list[str]:
    """Run a docker command and return the lines it prints; none when it fails."""
    command = ["docker", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    return done.stdout.split("\n")[:-1] if done.returncode == 0 else []


def architecture() -> str:
    """Return this machine's processor as the parameter Architecture of template.yaml names it."""
    return "arm64" if platform.machine() in ("arm64", "aarch64") else "x86_64"


def gateway() -> str:
    """Return this machine's address on the engine's network, when it has one (Linux).

    Containers and programs outside reach it alike, so that presigned addresses work for both. Elsewhere
    containers come by host.docker.internal to loopback.
    """
    for network in docker("network", "inspect", "bridge", "--format", "{{json .IPAM.Config}}"):
        for config in json.loads(network) or []:
            address = config.get("Gateway") or str(next(ipaddress.ip_network(config["Subnet"]).hosts()))
            with socket.socket() as probe:
                try:
                    probe.bind((address, 0))
                except OSError:
                    continue
            return str(address)
    return ""
