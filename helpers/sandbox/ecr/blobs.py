"""Layers, configs and manifests as files, named by their digests."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


class Blobs:
    def __init__(self, directory: Path):
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def path(self, digest: str) -> Path:
        return self._directory / digest.removeprefix("sha256:")

    def manifest(self, digest: str) -> dict[str, Any] | None:
        try:
            return json.loads(self.path(digest).read_text())
        except (FileNotFoundError, ValueError):
            return None


def digest_of_file(file: Path) -> str:
    with file.open("rb") as stream:
        return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"
