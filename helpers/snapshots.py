"""Snapshots: images without a container engine.

A true OCI image, with manifest, config and one layer, of the app's directory as it is with its installed dependencies.
It has no operating system in it, so it runs in the sandbox and nowhere else. It goes to ECR by ECR's own API.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import re
import shlex
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from helpers.app_directory import CHECKOUT, files_in, start_command
from helpers.display import wrap
from helpers.dockerfile import started_by
from helpers.errors import TutorialError

WORKING_DIRECTORY = "/app"  # the Dockerfile's
ENVIRONMENT = {"NODE_ENV": "production"}  # the Dockerfile's
LONG_AGO = "1970-01-01T00:00:00Z"  # the same files make the same digest, whenever
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
MAX_PART = 20 * 2**20  # bytes; what ECR takes in one UploadLayerPart
TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
REPOSITORY_URI = re.compile(
    r"(\d{12}\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(\.cn)?|127\.0\.0\.1:\d+)/(?P<name>[a-z0-9._/-]+)"
)


@dataclass(frozen=True)
class Snapshot:
    """An image of a directory, not pushed yet. Sizes in bytes. `app`: the directory; `environment`: the image's own
    settings; `dockerfile`: whether command and settings are a Dockerfile's."""

    tag: str
    digest: str
    files: int
    unpacked: int
    command: list[str]
    manifest: bytes = field(repr=False)
    blobs: dict[str, bytes] = field(repr=False)  # digest → layer or config
    app: Path = field(default=CHECKOUT, repr=False, compare=False)
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    dockerfile: bool = field(default=False, repr=False)

    @property
    def id(self) -> str:
        """Another content has another one, as with a Docker image's."""
        return self.digest

    @property
    def size(self) -> int:
        return sum(map(len, self.blobs.values()))

    def __repr__(self) -> str:
        what = "a snapshot and not a Docker build"
        if self.dockerfile:
            what = "a snapshot: nothing was built, of the Dockerfile only its command and settings were taken"
        return wrap(
            f"image {self.tag}, {what}: {self.files} files, {self.unpacked / 1e6:.1f} MB "
            f"in 1 layer of {self.size / 1e6:.1f} MB; runs `{shlex.join(self.command)}`; {self.digest}"
        )


def build(app_dir: str | Path, tag: str | None = None, dockerfile: str | None = None) -> Snapshot:
    """An image of a Node.js app. `app_dir`: where its package.json is; a relative one starts at the checkout.

    `tag`: "1.0.0" or, as Docker has it, "name:1.0.0". Without one it is the first twelve digits of the digest, so that
    another content has another tag. The same files give the same digest. It starts what package.json says; with
    `dockerfile`, a text, what that would start. Nothing in it is executed.
    """
    tag = tag.rsplit(":", 1)[-1] if isinstance(tag, str) else tag
    if tag is not None and not (isinstance(tag, str) and TAG.fullmatch(tag)):
        raise TutorialError(
            f"{tag!r} cannot be an image's tag.", next="Use a text of letters, digits, '.', '_' and '-'."
        )
    if dockerfile is None:
        app, command = start_command(app_dir)
        environment = ENVIRONMENT
    else:
        started = started_by(dockerfile)
        app, command = start_command(app_dir, started.command)
        environment = started.environment
    files = files_in(app)
    archive = _archive(files)
    layer = gzip.compress(archive, compresslevel=6, mtime=0)
    config = _json(
        {
            "architecture": "amd64",
            "os": "linux",
            "created": LONG_AGO,
            "config": {
                "Cmd": command,
                "Env": [f"{k}={v}" for k, v in environment.items()],
                "WorkingDir": WORKING_DIRECTORY,
            },
            "rootfs": {"type": "layers", "diff_ids": [_digest(archive)]},
            "history": [{"created": LONG_AGO, "created_by": "snapshot of the app's directory"}],
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": {"mediaType": CONFIG_TYPE, "digest": _digest(config), "size": len(config)},
            "layers": [{"mediaType": LAYER_TYPE, "digest": _digest(layer), "size": len(layer)}],
        }
    )
    digest = _digest(manifest)
    return Snapshot(
        tag=tag or _short(digest),
        digest=digest,
        files=len(files),
        unpacked=sum(path.stat().st_size for path in files.values() if not path.is_symlink()),
        command=command,
        manifest=manifest,
        blobs={_digest(layer): layer, _digest(config): config},
        app=app,
        environment=environment,
        dockerfile=dockerfile is not None,
    )


