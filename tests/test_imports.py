"""Who may import whom: read from the source, so that nothing needs to run."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import helpers

HELPERS = Path(helpers.__file__).parent
OUTSIDE = sorted(HELPERS.glob("*.py"))
SANDBOX = sorted((HELPERS / "sandbox").rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Every module that a file imports when it runs, anywhere in it, by its full name."""
    package = ".".join(path.relative_to(HELPERS.parent).with_suffix("").parts[:-1])
    found = set()
    for node in running(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found.update([base, *(f"{base}.{alias.name}" for alias in node.names)])
    return found


def running(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that only a type checker reads."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")):
            yield node
            yield from running(node)


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


@pytest.mark.parametrize("path", SANDBOX, ids=lambda path: path.name)
def test_the_sandbox_knows_nothing_of_the_helpers(path):
    ours = {name for name in imports(path) if within(name, "helpers")}
    assert {name for name in ours if name != "helpers" and not within(name, "helpers.sandbox")} == set()


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda path: path.name)
def test_only_the_session_knows_the_sandbox(path):
    if path.name != "session.py":
        assert {name for name in imports(path) if within(name, "helpers.sandbox")} == set()


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda path: path.name)
def test_no_helper_touches_moto(path):
    assert {name for name in imports(path) if within(name, "moto")} == set()


def test_services_and_failures_are_no_circle():
    """The one tells with the other's words why a service does not come to rest."""
    assert "helpers.failures" in imports(HELPERS / "services.py")
    assert "helpers.services" not in imports(HELPERS / "failures.py")


def test_what_runs_before_the_set_up_is_standard_library():
    ours = {"helpers", "helpers.errors", "helpers.errors.SetupError", "helpers.install"}
    for name in ("install", "errors", "__init__"):
        used = {module.split(".")[0] for module in imports(HELPERS / f"{name}.py") - ours}
        assert used <= set(sys.stdlib_module_names), f"{name}.py needs more than Python"


def test_at_most_twelve_names_are_exported_and_each_is_there():
    assert len(helpers.__all__) <= 12
    for name in helpers.__all__:
        assert callable(getattr(helpers, name))


def loaded_by(code: str) -> set[str]:
    report = "import sys; print(' '.join(sorted({name.split('.')[0] for name in sys.modules})))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; {report}"],
        cwd=HELPERS.parent,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_helpers_load_nothing_until_it_is_used():
    assert loaded_by("import helpers") & {"boto3", "pandas", "matplotlib", "docker", "click"} == set()


def test_the_sandbox_process_loads_neither_pandas_nor_matplotlib():
    assert (
        loaded_by("import helpers.sandbox.__main__") & {"pandas", "matplotlib", "papermill", "IPython"}
        == set()
    )
