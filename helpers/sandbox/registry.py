"""Stands in for Amazon ECR's storage: the layers behind its records, and what a task pulls of them.

Differs: moto keeps the records of repositories, images and layers; here are the bytes, by digest, and what moto gets
wrong: an image's true digest and size, the images that a moved tag leaves behind untagged, filters, and when a token
expires. Layers come by ECR's own API and not by Docker's protocol; a token opens nothing yet. What runs is a
*snapshot*: an image of one layer that holds the app's directory, extracted once. Nothing is scanned, replicated or
expired (`ecr/previews.py` tells what would be), and the bytes of a deleted image stay with the sandbox.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tarfile
import tempfile
import threading
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from helpers.sandbox.clock import Clock
from helpers.sandbox.ecr.own_calls import on_behalf
from helpers.sandbox.ecr.previews import LifecyclePolicies, has_tag_status
from helpers.sandbox.endpoint import ACCOUNT, Aws, AwsError, Call, Handler

TOKEN_VALID = timedelta(hours=12)  # GetAuthorizationToken, ECR's API reference
MIN_PART = 5 * 2**20  # bytes; all parts but the last (ECR's API reference, LayerPartTooSmallException)
MAX_UNPACKED = 2**31  # bytes of an extracted image; a Fargate task has 20 GB, this machine's disk is shared
REFERENCE = re.compile(
    r"(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(\.cn)?/(?P<repository>[a-z0-9._/-]+?)"
    r"(@(?P<digest>sha256:[0-9a-f]{64})|:(?P<tag>[\w.-]+))?"
)


class CannotPullContainer(Exception):
    """The image of a task cannot be had. `reason`: what follows "CannotPullContainerError: " on AWS."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Image:
    """An image ready to run. `rootfs`: what its command sees as the image's working directory; to be copied, not written."""

    rootfs: Path
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)


