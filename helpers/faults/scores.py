"""Who took how long: the rounds that were won, kept with the sandbox."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame

    from helpers.session import Session

COLUMNS = ["fault", "layer", "minutes", "hints", "by"]


def _file(lab: Session) -> Path:
    return lab.state / f"rounds-{lab.name}.jsonl"


def add(lab: Session, **told: Any) -> None:
    """`told`: COLUMNS, and `sandbox`, which tells these rounds from those of another sandbox on the same files."""
    with _file(lab).open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(told | {"sandbox": lab.running.pid}) + "\n")


def scoreboard(lab: Session) -> DataFrame:
    """The rounds won since this sandbox began, in their order. `minutes` are real ones; `by`: "hand" or "mend"."""
    from pandas import DataFrame

    file = _file(lab)
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    rounds = [told for told in map(json.loads, lines) if told["sandbox"] == lab.running.pid]
    return DataFrame(rounds, columns=COLUMNS, index=range(1, len(rounds) + 1)).rename_axis("round")
