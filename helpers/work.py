"""`work/`: the learner's own copies of the notebooks, without outputs. Made once, never overwritten.

`work/.made.json` holds, for each copy, a hash of its cells as they were made. So it is known whether a learner changed
the copy, and whether the original has changed since.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from functools import wraps
from itertools import count
from pathlib import Path
from typing import Any

from helpers.errors import TutorialError
from helpers.install import ROOT
from helpers.notebooks import journey, label, labs

WORK = ROOT / "work"
NOTEBOOKS = ROOT / "notebooks"
FIRST = "00-start-here.ipynb"


def _told(change: Callable[..., list[str]]) -> Callable[..., list[str]]:
    @wraps(change)
    def tells(*arguments: Any) -> list[str]:
        try:
            return change(*arguments)
        except OSError as problem:
            raise TutorialError(
                "The copies of the notebooks cannot be written.",
                seen=str(problem),
                next="Make room, or see to it that you may write there; then run the same command again.",
            ) from None

    return tells


@_told
def prepare(work: Path = WORK, notebooks: Path = NOTEBOOKS) -> list[str]:
    """Make the copies that are missing, renew those that nobody changed; a line for each that a learner should know of."""
    work.mkdir(parents=True, exist_ok=True)
    note, said, new = _read_note(work), [], 0
    for original in journey(notebooks) + labs(notebooks):
        name = original.relative_to(notebooks).as_posix()
        copy, fresh = work / name, without_outputs(original)
        wanted = _hash(fresh)
        if not copy.exists():
            new += 1
            _write(copy, fresh)
            note[name] = wanted
        elif (there := _hash(_read(copy))) in (wanted, note.get(name, wanted)):
            if there != wanted:
                said += _renew(copy, fresh)
            note[name] = wanted
        elif note.setdefault(name, wanted) != wanted:
            said.append(
                f"{_short(copy)} is left as you have it; the original has changed since. For a new copy: "
                f"python3 -m helpers reset {label(copy)}"
            )
    _copy_images(notebooks, work)
    _write(work / ".made.json", note)
    if new:
        said.insert(0, f"{_short(work)}: {new} notebook{'' if new == 1 else 's'} copied, to be yours")
    return said


@_told
def reset(names: Sequence[str], work: Path = WORK, notebooks: Path = NOTEBOOKS) -> list[str]:
    """New copies of these notebooks. What was there is kept beside them, under a name that says until when it was."""
    from helpers import run  # papermill takes a second to load

    work.mkdir(parents=True, exist_ok=True)
    note, said = _read_note(work), []
    for original in run.select(names, notebooks):
        name = original.relative_to(notebooks).as_posix()
        copy, fresh = work / name, without_outputs(original)
        if copy.exists() and _read(copy) == fresh:
            said.append(f"{_short(copy)} is as it was made")
            continue
        kept = f"; what you had is {_keep(copy).name}" if copy.exists() else ""
        _write(copy, fresh)
        note[name] = _hash(fresh)
        said.append(f"{_short(copy)} is new{kept}")
    _copy_images(notebooks, work)
    _write(work / ".made.json", note)
    return said


def without_outputs(notebook: Path) -> dict[str, Any]:
    """A notebook's JSON as if it never ran: no outputs, no counts, no hash of the code they belong to."""
    fresh = json.loads(notebook.read_text(encoding="utf-8"))
    fresh["metadata"].pop("tutorial", None)
    for cell in fresh["cells"]:
        if cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None}
    return fresh


def _renew(copy: Path, fresh: dict[str, Any]) -> list[str]:
    """The cells are as they were made; but what they once put out, such as a figure, stays if there is any."""
    if not any(cell.get("outputs") for cell in _read(copy)["cells"]):
        _write(copy, fresh)
        return []
    kept = _keep(copy)
    _write(copy, fresh)
    return [f"{_short(copy)} is new, since the original has changed; your run of the old one is {kept.name}"]


def _keep(copy: Path) -> Path:
    """Move a notebook beside itself."""
    until = f"{copy.stem}-until-{time.strftime('%Y-%m-%d-%H%M%S')}"
    for number in count(1):
        kept = copy.with_name(f"{until}{f'-{number}' if number > 1 else ''}.ipynb")
        if not kept.exists():
            break
    copy.rename(kept)
    return kept


def _read(notebook: Path) -> dict[str, Any]:
    """Its JSON; no cells if it is none, so that it counts as changed."""
    try:
        there = json.loads(notebook.read_text(encoding="utf-8"))
    except ValueError:
        there = None
    return there if isinstance(there, dict) and isinstance(there.get("cells"), list) else {"cells": []}


def _hash(notebook: dict[str, Any]) -> str:
    """Of what the cells say; an empty one, such as JupyterLab adds below the last, does not count."""
    cells = [(cell.get("cell_type"), "".join(cell.get("source", ""))) for cell in notebook["cells"]]
    said = json.dumps([(kind, source) for kind, source in cells if source.strip()])
    return hashlib.sha256(said.encode()).hexdigest()


def _read_note(work: Path) -> dict[str, str]:
    try:
        note = json.loads((work / ".made.json").read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def _copy_images(notebooks: Path, work: Path) -> None:
    if (notebooks / "images").is_dir():
        shutil.copytree(notebooks / "images", work / "images", dirs_exist_ok=True)


def _write(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all."""
    path.parent.mkdir(exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)


def _short(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
