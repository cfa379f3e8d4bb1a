"""`python -m helpers lab`: JupyterLab on the learner's own copies, in work/."""

from __future__ import annotations

import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from helpers import work

SETTINGS = {
    # JupyterLab asks nobody on the internet for news.
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    # A cell that is not in view is there all the same, so that links and a browser's search find it.
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
    # Room for the notebooks' names.
    "@jupyterlab/filebrowser-extension:browser": {"showLastModifiedColumn": False},
}


def prepare(copies: Path = work.WORK) -> list[str]:
    """Make what a learner's JupyterLab needs: the copies, and its settings; lines that a learner should read."""
    settings = Path(sys.prefix) / "share" / "jupyter" / "lab" / "settings"
    settings.mkdir(parents=True, exist_ok=True)
    (settings / "overrides.json").write_text(json.dumps(SETTINGS))
    return work.prepare(copies)


def command(copies: Path, arguments: Sequence[str]) -> list[str]:
    """The command line of JupyterLab; it sees the directory in which `copies` is, and opens the first of them.

    Its workspaces are this checkout's, so that it does not open what some other project had open. An option that is
    among the arguments is left to them: Jupyter takes none twice.
    """
    ours = {
        "--ServerApp.root_dir": copies.parent,
        "--LabApp.default_url": f"/lab/tree/{_first(copies)}",
        "--LabApp.workspaces_dir": Path(sys.prefix) / "var" / "lab-workspaces",
        "--LabApp.extension_manager": "readonly",  # the other one asks the package index
        "--ServerApp.answer_yes": True,  # Ctrl-C is meant
        "--KernelManager.transport_encryption": "auto",  # or each kernel warns that it has none
        "--Application.log_level": "WARN",  # its address, and what goes wrong
    }
    given = {argument.split("=")[0] for argument in arguments}
    if given & {"--debug", "--log-level"}:
        given.add("--Application.log_level")
    options = [f"{name}={value}" for name, value in ours.items() if name not in given]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        options.append("--allow-root")  # as in a container
    return [sys.executable, "-m", "jupyterlab", *options, *arguments]


def running(copies: Path) -> str | None:
    """Where a JupyterLab for these copies is up: its address, with the token that opens it; or None."""
    from jupyter_core.paths import jupyter_runtime_dir

    for file in sorted(Path(jupyter_runtime_dir()).glob("jpserver-*.json")):
        try:
            server = json.loads(file.read_text())
            if Path(server["root_dir"]).resolve() == copies.parent.resolve() and _answers(server):
                return f"{server['url']}lab/tree/{_first(copies)}?token={server['token']}"
        except (OSError, ValueError, KeyError):  # it ended a moment ago, or is not one of ours
            continue
    return None


def _first(copies: Path) -> str:
    return f"{quote(copies.name)}/{work.FIRST}"


def _answers(server: dict[str, Any]) -> bool:
    """Whether it is that server; one that was killed left its file, and its port may be another's by now."""
    request = urllib.request.Request(
        f"{server['url']}api/status", headers={"Authorization": f"token {server['token']}"}
    )
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        return direct.open(request, timeout=2).status == 200
    except OSError:
        return False
