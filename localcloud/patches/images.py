"""ECR, and functions built from an image: with Docker, and without it."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import os
import shlex
import zipfile
from pathlib import Path
from typing import Any

from ministack.core import lambda_runtime
from ministack.services import ecr, lambda_svc

from localcloud.patches import patch
from localcloud.patches.tools import PORT, Properties, replace, result

_RIE = "/usr/local/bin/aws-lambda-rie"


@patch
def registry_addresses() -> None:
    """AWS does: let docker log in and push to the URI of the repository. https://docs.aws.amazon.com/AmazonECR/latest/userguide/docker-push-ecr-image.html
    The emulator does: give AWS's own host name, where docker finds no such registry.
    Reported as: https://github.com/ministackorg/ministack/issues/454, which says that this is intended.
    """
    here = f"127.0.0.1:{PORT}"  # dockerd takes plain HTTP from loopback, and nowhere else
    ecr._repo_uri = lambda name: f"{here}/{name}"

    @replace(ecr, "_get_authorization_token")
    def get_authorization_token(original: Any, data: Any) -> Any:
        status, headers, body = original(data)
        response = json.loads(body)
        for entry in response["authorizationData"]:
            entry["proxyEndpoint"] = f"http://{here}"
        return status, headers, json.dumps(response).encode()


@patch
def image_digests() -> None:
    """AWS does: return in `ResolvedImageUri` the digest that a version runs. https://docs.aws.amazon.com/lambda/latest/api/API_FunctionCodeLocation.html
    The emulator does: return the URI with its tag.
    Reported as: not reported.
    """

    @replace(lambda_svc, "_get_function")
    def get_function(original: Any, name: str, qualifier: str | None = None) -> Any:
        status, headers, body = original(name, qualifier)
        if status == 200:
            response = json.loads(body)
            uri = response.get("Code", {}).get("ImageUri")
            if uri and "@" not in uri:
                response["Code"]["ResolvedImageUri"] = _with_digest(uri)
                body = json.dumps(response).encode()
        return status, headers, body


def _with_digest(uri: str) -> str:
    repository, _, tag = uri.rpartition(":")
    request = {"repositoryName": repository.partition("/")[2], "imageIds": [{"imageTag": tag}]}
    try:
        digest = result(ecr._describe_images(request))["imageDetails"][0]["imageDigest"]
    except (ValueError, KeyError, IndexError):
        # Not in the registry: a run without Docker, which has the source and no image.
        digest = f"sha256:{hashlib.sha256(uri.encode()).hexdigest()}"
    return f"{repository}@{digest}"


@patch
def functions_without_docker() -> None:
    """AWS does: run the image by its EntryPoint and Command, with the function's environment and role. https://docs.aws.amazon.com/lambda/latest/dg/images-create.html
    The emulator does: need Docker for it.
    Reported as: not reported.
    Here --source runs the command from there, and again when a file changes.
    """
    source, python = os.environ["LOCALCLOUD_SOURCE"], os.environ["LOCALCLOUD_PYTHON"]
    if not source:
        return
    newest = _newest(source)

    @replace(lambda_svc, "_execute_function_dispatch")
    def dispatch(
        original: Any, function: Any, config: Properties, event: Any, request_id: str, started: float
    ) -> Any:
        nonlocal newest
        if config.get("PackageType") != "Image":
            return original(function, config, event, request_id, started)
        if newest != (newest := _newest(source)):
            lambda_runtime.reset()
        config = {**config, "Runtime": "provided.al2023"}
        record = {**function, "config": config, "code_zip": _bootstrap(config, source, python)}
        return lambda_svc._execute_function_provided_warm(record, event, request_id)


def _bootstrap(config: Properties, source: str, python: str) -> bytes:
    """Return the archive of a custom runtime that runs the image's command."""
    image = (config.get("ImageConfigResponse") or {}).get("ImageConfig") or config.get("ImageConfig") or {}
    command = shlex.join([*(image.get("EntryPoint") or []), *(image.get("Command") or [])])
    path = f"{os.path.dirname(python)}:{os.environ.get('PATH', '')}"
    script = f"#!/bin/sh\nexport PYTHONPATH={shlex.quote(source)} PATH={shlex.quote(path)}\nexec {command}\n"
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(zipfile.ZipInfo("bootstrap", (2020, 1, 1, 0, 0, 0)), script)
    return archive.getvalue()


def _newest(directory: str) -> float:
    return max((file.stat().st_mtime for file in Path(directory).rglob("*.py")), default=0.0)


@patch
def functions_with_docker() -> None:
    """AWS does: give every image its runtime API, so the image needs nothing of that. https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
    The emulator does: expect the runtime interface emulator in the image.
    Reported as: not reported.
    Here LOCALCLOUD_RIE names it, and it is mounted.
    """
    rie = os.environ.get("LOCALCLOUD_RIE")
    if not rie:
        return
    lambda_svc.LAMBDA_DOCKER_FLAGS = f"-v {rie}:{_RIE}:ro {lambda_svc.LAMBDA_DOCKER_FLAGS}".strip()

    @replace(lambda_svc, "_spawn_lambda_container")
    def spawn(original: Any, config: Properties, *args: Any, **kwargs: Any) -> Any:
        config = copy.deepcopy(config)
        for holder in (config, config.get("ImageConfigResponse") or {}):
            image = holder.get("ImageConfig")
            if image and image.get("EntryPoint") and image["EntryPoint"][0] != _RIE:
                image["EntryPoint"] = [_RIE, *image["EntryPoint"]]
        return original(config, *args, **kwargs)
