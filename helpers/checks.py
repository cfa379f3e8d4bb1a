"""`check`: a claim, what was seen, and what to do when it does not hold.

A passed check is a line of plain text. Beside it the notebook's JSON keeps a mark in the output's metadata,
which no reader sees, so that the checks of an executed notebook can be counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from helpers.display import wrap
from helpers.errors import CheckFailed

MARK = "tutorial_check"


def check(claim: bool | Callable[[], object], says: str, *, seen: object, hint: str) -> None:
    """Prints "✓ says (seen: …)" if `claim` holds; raises CheckFailed with `seen` and `hint` if not.

    A callable `claim` or `seen` is called, the claim first.
    """
    holds = bool(claim() if callable(claim) else claim)
    what_was_seen = str(seen() if callable(seen) else seen)
    if not holds:
        raise CheckFailed(f"✗ {says}", seen=what_was_seen, next=hint)
    _show(says, what_was_seen)


def count(notebook: dict) -> tuple[int, int]:
    """(passed, failed) checks of an executed notebook, given as the dict that its JSON holds."""
    outputs = list(_outputs(notebook))
    passed = sum(1 for output in outputs if MARK in output.get("metadata", {}))
    failed = sum(1 for output in outputs if output.get("ename") == CheckFailed.__name__)
    return passed, failed


def _outputs(notebook: dict) -> Iterator[dict]:
    for cell in notebook.get("cells", []):
        yield from cell.get("outputs", [])


def _show(says: str, seen: str) -> None:
    line = wrap(f"✓ {says} (seen: {seen})")
    if not in_notebook():
        print(line)
        return
    from IPython.display import display

    display({"text/plain": line}, raw=True, metadata={MARK: {"says": says, "seen": seen}})


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this code, so that rich output has somewhere to go."""
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    return getattr(get_ipython(), "kernel", None) is not None
