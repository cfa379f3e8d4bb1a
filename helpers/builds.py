"""Docker builds: an image of an app from its Dockerfile, by the Docker Engine, and what there is to know of it.

The engine's classic builder does it, which the Docker SDK speaks to: it knows neither `RUN --mount` nor heredocs.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.app_directory import CHECKOUT
from helpers.build_stream import Progress, not_a_dockerfile, with_arguments
from helpers.display import wrap
from helpers.engine import SILENT, reach, refused
from helpers.errors import TutorialError

if TYPE_CHECKING:
    from docker import DockerClient

LABEL = "tutorial"  # on every image that the course builds; its value is the lab's name
STAND_IN = "ec2-to-scalable-ecs.stand-in-for"  # label of a base image made where no registry can be reached, as in CI
CACHE = (
    "tutorial-cache"  # what the other build stages end in has this in its name: so it is found, and removed
)
TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
ARCHITECTURES = {"X86_64": "amd64", "ARM64": "arm64"}  # a task definition's word → an image's


@dataclass(frozen=True)
class Layer:
    """One instruction's part of an image. `size` in bytes, 0 for what only sets something."""

    size: int
    made_by: str


@dataclass(frozen=True)
class DockerImage:
    """An image in the engine. `name`: what Docker calls it, "shop:v1"; `id`: its config's digest; `size` in bytes;
    `layers`: the base's first; `port`: the first that it exposes; `stages`: the names of what its other stages left."""

    name: str
    id: str
    architecture: str
    size: int
    user: str
    command: list[str]
    working_directory: str = "/"
    port: int | None = None
    layers: tuple[Layer, ...] = field(default=(), repr=False)
    stages: tuple[str, ...] = field(default=(), repr=False, compare=False)
    stand_in: str = field(
        default="", repr=False, compare=False
    )  # the published image for which its base stands

    @property
    def tag(self) -> str:
        return self.name.rpartition(":")[2]

    @property
    def digest(self) -> str | None:
        """The digest of its manifest, which is what a registry calls it. None before the first push."""
        with reach() as engine:
            known = engine.images.get(self.id).attrs.get("RepoDigests") or []
        return known[-1].partition("@")[2] if known else None

    def __repr__(self) -> str:
        import shlex

        count = sum(1 for layer in self.layers if layer.size)
        return wrap(
            f"image {self.name}, built by Docker for linux/{self.architecture}: {self.size / 1e6:.1f} MB in {count} "
            f"layer{'s' if count != 1 else ''}; runs `{shlex.join(self.command)}` as {who(self.user)}; {self.id}"
        )


def who(user: str) -> str:
    """Whom an image's or a container's user setting means."""
    return "root" if user.partition(":")[0] in ("", "root", "0") else f"user {user}"


# --- building ---------------------------------------------------------------------------------------------------------


def build(
    app_dir: str | Path,
    tag: str | None = None,
    *,
    dockerfile: str | Path | None = None,
    dockerignore: str | None = None,
    build_args: Mapping[str, str] | None = None,
    no_cache: bool = False,
    platform: str | None = None,
    name: str | None = None,
    labels: Mapping[str, str] | None = None,
    say: Callable[[str], None] | None = None,
) -> DockerImage:
    """Build an image of an app, a printed line for each step. A relative `app_dir` starts at the checkout.

    `tag`: "v1" or "name:v1"; without one, the first twelve digits of the image's id. `dockerfile`: its text or its path
    in the app; `dockerignore`: a text in the place of the app's file. `platform`: "linux/amd64", for another processor
    than the engine's. `say` gets pieces of lines. TutorialError with the failing step, its last lines, what to do.
    """
    from docker.errors import APIError

    say = say or _say
    app, where = CHECKOUT / app_dir, name or _lab_name() or "app"
    repository, _, version = (tag if isinstance(tag, str) else "").rpartition(":")
    if tag is not None and not TAG.fullmatch(version):
        raise TutorialError(
            f"{tag!r} cannot be an image's tag.", next="Use a text of letters, digits, '.', '_' and '-'."
        )
    text = dockerfile_of(app, dockerfile)
    progress = Progress(with_arguments(text, build_args or {}), say)
    options = {"nocache": no_cache, "buildargs": dict(build_args or {}), "platform": platform}
    with tempfile.TemporaryFile() as context, reach(SILENT) as engine:
        inside = _pack(app, text if dockerfile is not None else None, dockerignore, context)
        try:
            events = engine.api.build(
                fileobj=context,
                custom_context=True,
                dockerfile=inside,
                decode=True,
                rm=True,
                forcerm=True,
                timeout=SILENT,
                labels={LABEL: where, **(labels or {})},
                **options,
            )
            identity = progress.follow(events)
        except APIError as problem:
            raise not_a_dockerfile(str(problem.explanation or problem), text) from None
        api_name = repository or where
        version = version or identity.removeprefix("sha256:")[:12]
        stages = [f"{CACHE}/{where}:{stage}" for stage in progress.others()]
        made = _inspect(engine, identity, f"{api_name}:{version}", stages)
        if platform and not _is_for(made, platform):
            with suppress(APIError):
                engine.api.remove_image(identity)
            raise _wrong_base(made, platform, progress)
        try:
            engine.api.tag(identity, api_name, version)
            for stage in stages:
                engine.api.tag(stage.rpartition(":")[2], f"{CACHE}/{where}", stage.rpartition(":")[2])
        except APIError as problem:
            raise refused(f"The image cannot be called {made.name}.", problem) from None
    return made


