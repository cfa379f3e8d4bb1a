"""Images side by side, measured: what Dockerfiles make of the same app, and how long that takes.

Nothing here is read from the Dockerfile: it is built, started and looked into. helpers/dockerfile.py reads.
"""

from __future__ import annotations

import json
import shutil
import tarfile
import tempfile
import time
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from helpers import builds
from helpers.app_directory import CHECKOUT
from helpers.build_stream import with_arguments
from helpers.builds import DockerImage
from helpers.display import frame
from helpers.dockerfile import stages
from helpers.engine import SILENT, reach, refused
from helpers.errors import TutorialError

if TYPE_CHECKING:
    import pandas as pd

    from helpers.images import Image

CODE = (".js", ".mjs", ".cjs", ".ts", ".mts", ".cts", ".jsx", ".tsx")
PACKAGES = "node_modules/"


@dataclass(frozen=True, repr=False)
class Compared:
    """`table`: a column for each Dockerfile; `images`: what they made, by name. `skipped`: why nothing was built, and the
    images are snapshots; "" where an engine built them."""

    table: pd.DataFrame
    images: dict[str, Image] = field(repr=False)
    skipped: str = ""

    def __getitem__(self, row: str) -> dict[str, Any]:
        """A row of the table by its name, empty where nothing was built."""
        return {} if self.skipped else self.table.loc[row].to_dict()

    def __repr__(self) -> str:
        return f"{self.table}{self._note}"

    def _repr_html_(self) -> str:
        return f"{frame(self.table)}{f'<p>{escape(self._note)}</p>' if self.skipped else ''}"

    @property
    def _note(self) -> str:
        return f"\nNot built: {self.skipped}" if self.skipped else ""


def layers(image: Image, *, all: bool = False) -> pd.DataFrame:
    """An image's layers, the base's first: MB and the instruction. `all`: those instructions, too, that add no file."""
    import pandas as pd

    if not isinstance(image, DockerImage):
        return pd.DataFrame(
            [(round(image.unpacked / 1e6, 2), "a snapshot of the app's directory")],
            columns=["MB", "made by"],
        )
    rows = [(round(layer.size / 1e6, 2), layer.made_by) for layer in image.layers if layer.size or all]
    return pd.DataFrame(rows, columns=["MB", "made by"])


def compare_builds(
    app_dir: str | Path,
    *,
    without_dockerignore: Collection[str] = (),
    build_args: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
    **dockerfiles: str | Path,
) -> Compared:
    """Dockerfiles of one app side by side, a column each under the name it is given by: compare_builds(app_dir,
    obvious="FROM …", good=…). Real seconds, and MB of 10⁶ bytes.

    Each is built from nothing, then twice after a changed line of code, of which the quicker counts, and started once
    with `environment`. The base images are fetched before, and count for size only. `without_dockerignore`: the names of
    those to be built as if the app had none. The images stay, tagged with their names. TutorialError when one cannot be
    built. Where no engine builds, the images are snapshots, and the result says why.
    """
    import pandas as pd

    from helpers.images import build_image, why_no_docker

    app = CHECKOUT / app_dir
    texts = {name: builds.dockerfile_of(app, dockerfile) for name, dockerfile in dockerfiles.items()}
    if why := why_no_docker():
        snapshots = {name: build_image(app_dir, name, dockerfile=text) for name, text in texts.items()}
        return Compared(pd.DataFrame(dict.fromkeys(texts, "not built"), index=["image"]), snapshots, why)
    fetch_bases(texts.values(), build_args or {})
    built: dict[str, tuple[DockerImage, dict[str, Any]]] = {}
    for name, text in texts.items():
        ignoring = {"dockerignore": ""} if name in without_dockerignore else {}
        built[name] = _build_again(app, name, text, {"build_args": build_args, **ignoring})
    images = {name: image for name, (image, _) in built.items()}
    if stand_ins := sorted({image.stand_in for image in images.values()} - {""}):
        print(
            f"{' and '.join(stand_ins)}: not the published images but stand-ins, made on this machine. "
            "Their sizes are like the published ones', not the same."
        )
    with ThreadPoolExecutor() as workers:  # nothing in this is timed
        looks = workers.map(lambda image: _look(image, app, environment or {}), images.values())
        columns = {name: built[name][1] | look for name, look in zip(images, looks, strict=True)}
    return Compared(pd.DataFrame(columns, dtype=object), images)


def _build_again(
    app: Path, name: str, text: str, options: dict[str, Any]
) -> tuple[DockerImage, dict[str, Any]]:
    print(f"building {name} from nothing, and after a changed line")
    cold, image = _timed(app, name, dockerfile=text, no_cache=True, **options)
    kept, times = {*image.stages, image.id}, []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(
            shutil.copytree(app, Path(folder, "app"), symlinks=True, ignore=shutil.ignore_patterns(".git"))
        )
        for _ in range(2):  # one alone may have met a hiccup of this machine
            change_a_line(copy)
            took, changed = _timed(copy, f"{name}-changed", dockerfile=text, **options)
            builds.remove(changed, keep=kept)
            times.append(took)
    packages = [
        layer.size for layer in image.layers if "node_modules" in layer.made_by or _installs(layer.made_by)
    ]
    return image, {
        "size, MB": round(image.size / 1e6, 1),
        "layers": sum(1 for layer in image.layers if layer.size),
        "packages' layer, MB": round(sum(packages) / 1e6, 1),
        "build from nothing, s": round(cold, 1),
        "build after a changed line, s": round(min(times), 1),
        "of that, in %": round(100 * min(times) / cold),
    }


