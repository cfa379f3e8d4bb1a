"""helpers/run.py with small notebooks and real kernels."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from helpers import run
from helpers.errors import TutorialError

CHECK = "from helpers import check\ncheck(True, 'the sky is up', seen='sky', hint='look up')"


def write(folder: Path, name: str, *code: str, parameters: str = "", heading: str = "# 7 · A title") -> Path:
    cells = [new_markdown_cell(f"{heading}\n\nprose")]
    if parameters:
        cells.append(new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=[*cells, *map(new_code_cell, code)]), path)
    return path


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder whose name papermill would take for a placeholder, with the checkout's helpers importable."""
    return tmp_path / "a {place}"


class Run:
    """One run; its status, what it said, what it left."""

    def __init__(self, place: Path, *names: str, parameters: dict | None = None, **options: object):
        self.said = ""
        self.runs = place / "runs"
        self.status = run.run(
            names, parameters, notebooks=place / "notebooks", runs=self.runs, say=self._hear, **options
        )
        self.latest = self.runs / "latest"
        self.summary = json.loads((self.latest / "summary.json").read_text())

    def _hear(self, text: str) -> None:
        self.said += text

    def output(self, name: str) -> str:
        outputs = [o for cell in run.read(self.latest / name).cells for o in cell.get("outputs", [])]
        return "".join(output.get("text", "") for output in outputs)


def test_notebooks_run_in_order_with_a_line_each(place, monkeypatch):
    notebooks, state_before = place / "notebooks", os.environ.get("SANDBOX_STATE")
    monkeypatch.setenv("PYTHONSTARTUP", "/hostile.py")
    monkeypatch.setenv("MPLBACKEND", "hostile")
    monkeypatch.setenv("IPYTHONDIR", "/hostile")
    facts = (
        "import json, os, sys\n"
        "print(json.dumps([sys.executable, os.getcwd(), os.environ['SANDBOX_STATE'], os.environ['TUTORIAL_RUN_DIR']]))"
    )
    write(notebooks, "10-last.ipynb", CHECK, CHECK, heading="# 10 · The last")
    write(notebooks, "06-first.ipynb", facts, "print('skipped: no Docker here')", heading="# First of all")
    write(notebooks, "notes.ipynb", "1/0")
    ran = Run(place)
    lines = ran.said.splitlines()
    assert [line.split("  ")[0] for line in lines[:2]] == ["06", "10"]
    assert "First of all" in lines[0]
    assert "2 checks" in lines[1]
    assert ran.status == 0
    assert lines[-1].startswith("All green: 2 checks passed")
    assert lines[-1].endswith(f"{ran.latest.resolve()}/"), "a later run takes `latest` away"

    first, last = ran.summary["notebooks"]
    assert first | {"seconds": 0} == {
        "name": "06-first",
        "seconds": 0,
        "checks_passed": 0,
        "checks_failed": 0,
        "skipped": ["no Docker here"],
    }
    assert last["checks_passed"] == 2
    assert 0 < last["seconds"] < ran.summary["total_seconds"]
    assert set(ran.summary) == {"notebooks", "total_seconds", "speed", "target", "runtime"}
    assert ran.summary["target"] == "sandbox"

    folder = ran.latest.resolve()
    seen = json.loads(ran.output("06-first.ipynb").splitlines()[0])
    assert seen == [sys.executable, *map(str, (notebooks, folder / "sandbox", folder))]
    assert os.environ.get("SANDBOX_STATE") == state_before


def test_a_failed_check_ends_the_run_with_its_own_message(place):
    notebooks = place / "notebooks"
    write(
        notebooks,
        "01-a.ipynb",
        "from helpers import check",
        "\ncheck(False, 'it holds', seen='2', hint='Make it 3.')",
    )
    write(notebooks, "02-b.ipynb", CHECK)
    write(notebooks, "03-c.ipynb", CHECK)
    ran = Run(place)
    assert ran.status == 1
    assert "01-a.ipynb failed.\nIn cell [2], which begins `check(False, 'it holds'" in ran.said
    assert "\n✗ it holds\nSeen: 2\nNext: Make it 3.\n" in ran.said
    assert "Traceback" not in ran.said
    assert "PapermillExecutionError" not in ran.said
    assert "not run: 02-b\nnot run: 03-c\nFailed" in ran.said
    assert ran.said.rstrip().endswith(f"{ran.latest.resolve()}/01-a.ipynb")
    assert [(n["checks_failed"], n["skipped"]) for n in ran.summary["notebooks"]] == [
        (1, []),
        (0, ["not run"]),
        (0, ["not run"]),
    ]


