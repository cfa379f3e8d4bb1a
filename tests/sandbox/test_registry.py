"""ECR's storage: called by boto3 as docker or a pipeline would, with moto's records behind it."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import tarfile
from datetime import UTC, datetime
from types import SimpleNamespace

import boto3
import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from helpers.sandbox.ecr import layers, snapshots
from helpers.sandbox.endpoint import AwsError, Call
from helpers.sandbox.registry import CannotPullContainer, Image, Registry
from tests.sandbox.manual_clock import ManualClock

REGION = "us-east-1"
SHOP = f"123456789012.dkr.ecr.{REGION}.amazonaws.com/shop"
OCI = "application/vnd.oci.image.manifest.v1+json"


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def registry(endpoint, clock, tmp_path):
    registry = Registry(tmp_path, clock, endpoint.client)
    endpoint.handlers.clear()
    endpoint.add(registry.operations())
    return registry


@pytest.fixture
def ecr(endpoint, registry):
    session = boto3.session.Session(region_name=REGION, aws_access_key_id="x", aws_secret_access_key="x")
    client = session.client("ecr", endpoint_url=endpoint.url)
    client.create_repository(repositoryName="shop")
    yield client
    client.delete_repository(repositoryName="shop", force=True)


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def layer(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return gzip.compress(buffer.getvalue(), mtime=0)


def upload(ecr, blob: bytes, *, part: int = 2**20 * 20, digest: str | None = None) -> str:
    upload_id = ecr.initiate_layer_upload(repositoryName="shop")["uploadId"]
    for first in range(0, len(blob), part):
        piece = blob[first : first + part]
        ecr.upload_layer_part(
            repositoryName="shop",
            uploadId=upload_id,
            partFirstByte=first,
            partLastByte=first + len(piece) - 1,
            layerPartBlob=piece,
        )
    done = ecr.complete_layer_upload(
        repositoryName="shop", uploadId=upload_id, layerDigests=[digest or digest_of(blob)]
    )
    return done["layerDigest"]


def push(ecr, text: str = "1", tag: str | None = "v1", layers: list[bytes] | None = None) -> str:
    """An image with one file, server.js, that holds `text`; returns its digest."""
    blobs = layers or [layer({"app/server.js": text})]
    config = json.dumps(
        {"config": {"Cmd": ["node", "server.js"], "Env": ["A=b=c"], "WorkingDir": "/app"}}
    ).encode()
    for blob in [config, *blobs]:
        known = ecr.batch_check_layer_availability(repositoryName="shop", layerDigests=[digest_of(blob)])
        if not known["layers"]:
            upload(ecr, blob)
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI,
            "config": {"digest": digest_of(config), "size": len(config)},
            "layers": [{"digest": digest_of(blob), "size": len(blob)} for blob in blobs],
        }
    )
    tags = {"imageTag": tag} if tag else {}
    image = ecr.put_image(repositoryName="shop", imageManifest=manifest, **tags)["image"]
    return image["imageId"]["imageDigest"]


def index_of(child: str) -> str:
    """A manifest list of this image alone, for arm64."""
    listed = {
        "mediaType": OCI,
        "digest": child,
        "size": 1,
        "platform": {"os": "linux", "architecture": "arm64"},
    }
    kind = "application/vnd.oci.image.index.v1+json"
    return json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": [listed]})


def described(ecr) -> dict[str, dict]:
    found = ecr.describe_images(repositoryName="shop")["imageDetails"]
    return {image["imageDigest"]: image for image in found}


def pull(registry: Registry, digest: str) -> Image:
    return registry.image(f"{SHOP}@{digest}", REGION)


def code(caught) -> str:
    return caught.value.response["Error"]["Code"]


# --- images on record -------------------------------------------------------------------------------------------------


def test_an_image_is_known_by_the_digest_of_its_manifest(ecr):
    digest = push(ecr)
    (image,) = ecr.batch_get_image(repositoryName="shop", imageIds=[{"imageTag": "v1"}])["images"]
    assert digest_of(image["imageManifest"].encode()) == digest == image["imageId"]["imageDigest"]
    assert ecr.list_images(repositoryName="shop")["imageIds"] == [{"imageDigest": digest, "imageTag": "v1"}]


def test_describe_images_tells_size_tags_and_aws_time(ecr, clock):
    blob = layer({"app/server.js": "x" * 5000})
    digest = push(ecr, layers=[blob])
    clock.advance(600)
    image = described(ecr)[digest]
    assert image["imageTags"] == ["v1"]
    assert len(blob) < image["imageSizeInBytes"] < len(blob) + 500
    assert image["imagePushedAt"].astimezone(UTC) == datetime.fromtimestamp(clock.time() - 600, UTC)
    assert image["imageManifestMediaType"] == OCI


def test_images_are_found_by_whether_they_have_a_tag(ecr):
    old, new = push(ecr, "old"), push(ecr, "new")
    for status, found in (("TAGGED", [new]), ("UNTAGGED", [old]), ("ANY", [new, old])):
        told = ecr.describe_images(repositoryName="shop", filter={"tagStatus": status})["imageDetails"]
        assert sorted(image["imageDigest"] for image in told) == sorted(found)


def test_the_same_image_may_have_two_tags(ecr):
    assert push(ecr, tag="v1") == push(ecr, tag="latest")
    assert sorted(described(ecr).popitem()[1]["imageTags"]) == ["latest", "v1"]


def test_the_same_image_under_the_same_tag_is_there_already(ecr):
    push(ecr)
    with pytest.raises(ClientError) as caught:
        push(ecr)
    assert code(caught) == "ImageAlreadyExistsException"


def test_a_moved_tag_leaves_the_old_image_untagged_and_runnable(ecr, registry, clock):
    old = push(ecr, "old")
    pushed = described(ecr)[old]["imagePushedAt"]
    clock.advance(3600)
    new = push(ecr, "new")
    images = described(ecr)
    assert images.keys() == {old, new}
    assert "imageTags" not in images[old]
    assert images[old]["imagePushedAt"] == pushed != images[new]["imagePushedAt"]
    assert images[new]["imageTags"] == ["v1"]
    assert (pull(registry, old).rootfs / "server.js").read_text() == "old"


def test_a_tag_that_moves_leaves_the_other_tags_of_the_old_image(ecr):
    old = push(ecr, "old", "v1")
    push(ecr, "old", "latest")
    new = push(ecr, "new", "latest")
    assert {digest: image["imageTags"] for digest, image in described(ecr).items()} == {
        old: ["v1"],
        new: ["latest"],
    }


def test_an_immutable_tag_cannot_move(ecr):
    ecr.put_image_tag_mutability(repositoryName="shop", imageTagMutability="IMMUTABLE")
    digest = push(ecr, "old")
    with pytest.raises(ClientError, match=r"'v1' already exists in the 'shop' repository") as caught:
        push(ecr, "new")
    assert code(caught) == "ImageTagAlreadyExistsException"
    assert list(described(ecr)) == [digest]
    with pytest.raises(ClientError) as caught:
        push(ecr, "old")
    assert code(caught) == "ImageAlreadyExistsException"


def test_a_manifest_needs_its_layers(ecr):
    missing = digest_of(b"nobody has this")
    manifest = json.dumps({"mediaType": OCI, "config": {"digest": missing, "size": 1}, "layers": []})
    with pytest.raises(ClientError, match=missing) as caught:
        ecr.put_image(repositoryName="shop", imageManifest=manifest, imageTag="v1")
    assert code(caught) == "LayersNotFoundException"


def test_layers_belong_to_a_repository(ecr):
    push(ecr)
    (image,) = ecr.batch_get_image(repositoryName="shop", imageIds=[{"imageTag": "v1"}])["images"]
    ecr.create_repository(repositoryName="other")
    with pytest.raises(ClientError) as caught:
        ecr.put_image(repositoryName="other", imageManifest=image["imageManifest"], imageTag="v1")
    ecr.delete_repository(repositoryName="other", force=True)
    assert code(caught) == "LayersNotFoundException"


@pytest.mark.parametrize("manifest", ["{", "[]", '{"mediaType": "x", "manifests": []}'])
def test_what_is_no_image_manifest_is_refused(ecr, manifest):
    with pytest.raises(ClientError) as caught:
        ecr.put_image(repositoryName="shop", imageManifest=manifest, imageTag="v1")
    assert code(caught) == "InvalidParameterException"


def test_a_digest_that_is_not_the_manifests_is_refused(ecr):
    with pytest.raises(ClientError) as caught:
        ecr.put_image(repositoryName="shop", imageManifest="{}", imageDigest=digest_of(b"another"))
    assert code(caught) == "ImageDigestDoesNotMatchException"


def test_a_repository_that_does_not_exist_is_told(ecr):
    message = "The repository with name 'nowhere' does not exist in the registry with id '123456789012'"
    for call in (
        lambda: ecr.initiate_layer_upload(repositoryName="nowhere"),
        lambda: ecr.put_image(repositoryName="nowhere", imageManifest="{}", imageTag="v1"),
        lambda: ecr.describe_images(repositoryName="nowhere"),
    ):
        with pytest.raises(ClientError, match=message) as caught:
            call()
        assert code(caught) == "RepositoryNotFoundException"


# --- login ------------------------------------------------------------------------------------------------------------


def test_a_token_is_for_the_user_aws_and_ends_after_twelve_hours_of_aws_time(ecr, clock):
    (token,) = ecr.get_authorization_token()["authorizationData"]
    user, _, password = base64.b64decode(token["authorizationToken"]).decode().partition(":")
    assert user == "AWS"
    assert password
    assert token["expiresAt"].timestamp() == clock.time() + 12 * 3600
    assert token["proxyEndpoint"] == f"https://{SHOP.split('/')[0]}"


# --- lifecycle policies -----------------------------------------------------------------------------------------------


def policy(**selection) -> str:
    selection = {"tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": 1, **selection}
    rule = {"rulePriority": 1, "selection": selection, "action": {"type": "expire"}}
    return json.dumps({"rules": [rule]})


def preview(ecr, clock, text: str | None = None, **asked) -> dict:
    given = {"lifecyclePolicyText": text} if text else {}
    started = ecr.start_lifecycle_policy_preview(repositoryName="shop", **given)
    assert started["status"] == "IN_PROGRESS"
    clock.advance(5)
    return ecr.get_lifecycle_policy_preview(repositoryName="shop", **asked)


def test_a_preview_tells_what_would_expire_of_the_images_that_are_there(ecr, clock):
    old = push(ecr, "old", "v1")
    pushed = described(ecr)[old]["imagePushedAt"]
    clock.advance(60)
    push(ecr, "new", "v2")
    told = preview(ecr, clock, policy())
    assert told["status"] == "COMPLETE"
    assert told["summary"] == {"expiringImageTotalCount": 1}
    assert told["previewResults"] == [
        {
            "imageDigest": old,
            "imageTags": ["v1"],
            "imagePushedAt": pushed,
            "action": {"type": "EXPIRE"},
            "appliedRulePriority": 1,
            "storageClass": "STANDARD",
        }
    ]
    assert len(described(ecr)) == 2, "a preview changes nothing"


def test_what_a_manifest_list_lists_does_not_expire_before_the_list(ecr, clock):
    child = push(ecr, "of the list", None)
    clock.advance(60)
    put = ecr.put_image(repositoryName="shop", imageManifest=index_of(child), imageTag="v1")
    clock.advance(60)
    push(ecr, "new", "v2")
    results = preview(ecr, clock, policy())["previewResults"]
    index = put["image"]["imageId"]["imageDigest"]
    assert [each["imageDigest"] for each in results] == [index]
    ecr.batch_delete_image(repositoryName="shop", imageIds=[{"imageDigest": index}])
    assert [each["imageDigest"] for each in preview(ecr, clock, policy())["previewResults"]] == [child]


def test_a_days_rule_counts_days_of_aws_time(ecr, clock):
    days = policy(countType="sinceImagePushed", countUnit="days", countNumber=14)
    digest = push(ecr)
    clock.advance(14 * 86400 - 60)
    assert preview(ecr, clock, days)["previewResults"] == []
    clock.advance(60)
    (expiring,) = preview(ecr, clock, days)["previewResults"]
    assert expiring["imageDigest"] == digest


def test_an_untagged_image_is_told_without_tags(ecr, clock):
    push(ecr, "old")
    push(ecr, "new")
    stale = policy(tagStatus="untagged", countType="sinceImagePushed", countUnit="days", countNumber=1)
    clock.advance(2 * 86400)
    (expiring,) = preview(ecr, clock, stale)["previewResults"]
    assert "imageTags" not in expiring


def test_a_preview_takes_a_while_and_is_not_kept_forever(ecr, clock):
    ecr.start_lifecycle_policy_preview(repositoryName="shop", lifecyclePolicyText=policy())
    told = ecr.get_lifecycle_policy_preview(repositoryName="shop")
    assert (told["status"], told["previewResults"]) == ("IN_PROGRESS", [])
    with pytest.raises(ClientError, match="has not completed") as caught:
        ecr.start_lifecycle_policy_preview(repositoryName="shop", lifecyclePolicyText=policy())
    assert code(caught) == "LifecyclePolicyPreviewInProgressException"
    for after, status in ((5, "COMPLETE"), (86400, "EXPIRED")):
        clock.advance(after)
        assert ecr.get_lifecycle_policy_preview(repositoryName="shop")["status"] == status


def test_botocores_own_waiter_ends_when_the_preview_is_complete(ecr, clock):
    ecr.start_lifecycle_policy_preview(repositoryName="shop", lifecyclePolicyText=policy())
    clock.advance(5)
    ecr.get_waiter("lifecycle_policy_preview_complete").wait(repositoryName="shop")


def test_the_repositorys_own_policy_is_previewed_when_no_other_is_given(ecr, clock):
    with pytest.raises(ClientError) as caught:
        ecr.start_lifecycle_policy_preview(repositoryName="shop")
    assert code(caught) == "LifecyclePolicyNotFoundException"
    ecr.put_lifecycle_policy(repositoryName="shop", lifecyclePolicyText=policy())
    digest = push(ecr, "old", "v1")
    push(ecr, "new", "v2")
    told = preview(ecr, clock)
    assert told["lifecyclePolicyText"] == policy()
    assert [result["imageDigest"] for result in told["previewResults"]] == [digest]


def test_results_come_in_pages_and_for_the_images_asked_for(ecr, clock):
    digests = []
    for number in range(4):
        digests.append(push(ecr, str(number), f"v{number}"))
        clock.advance(1)
    preview(ecr, clock, policy())
    pages = list(
        ecr.get_paginator("get_lifecycle_policy_preview").paginate(
            repositoryName="shop", PaginationConfig={"PageSize": 2}
        )
    )
    assert [[result["imageDigest"] for result in page["previewResults"]] for page in pages] == [
        digests[:2],
        digests[2:3],
    ]

    def asked(**by) -> list[str]:
        told = ecr.get_lifecycle_policy_preview(repositoryName="shop", **by)["previewResults"]
        return [result["imageDigest"] for result in told]

    assert asked(imageIds=[{"imageTag": "v1"}, {"imageDigest": digests[3]}]) == [digests[1]]
    assert asked(filter={"tagStatus": "UNTAGGED"}) == []


def test_a_repository_made_anew_knows_no_preview_of_the_old_one(ecr, clock):
    preview(ecr, clock, policy())
    ecr.delete_repository(repositoryName="shop", force=True)
    with pytest.raises(ClientError) as caught:
        ecr.get_lifecycle_policy_preview(repositoryName="shop")
    assert code(caught) == "RepositoryNotFoundException"
    ecr.create_repository(repositoryName="shop")
    with pytest.raises(ClientError) as caught:
        ecr.get_lifecycle_policy_preview(repositoryName="shop")
    assert code(caught) == "LifecyclePolicyPreviewNotFoundException"


def test_a_policy_that_ecr_would_refuse_is_neither_put_nor_previewed(ecr):
    bad = policy(tagStatus="tagged")
    for call in (ecr.put_lifecycle_policy, ecr.start_lifecycle_policy_preview):
        with pytest.raises(ClientError, match="Must specify tagPrefixList or tagPatternList") as caught:
            call(repositoryName="shop", lifecyclePolicyText=bad)
        assert code(caught) == "InvalidParameterException"
    with pytest.raises(ClientError) as caught:
        ecr.get_lifecycle_policy(repositoryName="shop")
    assert code(caught) == "LifecyclePolicyNotFoundException"


def test_a_policy_is_kept_and_nothing_expires_by_it(ecr, clock):
    push(ecr, "old", "v1")
    push(ecr, "new", "v2")
    ecr.put_lifecycle_policy(repositoryName="shop", lifecyclePolicyText=policy())
    clock.advance(3 * 86400)
    assert len(described(ecr)) == 2
    kept = ecr.get_lifecycle_policy(repositoryName="shop")
    assert (kept["lifecyclePolicyText"], kept["lastEvaluatedAt"].timestamp()) == (policy(), 0)


def test_moto_does_not_preview_itself(endpoint, ecr):
    """When it does, look whether the handlers here are still wanted."""
    for operation in ("StartLifecyclePolicyPreview", "GetLifecyclePolicyPreview"):
        del endpoint.handlers["ecr", operation]
    with pytest.raises(ClientError) as caught:
        ecr.start_lifecycle_policy_preview(repositoryName="shop", lifecyclePolicyText=policy())
    assert code(caught) == "NotImplemented"


# --- layers -----------------------------------------------------------------------------------------------------------


def test_a_large_layer_comes_in_parts(ecr, tmp_path):
    blob = bytes(range(256)) * 4096 * 12  # 12 MiB
    digest = upload(ecr, blob, part=5 * 2**20)
    assert (tmp_path / "blobs" / "sha256" / digest.removeprefix("sha256:")).read_bytes() == blob
    (known,) = ecr.batch_check_layer_availability(repositoryName="shop", layerDigests=[digest])["layers"]
    assert (known["layerAvailability"], known["layerSize"]) == ("AVAILABLE", len(blob))


def test_a_layer_is_uploaded_once(ecr):
    upload(ecr, b"layer")
    with pytest.raises(ClientError) as caught:
        upload(ecr, b"layer")
    assert code(caught) == "LayerAlreadyExistsException"


def test_a_layer_that_is_not_what_its_digest_says_is_refused(ecr, tmp_path):
    with pytest.raises(ClientError) as caught:
        upload(ecr, b"tampered", digest=digest_of(b"layer"))
    assert code(caught) == "InvalidLayerException"
    assert not list((tmp_path / "blobs" / "sha256").iterdir())


def test_small_parts_are_refused_but_the_last(ecr):
    with pytest.raises(ClientError) as caught:
        upload(ecr, b"x" * 100, part=60)
    assert code(caught) == "LayerPartTooSmallException"


def test_an_upload_without_parts_is_refused(ecr):
    with pytest.raises(ClientError) as caught:
        upload(ecr, b"")
    assert code(caught) == "EmptyUploadException"


def test_an_unknown_upload_is_told(ecr):
    with pytest.raises(ClientError) as caught:
        ecr.complete_layer_upload(
            repositoryName="shop",
            uploadId="11111111-2222-3333-4444-555555555555",
            layerDigests=[digest_of(b"")],
        )
    assert code(caught) == "UploadNotFoundException"


@pytest.mark.parametrize(("first", "last"), [(0, 9), (1, 5), (5, 9)])
def test_a_part_must_be_as_long_as_it_says_and_follow_the_one_before(ecr, first, last):
    upload_id = ecr.initiate_layer_upload(repositoryName="shop")["uploadId"]
    with pytest.raises(ClientError) as caught:
        ecr.upload_layer_part(
            repositoryName="shop",
            uploadId=upload_id,
            partFirstByte=first,
            partLastByte=last,
            layerPartBlob=b"12345",
        )
    assert code(caught) == "InvalidLayerPartException"


@given(parts=st.lists(st.binary(min_size=1, max_size=12), max_size=6))
def test_any_parts_make_a_layer_unless_one_but_the_last_is_small(parts, tmp_path_factory):
    known: dict[str, int] = {}
    aws = SimpleNamespace(
        batch_check_layer_availability=lambda repositoryName, layerDigests: {
            "layers": [
                {"layerDigest": d, "layerAvailability": "AVAILABLE"} for d in layerDigests if d in known
            ]
        }
    )
    state = tmp_path_factory.mktemp("registry")
    registry = Registry(state, ManualClock(), lambda service, region: aws)

    def take(operation: str, **params) -> None:
        params = {"repositoryName": "shop", "uploadId": "u", **params}
        handler = registry.operations()["ecr", operation]
        handler(Call("ecr", operation, REGION, params, lambda: {"uploadId": "u"}))

    whole = b"".join(parts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "MIN_PART", 6)
        take("InitiateLayerUpload")
        first = 0
        for part in parts:
            last = first + len(part) - 1
            take("UploadLayerPart", partFirstByte=first, partLastByte=last, layerPartBlob=part)
            first = last + 1
        if not parts or any(len(part) < 6 for part in parts[:-1]):
            with pytest.raises(AwsError, match=r"EmptyUpload|LayerPartTooSmall"):
                take("CompleteLayerUpload", layerDigests=[digest_of(whole)])
        else:
            take("CompleteLayerUpload", layerDigests=[digest_of(whole)])
            assert (state / "blobs/sha256" / digest_of(whole)[7:]).read_bytes() == whole


# --- pulling ----------------------------------------------------------------------------------------------------------


def test_an_image_is_extracted_ready_to_run(ecr, registry, tmp_path):
    image = pull(registry, push(ecr, "console.log(1)"))
    assert (image.rootfs / "server.js").read_text() == "console.log(1)"
    assert image.command == ["node", "server.js"]
    assert image.environment == {"A": "b=c"}


def test_an_image_is_extracted_once_and_leaves_nothing_beside_it(ecr, registry, tmp_path):
    digest = push(ecr)
    home = pull(registry, digest).rootfs
    (home / "mark").touch()
    assert pull(registry, digest).rootfs == home
    assert (home / "mark").exists()
    assert [path.name for path in (tmp_path / "images").iterdir()] == [digest.removeprefix("sha256:")]


@pytest.mark.parametrize("reference", [f"{SHOP}:v1", f"{SHOP}:latest", SHOP])
def test_a_tag_stands_for_the_image_that_has_it_now(ecr, registry, reference):
    for text in ("old", "new"):
        push(ecr, text, "v1")
        push(ecr, text, "latest")
        assert (registry.image(reference, REGION).rootfs / "server.js").read_text() == text


def test_a_task_in_another_region_pulls_from_the_region_in_the_reference(ecr, registry):
    assert registry.image(f"{SHOP}@{push(ecr)}", "eu-west-1").command == ["node", "server.js"]


@pytest.mark.parametrize(
    "reference",
    [
        f"{SHOP}@{digest_of(b'nobody pushed this')}",
        f"{SHOP}:v2",
        f"{SHOP.replace('shop', 'nowhere')}:v1",
        f"{SHOP.replace(REGION, 'eu-west-1')}:v1",
    ],
)
def test_what_is_not_there_is_told_in_ecs_words(ecr, registry, reference):
    push(ecr)
    with pytest.raises(CannotPullContainer) as caught:
        registry.image(reference, REGION)
    assert caught.value.reason == (
        f"pull image manifest has been retried 1 time(s): failed to resolve ref {reference}: {reference}: not found"
    )


@pytest.mark.parametrize(
    ("reference", "why"),
    [
        (
            f"arn:aws:ecr:{REGION}:123456789012:repository/shop:v1",  # the article's
            f'^failed to normalize image reference "arn:aws:ecr:{REGION}:123456789012:repository/shop:v1"',
        ),
        ("node:24-slim", "no registry but ECR"),
        (f"{SHOP}@sha256:../../../etc", "failed to normalize image reference"),
        (f"{SHOP}:", "failed to normalize image reference"),  # as an empty parameter makes it
        (
            f"{SHOP.replace('123456789012', '210987654321')}:v1",
            rf"HEAD request to https://210987654321\.dkr\.ecr\.{REGION}\.amazonaws\.com/v2/shop/manifests/v1: 403 Forb",
        ),
    ],
)
def test_what_cannot_be_reached_is_told(ecr, registry, reference, why):
    with pytest.raises(CannotPullContainer, match=why):
        registry.image(reference, REGION)


def test_an_index_is_asked_for_the_platform_and_a_single_image_is_not(ecr, registry):
    child = push(ecr)
    ecr.put_image(repositoryName="shop", imageManifest=index_of(child), imageTag="from-a-laptop")
    registry.find(f"{SHOP}:from-a-laptop", "linux/arm64")
    with pytest.raises(CannotPullContainer) as caught:
        registry.find(f"{SHOP}:from-a-laptop", "linux/amd64")
    assert caught.value.reason == (
        "pull image manifest has been retried 7 time(s): image Manifest does not contain descriptor matching platform "
        "'linux/amd64'"
    )
    for platform in ("linux/amd64", "linux/arm64"):
        registry.find(f"{SHOP}@{child}", platform)


def test_an_image_that_was_deleted_is_gone(ecr, registry):
    digest = push(ecr)
    pull(registry, digest)
    ecr.batch_delete_image(repositoryName="shop", imageIds=[{"imageDigest": digest}])
    with pytest.raises(CannotPullContainer, match="not found"):
        pull(registry, digest)


@pytest.mark.parametrize("of", ["layers", "config"])
def test_a_tampered_blob_is_not_run(ecr, registry, of):
    digest = push(ecr, "good")
    manifest = json.loads(registry._blobs.path(digest).read_text())
    blob = manifest["config"] if of == "config" else manifest["layers"][0]
    registry._blobs.path(blob["digest"]).write_bytes(layer({"app/server.js": "evil"}))
    with pytest.raises(CannotPullContainer, match="unexpected commit digest"):
        pull(registry, digest)


def test_a_tampered_manifest_is_not_run(ecr, registry):
    digest = push(ecr)
    blob = registry._blobs.path(digest)
    blob.write_text(blob.read_text().replace("schemaVersion", "SchemaVersion"))
    with pytest.raises(CannotPullContainer, match="unexpected commit digest"):
        pull(registry, digest)


@pytest.mark.parametrize("name", ["../outside.js", "/../../outside.js", "app/../../outside.js"])
def test_a_layer_that_reaches_outside_is_not_extracted(ecr, registry, tmp_path, name):
    digest = push(ecr, layers=[layer({"app/server.js": "1", name: "evil"})])
    with pytest.raises(CannotPullContainer, match="failed to extract layer"):
        pull(registry, digest)
    assert not list(tmp_path.rglob("outside.js"))
    assert not list((tmp_path / "images").iterdir())


def test_a_layer_that_is_no_archive_is_told(ecr, registry):
    digest = push(ecr, layers=[b"this is no tar"])
    with pytest.raises(CannotPullContainer, match="failed to extract layer"):
        pull(registry, digest)


def test_an_image_of_many_layers_is_no_snapshot(ecr, registry):
    digest = push(ecr, layers=[layer({"bin/sh": "1"}), layer({"app/server.js": "1"})])
    with pytest.raises(CannotPullContainer, match="no snapshot"):
        pull(registry, digest)


def test_a_layer_that_unpacks_to_too_much_is_refused(ecr, registry, monkeypatch):
    monkeypatch.setattr(snapshots, "MAX_UNPACKED", 1000)
    digest = push(ecr, "x" * 2000)
    with pytest.raises(CannotPullContainer, match="more than 1000 bytes"):
        pull(registry, digest)


def test_what_a_sandbox_kept_serves_the_next_one(ecr, registry, clock, endpoint, tmp_path):
    digest = push(ecr, "kept")
    later = Registry(tmp_path, clock, endpoint.client)
    assert (pull(later, digest).rootfs / "server.js").read_text() == "kept"


@pytest.mark.parametrize("name", ["../outside", "/outside", "link"])
def test_a_python_without_extraction_filters_lets_nothing_out_either(tmp_path, monkeypatch, name):
    """Debian 12's own Python is 3.11.2; the filters came with 3.11.4."""
    import io
    import tarfile

    monkeypatch.delattr(tarfile, "data_filter", raising=False)
    archive, home = tmp_path / "layer.tar", tmp_path / "home"
    home.mkdir()
    with tarfile.open(archive, "w") as out:
        good = tarfile.TarInfo("app/server.js")
        good.size = 2
        out.addfile(good, io.BytesIO(b"ok"))
        inner = tarfile.TarInfo("app/inner")
        inner.type, inner.linkname = tarfile.SYMTYPE, "server.js"
        out.addfile(inner)
        bad = tarfile.TarInfo(name)
        if name == "link":
            bad.type, bad.linkname = tarfile.SYMTYPE, "../outside"
        out.addfile(bad)
    with tarfile.open(archive) as layer, pytest.raises(tarfile.TarError, match="outside"):
        snapshots.extract_all(layer, home)
    assert (home / "app" / "inner").read_bytes() == b"ok"
    assert not (tmp_path / "outside").exists()