def image(name: str) -> DockerImage:
    """An image that the engine has already, whoever built it."""
    from docker.errors import APIError, ImageNotFound

    with reach() as engine:
        try:
            return _inspect(engine, name, name)
        except ImageNotFound:
            raise TutorialError(
                f"The engine has no image {name}.", next="`docker image ls` shows what it has."
            ) from None
        except APIError as problem:
            raise refused(f"There can be no image {name}.", problem) from None


def trial(tag: str, *, name: str | None = None) -> DockerImage:
    """An image of one small file, different for each tag, that runs nothing: something to try a registry with."""
    text = 'FROM scratch\nCOPY tag /\nCMD ["/tag"]\n'
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "tag").write_text(f"{tag}\n", encoding="utf-8")
        return build(folder, tag, dockerfile=text, name=name, say=lambda piece: None)


def remove(image: DockerImage, *, keep: Collection[str] = ()) -> None:
    """Take an image and what its build stages left out of the engine, but not what others are built on, nor the ids and
    names to `keep`."""
    from docker.errors import APIError

    with reach() as engine:
        for reference in (image.id, *image.stages):
            if reference not in keep:
                with suppress(APIError):  # gone already, or in use
                    engine.images.remove(reference, force=reference == image.id)


def remove_all(name: str | None = None) -> list[str]:
    """Take every image that the course built for the lab of this name, or for any, out of the engine, under all names
    that they have, and what their stages left; which."""
    from docker.errors import APIError

    gone = []
    with reach() as engine:
        label, stages = (f"{LABEL}={name}", f"{CACHE}/{name}") if name else (LABEL, f"{CACHE}/*")
        found = engine.api.images(filters={"label": label}) + engine.api.images(stages)
        for each in found:
            tags = [tag for tag in each.get("RepoTags") or [] if tag != "<none>:<none>"]
            cached = [
                tag for tag in tags if tag.startswith(f"{CACHE}/{name}:" if name else f"{CACHE}/")
            ]  # another lab's may be the same image
            for reference in cached or [each["Id"]]:
                with suppress(APIError):  # a container runs it
                    engine.images.remove(reference, force=not cached)
                    gone += [reference] if cached else tags
    return sorted(gone)


def dockerfile_of(app: Path, dockerfile: str | Path | None = None) -> str:
    """The text of a Dockerfile: that of the app unless told. TutorialError when there is none."""
    if isinstance(dockerfile, str) and "\n" in dockerfile:
        return dockerfile
    path = app / (dockerfile or "Dockerfile")
    try:
        return path.read_text(encoding="utf-8")
    except OSError as problem:
        advice = f"`from helpers.proposal import propose_dockerfile; propose_dockerfile({str(app)!r})` shows one for it."
        if not app.is_dir():
            advice = "Set app_dir to the directory that holds the app's package.json."
        raise TutorialError(
            f"There is no Dockerfile for {app.name}.", seen=f"{path}: {problem.strerror}", next=advice
        ) from None


def _lab_name() -> str | None:
    from helpers import session

    lab = session.connected()
    return lab.name if lab else None


