"""Stands in for the storage behind ECR's registries where Distribution comes as a container and not as a program.

Differs: as `distribution.py`. It listens on a port of loopback. Its files are in a volume of its own, which goes with it;
Docker's label says whose it is.
"""

from __future__ import annotations

import http.client
import io
import tarfile
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from helpers.sandbox.ecr.distribution_runner import ANSWERS_WITHIN, DistributionError

if TYPE_CHECKING:
    from docker import DockerClient

IMAGES = tuple(
    f"{name}:{version}"
    for version in ("2", "3", "latest")
    for name in ("registry", "public.ecr.aws/docker/library/registry")
)
PORT = 5000  # inside the container
CONFIG = "sandbox-registry.yml"


def find_image(engine: DockerClient) -> str | None:
    """An image of Distribution that the engine has; nothing is pulled."""
    from docker.errors import ImageNotFound

    for name in IMAGES:
        try:
            engine.images.get(name)
        except ImageNotFound:
            continue
        return name
    return None


class Container:
    """Published on a port of this machine's loopback."""

    root = "/var/lib/registry"  # a volume, in the image's own words

    def __init__(self, engine: DockerClient, image: str, labels: dict[str, str]):
        self._engine, self._image, self._labels = engine, image, labels
        self._container: Any = None

    def listen(self) -> dict[str, Any]:
        return {"addr": f":{PORT}"}

    def launch(self, settings: str) -> None:
        from docker.errors import DockerException

        try:
            if self._container is None:
                self._container = self._engine.containers.create(
                    self._image,
                    entrypoint=["registry"],
                    command=["serve", f"/{CONFIG}"],
                    environment={"OTEL_TRACES_EXPORTER": "none"},
                    labels=self._labels,
                    ports={f"{PORT}/tcp": ("127.0.0.1", None)},
                )
                self._container.put_archive("/", _archive(CONFIG, settings.encode()))
            self._container.start()
        except DockerException as error:
            self.end()
            raise DistributionError(
                f"The image {self._image}, the sandbox's registry, cannot be run: {error}"
            ) from error

    def running(self) -> bool:
        from docker.errors import DockerException

        try:
            self._container.reload()
        except DockerException:
            return False
        return self._container.status == "running"

    def connection(self) -> http.client.HTTPConnection:
        published = self._container.ports.get(f"{PORT}/tcp") if self._container is not None else None
        if not published:
            if self._container is None or not self.running():
                raise ConnectionRefusedError(f"{self._image} is not running")
            published = self._container.ports[f"{PORT}/tcp"]
        return http.client.HTTPConnection("127.0.0.1", int(published[0]["HostPort"]), timeout=ANSWERS_WITHIN)

    def last_words(self) -> list[str]:
        from docker.errors import DockerException

        try:
            return self._container.logs(tail=100).decode(errors="replace").splitlines()
        except (DockerException, AttributeError):
            return []

    def remove(self, path: str) -> None:
        from docker.errors import DockerException

        with suppress(DockerException):  # it has just ended, and its files with it
            self._container.exec_run(["rm", "-rf", path])

    def end(self) -> None:
        from docker.errors import DockerException

        container, self._container = self._container, None
        if container is not None:
            with suppress(DockerException):  # gone already, with the engine or by somebody's hand
                container.remove(force=True, v=True)


def _archive(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = len(content), 0o644
        archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
