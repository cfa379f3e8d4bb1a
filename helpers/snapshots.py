"""Snapshots: images without a container engine.

A true OCI image, with manifest, config and one layer, of the app's directory as it is with its installed dependencies.
It has no operating system in it, so it runs in the sandbox and nowhere else. It goes to ECR by ECR's own API.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import re
import shlex
import shutil
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from helpers.display import wrap
from helpers.dockerfile import started_by
from helpers.errors import TutorialError

CHECKOUT = Path(__file__).resolve().parents[1]
WORKING_DIRECTORY = "/app"  # the Dockerfile's
ENVIRONMENT = {"NODE_ENV": "production"}  # the Dockerfile's
LONG_AGO = "1970-01-01T00:00:00Z"  # the same files make the same digest, whenever
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
MAX_PART = 20 * 2**20  # bytes; what ECR takes in one UploadLayerPart
TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
REPOSITORY_URI = re.compile(
    r"(\d{12}\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(\.cn)?|127\.0\.0\.1:\d+)/(?P<name>[a-z0-9._/-]+)"
)
NEVER = (".git", "node_modules/.cache", ".DS_Store")
SHELL_SIGNS = set("&|;<>$`()*?=")


@dataclass(frozen=True)
class Snapshot:
    """An image of a directory, not pushed yet. Sizes in bytes. `app`: the directory; `environment`: the image's own
    settings; `dockerfile`: whether command and settings are a Dockerfile's."""

    tag: str
    digest: str
    files: int
    unpacked: int
    command: list[str]
    manifest: bytes = field(repr=False)
    blobs: dict[str, bytes] = field(repr=False)  # digest → layer or config
    app: Path = field(default=CHECKOUT, repr=False, compare=False)
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    dockerfile: bool = field(default=False, repr=False)

    @property
    def id(self) -> str:
        """Another content has another one, as with a Docker image's."""
        return self.digest

    @property
    def size(self) -> int:
        return sum(map(len, self.blobs.values()))

    def __repr__(self) -> str:
        what = "a snapshot and not a Docker build"
        if self.dockerfile:
            what = "a snapshot: nothing was built, of the Dockerfile only its command and settings were taken"
        return wrap(
            f"image {self.tag}, {what}: {self.files} files, {self.unpacked / 1e6:.1f} MB "
            f"in 1 layer of {self.size / 1e6:.1f} MB; runs `{shlex.join(self.command)}`; {self.digest}"
        )


def build(app_dir: str | Path, tag: str | None = None, dockerfile: str | None = None) -> Snapshot:
    """An image of a Node.js app. `app_dir`: where its package.json is; a relative one starts at the checkout.

    `tag`: "1.0.0" or, as Docker has it, "name:1.0.0". Without one it is the first twelve digits of the digest, so that
    another content has another tag. The same files give the same digest. It starts what package.json says; with
    `dockerfile`, a text, what that would start. Nothing in it is executed.
    """
    tag = tag.rsplit(":", 1)[-1] if isinstance(tag, str) else tag
    if tag is not None and not (isinstance(tag, str) and TAG.fullmatch(tag)):
        raise TutorialError(
            f"{tag!r} cannot be an image's tag.", next="Use a text of letters, digits, '.', '_' and '-'."
        )
    if dockerfile is None:
        app, command = start_command(app_dir)
        environment = ENVIRONMENT
    else:
        started = started_by(dockerfile)
        app, command = start_command(app_dir, started.command)
        environment = started.environment
    files = _files(app)
    archive = _archive(files)
    layer = gzip.compress(archive, compresslevel=6, mtime=0)
    config = _json(
        {
            "architecture": "amd64",
            "os": "linux",
            "created": LONG_AGO,
            "config": {
                "Cmd": command,
                "Env": [f"{k}={v}" for k, v in environment.items()],
                "WorkingDir": WORKING_DIRECTORY,
            },
            "rootfs": {"type": "layers", "diff_ids": [_digest(archive)]},
            "history": [{"created": LONG_AGO, "created_by": "snapshot of the app's directory"}],
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": {"mediaType": CONFIG_TYPE, "digest": _digest(config), "size": len(config)},
            "layers": [{"mediaType": LAYER_TYPE, "digest": _digest(layer), "size": len(layer)}],
        }
    )
    digest = _digest(manifest)
    return Snapshot(
        tag=tag or _short(digest),
        digest=digest,
        files=len(files),
        unpacked=sum(path.stat().st_size for path in files.values() if not path.is_symlink()),
        command=command,
        manifest=manifest,
        blobs={_digest(layer): layer, _digest(config): config},
        app=app,
        environment=environment,
        dockerfile=dockerfile is not None,
    )


