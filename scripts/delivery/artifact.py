"""The packaged artefact: made once, kept under the hash of its sources, deployed anywhere as it is."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
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
_TAGGED = re.compile(r"(?P<repository>[^\s\"'@]+):(?P<tag>[A-Za-z0-9_.-]+)")
_BUILD_SECONDS = 1800


def source_key(root: Path = ROOT) -> str:
    """Return the hash of the sources: their names and contents, nothing of the machine or the time."""
    digest = hashlib.sha256()
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

    def package(self, version: str, say: Callable[[str], None], *, force: bool = False) -> tuple[str, bool]:
        """Build and push what the sources make, unless that was done before; return the key and whether."""
        key = source_key()
        if not force and self.template(key) is not None:
            say(f"artefact {key}: unchanged sources, nothing to build")
            return key, False
        say(f"artefact {key}: building the image and packaging the templates")
        packaged = ROOT / ".aws-sam" / "packaged.yaml"
        _sam("build")
        _sam(
            *("package", "--s3-bucket", self.bucket, "--s3-prefix", f"{self.prefix}/{key}"),
            *("--image-repository", self.repository, "--output-template-file", str(packaged)),
        )
        self.keep(key, packaged.read_text(), version)
        say(f"artefact {key}: kept in s3://{self.bucket}/{self.prefix}/{key}/")
        return key, True

    def keep(self, key: str, packaged: str, version: str) -> None:
        """Store a packaged template, its images pinned by digest."""
        body = pin_images(packaged, self.repository, self._digest)
        release = {"artifact": key, "version": version, "images": sorted(set(_pinned(body, self.repository)))}
        put = {"Bucket": self.bucket}
        self._s3.put_object(**put, Key=f"{self.prefix}/{key}/release.json", Body=json.dumps(release).encode())
        self._s3.put_object(**put, Key=self.template_key(key), Body=body.encode())

    def _digest(self, tag: str) -> str:
        name = self.repository.partition("/")[2]
        found = self._ecr.describe_images(repositoryName=name, imageIds=[{"imageTag": tag}])
        return str(found["imageDetails"][0]["imageDigest"])


def pin_images(packaged: str, repository: str, digest: Callable[[str], str]) -> str:
    """Replace every `repository:tag` in a packaged template by `repository@digest`."""
    tags = {match["tag"] for match in _TAGGED.finditer(packaged) if match["repository"] == repository}
    for tag in sorted(tags, key=len, reverse=True):  # no tag is replaced inside a longer one
        packaged = packaged.replace(f"{repository}:{tag}", f"{repository}@{digest(tag)}")
    return packaged


def _pinned(body: str, repository: str) -> list[str]:
    return re.findall(re.escape(repository) + r"@sha256:[0-9a-f]{64}", body)


def _sam(*words: str) -> None:
    # Lambda refuses an image whose index holds attestations, which newer builders add unasked.
    environ = {**os.environ, "SAM_CLI_TELEMETRY": "0", "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
    try:
        done = subprocess.run([str(SAM), *words], cwd=ROOT, env=environ, timeout=_BUILD_SECONDS)
    except FileNotFoundError:
        raise DeliveryError("SAM CLI is missing: run `make setup`") from None
    except subprocess.TimeoutExpired:
        raise DeliveryError(f"sam {words[0]} took longer than {_BUILD_SECONDS} s") from None
    if done.returncode:
        raise DeliveryError(f"sam {words[0]} failed; its output is above")
