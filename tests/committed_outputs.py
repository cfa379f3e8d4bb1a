"""Compares what a run's notebooks show with what the committed ones show: cell by cell, by nbval's own comparison.

Nothing is executed again. A cell tagged `nbval-ignore-output` may show anything.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from nbval.plugin import IPyNbFile, coalesce_streams, nocolors

from helpers import run

SANITIZING = Path(__file__).with_name("nbval.cfg")
IGNORED = "nbval-ignore-output"


class Notebook(IPyNbFile):
    """A notebook as `pytest --nbval` collects it, with this course's sanitising."""

    def get_sanitize_files(self) -> list[str]:
        return [str(SANITIZING)]


def other_runtime(committed: Path, runtime: str) -> str:
    """Why its outputs say nothing about a run whose tasks are `runtime`; empty when they do."""
    recorded = run.read(committed).metadata.get("tutorial", {}).get("runtime")
    if recorded == runtime:
        return ""
    return f"the outputs of {committed.name} are of tasks that ran as {recorded}, here they run as {runtime}"


def as_committed(committed: Path, executed: Path, folder: Path) -> Path:
    """A copy of the notebook in `folder`, with the outputs that `run --write` would give it after that run."""
    fresh = Path(shutil.copy(committed, folder / committed.name))
    run.write_back(fresh, run.read(executed), {})
    return fresh


def differences(session: pytest.Session, committed: Path, fresh: Path) -> Iterator[str]:
    """What differs, a text for each cell."""
    notebook = Notebook.from_parent(session, path=committed)
    notebook.setup_sanitize_files()
    shown = [cell.outputs for cell in run.read(fresh).cells if cell.cell_type == "code"]
    for item, outputs in zip(notebook.collect(), shown, strict=True):
        item.colors = nocolors
        if not item.options["check"]:
            continue
        if not item.compare_outputs(coalesce_streams(outputs), coalesce_streams(item.cell.outputs)):
            told = "\n".join(item.comparison_traceback)
            yield f"{committed.name}, code cell {item.cell_num} ({item.cell.id}):\n{item.cell.source}\n{told}"
