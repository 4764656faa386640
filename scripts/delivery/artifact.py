"""The packaged artifact: made once, kept under the hash of its sources, deployed anywhere as it is."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

from botocore.exceptions import ClientError
from scripts.cli import CliError, run_program
from scripts.templates import load_template

ROOT = Path(__file__).resolve().parents[2]
SAM = ROOT / ".venv-tools" / "bin" / "sam"
# What the image is made of; tests/delivery holds it against the Dockerfile.
_OF_IMAGE = ("Dockerfile", ".dockerignore", "requirements.txt", "src")
_LOCAL_IMAGE = re.compile(r"(?m)^( +ImageUri:) (\w+:\w+)$")  # as `sam build` leaves it
_NESTED = re.compile(r"(?m)^( +TemplateURL:) (?!https?:)(\S+)$")
# What an attestation is made of; a workflow's step reads it.
SUBJECTS = "reports/artifact/SHA256SUMS"
# Lambda rejects an image whose index holds attestations, which newer builders add unasked.
_NO_ATTESTATIONS = {"BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}


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


def sources(root: Path = ROOT) -> list[str]:
    """Return all that the image and the templates are made of: files and folders of the root."""
    nested = _nested_sources(root, Path("template.yaml"))
    return sorted({"template.yaml", *_OF_IMAGE, *(path.parts[0] for path in nested)})


def _nested_sources(root: Path, template: Path) -> Iterator[Path]:
    """Yield the paths of the templates that a template names by a local path, and of those in them."""
    for resource in load_template((root / template).read_text()).get("Resources", {}).values():
        url = resource.get("Properties", {}).get("TemplateURL", "")
        if isinstance(url, str) and url and "://" not in url:
            nested = Path(os.path.normpath(template.parent / url))
            yield nested
            yield from _nested_sources(root, nested)


def _files(root: Path) -> Iterator[Path]:
    for name in sources(root):
        source = root / name
        found = sorted(source.rglob("*")) if source.is_dir() else [source]
        yield from (p for p in found if p.is_file() and "__pycache__" not in p.parts)


class Artifacts:
    """The artifacts in their bucket. `<prefix>/<key>/template.yaml` is written last: it marks a whole one.

    An artifact is named `<key>@<SHA-256 of its manifest>`. The manifest, release.json, has the SHA-256 of
    each file and the digest of each image, so the name covers all that is deployed. Nothing is written twice.
    """

    def __init__(self, s3: Any, ecr: Any, bucket: str, repository: str, prefix: str = "artifacts") -> None:
        self._s3, self._ecr = s3, ecr
        self.bucket, self.repository, self.prefix = bucket, repository, prefix

    def url(self, key: str, name: str = "template.yaml") -> str:
        return f"{self._s3.meta.endpoint_url}/{self.bucket}/{self.prefix}/{key}/{name}"

    def _read(self, key: str, name: str) -> bytes | None:
        try:
            found = self._s3.get_object(Bucket=self.bucket, Key=f"{self.prefix}/{key}/{name}")
        except ClientError as error:
            if error.response["Error"]["Code"] in ("NoSuchKey", "404"):
                return None
            raise
        body: bytes = found["Body"].read()
        return body

    def named(self, key: str) -> str:
        """Return the artifact's name, `<key>@<hash>`. Raises CliError if there is none."""
        return f"{key}@{_sha256(self._manifest(key))}"

    def _manifest(self, key: str) -> bytes:
        manifest = self._read(key, "release.json")
        if manifest is None:
            raise CliError(f"there is no artifact {key} in s3://{self.bucket}/{self.prefix}/")
        return manifest

    def verified(self, name: str) -> tuple[bytes, str]:
        """Return the manifest and the template of an artifact, if all of it is what was built.

        Raises CliError if not, or if there is none.
        """
        key, _, wanted = name.partition("@")
        manifest = self._manifest(key)
        if wanted and _sha256(manifest) != wanted:
            raise CliError(
                f"artifact {key} is not what was built: its hash is {_sha256(manifest)}, not {wanted}"
            )
        files = json.loads(manifest).get("files", {})
        bodies = {}
        for file in {*files, "template.yaml"}:
            body = self._read(key, file)
            if body is None or _sha256(body) != files.get(file):
                raise CliError(f"artifact {key} is not what was built: {file} is another, or gone")
            bodies[file] = body
        return manifest, bodies["template.yaml"].decode()

    def newest(self, hashed: str) -> str | None:
        """Return the newest artifact of the sources: `<hash>`, or `<hash>-<time>` if that was taken."""
        pages = self._s3.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=f"{self.prefix}/{hashed}"
        )
        names = [o["Key"] for page in pages for o in page.get("Contents", [])]
        return max((n.split("/")[1] for n in names if n.endswith("/template.yaml")), default=None)

    def package(
        self, version: str, say: Callable[[str], None], *, architecture: str, force: bool = False
    ) -> tuple[str, bool]:
        """Build and push what the sources make, unless that was done before; return the name and whether.

        With `force`, another artifact beside the one that is there: what runs, and what awaits its approval,
        stays as it is. So too beside an image that an earlier try pushed: what is attested was built here.
        """
        hashed = source_key(architecture=architecture)
        known = self.newest(hashed)
        if known and not force:
            say(f"artifact {known}: unchanged sources, nothing to build")
            return self.named(known), False
        taken = known or self._digest(hashed)
        key = f"{hashed}-{datetime.now(UTC):%Y%m%dT%H%M%S}" if taken else hashed
        say(f"artifact {key}: building the image and packaging the templates")
        built = ROOT / ".aws-sam" / "build" / "template.yaml"
        _sam("build", "--parameter-overrides", f"Architecture={architecture}")
        image, nested = self._push(_one_image(built), key), dict[str, str]()
        name = self.keep(key, self._packaged(built, key, image, nested), version, architecture, nested)
        self._list_subjects(key)
        say(f"artifact {key}: kept in s3://{self.bucket}/{self.prefix}/{key}/")
        return name, True

    def _list_subjects(self, key: str) -> None:
        """Write down what is to be attested: the manifest and the image, by their digests."""
        manifest, path = self._manifest(key), ROOT / SUBJECTS
        images = [image.split("@sha256:") for image in json.loads(manifest)["images"]]
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [f"{digest}  {name}\n" for name, digest in [("release.json", _sha256(manifest)), *images]]
        path.write_text("".join(lines))

    def _packaged(self, path: Path, key: str, image: str, nested: dict[str, str]) -> str:
        """Return a built template that names the image, and the addresses of those nested in it; add these.

        As `sam package` does, which cannot write conditionally, as the bucket demands, and which would push
        the image once for each function, under one tag; ECR takes an immutable tag once.
        """

        def address(found: re.Match[str]) -> str:
            text = self._packaged(path.parent / found[2], key, image, nested)
            name = f"{_sha256(text.encode())}.template"
            nested[name] = text
            return f"{found[1]} {self.url(key, name)}"

        return _NESTED.sub(address, _LOCAL_IMAGE.sub(rf"\1 {image}", path.read_text()))

    def keep(
        self,
        key: str,
        packaged: str,
        version: str,
        architecture: str = "x86_64",
        nested: Mapping[str, str] = MappingProxyType({}),
    ) -> str:
        """Store a packaged template with those nested in it; return the artifact's name."""
        texts = {**nested, "template.yaml": packaged}
        files = {name: text.encode() for name, text in texts.items()}
        pushed = re.compile(re.escape(self.repository) + r"@sha256:[0-9a-f]{64}")
        images = sorted({image for text in texts.values() for image in pushed.findall(text)})
        release = {
            "artifact": key,
            "version": version,
            "architecture": architecture,
            "images": images,
            "files": {name: _sha256(body) for name, body in files.items()},
        }
        manifest = json.dumps(release, sort_keys=True).encode()
        for name, body in {"release.json": manifest, **files}.items():
            put_once(self._s3, self.bucket, f"{self.prefix}/{key}/{name}", body)
        return f"{key}@{_sha256(manifest)}"

    def _push(self, image: str, tag: str) -> str:
        """Push the image that all functions share; return its name by digest."""
        given = self._ecr.get_authorization_token()["authorizationData"][0]["authorizationToken"]
        user, _, password = base64.b64decode(given).decode().partition(":")
        registry = self.repository.partition("/")[0]
        _docker("login", "--username", user, "--password-stdin", registry, put=password)
        _docker("tag", image, f"{self.repository}:{tag}")
        _docker("push", f"{self.repository}:{tag}")
        return f"{self.repository}@{self._digest(tag)}"

    def _digest(self, tag: str) -> str | None:
        name = self.repository.partition("/")[2]
        try:
            asked = self._ecr.describe_images(repositoryName=name, imageIds=[{"imageTag": tag}])
        except self._ecr.exceptions.ImageNotFoundException:
            return None
        found = asked["imageDetails"]  # the local AWS emulator answers with none, and does not raise
        return str(found[0]["imageDigest"]) if found else None


