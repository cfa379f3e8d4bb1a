"""Stands in for ECR's own way to push layers: InitiateLayerUpload, UploadLayerPart, CompleteLayerUpload.

Differs: moto checks repository, upload and order; here the bytes are kept, and put into Distribution where it is.
"""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path
from typing import Any

from helpers.sandbox.ecr.blobs import Blobs, digest_of_file
from helpers.sandbox.ecr.own_calls import on_behalf
from helpers.sandbox.ecr.storage import Storage
from helpers.sandbox.endpoint import ACCOUNT, Aws, AwsError, Call, Handler

MIN_PART = 5 * 2**20  # bytes; all parts but the last (ECR's API reference, LayerPartTooSmallException)
LAYER_TYPE = "application/vnd.docker.image.rootfs.diff.tar.gzip"  # what ECR says of any layer


class Layers:
    def __init__(self, uploads: Path, blobs: Blobs, aws: Aws, storage: Storage | None):
        self._uploads, self._blobs, self._aws, self._storage = uploads, blobs, aws, storage
        shutil.rmtree(uploads, ignore_errors=True)  # moto forgets uploads with its process
        uploads.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._parts: dict[str, list[int]] = {}  # upload id → sizes in bytes

    def operations(self) -> dict[tuple[str, str], Handler]:
        return {
            ("ecr", "InitiateLayerUpload"): self.initiate_layer_upload,
            ("ecr", "UploadLayerPart"): self.upload_layer_part,
            ("ecr", "CompleteLayerUpload"): self.complete_layer_upload,
            ("ecr", "BatchCheckLayerAvailability"): self.batch_check_layer_availability,
        }

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
        digest = digest_of_file(file)
        if digest not in call.params["layerDigests"]:
            raise AwsError(
                "InvalidLayerException",
                f"The layer digest calculation performed by Amazon ECR ('{digest}') does not match the digest specified",
            )
        if digest in self.available(call.region, repository, [digest]):
            raise AwsError(
                "LayerAlreadyExistsException",
                f"Layer with digest '{digest}' already exists in the repository with name '{repository}' "
                f"in the registry with id '{ACCOUNT}'",
            )
        if self._storage:
            self._storage.put_layer(f"{call.region}/{repository}", digest, file)
        os.replace(file, self._blobs.path(digest))
        del self._parts[upload]
        return call.forward()

    def batch_check_layer_availability(self, call: Call) -> dict[str, Any]:
        """moto knows the layers that came by the API's calls, Distribution those that Docker pushed, too."""
        answer = call.forward()
        if self._storage is None:
            return answer
        missing, answer["failures"] = answer["failures"], []
        for failure in missing:
            digest, size = failure["layerDigest"], None
            if failure["failureCode"] == "MissingLayerDigest":
                size = self._storage.layer_size(f"{call.region}/{call.params['repositoryName']}", digest)
            if size is None:
                answer["failures"].append(failure)
                continue
            answer["layers"].append(
                {
                    "layerDigest": digest,
                    "layerAvailability": "AVAILABLE",
                    "layerSize": size,
                    "mediaType": LAYER_TYPE,
                }
            )
        return answer

    def available(self, region: str, repository: str, digests: list[str]) -> set[str]:
        """Those of the layers that a repository has."""
        ask = self._aws("ecr", region).batch_check_layer_availability
        layers = on_behalf(ask, repositoryName=repository, layerDigests=digests)["layers"]
        return {layer["layerDigest"] for layer in layers if layer["layerAvailability"] == "AVAILABLE"}
