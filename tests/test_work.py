"""helpers/work.py: a learner's copies are made once, and nothing of a learner's is ever lost."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from helpers import install, work
from helpers.errors import TutorialError


def write(folder: Path, name: str, code: str) -> None:
    ran = new_code_cell(
        code,
        execution_count=3,
        outputs=[new_output("stream", text="1\n")],
        metadata={"tags": ["parameters"]},
        id="c",
    )
    book = new_notebook(cells=[new_markdown_cell("# 07 · A ü", id="m"), ran])
    book.metadata["tutorial"] = {"code_sha256": "x"}
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    folder.mkdir(exist_ok=True)
    nbformat.write(book, folder / name)


@pytest.fixture
def notebooks(tmp_path: Path) -> Path:
    folder = tmp_path / "notebooks"
    write(folder, "06-a.ipynb", "one = 1")
    write(folder, "07-b.ipynb", "two = 2")
    (folder / "images").mkdir()
    (folder / "images" / "picture.png").write_bytes(b"png")
    (folder / "notes.ipynb").write_text("{}")
    return folder


@pytest.fixture
def copies(tmp_path: Path, notebooks: Path) -> Path:
    folder = tmp_path / "work"
    assert work.prepare(folder, notebooks) == [f"{folder}: 2 notebooks copied, to be yours"]
    return folder


def change(copy: Path, code: str | None = None, **more: object) -> None:
    """As JupyterLab saves it after a learner was there."""
    book = nbformat.read(copy, as_version=4)
    book.cells[1].source = code or book.cells[1].source
    book.cells[1].update(more)
    book.cells.append(new_code_cell(""))
    book.metadata["language_info"] = {"name": "python", "version": "3"}
    nbformat.write(book, copy)


def code(copy: Path) -> str:
    return nbformat.read(copy, as_version=4).cells[1].source


def kept(folder: Path) -> list[Path]:
    """The oldest first."""
    return sorted(folder.glob("*-until-*.ipynb"), key=lambda path: path.stem)


def test_copies_have_no_outputs_and_all_else(copies, notebooks):
    assert sorted(path.name for path in copies.glob("*.ipynb")) == ["06-a.ipynb", "07-b.ipynb"]
    copy = nbformat.read(copies / "07-b.ipynb", as_version=4)
    nbformat.validate(copy)
    original = nbformat.read(notebooks / "07-b.ipynb", as_version=4)
    assert (copy.cells[1].outputs, copy.cells[1].execution_count) == ([], None)
    assert [(cell.id, cell.source) for cell in copy.cells] == [
        (cell.id, cell.source) for cell in original.cells
    ]
    assert copy.cells[1].metadata.tags == ["parameters"]
    assert set(copy.metadata) == {"kernelspec"}
    assert (copies / "images" / "picture.png").read_bytes() == b"png"


def test_every_link_in_a_copy_leads_somewhere(tmp_path):
    """As the committed ones' do: work/ is beside notebooks/, so that ../sample-app means the same in both."""
    copies = tmp_path / "work"
    work.prepare(copies)
    assert list(copies.glob("labs/*.ipynb"))
    for copy in copies.rglob("*.ipynb"):
        for cell in nbformat.read(copy, as_version=4).cells:
            for link in re.findall(r"\]\(([^)#]+)\)", cell.source if cell.cell_type == "markdown" else ""):
                to = Path(os.path.normpath(copy.parent / link))
                beside = to if to.is_relative_to(copies) else install.ROOT / to.relative_to(tmp_path)
                assert link.startswith("http") or beside.exists(), f"{copy.name}: {link}"
    assert work.WORK.parent == work.NOTEBOOKS.parent == install.ROOT


def test_what_a_learner_changed_is_never_overwritten(copies, notebooks):
    change(copies / "07-b.ipynb", "two = 'mine'")
    before = (copies / "07-b.ipynb").read_bytes()
    assert work.prepare(copies, notebooks) == []
    write(notebooks, "07-b.ipynb", "two = 'new'")
    (line,) = work.prepare(copies, notebooks)
    assert "07-b.ipynb is left as you have it" in line
    assert line.endswith("helpers reset 07")
    assert work.prepare(copies, notebooks) == [line]
    assert (copies / "07-b.ipynb").read_bytes() == before


def test_a_copy_that_nobody_touched_follows_the_original(copies, notebooks):
    write(notebooks, "07-b.ipynb", "two = 'new'")
    assert work.prepare(copies, notebooks) == []
    assert code(copies / "07-b.ipynb") == "two = 'new'"
    assert kept(copies) == []


