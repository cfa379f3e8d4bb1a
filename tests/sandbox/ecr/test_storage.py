"""ECR's API with Distribution behind it: what its calls put there, find there and take away."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os

import pytest
from botocore.exceptions import ClientError

from helpers.sandbox.ecr.manifests import digest_of
from helpers.sandbox.registry import CannotPullContainer
from tests.sandbox.ecr.conftest import OCI, REGION, Client, World


def upload(ecr, blob: bytes) -> str:
    upload_id = ecr.initiate_layer_upload(repositoryName="shop")["uploadId"]
    last = len(blob) - 1
    ecr.upload_layer_part(
        repositoryName="shop", uploadId=upload_id, partFirstByte=0, partLastByte=last, layerPartBlob=blob
    )
    answer = ecr.complete_layer_upload(
        repositoryName="shop", uploadId=upload_id, layerDigests=[digest_of(blob)]
    )
    return answer["layerDigest"]


def put(ecr, *layers: bytes, tag: str = "v1") -> str:
    """An image by ECR's own calls, not Docker's; its digest."""
    config = b'{"config": {}}'
    for blob in (config, *layers):
        upload(ecr, blob)
    parts = [{"mediaType": "x/y", "digest": digest_of(blob), "size": len(blob)} for blob in (config, *layers)]
    manifest = {"schemaVersion": 2, "mediaType": OCI, "config": parts[0], "layers": parts[1:]}
    image = ecr.put_image(repositoryName="shop", imageManifest=json.dumps(manifest), imageTag=tag)["image"]
    return image["imageId"]["imageDigest"]


def delete(ecr, **image_id: str) -> dict:
    return ecr.batch_delete_image(repositoryName="shop", imageIds=[image_id])


def code(caught) -> str:
    return caught.value.response["Error"]["Code"]


def test_an_image_that_came_by_the_api_is_pulled_by_docker(world):
    layers = [os.urandom(100_000), b"small"]
    digest = put(world.ecr, *layers)
    assert world.docker().pull("shop", "v1") == world.docker().pull("shop", digest) == layers


def test_a_layer_that_docker_pushed_is_known_to_the_api(world):
    digest, missing = world.docker().push_layer("shop", b"layer"), digest_of(b"another")
    asked = [digest, missing, "nonsense"]
    answer = world.ecr.batch_check_layer_availability(repositoryName="shop", layerDigests=asked)
    assert answer["layers"] == [
        {
            "layerDigest": digest,
            "layerAvailability": "AVAILABLE",
            "layerSize": 5,
            "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
        }
    ]
    failures = {failure["layerDigest"]: failure["failureCode"] for failure in answer["failures"]}
    assert failures == {missing: "MissingLayerDigest", "nonsense": "InvalidLayerDigest"}
    with pytest.raises(ClientError) as caught:
        upload(world.ecr, b"layer")
    assert code(caught) == "LayerAlreadyExistsException"


def test_a_deleted_image_is_gone_from_the_storage(world):
    docker = world.docker()
    digest = docker.push("shop", "v1", b"layer").headers["Docker-Content-Digest"]
    assert world.stored(f"shop/manifests/{digest}") == 200
    assert delete(world.ecr, imageDigest=digest)["imageIds"] == [{"imageDigest": digest, "imageTag": "v1"}]
    assert world.stored(f"shop/manifests/{digest}") == 404
    assert docker.ask("GET", f"/v2/shop/manifests/{digest}").status == 404
    assert world.images() == {}
    assert docker.push("shop", "v1", b"layer").status == 201, "it may come again"
    assert docker.pull("shop", "v1") == [b"layer"]


def test_a_deleted_tag_takes_the_image_along_only_when_it_is_the_last(world):
    docker = world.docker()
    for tag in ("v1", "latest"):
        digest = docker.push("shop", tag, b"layer").headers["Docker-Content-Digest"]
    delete(world.ecr, imageTag="v1")
    assert docker.ask("GET", "/v2/shop/manifests/v1").status == 404
    assert docker.pull("shop", "latest") == [b"layer"]
    delete(world.ecr, imageTag="latest")
    assert world.stored(f"shop/manifests/{digest}") == 404


def test_a_deleted_image_without_tag_is_told(world):
    digest = world.docker().push("shop", None, b"layer").headers["Docker-Content-Digest"]
    answer = delete(world.ecr, imageDigest=digest)
    assert (answer["imageIds"], answer["failures"]) == ([{"imageDigest": digest}], [])
    assert delete(world.ecr, imageDigest=digest)["failures"][0]["failureCode"] == "ImageNotFound"


def test_a_repository_takes_its_images_and_layers_along(world):
    docker = world.docker()
    digest = docker.push("shop", "v1", b"layer").headers["Docker-Content-Digest"]
    with pytest.raises(ClientError) as caught:
        world.ecr.delete_repository(repositoryName="shop")
    assert code(caught) == "RepositoryNotEmptyException"
    assert docker.pull("shop", "v1") == [b"layer"]

    world.ecr.delete_repository(repositoryName="shop", force=True)
    assert docker.ask("GET", "/v2/shop/manifests/v1").error[0] == "NAME_UNKNOWN"
    assert world.stored(f"shop/manifests/{digest}") == 404
    world.ecr.create_repository(repositoryName="shop")
    assert docker.ask("HEAD", f"/v2/shop/blobs/{digest_of(b'layer')}").status == 404


def test_a_lifecycle_preview_tells_what_would_expire_of_what_docker_pushed(world):
    docker = world.docker()
    old = docker.push("shop", "v1", b"old").headers["Docker-Content-Digest"]
    world.clock.advance(60)
    docker.push("shop", "v2", b"new")
    rule = {
        "rulePriority": 1,
        "selection": {"tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": 1},
        "action": {"type": "expire"},
    }
    world.ecr.start_lifecycle_policy_preview(
        repositoryName="shop", lifecyclePolicyText=json.dumps({"rules": [rule]})
    )
    world.clock.advance(5)
    (expiring,) = world.ecr.get_lifecycle_policy_preview(repositoryName="shop")["previewResults"]
    assert (expiring["imageDigest"], expiring["imageTags"]) == (old, ["v1"])


def test_the_uri_is_what_docker_can_push_to_whichever_call_tells_it(world):
    created = world.ecr.create_repository(repositoryName="team/app")["repository"]
    assert created["repositoryUri"] == f"127.0.0.1:{world.port}/team/app"
    (told,) = world.ecr.describe_repositories(repositoryNames=["team/app"])["repositories"]
    deleted = world.ecr.delete_repository(repositoryName="team/app")["repository"]
    assert told["repositoryUri"] == deleted["repositoryUri"] == created["repositoryUri"]
    assert told["repositoryArn"] == f"arn:aws:ecr:{REGION}:123456789012:repository/team/app"


# --- what a task pulls ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["digest", "tag"])
@pytest.mark.parametrize("of", ["front", "ecr"])
def test_a_task_pulls_by_digest_whatever_names_the_image(world, by, of):
    digest = world.docker().push("shop", "v1", b"layer").headers["Docker-Content-Digest"]
    uri = world.uri if of == "front" else f"123456789012.dkr.ecr.{REGION}.amazonaws.com/shop"
    reference, login = world.registry.pull_spec(f"{uri}@{digest}" if by == "digest" else f"{uri}:v1", REGION)
    assert reference == f"{world.uri}@{digest}"
    assert login["username"] == "AWS"
    token = base64.b64encode(f"AWS:{login['password']}".encode()).decode()
    assert Client(world.port, token).pull("shop", digest) == [b"layer"]


@pytest.mark.parametrize(
    ("reference", "why"),
    [
        (
            "127.0.0.1:{port}/shop:v2",
            "failed to resolve ref 127.0.0.1:{port}/shop:v2: 127.0.0.1:{port}/shop:v2: not found",
        ),
        ("127.0.0.1:{port}/nowhere:v1", "not found"),
        ("127.0.0.1:1/shop:v1", "no registry but ECR"),
        ("210987654321.dkr.ecr.us-east-1.amazonaws.com/shop:v1", "403 Forbidden"),
    ],
)
def test_what_a_task_cannot_pull_is_told_in_ecs_words(world, reference, why):
    world.docker().push("shop", "v1", b"layer")
    with pytest.raises(CannotPullContainer) as caught:
        world.registry.pull_spec(reference.format(port=world.port), REGION)
    assert why.format(port=world.port) in caught.value.reason


# --- Distribution in trouble ------------------------------------------------------------------------------------------


def break_for_good(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world.registry._distribution._runner, "_program", "/nowhere/docker-registry")
    world.kill_distribution()


def test_without_distribution_the_api_says_so_and_nothing_is_half_there(world, monkeypatch):
    break_for_good(world, monkeypatch)
    with pytest.raises(ClientError, match="cannot be run") as caught:
        put(world.ecr, b"layer")
    assert code(caught) == "ServerException"
    assert world.images() == {}


def test_what_is_deleted_stays_deleted_though_the_storage_does_not_answer(world, monkeypatch, caplog):
    digest = put(world.ecr, b"layer")
    break_for_good(world, monkeypatch)
    delete(world.ecr, imageDigest=digest)
    assert world.images() == {}
    assert "is not deleted" in caplog.text


def test_a_full_disk_is_told_by_the_api_and_to_docker(world, monkeypatch):
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    docker = world.docker()
    monkeypatch.setattr(world.registry._storage, "put_manifest", full)
    with pytest.raises(ClientError, match="is full") as caught:
        put(world.ecr, b"layer")
    assert code(caught) == "InsufficientStorage"
    refused = docker.push("shop", "v1", b"layer")
    assert refused.error[0] == "DENIED"
    assert "no space left on device" in refused.error[1]
    assert world.images() == {}


def test_the_bytes_of_a_layer_are_what_its_digest_says(world):
    blob = os.urandom(2**20 + 1)
    put(world.ecr, blob)
    (pulled,) = world.docker().pull("shop", "v1")
    assert hashlib.sha256(pulled).digest() == hashlib.sha256(blob).digest()
