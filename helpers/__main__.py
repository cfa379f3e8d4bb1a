"""`python -m helpers`: the command line. With any Python of 3.11 or newer, it first makes this checkout's environment."""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    if os.environ.pop("PYTHONPATH", ""):  # what it names could stand in for the standard library
        os.execv(sys.executable, getattr(sys, "orig_argv", [sys.executable, "-m", "helpers", *sys.argv[1:]]))
    from helpers import install

    install.enter(sys.argv[1:])

import ast
import errno
import signal
import subprocess
import tempfile
import time
import webbrowser
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import click

from helpers.errors import TutorialError
from helpers.install import ROOT, inside, remove_made


class Commands(click.Group):
    """A foreseeable problem is told without a traceback."""

    def invoke(self, context: click.Context) -> object:
        try:
            return super().invoke(context)
        except TutorialError as problem:
            raise click.ClickException(str(problem)) from None
        except OSError as problem:
            if problem.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise click.ClickException(f"The disk is full: {problem}. Make room, and try again.") from None


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def cli() -> None:
    """From EC2 to scalable ECS, as notebooks that really run: without an AWS account, on this machine."""


# Elsewhere, for instance, on the disk that a hub keeps for a learner.
work_option = click.option(
    "--work",
    type=click.Path(file_okay=False, path_type=Path, resolve_path=True),
    envvar="TUTORIAL_WORK",
    default=ROOT / "work",
    help="Where your copies are; work/ unless told.",
)


@cli.command("install")
@click.option("--here", is_flag=True, help="Into the active environment (conda, Binder), not into .venv.")
@click.option(
    "--from",
    "packages",
    metavar="FOLDER",
    help="Without network, from what `download` put into FOLDER.",
)
def install_command(here: bool, packages: str | None) -> None:
    """Set up, and do nothing else. Any other command does so as well when need be."""
    click.echo(f"ready: {sys.prefix}")


@cli.command()
@click.argument("folder", default="packages")
def download(folder: str) -> None:
    """Put all that the set-up needs into FOLDER, for machines like this one that have no network."""
    from helpers import install

    install.download(Path(folder).absolute(), Path(sys.prefix))


@cli.command()
@click.argument("notebooks", nargs=-1)
@click.option(
    "-p",
    "--parameter",
    "parameters",
    nargs=2,
    multiple=True,
    metavar="NAME VALUE",
    help="Set a notebook's parameter, such as -p name shop.",
)
@click.option(
    "--speed",
    type=click.FloatRange(min=0, min_open=True),
    help="AWS seconds in a real second; 30 unless told.",
)
@click.option("--keep", is_flag=True, help="Leave the run's sandbox up.")
@click.option("--write", is_flag=True, help="Give the notebooks in notebooks/ the outputs, if all are green.")
@click.option("--target", type=click.Choice(["sandbox"]), default="sandbox", show_default=True)
def run(notebooks, parameters, speed, keep, write, target) -> None:
    """Execute NOTEBOOKS ("07", a name or a path; the numbered ones, in order, unless told) in a private sandbox.

    Leaves a folder in runs/, to which runs/latest leads until the next run: the executed notebooks, summary.json,
    the load test's scaling.csv and scaling.png.
    """
    from helpers import run as runner

    given = {name: value_of(text) for name, text in parameters}
    raise SystemExit(runner.run(notebooks, given, speed=speed, keep=keep, write=write, target=target))


@cli.command(context_settings={"ignore_unknown_options": True})
@click.argument("pytest_arguments", nargs=-1, type=click.UNPROCESSED)
def test(pytest_arguments) -> None:
    """Check the style and run all tests, or those that PYTEST_ARGUMENTS choose, in a private sandbox."""
    from helpers import session

    steps = {
        "style": ["ruff", "check", "."],
        "format": ["ruff", "format", "--check", "."],
        "tests": ["pytest", *(pytest_arguments or ("--cov", "--cov-report=term", "--durations=15"))],
    }
    failed, took = [], []
    with tempfile.TemporaryDirectory(prefix="tests-", dir=_made("runs")) as folder:
        settings = inside(Path(sys.prefix)) | {"SANDBOX_STATE": str(Path(folder) / "sandbox")}
        try:
            for name, command in steps.items():
                click.echo(f"$ {' '.join(command)}")
                began = time.monotonic()
                if _finish(subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT, env=settings)):
                    failed.append(name)
                took.append(f"{name} {time.monotonic() - began:.0f} s")
        finally:
            session.stop(Path(folder) / "sandbox")
    click.echo(f"{', '.join(took)}: " + (f"{' and '.join(failed)} failed" if failed else "all green"))
    raise SystemExit(1 if failed else 0)


@cli.command("lab", context_settings={"ignore_unknown_options": True})
@work_option
@click.argument("jupyter_arguments", nargs=-1, type=click.UNPROCESSED)
def lab_command(work: Path, jupyter_arguments: tuple[str, ...]) -> None:
    """Open JupyterLab on your own copies of the notebooks; JUPYTER_ARGUMENTS such as --no-browser go to it."""
    from helpers import jupyter, session

    for line in jupyter.prepare(work):
        click.echo(line)
    if address := jupyter.running(work):
        click.echo(f"JupyterLab is up already: {address}")
        if speed := os.environ.get("SANDBOX_SPEED"):
            click.echo(
                f"It keeps the settings that it was started with; SANDBOX_SPEED={speed} does not reach it. To end it: "
                "File > Shut Down in JupyterLab, or Ctrl-C where it was started. Then run this again."
            )
        if "--no-browser" not in jupyter_arguments:
            webbrowser.open(address)
        return
    command = jupyter.command(work, jupyter_arguments)
    try:
        status = _finish(subprocess.Popen(command, cwd=ROOT, env=inside(Path(sys.prefix))))
    except KeyboardInterrupt:
        status = 0  # that is how it is ended
    if session.attach():
        click.echo("JupyterLab has ended. The sandbox is still up: python3 -m helpers stop ends it.")
    raise SystemExit(status)


