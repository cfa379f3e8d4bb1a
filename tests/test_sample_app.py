"""The sample app's own tests, run by Node's test runner, as part of these."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from helpers.sandbox.fargate.node import find_node

APP = Path(__file__).parents[1] / "sample-app"


def test_its_own_tests_pass():
    assert (APP / "node_modules").is_dir(), "run `npm ci` in sample-app first"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NODE_")}
    done = subprocess.run(
        [str(find_node().path), "--test", "--test-reporter=spec"],
        cwd=APP,
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
    )
    if done.returncode:
        pytest.fail(done.stdout + done.stderr, pytrace=False)
    passed = re.search(r"^\S+ pass (\d+)$", done.stdout, re.MULTILINE)
    assert passed, done.stdout
    assert int(passed[1]) >= 12, done.stdout


def test_the_lock_pins_everything_and_names_no_registry():
    lock = json.loads((APP / "package-lock.json").read_text())
    declared = json.loads((APP / "package.json").read_text())
    assert list(declared["dependencies"]) == ["express"]
    assert lock["packages"][""]["dependencies"] == declared["dependencies"]
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert packages["node_modules/express"]
    assert all("version" in package and "resolved" not in package for package in packages.values())


def test_every_file_of_the_app_is_in_the_image_and_its_tests_are_not():
    ignored = (APP / ".dockerignore").read_text().split()
    needed = {"server.js", "identity.js", "page.js", "settings.js", "package.json", "package-lock.json"}
    assert not needed & set(ignored)
    assert {"tests", "node_modules"} <= set(ignored)
    lines = (APP / "Dockerfile").read_text().strip().splitlines()
    assert 'CMD ["node", "server.js"]' in lines
    assert lines[-1] == "COPY . ."
