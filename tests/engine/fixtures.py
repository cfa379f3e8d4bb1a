"""Pytest's side of the engine: the fixture `engine`, labels for what tests make, and the sweep behind them.

A test that takes `engine` is skipped where no Docker Engine answers, with the reason; with ENGINE_TESTS=required, as in
`.ci/run`, it fails instead, whoever skips it.
"""

from __future__ import annotations

import gc
import io
import os
import socket
import tarfile
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.engine import base_images

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.images import Image

MADE_BY = "ec2-to-scalable-ecs.made-by-tests"  # label; its value is `OWNER`
OWNER = f"{socket.gethostname()}/{os.getpid()}"


def required() -> bool:
    return os.environ.get("ENGINE_TESTS") == "required"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    needs_engine = "engine" in getattr(item, "fixturenames", ())
    if report.skipped and not hasattr(report, "wasxfail") and needs_engine and required():
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome, report.longrepr = "failed", f"ENGINE_TESTS=required, and this was skipped: {reason}"
    return report


@pytest.fixture(scope="session")
def engine() -> Iterator[DockerClient]:
    """A client of the engine that `docker` would use, with all base images ready to build on."""
    client = _connect()
    if isinstance(client, str):
        pytest.skip(f"no Docker Engine answers: {client}")
    try:
        sweep_of_the_dead(client)
        try:
            base_images.make_ready(client)
        except base_images.NoStandIn as problem:
            pytest.skip(f"no base images, and no registry answers: {problem}")
        yield client
        sweep(client, f"{MADE_BY}={OWNER}")
    finally:
        client.close()


def _connect() -> DockerClient | str:
    """A client of the engine, or why there is none."""
    import docker
    from docker.errors import DockerException

    reason = ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the SDK drops a socket that did not connect
        try:
            return docker.from_env()
        except DockerException as problem:
            reason = str(problem)
        gc.collect()
    return reason


@pytest.fixture(scope="session")
def engine_labels() -> dict[str, str]:
    """For containers, networks and images that a test makes: what has these labels goes when the tests end."""
    return {MADE_BY: OWNER}


def sweep(client: DockerClient, label: str) -> list[str]:
    """Remove the containers, networks and images with a label ("key" or "key=value"), running or not; what went."""
    from docker.errors import APIError, NotFound

    wanted, gone = {"label": label}, []
    for container in client.containers.list(all=True, filters=wanted, ignore_removed=True):
        try:
            container.remove(force=True, v=True)
        except NotFound:
            continue
        except APIError as problem:
            if problem.status_code != 409:  # being removed already, by --rm for instance
                raise
        gone.append(f"container {container.name}")
    for network in client.networks.list(filters=wanted):
        network.remove()
        gone.append(f"network {network.name}")
    for image in client.images.list(filters=wanted):
        for name in image.tags or [image.id]:
            try:
                client.images.remove(name, force=True)
            except NotFound:
                continue
            gone.append(f"image {name}")
    return gone


def sweep_of_the_dead(client: DockerClient) -> list[str]:
    """What tests of this machine left that were killed."""
    things = [
        *client.containers.list(all=True, filters={"label": MADE_BY}, ignore_removed=True),
        *client.images.list(filters={"label": MADE_BY}),
    ]
    owners = {thing.labels[MADE_BY] for thing in things}
    owners |= {
        network.attrs["Labels"][MADE_BY] for network in client.networks.list(filters={"label": MADE_BY})
    }
    return [line for owner in owners if _dead(owner) for line in sweep(client, f"{MADE_BY}={owner}")]


def _dead(owner: str) -> bool:
    machine, _, pid = owner.rpartition("/")
    return machine == socket.gethostname() and pid.isdigit() and not psutil.pid_exists(int(pid))


def tiny_image(client: DockerClient, name: str, labels: dict[str, str], text: str = "tiny\n") -> Image:
    """An image of one file that runs nothing, made in no time: for whatever only stores and moves images.

    Another `text` is another digest. To push a stand-in for node's image takes seconds, this one milliseconds.
    """
    archive, content = io.BytesIO(), text.encode()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        member = tarfile.TarInfo("text")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    repository, _, tag = name.rpartition(":")
    client.api.import_image_from_data(
        archive.getvalue(),
        repository=repository,
        tag=tag,
        changes=['CMD ["/text"]', *(f'LABEL "{key}"="{value}"' for key, value in labels.items())],
    )
    return client.images.get(name)
