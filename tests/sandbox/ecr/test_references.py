from __future__ import annotations

import pytest

from helpers.sandbox.ecr.references import Reference, read_reference

DIGEST = "sha256:" + "0" * 64
PORTS = {"eu-west-1": 40001, "us-east-1": 40002}


@pytest.mark.parametrize(
    ("text", "means"),
    [
        (
            f"123456789012.dkr.ecr.eu-west-1.amazonaws.com/team/shop@{DIGEST}",
            Reference("123456789012", "eu-west-1", "team/shop", {"imageDigest": DIGEST}),
        ),
        (
            "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn/shop:1.0",
            Reference("123456789012", "cn-north-1", "shop", {"imageTag": "1.0"}),
        ),
        ("127.0.0.1:40002/shop", Reference(None, "us-east-1", "shop", {"imageTag": "latest"})),
        (f"127.0.0.1:40001/a/b@{DIGEST}", Reference(None, "eu-west-1", "a/b", {"imageDigest": DIGEST})),
        ("127.0.0.1:40003/shop:1.0", None),  # somebody else's port
        ("node:24-slim", None),
        ("arn:aws:ecr:us-east-1:123456789012:repository/shop:v1", None),
        ("127.0.0.1:40001/shop@sha256:../../etc", None),
        ("127.0.0.1:40001/../shop:1", None),
        ("", None),
    ],
)
def test_a_reference_names_a_repository_of_ecr_or_nothing(text, means):
    assert read_reference(text, PORTS) == means
