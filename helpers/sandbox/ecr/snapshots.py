"""Stands in for what a Fargate host does with a pulled image: here a *snapshot* becomes a directory, once.

Differs: a snapshot is an image of one layer that holds the app's directory, and no operating system.
"""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

MAX_UNPACKED = 2**31  # bytes of an extracted image; a Fargate task has 20 GB, this machine's disk is shared


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
    architecture: str = "amd64"  # as Docker calls it


def extract(layer: Path, home: Path) -> None:
    """All of the layer or nothing: other tasks may be starting from the same image."""
    beside = Path(tempfile.mkdtemp(prefix=".extracting-", dir=home.parent))
    try:
        with tarfile.open(layer, "r:gz") as archive:
            if sum(member.size for member in archive) > MAX_UNPACKED:
                raise CannotPullContainer(f"failed to extract layer: more than {MAX_UNPACKED} bytes")
            extract_all(archive, beside)
        os.rename(beside, home)
    except (tarfile.TarError, EOFError) as error:
        raise CannotPullContainer(f"failed to extract layer: {error}") from error
    except OSError as error:
        if not home.exists():  # else another task's start was first
            raise CannotPullContainer(f"failed to extract layer: {error}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def extract_all(archive: tarfile.TarFile, directory: Path) -> None:
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