def start_command(
    app_dir: str | Path, command: Sequence[str] | None = None, *, installed: bool = True
) -> tuple[Path, list[str]]:
    """Where an app is, and how its package.json says to start it, or `command`. A relative `app_dir` starts at the
    checkout. `installed`: whether its packages must be there."""
    if not isinstance(app_dir, str | Path):
        raise TutorialError(
            "An app's directory is a path.", seen=f"app_dir={app_dir!r:.80}", next='Say "sample-app".'
        )
    app = CHECKOUT / app_dir
    package = _package(app, installed)
    check_command(command)
    return app, list(command) if command else _command(app, package)


def check_command(command: object) -> None:
    """TutorialError when it is neither None nor a list of words."""
    words = command if isinstance(command, Sequence) else [command]
    if command is not None and not all(isinstance(word, str) for word in words):
        raise TutorialError(
            "A command is a list of words.",
            seen=f"command={command!r:.80}",
            next='Say ["node", "server.js"].',
        )
    if isinstance(command, str):
        raise TutorialError(
            "A command is a list of words: there is no shell to take it apart.",
            seen=f"command={command!r}",
            next=f"Say command={shlex.split(command)!r}.",
        )


def copy_app(app_dir: str | Path, to: str | Path) -> Path:
    """A copy of the app's directory, with the packages that are there, at `to`, which must not exist yet; returns where it is."""
    app, _ = start_command(app_dir, installed=False)
    return Path(shutil.copytree(app, to, symlinks=True))


def files_of(app_dir: str | Path) -> dict[str, Path]:
    """What an image of the app would hold of its directory: path inside the app → file."""
    return _files(start_command(app_dir, installed=False)[0])


def trial(tag: str) -> Snapshot:
    """An image of a one-line app that is different for each tag: something to try a registry with."""
    with TemporaryDirectory() as app:
        Path(app, "package.json").write_text('{"scripts": {"start": "node server.js"}}', encoding="utf-8")
        Path(app, "server.js").write_text(f"// {tag}\n", encoding="utf-8")
        return build(app, tag)


def push(image: Snapshot, repository_uri: str) -> str:
    """Push to ECR what it does not have yet, a printed line for each part; returns the URI with digest."""
    where = REPOSITORY_URI.fullmatch(repository_uri)
    if where is None:
        raise TutorialError(
            "That is not an ECR repository's URI.",
            seen=repository_uri,
            next="Use the `repositoryUri` that create_repository or describe_repositories answers.",
        )
    import boto3

    ecr, name = boto3.client("ecr", region_name=where["region"]), where["name"]
    try:
        known = ecr.batch_check_layer_availability(repositoryName=name, layerDigests=list(image.blobs))[
            "layers"
        ]
    except ecr.exceptions.RepositoryNotFoundException as error:
        raise TutorialError(
            f"There is no ECR repository {name} in {ecr.meta.region_name}.",
            seen=str(error),
            next=f"Create it: ecr.create_repository(repositoryName={name!r}).",
        ) from error
    there = {layer["layerDigest"] for layer in known if layer["layerAvailability"] == "AVAILABLE"}
    for digest, blob in image.blobs.items():
        if digest not in there:
            with _room():
                _upload(ecr, name, digest, blob)
        outcome = "already there" if digest in there else "pushed"
        print(f"{_short(digest)}: {outcome} ({len(blob):,} bytes)")
    try:
        ecr.put_image(
            repositoryName=name,
            imageManifest=image.manifest.decode(),
            imageManifestMediaType=MANIFEST_TYPE,
            imageTag=image.tag,
            imageDigest=image.digest,
        )
    except ecr.exceptions.ImageAlreadyExistsException:
        pass  # this very image, under this very tag
    except ecr.exceptions.ImageTagAlreadyExistsException as error:
        raise TutorialError(
            f"The tag {image.tag} belongs to another image, and {name} does not let tags move.",
            seen=str(error),
            next="Build again with a tag that is not in use.",
        ) from error
    return f"{repository_uri}@{image.digest}"


@contextlib.contextmanager
def _room() -> Iterator[None]:
    """A full disk of the sandbox's, told; AWS never says that it is full."""
    from botocore.exceptions import ClientError

    try:
        yield
    except ClientError as error:
        if error.response["Error"]["Code"] != "InsufficientStorage":
            raise
        raise TutorialError(
            "There is no room for the image.",
            seen=error.response["Error"]["Message"],
            next="Make room on this machine's disk, and push again.",
        ) from None


def _upload(ecr: Any, repository: str, digest: str, blob: bytes) -> None:
    upload = ecr.initiate_layer_upload(repositoryName=repository)
    size = min(upload["partSize"], MAX_PART)
    for first in range(0, len(blob), size):
        part = blob[first : first + size]
        ecr.upload_layer_part(
            repositoryName=repository,
            uploadId=upload["uploadId"],
            partFirstByte=first,
            partLastByte=first + len(part) - 1,
            layerPartBlob=part,
        )
    with contextlib.suppress(
        ecr.exceptions.LayerAlreadyExistsException
    ):  # somebody pushed it in the meantime
        ecr.complete_layer_upload(
            repositoryName=repository, uploadId=upload["uploadId"], layerDigests=[digest]
        )


