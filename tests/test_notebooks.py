"""The house rules for notebooks: what each has, and what no cell may hold."""

from __future__ import annotations

import ast
import json
import re
import subprocess
from pathlib import Path

import pytest

from helpers import checks, notebooks, run
from helpers.notebooks import label
from helpers.steps import JOURNEY
from tests.committed_outputs import IGNORED

NOTEBOOKS = notebooks.journey(run.NOTEBOOKS)
LABS = notebooks.labs(run.NOTEBOOKS)
MOST_CELLS = {path: 30 if path in LABS else 25 for path in NOTEBOOKS + LABS}  # a lab tries more
TEACHES = {  # the boto3 calls that a notebook's cells show; design.md: the call being taught stays in the cell
    "04": {
        "create_repository",
        "put_lifecycle_policy",
        "start_lifecycle_policy_preview",
        "get_lifecycle_policy_preview",
    },
    "05": {"get_authorization_token", "describe_images", "batch_get_image"},
    "06": {"describe_images", "create_change_set", "execute_change_set", "describe_task_definition"},
    "07": {"create_change_set", "execute_change_set", "describe_services", "stop_task", "update_service"},
    "08": {"create_change_set", "describe_scaling_policies", "describe_alarms", "describe_alarm_history"},
    "09": {
        "stop_task",
        "filter_log_events",
        "create_change_set",
        "execute_change_set",
        "batch_delete_image",
    },
    "10": {"describe_stacks", "delete_stack", "delete_repository"},
    "as-published": {"create_change_set", "execute_change_set", "delete_stack"},
}
FORBIDDEN = {
    r"\bsleep\b": "waiting goes to helpers",
    r"pip install|%pip|!pip": "what is needed comes with the set-up",
    r"%store|sys\.path": "state lives in AWS, and helpers is importable",
    r"datetime\.now|time\.time\(": "cells use lab.now(), which is AWS time",
    r"endpoint_url|127\.0\.0\.1|localhost": "connect() decides where calls go",
    r"\bmoto\b": "the learner talks to AWS",
    r"except Exception|except:": "a cell catches what it expects",
    "NBVAL|nbval": "which outputs are not compared is a cell's tag, so that a reader need not see it",
}
CONSTANTS = (ast.Constant, ast.Tuple)


def cells(path: Path, kind: str) -> list[dict]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def source(cell: dict) -> str:
    return "".join(cell["source"])


def tags(cell: dict) -> list[str]:
    return cell["metadata"].get("tags", [])


each = pytest.mark.parametrize("path", NOTEBOOKS + LABS, ids=label)


def test_the_journey_names_every_notebook():
    assert [step.notebook for step in JOURNEY] == [path.name for path in NOTEBOOKS]


@each
def test_it_opens_and_ends_as_all_do(path):
    prose = [source(cell) for cell in cells(path, "markdown")]
    first, last = prose[0], prose[-1]
    assert re.match(rf"# {'Lab' if path in LABS else label(path)} · \w", first)
    for part in ("**What you will do.**", "**What you will learn.**", "**What you need.**", "```mermaid"):
        assert part in first, part
    assert "## In production" in last
    assert "**Next:**" in last
    if path not in [NOTEBOOKS[0], *LABS]:
        assert any(
            re.search("^## What the article (got wrong here|leaves out)", text, re.MULTILINE)
            for text in prose
        )


@each
def test_the_parameters_are_constants_and_the_same_everywhere(path):
    (cell,) = [cell for cell in cells(path, "code") if "parameters" in tags(cell)]
    assert cell == cells(path, "code")[0]
    statements = ast.parse(source(cell)).body
    assert all(isinstance(s, ast.Assign) and isinstance(s.value, CONSTANTS) for s in statements)
    names = [statement.targets[0].id for statement in statements]
    assert names[:4] == ["target", "region", "name", "app_dir"]


@each
def test_no_cell_holds_what_none_may(path):
    for cell in cells(path, "code"):
        for pattern, why in FORBIDDEN.items():
            assert not re.search(pattern, source(cell)), f"{pattern}: {why}\n{source(cell)}"