def test_any_other_error_is_named(place):
    write(place / "notebooks", "01-a.ipynb", "total = 1\ntotal / 0")
    ran = Run(place)
    assert "In cell [1], which begins `total = 1`:\nZeroDivisionError: division by zero" in ran.said
    assert ran.status == 1


def test_a_kernel_that_dies_is_a_failure_of_its_notebook(place):
    write(place / "notebooks", "01-a.ipynb", "import os\nos._exit(1)")
    ran = Run(place)
    assert ran.status == 1
    assert "DeadKernelError" in ran.said


def test_parameters_reach_the_notebooks_that_have_them(place):
    notebooks = place / "notebooks"
    write(notebooks, "06-a.ipynb", "print(name, target)", parameters='name = "cool"\ntarget = ""')
    write(notebooks, "07-b.ipynb", "print(count + 1)", parameters="count: int = 1")
    write(notebooks, "08-c.ipynb", "1/0")
    ran = Run(place, "06", str(notebooks / "07-b.ipynb"), parameters={"name": "shop", "count": 41})
    assert ran.status == 0
    assert ran.output("06-a.ipynb") == "shop sandbox\n"
    assert ran.output("07-b.ipynb") == "42\n"
    assert [notebook["name"] for notebook in ran.summary["notebooks"]] == ["06-a", "07-b"]


def test_a_tuple_reaches_a_notebook_as_a_list_and_not_as_its_text(place):
    write(place / "notebooks", "06-a.ipynb", "print(rounds)", parameters="rounds = ()")
    ran = Run(place, parameters={"rounds": (("app", 1), {"role": ("a", None)})})
    assert ran.status == 0
    assert ran.output("06-a.ipynb") == "[['app', 1], {'role': ['a', None]}]\n"


def test_a_number_may_be_said_without_its_zero(place):
    notebooks = place / "notebooks"
    seven = write(notebooks, "07-b.ipynb", "1")
    ten = write(notebooks, "10-c.ipynb", "1")
    assert run.select(["7"], notebooks) == run.select(["07"], notebooks) == [seven]
    assert run.select(["10"], notebooks) == [ten]
    for name in ("", "0", "1", "007", "²"):
        with pytest.raises(TutorialError, match="no notebook"):
            run.select([name], notebooks)


def test_what_is_not_there_is_told(place):
    notebooks = place / "notebooks"
    with pytest.raises(TutorialError, match="no notebooks"):
        Run(place)
    write(notebooks, "06-a.ipynb", "1")
    with pytest.raises(TutorialError, match="06-a"):
        Run(place, "07")
    with pytest.raises(TutorialError, match="parameter nmae"):
        Run(place, parameters={"nmae": "shop"})
    with pytest.raises(TutorialError, match="--write"):
        Run(place, "06", write=True)


def test_a_lab_runs_when_it_is_named_and_has_outputs_of_its_own_run(place):
    notebooks = place / "notebooks"
    six = write(notebooks, "06-a.ipynb", CHECK)
    lab = write(notebooks / "labs", "break-it.ipynb", CHECK, heading="# Lab · Break it")
    other = write(notebooks / "labs", "other.ipynb", "1")
    assert run.select([], notebooks) == [six]
    assert run.select(["break-it"], notebooks) == run.select([str(lab)], notebooks) == [lab]
    assert run.select(["other", "6", "break-it"], notebooks) == [six, lab, other]
    before = six.read_text()
    ran = Run(place, "break-it", write=True)
    assert ran.said.startswith("lab  Lab · Break it")
    assert run.read(lab).metadata["tutorial"]["code_sha256"] == run.code_sha256(run.read(lab))
    assert run.read(lab).cells[1].outputs
    assert six.read_text() == before
    for names in (["break-it", "other"], ["06", "break-it"]):
        with pytest.raises(TutorialError, match="one lab"):
            Run(place, *names, write=True)


