"""Executes notebooks: the journey's for `make run`, or some, labs too, in a private sandbox; leaves runs/latest/ behind.

Each kernel is of this very Python and reads none of the user's Jupyter or IPython settings.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import papermill
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from nbformat import NotebookNode

from helpers import checks, install, session
from helpers.errors import TutorialError
from helpers.notebooks import LABS, journey, label, labs

ROOT = install.ROOT
NOTEBOOKS = ROOT / "notebooks"
RUNS = ROOT / "runs"
KEPT = 5  # runs, the newest
PRIVATE = Path(sys.prefix) / "var"  # what Jupyter, IPython and Matplotlib keep, apart from the user's own


class CellFailed(TutorialError):
    """A cell raised; says which, and what the cell's own error says."""


@dataclass
class Outcome:
    """How one notebook fared; `seconds` are real ones."""

    notebook: Path
    seconds: float = 0.0
    passed: int = 0
    failed: int = 0
    skipped: list[str] = field(default_factory=list)  # reasons
    problem: TutorialError | None = None

    def summary(self) -> dict[str, Any]:
        return {
            "name": self.notebook.stem,
            "seconds": round(self.seconds, 1),
            "checks_passed": self.passed,
            "checks_failed": self.failed,
            "skipped": self.skipped,
        }


class OwnKernel(AsyncKernelManager):
    """A kernel of this Python, whichever kernels are installed under the notebook's kernel name."""

    stopped = False  # of a class for one execution: see execute
    process_group = 0

    @property
    def kernel_spec(self) -> KernelSpec:
        quiet = "--log-level=ERROR"  # it would warn that this machine's loopback is not encrypted
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", quiet]
        return KernelSpec(argv=command, display_name="Python 3", language="python")

    async def start_kernel(self, **options: Any) -> None:
        await super().start_kernel(**{"env": kernel_environment(), **options})
        type(self).process_group = self.provisioner.pgid
        if self.stopped:
            self.stop()

    @classmethod
    def stop(cls) -> None:
        """End the kernel at once, also one that is only being started in another thread."""
        cls.stopped = True
        if cls.process_group:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(cls.process_group, signal.SIGKILL)


def kernel_environment() -> dict[str, str]:
    environment = install.inside(Path(sys.prefix))
    for name in ("MPLBACKEND", "JUPYTER_CONFIG_PATH", "JUPYTER_PATH"):
        environment.pop(name, None)
    return environment | {
        "IPYTHONDIR": str(PRIVATE / "ipython"),
        "JUPYTER_CONFIG_DIR": str(PRIVATE / "jupyter"),
        "JUPYTER_DATA_DIR": str(PRIVATE / "jupyter"),
        "MPLCONFIGDIR": str(PRIVATE / "matplotlib"),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # else a kernel opens with a warning about frozen modules
    }


def execute(
    notebook: Path | NotebookNode, output: Path | None, parameters: dict[str, Any], cwd: Path
) -> NotebookNode:
    """Execute a notebook in a fresh kernel and return it; CellFailed when a cell raises."""
    logging.getLogger("papermill").setLevel(logging.ERROR)
    PRIVATE.mkdir(exist_ok=True)
    kernel = type("Kernel", (OwnKernel,), {})
    try:
        return papermill.execute_notebook(
            _unformatted(notebook) if isinstance(notebook, Path) else notebook,
            _unformatted(output) if output else None,
            {name: _as_lists(value) for name, value in parameters.items()},
            kernel_name="python3",
            language="python",
            progress_bar=False,
            shutdown_kernel="immediate",  # the polite way stalls for 3 s when the kernel has a child
            kernel_manager_class=kernel,
            resources={"metadata": {"path": str(cwd)}},  # papermill's own cwd would move this process, too
            coalesce_streams=True,
        )
    except papermill.PapermillExecutionError as error:
        raise CellFailed(_says(error)) from None
    except (KeyboardInterrupt, Interrupted):
        kernel.stop()  # within a notebook papermill works in another thread, which an interrupt does not reach
        raise


