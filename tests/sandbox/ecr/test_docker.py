"""The registry as Docker meets it: the `docker` command and its SDK against a true engine."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from helpers.sandbox.ecr.manifests import digest_of
from tests.engine.fixtures import tiny_image
from tests.sandbox.ecr.conftest import World
from tests.sandbox.ecr.test_storage import upload

EXPIRED = "denied: Your authorization token has expired. Reauthenticate and try again."


def password(world: World) -> str:
    return base64.b64decode(world.token()).decode().partition(":")[2]


def login(world: World) -> dict[str, str]:
    return {"username": "AWS", "password": password(world)}


def push(engine, name: str, auth: dict[str, str]) -> list[dict[str, Any]]:
    """The events of a push; errors come among them."""
    return list(engine.api.push(name, stream=True, decode=True, auth_config=auth))


def errors(events: list[dict[str, Any]]) -> list[str]:
    return [event["error"] for event in events if "error" in event]


@pytest.fixture
def image(engine, engine_labels, world) -> Callable[..., str]:
    """Make a tiny image, named as it is to be pushed."""

    def make(tag: str = "v1", text: str = "one", repository: str = "shop") -> str:
        name = f"127.0.0.1:{world.port}/{repository}:{tag}"
        tiny_image(engine, name, engine_labels, text)
        return name

    return make


@pytest.fixture
def docker(engine, no_docker_settings) -> Callable[..., subprocess.CompletedProcess[str]]:
    if shutil.which("docker") is None:
        pytest.skip("there is no docker command on PATH")

    def run(*words: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["docker", *words],
            input=given,
            capture_output=True,
            text=True,
            env=no_docker_settings,
            timeout=120,
        )

    return run


def test_login_push_and_pull_as_the_article_tells_it(engine, docker, world, image):
    name, host = image(), world.uri.partition("/")[0]
    refused = docker("push", name)
    assert "no basic auth credentials" in refused.stderr
    entered = docker("login", "--username", "AWS", "--password-stdin", host, given=password(world))
    assert "Login Succeeded" in entered.stdout
    pushed = docker("push", name)
    assert pushed.returncode == 0, pushed.stderr
    (digest,) = world.images()
    assert digest in pushed.stdout
    docker("rmi", name)
    pulled = docker("pull", f"{world.uri}@{digest}")
    assert pulled.returncode == 0, pulled.stderr
    assert digest in pulled.stdout
    docker("rmi", f"{world.uri}@{digest}")


@pytest.mark.parametrize("secret", ["wrong", ""])
def test_a_wrong_token_does_not_log_in(docker, world, secret):
    refused = docker(
        "login", "-u", "AWS", "--password-stdin", world.uri.partition("/")[0], given=f"{secret}x"
    )
    assert refused.returncode != 0
    assert "401 Unauthorized" in refused.stderr


def test_a_wrong_or_expired_token_does_not_push_or_pull(engine, world, image):
    name = image()
    (refused,) = errors(push(engine, name, {"username": "AWS", "password": "wrong"}))
    assert "no basic auth credentials" in refused or "unauthorized" in refused
    old = login(world)
    assert errors(push(engine, name, old)) == []
    world.clock.advance(12 * 3600)
    assert errors(push(engine, name, old)) == [EXPIRED]
    import docker.errors

    with pytest.raises(docker.errors.APIError, match="authorization token has expired"):
        engine.api.pull(name, auth_config=old)
    assert errors(push(engine, name, login(world))) == []


def test_the_digest_that_docker_tells_is_the_one_on_record(engine, world, image):
    events = push(engine, image(), login(world))
    (told,) = [event["aux"] for event in events if "Digest" in event.get("aux", {})]
    ((digest, details),) = world.images().items()
    assert (told["Digest"], told["Tag"]) == (digest, "v1")
    assert details["imageManifestMediaType"].endswith("manifest.v2+json")
    (got,) = world.ecr.batch_get_image(repositoryName="shop", imageIds=[{"imageTag": "v1"}])["images"]
    assert digest_of(got["imageManifest"].encode()) == digest


def test_an_unknown_repository_is_refused_in_ecrs_words(engine, world, image):
    message = "The repository with name 'nowhere' does not exist in the registry with id '123456789012'"
    assert errors(push(engine, image(repository="nowhere"), login(world))) == [f"name unknown: {message}"]


@pytest.mark.parametrize("text", ["another", "one"])
def test_an_immutable_tag_is_refused_in_ecrs_words(engine, world, image, text):
    world.ecr.put_image_tag_mutability(repositoryName="shop", imageTagMutability="IMMUTABLE")
    assert errors(push(engine, image(text="one"), login(world))) == []
    assert errors(push(engine, image(text=text), login(world))) == [
        "tag invalid: The image tag 'v1' already exists in the 'shop' repository and cannot be overwritten because "
        "the tag is immutable."
    ]


def test_what_is_not_there_is_not_pulled(engine, world):
    import docker.errors

    with pytest.raises(docker.errors.NotFound, match="manifest unknown: Requested image not found"):
        engine.api.pull(f"{world.uri}:v9", auth_config=login(world))


def test_a_task_pulls_with_what_the_registry_tells_it(engine, world, image):
    name = image()
    push(engine, name, login(world))
    (digest,) = world.images()
    engine.images.remove(name, force=True)
    reference, auth = world.registry.pull_spec(f"{world.uri}:v1", "us-east-1")
    pulled = engine.images.pull(reference, auth_config=auth)
    assert pulled.attrs["RepoDigests"] == [f"{world.uri}@{digest}"]
    engine.images.remove(pulled.id, force=True)


def test_a_snapshot_that_came_by_the_api_can_be_pulled(engine, world, engine_labels):
    """Docker wants of an image what OCI wants, and no more."""
    import gzip
    import io
    import tarfile

    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo("app/server.js")
        entry.size = 1
        tar.addfile(entry, io.BytesIO(b"1"))
    layer = gzip.compress(archive.getvalue(), mtime=0)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["node", "server.js"], "Labels": engine_labels},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(archive.getvalue())]},
    }
    blobs = [json.dumps(config).encode(), layer]
    for blob in blobs:
        upload(world.ecr, blob)
    kinds = ["application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.layer.v1.tar+gzip"]
    parts = [
        {"mediaType": kind, "digest": digest_of(blob), "size": len(blob)}
        for kind, blob in zip(kinds, blobs, strict=True)
    ]
    oci = "application/vnd.oci.image.manifest.v1+json"
    manifest = {"schemaVersion": 2, "mediaType": oci, "config": parts[0], "layers": parts[1:]}
    world.ecr.put_image(repositoryName="shop", imageManifest=json.dumps(manifest), imageTag="v1")
    reference, auth = world.registry.pull_spec(f"{world.uri}:v1", "us-east-1")
    pulled = engine.images.pull(reference, auth_config=auth)
    assert pulled.attrs["Config"]["Cmd"] == ["node", "server.js"]
    engine.images.remove(pulled.id, force=True)


def test_a_push_survives_the_end_of_the_registry_program(engine, world, image):
    name = image(text=os.urandom(2**20).hex())
    world.kill_distribution()
    assert errors(push(engine, name, login(world))) == []
    assert len(world.images()) == 1


def test_a_push_to_a_registry_that_cannot_run_says_why(engine, world, image, monkeypatch):
    auth, name = login(world), image()
    monkeypatch.setattr(world.registry._distribution._runner, "_program", "/nowhere/docker-registry")
    world.kill_distribution()
    (refused,) = errors(push(engine, name, auth))
    assert refused.startswith("denied: Distribution, the sandbox's registry, cannot be run")
