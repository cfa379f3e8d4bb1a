"""The labs, each executed once as `run` does, its tasks as processes: its checks, its outputs, and each check sabotaged."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from helpers import checks, notebooks, run, sandbox
from helpers.notebooks import label
from tests import committed_outputs
from tests.robust.notebooks import claims_of, sabotaged, twice
from tests.robust.sabotage import SABOTAGES

LABS = notebooks.labs(run.NOTEBOOKS)
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module", params=LABS, ids=label)
def lab(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def own_sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SANDBOX_STATE", str(tmp_path / "sandbox"))
    monkeypatch.setenv("TUTORIAL_RUN_DIR", str(tmp_path))
    yield
    sandbox.stop(tmp_path / "sandbox")


@pytest.fixture(scope="module")
def executed(lab: Path, tmp_path_factory: pytest.TempPathFactory) -> nbformat.NotebookNode:
    """The lab as it ran. Between its cells each check failed once, which leaves nothing behind; those cells are out."""
    folder = tmp_path_factory.mktemp(lab.stem)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SANDBOX_STATE", str(folder / "sandbox"))
        patch.setenv("TUTORIAL_RUN_DIR", str(folder))
        try:
            ran = run.execute(sabotaged(lab, SABOTAGES[label(lab)]), folder / lab.name, {}, lab.parent)
        finally:
            sandbox.stop(folder / "sandbox")
    own = {cell.id for cell in run.read(lab).cells}
    ran.cells = [cell for cell in ran.cells if cell.id in own]
    return ran


def test_every_check_has_a_sabotage_and_every_sabotage_a_check(lab):
    assert sorted(claims_of(lab)) == sorted(SABOTAGES.get(label(lab), {}))


def test_it_is_green_unattended(lab, executed):
    assert checks.count(executed) == (len(claims_of(lab)), 0)


def test_the_committed_outputs_are_what_a_run_shows(lab, executed, request, tmp_path):
    nbformat.write(executed, tmp_path / "executed.ipynb")
    fresh = committed_outputs.as_committed(lab, tmp_path / "executed.ipynb", tmp_path)
    if text := "\n".join(committed_outputs.differences(request.session, lab, fresh)):
        again = f"SANDBOX_RUNTIME=process python3 -m helpers run --write {label(lab)}"
        pytest.fail(f"{text}\nIf that is meant: {again}", pytrace=False)


@pytest.mark.skipif("TUTORIAL_SLOW" not in os.environ, reason="twice a lab takes minutes: TUTORIAL_SLOW=1")
@pytest.mark.timeout(1800)
def test_any_cell_may_be_run_twice_and_the_whole_again_in_a_new_kernel(lab, own_sandbox):
    number = len(claims_of(lab))
    done = run.execute(twice(lab, SABOTAGES[label(lab)]), None, {}, lab.parent)
    assert checks.count(done) == (2 * number, 0)
    assert checks.count(run.execute(lab, None, {}, lab.parent)) == (number, 0)