def _one_image(built: Path) -> str:
    """Return the image that `sam build` made for all functions, of the nested templates too."""
    images = {found[2] for path in _built(built) for found in _LOCAL_IMAGE.finditer(path.read_text())}
    if len(images) != 1:
        raise CliError(f"sam build must make one image for all functions, not {sorted(images)}")
    return images.pop()


def _built(path: Path) -> Iterator[Path]:
    yield path
    for found in _NESTED.finditer(path.read_text()):
        yield from _built(path.parent / found[2])


def put_once(s3: Any, bucket: str, key: str, body: bytes) -> None:
    """Write an object, unless it is there. Raises CliError if it is, with other contents."""
    try:
        s3.put_object(Bucket=bucket, Key=key, Body=body, IfNoneMatch="*")
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("PreconditionFailed", "412"):
            raise
        if s3.get_object(Bucket=bucket, Key=key)["Body"].read() != body:
            raise CliError(f"s3://{bucket}/{key} is there already, with other contents") from None


def attested(manifest: bytes, repository: str, workflow: str) -> None:
    """Return if the workflow of the repository built what the manifest names. Raises CliError.

    GitHub keeps the attestation: https://cli.github.com/manual/gh_attestation_verify
    """
    with TemporaryDirectory() as folder:
        path = Path(folder) / "release.json"
        path.write_bytes(manifest)
        who = ("--repo", repository, "--cert-identity", workflow, "--deny-self-hosted-runners")
        try:
            run_program("gh", "attestation", "verify", str(path), *who, cwd=ROOT)
        except CliError as error:
            raise CliError(
                f"GitHub has no attestation that {workflow} built this artifact ({error}); "
                "if it was built elsewhere, run the workflow Deploy with `force`"
            ) from None


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _sam(*words: str) -> None:
    if not SAM.exists():
        raise CliError("SAM CLI is missing: run `make setup`")
    run_program(str(SAM), *words, cwd=ROOT, SAM_CLI_TELEMETRY="0", **_NO_ATTESTATIONS)


def _docker(*words: str, put: str = "") -> None:
    run_program("docker", *words, cwd=ROOT, text=put, **_NO_ATTESTATIONS)