@each
def test_cells_are_short(path):
    lengths = sorted(len(source(cell).splitlines()) for cell in cells(path, "code"))
    assert 8 <= len(lengths) <= MOST_CELLS[path]
    assert lengths[-1] <= 16
    assert lengths[len(lengths) // 2] <= 7


@each
def test_it_has_checks_and_an_exercise_with_a_hidden_solution(path):
    code = [source(cell) for cell in cells(path, "code")]
    assert sum(text.startswith("check(") or "\ncheck(" in text for text in code) >= 3
    exercises = sum("exercise" in tags(cell) for cell in cells(path, "code"))
    assert exercises == 1 or (path in LABS and exercises > 1)
    assert any("<details><summary>Solution</summary>" in source(cell) for cell in cells(path, "markdown"))


@each
def test_every_call_that_it_teaches_is_in_a_cell(path):
    code = "\n".join(source(cell) for cell in cells(path, "code"))
    called = {node.func.attr for node in ast.walk(ast.parse(code)) if _is_method_call(node)}
    assert TEACHES.get(label(path), set()) <= called


def _is_method_call(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)


@each
def test_every_link_leads_somewhere(path):
    for cell in cells(path, "markdown"):
        for link in re.findall(r"\]\(([^)#]+)\)", source(cell)):
            assert link.startswith("http") or (path.parent / link).exists(), link


@each
def test_a_link_to_a_notebook_has_its_title(path):
    for cell in cells(path, "markdown"):
        for text, link in re.findall(r"\[(\d\d · [^]]+)\]\(([^)#]+\.ipynb)\)", source(cell)):
            assert (
                f"# {text}"
                == source(cells(path.parent / link, "markdown")[0]).splitlines()[0].partition(":")[0]
            )


@each
def test_every_cell_has_an_id_of_its_own(path):
    notebook = json.loads(path.read_text())
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)


@each
def test_the_committed_outputs_belong_to_the_committed_code(path):
    """After a change to a cell: python -m helpers run --write; a lab's: SANDBOX_RUNTIME=process … run --write LAB"""
    notebook = run.read(path)
    facts = notebook.metadata["tutorial"]
    assert facts["code_sha256"] == run.code_sha256(notebook)
    assert (facts["target"], facts["speed"]) == ("sandbox", 30)
    assert facts["runtime"] in (["process"] if path in LABS else ["process", "container"])
    passed, failed = checks.count(json.loads(path.read_text()))
    assert passed >= 3
    assert failed == 0


@each
def test_the_committed_outputs_hold_no_error_and_no_place_on_a_disk(path):
    text = path.read_text()
    assert '"output_type": "error"' not in text
    assert not re.search(r"(?<![\w.])/(home|Users|root|tmp|work)/", text)


@each
def test_at_most_a_third_of_the_outputs_may_differ_from_run_to_run(path):
    """The others are compared with those of a run: tests/test_journey.py, with tests/nbval.cfg."""
    shown = [cell for cell in cells(path, "code") if cell["outputs"]]
    ignored = [cell for cell in cells(path, "code") if IGNORED in tags(cell)]
    assert all(cell in shown for cell in ignored)
    assert len(ignored) <= len(shown) / 3
    assert {tag for cell in cells(path, "code") for tag in tags(cell)} <= {"parameters", "exercise", IGNORED}


def test_the_outputs_all_come_from_one_runtime_and_the_figure_is_there():
    assert len({run.read(path).metadata["tutorial"]["runtime"] for path in NOTEBOOKS}) == 1
    assert (NOTEBOOKS[0].parent / "images" / "load-test.png").stat().st_size > 50_000


@pytest.mark.timeout(180)
def test_plain_papermill_runs_one_with_parameters(tmp_path, monkeypatch):
    """`papermill notebooks/06-….ipynb out.ipynb -p name shop`, from the checkout, as anybody would."""
    import sys

    from helpers import session

    state = tmp_path / "sandbox"
    monkeypatch.setenv("SANDBOX_STATE", str(state))
    out = tmp_path / "out.ipynb"
    papermill = Path(sys.executable).parent / "papermill"
    six = next(path for path in NOTEBOOKS if path.name.startswith("06"))
    command = [papermill, six, out, "-p", "name", "shop", "-k", "python3", "--no-progress-bar"]
    try:
        done = subprocess.run(command, cwd=six.parents[1], capture_output=True, text=True, timeout=150)
        assert done.returncode == 0, done.stderr[-2000:]
    finally:
        session.stop(state)
    assert checks.count(json.loads(out.read_text())) == (3, 0)
    assert "shop, revision 1" in out.read_text()