def _look(image: DockerImage, app: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    inside = look_into(image, app)
    running = first_process(image, environment)
    return {
        "runs as": running.user,
        "process 1": running.command,
        "processes": running.processes,
        "packages for development only": inside.development,
        "files that .dockerignore names": inside.ignored,
    }


def _installs(made_by: str) -> bool:
    from helpers.dockerfile import INSTALLS

    return bool(INSTALLS.search(made_by))


def _timed(app: Path, tag: str, **options: Any) -> tuple[float, DockerImage]:
    began = time.perf_counter()
    image = builds.build(app, tag, say=lambda piece: None, **options)
    return time.perf_counter() - began, image


def fetch_bases(dockerfiles: Any, build_args: Mapping[str, str]) -> None:
    """Have the base images in the engine, so that no build waits for them. One that cannot be had, the build tells."""
    from docker.errors import APIError, ImageNotFound

    texts = [with_arguments(text, build_args) for text in dockerfiles]
    for base in sorted({stage.base for text in texts for stage in stages(text)} - {"scratch"}):
        with reach(SILENT) as engine:
            try:
                engine.images.get(base)
            except ImageNotFound:
                print(f"pulling {base}")
                try:
                    for _ in engine.api.pull(base, stream=True):
                        pass
                except APIError:
                    continue


def change_a_line(app: Path) -> Path:
    """Add a comment that was never there to a file of the app's own code; which file."""
    from helpers.app_directory import ignored_by

    ignored = ignored_by(app / ".dockerignore")
    files = {path.relative_to(app).as_posix(): path for path in app.rglob("*") if path.suffix in CODE}
    own = {
        name: path
        for name, path in files.items()
        if PACKAGES not in f"/{name}" and not name.endswith(".d.ts") and not ignored(name) and path.is_file()
    }
    if not own:
        raise TutorialError(
            "There is no line of code to change.",
            seen=f"no file of {', '.join(CODE[:4])} in {app.name} that .dockerignore leaves",
            next="Set app_dir to the directory that holds the app's package.json.",
        )
    # The file that starts the app is surely in the image; of the others the nearest to the top.
    start = _start_words(app)
    name = min(own, key=lambda name: (name not in start, name.count("/"), name))
    with own[name].open("a", encoding="utf-8") as file:
        file.write(f"\n// {uuid4().hex}\n")
    return own[name]


def _start_words(app: Path) -> list[str]:
    try:
        package = json.loads((app / "package.json").read_text(encoding="utf-8"))
        return [*package.get("scripts", {}).get("start", "").split(), package.get("main", "")]
    except (OSError, ValueError, AttributeError):
        return []


# --- what is in an image, and what runs of it -------------------------------------------------------------------------


@dataclass(frozen=True)
class Inside:
    """What an image has in its working directory. `development`: packages that only development needs; `ignored`: files of
    the app's directory that its .dockerignore names, packages aside."""

    files: int
    development: int
    ignored: int


def look_into(image: DockerImage, app: Path) -> Inside:
    """Count what is in an image. npm's own list tells which packages are for development; without it, package.json."""
    from helpers.app_directory import ignored_by

    files, texts = _files_of(image, ("node_modules/.package-lock.json",))
    ignored = ignored_by(app / ".dockerignore")
    listed = texts.get("node_modules/.package-lock.json")
    if listed is not None:
        packages = json.loads(listed).get("packages", {})
        development = [name for name, package in packages.items() if package.get("dev")]
    else:
        declared = json.loads((app / "package.json").read_text(encoding="utf-8")).get("devDependencies", {})
        development = [f"{PACKAGES}{name}" for name in declared]
    there = set(files)
    return Inside(
        files=len(files),
        development=sum(f"{name}/package.json" in there for name in development),
        ignored=sum(
            ignored(name) and (app / name).exists() for name in files if not name.startswith(PACKAGES)
        ),
    )


def _files_of(image: DockerImage, wanted: Collection[str]) -> tuple[list[str], dict[str, str]]:
    """The names of the files in an image's working directory, and the texts of those `wanted`."""
    from docker.errors import APIError

    names, texts = [], {}
    with reach() as engine, tempfile.TemporaryFile() as packed:
        container = engine.api.create_container(
            image.id, command=["/nothing"], labels={builds.LABEL: "look"}
        )["Id"]
        try:
            parts, _ = engine.api.get_archive(container, f"{image.working_directory.rstrip('/')}/.")
            for part in parts:
                packed.write(part)
        except APIError as problem:
            raise refused(f"There is no looking into {image.name}.", problem) from None
        finally:
            engine.api.remove_container(container, force=True, v=True)
        packed.seek(0)
        with tarfile.open(fileobj=packed) as archive:
            for member in archive:
                name = member.name.removeprefix("./")
                if not member.isdir():
                    names.append(name)
                if name in wanted and (file := archive.extractfile(member)):
                    texts[name] = file.read().decode()
    return names, texts


@dataclass(frozen=True)
class Running:
    """What an image's container runs. `user`: of its first process."""

    user: str
    command: str
    processes: int


def first_process(image: DockerImage, environment: Mapping[str, str] | None = None) -> Running:
    """Start a container, ask the engine for its processes once the app answers, and end it."""
    from helpers.containers import start_container, wait_until_it_answers
    from helpers.started_app import AppNotStarted

    app = start_container(image, vcpu=1, memory=512, environment=environment)
    try:
        wait_until_it_answers(app)
        processes = app.processes()
    except AppNotStarted as told:
        return Running(builds.who(image.user), f"did not start: {told.seen.splitlines()[0]}", 0)
    finally:
        app.kill()
    pids = {process["PID"] for process in processes}
    first = next(process for process in processes if process["PPID"] not in pids)
    return Running(builds.who(first["UID"]), first["CMD"], len(processes))
