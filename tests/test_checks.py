from __future__ import annotations

import nbformat
import papermill
import pytest
from papermill.exceptions import PapermillExecutionError

from helpers.checks import check, count
from helpers.errors import CheckFailed


def test_a_passed_check_is_one_line(capsys):
    check(2 > 1, "two tasks run", seen=2, hint="Look at .events.")
    assert capsys.readouterr().out == "✓ two tasks run (seen: 2)\n"


def test_a_failed_check_says_what_was_seen_and_what_to_do():
    with pytest.raises(CheckFailed) as failed:
        check(lambda: [], "two tasks run", seen=lambda: 0, hint="Look at .events.")
    assert str(failed.value) == "✗ two tasks run\nSeen: 0\nNext: Look at .events."


def test_nothing_executed_counts_nothing():
    assert count({}) == (0, 0)
    assert count({"cells": [{"cell_type": "markdown"}, {"outputs": []}]}) == (0, 0)


def test_an_executed_notebook_can_be_counted(tmp_path):
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [
        nbformat.v4.new_code_cell("from helpers.checks import check"),
        nbformat.v4.new_code_cell(
            "for n in (1, 2):\n    check(n, f'{n} is something', seen=n, hint='none')\nprint('✓ no check')"
        ),
        nbformat.v4.new_code_cell("check(False, 'nothing is something', seen=0, hint='give up')"),
    ]
    nbformat.write(notebook, tmp_path / "in.ipynb")
    with pytest.raises(PapermillExecutionError, match="nothing is something"):
        papermill.execute_notebook(
            str(tmp_path / "in.ipynb"),
            str(tmp_path / "out.ipynb"),
            kernel_name="python3",
            progress_bar=False,
        )
    executed = nbformat.read(tmp_path / "out.ipynb", 4)
    assert count(executed) == (2, 1)
    texts = [o["data"]["text/plain"] for c in executed.cells for o in c.get("outputs", []) if "data" in o]
    assert texts == ["✓ 1 is something (seen: 1)", "✓ 2 is something (seen: 2)"]
