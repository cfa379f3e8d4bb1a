"""Runs beside one another, in odd places, under other names; and one that is interrupted."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import psutil
import pytest

from helpers import run, sandbox
from tests.robust.notebooks import NOTEBOOKS, opening
from tests.waiting import until

pytestmark = pytest.mark.timeout(400)
RUN = """
import json, sys
from pathlib import Path
from helpers import run
names, parameters, runs, keep, speed = json.loads(sys.argv[1])
sys.exit(run.run(names, parameters, runs=Path(runs), speed=speed, keep=keep))
"""


def begin(
    checkout: Path,
    runs: Path,
    *names: str,
    python: str = sys.executable,
    keep: bool = False,
    speed: float = 60,
    **parameters: object,
) -> subprocess.Popen[str]:
    """`python -m helpers run`, without its look at the set-up, as a terminal's foreground process group."""
    told = json.dumps([names, parameters, str(runs), keep, speed])
    return subprocess.Popen(
        [python, "-c", RUN, told],
        cwd=checkout,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.fixture
def another_checkout(tmp_path: Path, checkout: Path) -> tuple[Path, str]:
    """A copy in a path with spaces, and its own Python, which has this one's packages."""
    copy = tmp_path / "a learner's place" / "the check out"
    for part in ("helpers", "notebooks", "sample-app", "templates"):
        shutil.copytree(checkout / part, copy / part, symlinks=True)
    venv.create(copy / ".venv", symlinks=True)
    python = copy / ".venv" / "bin" / "python"
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(subprocess.check_output([python, "-c", ask], text=True).strip())
    (packages / "checkout.pth").write_text(f"{copy}\n{sysconfig.get_path('purelib')}\n")
    found = [python, "-c", "import helpers; print(helpers.__file__)"]
    assert str(copy) in subprocess.check_output(found, text=True, cwd=copy / "notebooks")
    return copy, str(python)


def test_two_checkouts_run_at_once_under_other_names(another_checkout, checkout, tmp_path):
    """Each notebook is alone on a new sandbox: what comes before it is caught up with."""
    copy, python = another_checkout
    there, here = tmp_path / "there", tmp_path / "here"
    runs = [
        begin(copy, there, "07", python=python, keep=True, region="eu-west-1", name="shop2"),
        begin(checkout, here, "08", keep=True),
    ]
    try:
        said = [process.communicate(timeout=300)[0] for process in runs]
        assert [process.returncode for process in runs] == [0, 0], "\n".join(said)
        state = sandbox.attach(there / "latest" / "sandbox"), sandbox.attach(here / "latest" / "sandbox")
        ports = [json.loads((Path(one.state) / "ports.json").read_text()) for one in state]
    finally:
        for folder in (there, here):
            sandbox.stop((folder / "latest" / "sandbox").resolve())
        for process in runs:
            process.kill()
    assert "shop2" in (there / "latest" / "07-create-the-cluster-and-service.ipynb").read_text()
    balancers = [port for one in ports for port in one["balancers"].values()]
    assert len({ports[0]["endpoint"], ports[1]["endpoint"], *balancers}) == 4
    loaded = (there / "latest" / "07-create-the-cluster-and-service.ipynb").read_text()
    assert "cool-nodejs-app" not in "".join(_outputs(loaded))
    assert "eu-west-1a" in "".join(_outputs(loaded))


def _outputs(notebook: str) -> list[str]:
    return [
        json.dumps(output)
        for cell in json.loads(notebook)["cells"]
        if cell["cell_type"] == "code"
        for output in cell["outputs"]
    ]


def test_a_second_run_beside_one_that_is_interrupted(checkout, tmp_path):
    """Ctrl-C reaches the whole process group, as from a terminal. Nothing of that run is left; the other is green."""
    first = begin(checkout, tmp_path, "08", speed=10)  # so slow that it does not end by itself meanwhile
    try:
        sandbox_up = until(
            lambda: [state for state in tmp_path.glob("*/sandbox") if sandbox.attach(state)], 60
        )
        until(lambda: _commands(first.pid, "server.js"), 120)  # in the middle of catching up with 07
        second = begin(checkout, tmp_path, "06")
        said, _ = second.communicate(timeout=120)
        assert second.returncode == 0, said
        everything = psutil.Process(first.pid).children(recursive=True)
        everything.append(psutil.Process(sandbox.attach(sandbox_up[0]).pid))
        assert first.poll() is None
        os.killpg(first.pid, signal.SIGINT)
        said, _ = first.communicate(timeout=60)
    finally:
        first.kill()
    assert first.returncode == 130, said
    assert "Interrupted" in said
    assert psutil.wait_procs(everything, timeout=20)[1] == []
    assert not list(tmp_path.glob("*/sandbox/state.json"))
    third = begin(checkout, tmp_path, "06")
    said, _ = third.communicate(timeout=120)
    assert third.returncode == 0, said


def _commands(pid: int, word: str) -> list[str]:
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        try:
            found.append(" ".join(child.cmdline()))
        except psutil.NoSuchProcess:
            continue
    return [command for command in found if word in command]


# 07 and 08 are above; 10 begins as 09 does, and again on nothing after its own teardown in test_robust.py.
ALONE = [path for path in NOTEBOOKS if not path.name.startswith(("00", "07", "08", "10"))]


@pytest.mark.parametrize("path", ALONE, ids=lambda path: path.stem[:2])
def test_a_notebook_begins_on_a_new_sandbox(path, tmp_path, monkeypatch):
    """The rest of it is run in test_robust.py, where what it needs is there."""
    monkeypatch.setenv("SANDBOX_STATE", str(tmp_path / "sandbox"))
    monkeypatch.setenv("SANDBOX_SPEED", "60")
    try:
        run.execute(opening(path), None, {"name": "alone"}, path.parent)
    finally:
        sandbox.stop(tmp_path / "sandbox")
