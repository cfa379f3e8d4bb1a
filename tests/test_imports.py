"""Who may import whom: read from the source, so that nothing needs to run."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import helpers

HELPERS = Path(helpers.__file__).parent
OUTSIDE = sorted(HELPERS.glob("*.py"))
SANDBOX = sorted((HELPERS / "sandbox").rglob("*.py"))


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(HELPERS.parent).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    """Every module that a file imports when it runs, anywhere in it, by its full name."""
    return {name for pair in imported(path, running(ast.parse(path.read_text()))) for name in pair}


def imported(path: Path, nodes: Iterable[ast.AST]) -> Iterator[tuple[str, str]]:
    """What stands in the import statements among `nodes`: a module, and that module or what is taken from it."""
    package = path.relative_to(HELPERS.parent).parts[:-1]
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.name, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((base, f"{base}.{alias.name}") for alias in node.names)


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
def test_only_three_modules_know_the_sandbox(path):
    """Where the calls go, what this machine runs an app with, and the switch between sandbox and AWS."""
    if path.name not in ("session.py", "this_machine.py", "connection.py"):
        assert {name for name in imports(path) if within(name, "helpers.sandbox")} == set()


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda path: path.name)
def test_no_helper_touches_moto(path):
    assert {name for name in imports(path) if within(name, "moto")} == set()


def test_imports_go_one_way():
    """No circle, be it of imports inside functions or of those that only a type checker reads."""
    names = {name_of(path): path for path in HELPERS.rglob("*.py")}
    below = {}
    for name, path in names.items():
        pairs = imported(path, ast.walk(ast.parse(path.read_text())))
        # `from package import module` imports that module, `from module import name` the one it is taken from.
        below[name] = {whole if whole in names else base for base, whole in pairs} & names.keys() - {name}
    tuple(TopologicalSorter(below).static_order())  # a CycleError names the circle


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
