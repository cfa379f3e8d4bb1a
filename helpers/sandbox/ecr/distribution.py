"""Stands in for the storage behind ECR's registries: CNCF Distribution, what Docker Hub and many others run.

Differs: it serves every region, and nobody but `front.py` and `storage.py` gets in: it answers below a path that nobody
else knows. What it holds goes with the sandbox, as moto's records do, and so do the bytes of deleted images.
"""

from __future__ import annotations

import http.client
import json
import logging
import re
import secrets
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.sandbox.ecr.distribution_container import Container, find_image
from helpers.sandbox.ecr.distribution_program import PROGRAM, Program
from helpers.sandbox.ecr.distribution_runner import DistributionError, Runner

if TYPE_CHECKING:
    from docker import DockerClient

log = logging.getLogger("sandbox.distribution")

READY_TIMEOUT = 20.0  # real seconds
UPLOAD_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
ADVICE = (
    "Install it with `sudo apt-get install docker-registry`, or get its image with `docker pull registry:2`."
)


class NoDistribution(Exception):
    """CNCF Distribution is not on this machine; says what to do."""


def find_distribution(
    state: Path,
    spawn: Callable[..., subprocess.Popen[bytes]],
    engine: Callable[[], DockerClient] | None = None,
    labels: dict[str, str] | None = None,
) -> Distribution:
    """Distribution, not started yet: the program on PATH, else an image of it that the engine has.

    `spawn`: starts a process as subprocess.Popen does, one that ends with the sandbox. `engine()`: a client of Docker.
    `labels`: of a container. NoDistribution when there is neither.
    """
    directory = state / "registry"
    if program := shutil.which(PROGRAM):
        return Distribution(Program(directory, program, spawn))
    if engine is not None:
        client = engine()
        if image := find_image(client):
            return Distribution(Container(client, image, labels or {}))
    raise NoDistribution(f"There is no registry for images here: no program {PROGRAM} on PATH. {ADVICE}")


class Distribution:
    """Started, asked by HTTP, started again should it end by itself."""

    def __init__(self, runner: Runner):
        self._runner = runner
        self._lock = threading.Lock()  # of starting and ending it
        self._up = False
        self._secret = secrets.token_hex(16)
        self.prefix = f"/{self._secret}/v2/"
        self._settings = json.dumps(configuration(runner, f"/{self._secret}/"))  # JSON is YAML

    def start(self) -> None:
        """Start and wait until it answers; DistributionError if it will not."""
        with self._lock:
            self._launch()
            self._up = True

    def stop(self) -> None:
        with self._lock:
            self._up = False
            self._runner.end()

    def connect(self) -> http.client.HTTPConnection:
        """A new connection; paths on it begin with `prefix`. Should Distribution have ended, it is started first."""
        try:
            return self._connected()
        except OSError as error:
            with self._lock:
                if not self._up:
                    raise DistributionError("The sandbox's registry is not running.") from error
                if not self._runner.running():
                    log.error("Distribution ended and is started again. %s", self._last_words())
                    self._launch()
        try:
            return self._connected()
        except OSError as error:
            raise DistributionError(f"The sandbox's registry does not answer: {error}.") from error

    def discard_upload(self, name: str, upload: str) -> None:
        """Remove what came of a layer (`upload`: its id) for "<region>/<repository>": half a layer is of no use to
        anybody, and Distribution keeps it for days."""
        if UPLOAD_ID.fullmatch(upload):
            self._runner.remove(
                f"{self._runner.root}/docker/registry/v2/repositories/{name}/_uploads/{upload}"
            )

    def _connected(self) -> http.client.HTTPConnection:
        connection = self._runner.connection()
        connection.connect()
        return connection

    def _launch(self) -> None:
        try:
            self._runner.launch(self._settings)
        except OSError as error:
            raise DistributionError(
                f"Distribution, the sandbox's registry, cannot be run: {error}."
            ) from error
        deadline = time.monotonic() + READY_TIMEOUT
        while not self._answers():
            if not self._runner.running() or time.monotonic() > deadline:
                words = self._last_words()
                self._runner.end()
                raise DistributionError(f"Distribution, the sandbox's registry, does not run here. {words}")
            time.sleep(0.01)

    def _answers(self) -> bool:
        try:
            connection = self._connected()
            try:
                connection.request("GET", self.prefix)
                return connection.getresponse().status == 200
            finally:
                connection.close()
        except (OSError, http.client.HTTPException):
            return False

    def _last_words(self) -> str:
        # A layer that is not there yet is an error to it, and it says so in a thousand letters.
        lines = [line for line in self._runner.last_words() if "response completed" not in line]
        return f"Its last words: {' / '.join(line[:300] for line in lines[-3:]) or 'nothing'}"


def configuration(runner: Runner, prefix: str) -> dict[str, Any]:
    """Distribution's own; it reports to nobody."""
    return {
        "version": "0.1",
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {
            "filesystem": {"rootdirectory": runner.root},
            "delete": {"enabled": True},
            "maintenance": {"uploadpurging": {"enabled": False}},
        },
        "http": {
            **runner.listen(),
            "prefix": prefix,
            "relativeurls": True,  # it does not know by which address the front is reached
            "secret": secrets.token_hex(32),
        },
    }
