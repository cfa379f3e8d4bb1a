"""What an image's manifest says, in Docker's and in OCI's form."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

INDEXES = (
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.index.v1+json",
)


class NoManifest(ValueError):
    """A text is no image manifest and no manifest list."""


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def read_manifest(text: str | bytes, media_type: str | None = None) -> dict[str, Any]:
    """The manifest, with `mediaType`: its own, else the given. NoManifest if it is none."""
    try:
        manifest = json.loads(text)
        manifest = {"mediaType": media_type, **manifest}
        parts = children(manifest) if is_index(manifest) else blobs(manifest)
        if all(isinstance(part["digest"], str) and isinstance(part.get("size", 0), int) for part in parts):
            return manifest
    except (ValueError, TypeError, KeyError):
        pass
    raise NoManifest


def is_index(manifest: dict[str, Any]) -> bool:
    """Whether it lists images, for several platforms say, and not layers."""
    kind = manifest.get("mediaType")
    return kind in INDEXES or (kind is None and "manifests" in manifest)


def children(index: dict[str, Any]) -> list[dict[str, Any]]:
    """The manifests that an index lists, as {"digest", "size", …}."""
    return list(index["manifests"])


def blobs(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """The config and the layers that an image manifest lists, as {"digest", "size", …}."""
    return [manifest["config"], *manifest["layers"]]


def size_of(manifest: dict[str, Any], read: Callable[[str], dict[str, Any] | None]) -> int:
    """Bytes in the registry, compressed as the layers are there; an index is as big as its biggest image.

    `read`: another manifest by its digest. Source: ImageDetail's imageSizeInBytes, ECR's API reference.
    """
    if is_index(manifest):
        found = (read(child["digest"]) for child in children(manifest))
        return max((size_of(child, read) for child in found if child), default=0)
    return sum(blob.get("size", 0) for blob in blobs(manifest))
