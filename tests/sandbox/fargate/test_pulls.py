from __future__ import annotations

import socket

import pytest

from helpers.sandbox.fargate.pulls import Pulls, in_ecs_words
from helpers.sandbox.registry import CannotPullContainer

IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/shop@sha256:" + "0" * 64
RETRIED = "pull image manifest has been retried 1 time(s): "


@pytest.mark.parametrize(
    ("engine_says", "ecs_says"),
    [
        (
            "manifest for shop not found: manifest unknown",
            f"{RETRIED}failed to resolve ref {IMAGE}: {IMAGE}: not found",
        ),
        (
            "name unknown: The repository does not exist",
            f"{RETRIED}failed to resolve ref {IMAGE}: {IMAGE}: not found",
        ),
        (
            "Head http://r/v2/shop/manifests/1: no basic auth credentials",
            f"{RETRIED}failed to resolve ref {IMAGE}: unexpected status from HEAD request: 403 Forbidden",
        ),
        (
            "no matching manifest for linux/arm64/v8 in the manifest list entries",
            f"{RETRIED.replace('1', '7')}image Manifest does not contain descriptor matching platform 'linux/arm64'",
        ),
        (
            "write /var/lib/docker/tmp/GetImageBlob1: no space left on device",
            "failed to register layer: write /var/lib/docker/tmp/GetImageBlob1: no space left on device",
        ),
        ("something else", f"{RETRIED}failed to resolve ref {IMAGE}: something else"),
    ],
)
def test_the_engines_reason_becomes_ecs(engine_says, ecs_says):
    assert in_ecs_words(IMAGE, engine_says) == ecs_says


def test_a_registry_that_is_down_is_told(engine):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        there = f"127.0.0.1:{unused.getsockname()[1]}/shop@sha256:{'0' * 64}"
        pulls = Pulls(engine, lambda image, region: (there, {"username": "AWS", "password": "x"}))
        with pytest.raises(CannotPullContainer, match=r"failed to resolve ref .*connection refused"):
            pulls(IMAGE, "us-east-1")
