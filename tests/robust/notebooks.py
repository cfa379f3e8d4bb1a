"""Notebooks as a learner treats them: each cell run twice, a check sabotaged, cells with pauses between them."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator, Mapping
from pathlib import Path

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from helpers import run

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("[0-9][0-9]-*.ipynb"))
TRY = """
def _sabotaged(source, overrides, claim):
    from IPython.utils.capture import capture_output
    from helpers.errors import CheckFailed

    import pandas
    from types import SimpleNamespace

    copied = {**globals(), "pandas": pandas, "SimpleNamespace": SimpleNamespace}
    exec(overrides, copied)
    try:
        with capture_output():
            exec(source, copied)
    except CheckFailed as failed:
        assert failed.what.startswith("✗ " + claim), failed.what
    else:
        raise AssertionError("Sabotaged, and it held: " + claim)
"""


def is_check(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "check"


def claims(source: str) -> list[str]:
    """What the checks of a cell say: of each the first text in its second argument."""
    calls = [node for node in ast.walk(ast.parse(source)) if is_check(node)]
    return [next(_texts(call.args[1])) for call in calls]


def claims_of(path: Path) -> list[str]:
    """Those of a notebook."""
    return [claim for cell in _code(run.read(path)) for claim in claims(cell.source)]


def twice(path: Path, sabotages: Mapping[str, str | tuple[str, ...]]) -> NotebookNode:
    """The notebook with each code cell twice, and each check failed once on purpose in between.

    Sabotage happens in a copy of the namespace: `overrides` first, then the cell without its imports.
    """
    notebook = run.read(path)
    cells = [new_code_cell(TRY)]
    for cell in _code(notebook):
        again = copy.deepcopy(cell)  # the second one keeps its tag: papermill puts parameters after it
        cell.metadata["tags"] = [tag for tag in cell.metadata.get("tags", []) if tag != "parameters"]
        cell["id"] += "-1"
        cells += [cell, *_tries(cell.source, sabotages), again]
    notebook.cells = cells
    return notebook


def sabotaged(path: Path, sabotages: Mapping[str, str | tuple[str, ...]]) -> NotebookNode:
    """The notebook with each check failed once on purpose, after it; its own cells alone keep their ids."""
    notebook = run.read(path)
    cells = [new_code_cell(TRY)]
    for cell in notebook.cells:
        cells.append(cell)
        if cell.cell_type == "code":
            cells += _tries(cell.source, sabotages)
    notebook.cells = cells
    return notebook


def with_pauses(path: Path, seconds: float) -> NotebookNode:
    """The notebook, run by somebody who thinks for so many real seconds before each cell but the first two."""
    notebook = run.read(path)
    code = list(_code(notebook))
    pause = f"import time\ntime.sleep({seconds})"
    notebook.cells = code[:2] + [each for cell in code[2:] for each in (new_code_cell(pause), cell)]
    return notebook


def opening(path: Path) -> NotebookNode:
    """The notebook up to the cell that catches up, and the one after it."""
    notebook = run.read(path)
    code = list(_code(notebook))
    last = next(number for number, cell in enumerate(code) if "lab.catch_up(" in cell.source)
    notebook.cells = code[: last + 2]
    return notebook


def _tries(source: str, sabotages: Mapping[str, str | tuple[str, ...]]) -> list[NotebookNode]:
    return [
        new_code_cell(f"_sabotaged({_without_imports(source)!r}, {overrides!r}, {claim!r})")
        for claim in claims(source)
        for overrides in _each(sabotages[claim])
    ]


def _each(overrides: str | tuple[str, ...]) -> tuple[str, ...]:
    return (overrides,) if isinstance(overrides, str) else overrides


def _code(notebook: NotebookNode) -> Iterator[NotebookNode]:
    return (cell for cell in notebook.cells if cell.cell_type == "code")


def _texts(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.IfExp):
        yield from _texts(node.body)
    for inner in ast.walk(node):
        if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
            yield inner.value


def _without_imports(source: str) -> str:
    tree = ast.parse(source)
    tree.body = [node for node in tree.body if not isinstance(node, ast.Import | ast.ImportFrom)]
    return ast.unparse(tree)
