"""Where the notebooks are: the journey's, by number, and the labs beside it, each for itself."""

from __future__ import annotations

import re
from pathlib import Path

LABS = "labs"  # the folder of these in notebooks/, and of their copies in work/


def journey(notebooks: Path) -> list[Path]:
    """The numbered notebooks, in order."""
    return sorted(notebooks.glob("[0-9][0-9]-*.ipynb"))


def labs(notebooks: Path) -> list[Path]:
    """The others, by name."""
    return sorted((notebooks / LABS).glob("*.ipynb"))


def label(notebook: Path) -> str:
    """What a notebook is called by: its number, or its name where it has none."""
    number, _, _ = notebook.stem.partition("-")
    return number if re.fullmatch("[0-9][0-9]", number) else notebook.stem