def _say(piece: str) -> None:
    print(piece, end="", flush=True)


def _pack(app: Path, text: str | None, dockerignore: str | None, to: Any) -> str:
    """Write the build context, a tar archive, to a file; the Dockerfile's name in it. `text`: one that is not there."""
    from docker.utils.build import tar

    own = app / ".dockerignore"
    try:
        rules = dockerignore if dockerignore is not None else own.read_text() if own.is_file() else ""
        lines = [line.strip() for line in rules.splitlines()]
        exclude = [line for line in lines if line and not line.startswith("#")]
        name = "Dockerfile" if text is None else ".dockerfile.course"
        tar(str(app), exclude=exclude, dockerfile=(name, text), fileobj=to)
    except OSError as problem:
        raise TutorialError(
            "The app's directory cannot be sent to the engine.",
            seen=str(problem),
            next="Make the file readable, or name it in .dockerignore. Is there room for a copy of the app on this disk?",
        ) from None
    return name


def _inspect(engine: DockerClient, reference: str, name: str, stages: Iterable[str] = ()) -> DockerImage:
    attributes = engine.api.inspect_image(reference)
    config = attributes.get("Config") or {}
    history = engine.api.history(attributes["Id"])
    ports = sorted(int(port.partition("/")[0]) for port in config.get("ExposedPorts") or {})
    return DockerImage(
        name=name,
        id=attributes["Id"],
        architecture=attributes["Architecture"],
        size=attributes["Size"],
        user=config.get("User") or "",
        command=[*(config.get("Cmd") or config.get("Entrypoint") or [])],
        working_directory=config.get("WorkingDir") or "/",
        port=ports[0] if ports else None,
        layers=tuple(Layer(entry["Size"], made_by(entry["CreatedBy"])) for entry in reversed(history)),
        stages=tuple(stages),
        stand_in=(config.get("Labels") or {}).get(STAND_IN, ""),
    )


def made_by(history: str) -> str:
    """What an image's history says of a layer, as an instruction."""
    text = re.sub(r"^\|\d+ .*?(?=/bin/sh -c )", "", history.removesuffix(" # buildkit"))
    text = re.sub(r"^(RUN )?/bin/sh -c (?!#\(nop\))", "RUN ", text)
    text = re.sub(r"^/bin/sh -c #\(nop\)\s+", "", text)
    text = re.sub(r"\b(file|dir|multi):[0-9a-f]{64} in ", "… to ", text)
    return " ".join(text.split()) or "the base image, imported"


# --- processors -------------------------------------------------------------------------------------------------------


def _is_for(made: DockerImage, platform: str) -> bool:
    return platform.split("/")[1:2] == [made.architecture]


def _wrong_base(made: DockerImage, platform: str, progress: Progress) -> TutorialError:
    bases = re.findall(r"(?mi)^\s*FROM\s+(?:--\S+\s+)*(\S+)", progress.dockerfile)
    return TutorialError(
        f"The image was asked for {platform} and is for linux/{made.architecture}.",
        seen=f"the engine has its base for linux/{made.architecture} only, and took that: {', '.join(dict.fromkeys(bases))}",
        next=f"`docker pull --platform {platform} <the base image>`, then build again; or leave `platform` out.",
    )


def ensure_fits(image: Any, cpu_architecture: str = "X86_64") -> None:
    """TutorialError when tasks of that architecture (X86_64 unless a task definition says ARM64) cannot start the image."""
    wanted = ARCHITECTURES.get(cpu_architecture)
    if wanted is None:
        raise TutorialError(f"There is no architecture {cpu_architecture!r}.", next='"X86_64" or "ARM64".')
    there = getattr(image, "architecture", wanted)
    if there == wanted:
        return
    word = next((word for word, name in ARCHITECTURES.items() if name == there), None)
    other = (
        f'Or have tasks that fit it: runtimePlatform={{"cpuArchitecture": "{word}"}} in the task definition.'
        if word
        else "ECS has no machines for the other kind."
    )
    raise TutorialError(
        f"The image {image.name} is for {there}, and the task definition asks for {cpu_architecture}, which is {wanted}. "
        "Its tasks would not start: no descriptor matching platform, or exec format error.",
        seen=f"linux/{there}",
        next=f'Build it for those: build_image(…, platform="linux/{wanted}"). {other}',
    )
