"""The stand-ins for node's images are like them in what the course shows.

Where a registry answers, the same is asked of the real ones.
"""

from __future__ import annotations

import io
import json
import os
import tarfile

import pytest

from helpers.dockerfile import read, stages
from tests.engine import base_images
from tests.engine.base_images import LABEL, SLIM, WHOLE, Entry, Kind, Package
from tests.engine.fixtures import tiny_image


def test_a_package_brings_what_it_depends_on_if_that_is_installed():
    installed = {
        name: Package(name, "1", always=False, needs=needs)
        for name, needs in {
            "git": ("perl", "libc6"),
            "perl": ("libc6", "git"),
            "libc6": (),
            "other": (),
        }.items()
    }
    chosen = base_images.with_what_they_need(installed, ["git", "subversion"], never={"libc6"})
    assert list(chosen) == ["git", "perl"]


def test_an_archive_comes_in_parts_of_which_none_is_empty(tmp_path):
    (tmp_path / "big").write_bytes(os.urandom(2 * base_images.PART))
    entries = [
        Entry("tmp", mode=0o1777),
        Entry("big", tmp_path / "big"),
        Entry("text", text="said"),
        Entry("sh", to="dash"),
    ]
    parts = list(base_images._packed(entries))
    assert len(parts) > 1
    assert all(parts)
    with tarfile.open(fileobj=io.BytesIO(b"".join(parts))) as archive:
        assert archive.getnames() == ["tmp", "big", "text", "sh"]
        assert archive.extractfile("big").read() == (tmp_path / "big").read_bytes()
        assert archive.extractfile("text").read() == b"said"
        assert archive.getmember("sh").linkname == "dash"
        assert archive.getmember("tmp").mode == 0o1777


@pytest.mark.parametrize(
    ("registry", "line"),
    [
        (base_images.DEFAULT_REGISTRY, ""),
        ("https://mirror.example/npm/", "registry=https://mirror.example/npm/\n"),
        ("https://somebody:secret@mirror.example/npm/", ""),
    ],
)
def test_npm_asks_this_machines_registry_and_no_password_goes_in(monkeypatch, registry, line):
    monkeypatch.setattr(base_images, "_registry", lambda: registry)
    monkeypatch.setattr(base_images, "_certificates", lambda: "")
    assert base_images._npmrc() == line


def test_the_sample_app_builds_on_a_name_that_is_made():
    assert {stage.base for stage in stages(read("sample-app"))} <= {*SLIM, *WHOLE}


def test_all_is_there_and_nothing_is_made_twice(engine):
    said = []
    base_images.make_ready(engine, said.append)
    assert said == []


def test_an_image_that_is_no_run_keeps_its_name(engine, engine_labels):
    name = f"127.0.0.1:1/real-{os.getpid()}:24"  # a registry that refuses at once
    real = tiny_image(engine, name, engine_labels)
    said = []
    base_images._make_ready(engine, Kind((name,)), lambda name: False, said.append)
    assert engine.images.get(name).id == real.id
    assert said == []


@pytest.fixture(scope="module")
def run(engine):
    """Runs a command in a base image; what it said."""

    def run(name: str, *command: str, **settings) -> str:
        return engine.containers.run(name, list(command), remove=True, **settings).decode().strip()

    return run


def test_node_is_process_1_whether_named_or_not(run):
    assert run(SLIM[0], "node", "-p", "process.pid") == "1"
    assert run(SLIM[0], "-p", "process.pid") == "1"
    assert run(SLIM[0], "--version").startswith(f"v{base_images.MAJOR}.")


def test_the_shell_is_dash_and_stays_above_its_last_command(run):
    assert run(SLIM[0], "sh", "-c", "readlink /bin/sh") == "dash"
    # bash and busybox would become the last command: then SIGTERM reaches the server behind `npm start` by chance.
    assert run(SLIM[0], "sh", "-c", "node -p process.ppid") == "1"


def test_the_user_of_the_image_is_1000(run):
    facts = "JSON.stringify([os.userInfo().username, process.getuid(), os.homedir()])"
    assert json.loads(run(SLIM[0], "node", "-p", facts, user="1000")) == ["node", 1000, "/home/node"]
    assert json.loads(run(SLIM[0], "node", "-p", facts, user="node")) == ["node", 1000, "/home/node"]


@pytest.mark.parametrize("name", [SLIM[0], WHOLE[0]])
def test_npm_runs_and_knows_its_settings(engine, run, name):
    assert run(name, "npm", "prefix", "--global") == "/usr/local"
    asked = run(name, "npm", "config", "get", "cafile")
    trusting = base_images._label(engine, name, LABEL) and base_images._certificates()
    assert asked == (base_images.BUNDLE if trusting else "null")


def test_the_slim_one_lacks_what_the_whole_one_has(engine, run):
    look = ["sh", "-c", "for each in perl git gcc ps; do command -v $each; done; true"]
    slim, whole = (run(name, *look).split() for name in (SLIM[0], WHOLE[0]))
    assert slim == ["/usr/bin/perl"]
    assert set(whole) > set(slim)
    sizes = [engine.images.get(name).attrs["Size"] for name in (SLIM[0], WHOLE[0])]
    assert 100e6 < sizes[0] < 300e6
    assert sizes[1] > 3 * sizes[0]
