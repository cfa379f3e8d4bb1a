"""The notebooks in a learner's hands: any cell twice, any notebook again, anywhere, with any pause between cells."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import checks, run, sandbox
from tests.robust.notebooks import NOTEBOOKS, claims_of, twice, with_pauses
from tests.robust.sabotage import SABOTAGES

SPEED = "60"  # AWS seconds in a real second: twice the usual, so that the load test takes half as long

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem[:2])
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One sandbox for all notebooks, one after the other."""
    state = tmp_path_factory.mktemp("robust") / "sandbox"
    yield state
    sandbox.stop(state)


@each
def test_every_check_has_a_sabotage_and_every_sabotage_a_check(path):
    assert sorted(claims_of(path)) == sorted(SABOTAGES.get(path.stem[:2], {}))


@each
def test_any_cell_may_be_run_twice_and_the_whole_again_in_a_new_kernel(path, state, tmp_path, monkeypatch):
    """Each check fails, too, once it is sabotaged: a check that cannot fail says nothing."""
    monkeypatch.setenv("SANDBOX_STATE", str(state))
    monkeypatch.setenv("SANDBOX_SPEED", SPEED)
    monkeypatch.setenv("TUTORIAL_RUN_DIR", str(tmp_path))
    number = len(claims_of(path))
    done = run.execute(twice(path, SABOTAGES[path.stem[:2]]), None, {}, path.parent)
    assert checks.count(done) == (2 * number, 0)
    again = run.execute(path, tmp_path / "again.ipynb", {}, path.parent)
    assert checks.count(again) == (number, 0)


@pytest.mark.skipif("TUTORIAL_SLOW" not in os.environ, reason="takes a quarter of an hour: TUTORIAL_SLOW=1")
@pytest.mark.timeout(2400)
@pytest.mark.parametrize(
    "path", [path for path in NOTEBOOKS if path.stem >= "07"], ids=lambda path: path.stem[:2]
)
def test_no_cell_depends_on_the_pause_before_it(path, tmp_path, monkeypatch):
    """Thirty real seconds are fifteen AWS minutes: alarms have changed by then, and a health check was due."""
    monkeypatch.setenv("SANDBOX_STATE", str(tmp_path / "sandbox"))
    monkeypatch.setenv("TUTORIAL_RUN_DIR", str(tmp_path))
    try:
        done = run.execute(with_pauses(path, 30.0), tmp_path / "done.ipynb", {}, path.parent)
    finally:
        sandbox.stop(tmp_path / "sandbox")
    assert checks.count(done) == (len(claims_of(path)), 0)