class Registry:
    def __init__(self, state: Path, clock: Clock, aws: Aws):
        self._blobs = state / "blobs" / "sha256"
        self._images, self._uploads = state / "images", state / "uploads"
        shutil.rmtree(self._uploads, ignore_errors=True)  # moto forgets uploads with its process
        for directory in (self._blobs, self._images, self._uploads):
            directory.mkdir(parents=True, exist_ok=True)
        self._clock, self._aws = clock, aws
        self._lock = threading.Lock()
        self._parts: dict[str, list[int]] = {}  # upload id → sizes in bytes
        self._pushed: dict[tuple[str, str, str], datetime] = {}  # (region, repository, digest) → AWS time
        self._lifecycle = LifecyclePolicies(clock, aws)

    def operations(self) -> dict[tuple[str, str], Handler]:
        return {
            **self._lifecycle.operations(),
            ("ecr", "GetAuthorizationToken"): self.get_authorization_token,
            ("ecr", "DeleteRepository"): self.delete_repository,
            ("ecr", "InitiateLayerUpload"): self.initiate_layer_upload,
            ("ecr", "UploadLayerPart"): self.upload_layer_part,
            ("ecr", "CompleteLayerUpload"): self.complete_layer_upload,
            ("ecr", "PutImage"): self.put_image,
            ("ecr", "DescribeImages"): self.describe_images,
        }

    def get_authorization_token(self, call: Call) -> dict[str, Any]:
        answer = call.forward()
        for token in answer["authorizationData"]:
            token["expiresAt"] = self._clock.now() + TOKEN_VALID
        return answer

    def delete_repository(self, call: Call) -> dict[str, Any]:
        answer = call.forward()
        self._lifecycle.forget(call.region, call.params["repositoryName"])
        return answer

    # --- layers: moto checks repository, upload and order; here the bytes are kept ------------------------------------

    def initiate_layer_upload(self, call: Call) -> dict[str, Any]:
        answer = call.forward()
        self._parts[answer["uploadId"]] = []
        return answer

    def upload_layer_part(self, call: Call) -> dict[str, Any]:
        upload, part = call.params["uploadId"], call.params["layerPartBlob"]
        if len(part) != call.params["partLastByte"] - call.params["partFirstByte"] + 1:
            raise AwsError(
                "InvalidLayerPartException",
                f"Invalid layer part upload for upload with id '{upload}' in the repository with name "
                f"'{call.params['repositoryName']}' in the registry with id '{ACCOUNT}'",
            )
        with self._lock:
            answer = call.forward()
            try:
                with (self._uploads / upload).open("ab") as file:
                    file.write(part)
            except OSError:  # the disk is full: half a layer is of no use to anybody
                (self._uploads / upload).unlink(missing_ok=True)
                raise
            self._parts[upload].append(len(part))
        return answer

    def complete_layer_upload(self, call: Call) -> dict[str, Any]:
        upload, repository = call.params["uploadId"], call.params["repositoryName"]
        parts = self._parts.get(upload)
        if parts is None:
            return call.forward()  # moto says what is missing
        if not parts:
            raise AwsError(
                "EmptyUploadException", f"Upload with id '{upload}' does not contain any layer parts"
            )
        if any(size < MIN_PART for size in parts[:-1]):
            raise AwsError(
                "LayerPartTooSmallException", f"Layer parts must be at least {MIN_PART} bytes in size"
            )
        file = self._uploads / upload
        digest = _digest_of(file)
        if digest not in call.params["layerDigests"]:
            raise AwsError(
                "InvalidLayerException",
                f"The layer digest calculation performed by Amazon ECR ('{digest}') does not match the digest specified",
            )
        if digest in self._available(call.region, repository, [digest]):
            raise AwsError(
                "LayerAlreadyExistsException",
                f"Layer with digest '{digest}' already exists in the repository with name '{repository}' "
                f"in the registry with id '{ACCOUNT}'",
            )
        os.replace(file, self._blob(digest))
        del self._parts[upload]
        return call.forward()

    # --- images -------------------------------------------------------------------------------------------------------

    def put_image(self, call: Call) -> dict[str, Any]:
        params, text = call.params, call.params["imageManifest"]
        digest = f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
        if "imageDigest" not in params:
            # moto makes up a digest of its own unless it is told: the same call again, with it.
            return on_behalf(self._aws("ecr", call.region).put_image, **params, imageDigest=digest)
        if params["imageDigest"] != digest:
            raise AwsError(
                "ImageDigestDoesNotMatchException",
                f"The specified image digest '{params['imageDigest']}' does not match the digest '{digest}' "
                "that Amazon ECR calculated for the image",
            )
        repository = params["repositoryName"]
        before = self._details(call.region, repository)
        self._check_layers(call.region, repository, text)
        tag = params.get("imageTag")
        tagged = next((image for image in before if tag and tag in image.get("imageTags", [])), None)
        try:
            answer = call.forward()
        except AwsError as error:
            if error.code == "ImageAlreadyExistsException" and tagged and tagged["imageDigest"] != digest:
                raise AwsError(
                    "ImageTagAlreadyExistsException",
                    f"The image tag '{tag}' already exists in the '{repository}' repository and cannot be "
                    "overwritten because the tag is immutable.",
                ) from error
            raise
        self._blob(digest).write_bytes(text.encode())
        if digest not in {image["imageDigest"] for image in before}:
            self._pushed[call.region, repository, digest] = self._clock.now()
        if tagged and tagged["imageDigest"] != digest and tagged["imageTags"] == [tag]:
            self._keep_untagged(call.region, repository, tagged["imageDigest"])
        return answer

    def describe_images(self, call: Call) -> dict[str, Any]:
        answer, wanted = call.forward(), call.params.get("filter", {})
        answer["imageDetails"] = [
            image for image in answer["imageDetails"] if has_tag_status(image.get("imageTags", []), wanted)
        ]
        for image in answer["imageDetails"]:
            manifest = self._blob(image["imageDigest"])
            if manifest.exists():
                image["imageSizeInBytes"] = sum(
                    blob["size"] for blob in _parts_of(json.loads(manifest.read_text()))
                )
            key = (call.region, image["repositoryName"], image["imageDigest"])
            image["imagePushedAt"] = self._pushed.get(key, image["imagePushedAt"])
        return answer

    def _keep_untagged(self, region: str, repository: str, digest: str) -> None:
        """ECR keeps an image that lost its last tag to another one; moto drops it."""
        key, text = (region, repository, digest), self._blob(digest).read_text()
        pushed = self._pushed[key]
        on_behalf(
            self._aws("ecr", region).put_image,
            repositoryName=repository,
            imageManifest=text,
            imageDigest=digest,
        )
        self._pushed[key] = pushed

    def _details(self, region: str, repository: str) -> list[dict[str, Any]]:
        return on_behalf(self._aws("ecr", region).describe_images, repositoryName=repository)["imageDetails"]

    def _available(self, region: str, repository: str, digests: list[str]) -> set[str]:
        ask = self._aws("ecr", region).batch_check_layer_availability
        layers = on_behalf(ask, repositoryName=repository, layerDigests=digests)["layers"]
        return {layer["layerDigest"] for layer in layers if layer["layerAvailability"] == "AVAILABLE"}

    def _check_layers(self, region: str, repository: str, text: str) -> None:
        try:
            digests = {blob["digest"] for blob in _parts_of(json.loads(text))}
        except (ValueError, TypeError, KeyError) as error:
            raise AwsError(
                "InvalidParameterException",
                "Invalid parameter at 'ImageManifest' failed to satisfy constraint: 'an image manifest in JSON with "
                "config and layers' (the sandbox takes no manifest lists)",
            ) from error
        if missing := sorted(digests - self._available(region, repository, sorted(digests))):
            raise AwsError(
                "LayersNotFoundException",
                f"Layers with digests '{missing}' required for pushing image into repository with name '{repository}' "
                f"in the registry with id '{ACCOUNT}' do not exist",
            )

    # --- pulling ------------------------------------------------------------------------------------------------------

    def image(self, reference: str, region: str) -> Image:
        """The image that `reference` names, extracted; CannotPullContainer when it cannot be had.

        `region`: the task's. The reference names the registry's own, which may be another.
        """
        digest = self._resolve(reference)
        manifest = json.loads(self._verified(digest).read_text())
        if len(manifest["layers"]) != 1:
            raise CannotPullContainer(f"{reference} is no snapshot, and as processes only snapshots run")
        config = json.loads(self._verified(manifest["config"]["digest"]).read_text())["config"]
        home = self._images / digest.removeprefix("sha256:")
        if not home.exists():
            self._extract(self._verified(manifest["layers"][0]["digest"]), home)
        return Image(
            rootfs=home / config.get("WorkingDir", "/").lstrip("/"),
            command=[*config.get("Entrypoint", []), *config.get("Cmd", [])],
            environment=dict(pair.split("=", 1) for pair in config.get("Env", [])),
        )

    def _resolve(self, reference: str) -> str:
        """The digest that a reference stands for, by what ECR has on record."""
        retried = f"pull image manifest has been retried 1 time(s): failed to resolve ref {reference}"
        match = REFERENCE.fullmatch(reference)
        if match is None:
            raise CannotPullContainer(f"{retried}: the sandbox reaches no registry but ECR")
        if match["account"] != ACCOUNT:
            raise CannotPullContainer(f"{retried}: unexpected status from HEAD request: 403 Forbidden")
        wanted = (
            {"imageDigest": match["digest"]} if match["digest"] else {"imageTag": match["tag"] or "latest"}
        )
        ecr = self._aws("ecr", match["region"])
        try:
            found = ecr.batch_get_image(repositoryName=match["repository"], imageIds=[wanted])["images"]
        except ecr.exceptions.RepositoryNotFoundException:
            found = []
        if not found:
            raise CannotPullContainer(f"{retried}: {reference}: not found")
        return found[0]["imageId"]["imageDigest"]

    def _verified(self, digest: str) -> Path:
        """The file of a blob, once its bytes are what its digest says."""
        blob = self._blob(digest)
        if not blob.exists():
            raise CannotPullContainer(
                f"failed to copy: httpReadSeeker: failed open: content at {digest} not found"
            )
        if (actual := _digest_of(blob)) != digest:
            raise CannotPullContainer(
                f'failed commit on ref "layer-{digest}": unexpected commit digest {actual}, expected {digest}: '
                "failed precondition"
            )
        return blob

    def _extract(self, layer: Path, home: Path) -> None:
        """All of the layer or nothing: other tasks may be starting from the same image."""
        beside = Path(tempfile.mkdtemp(prefix=".extracting-", dir=self._images))
        try:
            with tarfile.open(layer, "r:gz") as archive:
                if sum(member.size for member in archive) > MAX_UNPACKED:
                    raise CannotPullContainer(f"failed to extract layer: more than {MAX_UNPACKED} bytes")
                _extract_all(archive, beside)
            os.rename(beside, home)
        except (tarfile.TarError, EOFError) as error:
            raise CannotPullContainer(f"failed to extract layer: {error}") from error
        except OSError as error:
            if not home.exists():  # else another task's start was first
                raise CannotPullContainer(f"failed to extract layer: {error}") from error
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    def _blob(self, digest: str) -> Path:
        return self._blobs / digest.removeprefix("sha256:")


def _extract_all(archive: tarfile.TarFile, directory: Path) -> None:
    """Nothing outside the directory, no devices, no owners."""
    if hasattr(tarfile, "data_filter"):
        archive.extractall(directory, filter="data")
        return
    inside = directory.resolve()  # Python before 3.11.4, such as Debian 12's
    for member in archive:
        target = (inside / member.name).resolve()
        link = (target.parent / member.linkname).resolve() if member.issym() else target
        known = member.isfile() or member.isdir() or member.issym()
        if not known or not target.is_relative_to(inside) or not link.is_relative_to(inside):
            raise tarfile.TarError(f"{member.name!r} would be outside the image's directory")
        archive.extract(member, inside, set_attrs=not member.issym())


def _parts_of(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """The config and the layers that an image manifest lists, as {"digest", "size", …}."""
    return [manifest["config"], *manifest["layers"]]


def _digest_of(file: Path) -> str:
    with file.open("rb") as stream:
        return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"
