"""Stands in for the storage behind ECR's registries: CNCF Distribution, what Docker Hub and many others run.

Differs: it serves every region, and nobody but `front.py` and `storage.py` gets in: it listens on a socket that only
this user may open, below a path that nobody else knows. What it holds goes with the sandbox, as moto's records do, and
so do the bytes of deleted images.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from docker import DockerClient

log = logging.getLogger("sandbox.distribution")

PROGRAM = "docker-registry"  # Debian's and Ubuntu's name for it
READY_TIMEOUT = 20.0  # real seconds
ANSWERS_WITHIN = 300.0  # real seconds between two bytes
LONGEST_SOCKET = 100  # bytes of a path; the kernel's limit is 108 on Linux, 104 on macOS
UPLOAD_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
ADVICE = (
    "Install it with `sudo apt-get install docker-registry`, or get its image with `docker pull registry:2`."
)


class NoDistribution(Exception):
    """CNCF Distribution is not on this machine; says what to do."""


class DistributionError(RuntimeError):
    """Distribution does not run, or not as it should; says why."""


class Runner(Protocol):
    """How Distribution is run: as a process, or as a container."""

    root: str  # its storage, as it sees it

    def listen(self) -> dict[str, Any]:
        """Its settings of where to listen."""

    def launch(self, settings: str) -> None:
        """Start it, again if need be, with this configuration; OSError or DistributionError."""

    def running(self) -> bool: ...

    def connection(self) -> http.client.HTTPConnection:
        """To it, not connected yet."""

    def last_words(self) -> list[str]:
        """The last lines of its log."""

    def remove(self, path: str) -> None:
        """Remove a directory of its storage."""

    def end(self) -> None:
        """End it, and remove what it leaves."""


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
        from helpers.sandbox.ecr.distribution_container import Container, find_image

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
            self._process.terminate()
            try:
                self._process.wait(timeout=2)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
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
