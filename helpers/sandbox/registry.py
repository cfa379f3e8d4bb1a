"""Stands in for Amazon ECR's API: repositories, the images in them, and what a task pulls.

Differs: moto keeps the records of repositories, images and layers; here is what it gets wrong: an image's true digest
and size, the images that a moved tag leaves behind untagged, filters, and when a token expires. Where CNCF Distribution
is (`ecr/distribution.py`), Docker logs in, pushes and pulls by its own protocol (`ecr/front.py`), a repository's URI is
an address on 127.0.0.1, and what comes by the API's own calls lands there, too. Elsewhere layers come by those calls
alone, a token opens nothing, and what runs is a snapshot (`ecr/snapshots.py`). Nothing is scanned, replicated or
expired (`ecr/previews.py` tells what would be), and the bytes of a deleted image stay with the sandbox.
"""

from __future__ import annotations

import json
import threading
from datetime import datetime
from pathlib import Path
from typing import Any

from helpers.sandbox.clock import Clock
from helpers.sandbox.ecr.blobs import Blobs, digest_of_file
from helpers.sandbox.ecr.distribution import Distribution
from helpers.sandbox.ecr.front import Front
from helpers.sandbox.ecr.layers import Layers
from helpers.sandbox.ecr.manifests import (
    NoManifest,
    blobs,
    children,
    digest_of,
    is_index,
    read_manifest,
    size_of,
)
from helpers.sandbox.ecr.own_calls import on_behalf
from helpers.sandbox.ecr.previews import LifecyclePolicies, has_tag_status
from helpers.sandbox.ecr.references import Reference, is_reference, read_reference
from helpers.sandbox.ecr.snapshots import CannotPullContainer, Image, extract
from helpers.sandbox.ecr.storage import Storage
from helpers.sandbox.ecr.tags import immutable_tag
from helpers.sandbox.ecr.tokens import USER, VALID, Tokens, authorization_token
from helpers.sandbox.ecs.stopped_reasons import (
    manifest_denied,
    manifest_not_found,
    no_image_reference,
    no_such_platform,
)
from helpers.sandbox.endpoint import ACCOUNT, Aws, AwsError, Call, Handler


