"""The packaged artefact: made once, kept under the hash of its sources, deployed anywhere as it is."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError
from scripts.delivery.decide import DeliveryError

ROOT = Path(__file__).resolve().parents[2]
SAM = ROOT / ".venv-tools" / "bin" / "sam"
# All that the image and the templates are made of; tests/delivery holds it against Dockerfile and templates.
SOURCES = (
    "template.yaml",
    "fargate",
    "monitoring",
    "Dockerfile",
    ".dockerignore",
    "requirements.txt",
    "src",
)
_LOCAL_IMAGE = re.compile(r"(?m)^( +ImageUri:) (\w+:\w+)$")  # as `sam build` leaves it
_BUILD_SECONDS = 1800


def source_key(root: Path = ROOT, architecture: str = "x86_64") -> str:
    """Return the hash of the sources: their names and contents, nothing of the machine or the time.

    The image is built for one architecture, so that is one of them.
    """
    digest = hashlib.sha256(architecture.encode())
    for path in _files(root):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:32]


def _files(root: Path) -> Iterator[Path]:
    for name in SOURCES:
        source = root / name
        found = sorted(source.rglob("*")) if source.is_dir() else [source]
        yield from (p for p in found if p.is_file() and "__pycache__" not in p.parts)


class Artifacts:
    """The artefacts in their bucket. `<prefix>/<key>/template.yaml` is written last: it marks a whole one."""

    def __init__(self, s3: Any, ecr: Any, bucket: str, repository: str, prefix: str = "artifacts") -> None:
        self._s3, self._ecr = s3, ecr
        self.bucket, self.repository, self.prefix = bucket, repository, prefix

    def template_key(self, key: str) -> str:
        return f"{self.prefix}/{key}/template.yaml"

    def template_url(self, key: str) -> str:
        return f"{self._s3.meta.endpoint_url}/{self.bucket}/{self.template_key(key)}"

    def template(self, key: str) -> str | None:
        """Return the packaged template, or None if there is no such artefact."""
        try:
            found = self._s3.get_object(Bucket=self.bucket, Key=self.template_key(key))
        except ClientError as error:
            if error.response["Error"]["Code"] in ("NoSuchKey", "404"):
                return None
            raise
        body: str = found["Body"].read().decode()
        return body

    def release(self, key: str) -> dict[str, Any]:
        """Return what the artefact is: its version and its images."""
        found = self._s3.get_object(Bucket=self.bucket, Key=f"{self.prefix}/{key}/release.json")
        release: dict[str, Any] = json.loads(found["Body"].read())
        return release

    def newest(self, sources: str) -> str | None:
        """Return the newest artefact of the sources: `<hash>`, or `<hash>-<time>` if it was forced."""
        pages = self._s3.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=f"{self.prefix}/{sources}"
        )
        names = [o["Key"] for page in pages for o in page.get("Contents", [])]
        return max((n.split("/")[1] for n in names if n.endswith("/template.yaml")), default=None)

    def package(
        self, version: str, say: Callable[[str], None], *, architecture: str, force: bool = False
    ) -> tuple[str, bool]:
        """Build and push what the sources make, unless that was done before; return the key and whether.

        With `force`, another artefact beside the one that is there: what runs, and what awaits its approval,
        stays as it is.
        """
        sources = source_key(architecture=architecture)
        known = self.newest(sources)
        if known and not force:
            say(f"artefact {known}: unchanged sources, nothing to build")
            return known, False
        key = f"{sources}-{datetime.now(UTC):%Y%m%dT%H%M%S}" if known else sources
        say(f"artefact {key}: building the image and packaging the templates")
        built, packaged = ROOT / ".aws-sam" / "build" / "template.yaml", ROOT / ".aws-sam" / "packaged.yaml"
        _sam("build", "--parameter-overrides", f"Architecture={architecture}")
        built.write_text(self._with_pushed_image(built.read_text(), key))
        _sam(
            *("package", "--s3-bucket", self.bucket, "--s3-prefix", f"{self.prefix}/{key}"),
            *("--image-repository", self.repository, "--output-template-file", str(packaged)),
        )
        self.keep(key, packaged.read_text(), version, architecture)
        say(f"artefact {key}: kept in s3://{self.bucket}/{self.prefix}/{key}/")
        return key, True

    def keep(self, key: str, packaged: str, version: str, architecture: str = "x86_64") -> None:
        """Store a packaged template."""
        images = re.findall(re.escape(self.repository) + r"@sha256:[0-9a-f]{64}", packaged)
        release = {
            "artifact": key,
            "version": version,
            "architecture": architecture,
            "images": sorted(set(images)),
        }
        put = {"Bucket": self.bucket}
        self._s3.put_object(**put, Key=f"{self.prefix}/{key}/release.json", Body=json.dumps(release).encode())
        self._s3.put_object(**put, Key=self.template_key(key), Body=packaged.encode())

    def _with_pushed_image(self, built: str, key: str) -> str:
        """Push the image that all functions share, and name it by digest, which `sam package` leaves alone.

        `sam package` itself would push it once for each function, under one tag; ECR takes an immutable tag
        once, even if the image is the same.
        """
        images = {found[2] for found in _LOCAL_IMAGE.finditer(built)}
        if len(images) != 1:
            raise DeliveryError(f"sam build must make one image for all functions, not {sorted(images)}")
        digest = self._digest(key) or self._push(images.pop(), key)  # an earlier try may have pushed it
        return _LOCAL_IMAGE.sub(rf"\1 {self.repository}@{digest}", built)

    def _push(self, image: str, tag: str) -> str | None:
        given = self._ecr.get_authorization_token()["authorizationData"][0]["authorizationToken"]
        user, _, password = base64.b64decode(given).decode().partition(":")
        registry = self.repository.partition("/")[0]
        _docker("login", "--username", user, "--password-stdin", registry, put=password)
        _docker("tag", image, f"{self.repository}:{tag}")
        _docker("push", f"{self.repository}:{tag}")
        return self._digest(tag)

    def _digest(self, tag: str) -> str | None:
        name = self.repository.partition("/")[2]
        try:
            asked = self._ecr.describe_images(repositoryName=name, imageIds=[{"imageTag": tag}])
        except self._ecr.exceptions.ImageNotFoundException:
            return None
        found = asked["imageDetails"]  # the local AWS answers with none, and does not raise
        return str(found[0]["imageDigest"]) if found else None


def _sam(*words: str) -> None:
    if not SAM.exists():
        raise DeliveryError("SAM CLI is missing: run `make setup`")
    _run(str(SAM), *words)


def _docker(*words: str, put: str = "") -> None:
    _run("docker", *words, put=put)


def _run(program: str, *words: str, put: str = "") -> None:
    # Lambda refuses an image whose index holds attestations, which newer builders add unasked.
    environ = {**os.environ, "SAM_CLI_TELEMETRY": "0", "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
    command, shown = [program, *words], f"{Path(program).name} {words[0]}"
    try:
        done = subprocess.run(command, cwd=ROOT, env=environ, timeout=_BUILD_SECONDS, text=True, input=put)
    except FileNotFoundError:
        raise DeliveryError(f"there is no `{program}` command") from None
    except subprocess.TimeoutExpired:
        raise DeliveryError(f"{shown} took longer than {_BUILD_SECONDS} s") from None
    if done.returncode:
        raise DeliveryError(f"{shown} failed; its output is above")