# --- what goes into the layer -----------------------------------------------------------------------------------------


def package_of(app: Path) -> dict[str, Any]:
    """An app's package.json. TutorialError when there is none, or no JSON in it."""
    file = app / "package.json"
    if not file.is_file():
        raise TutorialError(
            f"There is no Node.js app in {app}.",
            seen="no package.json",
            next="Set app_dir to the directory that holds the app's package.json.",
        )
    try:
        package = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TutorialError(f"{file} is not JSON.", seen=str(error), next="Mend that line.") from error
    if not isinstance(package, dict):
        raise TutorialError(f"{file} holds no object.", next='It begins with {"name": …}.')
    return package


def _package(app: Path, installed: bool) -> dict[str, Any]:
    package = package_of(app)
    if installed and package.get("dependencies") and not (app / "node_modules").is_dir():
        raise TutorialError(
            f"The dependencies of {package.get('name', app.name)} are not installed.",
            seen=f"no node_modules in {app}",
            next=f"Run `npm ci` in {app}.",
        )
    return package


def _command(app: Path, package: dict[str, Any]) -> list[str]:
    """package.json's start script as words. Not by way of npm: as process 1 it would swallow SIGTERM."""
    start = package.get("scripts", {}).get("start") or (
        "node server.js" if (app / "server.js").exists() else ""
    )
    if not start:
        raise TutorialError(
            f"How to start {package.get('name', app.name)} is not said.",
            seen="no script `start` in package.json, no server.js",
            next='Add to package.json: "scripts": {"start": "node <file>"}.',
        )
    if SHELL_SIGNS & set(start):
        raise TutorialError(
            "The script `start` needs a shell, and a container's command should not.",
            seen=start,
            next="Make it one plain command such as `node server.js`, with settings in the environment.",
        )
    return shlex.split(start)


def _files(app: Path) -> dict[str, Path]:
    """Path inside the app → file, sorted: what .dockerignore leaves, and node_modules without what only tests need."""
    ignored, development = ignored_by(app / ".dockerignore"), _development(app / "package-lock.json")
    found = {}
    for path in app.rglob("*"):
        name = path.relative_to(app).as_posix()
        if path.is_dir() and not path.is_symlink():
            continue
        if any(f"/{never}/" in f"/{name}/" for never in NEVER):
            continue
        if name.startswith("node_modules/"):
            # In an image they come from `npm ci --omit=dev`, whatever .dockerignore says about the directory.
            wanted = not any(name.startswith(f"{package}/") for package in development)
        else:
            wanted = not ignored(name)
        if wanted and path.is_symlink() and not path.resolve().is_relative_to(app.resolve()):
            raise TutorialError(
                f"{name} is a link that leads out of the app.",
                seen=f"{name} -> {path.readlink()}",
                next="Put a copy of the file in its place, or name the link in .dockerignore.",
            )
        if wanted:
            found[name] = path
    return dict(sorted(found.items()))


def _development(lock: Path) -> list[str]:
    """The directories of packages that only development needs."""
    if not lock.is_file():
        return []
    packages = json.loads(lock.read_text(encoding="utf-8")).get("packages", {})
    return [name for name, package in packages.items() if package.get("dev")]


def ignored_by(file: Path) -> Any:
    """A predicate on paths, by the rules of .dockerignore: the last line that matches a path or a parent decides."""
    rules = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
        line = line.strip()
        if line and not line.startswith("#"):
            pattern = line.removeprefix("!").strip().strip("/").removeprefix("./")
            rules.append((not line.startswith("!"), re.compile(_expression(pattern) + "(/.*)?")))

    def ignored(name: str) -> bool:
        return next((hides for hides, expression in reversed(rules) if expression.fullmatch(name)), False)

    return ignored


def _expression(pattern: str) -> str:
    """.dockerignore's wildcards as a regular expression."""
    signs = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^]]+\])", pattern)
    return "".join(signs.get(part) or (part if part.startswith("[") else re.escape(part)) for part in parts)


def _archive(files: dict[str, Path]) -> bytes:
    """An uncompressed tar in which nothing depends on who packs, when, or where."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, path in files.items():
            entry = tarfile.TarInfo(f"{WORKING_DIRECTORY.strip('/')}/{name}")
            if path.is_symlink():
                entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, path.readlink().as_posix(), 0o777
                archive.addfile(entry)
                continue
            content = path.read_bytes()
            entry.size, entry.mode = len(content), 0o755 if path.stat().st_mode & 0o100 else 0o644
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
