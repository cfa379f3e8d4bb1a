"""What every other test with an engine relies on: a skip that counts, and nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine.fixtures import MADE_BY, OWNER, sweep, sweep_of_the_dead, tiny_image

NEEDS_AN_ENGINE = """
import pytest

def test_takes_the_engine(engine):
    pass

@pytest.mark.skip(reason="no time")
def test_is_marked(engine):
    pass

def test_needs_none():
    pytest.skip("of no account")
"""


@pytest.fixture
def outcome(tmp_path: Path, checkout: Path):
    def run(**settings: str) -> str:
        (tmp_path / "test_it.py").write_text(NEEDS_AN_ENGINE)
        nowhere = {"DOCKER_HOST": f"unix://{tmp_path}/no.sock", "ENGINE_TESTS": ""}
        nowhere["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # they take seconds
        command = [*(sys.executable, "-m", "pytest", "-p", "tests.engine.fixtures", "-p", "no:cacheprovider")]
        command += [
            "-c",
            os.devnull,
            "-W",
            "error",
            "--rootdir",
            str(tmp_path),
            "-rsf",
            str(tmp_path / "test_it.py"),
        ]
        environment = {**os.environ, **nowhere, **settings}
        done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
        return done.stdout

    return run


def test_without_an_engine_its_tests_are_skipped_with_the_reason(outcome):
    said = outcome()
    assert "3 skipped" in said
    assert "no Docker Engine answers" in said


def test_where_the_engine_is_required_a_skipped_test_of_it_fails(outcome):
    said = outcome(ENGINE_TESTS="required")
    assert "1 skipped, 2 errors" in said
    assert "this was skipped: Skipped: no Docker Engine answers" in said
    assert "this was skipped: Skipped: no time" in said


def names(engine, label: str) -> set[str]:
    wanted = {"label": label}
    return {
        *(container.name for container in engine.containers.list(all=True, filters=wanted)),
        *(network.name for network in engine.networks.list(filters=wanted)),
        *(tag for image in engine.images.list(filters=wanted) for tag in image.tags),
    }


def make_some(engine, labels: dict[str, str], name: str) -> set[str]:
    tiny_image(engine, f"{name}:1", labels, text=name)
    engine.containers.create(f"{name}:1", name=name, labels=labels)
    engine.networks.create(f"{name}-net", labels=labels)
    return {f"{name}:1", name, f"{name}-net"}


def test_a_sweep_takes_what_has_the_label_and_nothing_else(engine, engine_labels):
    name = f"swept-{os.getpid()}"
    labels = {**engine_labels, "test-sweep": name}
    mine = make_some(engine, labels, name)
    others = make_some(engine, {**engine_labels, "test-sweep": "stays"}, f"{name}-not")
    assert names(engine, f"test-sweep={name}") == mine
    assert len(sweep(engine, f"test-sweep={name}")) == 3
    assert names(engine, f"test-sweep={name}") == set()
    assert names(engine, "test-sweep=stays") >= others
    sweep(engine, "test-sweep=stays")


def test_what_killed_tests_left_is_swept_by_the_next(engine):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    owner = f"{OWNER.rpartition('/')[0]}/{ended.pid}"
    left = make_some(engine, {MADE_BY: owner}, f"left-{ended.pid}")
    elsewhere = make_some(engine, {MADE_BY: f"another.example/{ended.pid}"}, f"elsewhere-{ended.pid}")
    sweep_of_the_dead(engine)
    assert not names(engine, MADE_BY) & left
    assert names(engine, MADE_BY) >= elsewhere
    sweep(engine, f"{MADE_BY}=another.example/{ended.pid}")


def test_a_tiny_image_is_another_with_another_text(engine, engine_labels):
    first, second = (
        tiny_image(engine, f"tiny-{os.getpid()}:{text}", engine_labels, text) for text in ("a", "b")
    )
    assert first.id != second.id
    assert first.attrs["RootFS"]["Layers"] != second.attrs["RootFS"]["Layers"]
    assert first.labels == engine_labels
