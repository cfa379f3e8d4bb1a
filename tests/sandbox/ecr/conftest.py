"""ECR with CNCF Distribution behind it: the program is real, so are the requests; time stands still unless told."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest

from helpers.sandbox.ecr.distribution import find_distribution
from helpers.sandbox.ecr.distribution_program import PROGRAM
from helpers.sandbox.ecr.manifests import digest_of
from helpers.sandbox.endpoint import Endpoint
from helpers.sandbox.registry import Registry
from tests.engine.fixtures import required
from tests.sandbox.manual_clock import ManualClock

REGION = "us-east-1"
OCI = "application/vnd.oci.image.manifest.v1+json"
SCHEMA2 = "application/vnd.docker.distribution.manifest.v2+json"
INDEX = "application/vnd.oci.image.index.v1+json"


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def error(self) -> tuple[str, str]:
        """(code, message) of the registry's protocol."""
        (error,) = json.loads(self.body)["errors"]
        return error["code"], error["message"]


@dataclass
class Client:
    """What Docker does, in plain HTTP. `authorization`: GetAuthorizationToken's."""

    port: int
    authorization: str = ""

    def ask(self, method: str, path: str, body: Any = None, chunked: bool = False, **headers: str) -> Answer:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.authorization:
            given["Authorization"] = f"Basic {self.authorization}"
        if chunked:
            given["Transfer-Encoding"] = "chunked"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, given, encode_chunked=chunked)
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def push_layer(self, repository: str, *pieces: bytes) -> str:
        """As Docker does: POST, PATCH in chunks, PUT; the layer's digest."""
        digest = digest_of(b"".join(pieces))
        begun = self.ask("POST", f"/v2/{repository}/blobs/uploads/")
        assert begun.status == 202, begun
        sent = self.ask("PATCH", begun.headers["Location"], iter(pieces), chunked=True)
        assert sent.status == 202, sent
        done = self.ask("PUT", f"{sent.headers['Location']}&digest={digest}")
        assert done.status == 201, done
        return digest

    def push(self, repository: str, tag: str | None, *layers: bytes, media_type: str = OCI) -> Answer:
        """An image of these layers; the answer to its manifest, which comes last."""
        config = b'{"architecture":"amd64","os":"linux","config":{}}'
        parts = [(self.push_layer(repository, blob), len(blob)) for blob in (config, *layers)]
        described = [{"mediaType": "x/y", "digest": digest, "size": size} for digest, size in parts]
        manifest = {
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": described[0],
            "layers": described[1:],
        }
        return self.put_manifest(repository, tag, manifest)

    def put_manifest(self, repository: str, tag: str | None, manifest: dict[str, Any]) -> Answer:
        content = json.dumps(manifest).encode()
        path = f"/v2/{repository}/manifests/{tag or digest_of(content)}"
        return self.ask("PUT", path, content, Content_Type=manifest["mediaType"])

    def pull(self, repository: str, reference: str) -> list[bytes]:
        """The layers of an image."""
        manifest = json.loads(
            self.ask("GET", f"/v2/{repository}/manifests/{reference}", Accept=f"{OCI}, {SCHEMA2}").body
        )
        return [
            self.ask("GET", f"/v2/{repository}/blobs/{layer['digest']}").body for layer in manifest["layers"]
        ]


@dataclass
class World:
    """A registry with Distribution, what it runs on, and a client of each kind. There is a repository `shop`."""

    state: Path
    clock: ManualClock
    registry: Registry
    ecr: Any
    spawned: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def port(self) -> int:
        return self.registry.ports()[REGION]

    @property
    def uri(self) -> str:
        return f"127.0.0.1:{self.port}/shop"

    def token(self) -> str:
        return self.ecr.get_authorization_token()["authorizationData"][0]["authorizationToken"]

    def docker(self) -> Client:
        return Client(self.port, self.token())

    def images(self, repository: str = "shop") -> dict[str, dict[str, Any]]:
        found = self.ecr.describe_images(repositoryName=repository)["imageDetails"]
        return {image["imageDigest"]: image for image in found}

    def stored(self, path: str) -> int:
        """Distribution's own status for a path below /v2/us-east-1/, asked past the front."""
        distribution = self.registry._distribution
        connection = distribution.connect()
        try:
            connection.request(
                "HEAD",
                f"{distribution.prefix}{REGION}/{path}",
                headers={"Accept": f"{OCI}, {SCHEMA2}, {INDEX}"},
            )
            return connection.getresponse().status
        finally:
            connection.close()

    def kill_distribution(self) -> None:
        self.spawned[-1].send_signal(signal.SIGKILL)
        self.spawned[-1].wait(10)


@pytest.fixture(scope="session")
def program() -> str:
    """Where the registry program is; skips, or fails where the engine's tests are required, when it is missing."""
    found = shutil.which(PROGRAM)
    if found is None:
        (pytest.fail if required() else pytest.skip)(f"there is no program {PROGRAM} on PATH")
    return found


@pytest.fixture
def make_world(program: str, endpoint: Endpoint, tmp_path: Path) -> Iterator[Callable[..., World]]:
    """`ports`: the registry's addresses of an earlier sandbox. `program`: another to run in Distribution's place."""
    made: list[World] = []

    def make(ports: dict[str, int] | None = None, program: str | None = None) -> World:
        spawned: list[subprocess.Popen[bytes]] = []

        def spawn(argv: list[str], **options: Any) -> subprocess.Popen[bytes]:
            spawned.append(subprocess.Popen([program or argv[0], *argv[1:]], **options))
            return spawned[-1]

        clock = ManualClock()
        distribution = find_distribution(tmp_path, spawn)
        registry = Registry(tmp_path, clock, endpoint.client, distribution, ports)
        endpoint.handlers.clear()
        endpoint.add(registry.operations())
        session = boto3.session.Session(region_name=REGION, aws_access_key_id="x", aws_secret_access_key="x")
        ecr = session.client("ecr", endpoint_url=endpoint.url)
        made.append(World(tmp_path, clock, registry, ecr, spawned))
        registry.start()
        return made[-1]

    yield make
    for world in made:
        for repository in world.ecr.describe_repositories()["repositories"]:
            world.ecr.delete_repository(repositoryName=repository["repositoryName"], force=True)
        world.registry.close()
        assert all(process.poll() is not None for process in world.spawned)


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    world = make_world()
    world.ecr.create_repository(repositoryName="shop")
    return world


@pytest.fixture
def no_docker_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of a docker command that neither reads nor writes what whoever runs the tests is logged in to."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    return dict(os.environ)
