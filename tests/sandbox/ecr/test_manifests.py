from __future__ import annotations

import json

import pytest

from helpers.sandbox.ecr.manifests import INDEXES, NoManifest, is_index, read_manifest, size_of

SMALL = {"config": {"digest": "c", "size": 1}, "layers": [{"digest": "l", "size": 10}]}
BIG = {
    "config": {"digest": "c", "size": 2},
    "layers": [{"digest": "l", "size": 10}, {"digest": "m", "size": 30}],
}
STORED = {"small": SMALL, "big": BIG}


def test_an_image_is_as_big_as_its_config_and_its_compressed_layers():
    assert size_of(BIG, STORED.get) == 42


@pytest.mark.parametrize("kind", INDEXES)
def test_an_index_is_as_big_as_its_biggest_image(kind):
    index = {
        "mediaType": kind,
        "manifests": [{"digest": digest, "size": 500} for digest in ("small", "big", "gone")],
    }
    assert size_of(index, STORED.get) == 42


def test_the_type_may_come_with_the_request_alone():
    index = json.dumps({"manifests": [{"digest": "small"}]})
    assert is_index(read_manifest(index, INDEXES[1]))
    assert is_index(read_manifest(index))
    assert read_manifest(json.dumps(SMALL), "x")["mediaType"] == "x"


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "1", "{}"),
        '{"config": 1, "layers": []}',
        '{"config": {"digest": "a"}, "layers": [1]}',
        '{"config": {"digest": "a", "size": "1"}, "layers": []}',
        '{"mediaType": "x", "manifests": []}',
    ],
)
def test_anything_else_is_no_manifest(text):
    with pytest.raises(NoManifest):
        read_manifest(text)