def _as_lists(value: Any) -> Any:
    """Tuples as lists, however deep: papermill knows none, and gives a notebook the text of one."""
    if isinstance(value, dict):
        return {key: _as_lists(each) for key, each in value.items()}
    return [_as_lists(each) for each in value] if isinstance(value, list | tuple) else value


def _unformatted(path: Path) -> str:
    """papermill takes braces in a path for its own placeholders."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _says(error: papermill.PapermillExecutionError) -> str:
    source = next((line for line in error.source.splitlines() if line.strip()), "")
    ours = {kind.__name__ for kind in (TutorialError, *_descendants(TutorialError))}
    message = error.evalue if error.ename in ours else f"{error.ename}: {error.evalue}"
    return f"In cell [{error.exec_count}], which begins `{source.strip()}`:\n{message}"


def _descendants(kind: type) -> Iterator[type]:
    for child in kind.__subclasses__():
        yield child
        yield from _descendants(child)


def select(names: Sequence[str], notebooks: Path) -> list[Path]:
    """The notebooks that are meant, in order: by number ("07", or 7), by name or by path; the journey's when none is
    named."""
    everything = journey(notebooks) + labs(notebooks)
    if not everything:
        raise TutorialError("There are no notebooks.", seen=str(notebooks))
    chosen = set()
    for name in names:
        number = name.zfill(2) if name.isdecimal() else name
        found = [
            path
            for path in everything
            if number == label(path) or name in (path.stem, path.name) or _same(path, name)
        ]
        if not found:
            there = ", ".join(path.stem for path in everything)
            raise TutorialError(f"There is no notebook {name}.", next=f"Name one of: {there}.")
        chosen.update(found)
    return [path for path in everything if path in chosen] if names else journey(notebooks)


def _same(path: Path, name: str) -> bool:
    return path.resolve() == Path(name).resolve()


def title(notebook: NotebookNode) -> str:
    """The first heading, without a number before it."""
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    heading = re.search(r"^#+\s+(.+)$", prose, re.MULTILINE)
    return re.sub(r"^\d+\s*[·.:–-]?\s*", "", heading.group(1)).strip() if heading else ""


def parameters_of(notebook: NotebookNode) -> set[str]:
    """The names that the cell tagged `parameters` assigns."""
    tagged = (cell.source for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    body = [statement for source in tagged for statement in ast.parse(source).body]
    targets = [t for s in body if isinstance(s, ast.Assign) for t in s.targets]
    targets += [s.target for s in body if isinstance(s, ast.AnnAssign)]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def code_sha256(notebook: NotebookNode) -> str:
    """Of the code cells alone: the committed outputs belong to this code and no other."""
    code = "\n\0\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(code.encode()).hexdigest()


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


class Interrupted(BaseException):
    """Ctrl-C or SIGTERM; not an Exception, so that nothing on the way takes it for a failure."""


def run(
    names: Sequence[str] = (),
    parameters: dict[str, Any] | None = None,
    *,
    speed: float | None = None,
    keep: bool = False,
    write: bool = False,
    target: str = "sandbox",
    notebooks: Path = NOTEBOOKS,
    runs: Path = RUNS,
    say: Callable[[str], None] = lambda text: print(text, end="", flush=True),
) -> int:
    """Execute notebooks in order until one fails; the exit status. TutorialError when it cannot even begin."""
    parameters = dict(parameters or {})
    chosen = select(names, notebooks)
    if write and (parameters or (names and chosen not in [[lab] for lab in labs(notebooks)])):
        raise TutorialError(
            "--write takes the outputs of all notebooks, from one run, as they stand.",
            next="Name none, for the journey's; or one lab, which has a run of its own.",
        )
    unknown = set(parameters) - set().union(*(parameters_of(read(path)) for path in chosen))
    if unknown:
        raise TutorialError(
            f"No chosen notebook has a parameter {', '.join(sorted(unknown))}.",
            seen=f"they have {', '.join(sorted(set().union(*(parameters_of(read(path)) for path in chosen))))}",
        )
    folder = _new_folder(runs)
    state = folder / "sandbox"
    state.mkdir()
    began = time.monotonic()
    outcomes: list[Outcome] = []
    facts: dict[str, Any] = {"speed": speed, "target": target, "runtime": None}
    settings = {"SANDBOX_STATE": str(state), "TUTORIAL_RUN_DIR": str(folder)}
    if speed:
        settings["SANDBOX_SPEED"] = f"{speed:g}"
    interrupted = False
    with _environment(settings), _signals():
        try:
            for path in chosen:
                outcomes.append(Outcome(path))
                _run_one(outcomes[-1], folder, parameters | {"target": target}, say)
                if outcomes[-1].problem:
                    break
        except Interrupted:
            interrupted = True
            say("  interrupted\n")
        finally:
            with _unhurried():
                facts |= _sandbox_facts(state)
                if not keep:
                    session.stop(state)
                    _keep_log_only(state)
                rest = [Outcome(path, skipped=["not run"]) for path in chosen[len(outcomes) :]]
                _write_summary(folder, [*outcomes, *rest], time.monotonic() - began, facts)
                _point_latest(runs, folder)
                _prune(runs, folder)
    green = not interrupted and all(outcome.problem is None for outcome in outcomes)
    if green and write:
        for outcome in outcomes:
            write_back(outcome.notebook, read(folder / outcome.notebook.name), facts)
        if (figure := folder / "scaling.png").exists():
            (notebooks / "images").mkdir(exist_ok=True)
            shutil.copy(figure, notebooks / "images" / "load-test.png")
    if facts["runtime"]:
        say(f"Tasks ran as {'containers' if facts['runtime'] == 'container' else 'processes'}.\n")
    say(
        _last_lines(
            outcomes, rest, folder, state, keep, time.monotonic() - began, interrupted, write and green
        )
    )
    return 0 if green else 130 if interrupted else 1


def _run_one(outcome: Outcome, folder: Path, parameters: dict[str, Any], say: Callable[[str], None]) -> None:
    pristine = read(outcome.notebook)
    known = {name: value for name, value in parameters.items() if name in parameters_of(pristine)}
    number = "lab" if outcome.notebook.parent.name == LABS else label(outcome.notebook)
    say(f"{number}  {title(pristine) or outcome.notebook.stem:<52.52} ")
    began = time.monotonic()
    output = folder / outcome.notebook.name
    try:
        execute(outcome.notebook, output, known, outcome.notebook.parent)
    except TutorialError as problem:
        outcome.problem = problem
    except Exception as error:  # noqa: BLE001 - whatever ended the kernel is the notebook's failure, told as such
        outcome.problem = TutorialError(
            f"The kernel could not go on: {type(error).__name__}: {error}".strip()
        )
    finally:
        outcome.seconds = time.monotonic() - began
        if output.exists():
            executed = read(output)
            outcome.passed, outcome.failed = checks.count(executed)
            outcome.skipped += _skipped(executed)
    say(f"{_checks(outcome.passed):>10}  {outcome.seconds:6.1f} s{'  FAILED' if outcome.problem else ''}\n")


def _checks(number: int) -> str:
    return f"{number} check{'' if number == 1 else 's'}"


def _skipped(notebook: NotebookNode) -> list[str]:
    """Reasons, from the lines in which a cell says that it skips something."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    lines = [line for output in outputs for line in output.get("text", "").splitlines()]
    return [line.removeprefix("skipped: ") for line in lines if line.startswith("skipped: ")]