def trial(tag: str) -> Snapshot:
    """An image of a one-line app that is different for each tag: something to try a registry with."""
    with TemporaryDirectory() as app:
        Path(app, "package.json").write_text('{"scripts": {"start": "node server.js"}}', encoding="utf-8")
        Path(app, "server.js").write_text(f"// {tag}\n", encoding="utf-8")
        return build(app, tag)


def push(image: Snapshot, repository_uri: str) -> str:
    """Push to ECR what it does not have yet, a printed line for each part; returns the URI with digest."""
    where = REPOSITORY_URI.fullmatch(repository_uri)
    if where is None:
        raise TutorialError(
            "That is not an ECR repository's URI.",
            seen=repository_uri,
            next="Use the `repositoryUri` that create_repository or describe_repositories answers.",
        )
    import boto3

    ecr, name = boto3.client("ecr", region_name=where["region"]), where["name"]
    try:
        known = ecr.batch_check_layer_availability(repositoryName=name, layerDigests=list(image.blobs))[
            "layers"
        ]
    except ecr.exceptions.RepositoryNotFoundException as error:
        raise TutorialError(
            f"There is no ECR repository {name} in {ecr.meta.region_name}.",
            seen=str(error),
            next=f"Create it: ecr.create_repository(repositoryName={name!r}).",
        ) from error
    there = {layer["layerDigest"] for layer in known if layer["layerAvailability"] == "AVAILABLE"}
    for digest, blob in image.blobs.items():
        if digest not in there:
            with _room():
                _upload(ecr, name, digest, blob)
        outcome = "already there" if digest in there else "pushed"
        print(f"{_short(digest)}: {outcome} ({len(blob):,} bytes)")
    try:
        ecr.put_image(
            repositoryName=name,
            imageManifest=image.manifest.decode(),
            imageManifestMediaType=MANIFEST_TYPE,
            imageTag=image.tag,
            imageDigest=image.digest,
        )
    except ecr.exceptions.ImageAlreadyExistsException:
        pass  # this very image, under this very tag
    except ecr.exceptions.ImageTagAlreadyExistsException as error:
        raise TutorialError(
            f"The tag {image.tag} belongs to another image, and {name} does not let tags move.",
            seen=str(error),
            next="Build again with a tag that is not in use.",
        ) from error
    return f"{repository_uri}@{image.digest}"


@contextlib.contextmanager
def _room() -> Iterator[None]:
    """A full disk of the sandbox's, told; AWS never says that it is full."""
    from botocore.exceptions import ClientError

    try:
        yield
    except ClientError as error:
        if error.response["Error"]["Code"] != "InsufficientStorage":
            raise
        raise TutorialError(
            "There is no room for the image.",
            seen=error.response["Error"]["Message"],
            next="Make room on this machine's disk, and push again.",
        ) from None


def _upload(ecr: Any, repository: str, digest: str, blob: bytes) -> None:
    upload = ecr.initiate_layer_upload(repositoryName=repository)
    size = min(upload["partSize"], MAX_PART)
    for first in range(0, len(blob), size):
        part = blob[first : first + size]
        ecr.upload_layer_part(
            repositoryName=repository,
            uploadId=upload["uploadId"],
            partFirstByte=first,
            partLastByte=first + len(part) - 1,
            layerPartBlob=part,
        )
    with contextlib.suppress(
        ecr.exceptions.LayerAlreadyExistsException
    ):  # somebody pushed it in the meantime
        ecr.complete_layer_upload(
            repositoryName=repository, uploadId=upload["uploadId"], layerDigests=[digest]
        )


# --- the layer --------------------------------------------------------------------------------------------------------


def _archive(files: dict[str, Path]) -> bytes:
    """An uncompressed tar in which nothing depends on who packs, when, or where."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, path in files.items():
            entry = tarfile.TarInfo(f"{WORKING_DIRECTORY.strip('/')}/{name}")
            if path.is_symlink():
                entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, path.readlink().as_posix(), 0o777
                archive.addfile(entry)
                continue
            content = path.read_bytes()
            entry.size, entry.mode = len(content), 0o755 if path.stat().st_mode & 0o100 else 0o644
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