def test_the_last_runs_are_kept_and_those_still_going_on(place):
    write(place / "notebooks", "01-a.ipynb", "1")
    runs = place / "runs"
    for number in range(7):
        (runs / f"2020-01-0{number + 1}").mkdir(parents=True)
        (runs / f"2020-01-0{number + 1}" / "summary.json").touch()
    (runs / "2020-01-01" / "sandbox").mkdir()
    (runs / "2020-01-01" / "sandbox" / "state.json").touch()
    (runs / "2020-01-02" / "summary.json").unlink()
    ran = Run(place)
    kept = sorted(path.name for path in runs.iterdir())
    assert kept[:-2] == [f"2020-01-0{number}" for number in (1, 2, 4, 5, 6, 7)]
    assert ran.latest.resolve().name == kept[-2]
    assert ran.latest.is_symlink()


def test_write_gives_the_notebooks_outputs_and_nothing_else_of_the_run(place, monkeypatch):
    monkeypatch.setattr(run, "ROOT", place)
    path = write(
        place / "notebooks",
        "01-a.ipynb",
        "print(target, __import__('os').getcwd())",
        parameters="target = ''",
    )
    before = run.read(path)
    assert Run(place, write=True).status == 0
    after = run.read(path)
    assert after.metadata.pop("tutorial") == {
        "code_sha256": run.code_sha256(before),
        "speed": None,
        "target": "sandbox",
        "runtime": None,
    }
    assert [cell.get("execution_count") for cell in after.cells] == [None, 1, 3]
    (output,) = after.cells[2].outputs
    assert output.text == "sandbox notebooks\n"
    for cell in after.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    assert after == before


def test_write_changes_nothing_when_something_failed(place):
    good = write(place / "notebooks", "01-a.ipynb", "print(1)")
    write(place / "notebooks", "02-b.ipynb", "1/0")
    before = good.read_text()
    assert Run(place, write=True).status == 1
    assert good.read_text() == before


def test_the_hash_is_of_code_alone(place):
    path = write(place, "a.ipynb", "1", "2")
    one, other = run.read(path), run.read(path)
    other.cells[0].source = "other prose"
    other.cells[1].outputs = [nbformat.v4.new_output("stream", text="1")]
    assert run.code_sha256(one) == run.code_sha256(other)
    other.cells[1].source, other.cells[2].source = "2", "1"
    assert run.code_sha256(one) != run.code_sha256(other)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_run_its_kernel_and_its_sandbox(place, checkout, number):
    """`session.stop` is asked to stop the private sandbox, and no kernel outlives the run."""
    write(
        place / "notebooks",
        "01-a.ipynb",
        "import time, pathlib\npathlib.Path('begun').touch()\ntime.sleep(600)",
    )
    write(place / "notebooks", "02-b.ipynb", "1")
    code = (
        "import sys; from pathlib import Path; from helpers import run, session; place = Path(sys.argv[1]);"
        "session.stop = lambda state: print('stopping', state.name);"
        "sys.exit(run.run(notebooks=place / 'notebooks', runs=place / 'runs'))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(place)], cwd=checkout, stdout=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 60
        while not (place / "notebooks" / "begun").exists():
            assert time.monotonic() < deadline, "the cell never began"
            time.sleep(0.05)
        kernels = psutil.Process(process.pid).children(recursive=True)
        assert kernels
        process.send_signal(number)
        said, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "stopping sandbox" in said
    assert "not run: 02-b\nInterrupted" in said
    assert (place / "runs" / "latest" / "summary.json").exists()
    assert psutil.wait_procs(kernels, timeout=20)[1] == []


def test_title_and_parameters_are_read_from_the_notebook(place):
    notebook = run.read(
        write(place, "a.ipynb", parameters="a = 1\nb: int = 2\nc = d = 3", heading="# 07 - Create it")
    )
    assert run.title(notebook) == "Create it"
    assert run.parameters_of(notebook) == {"a", "b", "c", "d"}
    assert run.title(new_notebook()) == ""


@pytest.mark.parametrize(("runtime", "told"), [("container", "containers"), ("process", "processes")])
def test_it_says_what_tasks_ran_as(place, monkeypatch, runtime, told):
    monkeypatch.setattr(run, "_sandbox_facts", lambda state: {"speed": 30.0, "runtime": runtime})
    write(place / "notebooks", "06-first.ipynb", CHECK)
    assert f"Tasks ran as {told}.\n" in Run(place).said
