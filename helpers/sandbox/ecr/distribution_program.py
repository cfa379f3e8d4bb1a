"""Stands in for the storage behind ECR's registries where Distribution is a program on PATH.

Differs: as `distribution.py`. It listens on a socket in a directory that only this user may enter.
"""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers.sandbox.ecr.distribution_runner import ANSWERS_WITHIN
from helpers.sandbox.fargate.host import end

PROGRAM = "docker-registry"  # Debian's and Ubuntu's name for it
LONGEST_SOCKET = 100  # bytes of a path; the kernel's limit is 108 on Linux, 104 on macOS


class Program:
    """A process of this machine, reached by a socket in a directory that only this user may enter."""

    def __init__(self, directory: Path, program: str, spawn: Callable[..., subprocess.Popen[bytes]]):
        self._directory, self._program, self._spawn = directory, program, spawn
        self._process: subprocess.Popen[bytes] | None = None
        self._own: Path | None = None
        self._socket = directory / "socket"
        if len(os.fsencode(self._socket)) > LONGEST_SOCKET:
            self._own = Path(tempfile.mkdtemp(prefix="registry-"))
            self._socket = self._own / "socket"
        self.root = str(directory / "storage")

    def listen(self) -> dict[str, Any]:
        return {"net": "unix", "addr": str(self._socket)}

    def launch(self, settings: str) -> None:
        if self._process is None:
            shutil.rmtree(self._directory, ignore_errors=True)  # an earlier sandbox's, whose records are gone
            self._directory.mkdir(parents=True, mode=0o700)
        file = self._directory / "config.yml"
        file.write_text(settings)
        with open(self._directory / "registry.log", "ab") as output:
            self._process = self._spawn(
                [self._program, "serve", str(file)],
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def connection(self) -> http.client.HTTPConnection:
        return _UnixConnection(self._socket)

    def last_words(self) -> list[str]:
        try:
            return (self._directory / "registry.log").read_text(errors="replace").splitlines()[-100:]
        except OSError:
            return []

    def remove(self, path: str) -> None:
        shutil.rmtree(path, ignore_errors=True)

    def end(self) -> None:
        if self._process is not None:
            end(self._process)
            self._process = None
        if self._own:
            shutil.rmtree(self._own, ignore_errors=True)


def _environment() -> dict[str, str]:
    """Without settings that would override the file's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("REGISTRY_", "OTEL_"))}
    return kept | {"OTEL_TRACES_EXPORTER": "none"}  # else version 3 looks for a collector of traces


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path):
        super().__init__("registry", timeout=ANSWERS_WITHIN)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        try:
            self.sock.settimeout(self.timeout)
            self.sock.connect(str(self._path))
        except OSError:
            self.close()
            raise
