"""A pytest plugin for nbval: a notebook's committed outputs are compared only where its tasks run as they ran then."""

from __future__ import annotations

import json

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    from helpers import session

    here = session.best_runtime()
    for path in {item.path for item in items if item.path.suffix == ".ipynb"}:
        facts = json.loads(path.read_text())["metadata"].get("tutorial", {})
        if facts.get("runtime") != here:
            why = f"its outputs are from tasks that run as {facts.get('runtime')}, here they run as {here}"
            for item in items:
                if item.path == path:
                    item.add_marker(pytest.mark.skip(reason=why))