@cli.command()
@work_option
@click.argument("notebooks", nargs=-1, required=True)
def reset(work: Path, notebooks: tuple[str, ...]) -> None:
    """Make new copies of NOTEBOOKS ("07") in work/, and keep yours beside them."""
    from helpers import work as copies

    for line in copies.reset(notebooks, work):
        click.echo(line)
    click.echo("Where one is open in JupyterLab: File > Reload Notebook from Disk.")


@cli.command()
def preflight() -> None:
    """Say whether this machine is ready for the course, by trying it: about ten seconds."""
    from helpers.preflight import preflight

    raise SystemExit(0 if preflight(click.echo) else 1)


@cli.command()
def bench() -> None:
    """Measure how fast the course is here; leaves runs/bench.json."""
    from helpers.bench import bench

    raise SystemExit(bench(click.echo))


@cli.command()
@click.option("--region", default="us-east-1", show_default=True)
def status(region: str) -> None:
    """Show services, tasks, targets, alarms and the AWS time of the sandbox that is up."""
    from helpers import naming, pauses, session, status

    naming.check_region(region)
    running = session.attach()
    if running is None:
        raise TutorialError(
            "No sandbox is up.", next="Open a notebook and run its first cells: connect() starts one."
        )
    session.isolate(os.environ, running.endpoint, region, Path(running.state))
    click.echo(
        f"AWS time {running.now():%Y-%m-%d %H:%M:%S} UTC, {running.speed:g} times as fast as yours, in {region}"
    )
    if told := pauses.told(running):
        click.echo(told)
    click.echo(f"decisions and their reasons: {Path(running.state) / 'sandbox.log'}\n")
    click.echo(status.status(region))


@cli.command()
@click.option("--cluster", help="The service's cluster, its name or ARN; the only one there is unless told.")
@click.option("--service", help="The service's name or ARN; the only one there is unless told.")
@click.option("--stack", help="The stack that makes it; of the service's name unless told.")
@click.option("--region", help="us-east-1 unless told; with --aws the one that is configured.")
@click.option("--aws", is_flag=True, help="Ask AWS itself, with your own credentials. Nothing is changed.")
def doctor(cluster, service, stack, region, aws) -> None:
    """Say why a service does not do what it should: the cause, the evidence, the fix.

    Ends with 0 when nothing is wrong, with 1 when causes are found, with 2 when too little can be read or it is not at rest.
    """
    from helpers.diagnose import diagnose

    try:
        region, now = _into_aws(region) if aws else _into_the_sandbox(region)
        diagnosis = diagnose(cluster, service, stack, now=now, region=region)
    except TutorialError as problem:
        click.echo(problem)
        raise SystemExit(2) from None
    click.echo(diagnosis)
    raise SystemExit(diagnosis.status)


def _into_aws(region: str | None) -> tuple[str, datetime]:
    """Let the calls from here on go to the learner's own account, and say which; its region, and the time there."""
    from helpers import own_account

    place = own_account.enter(region)
    click.echo(f"{place}\n")
    return place.region, datetime.now(UTC)


def _into_the_sandbox(region: str | None) -> tuple[str, datetime]:
    """Let them go to the sandbox that is up; its region, and the time there."""
    from helpers import naming, session

    region = region or naming.REGION
    naming.check_region(region)
    running = session.attach()
    if running is None:
        raise TutorialError(
            "Too little could be read to say anything: no sandbox is up.",
            next="Open a notebook and run its first cells: connect() starts one. Or say --aws.",
        )
    session.isolate(os.environ, running.endpoint, region, Path(running.state))
    return region, running.now()


@cli.command()
def stop() -> None:
    """End the sandbox that is up, with everything it runs."""
    from helpers import session

    click.echo("stopped" if session.stop() else "no sandbox was up")


@cli.command()
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="What the set-up made, too: .venv and the Node packages; and the images that the course built.",
)
def clean(everything: bool) -> None:
    """Stop this checkout's sandboxes and remove what runs made."""
    from helpers import session

    for state in {ROOT / ".sandbox", *(path.parent for path in ROOT.glob("runs/*/sandbox/state.json"))}:
        if session.stop(state):
            click.echo(f"stopped the sandbox of {state.relative_to(ROOT)}")
    if everything:
        from helpers import builds

        with suppress(TutorialError):  # no engine, no image
            click.echo(f"removed from the Docker Engine: {len(builds.remove_all())} images")
    click.echo(remove_made(ROOT, everything))


def value_of(text: str) -> object:
    """A parameter's value as it is meant: a number, True, False, None, a list or tuple where it reads like one, else text."""
    if text.lower() in ("true", "false", "none"):
        text = text.capitalize()
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError):
        return text


def _made(name: str) -> Path:
    folder = ROOT / name
    folder.mkdir(exist_ok=True)
    return folder


def _finish(process: subprocess.Popen) -> int:
    """Its exit status. A Ctrl-C reaches it as well as us, and a SIGTERM is passed on; both wait for its end."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: process.terminate())
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    cli(prog_name="python -m helpers")
