"""Bring your own app: four small foreign ones, each through the notebooks 02–09, twice as fast as usual.

In containers all of them; as processes those that need no build, at the same time. What the sample app has and they lack
(an answer that names the task, a count of visits, a log of JSON with certain names) the checks say openly.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from helpers import builds, sandbox, this_machine
from tests.robust.test_places import begin
from tests.test_proposal import APPS, FOREIGN

NUMBERS = ("02", "03", "04", "05", "06", "07", "08", "09")
NEEDS_A_BUILD = "typescript"

pytestmark = pytest.mark.timeout(600)


@dataclass
class Journey:
    """One app on its way through the notebooks. `folder`: of its copy and its run."""

    app: str
    runtime: str
    folder: Path
    process: subprocess.Popen[str] = field(init=False)

    @property
    def name(self) -> str:
        """The lab's; images in the engine are labelled with it."""
        return f"{self.app}-{os.getpid()}"

    def begin(self, checkout: Path) -> None:
        leave = shutil.ignore_patterns("node_modules")
        copy = Path(shutil.copytree(APPS / self.app, self.folder / self.app, ignore=leave))
        if self.runtime == "process":
            install_packages(copy)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SANDBOX_RUNTIME", self.runtime)
            self.process = begin(
                checkout,
                self.folder / "runs",
                *NUMBERS,
                app_dir=str(copy),
                name=self.name,
                health_path=FOREIGN[self.app],
                write_dockerfile=True,
                wrong_setting="NODE_OPTIONS=--require ./not-there.js",
            )

    def check(self) -> None:
        said, _ = self.process.communicate(timeout=500)
        print(said)
        assert self.process.returncode == 0, said
        summary = json.loads((self.folder / "runs" / "latest" / "summary.json").read_text())
        assert summary["runtime"] == self.runtime
        for notebook in summary["notebooks"]:
            assert notebook["checks_passed"] >= 2
            assert notebook["checks_failed"] == 0

    def end(self) -> None:
        """Nothing of it stays, whatever became of it."""
        if self.process.poll() is None:
            self.process.terminate()
        self.process.communicate(timeout=60)
        for state in self.folder.glob("runs/*/sandbox"):
            sandbox.stop(state)
        if self.runtime == "container":
            builds.remove_all(self.name)


def install_packages(app: Path) -> None:
    if (app / "package-lock.json").exists():
        command = [*this_machine.find_node().npm, "ci", "--no-audit", "--no-fund", "--loglevel=error"]
        trusting = os.environ | {"NODE_USE_SYSTEM_CA": "1"}
        done = subprocess.run(command, cwd=app, env=trusting, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def on_its_way(
    request: pytest.FixtureRequest,
    no_containers: str,
    checkout: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, Journey]]:
    """The journeys of one app that are possible here, by runtime; they have begun."""
    runtimes = [] if no_containers else ["container"]
    runtimes += [] if request.param == NEEDS_A_BUILD else ["process"]
    begun: dict[str, Journey] = {}
    try:
        for runtime in runtimes:
            journey = Journey(request.param, runtime, tmp_path_factory.mktemp(f"{request.param}-{runtime}"))
            journey.begin(checkout)
            begun[runtime] = journey
        yield begun
    finally:
        for journey in begun.values():
            journey.end()


@pytest.mark.parametrize("on_its_way", FOREIGN, indirect=True)
def test_a_foreign_app_in_containers(engine, no_containers, on_its_way):
    if no_containers:
        pytest.skip(no_containers)
    on_its_way["container"].check()


@pytest.mark.parametrize("on_its_way", [app for app in FOREIGN if app != NEEDS_A_BUILD], indirect=True)
def test_a_foreign_app_as_processes(on_its_way):
    on_its_way["process"].check()
