"""`python -m helpers lab` as a learner has it: a real JupyterLab, and notebooks run in a real browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from helpers import checks, session

FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ON_MACOS = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
SCREEN = {"width": 1280, "height": 1000}
OPEN = ".jp-NotebookPanel:not(.lm-mod-hidden)"
# Asked of JupyterLab's own model: the status bar may still speak of the notebook that was open before.
READY = """path => {
    const panel = jupyterapp.shell.currentWidget;
    return panel?.context?.path === path && panel.context.isReady
        && panel.sessionContext.session?.kernel?.status === 'idle';
}"""
# So is this, since a cell whose code is hidden shows no number: all have run, or one failed.
OVER = """() => {
    const cells = jupyterapp.shell.currentWidget.content.widgets.filter(cell => cell.model.type === 'code');
    const outputs = cells.flatMap(cell => cell.model.outputs.toJSON());
    return outputs.some(output => output.output_type === 'error') || cells.every(
        cell => !cell.model.sharedModel.source.trim() || (cell.model.executionCount && cell.model.executionState === 'idle'));
}"""


@dataclass
class Jupyter:
    """A JupyterLab that `python -m helpers lab` started. `address`: of its server; `work`: the copies."""

    process: subprocess.Popen
    command: list[str]
    settings: dict[str, str]
    work: Path
    address: str = ""
    token: str = ""

    def wait_until_up(self) -> None:
        runtime = Path(self.settings["JUPYTER_RUNTIME_DIR"])
        deadline = time.monotonic() + 60
        while not (files := list(runtime.glob("jpserver-*.json"))) or not files[0].read_text():
            assert self.process.poll() is None, self.process.stdout.read()
            assert time.monotonic() < deadline, "JupyterLab did not come up"
            time.sleep(0.1)
        server = json.loads(files[0].read_text())
        self.address, self.token = server["url"], server["token"]

    def end(self) -> str:
        """As Ctrl-C does, which reaches all that hang on the terminal; what was said."""
        if self.process.stdout.closed:
            return ""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)
        try:
            return self.process.communicate(timeout=60)[0]
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)


@contextmanager
def learner(folder: Path, checkout: Path, *arguments: str) -> Iterator[Jupyter]:
    """With copies, a sandbox and Jupyter settings of its own, all in `folder`."""
    places = "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR", "SANDBOX_STATE"
    own = {name: str(folder / name.lower()) for name in places}
    command = [
        *(sys.executable, "-m", "helpers", "lab", "--work", str(folder / "work")),
        *("--no-browser", f"--LabApp.workspaces_dir={folder / 'workspaces'}", *arguments),
    ]
    process = subprocess.Popen(
        command,
        cwd=checkout,
        env=os.environ | own,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    started = Jupyter(process, command, own, folder / "work")
    try:
        started.wait_until_up()
        yield started
    finally:
        try:
            started.end()
        finally:
            session.stop(Path(own["SANDBOX_STATE"]))


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory: pytest.TempPathFactory, checkout: Path) -> Iterator[Jupyter]:
    ours = "--ServerApp.port=0", "--LabApp.expose_app_in_browser=True"
    with learner(tmp_path_factory.mktemp("lab"), checkout, *ours) as started:
        yield started


@pytest.mark.timeout(120)
def test_a_taken_port_a_second_lab_and_ctrl_c(tmp_path, checkout):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        with learner(tmp_path, checkout, f"--ServerApp.port={taken}") as first:
            assert f":{taken}/" not in first.address
            inside = {"cwd": checkout, "env": os.environ | first.settings, "text": True, "timeout": 60}
            second = subprocess.run(first.command, capture_output=True, **inside)
            assert second.returncode == 0
            assert f"up already: {first.address}lab/tree/work/00-start-here.ipynb?token=" in second.stdout
            connect = [sys.executable, "-c", "from helpers import connect; connect()"]
            subprocess.run(connect, check=True, **inside)
            assert "The sandbox is still up: python3 -m helpers stop" in first.end()
            assert first.process.returncode == 0
            assert session.stop(Path(first.settings["SANDBOX_STATE"]))


@dataclass
class Browser:
    """A page, and what it asked for and complained of. `pictures`: where screenshots go."""

    page: object
    pictures: Path
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def listen(self) -> None:
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("websocket", lambda socket: self.requests.append(socket.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on(
            "console", lambda said: self.complaints.append(said.text) if said.type == "error" else None
        )

    def outside(self, address: str) -> list[str]:
        here = (address, address.replace("http", "ws", 1), "data:", "blob:")
        return [url for url in self.requests if not url.startswith(here)]

    def open(self, jupyter: Jupyter, notebook: str) -> None:
        path = f"{jupyter.work.name}/{notebook}"
        self.page.goto(f"{jupyter.address}lab/tree/{path}?token={jupyter.token}")
        self.page.wait_for_function("() => window.jupyterapp", timeout=60_000)
        self.page.evaluate(
            "() => jupyterapp.restored"
        )  # what was open before is open again, and steals no focus
        self.page.wait_for_function(READY, arg=path, timeout=60_000)
        self.page.locator(".jp-StatusBar-TextItem", has_text="(ipykernel) | Idle").wait_for(timeout=60_000)

    def run_all(self, seconds: float) -> None:
        self.page.locator(".lm-MenuBar-itemLabel", has_text=re.compile("^Run$")).click()
        self.page.locator(".lm-Menu-itemLabel", has_text=re.compile("^Run All Cells$")).click()
        self.page.wait_for_function(OVER, timeout=seconds * 1000, polling=500)
        self.page.locator(".jp-StatusBar-TextItem", has_text="(ipykernel) | Idle").wait_for(timeout=60_000)

    def save(self) -> None:
        self.page.keyboard.press("Escape")
        self.page.keyboard.press("Control+s" if sys.platform != "darwin" else "Meta+s")
        self.page.locator(f"{OPEN} .jp-Toolbar").first.wait_for()
        self.page.wait_for_function("() => !document.querySelector('.lm-DockPanel .jp-mod-dirty')")

    def count(self, selector: str) -> int:
        return self.page.locator(f"{OPEN} {selector}").count()

    def photograph(self, name: str) -> None:
        """The notebook from top to bottom."""
        box = self.page.locator(f"{OPEN} .jp-WindowedPanel-outer").first
        last = self.page.locator(f"{OPEN} .jp-Cell").last
        height = last.evaluate("cell => cell.offsetTop + cell.offsetHeight")  # there is room below it
        for number, top in enumerate(range(0, height, SCREEN["height"] - 150)):
            box.evaluate("(box, top) => box.scrollTo(0, top)", top)
            self.page.wait_for_timeout(300)
            self.page.screenshot(path=self.pictures / f"{name}-{number:02d}.png")


@pytest.fixture
def browser(checkout: Path) -> Iterator[Browser]:
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    program = found or (str(ON_MACOS) if ON_MACOS.exists() else None)
    if program is None:
        missing = f"no Chromium here: none of {', '.join(BROWSERS)} on the PATH, and CHROMIUM names none"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(missing)
    from playwright.sync_api import sync_playwright

    pictures = checkout / "runs" / "browser"
    pictures.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=FLAGS)
        try:
            seen = Browser(chromium.new_page(viewport=SCREEN), pictures)
            seen.listen()
            yield seen
        finally:
            chromium.close()


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("notebook", "figures", "seconds"),
    [("00-start-here.ipynb", 0, 120), ("10-load-test.ipynb", 1, 330)],
    ids=["00", "10"],
)
def test_a_notebook_runs_in_a_browser(jupyter, browser, notebook, figures, seconds):
    browser.open(jupyter, notebook)
    try:
        browser.run_all(seconds)
        browser.save()
    finally:
        browser.photograph(notebook[:2])
    ran = json.loads((jupyter.work / notebook).read_text())
    passed, failed = checks.count(ran)
    assert (passed >= 3, failed) == (True, 0)
    assert browser.count("[data-mime-type='application/vnd.jupyter.error']") == 0
    assert browser.count(".jp-RenderedMermaid svg, .jp-RenderedMermaid img") >= 1
    assert browser.count(".jp-OutputArea-output img") >= figures
    assert browser.complaints == []
    assert browser.outside(jupyter.address) == []