class Registry:
    """`ports`: the registries' addresses of an earlier sandbox, by region; taken again where they are free."""

    def __init__(
        self,
        state: Path,
        clock: Clock,
        aws: Aws,
        distribution: Distribution | None = None,
        ports: dict[str, int] | None = None,
    ):
        self._blobs, self._images = Blobs(state / "blobs" / "sha256"), state / "images"
        self._images.mkdir(parents=True, exist_ok=True)
        self._clock, self._aws = clock, aws
        self._pushed: dict[tuple[str, str, str], datetime] = {}  # (region, repository, digest) → AWS time
        self._lifecycle = LifecyclePolicies(clock, aws, self._listed)
        self._tokens = Tokens(clock)
        self._distribution = distribution
        self._storage = Storage(distribution) if distribution else None
        self._layers = Layers(state / "uploads", self._blobs, aws, self._storage)
        self._old_ports = dict(ports or {})
        self._fronts: dict[str, Front] = {}
        self._opening = threading.Lock()

    def start(self) -> None:
        """Start what Docker speaks to, if there is Distribution; DistributionError if it will not."""
        if self._distribution is not None:
            self._distribution.start()
            for region in self._old_ports:
                self._front(region)

    def close(self) -> None:
        self._old_ports = self.ports()
        with self._opening:
            for front in self._fronts.values():
                front.close()
            self._fronts.clear()
        if self._distribution is not None:
            self._distribution.stop()

    def ports(self) -> dict[str, int]:
        """Of the registries on 127.0.0.1, by region."""
        return self._old_ports | {region: front.port for region, front in self._fronts.copy().items()}

    def _front(self, region: str) -> Front | None:
        if self._distribution is None:
            return None
        with self._opening:
            if region not in self._fronts:
                port = self._old_ports.get(region, 0)
                self._fronts[region] = Front(region, port, self._aws, self._tokens, self._distribution)
            return self._fronts[region]

    def operations(self) -> dict[tuple[str, str], Handler]:
        return {
            **self._lifecycle.operations(),
            **self._layers.operations(),
            ("ecr", "GetAuthorizationToken"): self.get_authorization_token,
            ("ecr", "CreateRepository"): self.create_repository,
            ("ecr", "DescribeRepositories"): self.describe_repositories,
            ("ecr", "DeleteRepository"): self.delete_repository,
            ("ecr", "PutImage"): self.put_image,
            ("ecr", "DescribeImages"): self.describe_images,
            ("ecr", "BatchDeleteImage"): self.batch_delete_image,
        }

    def get_authorization_token(self, call: Call) -> dict[str, Any]:
        answer, front = call.forward(), self._front(call.region)
        for token in answer["authorizationData"]:
            if front is None:
                token["expiresAt"] = self._clock.now() + VALID
                continue
            password, token["expiresAt"] = self._tokens.issue()
            token["authorizationToken"] = authorization_token(password)
            token["proxyEndpoint"] = f"http://{front.address}"
        return answer

    # --- repositories -------------------------------------------------------------------------------------------------

    def create_repository(self, call: Call) -> dict[str, Any]:
        answer = call.forward()
        return answer | {"repository": self._addressed(call.region, answer["repository"])}

    def describe_repositories(self, call: Call) -> dict[str, Any]:
        answer = call.forward()
        found = [self._addressed(call.region, repository) for repository in answer["repositories"]]
        return answer | {"repositories": found}

    def delete_repository(self, call: Call) -> dict[str, Any]:
        name = call.params["repositoryName"]
        digests = {image["imageDigest"] for image in self._details(call.region, name)}
        answer = call.forward()
        self._lifecycle.forget(call.region, name)
        if self._storage:
            manifests = [manifest for digest in digests if (manifest := self._blobs.manifest(digest))]
            layers = {blob["digest"] for each in manifests if not is_index(each) for blob in blobs(each)}
            self._forget(call.region, name, digests)
            for digest in layers:
                self._storage.delete_layer(f"{call.region}/{name}", digest)
        return answer | {"repository": self._addressed(call.region, answer["repository"])}

    def _addressed(self, region: str, repository: dict[str, Any]) -> dict[str, Any]:
        front = self._front(region)
        uri = {"repositoryUri": f"{front.address}/{repository['repositoryName']}"} if front else {}
        return repository | uri

    # --- images -------------------------------------------------------------------------------------------------------

    def put_image(self, call: Call) -> dict[str, Any]:
        params, text = call.params, call.params["imageManifest"]
        digest = digest_of(text.encode())
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
        manifest = _read(text, params.get("imageManifestMediaType"))
        if is_index(manifest):
            self._check_children(repository, manifest, {image["imageDigest"] for image in before})
        else:
            self._check_layers(call.region, repository, manifest)
        if self._storage and manifest["mediaType"]:  # without a type moto refuses it
            name = f"{call.region}/{repository}"
            self._storage.put_manifest(name, digest, text.encode(), manifest["mediaType"])
        tag = params.get("imageTag")
        tagged = next((image for image in before if tag and tag in image.get("imageTags", [])), None)
        self._blobs.path(digest).write_bytes(text.encode())
        try:
            answer = call.forward()
        except AwsError as error:
            if error.code == "ImageAlreadyExistsException" and tagged and tagged["imageDigest"] != digest:
                raise AwsError("ImageTagAlreadyExistsException", immutable_tag(repository, tag)) from error
            raise
        if digest not in {image["imageDigest"] for image in before}:
            self._pushed[call.region, repository, digest] = self._clock.now()
        if tagged and tagged["imageDigest"] != digest and tagged["imageTags"] == [tag]:
            self._keep_untagged(call.region, repository, tagged)
        return answer

    def describe_images(self, call: Call) -> dict[str, Any]:
        answer, wanted = call.forward(), call.params.get("filter", {})
        answer["imageDetails"] = [
            image for image in answer["imageDetails"] if has_tag_status(image.get("imageTags", []), wanted)
        ]
        for image in answer["imageDetails"]:
            if manifest := self._blobs.manifest(image["imageDigest"]):
                image["imageSizeInBytes"] = size_of(manifest, self._blobs.manifest)
                if not is_index(manifest) and (artifact := manifest["config"].get("mediaType")):
                    image["artifactMediaType"] = artifact
            key = (call.region, image["repositoryName"], image["imageDigest"])
            image["imagePushedAt"] = self._pushed.get(key, image["imagePushedAt"])
        return answer

    def batch_delete_image(self, call: Call) -> dict[str, Any]:
        name, ids = call.params["repositoryName"], call.params["imageIds"]
        before = self._details(call.region, name)
        used = self._listed(before)
        refused = [
            {
                "imageId": each,
                "failureCode": "ImageReferencedByManifestList",
                "failureReason": f"Requested image referenced by manifest list: [{', '.join(sorted(used[digest]))}]",
            }
            for each in ids
            if (digest := _deletes(each, before)) in used
        ]
        if refused:
            allowed = [each for each in ids if each not in [failure["imageId"] for failure in refused]]
            answer: dict[str, Any] = {"imageIds": [], "failures": []}
            if allowed:
                delete = self._aws("ecr", call.region).batch_delete_image
                answer = on_behalf(delete, repositoryName=name, imageIds=allowed)
            return answer | {"failures": [*answer["failures"], *refused]}
        answer = call.forward()
        left = {image["imageDigest"] for image in self._details(call.region, name)}
        gone = {image["imageDigest"] for image in before} - left
        self._forget(call.region, name, gone)
        for digest in sorted(gone - {told["imageDigest"] for told in answer["imageIds"]}):
            answer["imageIds"].append({"imageDigest": digest})  # moto tells only of tags
        return answer

    def _listed(self, images: list[dict[str, Any]]) -> dict[str, set[str]]:
        """Digest of an image → the digests of the indexes that list it."""
        listed: dict[str, set[str]] = {}
        for image in images:
            manifest = self._blobs.manifest(image["imageDigest"])
            for child in children(manifest) if manifest and is_index(manifest) else []:
                listed.setdefault(child["digest"], set()).add(image["imageDigest"])
        return listed

    def _forget(self, region: str, repository: str, digests: set[str]) -> None:
        for digest in digests:
            self._pushed.pop((region, repository, digest), None)
            if self._storage:
                self._storage.delete_manifest(f"{region}/{repository}", digest)

    def _keep_untagged(self, region: str, repository: str, image: dict[str, Any]) -> None:
        """ECR keeps an image that lost its last tag to another one; moto drops it."""
        digest = image["imageDigest"]
        key, text = (region, repository, digest), self._blobs.path(digest).read_text()
        pushed = self._pushed[key]
        on_behalf(
            self._aws("ecr", region).put_image,
            repositoryName=repository,
            imageManifest=text,
            imageManifestMediaType=image["imageManifestMediaType"],
            imageDigest=digest,
        )
        self._pushed[key] = pushed

    def _details(self, region: str, repository: str) -> list[dict[str, Any]]:
        return on_behalf(self._aws("ecr", region).describe_images, repositoryName=repository)["imageDetails"]

    def _check_layers(self, region: str, repository: str, manifest: dict[str, Any]) -> None:
        digests = {blob["digest"] for blob in blobs(manifest)}
        if missing := sorted(digests - self._layers.available(region, repository, sorted(digests))):
            raise AwsError(
                "LayersNotFoundException",
                f"Layers with digests '{missing}' required for pushing image into repository with name '{repository}' "
                f"in the registry with id '{ACCOUNT}' do not exist",
            )

    def _check_children(self, repository: str, index: dict[str, Any], there: set[str]) -> None:
        if missing := sorted({child["digest"] for child in children(index)} - there):
            raise AwsError(
                "ReferencedImagesNotFoundException",
                f"Images with digests '{missing}' required for pushing image into repository with name '{repository}' "
                f"in the registry with id '{ACCOUNT}' do not exist",
            )

    # --- pulling ------------------------------------------------------------------------------------------------------

    def read(self, image: str) -> Reference | None:
        """What a reference names in ECR; None where it names nothing there."""
        return read_reference(image, self.ports())

    def find(self, image: str, platform: str) -> None:
        """CannotPullContainer unless the registry has this image. An index must list the platform ("linux/amd64"); an
        image without one is not looked into: Fargate starts it, and it fails there."""
        _, digest = self._resolve(image)
        manifest = self._blobs.manifest(digest)
        if manifest and is_index(manifest):
            there = [child.get("platform") or {} for child in children(manifest)]
            if platform not in [f"{each.get('os')}/{each.get('architecture')}" for each in there]:
                raise CannotPullContainer(no_such_platform(platform))

    def pull_spec(self, reference: str, region: str) -> tuple[str, dict[str, str]]:
        """What Docker pulls for a task: a reference by digest, and what to log in with; CannotPullContainer when there
        is no such image.

        `region`: the task's. The reference names the registry's own, which may be another.
        """
        image, digest = self._resolve(reference)
        front = self._front(image.region)
        if front is None:
            raise CannotPullContainer(
                f"{reference}: the sandbox's registry speaks Docker's protocol only with Docker"
            )
        password, _ = self._tokens.issue()
        return f"{front.address}/{image.repository}@{digest}", {"username": USER, "password": password}

    def image(self, reference: str, region: str) -> Image:
        """The snapshot that `reference` names, extracted; CannotPullContainer when it cannot be had. `region`: the
        task's."""
        _, digest = self._resolve(reference)
        manifest = json.loads(self._verified(digest).read_text())
        if len(manifest.get("layers", [])) != 1:
            raise CannotPullContainer(f"{reference} is no snapshot, and as processes only snapshots run")
        about = json.loads(self._verified(manifest["config"]["digest"]).read_text())
        config = about["config"]
        home = self._images / digest.removeprefix("sha256:")
        if not home.exists():
            extract(self._verified(manifest["layers"][0]["digest"]), home)
        return Image(
            rootfs=home / config.get("WorkingDir", "/").lstrip("/"),
            command=[*config.get("Entrypoint", []), *config.get("Cmd", [])],
            environment=dict(pair.split("=", 1) for pair in config.get("Env", [])),
            architecture=about.get("architecture", "amd64"),
        )

    def _resolve(self, reference: str) -> tuple[Reference, str]:
        """What a reference names, and the digest that it stands for by what ECR has on record."""
        if not is_reference(reference):
            raise CannotPullContainer(no_image_reference(reference))
        image = read_reference(reference, self.ports())
        if image is None:
            raise CannotPullContainer(
                f"pull image manifest has been retried 1 time(s): failed to resolve ref {reference}: the sandbox reaches "
                "no registry but ECR"
            )
        if image.account not in (None, ACCOUNT):
            registry, wanted = reference.partition("/")[0], next(iter(image.image.values()))
            path = f"{image.repository}/manifests/{wanted}"
            raise CannotPullContainer(manifest_denied(reference, registry, path))
        ecr = self._aws("ecr", image.region)
        try:
            found = ecr.batch_get_image(repositoryName=image.repository, imageIds=[image.image])["images"]
        except ecr.exceptions.RepositoryNotFoundException:
            found = []
        if not found:
            raise CannotPullContainer(manifest_not_found(reference))
        return image, found[0]["imageId"]["imageDigest"]

    def _verified(self, digest: str) -> Path:
        """The file of a blob, once its bytes are what its digest says."""
        blob = self._blobs.path(digest)
        if not blob.exists():
            raise CannotPullContainer(
                f"failed to copy: httpReadSeeker: failed open: content at {digest} not found"
            )
        if (actual := digest_of_file(blob)) != digest:
            raise CannotPullContainer(
                f'failed commit on ref "layer-{digest}": unexpected commit digest {actual}, expected {digest}: '
                "failed precondition"
            )
        return blob


def _read(text: str, media_type: str | None) -> dict[str, Any]:
    try:
        return read_manifest(text, media_type)
    except NoManifest as error:
        raise AwsError(
            "InvalidParameterException",
            "Invalid parameter at 'ImageManifest' failed to satisfy constraint: 'an image manifest in JSON with "
            "config and layers, or a list of manifests'",
        ) from error


def _deletes(image_id: dict[str, str], images: list[dict[str, Any]]) -> str | None:
    """The digest of the image that would go; None when only a tag of it would, or there is none."""
    for image in images:
        tags = image.get("imageTags", [])
        if image_id.get("imageDigest") == image["imageDigest"]:
            return image["imageDigest"]
        if "imageDigest" not in image_id and tags == [image_id.get("imageTag")]:
            return image["imageDigest"]
    return None