def test_a_copy_that_was_only_run_follows_the_original_and_the_run_is_kept(copies, notebooks):
    change(copies / "07-b.ipynb", outputs=[new_output("stream", text="seen\n")])
    assert work.prepare(copies, notebooks) == []
    write(notebooks, "07-b.ipynb", "two = 'new'")
    (line,) = work.prepare(copies, notebooks)
    (old,) = kept(copies)
    assert old.name in line
    assert "seen" in old.read_text()
    assert code(copies / "07-b.ipynb") == "two = 'new'"


def test_a_copy_that_was_removed_comes_back(copies, notebooks):
    (copies / "06-a.ipynb").unlink()
    (said,) = work.prepare(copies, notebooks)
    assert said.endswith("1 notebook copied, to be yours")
    assert code(copies / "06-a.ipynb") == "one = 1"


@pytest.mark.parametrize("note", ["", "[]", None])
def test_without_its_note_a_copy_is_left_alone(copies, notebooks, note):
    """And what is not even a notebook."""
    change(copies / "07-b.ipynb", "mine = 1")
    (copies / "06-a.ipynb").write_text("half a noteb")
    (copies / ".made.json").unlink() if note is None else (copies / ".made.json").write_text(note)
    assert work.prepare(copies, notebooks) == []
    assert code(copies / "07-b.ipynb") == "mine = 1"
    assert (copies / "06-a.ipynb").read_text() == "half a noteb"


def test_reset_makes_a_new_copy_and_keeps_the_old_one_as_often_as_asked(copies, notebooks):
    for number in (1, 2):
        change(copies / "07-b.ipynb", f"mine = {number}")
        (said,) = work.reset(["07"], copies, notebooks)
        assert kept(copies)[-1].name in said
        assert code(copies / "07-b.ipynb") == "two = 2"
    assert sorted(code(path) for path in kept(copies)) == ["mine = 1", "mine = 2"]
    assert all(re.fullmatch(r"07-b-until-\d{4}(-\d\d){2}-\d{6}(-2)?", path.stem) for path in kept(copies))
    (said,) = work.reset(["07"], copies, notebooks)
    assert said.endswith("is as it was made")
    write(notebooks, "07-b.ipynb", "two = 'new'")
    assert work.prepare(copies, notebooks) == []
    assert code(copies / "07-b.ipynb") == "two = 'new'"


def test_reset_takes_a_number_without_its_zero(copies, notebooks):
    change(copies / "07-b.ipynb", "mine = 1")
    (said,) = work.reset(["7"], copies, notebooks)
    assert "07-b.ipynb is new" in said


def test_a_lab_has_a_copy_in_a_folder_of_its_own(copies, notebooks):
    write(notebooks / "labs", "break.ipynb", "three = 3")
    (said,) = work.prepare(copies, notebooks)
    assert said.endswith("1 notebook copied, to be yours")
    assert code(copies / "labs" / "break.ipynb") == "three = 3"
    assert work.prepare(copies, notebooks) == []
    change(copies / "labs" / "break.ipynb", "mine = 3")
    write(notebooks / "labs", "break.ipynb", "three = 'new'")
    (said,) = work.prepare(copies, notebooks)
    assert said.endswith("helpers reset break")
    (said,) = work.reset(["break"], copies, notebooks)
    assert "labs/break.ipynb is new; what you had is break-until-" in said
    assert code(copies / "labs" / "break.ipynb") == "three = 'new'"
    assert work.prepare(copies, notebooks) == []


def test_reset_of_what_is_not_there_names_what_is(copies, notebooks):
    with pytest.raises(TutorialError, match=r"06-a, 07-b"):
        work.reset(["11"], copies, notebooks)


def test_a_place_that_cannot_be_written_is_told(tmp_path, notebooks):
    (tmp_path / "work").write_text("a file")
    with pytest.raises(TutorialError, match="cannot be written"):
        work.prepare(tmp_path / "work", notebooks)


def test_clean_and_git_leave_work_alone(tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "07-b.ipynb").write_text("mine")
    install.remove_made(tmp_path, everything=True)
    assert (tmp_path / "work" / "07-b.ipynb").read_text() == "mine"
    assert "/work/" in (install.ROOT / ".gitignore").read_text().splitlines()


def test_the_note_says_what_was_made(copies):
    assert set(json.loads((copies / ".made.json").read_text())) == {"06-a.ipynb", "07-b.ipynb"}