def _last_lines(
    outcomes: list[Outcome],
    rest: list[Outcome],
    folder: Path,
    state: Path,
    keep: bool,
    seconds: float,
    interrupted: bool,
    written: bool,
) -> str:
    lines = []
    failed = next((outcome for outcome in outcomes if outcome.problem), None)
    if failed:
        lines += ["", f"{failed.notebook.name} failed.", str(failed.problem), ""]
    lines += [f"not run: {outcome.notebook.stem}" for outcome in rest]
    if keep and (state / "state.json").exists():
        lines.append(
            f"The sandbox is still up: SANDBOX_STATE={_short(state)} python3 -m helpers status (or stop)"
        )
    if written:
        lines.append(f"The outputs are written to {_short(outcomes[0].notebook.parent)}/.")
    where = f"{_short(folder)}/{failed.notebook.name if failed else ''}"
    verdict = "Interrupted" if interrupted else "Failed" if failed else "All green"
    passed = sum(outcome.passed for outcome in outcomes)
    lines.append(f"{verdict}: {_checks(passed)} passed in {seconds:.0f} s. Look at {where}")
    return "\n".join(lines) + "\n"


def _short(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def _new_folder(runs: Path) -> Path:
    """A folder of this moment's name; another run may have begun in the same second."""
    runs.mkdir(exist_ok=True)
    stamp = time.strftime("%Y-%m-%d-%H%M%S")
    for suffix in ("", *(f"-{number}" for number in range(2, 100))):
        with contextlib.suppress(FileExistsError):
            (runs / f"{stamp}{suffix}").mkdir()
            return runs / f"{stamp}{suffix}"
    raise TutorialError("Too many runs begin at once.", seen=str(runs))


def _sandbox_facts(state: Path) -> dict[str, Any]:
    """Speed and runtime, as the sandbox that was started had them; nothing when no notebook started one."""
    try:
        kept = json.loads((state / "state.json").read_text())
    except FileNotFoundError:
        return {}
    return {"speed": kept["speed"], "runtime": kept["runtime"]}


def _keep_log_only(state: Path) -> None:
    if (state / "sandbox.log").exists():
        (state / "sandbox.log").replace(state.parent / "sandbox.log")
    shutil.rmtree(state, ignore_errors=True)


def _write_summary(folder: Path, outcomes: list[Outcome], seconds: float, facts: dict[str, Any]) -> None:
    summary = {
        "notebooks": [outcome.summary() for outcome in outcomes],
        "total_seconds": round(seconds, 1),
        **facts,
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")


def _point_latest(runs: Path, folder: Path) -> None:
    latest, partial = runs / "latest", runs / f".latest-{os.getpid()}"
    partial.unlink(missing_ok=True)
    partial.symlink_to(folder.name)
    partial.replace(latest)


def _prune(runs: Path, newest: Path) -> None:
    """Finished runs alone: one without a summary is going on, one with a state file has its sandbox up."""
    finished = [path.parent for path in runs.glob("*/summary.json") if not path.parent.is_symlink()]
    old = sorted(
        path for path in finished if path != newest and not (path / "sandbox" / "state.json").exists()
    )
    for path in old[: max(0, len(old) - (KEPT - 1))]:
        shutil.rmtree(path, ignore_errors=True)


def write_back(path: Path, executed: NotebookNode, facts: dict[str, Any]) -> None:
    """Give a notebook the outputs of a run, and nothing else of it: no timings, no injected cell, no place on a disk."""
    pristine = read(path)
    ran = [cell for cell in executed.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    for cell, done in zip(pristine.cells, ran, strict=True):
        if cell.cell_type == "code":
            here = json.dumps(done.outputs).replace(f"{json.dumps(f'{ROOT}/')[1:-1]}", "")
            cell.outputs = [nbformat.from_dict(output) for output in json.loads(here)]
            cell.execution_count = done.execution_count
        cell.metadata.pop("execution", None)
    pristine.metadata.pop("papermill", None)
    pristine.metadata["tutorial"] = {"code_sha256": code_sha256(pristine), **facts}
    nbformat.write(pristine, path)


@contextlib.contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """SIGINT and SIGTERM end the run as an exception does, so that what it started is stopped."""

    def interrupt(number: int, frame: object) -> None:
        raise Interrupted

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _unhurried() -> Iterator[None]:
    """A second Ctrl-C while the sandbox is being stopped would leave it running."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
